// cvt in all directions: integers with saturation, integers and floats in every rounding mode, between the float
// formats including tf32 and packed fp8, to and from the pairs.
#include <algorithm>
#include <bit>
#include <cfenv>
#include <cmath>
#include <cstring>
#include <limits>

#include "lower.h"

namespace vcuda {
namespace {

/** How Op::imm and imm2 describe a conversion. */
struct Plan {
  Type to, from;
  Round mode;
  uint8_t toBytes, fromBytes;  // of the registers
  bool ftz, sat, relu, integral, finite;
};
static_assert(sizeof(Plan) <= 16);

Plan planOf(const Op& o) {
  Plan p;
  std::memcpy(static_cast<void*>(&p), &o.imm, sizeof p);
  return p;
}

/** 64-bit integers to a double that is exact or sticky. */
double oddFromInteger(uint64_t magnitude, bool negative) {
  const int shift = std::max(0, 11 - std::countl_zero(magnitude | 1));
  uint64_t kept = magnitude;
  if (shift) {
    kept >>= shift;
    kept |= (magnitude & ((uint64_t(1) << shift) - 1)) != 0;
  }
  const double d = std::ldexp(double(kept), shift);
  return negative ? -d : d;
}

uint64_t loadBits(const Warp& w, uint32_t at, int bytes, int lane) {
  uint64_t bits = 0;
  std::memcpy(&bits, w.frame + at + lane * bytes, size_t(bytes));
  return bits;
}

int64_t extend(uint64_t bits, Type type) {
  switch (type) {
    case Type::S8: return int8_t(bits);
    case Type::S16: return int16_t(bits);
    case Type::S32: return int32_t(bits);
    case Type::U8: return uint8_t(bits);
    case Type::U16: return uint16_t(bits);
    case Type::U32: return uint32_t(bits);
    default: return int64_t(bits);
  }
}

double loadFloat(uint64_t bits, Type type, bool ftz) {
  switch (type) {
    case Type::F32:
    case Type::TF32: return ftz ? flush(asFloat(uint32_t(bits))) : asFloat(uint32_t(bits));
    case Type::F64: return asDouble(bits);
    case Type::F16: {
      if (ftz && !(bits & 0x7c00)) bits &= 0x8000;
      return fromHalf(uint16_t(bits));
    }
    case Type::BF16: return fromBfloat(uint16_t(bits));
    case Type::E4M3: return valueOf(kE4M3, uint32_t(bits & 255));
    default: return valueOf(kE5M2, uint32_t(bits & 255));
  }
}

uint64_t storeFloat(double x, Type type, const Plan& p) {
  if (p.sat && !p.finite) x = x > 0 ? std::min(x, 1.0) : 0.0;
  if (p.relu && x == x && (x < 0 || (x == 0 && std::signbit(x)))) x = 0;
  switch (type) {
    case Type::F64: return bitsOf(x);
    case Type::F32: {
      const float f = toSingle(x, p.mode);
      return bitsOf(p.ftz ? flush(f) : f);
    }
    case Type::TF32: return x != x ? kNaN32 : roundTo(kTf32, x, p.mode, p.finite) << 13;
    case Type::F16: {
      uint16_t h = uint16_t(x != x ? kNaN16 : roundTo(kHalf, x, p.mode, p.finite));
      return h;
    }
    case Type::BF16: return x != x ? kNaN16 : roundTo(kBfloat, x, p.mode, p.finite);
    case Type::E4M3: return x != x ? 0x7f : roundTo(kE4M3, x, p.mode, true);
    default: return x != x ? 0x7f : roundTo(kE5M2, x, p.mode, true);
  }
}

uint64_t clampToInteger(double x, Type to) {
  if (x != x) return 0;
  const int bits = bitsOf(to);
  if (isSigned(to)) {
    const double limit = std::ldexp(1.0, bits - 1);
    if (x >= limit) return (uint64_t(1) << (bits - 1)) - 1;
    if (x < -limit) return uint64_t(0) - (uint64_t(1) << (bits - 1));
    return uint64_t(int64_t(x));
  }
  if (x <= 0) return 0;
  if (x >= std::ldexp(1.0, bits)) return bits == 64 ? ~uint64_t(0) : (uint64_t(1) << bits) - 1;
  return uint64_t(x);
}

uint64_t saturateInteger(int64_t v, bool vUnsigned64, Type to) {
  const int bits = bitsOf(to);
  if (isSigned(to)) {
    const int64_t most = int64_t((uint64_t(1) << (bits - 1)) - 1);
    if (vUnsigned64) return uint64_t(v) > uint64_t(most) ? uint64_t(most) : uint64_t(v);
    return uint64_t(std::clamp<int64_t>(v, -most - 1, most));
  }
  const uint64_t most = bits == 64 ? ~uint64_t(0) : (uint64_t(1) << bits) - 1;
  if (vUnsigned64) return std::min(uint64_t(v), most);
  return v < 0 ? 0 : std::min(uint64_t(v), most);
}

uint64_t convert(uint64_t bits, const Plan& p) {
  if (!isFloat(p.from)) {
    const int64_t v = extend(bits, p.from);
    const bool u64 = p.from == Type::U64;
    if (!isFloat(p.to)) return uint64_t(extend(p.sat ? saturateInteger(v, u64, p.to) : uint64_t(v), p.to));
    const bool negative = !u64 && v < 0;
    const uint64_t magnitude = negative ? uint64_t(0) - uint64_t(v) : uint64_t(v);
    if (p.to == Type::F64) {
      static constexpr int kModes[] = {FE_TONEAREST, FE_TOWARDZERO, FE_DOWNWARD, FE_UPWARD};
      std::fesetround(kModes[int(p.mode)]);
      volatile uint64_t u = uint64_t(v);
      volatile double d;
      if (u64) d = double(u);
      else d = double(int64_t(u));
      std::fesetround(FE_TONEAREST);
      return bitsOf(double(p.sat ? std::clamp(double(d), 0.0, 1.0) : double(d)));
    }
    return storeFloat(oddFromInteger(magnitude, negative), p.to, p);
  }
  double x = loadFloat(bits, p.from, p.ftz);
  if (!isFloat(p.to)) return uint64_t(extend(clampToInteger(roundIntegral(x, p.mode), p.to), p.to));
  if (p.integral) {
    Plan q = p;
    q.mode = Round::Nearest;
    const double r = roundIntegral(x, p.mode);
    return storeFloat(r == 0 ? std::copysign(0.0, x) : r, p.to, q);
  }
  return storeFloat(x, p.to, p);
}

void general(Warp& w, const Op& o, uint32_t m) {
  const Plan p = planOf(o);
  for (uint32_t bits = m; bits; bits &= bits - 1) {
    const int l = std::countr_zero(bits);
    const uint64_t d = convert(loadBits(w, o.r[1], p.fromBytes, l), p);
    std::memcpy(w.frame + o.r[0] + l * p.toBytes, &d, p.toBytes);
  }
}

/** d, a, b: two values into a pair, a the upper half. */
void toPair(Warp& w, const Op& o, uint32_t m) {
  const Plan p = planOf(o);
  const int part = p.toBytes * 4;  // bits of one half
  for (uint32_t bits = m; bits; bits &= bits - 1) {
    const int l = std::countr_zero(bits);
    const uint64_t high = convert(loadBits(w, o.r[1], 4, l), p), low = convert(loadBits(w, o.r[2], 4, l), p);
    const uint64_t d = high << part | low;
    std::memcpy(w.frame + o.r[0] + l * p.toBytes, &d, p.toBytes);
  }
}

/** A pair to a pair: fp8x2 and f16x2. */
void pairToPair(Warp& w, const Op& o, uint32_t m) {
  const Plan p = planOf(o);
  const int fromBits = p.fromBytes * 4, toBits = p.toBytes * 4;
  for (uint32_t bits = m; bits; bits &= bits - 1) {
    const int l = std::countr_zero(bits);
    const uint64_t s = loadBits(w, o.r[1], p.fromBytes, l);
    const uint64_t mask = (uint64_t(1) << fromBits) - 1;
    const uint64_t d = convert(s & mask, p) | convert(s >> fromBits, p) << toBits;
    std::memcpy(w.frame + o.r[0] + l * p.toBytes, &d, p.toBytes);
  }
}

/** The conversions that kernels are full of, over all lanes at once. */
Handler fast(const Plan& p) {
  if (p.sat || p.ftz || p.relu || p.integral || p.finite) return nullptr;
  const auto is = [&](Type to, int toBytes, Type from, int fromBytes) { return p.to == to && p.toBytes == toBytes && p.from == from && p.fromBytes == fromBytes; };
  if (is(Type::U64, 8, Type::U32, 4)) return op1<uint64_t, uint32_t>([](uint32_t x) { return uint64_t(x); });
  if (is(Type::S64, 8, Type::S32, 4)) return op1<int64_t, int32_t>([](int32_t x) { return int64_t(x); });
  if (is(Type::U32, 4, Type::U64, 8) || is(Type::S32, 4, Type::S64, 8) || is(Type::U32, 4, Type::S64, 8) || is(Type::S32, 4, Type::U64, 8)) return op1<uint32_t, uint64_t>([](uint64_t x) { return uint32_t(x); });
  if (is(Type::U32, 4, Type::U16, 2) || is(Type::S32, 4, Type::U16, 2)) return op1<uint32_t, uint16_t>([](uint16_t x) { return uint32_t(x); });
  if (is(Type::S32, 4, Type::S16, 2) || is(Type::U32, 4, Type::S16, 2)) return op1<int32_t, int16_t>([](int16_t x) { return int32_t(x); });
  if (is(Type::U16, 2, Type::U32, 4) || is(Type::S16, 2, Type::S32, 4)) return op1<uint16_t, uint32_t>([](uint32_t x) { return uint16_t(x); });
  if (is(Type::U32, 4, Type::U8, 4) || is(Type::S32, 4, Type::U8, 4)) return op1<uint32_t, uint32_t>([](uint32_t x) { return x & 255; });
  if (is(Type::S32, 4, Type::S8, 4) || is(Type::U32, 4, Type::S8, 4)) return op1<int32_t, int32_t>([](int32_t x) { return int32_t(int8_t(x)); });
  if (is(Type::S32, 4, Type::S8, 2)) return op1<int32_t, int16_t>([](int16_t x) { return int32_t(int8_t(x)); });
  if (is(Type::U32, 4, Type::U8, 2) || is(Type::S32, 4, Type::U8, 2)) return op1<uint32_t, uint16_t>([](uint16_t x) { return uint32_t(x & 255); });
  if (is(Type::F32, 4, Type::F16, 2)) return op1<float, uint16_t>([](uint16_t x) { return canonical(fromHalf(x)); });
  if (is(Type::F32, 4, Type::BF16, 2)) return op1<float, uint16_t>([](uint16_t x) { return canonical(fromBfloat(x)); });
  if (is(Type::F64, 8, Type::F32, 4)) return op1<double, float>([](float x) { return double(x); });
  if (p.mode == Round::Nearest && isFloat(p.to)) {
    if (is(Type::F32, 4, Type::S32, 4)) return op1<float, int32_t>([](int32_t x) { return float(x); });
    if (is(Type::F32, 4, Type::U32, 4)) return op1<float, uint32_t>([](uint32_t x) { return float(x); });
    if (is(Type::F16, 2, Type::F32, 4)) return op1<uint16_t, float>([](float x) { return toHalf(x); });
    if (is(Type::BF16, 2, Type::F32, 4)) return op1<uint16_t, float>([](float x) { return toBfloat(x); });
    if (is(Type::F32, 4, Type::F64, 8)) return op1<float, double>([](double x) { return canonical(float(x)); });
  }
  return nullptr;
}

void lowerCvt(Assembler& a) {
  Plan p{};
  int integral = a.takeOne({"rni", "rzi", "rmi", "rpi"});
  const int rounding = a.takeOne({"rn", "rz", "rm", "rp", "rna"});
  const bool relu = a.take("relu"), finite = a.take("satfinite"), ftz = a.take("ftz"), sat = a.take("sat");
  p.to = a.takeType();
  p.from = a.takeType();
  p.ftz = ftz;
  p.sat = sat;
  p.relu = relu;
  p.finite = finite;
  p.integral = integral >= 0;
  static constexpr Round kIntegral[] = {Round::Nearest, Round::Zero, Round::Down, Round::Up};
  static constexpr Round kRounding[] = {Round::Nearest, Round::Zero, Round::Down, Round::Up, Round::Away};
  p.mode = integral >= 0 ? kIntegral[integral] : rounding >= 0 ? kRounding[rounding] : Round::Nearest;
  const auto pairOf = [](Type t) {
    switch (t) {
      case Type::F16x2: return Type::F16;
      case Type::BF16x2: return Type::BF16;
      case Type::E4M3x2: return Type::E4M3;
      case Type::E5M2x2: return Type::E5M2;
      default: return Type::None;
    }
  };
  const Type toPart = pairOf(p.to), fromPart = pairOf(p.from);
  if (relu && !(toPart != Type::None || p.to == Type::F16 || p.to == Type::BF16 || p.to == Type::TF32)) a.fail(".relu is of f16, bf16, tf32 and fp8 results");
  if (toPart != Type::None) {
    const bool fp8 = toPart == Type::E4M3 || toPart == Type::E5M2;
    const Type whole = p.to;
    if (fp8) a.require(89, 81);
    else if (fromPart == Type::None) a.require(80, 70);
    if (fp8 && !finite) a.fail("conversions to fp8 need .satfinite");
    if (rounding < 0 || (fp8 && p.mode != Round::Nearest) || p.mode == Round::Down || p.mode == Round::Up || p.mode == Round::Away) a.fail("needs .rn (or .rz for f16x2 and bf16x2)");
    p.to = toPart;
    p.toBytes = uint8_t(bytesOf(whole));
    const uint32_t d = a.destination(0, fp8 ? Type::B16 : Type::B32);
    if (fromPart == Type::None) {
      if (p.from != Type::F32) a.fail("pairs are made of two .f32 values");
      a.expectOperands(3);
      p.fromBytes = 4;
      Op& op = a.emit(toPair, {d, a.source(1, Type::F32), a.source(2, Type::F32)});
      std::memcpy(&op.imm, &p, sizeof p);
      return;
    }
    if (!((fp8 && fromPart == Type::F16) || (toPart == Type::F16 && (fromPart == Type::E4M3 || fromPart == Type::E5M2)))) a.fail("this conversion between pairs is not known to this device");
    a.require(89, 81);
    a.expectOperands(2);
    const Type from = p.from;
    p.from = fromPart;
    p.fromBytes = uint8_t(bytesOf(from));
    Op& op = a.emit(pairToPair, {d, a.source(1, p.fromBytes == 2 ? Type::B16 : Type::B32)});
    std::memcpy(&op.imm, &p, sizeof p);
    return;
  }
  if (fromPart != Type::None) a.fail("this conversion of a pair is not known to this device");
  a.expectOperands(2);
  const auto plain = [](Type t) { return isInteger(t) || t == Type::F16 || t == Type::BF16 || t == Type::F32 || t == Type::F64; };
  if (p.to == Type::TF32) {
    if (p.from != Type::F32) a.fail("tf32 is made of .f32");
    if (p.mode == Round::Away) a.require(80, 70);
    else a.require(90, 78);
    if (rounding < 0) a.fail("needs .rna, .rn or .rz");
  } else if (!plain(p.to) || !plain(p.from)) {
    a.fail("this conversion is not known to this device");
  }
  // What the ISA demands and forbids
  const bool toFloat = isFloat(p.to), fromFloat = isFloat(p.from);
  if (p.mode == Round::Away && p.to != Type::TF32) a.fail(".rna is of tf32");
  if (fromFloat && !toFloat && integral < 0) a.fail("a conversion to an integer needs .rni, .rzi, .rmi or .rpi");
  if (!fromFloat && toFloat && rounding < 0) a.fail("a conversion from an integer needs .rn, .rz, .rm or .rp");
  if (!fromFloat && !toFloat && (rounding >= 0 || integral >= 0 || ftz)) a.fail("conversions between integers are not rounded");
  if (fromFloat && toFloat && p.to != Type::TF32) {
    // f16 and bf16 do not contain each other.
    const bool narrower = bitsOf(p.to) < bitsOf(p.from) || (bitsOf(p.to) == 16 && bitsOf(p.from) == 16 && p.to != p.from);
    if (narrower && rounding < 0) a.fail("a narrowing conversion needs a rounding mode");
    if (!narrower && rounding >= 0) a.fail("a conversion that is exact takes no rounding mode");
    if (integral >= 0 && p.to != p.from) a.fail("rounding to an integer is between the same types");
  }
  if (p.to == Type::BF16 && p.from == Type::F32) a.require(80, 70);
  else if (p.to == Type::BF16 || p.from == Type::BF16) a.require(90, 78);
  int toBytes, fromBytes;
  const uint32_t d = a.wideDestination(a.operand(0), p.to, toBytes);
  uint32_t s;
  if (const auto special = a.special(a.operand(1))) {
    if (*special >= Special::Clock) a.fail("the special register is read by mov");
    s = a.specialRegister(*special);
    fromBytes = *special == Special::GridId ? 8 : 4;
    if (fromBytes < bytesOf(p.from)) a.fail("the special register is narrower");
  } else {
    s = a.wideSource(a.operand(1), p.from, fromBytes);
  }
  if (isFloat(p.to) && toBytes != bytesOf(p.to) && toBytes < bytesOf(p.to)) a.fail("the destination is too narrow");
  p.toBytes = uint8_t(toBytes);
  p.fromBytes = uint8_t(fromBytes);
  const Handler h = fast(p);
  Op& op = a.emit(h ? h : general, {d, s});
  if (!h) std::memcpy(&op.imm, &p, sizeof p);
}

}  // namespace

void addConversions(LoweringTable& t) { t["cvt"] = lowerCvt; }

}  // namespace vcuda
