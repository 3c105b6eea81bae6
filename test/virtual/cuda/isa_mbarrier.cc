// mbarrier objects: eight bytes of shared memory that count arrivals and bytes of asynchronous copies, by phases.
//
// The object is opaque to programs. Here: bits 0-19 pending arrivals, 20-39 the expected count, 40-62 the transaction
// count (two's complement), 63 the phase.
#include <bit>
#include <cstring>

#include "async.h"

namespace vcuda {
namespace {

constexpr uint32_t kCountMask = (1u << 20) - 1;

struct State {
  uint32_t pending, count;
  int32_t transactions;
  bool phase;
};

State unpack(uint64_t bits) {
  State s;
  s.pending = uint32_t(bits) & kCountMask;
  s.count = uint32_t(bits >> 20) & kCountMask;
  s.transactions = int32_t(uint32_t(bits >> 40) << 9) >> 9;
  s.phase = bits >> 63;
  return s;
}

uint64_t packed(const State& s) {
  return uint64_t(s.pending) | uint64_t(s.count) << 20 | uint64_t(uint32_t(s.transactions) & 0x7fffffu) << 40 | uint64_t(s.phase) << 63;
}

State load(const uint8_t* object) {
  uint64_t bits;
  std::memcpy(&bits, object, 8);
  return unpack(bits);
}
void save(uint8_t* object, const State& s) {
  const uint64_t bits = packed(s);
  std::memcpy(object, &bits, 8);
}

void advance(State& s) {
  if (s.pending == 0 && s.transactions == 0) {
    s.phase = !s.phase;
    s.pending = s.count;
  }
}

template <class F>
void eachObject(Warp& w, const Op& o, uint32_t m, F f) {
  uint64_t addresses[kLanes];
  addressesOf(w, o, 1, addresses);
  for (uint32_t bits = m; bits; bits &= bits - 1) {
    const int l = std::countr_zero(bits);
    f(l, mbarrierAt(w, o, l, Space(o.imm2 & 0xff), addresses[l]));
  }
}

void init(Warp& w, const Op& o, uint32_t m) {
  uint64_t addresses[kLanes];
  addressesOf(w, o, 1, addresses);
  const Space space = Space(o.imm2 & 0xff);
  for (uint32_t bits = m; bits; bits &= bits - 1) {
    const int l = std::countr_zero(bits);
    const uint32_t count = w.reg<uint32_t>(o.r[2])[l];
    if (count == 0 || count > kCountMask) fault(w, o, l, kLaunchFailed, "mbarrier.init: the count " + std::to_string(count) + " is not in 1 … 2^20 - 1");
    Where where;
    uint64_t one[kLanes];
    std::fill(one, one + kLanes, addresses[l]);
    resolve(w, o, 1u << l, space, one, 8, Use::Write, where);
  where.expand();
    save(where.host[l], {count, count, 0, false});
  }
}

enum ArriveFlags { kDrop = 0x1000, kExpect = 0x2000, kOnlyExpect = 0x4000, kCompleteTx = 0x8000 };

/** r: state (or kNone), address, count or bytes. */
void arrive(Warp& w, const Op& o, uint32_t m) {
  eachObject(w, o, m, [&](int l, uint8_t* object) {
    const uint32_t operand = o.r[2] == kNone ? 1 : w.reg<uint32_t>(o.r[2])[l];
    if (o.imm2 & kCompleteTx) return mbarrierComplete(object, operand);
    if (o.imm2 & kOnlyExpect) {
      State s = load(object);
      s.transactions += int32_t(operand);
      save(object, s);
      return;
    }
    const bool expects = o.imm2 & kExpect;
    const uint64_t before = mbarrierArrive(w, o, l, object, expects ? 1 : operand, expects ? operand : 0, o.imm2 & kDrop);
    if (o.r[0] != kNone) w.reg<uint64_t>(o.r[0])[l] = before;
  });
}

/** r: predicate, address, state or parity. imm2 0x1000: parity. */
void testWait(Warp& w, const Op& o, uint32_t m) {
  uint32_t done = 0;
  eachObject(w, o, m, [&](int l, uint8_t* object) {
    const State s = load(object);
    const bool phase = o.imm2 & 0x1000 ? w.reg<uint32_t>(o.r[2])[l] & 1 : w.reg<uint64_t>(o.r[2])[l] >> 63;
    done |= uint32_t(s.phase != phase) << l;
  });
  uint32_t& p = w.pred(o.r[0]);
  p = (p & ~m) | done;
  if (done != m) w.yield = true;
}

void lowerMbarrier(Assembler& a) {
  a.require(80, 70);
  const int what = a.takeOne({"init", "inval", "arrive", "arrive_drop", "expect_tx", "complete_tx", "test_wait", "try_wait", "pending_count"});
  if (what < 0) a.fail("this mbarrier operation is not known to this device");
  if (what == 8) {
    if (a.takeType() != Type::B64) a.fail("the type is .b64");
    a.expectOperands(2);
    a.emit(op1<uint32_t, uint64_t>([](uint64_t s) { return uint32_t(s) & kCountMask; }), {a.destination(0, Type::U32), a.source(1, Type::B64)});
    return;
  }
  const bool expects = what <= 3 && a.take("expect_tx");
  const bool parity = what >= 6 && a.take("parity");
  a.take("noComplete");
  a.takeOne({"release", "acquire", "relaxed"});
  a.takeOne({"cta", "cluster"});
  bool cluster = false;
  const Space said = takeSpace(a, &cluster);
  if (a.takeType() != Type::B64) a.fail("the type is .b64");
  if (expects || cluster || what == 4 || what == 5 || what == 7) a.require(90, 78);
  const bool hasResult = what >= 6 || ((what == 2 || what == 3) && a.operand(0).kind != Operand::Kind::Address);
  const size_t at = hasResult ? 1 : 0;
  const Address address = a.address(at);
  const Space space = spaceOf(a, said, address);
  const int64_t flags = int64_t(space) | (address.baseBytes == 4 ? kNarrowBase : 0);
  switch (what) {
    case 0: {
      a.expectOperands(2);
      Op& op = a.emit(init, {kNone, address.base, a.source(1, Type::U32)});
      op.imm = address.offset;
      op.imm2 = flags;
      return;
    }
    case 1: {
      a.expectOperands(1);
      Op& op = a.emit([](Warp& w, const Op& o, uint32_t m) { eachObject(w, o, m, [&](int, uint8_t* object) { std::memset(w.block->marks.data() + (object - w.block->shared.data()), kUnset, 8); }); }, {kNone, address.base});
      op.imm = address.offset;
      op.imm2 = flags;
      return;
    }
    case 2:
    case 3:
    case 4:
    case 5: {
      a.expectOperands(at + (expects || what >= 4 ? 2 : 1), at + 2);
      uint32_t state = kNone;
      if (hasResult && a.operand(0).kind != Operand::Kind::Sink) {
        if (cluster) a.fail("an arrival at a remote mbarrier gives no state: use '_'");
        state = a.destination(0, Type::B64);
      }
      const uint32_t operand = a.count() > at + 1 ? a.source(at + 1, Type::U32) : kNone;
      Op& op = a.emit(arrive, {state, address.base, operand});
      op.imm = address.offset;
      op.imm2 = flags | (what == 3 ? kDrop : 0) | (expects ? kExpect : 0) | (what == 4 ? kOnlyExpect : 0) | (what == 5 ? kCompleteTx : 0);
      return;
    }
    default: {
      a.expectOperands(3, 4);
      Op& op = a.emit(testWait, {a.predicateDestination(0), address.base, parity ? a.source(2, Type::U32) : a.source(2, Type::B64)});
      if (a.count() == 4) a.source(3, Type::U32);  // the time limit is a hint
      op.imm = address.offset;
      op.imm2 = flags | (parity ? 0x1000 : 0);
      op.flow = Flow::Poll;
    }
  }
}

}  // namespace

uint8_t* mbarrierAt(Warp& w, const Op& op, int lane, Space space, uint64_t address) {
  if (address & 7) fault(w, op, lane, kMisalignedAddress, "misaligned access: an mbarrier object has 8 bytes");
  uint64_t one[kLanes];
  std::fill(one, one + kLanes, address);
  Where where;
  resolve(w, op, 1u << lane, space, one, 8, Use::Read, where);
  where.expand();
  return where.host[lane];
}

uint64_t mbarrierArrive(Warp& w, const Op& op, int lane, uint8_t* object, uint32_t count, int64_t transactions, bool drop) {
  State s = load(object);
  const uint64_t before = packed(s);
  s.transactions += int32_t(transactions);
  if (count > s.pending) fault(w, op, lane, kLaunchFailed, "mbarrier: " + std::to_string(count) + " arrivals, but the phase waits for " + std::to_string(s.pending) + " more of " + std::to_string(s.count));
  if (drop) s.count -= 1;
  s.pending -= count;
  advance(s);
  save(object, s);
  return before;
}

void mbarrierComplete(uint8_t* object, int64_t bytes) {
  State s = load(object);
  s.transactions -= int32_t(bytes);
  advance(s);
  save(object, s);
}

void mbarrierExpectArrival(uint8_t* object) {
  State s = load(object);
  s.pending += 1;
  save(object, s);
}

void addMbarriers(LoweringTable& t) { t["mbarrier"] = lowerMbarrier; }

}  // namespace vcuda
