// atom and red: every operation of integers, bits and floats on global and shared memory.
#include <algorithm>
#include <atomic>
#include <bit>
#include <cstring>

#include "access.h"
#include "lower.h"

namespace vcuda {
namespace {

template <class U, class F>
U update(uint8_t* at, bool contended, F f) {
  U* p = reinterpret_cast<U*>(at);
  if (!contended) {
    const U old = *p;
    *p = f(old);
    return old;
  }
  U old = __atomic_load_n(p, __ATOMIC_RELAXED);
  while (!__atomic_compare_exchange_n(p, &old, f(old), false, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST)) {
  }
  return old;
}

/** r: d (kNone for red), address, b, c. U: the bits in memory; F: new value from (old, b, c) as bits. */
template <class U, class F>
void atomic(Warp& w, const Op& o, uint32_t m) {
  alignas(64) uint64_t addresses[kLanes];
  Where where;
  addressesOf(w, o, 1, addresses);
  resolve(w, o, m, Space(o.imm2 & 0xff), addresses, uint32_t(sizeof(U)), Use::Atomic, where);
  where.expand();
  const U* b = w.reg<U>(o.r[2]);
  const U* c = w.reg<U>(o.r[3] == kNone ? o.r[2] : o.r[3]);
  U* d = o.r[0] == kNone ? nullptr : w.reg<U>(o.r[0]);
  for (uint32_t bits = m; bits; bits &= bits - 1) {
    const int l = std::countr_zero(bits);
    const U x = b[l], y = c[l];
    const U old = update<U>(where.host[l], where.global, [&](U v) { return U(F{}(v, x, y)); });
    if (d) d[l] = old;
  }
}

template <class U, class F>
constexpr Handler atomicOf(F) { return atomic<U, F>; }

enum What { kAdd, kMin, kMax, kInc, kDec, kAnd, kOr, kXor, kExch, kCas };

template <class T>
Handler integerAtomic(int what) {
  using U = std::make_unsigned_t<T>;
  switch (what) {
    case kAdd: return atomicOf<U>([](U v, U b, U) { return U(v + b); });
    case kMin: return atomicOf<U>([](U v, U b, U) { return U(std::min(T(v), T(b))); });
    case kMax: return atomicOf<U>([](U v, U b, U) { return U(std::max(T(v), T(b))); });
    case kInc: return atomicOf<U>([](U v, U b, U) { return v >= b ? U(0) : U(v + 1); });
    case kDec: return atomicOf<U>([](U v, U b, U) { return v == 0 || v > b ? b : U(v - 1); });
    case kAnd: return atomicOf<U>([](U v, U b, U) { return U(v & b); });
    case kOr: return atomicOf<U>([](U v, U b, U) { return U(v | b); });
    case kXor: return atomicOf<U>([](U v, U b, U) { return U(v ^ b); });
    case kExch: return atomicOf<U>([](U, U b, U) { return b; });
    default: return atomicOf<U>([](U v, U b, U c) { return v == b ? c : v; });
  }
}

uint16_t addHalf(uint16_t x, uint16_t y, bool bf) { return bf ? toBfloat(fromBfloat(x) + fromBfloat(y)) : toHalf(fromHalf(x) + fromHalf(y)); }
template <bool bf>
uint32_t addPair(uint32_t x, uint32_t y) {
  return uint32_t(addHalf(uint16_t(x), uint16_t(y), bf)) | uint32_t(addHalf(uint16_t(x >> 16), uint16_t(y >> 16), bf)) << 16;
}

Handler pick(Assembler& a, int what, Type t) {
  switch (t) {
    case Type::U32: if (what <= kDec) return integerAtomic<uint32_t>(what); break;
    case Type::S32: if (what <= kMax) return integerAtomic<int32_t>(what); break;
    case Type::U64: if (what <= kMax) return integerAtomic<uint64_t>(what); break;
    case Type::S64: if (what == kMin || what == kMax || what == kAdd) return integerAtomic<int64_t>(what); break;
    case Type::B32: if (what >= kAnd) return integerAtomic<uint32_t>(what); break;
    case Type::B64: if (what >= kAnd) return integerAtomic<uint64_t>(what); break;
    case Type::B16: if (what == kCas) return integerAtomic<uint16_t>(what); break;
    case Type::F32: if (what == kAdd) return atomicOf<uint32_t>([](uint32_t v, uint32_t b, uint32_t) { return bitsOf(canonical(asFloat(v) + asFloat(b))); }); break;
    case Type::F64: if (what == kAdd) return atomicOf<uint64_t>([](uint64_t v, uint64_t b, uint64_t) { return bitsOf(asDouble(v) + asDouble(b)); }); break;
    case Type::F16: if (what == kAdd) return atomicOf<uint16_t>([](uint16_t v, uint16_t b, uint16_t) { return addHalf(v, b, false); }); break;
    case Type::BF16: if (what == kAdd) return atomicOf<uint16_t>([](uint16_t v, uint16_t b, uint16_t) { return addHalf(v, b, true); }); break;
    case Type::F16x2: if (what == kAdd) return atomicOf<uint32_t>([](uint32_t v, uint32_t b, uint32_t) { return addPair<false>(v, b); }); break;
    case Type::BF16x2: if (what == kAdd) return atomicOf<uint32_t>([](uint32_t v, uint32_t b, uint32_t) { return addPair<true>(v, b); }); break;
    default: break;
  }
  a.fail("this operation of ." + std::string(nameOf(t)) + " is not known to this device");
}

/** f32 add on global memory: subnormal inputs and results are flushed (ISA, "atom"). */
void addFlushed(Warp& w, const Op& o, uint32_t m) {
  alignas(64) uint64_t addresses[kLanes];
  Where where;
  addressesOf(w, o, 1, addresses);
  resolve(w, o, m, Space(o.imm2 & 0xff), addresses, 4, Use::Atomic, where);
  where.expand();
  for (uint32_t bits = m; bits; bits &= bits - 1) {
    const int l = std::countr_zero(bits);
    const float b = w.reg<float>(o.r[2])[l];
    const bool flushes = where.global;
    const uint32_t old = update<uint32_t>(where.host[l], where.global, [&](uint32_t v) {
      return flushes ? bitsOf(canonical(flush(flush(asFloat(v)) + flush(b)))) : bitsOf(canonical(asFloat(v) + b));
    });
    if (o.r[0] != kNone) w.reg<uint32_t>(o.r[0])[l] = old;
  }
}

void lowerAtomic(Assembler& a, bool returns) {
  a.takeOne({"relaxed", "acquire", "release", "acq_rel"});
  a.takeOne({"cta", "cluster", "gpu", "sys"});
  const Space said = takeSpace(a);
  const int what = a.takeOne({"add", "min", "max", "inc", "dec", "and", "or", "xor", "exch", "cas"});
  const bool noFtz = a.take("noftz");
  if (a.take("L2::cache_hint")) a.fail(".L2::cache_hint of atomics is not known to this device");
  const Type t = a.takeType();
  if (what < 0) a.fail("needs an operation");
  if (what >= kExch && !returns) a.fail("red has no .exch or .cas");
  const bool half = t == Type::F16 || t == Type::BF16 || t == Type::F16x2 || t == Type::BF16x2;
  if (half && !noFtz) a.fail("f16 and bf16 need .noftz");
  if (!half && noFtz) a.fail(".noftz is of f16 and bf16");
  if (t == Type::BF16 || t == Type::BF16x2) a.require(90, 78);
  const size_t first = returns ? 1 : 0;
  a.expectOperands(first + (what == kCas ? 3 : 2));
  const Address at = a.address(first);
  const Space space = spaceOf(a, said, at);
  if (space != Space::Global && space != Space::Shared && space != Space::Generic) a.fail("atomics are on global and shared memory");
  Handler h = pick(a, what, t);
  if (t == Type::F32) h = addFlushed;
  Op& op = a.emit(h, {returns ? a.destination(0, t) : kNone, at.base, a.source(first + 1, t), what == kCas ? a.source(first + 2, t) : kNone});
  op.imm = at.offset;
  op.imm2 = int64_t(space) | (at.baseBytes == 4 ? kNarrowBase : 0);
}

}  // namespace

void addAtomics(LoweringTable& t) {
  t["atom"] = [](Assembler& a) { lowerAtomic(a, true); };
  t["red"] = [](Assembler& a) { lowerAtomic(a, false); };
}

}  // namespace vcuda
