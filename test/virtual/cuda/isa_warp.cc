// What the lanes of a warp do together: shfl, vote, match, redux, elect, activemask.
#include <algorithm>
#include <bit>

#include "lower.h"

namespace vcuda {
namespace {

enum ShuffleMode { kUp, kDown, kBfly, kIdx };

/** r: d, a, b, c, p (or kNone), member mask. The ISA's pseudocode, section "shfl.sync". */
void shuffle(Warp& w, const Op& o, uint32_t m) {
  const uint32_t *a = w.reg<uint32_t>(o.r[1]), *bs = w.reg<uint32_t>(o.r[2]), *cs = w.reg<uint32_t>(o.r[3]);
  uint32_t from[kLanes];
  std::copy(a, a + kLanes, from);
  uint32_t* d = w.reg<uint32_t>(o.r[0]);
  uint32_t valid = 0;
  for (uint32_t bits = m; bits; bits &= bits - 1) {
    const int lane = std::countr_zero(bits);
    const int bval = int(bs[lane] & 31), cval = int(cs[lane] & 31), mask = int((cs[lane] >> 8) & 31);
    const int maxLane = (lane & mask) | (cval & ~mask), minLane = lane & mask;
    int j = 0;
    bool p = false;
    switch (o.imm) {
      case kUp: j = lane - bval; p = j >= maxLane; break;
      case kDown: j = lane + bval; p = j <= maxLane; break;
      case kBfly: j = lane ^ bval; p = j <= maxLane; break;
      default: j = minLane | (bval & ~mask); p = j <= maxLane;
    }
    if (!p) j = lane;
    if (!((m >> j) & 1) && ((w.live >> j) & 1))
      fault(w, o, lane, kLaunchFailed, "shfl reads lane " + std::to_string(j) + ", which does not take part");
    if (!((w.live >> j) & 1)) j = lane;  // an ended lane's value is undefined: the own one
    d[lane] = from[j];
    valid |= uint32_t(p) << lane;
  }
  if (o.r[4] != kNone) {
    uint32_t& q = w.pred(o.r[4]);
    q = (q & ~m) | (valid & m);
  }
}

void lowerShfl(Assembler& a) {
  if (!a.take("sync")) a.fail("shfl without .sync does not exist since sm_70");
  const int mode = a.takeOne({"up", "down", "bfly", "idx"});
  if (mode < 0 || a.takeType() != Type::B32) a.fail("shfl is .up, .down, .bfly or .idx, .b32");
  a.expectOperands(5);
  const Operand& d = a.operand(0);
  Op& op = a.emit(shuffle, {a.destination(d, Type::B32), a.source(1, Type::B32), a.source(2, Type::B32), a.source(3, Type::B32),
                            d.pair.empty() ? kNone : a.predicateDestination(d.pair[0]), a.source(4, Type::B32)});
  op.flow = Flow::Warp;
  op.imm = mode;
}

/** imm: 0 all, 1 any, 2 uni, 3 ballot. imm2: the predicate is negated. */
void vote(Warp& w, const Op& o, uint32_t m) {
  uint32_t p = w.pred(o.r[1]);
  if (o.imm2) p = ~p;
  p &= m;
  if (o.imm == 3) {
    lanes(w.reg<uint32_t>(o.r[0]), m, [&](int) { return p; });
    return;
  }
  const bool value = o.imm == 0 ? p == m : o.imm == 1 ? p != 0 : p == m || p == 0;
  uint32_t& d = w.pred(o.r[0]);
  d = value ? d | m : d & ~m;
}

void lowerVote(Assembler& a) {
  if (!a.take("sync")) a.fail("vote without .sync does not exist since sm_70");
  const int mode = a.takeOne({"all", "any", "uni", "ballot"});
  const Type t = a.takeType();
  if (mode < 0 || (mode == 3) != (t == Type::B32) || (mode < 3 && t != Type::Pred)) a.fail("vote is .all, .any or .uni .pred, or .ballot.b32");
  a.expectOperands(3);
  bool negated = false;
  const uint32_t p = a.predicate(1, &negated);
  Op& op = a.emit(vote, {mode == 3 ? a.destination(0, t) : a.predicateDestination(0), p, kNone, kNone, kNone, a.source(2, Type::B32)});
  op.flow = Flow::Warp;
  op.imm = mode;
  op.imm2 = negated;
}

template <class T>
void match(Warp& w, const Op& o, uint32_t m) {
  const T* a = w.reg<T>(o.r[1]);
  uint32_t* d = w.reg<uint32_t>(o.r[0]);
  uint32_t result[kLanes] = {};
  bool all = true;
  const int first = std::countr_zero(m);
  for (uint32_t bits = m; bits; bits &= bits - 1) {
    const int l = std::countr_zero(bits);
    for (uint32_t others = m; others; others &= others - 1) {
      const int k = std::countr_zero(others);
      result[l] |= uint32_t(a[k] == a[l]) << k;
    }
    all &= a[l] == a[first];
  }
  for (uint32_t bits = m; bits; bits &= bits - 1) {
    const int l = std::countr_zero(bits);
    d[l] = o.imm ? (all ? m : 0) : result[l];
  }
  if (o.imm && o.r[4] != kNone) {
    uint32_t& p = w.pred(o.r[4]);
    p = all ? p | m : p & ~m;
  }
}

void lowerMatch(Assembler& a) {
  const int mode = a.takeOne({"any", "all"});
  const bool sync = a.take("sync");
  const Type t = a.takeType();
  if (mode < 0 || !sync || (t != Type::B32 && t != Type::B64)) a.fail("match is .any or .all, .sync, .b32 or .b64");
  a.expectOperands(3);
  const Operand& d = a.operand(0);
  Op& op = a.emit(t == Type::B32 ? match<uint32_t> : match<uint64_t>, {a.destination(d, Type::B32), a.source(1, t), kNone, kNone,
                  d.pair.empty() ? kNone : a.predicateDestination(d.pair[0]), a.source(2, Type::B32)});
  op.flow = Flow::Warp;
  op.imm = mode;
}

template <class T, class F>
void redux(Warp& w, const Op& o, uint32_t m) {
  const T* a = w.reg<T>(o.r[1]);
  T value = a[std::countr_zero(m)];
  for (uint32_t bits = m & (m - 1); bits; bits &= bits - 1) value = F{}(value, a[std::countr_zero(bits)]);
  lanes(w.reg<T>(o.r[0]), m, [&](int) { return value; });
}
template <class T, class F>
constexpr Handler reduxOf(F) { return redux<T, F>; }

void lowerRedux(Assembler& a) {
  a.require(80, 70);
  if (!a.take("sync")) a.fail("redux is .sync");
  const int what = a.takeOne({"add", "min", "max", "and", "or", "xor"});
  const Type t = a.takeType();
  a.expectOperands(3);
  Handler h = nullptr;
  if (what >= 3 && t == Type::B32) {
    h = what == 3 ? reduxOf<uint32_t>([](uint32_t x, uint32_t y) { return x & y; }) : what == 4 ? reduxOf<uint32_t>([](uint32_t x, uint32_t y) { return x | y; }) : reduxOf<uint32_t>([](uint32_t x, uint32_t y) { return x ^ y; });
  } else if (what == 0 && (t == Type::U32 || t == Type::S32)) {
    h = reduxOf<uint32_t>([](uint32_t x, uint32_t y) { return x + y; });
  } else if (t == Type::U32 && what > 0) {
    h = what == 1 ? reduxOf<uint32_t>([](uint32_t x, uint32_t y) { return std::min(x, y); }) : reduxOf<uint32_t>([](uint32_t x, uint32_t y) { return std::max(x, y); });
  } else if (t == Type::S32 && what > 0) {
    h = what == 1 ? reduxOf<int32_t>([](int32_t x, int32_t y) { return std::min(x, y); }) : reduxOf<int32_t>([](int32_t x, int32_t y) { return std::max(x, y); });
  }
  if (!h || what < 0) a.fail("redux is .add, .min or .max of .u32 and .s32, or .and, .or, .xor of .b32");
  Op& op = a.emit(h, {a.destination(0, t), a.source(1, t), kNone, kNone, kNone, a.source(2, Type::B32)});
  op.flow = Flow::Warp;
}

void lowerElect(Assembler& a) {
  a.require(90, 80);
  if (!a.take("sync")) a.fail("elect is .sync");
  a.expectOperands(2);
  const Operand& d = a.operand(0);
  if (d.pair.empty()) a.fail("elect has two destinations, d|p");
  Op& op = a.emit(
      [](Warp& w, const Op& o, uint32_t m) {
        const uint32_t leader = uint32_t(std::countr_zero(m));
        lanes(w.reg<uint32_t>(o.r[0]), m, [&](int) { return leader; });
        uint32_t& p = w.pred(o.r[1]);
        p = (p & ~m) | (1u << leader);
      },
      {a.destination(d, Type::B32), a.predicateDestination(d.pair[0]), kNone, kNone, kNone, a.source(1, Type::B32)});
  op.flow = Flow::Warp;
}

void lowerActivemask(Assembler& a) {
  if (a.takeType() != Type::B32) a.fail("activemask is .b32");
  a.expectOperands(1);
  a.emit([](Warp& w, const Op& o, uint32_t m) { lanes(w.reg<uint32_t>(o.r[0]), m, [&](int) { return m; }); }, {a.destination(0, Type::B32)});
}

}  // namespace

void addWarpOps(LoweringTable& t) {
  t["shfl"] = lowerShfl;
  t["vote"] = lowerVote;
  t["match"] = lowerMatch;
  t["redux"] = lowerRedux;
  t["elect"] = lowerElect;
  t["activemask"] = lowerActivemask;
}

}  // namespace vcuda
