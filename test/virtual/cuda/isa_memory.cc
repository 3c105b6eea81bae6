// ld, st, cvta, isspacep, mapa, prefetch and the memory fences.
#include <atomic>
#include <bit>
#include <cstring>

#include "access.h"
#include "lower.h"

namespace vcuda {
namespace {

/** imm: offset. imm2: space in the low byte, kNarrowBase. extra: destination registers when more than one. */
template <class M, class R>
void load(Warp& w, const Op& o, uint32_t m) {
  alignas(64) uint64_t addresses[kLanes];
  Where where;
  addressesOf(w, o, 1, addresses);
  const uint32_t count = o.extra ? uint32_t(o.extra->registers.size()) : 1;
  resolve(w, o, m, Space(o.imm2 & 0xff), addresses, uint32_t(sizeof(M)) * count, Use::Read, where);
  if (count == 1) {
    M values[kLanes];
    if (where.step == 0) {
      M value;
      std::memcpy(&value, where.host[0], sizeof(M));
      lanes(w.reg<R>(o.r[0]), m, [&](int) { return R(value); });
      return;
    }
    if (where.step > 0) std::memcpy(values, where.host[0], sizeof values);
    else
      for (int l = 0; l < kLanes; ++l) std::memcpy(&values[l], where.host[l], sizeof(M));
    lanes(w.reg<R>(o.r[0]), m, [&](int l) { return R(values[l]); });
    return;
  }
  M values[8][kLanes];
  where.expand();
  for (int l = 0; l < kLanes; ++l)
    for (uint32_t i = 0; i < count; ++i) std::memcpy(&values[i][l], where.host[l] + i * sizeof(M), sizeof(M));
  for (uint32_t i = 0; i < count; ++i) {
    const M* v = values[i];
    lanes(w.reg<R>(o.extra->registers[i]), m, [&](int l) { return R(v[l]); });
  }
}

template <class M, class R>
void store(Warp& w, const Op& o, uint32_t m) {
  alignas(64) uint64_t addresses[kLanes];
  Where where;
  addressesOf(w, o, 1, addresses);
  const uint32_t count = o.extra ? uint32_t(o.extra->registers.size()) : 1;
  resolve(w, o, m, Space(o.imm2 & 0xff), addresses, uint32_t(sizeof(M)) * count, Use::Write, where);
  if (count == 1) {
    const R* from = w.reg<R>(o.r[0]);
    M values[kLanes];
    for (int l = 0; l < kLanes; ++l) values[l] = M(from[l]);
    if (where.step > 0 && m == kAll) {
      std::memcpy(where.host[0], values, sizeof values);
      return;
    }
    where.expand();
    for (uint32_t bits = m; bits; bits &= bits - 1) {
      const int l = std::countr_zero(bits);
      std::memcpy(where.host[l], &values[l], sizeof(M));
    }
    return;
  }
  where.expand();
  for (uint32_t bits = m; bits; bits &= bits - 1) {
    const int l = std::countr_zero(bits);
    for (uint32_t i = 0; i < count; ++i) {
      const M value = M(w.reg<R>(o.extra->registers[i])[l]);
      std::memcpy(where.host[l] + i * sizeof(M), &value, sizeof(M));
    }
  }
}

template <class M>
Handler loadOf(int registerBytes) {
  using S = std::conditional_t<std::is_signed_v<M>, int64_t, uint64_t>;
  if (registerBytes == int(sizeof(M))) return load<M, M>;
  if constexpr (sizeof(M) < 2) if (registerBytes == 2) return load<M, std::conditional_t<std::is_signed_v<M>, int16_t, uint16_t>>;
  if constexpr (sizeof(M) < 4) if (registerBytes == 4) return load<M, std::conditional_t<std::is_signed_v<M>, int32_t, uint32_t>>;
  return load<M, S>;
}
template <class M>
Handler storeOf(int registerBytes) {
  if (registerBytes == int(sizeof(M))) return store<M, M>;
  if constexpr (sizeof(M) < 2) if (registerBytes == 2) return store<M, uint16_t>;
  if constexpr (sizeof(M) < 4) if (registerBytes == 4) return store<M, uint32_t>;
  return store<M, uint64_t>;
}

void takeOrdering(Assembler& a, bool isLoad) {
  const int ordering = isLoad ? a.takeOne({"weak", "volatile", "relaxed", "acquire"}) : a.takeOne({"weak", "volatile", "relaxed", "release"});
  const bool scoped = a.takeOne({"cta", "cluster", "gpu", "sys"}) >= 0;
  if (ordering >= 2 && !scoped) a.fail("an ordered access needs a scope");
  if (scoped && ordering < 2) a.fail("a scope comes with .relaxed, .acquire or .release");
  a.take("mmio");
  if (isLoad) a.takeOne({"ca", "cg", "cs", "lu", "cv"});
  else a.takeOne({"wb", "cg", "cs", "wt"});
}

bool takeHints(Assembler& a) {
  a.takePrefix("L1::");
  bool hint = false;
  std::string word;
  while (a.takePrefix("L2::", &word)) hint |= word == "L2::cache_hint";
  return hint;
}

Type accessType(Assembler& a) {
  const Type t = a.takeType();
  if (t == Type::Pred || t == Type::B128 || bitsOf(t) < 8 || t == Type::F16 || t == Type::F16x2 || t == Type::BF16 || t == Type::BF16x2 || t == Type::TF32)
    a.fail("the type ." + std::string(nameOf(t)) + " is not a type of ld and st (use .b16 or .b32)");
  return t;
}

void lowerLd(Assembler& a) {
  takeOrdering(a, true);
  const Space said = takeSpace(a);
  const bool nc = a.take("nc");
  if (nc && said != Space::Global) a.fail(".nc is of .global");
  const bool hint = takeHints(a);
  int count;
  a.takeVector(count);
  const Type t = accessType(a);
  a.expectOperands(hint ? 3 : 2);
  if (count == 8 || count * bytesOf(t) > 16) a.fail("a vector access has at most 16 bytes on this device");
  const Address from = a.address(1);
  const Space space = spaceOf(a, said, from);
  int bytes = 0;
  std::vector<uint32_t> to;
  if (count == 1 && !a.isVector(0)) {
    to.push_back(a.wideDestination(a.operand(0), t, bytes));
  } else {
    if (!a.isVector(0) || int(a.operand(0).items.size()) != count) a.fail("the vector has not the length that the instruction names");
    for (const Operand& o : a.operand(0).items) {
      int b = 0;
      const bool sink = o.kind == Operand::Kind::Sink;
      to.push_back(a.wideDestination(o, t, b));
      if (bytes && !sink && b != bytes) a.fail("the registers of a vector have different widths");
      if (!sink) bytes = b;
    }
    if (!bytes) bytes = bytesOf(t);
  }
  Handler h;
  const bool sx = isSigned(t);
  switch (bytesOf(t)) {
    case 1: h = sx ? loadOf<int8_t>(bytes) : loadOf<uint8_t>(bytes); break;
    case 2: h = sx ? loadOf<int16_t>(bytes) : loadOf<uint16_t>(bytes); break;
    case 4: h = sx ? loadOf<int32_t>(bytes) : loadOf<uint32_t>(bytes); break;
    default: h = loadOf<uint64_t>(bytes);
  }
  Op& op = a.emit(h, {to[0], from.base});
  op.imm = from.offset;
  op.imm2 = int64_t(space) | (from.baseBytes == 4 ? kNarrowBase : 0);
  if (count > 1) {
    Extra& x = a.extra();
    x.registers = to;
    op.extra = &x;
  }
}

void lowerSt(Assembler& a) {
  takeOrdering(a, false);
  const Space said = takeSpace(a);
  const bool hint = takeHints(a);
  int count;
  a.takeVector(count);
  const Type t = accessType(a);
  a.expectOperands(hint ? 3 : 2);
  if (count == 8 || count * bytesOf(t) > 16) a.fail("a vector access has at most 16 bytes on this device");
  const Address to = a.address(0);
  const Space space = spaceOf(a, said, to);
  if (space == Space::Const) a.fail("constant memory is not written");
  int bytes = 0;
  std::vector<uint32_t> from;
  if (count == 1 && !a.isVector(1)) {
    from.push_back(a.wideSource(a.operand(1), t, bytes));
  } else {
    if (!a.isVector(1) || int(a.operand(1).items.size()) != count) a.fail("the vector has not the length that the instruction names");
    for (const Operand& o : a.operand(1).items) {
      if (o.kind != Operand::Kind::Register) continue;
      int b = 0;
      a.wideSource(o, t, b);
      if (bytes && b != bytes) a.fail("the registers of a vector have different widths");
      bytes = b;
    }
    // Constants take the width of the registers beside them.
    const Type wide = bytes == 8 ? Type::B64 : bytes == 4 ? Type::B32 : bytes == 2 ? Type::B16 : t;
    for (const Operand& o : a.operand(1).items) {
      int b = 0;
      from.push_back(o.kind != Operand::Kind::Register && bytes > bytesOf(t) ? a.wideSource(o, wide, b) : a.wideSource(o, t, b));
      if (!bytes) bytes = b;
    }
  }
  Handler h;
  switch (bytesOf(t)) {
    case 1: h = storeOf<uint8_t>(bytes); break;
    case 2: h = storeOf<uint16_t>(bytes); break;
    case 4: h = storeOf<uint32_t>(bytes); break;
    default: h = storeOf<uint64_t>(bytes);
  }
  Op& op = a.emit(h, {from[0], to.base});
  op.imm = to.offset;
  op.imm2 = int64_t(space) | (to.baseBytes == 4 ? kNarrowBase : 0);
  if (count > 1) {
    Extra& x = a.extra();
    x.registers = from;
    op.extra = &x;
  }
}

uint64_t windowOf(Space space) {
  switch (space) {
    case Space::Shared: return kSharedWindow;
    case Space::Local: return kLocalWindow;
    default: return 0;  // global and const addresses are generic ones; parameters carry their window
  }
}

void lowerCvta(Assembler& a) {
  const bool back = a.take("to");
  const Space space = takeSpace(a);
  if (space == Space::Generic) a.fail("cvta names a state space");
  const Type t = a.takeType();
  if (t != Type::U64 && t != Type::U32) a.fail("cvta is .u32 or .u64");
  a.expectOperands(2);
  if (t == Type::U32 && a.module().addressBits == 64) a.fail("cvta.u32 in a module of 64-bit addresses");
  const uint32_t d = a.destination(0, t), s = a.source(1, t);
  Op& op = back ? a.emit([](Warp& w, const Op& o, uint32_t m) {
    const uint64_t* x = w.reg<uint64_t>(o.r[1]);
    const uint64_t window = uint64_t(o.imm);
    if (window)
      for (uint32_t bits = m; bits; bits &= bits - 1) {
        const int l = std::countr_zero(bits);
        if (x[l] >> 44 != window >> 44) fault(w, o, l, kInvalidAddressSpace, "cvta.to: the generic address is not in that state space");
      }
    lanes(w.reg<uint64_t>(o.r[0]), m, [&](int l) { return x[l] - window; });
  }, {d, s}) : a.emit([](Warp& w, const Op& o, uint32_t m) {
    const uint64_t* x = w.reg<uint64_t>(o.r[1]);
    const uint64_t window = uint64_t(o.imm);
    lanes(w.reg<uint64_t>(o.r[0]), m, [&](int l) { return x[l] + window; });
  }, {d, s});
  op.imm = int64_t(windowOf(space));
}

void lowerIsspacep(Assembler& a) {
  bool cluster = false;
  const Space space = takeSpace(a, &cluster);
  if (space == Space::Generic) a.fail("isspacep names a state space");
  a.expectOperands(2);
  Op& op = a.emit(
      [](Warp& w, const Op& o, uint32_t m) {
        const uint64_t* x = w.reg<uint64_t>(o.r[1]);
        uint32_t value = 0;
        for (int l = 0; l < kLanes; ++l) {
          const uint64_t window = x[l] >> 44;
          const bool special = window >= 0xA && window <= 0xC;
          bool yes = o.imm ? window == uint64_t(o.imm) >> 44 : !special;
          if (yes && o.imm2 == 1 && (x[l] & (kWindowBytes - 1)) >> kRankShift) yes = false;
          value |= uint32_t(yes) << l;
        }
        uint32_t& p = w.pred(o.r[0]);
        p = (p & ~m) | (value & m);
      },
      {a.predicateDestination(0), a.source(1, Type::U64)});
  op.imm = int64_t(space == Space::Param ? kParamWindow : windowOf(space));
  op.imm2 = space == Space::Shared && !cluster;
}

/** mapa: the address of the same shared variable in another block of the cluster. */
void lowerMapa(Assembler& a) {
  a.require(90, 78);
  const bool shared = a.take("shared::cluster");
  const Type t = a.takeType();
  a.expectOperands(3);
  if (t != Type::U32 && t != Type::U64) a.fail("mapa is .u32 or .u64");
  const Handler wide = [](Warp& w, const Op& o, uint32_t m) {
    const uint32_t* rank = w.reg<uint32_t>(o.r[2]);
    for (uint32_t bits = m; bits; bits &= bits - 1) {
      const int l = std::countr_zero(bits);
      if (rank[l] >= w.block->cluster->blocks.size()) fault(w, o, l, kLaunchFailed, "mapa: the cluster has no block " + std::to_string(rank[l]));
      const uint64_t x = w.reg<uint64_t>(o.r[1])[l];
      const uint64_t window = o.imm ? 0 : kSharedWindow;
      if (!o.imm && x >> 44 != kSharedWindow >> 44) fault(w, o, l, kInvalidAddressSpace, "mapa: the generic address is not in shared memory");
      const uint64_t offset = (x & (kWindowBytes - 1)) & ((uint64_t(1) << kRankShift) - 1);
      w.reg<uint64_t>(o.r[0])[l] = window + ((uint64_t(rank[l]) + 1) << kRankShift | offset);
    }
  };
  const Handler narrow = [](Warp& w, const Op& o, uint32_t m) {
    const uint32_t* rank = w.reg<uint32_t>(o.r[2]);
    for (uint32_t bits = m; bits; bits &= bits - 1) {
      const int l = std::countr_zero(bits);
      if (rank[l] >= w.block->cluster->blocks.size()) fault(w, o, l, kLaunchFailed, "mapa: the cluster has no block " + std::to_string(rank[l]));
      w.reg<uint32_t>(o.r[0])[l] = (rank[l] + 1) << kRankShift | (w.reg<uint32_t>(o.r[1])[l] & ((1u << kRankShift) - 1));
    }
  };
  if (t == Type::U32 && !shared) a.fail("mapa.u32 is of .shared::cluster");
  a.emit(t == Type::U64 ? wide : narrow, {a.destination(0, t), a.source(1, t), a.source(2, Type::U32)}).imm = shared;
}

void lowerGetctarank(Assembler& a) {
  a.require(90, 78);
  const bool shared = a.take("shared::cluster");
  const Type t = a.takeType();
  a.expectOperands(2);
  if (t != Type::U32 && t != Type::U64) a.fail("getctarank is .u32 or .u64");
  Op& op = a.emit(
      [](Warp& w, const Op& o, uint32_t m) {
        for (uint32_t bits = m; bits; bits &= bits - 1) {
          const int l = std::countr_zero(bits);
          const uint64_t x = (o.imm2 == 4 ? w.reg<uint32_t>(o.r[1])[l] : w.reg<uint64_t>(o.r[1])[l]) & (kWindowBytes - 1);
          const uint32_t rank = uint32_t(x >> kRankShift);
          w.reg<uint32_t>(o.r[0])[l] = rank ? rank - 1 : w.block->rank;
        }
      },
      {a.destination(0, Type::U32), a.source(1, t)});
  op.imm = shared;
  op.imm2 = bytesOf(t);
}

void fence(Warp&, const Op&, uint32_t) { std::atomic_thread_fence(std::memory_order_seq_cst); }

void lowerMembar(Assembler& a) {
  if (a.takeOne({"cta", "gl", "sys"}) < 0) a.fail("membar needs .cta, .gl or .sys");
  a.expectOperands(0);
  a.emit(fence);
}

void lowerFence(Assembler& a) {
  if (a.take("proxy")) {
    a.require(70, 75);
    std::string rest;
    if (a.takeOne({"async", "async.global", "alias", "async::generic", "tensormap::generic"}) < 0) a.fail("this proxy fence is not known to this device");
    a.takeOne({"global", "shared::cta", "shared::cluster"});
    a.takeOne({"acquire", "release"});
    a.takeOne({"cta", "cluster", "gpu", "sys"});
    a.expectOperands(0, 2);
  } else if (a.take("mbarrier_init")) {
    if (!a.take("release") || !a.take("cluster")) a.fail("fence.mbarrier_init is .release.cluster");
  } else {
    a.takeOne({"sc", "acq_rel", "acquire", "release"});
    if (a.takeOne({"cta", "cluster", "gpu", "sys"}) < 0) a.fail("fence needs a scope");
  }
  a.emit(fence);
}

/** Hints: checked as far as the operands are, otherwise nothing. */
void lowerPrefetch(Assembler& a) {
  takeSpace(a);
  takeHints(a);
  a.takeOne({"L1", "L2"});
  a.take("tensormap");
  a.expectOperands(1);
  a.address(0);
}

void lowerDiscard(Assembler& a) {
  takeSpace(a);
  a.takeOne({"L2"});
  takeHints(a);
  a.expectOperands(2);
  a.address(0);
}

void lowerCreatepolicy(Assembler& a) {
  a.takeOne({"fractional", "range"});
  takeHints(a);
  a.take("global");
  if (a.takeType() != Type::B64) a.fail("createpolicy is .b64");
  a.expectOperands(1, 4);
  a.emit(op1<uint64_t, uint64_t>([](uint64_t x) { return x; }), {a.destination(0, Type::B64), a.constant(0x14F0000000000000ull, 8)});
}

}  // namespace

void addMemory(LoweringTable& t) {
  t["ld"] = lowerLd;
  t["ldu"] = lowerLd;
  t["st"] = lowerSt;
  t["cvta"] = lowerCvta;
  t["isspacep"] = lowerIsspacep;
  t["mapa"] = lowerMapa;
  t["getctarank"] = lowerGetctarank;
  t["membar"] = lowerMembar;
  t["fence"] = lowerFence;
  t["prefetch"] = lowerPrefetch;
  t["prefetchu"] = lowerPrefetch;
  t["discard"] = lowerDiscard;
  t["applypriority"] = lowerDiscard;
  t["createpolicy"] = lowerCreatepolicy;
}

}  // namespace vcuda
