// Floating-point arithmetic: f32 and f64 in every rounding mode, f16/bf16 and their pairs, the approximate functions
// (computed to f32 accuracy: inside the ISA's error bounds, not bit-equal to a particular chip).
#include <cfenv>
#include <cmath>

#include "lower.h"

namespace vcuda {
namespace {

enum Operation { kAdd, kSub, kMul, kFma, kDiv, kRcp, kSqrt };

inline float clampUnit(float x) { return x > 0 ? (x < 1 ? x : 1.0f) : 0.0f; }  // NaN gives +0
inline double clampUnit(double x) { return x > 0 ? (x < 1 ? x : 1.0) : 0.0; }

template <int operation>
inline float nearest(float x, float y, float z) {
  switch (operation) {
    case kAdd: return x + y;
    case kSub: return x - y;
    case kMul: return x * y;
    case kFma: return std::fma(x, y, z);
    case kDiv: return x / y;
    case kRcp: return 1.0f / x;
    default: return std::sqrt(x);
  }
}

template <int operation>
inline double sticky(double x, double y, double z) {
  switch (operation) {
    case kAdd: return addOdd(x, y);
    case kSub: return addOdd(x, -y);
    case kMul: return x * y;
    case kFma: return addOdd(x * y, z);
    case kDiv: return divOdd(x, y);
    case kRcp: return divOdd(1.0, x);
    default: return sqrtOdd(x);
  }
}

/** -0 or +0 of an exact zero sum, which depends on the rounding mode: x + -x is -0 only towards minus infinity. */
template <int operation>
inline float exactZero(float x, float y, float z, float result, Round mode) {
  if (result != 0 || (operation != kAdd && operation != kSub && operation != kFma)) return result;
  const double a = operation == kFma ? double(x) * y : x, b = operation == kFma ? z : operation == kSub ? -y : y;
  if (a + b != 0) return result;
  if (std::signbit(a) == std::signbit(b) && a == 0 && b == 0) return std::signbit(a) ? -0.0f : 0.0f;
  return mode == Round::Down ? -0.0f : 0.0f;
}

template <int operation, bool ftz, bool sat>
void single(Warp& w, const Op& o, uint32_t m) {
  const float* x = w.reg<float>(o.r[1]);
  const float* y = w.reg<float>(operation >= kRcp ? o.r[1] : o.r[2]);
  const float* z = w.reg<float>(operation == kFma ? o.r[3] : o.r[1]);
  lanes(w.reg<float>(o.r[0]), m, [&](int l) {
    const float a = ftz ? flush(x[l]) : x[l], b = ftz ? flush(y[l]) : y[l], c = ftz ? flush(z[l]) : z[l];
    float d = nearest<operation>(a, b, c);
    if (ftz) d = flush(d);
    return sat ? clampUnit(d) : canonical(d);
  });
}

template <int operation>
void singleDirected(Warp& w, const Op& o, uint32_t m) {
  const float* x = w.reg<float>(o.r[1]);
  const float* y = w.reg<float>(operation >= kRcp ? o.r[1] : o.r[2]);
  const float* z = w.reg<float>(operation == kFma ? o.r[3] : o.r[1]);
  const Round mode = Round(o.imm);
  const bool ftz = o.imm2 & 1, sat = o.imm2 & 2;
  lanes(w.reg<float>(o.r[0]), m, [&](int l) {
    const float a = ftz ? flush(x[l]) : x[l], b = ftz ? flush(y[l]) : y[l], c = ftz ? flush(z[l]) : z[l];
    float d = exactZero<operation>(a, b, c, toSingle(sticky<operation>(a, b, c), mode), mode);
    if (ftz) d = flush(d);
    return sat ? clampUnit(d) : canonical(d);
  });
}

template <int operation>
void doubleAny(Warp& w, const Op& o, uint32_t m) {
  const double* x = w.reg<double>(o.r[1]);
  const double* y = w.reg<double>(operation >= kRcp ? o.r[1] : o.r[2]);
  const double* z = w.reg<double>(operation == kFma ? o.r[3] : o.r[1]);
  const auto compute = [](double a, double b, double c) {
    switch (operation) {
      case kAdd: return a + b;
      case kSub: return a - b;
      case kMul: return a * b;
      case kFma: return std::fma(a, b, c);
      case kDiv: return a / b;
      case kRcp: return 1.0 / a;
      default: return std::sqrt(a);
    }
  };
  if (Round(o.imm) == Round::Nearest) {
    lanes(w.reg<double>(o.r[0]), m, [&](int l) { return compute(x[l], y[l], z[l]); });
    return;
  }
  static constexpr int kModes[] = {FE_TONEAREST, FE_TOWARDZERO, FE_DOWNWARD, FE_UPWARD};
  for (int l = 0; l < kLanes; ++l) {
    if (!((m >> l) & 1)) continue;
    // volatile keeps the operation between the two calls
    volatile double a = x[l], b = y[l], c = z[l];
    std::fesetround(kModes[o.imm]);
    volatile double d = compute(a, b, c);
    std::fesetround(FE_TONEAREST);
    w.reg<double>(o.r[0])[l] = d;
  }
}

struct HalfFormat {
  static float load(uint16_t x) { return fromHalf(x); }
  static uint16_t round(float x) { return toHalf(x); }
  static uint16_t roundOdd(double x) { return uint16_t(x != x ? kNaN16 : roundTo(kHalf, x, Round::Nearest)); }
  static constexpr uint16_t exponent = 0x7c00;
};
struct BfloatFormat {
  static float load(uint16_t x) { return fromBfloat(x); }
  static uint16_t round(float x) { return toBfloat(x); }
  static uint16_t roundOdd(double x) { return uint16_t(x != x ? kNaN16 : roundTo(kBfloat, x, Round::Nearest)); }
  static constexpr uint16_t exponent = 0x7f80;
};

template <class F>
inline uint16_t flush16(uint16_t x) { return (x & F::exponent) == 0 ? uint16_t(x & 0x8000) : x; }
template <class F>
inline bool isNaN16(uint16_t x) { return (x & 0x7fff) > F::exponent; }

enum HalfFlags { kHalfFtz = 1, kHalfSat = 2, kHalfRelu = 4 };

template <class F, int operation>
inline uint16_t half(uint16_t x, uint16_t y, uint16_t z, int64_t flags) {
  if (flags & kHalfFtz) x = flush16<F>(x), y = flush16<F>(y), z = flush16<F>(z);
  const float a = F::load(x), b = F::load(y);
  uint16_t d;
  // f32 is wide enough for one rounding of add, sub and mul to be innocuous; fma goes through a sticky double.
  if constexpr (operation == kFma) d = F::roundOdd(addOdd(double(a) * double(b), F::load(z)));
  else d = F::round(nearest<operation>(a, b, 0));
  if (isNaN16<F>(d)) d = kNaN16;
  if (flags & kHalfFtz) d = flush16<F>(d);
  if (flags & kHalfSat) d = F::round(clampUnit(F::load(d)));
  if ((flags & kHalfRelu) && !isNaN16<F>(d) && (d & 0x8000)) d = 0;
  return d;
}

template <class F, int operation>
void halves(Warp& w, const Op& o, uint32_t m) {
  const uint16_t *x = w.reg<uint16_t>(o.r[1]), *y = w.reg<uint16_t>(o.r[2]), *z = w.reg<uint16_t>(operation == kFma ? o.r[3] : o.r[1]);
  lanes(w.reg<uint16_t>(o.r[0]), m, [&](int l) { return half<F, operation>(x[l], y[l], z[l], o.imm); });
}
template <class F, int operation>
void halfPairs(Warp& w, const Op& o, uint32_t m) {
  const uint32_t *x = w.reg<uint32_t>(o.r[1]), *y = w.reg<uint32_t>(o.r[2]), *z = w.reg<uint32_t>(operation == kFma ? o.r[3] : o.r[1]);
  lanes(w.reg<uint32_t>(o.r[0]), m, [&](int l) {
    return uint32_t(half<F, operation>(uint16_t(x[l]), uint16_t(y[l]), uint16_t(z[l]), o.imm)) |
           uint32_t(half<F, operation>(uint16_t(x[l] >> 16), uint16_t(y[l] >> 16), uint16_t(z[l] >> 16), o.imm)) << 16;
  });
}

template <int operation>
void arithmetic(Assembler& a) {
  constexpr size_t operands = operation == kFma ? 4 : operation >= kRcp ? 2 : 3;
  const Round mode = a.takeRound(Round::Nearest);
  const bool ftz = a.take("ftz"), sat = a.take("sat"), relu = a.take("relu");
  const Type t = a.takeType();
  a.expectOperands(operands);
  const uint32_t d = a.destination(0, t), x = a.source(1, t);
  const uint32_t y = operands > 2 ? a.source(2, t) : kNone, z = operands > 3 ? a.source(3, t) : kNone;
  switch (t) {
    case Type::F32: {
      if (relu) a.fail(".relu is of 16-bit formats");
      if (mode == Round::Nearest) {
        a.emit(ftz ? (sat ? single<operation, true, true> : single<operation, true, false>) : (sat ? single<operation, false, true> : single<operation, false, false>), {d, x, y, z});
        return;
      }
      Op& op = a.emit(singleDirected<operation>, {d, x, y, z});
      op.imm = int64_t(mode);
      op.imm2 = (ftz ? 1 : 0) | (sat ? 2 : 0);
      return;
    }
    case Type::F64:
      if (ftz || sat || relu) a.fail("f64 has no .ftz, .sat or .relu");
      a.emit(doubleAny<operation>, {d, x, y, z}).imm = int64_t(mode);
      return;
    case Type::F16:
    case Type::F16x2:
    case Type::BF16:
    case Type::BF16x2: {
      if constexpr (operation > kFma) {
        a.fail("there is no such operation of 16-bit formats");
      } else {
        const bool bf = t == Type::BF16 || t == Type::BF16x2;
        if (bf) {
          if (operation == kFma) a.require(80, 70);
          else a.require(90, 78);
          if (ftz || sat) a.fail("bf16 has no .ftz or .sat");
        }
        if (mode != Round::Nearest) a.fail("16-bit formats round to nearest");
        if (relu && (operation != kFma || sat)) a.fail(".relu is of fma, without .sat");
        const bool pair = t == Type::F16x2 || t == Type::BF16x2;
        const Handler h = bf ? (pair ? halfPairs<BfloatFormat, operation> : halves<BfloatFormat, operation>)
                             : (pair ? halfPairs<HalfFormat, operation> : halves<HalfFormat, operation>);
        a.emit(h, {d, x, y, z}).imm = (ftz ? kHalfFtz : 0) | (sat ? kHalfSat : 0) | (relu ? kHalfRelu : 0);
      }
      return;
    }
    default: a.fail("the type ." + std::string(nameOf(t)) + " is not known to this device for " + a.in().opcode);
  }
}

/** Approximate functions of one f32, computed in double so that they are as good as f32 can be. */
enum Function1 { kSin, kCos, kLg2, kEx2, kTanh, kRsqrt, kRcpApprox, kSqrtApprox };

template <int which>
inline float approximate(float x) {
  switch (which) {
    case kSin: return float(std::sin(double(x)));
    case kCos: return float(std::cos(double(x)));
    case kLg2: return float(std::log2(double(x)));
    case kEx2: return std::exp2(x);
    case kTanh: return float(std::tanh(double(x)));
    case kRsqrt: return float(1.0 / std::sqrt(double(x)));
    case kRcpApprox: return 1.0f / x;
    default: return std::sqrt(x);
  }
}

template <int which>
void function1(Warp& w, const Op& o, uint32_t m) {
  const float* x = w.reg<float>(o.r[1]);
  float* d = w.reg<float>(o.r[0]);
  const bool ftz = o.imm;
  if constexpr (which >= kRcpApprox) {
    lanes(d, m, [&](int l) {
      const float r = approximate<which>(ftz ? flush(x[l]) : x[l]);
      return canonical(ftz ? flush(r) : r);
    });
  } else {
    for (uint32_t bits = m; bits; bits &= bits - 1) {
      const int l = __builtin_ctz(bits);
      const float r = approximate<which>(ftz ? flush(x[l]) : x[l]);
      d[l] = canonical(ftz ? flush(r) : r);
    }
  }
}

template <class F, int which>
void halfFunction(Warp& w, const Op& o, uint32_t m) {
  // imm: registers hold pairs
  const int parts = o.imm ? 2 : 1;
  uint16_t* d = w.reg<uint16_t>(o.r[0]);
  const uint16_t* x = w.reg<uint16_t>(o.r[1]);
  for (int l = 0; l < kLanes; ++l) {
    if (!((m >> l) & 1)) continue;
    for (int i = 0; i < parts; ++i) {
      uint16_t v = x[l * parts + i];
      if (o.imm2) v = flush16<F>(v);
      v = F::round(approximate<which>(F::load(v)));
      d[l * parts + i] = isNaN16<F>(v) ? kNaN16 : o.imm2 ? flush16<F>(v) : v;
    }
  }
}

template <int which>
void lowerFunction(Assembler& a) {
  if (!a.take("approx")) a.fail("needs .approx");
  const bool ftz = a.take("ftz");
  const Type t = a.takeType();
  a.expectOperands(2);
  if (t == Type::F32) {
    if (which == kTanh) a.require(75, 70);
    a.emit(function1<which>, {a.destination(0, t), a.source(1, t)}).imm = ftz;
    return;
  }
  if constexpr (which == kTanh || which == kEx2) {
    if (t == Type::F16 || t == Type::F16x2 || t == Type::BF16 || t == Type::BF16x2) {
      const bool bf = t == Type::BF16 || t == Type::BF16x2;
      if (bf) a.require(90, 78);
      else a.require(75, 70);
      if (which == kEx2 && bf && !ftz) a.fail("ex2 of bf16 needs .ftz");
      Op& op = a.emit(bf ? halfFunction<BfloatFormat, which> : halfFunction<HalfFormat, which>, {a.destination(0, t), a.source(1, t)});
      op.imm = bytesOf(t) == 4;
      op.imm2 = ftz;
      return;
    }
  }
  if constexpr (which == kRsqrt) {
    if (t == Type::F64) {
      a.emit(op1<double, double>([](double x) { return 1.0 / std::sqrt(x); }), {a.destination(0, t), a.source(1, t)});
      return;
    }
  }
  a.fail("the type ." + std::string(nameOf(t)) + " is not known to this device for " + a.in().opcode);
}

template <int exact, int rough>
void lowerRcpSqrt(Assembler& a) {
  for (const std::string& m : a.in().modifiers)
    if (m == "approx") {
      if (exact == kRcp && a.in().modifiers.back() == "f64") {
        a.take("approx");
        if (!a.take("ftz")) a.fail("rcp.approx.f64 needs .ftz");
        a.takeType();
        a.expectOperands(2);
        // The ISA: the upper 32 bits of the reciprocal, the lower are zero.
        a.emit(op1<double, double>([](double x) { return asDouble(bitsOf(1.0 / x) & 0xffffffff00000000ull); }), {a.destination(0, Type::F64), a.source(1, Type::F64)});
        return;
      }
      return lowerFunction<rough>(a);
    }
  bool rounded = false;
  for (const std::string& m : a.in().modifiers) rounded |= m == "rn" || m == "rz" || m == "rm" || m == "rp";
  if (!rounded) a.fail("needs .approx or a rounding mode");
  arithmetic<exact>(a);
}

// min and max

template <bool least>
inline float pick(float x, float y, bool nan) {
  if (x != x || y != y) {
    if (nan || (x != x && y != y)) return asFloat(kNaN32);
    return x != x ? y : x;
  }
  if (x == y) return least == bool(std::signbit(x)) ? x : y;  // -0 is less than +0
  return (x < y) == least ? x : y;
}

enum PickFlags { kPickFtz = 1, kPickNaN = 2, kPickXorSign = 4 };

template <bool least>
void pickSingle(Warp& w, const Op& o, uint32_t m) {
  const float *x = w.reg<float>(o.r[1]), *y = w.reg<float>(o.r[2]);
  const bool ftz = o.imm & kPickFtz, nan = o.imm & kPickNaN, xorSign = o.imm & kPickXorSign;
  if (!ftz && !nan && !xorSign) {
    lanes(w.reg<uint32_t>(o.r[0]), m, [&](int l) {
      // Ordered integers: monotonic in the value, -0 below +0.
      const float a = x[l], b = y[l];
      const int32_t ia = int32_t(bitsOf(a)), ib = int32_t(bitsOf(b));
      const int32_t ka = ia ^ (int32_t(uint32_t(ia >> 31) >> 1)), kb = ib ^ (int32_t(uint32_t(ib >> 31) >> 1));
      const bool first = least ? ka < kb : ka > kb;
      uint32_t d = first ? uint32_t(ia) : uint32_t(ib);
      d = b != b ? uint32_t(ia) : d;
      d = a != a ? uint32_t(ib) : d;
      return (a != a) & (b != b) ? kNaN32 : d;
    });
    return;
  }
  lanes(w.reg<float>(o.r[0]), m, [&](int l) {
    float a = ftz ? flush(x[l]) : x[l], b = ftz ? flush(y[l]) : y[l];
    const uint32_t sign = (bitsOf(a) ^ bitsOf(b)) & 0x80000000u;
    if (xorSign) a = std::fabs(a), b = std::fabs(b);
    float d = pick<least>(a, b, nan);
    if (xorSign && d == d) d = asFloat((bitsOf(d) & 0x7fffffffu) | sign);
    return d;
  });
}
template <bool least>
void pickDouble(Warp& w, const Op& o, uint32_t m) {
  const double *x = w.reg<double>(o.r[1]), *y = w.reg<double>(o.r[2]);
  lanes(w.reg<double>(o.r[0]), m, [&](int l) {
    const double a = x[l], b = y[l];
    if (a != a) return b;
    if (b != b) return a;
    if (a == b) return least == bool(std::signbit(a)) ? a : b;
    return (a < b) == least ? a : b;
  });
}
template <class F, bool least>
void pickHalf(Warp& w, const Op& o, uint32_t m) {
  const int parts = o.imm2 ? 2 : 1;
  uint16_t* d = w.reg<uint16_t>(o.r[0]);
  const uint16_t *x = w.reg<uint16_t>(o.r[1]), *y = w.reg<uint16_t>(o.r[2]);
  for (int i = 0; i < kLanes * parts; ++i) {
    if (!((m >> (i / parts)) & 1)) continue;
    uint16_t a = x[i], b = y[i];
    if (o.imm & kPickFtz) a = flush16<F>(a), b = flush16<F>(b);
    const uint16_t sign = (a ^ b) & 0x8000;
    if (o.imm & kPickXorSign) a &= 0x7fff, b &= 0x7fff;
    const float r = pick<least>(F::load(a), F::load(b), o.imm & kPickNaN);
    uint16_t v = r != r ? kNaN16 : F::round(r);
    if ((o.imm & kPickXorSign) && r == r) v = uint16_t((v & 0x7fff) | sign);
    d[i] = v;
  }
}

template <bool least>
void lowerPick(Assembler& a) {
  const bool ftz = a.take("ftz"), nan = a.take("NaN");
  const bool xorSign = a.take("xorsign");
  if (xorSign && !a.take("abs")) a.fail(".xorsign comes with .abs");
  const Type t = a.takeType();
  a.expectOperands(3);
  const int64_t flags = (ftz ? kPickFtz : 0) | (nan ? kPickNaN : 0) | (xorSign ? kPickXorSign : 0);
  if (nan) a.require(80, 70);
  if (xorSign) a.require(86, 72);
  const uint32_t d = a.destination(0, t), x = a.source(1, t), y = a.source(2, t);
  if (t == Type::F32) {
    a.emit(pickSingle<least>, {d, x, y}).imm = flags;
  } else if (t == Type::F64) {
    if (flags) a.fail("f64 has no .ftz, .NaN or .xorsign");
    a.emit(pickDouble<least>, {d, x, y});
  } else if (t == Type::F16 || t == Type::F16x2 || t == Type::BF16 || t == Type::BF16x2) {
    const bool bf = t == Type::BF16 || t == Type::BF16x2;
    a.require(80, 70);
    if (bf && ftz) a.fail("bf16 has no .ftz");
    Op& op = a.emit(bf ? pickHalf<BfloatFormat, least> : pickHalf<HalfFormat, least>, {d, x, y});
    op.imm = flags;
    op.imm2 = bytesOf(t) == 4;
  } else {
    a.fail("the type is not known to this device");
  }
}

template <bool negate>
void lowerSign(Assembler& a) {
  const bool ftz = a.take("ftz");
  const Type t = a.takeType();
  a.expectOperands(2);
  const uint32_t d = a.destination(0, t), x = a.source(1, t);
  switch (t) {
    case Type::F32:
      if (ftz) a.emit(op1<float, float>([](float v) { v = flush(v); return asFloat(negate ? bitsOf(v) ^ 0x80000000u : bitsOf(v) & 0x7fffffffu); }), {d, x});
      else a.emit(op1<uint32_t, uint32_t>([](uint32_t v) { return negate ? v ^ 0x80000000u : v & 0x7fffffffu; }), {d, x});
      return;
    case Type::F64:
      if (ftz) a.fail("f64 has no .ftz");
      a.emit(op1<uint64_t, uint64_t>([](uint64_t v) { return negate ? v ^ (uint64_t(1) << 63) : v & ~(uint64_t(1) << 63); }), {d, x});
      return;
    case Type::F16:
    case Type::BF16:
      if (t == Type::BF16) a.require(80, 70);
      if (ftz && t == Type::BF16) a.fail("bf16 has no .ftz");
      if (ftz) a.emit(op1<uint16_t, uint16_t>([](uint16_t v) { v = flush16<HalfFormat>(v); return uint16_t(negate ? v ^ 0x8000 : v & 0x7fff); }), {d, x});
      else a.emit(op1<uint16_t, uint16_t>([](uint16_t v) { return uint16_t(negate ? v ^ 0x8000 : v & 0x7fff); }), {d, x});
      return;
    case Type::F16x2:
    case Type::BF16x2:
      if (t == Type::BF16x2) a.require(80, 70);
      if (ftz) a.fail(".ftz of packed neg and abs is not known to this device");
      a.emit(op1<uint32_t, uint32_t>([](uint32_t v) { return negate ? v ^ 0x80008000u : v & 0x7fff7fffu; }), {d, x});
      return;
    default: a.fail("the type is not known to this device");
  }
}

void lowerCopysign(Assembler& a) {
  const Type t = a.takeType();
  a.expectOperands(3);
  if (t != Type::F32 && t != Type::F64) a.fail("copysign is of .f32 or .f64");
  a.emit(t == Type::F32 ? op2<uint32_t, uint32_t, uint32_t>([](uint32_t s, uint32_t v) { return (v & 0x7fffffffu) | (s & 0x80000000u); })
                        : op2<uint64_t, uint64_t, uint64_t>([](uint64_t s, uint64_t v) { return (v << 1 >> 1) | (s >> 63 << 63); }),
         {a.destination(0, t), a.source(1, t), a.source(2, t)});
}

template <class T>
bool testProperty(T x, int64_t which) {
  switch (which) {
    case 0: return std::isfinite(x);
    case 1: return std::isinf(x);
    case 2: return !std::isnan(x);
    case 3: return std::isnan(x);
    case 4: return std::isnormal(x);
    default: return std::fpclassify(x) == FP_SUBNORMAL;
  }
}
template <class T>
void testp(Warp& w, const Op& o, uint32_t m) {
  uint32_t bits = 0;
  for (int l = 0; l < kLanes; ++l) bits |= uint32_t(testProperty(w.reg<T>(o.r[1])[l], o.imm)) << l;
  uint32_t& d = w.pred(o.r[0]);
  d = (d & ~m) | (bits & m);
}
void lowerTestp(Assembler& a) {
  const int which = a.takeOne({"finite", "infinite", "number", "notanumber", "normal", "subnormal"});
  const Type t = a.takeType();
  a.expectOperands(2);
  if (which < 0 || (t != Type::F32 && t != Type::F64)) a.fail("testp needs a property, and .f32 or .f64");
  a.emit(t == Type::F32 ? testp<float> : testp<double>, {a.predicateDestination(0), a.source(1, t)}).imm = which;
}

void requireRound(Assembler& a) {
  for (const std::string& m : a.in().modifiers)
    if (m == "rn" || m == "rz" || m == "rm" || m == "rp") return;
  a.fail("needs a rounding mode");
}

}  // namespace

void lowerFloatAdd(Assembler& a) { arithmetic<kAdd>(a); }
void lowerFloatSub(Assembler& a) { arithmetic<kSub>(a); }
void lowerFloatMul(Assembler& a) { arithmetic<kMul>(a); }
void lowerFloatMad(Assembler& a) {
  requireRound(a);
  arithmetic<kFma>(a);
}
void lowerFloatDiv(Assembler& a) {
  if (a.take("approx") || a.take("full")) {
    const bool ftz = a.take("ftz");
    if (a.takeType() != Type::F32) a.fail(".approx and .full are of .f32");
    a.expectOperands(3);
    a.emit(ftz ? single<kDiv, true, false> : single<kDiv, false, false>, {a.destination(0, Type::F32), a.source(1, Type::F32), a.source(2, Type::F32)});
    return;
  }
  requireRound(a);
  arithmetic<kDiv>(a);
}
void lowerFloatMin(Assembler& a) { lowerPick<true>(a); }
void lowerFloatMax(Assembler& a) { lowerPick<false>(a); }
void lowerFloatAbs(Assembler& a) { lowerSign<false>(a); }
void lowerFloatNeg(Assembler& a) { lowerSign<true>(a); }

void addFloats(LoweringTable& t) {
  t["fma"] = lowerFloatMad;
  t["rcp"] = lowerRcpSqrt<kRcp, kRcpApprox>;
  t["sqrt"] = lowerRcpSqrt<kSqrt, kSqrtApprox>;
  t["rsqrt"] = lowerFunction<kRsqrt>;
  t["sin"] = lowerFunction<kSin>;
  t["cos"] = lowerFunction<kCos>;
  t["lg2"] = lowerFunction<kLg2>;
  t["ex2"] = lowerFunction<kEx2>;
  t["tanh"] = lowerFunction<kTanh>;
  t["copysign"] = lowerCopysign;
  t["testp"] = lowerTestp;
}

}  // namespace vcuda
