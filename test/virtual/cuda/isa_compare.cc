// setp and set: every comparison of integers and floats, ordered and unordered, combined with a predicate.
#include <type_traits>
#if defined(__AVX2__)
#include <immintrin.h>
#endif

#include "lower.h"

namespace vcuda {
namespace {

enum Comparison { kEq, kNe, kLt, kLe, kGt, kGe, kEqu, kNeu, kLtu, kLeu, kGtu, kGeu, kNum, kNan };
enum Combine { kPlain, kAnd, kOr, kXor };

struct F16 { using Bits = uint16_t; static float load(Bits x) { return fromHalf(x); } static Bits flushed(Bits x) { return (x & 0x7c00) ? x : Bits(x & 0x8000); } };
struct B16 { using Bits = uint16_t; static float load(Bits x) { return fromBfloat(x); } static Bits flushed(Bits x) { return x; } };

template <int c, class T>
inline bool compare(T x, T y) {
  switch (c) {
    case kEq: return x == y;
    case kNe: return x < y || x > y;  // ordered: false with NaN
    case kLt: return x < y;
    case kLe: return x <= y;
    case kGt: return x > y;
    case kGe: return x >= y;
    case kEqu: return !(x < y || x > y);
    case kNeu: return !(x == y);
    case kLtu: return !(x >= y);
    case kLeu: return !(x > y);
    case kGtu: return !(x <= y);
    case kGeu: return !(x < y);
    case kNum: return x == x && y == y;
    default: return x != x || y != y;
  }
}

inline uint32_t gather(const uint8_t* flags) {
#if defined(__AVX2__)
  const __m256i v = _mm256_load_si256(reinterpret_cast<const __m256i*>(flags));
  return uint32_t(_mm256_movemask_epi8(_mm256_sub_epi8(_mm256_setzero_si256(), v)));
#else
  uint32_t mask = 0;
  for (int l = 0; l < kLanes; ++l) mask |= uint32_t(flags[l]) << l;
  return mask;
#endif
}

template <int c, class T>
uint32_t compareLanes(const T* x, const T* y) {
  alignas(32) uint8_t flags[kLanes];
  for (int l = 0; l < kLanes; ++l) flags[l] = compare<c, T>(x[l], y[l]);
  return gather(flags);
}

inline uint32_t combined(const Warp& w, const Op& o, uint32_t value, int64_t how) {
  if (how == kPlain) return value;
  uint32_t p = w.pred(o.r[4]);
  if (o.imm & 0x100) p = ~p;
  return how == kAnd ? value & p : how == kOr ? value | p : value ^ p;
}

/** r: p, a, b, q (or kNone), c (or kNone). imm: 0x100 the predicate is negated, 0x200 .ftz; imm2: how to combine. */
inline void writePredicates(Warp& w, const Op& o, uint32_t m, uint32_t value) {
  const uint32_t first = combined(w, o, value, o.imm2);
  const uint32_t second = o.r[3] == kNone ? 0 : combined(w, o, ~value, o.imm2);
  uint32_t& p = w.pred(o.r[0]);
  p = (p & ~m) | (first & m);
  if (o.r[3] != kNone) {
    uint32_t& q = w.pred(o.r[3]);
    q = (q & ~m) | (second & m);
  }
}

template <int c, class T>
void setp(Warp& w, const Op& o, uint32_t m) {
  if constexpr (std::is_same_v<T, float>) {
    if (o.imm & 0x200) {
      float x[kLanes], y[kLanes];
      for (int l = 0; l < kLanes; ++l) x[l] = flush(w.reg<float>(o.r[1])[l]), y[l] = flush(w.reg<float>(o.r[2])[l]);
      return writePredicates(w, o, m, compareLanes<c, float>(x, y));
    }
  }
  writePredicates(w, o, m, compareLanes<c, T>(w.reg<T>(o.r[1]), w.reg<T>(o.r[2])));
}

template <int c, class H>
void setpHalf(Warp& w, const Op& o, uint32_t m) {
  float x[kLanes], y[kLanes];
  for (int l = 0; l < kLanes; ++l) {
    uint16_t a = w.reg<uint16_t>(o.r[1])[l], b = w.reg<uint16_t>(o.r[2])[l];
    if (o.imm & 0x200) a = H::flushed(a), b = H::flushed(b);
    x[l] = H::load(a);
    y[l] = H::load(b);
  }
  writePredicates(w, o, m, compareLanes<c, float>(x, y));
}

/** Packed: p of the low half, q of the high half. */
template <int c, class H>
void setpPair(Warp& w, const Op& o, uint32_t m) {
  for (int part = 0; part < 2; ++part) {
    float x[kLanes], y[kLanes];
    for (int l = 0; l < kLanes; ++l) {
      uint16_t a = uint16_t(w.reg<uint32_t>(o.r[1])[l] >> (16 * part)), b = uint16_t(w.reg<uint32_t>(o.r[2])[l] >> (16 * part));
      if (o.imm & 0x200) a = H::flushed(a), b = H::flushed(b);
      x[l] = H::load(a);
      y[l] = H::load(b);
    }
    const uint32_t value = combined(w, o, compareLanes<c, float>(x, y), o.imm2);
    uint32_t& p = w.pred(part ? o.r[3] : o.r[0]);
    p = (p & ~m) | (value & m);
  }
}

template <class F>
Handler byComparison(int c, F f) {
  switch (c) {
#define CASE(K) case K: return f.template operator()<K>();
    CASE(kEq) CASE(kNe) CASE(kLt) CASE(kLe) CASE(kGt) CASE(kGe) CASE(kEqu) CASE(kNeu) CASE(kLtu) CASE(kLeu) CASE(kGtu) CASE(kGeu) CASE(kNum) CASE(kNan)
#undef CASE
    default: return nullptr;
  }
}

struct Parsed {
  int comparison;
  int how;
  bool ftz;
  std::string name;
};

/** The comparison, with .lo .ls .hi .hs as unsigned names for .lt .le .gt .ge. */
Parsed parseComparison(Assembler& a) {
  Parsed p;
  p.comparison = a.takeOne({"eq", "ne", "lt", "le", "gt", "ge", "equ", "neu", "ltu", "leu", "gtu", "geu", "num", "nan"});
  if (p.comparison < 0) {
    const int u = a.takeOne({"lo", "ls", "hi", "hs"});
    if (u < 0) a.fail("needs a comparison");
    p.comparison = kLt + u;
    p.name = "unsigned";
  }
  p.how = a.takeOne({"and", "or", "xor"}) + 1;
  p.ftz = a.take("ftz");
  return p;
}

Handler handlerOf(Assembler& a, const Parsed& p, Type t) {
  const bool ordered = p.comparison <= kGe;
  if (isFloat(t)) {
    if (p.name == "unsigned") a.fail(".lo, .ls, .hi and .hs are of unsigned integers");
    if (t == Type::F32) return byComparison(p.comparison, []<int c>() -> Handler { return setp<c, float>; });
    if (t == Type::F64) return byComparison(p.comparison, []<int c>() -> Handler { return setp<c, double>; });
    if (t == Type::F16) return byComparison(p.comparison, []<int c>() -> Handler { return setpHalf<c, F16>; });
    if (t == Type::BF16) return byComparison(p.comparison, []<int c>() -> Handler { return setpHalf<c, B16>; });
    if (t == Type::F16x2) return byComparison(p.comparison, []<int c>() -> Handler { return setpPair<c, F16>; });
    if (t == Type::BF16x2) return byComparison(p.comparison, []<int c>() -> Handler { return setpPair<c, B16>; });
    a.fail("the type is not known to this device");
  }
  if (!ordered) a.fail("unordered comparisons are of floats");
  if (p.name == "unsigned" && (isSigned(t) || !isInteger(t))) a.fail(".lo, .ls, .hi and .hs are of unsigned integers");
  if (!isInteger(t) && p.comparison > kNe) a.fail("bit types are compared by .eq and .ne");
  if (bitsOf(t) < 16) a.fail("the type has at least 16 bits");
  return byComparison(p.comparison, [&]<int c>() -> Handler {
    if constexpr (c <= kGe) return byInteger(t, []<class T>() -> Handler { return setp<c, T>; });
    else return nullptr;
  });
}

void lowerSetp(Assembler& a) {
  const Parsed p = parseComparison(a);
  const Type t = a.takeType();
  a.expectOperands(p.how ? 4 : 3);
  const bool pair = t == Type::F16x2 || t == Type::BF16x2;
  if (t == Type::BF16 || t == Type::BF16x2) a.require(90, 78);
  if (p.ftz && t != Type::F32 && t != Type::F16 && t != Type::F16x2) a.fail(".ftz is of .f32 and .f16");
  const Operand& d = a.operand(0);
  uint32_t q = kNone;
  if (!d.pair.empty()) q = a.predicateDestination(d.pair[0]);
  else if (pair) a.fail("a packed setp has two destinations, p|q");
  bool negated = false;
  const uint32_t c = p.how ? a.predicate(3, &negated) : kNone;
  Op& op = a.emit(handlerOf(a, p, t), {a.predicateDestination(0), a.source(1, t), a.source(2, t), q, c});
  op.imm = (negated ? 0x100 : 0) | (p.ftz ? 0x200 : 0);
  op.imm2 = p.how;
}

/** set: all ones (or 1.0) where the comparison holds; computed as setp into a scratch predicate. */
void lowerSet(Assembler& a) {
  const Parsed p = parseComparison(a);
  const Type d = a.takeType(), t = a.takeType();
  a.expectOperands(p.how ? 4 : 3);
  if (d != Type::U32 && d != Type::S32 && d != Type::F32) a.fail("the destination type of set is .u32, .s32 or .f32 on this device");
  if (t == Type::F16x2 || t == Type::BF16x2) a.fail("packed set is not known to this device");
  bool negated = false;
  const uint32_t c = p.how ? a.predicate(3, &negated) : kNone;
  const uint32_t flag = a.scratchPredicate();
  Op& op = a.emit(handlerOf(a, p, t), {flag, a.source(1, t), a.source(2, t), kNone, c});
  op.imm = (negated ? 0x100 : 0) | (p.ftz ? 0x200 : 0);
  op.imm2 = p.how;
  a.emit(
       [](Warp& w, const Op& o, uint32_t m) {
         const uint32_t bits = w.pred(o.r[1]);
         const uint32_t yes = uint32_t(o.imm);
         lanes(w.reg<uint32_t>(o.r[0]), m, [&](int l) { return (bits >> l) & 1 ? yes : 0u; });
       },
       {a.destination(0, d), flag})
      .imm = d == Type::F32 ? 0x3f800000 : 0xffffffff;
}

}  // namespace

void addCompares(LoweringTable& t) {
  t["setp"] = lowerSetp;
  t["set"] = lowerSet;
}

}  // namespace vcuda
