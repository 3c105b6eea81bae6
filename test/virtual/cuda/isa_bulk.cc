// cp.async.bulk and cp.async.bulk.tensor: copies that one thread starts and that land later. Those into shared memory
// report to an mbarrier, those out of it belong to bulk groups. Until it has landed, a copy marks what it will write.
#include <bit>
#include <cstring>
#include <limits>

#include "async.h"
#include "memory.h"
#include "tensor_map.h"

namespace vcuda {
namespace {

struct Destination {
  Block* block;
  uint32_t offset;
  uint8_t* barrier;
};

void mark(Warp& w, const Op& o, int lane, Block& block, uint32_t offset, uint64_t bytes) {
  for (uint64_t i = 0; i < bytes; ++i) {
    uint8_t& m = block.marks[offset + i];
    if (m & kInFlight) fault(w, o, lane, kLaunchFailed, "race: a bulk copy writes shared bytes to which another asynchronous copy is under way");
    m |= kInFlight;
  }
}

/** Where a copy goes: the addressed block, or with a multicast mask the same offset in each block of the mask. */
std::vector<Destination> destinationsOf(Warp& w, const Op& o, int lane, uint64_t to, uint64_t barrier, uint64_t bytes, uint32_t multicast, bool isMulticast) {
  std::vector<Destination> result;
  Cluster& cluster = *w.block->cluster;
  const auto add = [&](uint64_t address, uint64_t object) {
    Destination d;
    resolveRange(w, o, lane, Space::Shared, address, bytes, Use::Write);
    d.block = &sharedBlock(w, o, lane, address, d.offset);
    d.barrier = mbarrierAt(w, o, lane, Space::Shared, object);
    result.push_back(d);
  };
  if (!isMulticast) {
    add(to, barrier);
    return result;
  }
  if (multicast >> cluster.blocks.size()) fault(w, o, lane, kLaunchFailed, "the multicast mask names blocks that the cluster does not have");
  const uint64_t low = (uint64_t(1) << kRankShift) - 1;
  for (uint32_t rank = 0; rank < cluster.blocks.size(); ++rank)
    if ((multicast >> rank) & 1) add((uint64_t(rank) + 1) << kRankShift | (to & low), (uint64_t(rank) + 1) << kRankShift | (barrier & low));
  return result;
}

uint64_t valueAt(const Warp& w, uint32_t at, bool narrow, int lane) { return narrow ? w.reg<uint32_t>(at)[lane] : w.reg<uint64_t>(at)[lane]; }

uint64_t sharedOffset(Warp& w, const Op& o, int lane, uint64_t address) {
  if (address >> 44 == kSharedWindow >> 44) return address & (kWindowBytes - 1);
  if (address >> 32) fault(w, o, lane, kInvalidAddressSpace, "the address is not in shared memory");
  return address;
}

enum BulkFlags : int64_t { kToNarrow = 1, kFromNarrow = 2, kBarrierNarrow = 4, kMulticast = 8, kSharedSource = 16 };

/** global or shared::cta to shared. r: to, from, size, barrier, mask. values: offsets of to, from, barrier. */
void bulkToShared(Warp& w, const Op& o, uint32_t m) {
  for (uint32_t bits = m; bits; bits &= bits - 1) {
    const int l = std::countr_zero(bits);
    const auto& v = o.extra->values;
    const uint64_t to = sharedOffset(w, o, l, valueAt(w, o.r[0], o.imm & kToNarrow, l) + uint64_t(v[0]));
    uint64_t from = valueAt(w, o.r[1], o.imm & kFromNarrow, l) + uint64_t(v[1]);
    const uint32_t size = w.reg<uint32_t>(o.r[2])[l];
    const uint64_t barrier = sharedOffset(w, o, l, valueAt(w, o.r[3], o.imm & kBarrierNarrow, l) + uint64_t(v[2]));
    if ((to | from | size) & 15) fault(w, o, l, kMisalignedAddress, "misaligned access: a bulk copy is of multiples of 16 bytes at multiples of 16");
    if (o.imm & kSharedSource) from = sharedOffset(w, o, l, from);
    const uint8_t* source = resolveRange(w, o, l, o.imm & kSharedSource ? Space::Shared : Space::Global, from, size, Use::Read);
    const uint32_t mask = o.imm & kMulticast ? w.reg<uint16_t>(o.r[4])[l] : 0;
    for (const Destination& d : destinationsOf(w, o, l, to, barrier, size, mask, o.imm & kMulticast)) {
      mark(w, o, l, *d.block, d.offset, size);
      w.block->cluster->asynchronous.push_back([d, source, size] {
        std::memcpy(d.block->shared.data() + d.offset, source, size);
        std::memset(d.block->marks.data() + d.offset, kSet, size);
        mbarrierComplete(d.barrier, size);
      });
    }
  }
}

/** shared::cta to global, in the lane's bulk group. */
void bulkToGlobal(Warp& w, const Op& o, uint32_t m) {
  for (uint32_t bits = m; bits; bits &= bits - 1) {
    const int l = std::countr_zero(bits);
    const auto& v = o.extra->values;
    const uint64_t to = valueAt(w, o.r[0], o.imm & kToNarrow, l) + uint64_t(v[0]);
    const uint64_t from = sharedOffset(w, o, l, valueAt(w, o.r[1], o.imm & kFromNarrow, l) + uint64_t(v[1]));
    const uint32_t size = w.reg<uint32_t>(o.r[2])[l];
    if ((to | from | size) & 15) fault(w, o, l, kMisalignedAddress, "misaligned access: a bulk copy is of multiples of 16 bytes at multiples of 16");
    uint8_t* target = resolveRange(w, o, l, Space::Global, to, size, Use::Write);
    const uint8_t* source = resolveRange(w, o, l, Space::Shared, from, size, Use::Read);
    w.bulk.push_back({l, w.bulkGroup[size_t(l)], [target, source, size](bool) { std::memcpy(target, source, size); }});
  }
}

TensorMap mapAt(Warp& w, const Op& o, int lane, uint64_t address, int rank) {
  if (address & 63) fault(w, o, lane, kMisalignedAddress, "misaligned access: a tensor map is aligned to 64 bytes");
  TensorMap map;
  std::memcpy(&map, resolveRange(w, o, lane, Space::Generic, address, 128, Use::Read), sizeof map);
  if (map.magic != kTensorMapMagic) fault(w, o, lane, kLaunchFailed, "this is no tensor map of cuTensorMapEncodeTiled");
  if (map.rank != rank) fault(w, o, lane, kLaunchFailed, "the tensor map has " + std::to_string(map.rank) + " dimensions, the instruction " + std::to_string(rank));
  return map;
}

/** Calls f(shared offset within the box, global address or 0 when outside) for each 16-byte unit or element of the box. */
template <class F>
void eachElement(const TensorMap& map, const int32_t* coordinates, F f) {
  const uint32_t bytes = map.elementBytes;
  uint32_t index[5] = {};
  uint32_t offset = 0;
  for (;;) {
    bool inside = true;
    uint64_t address = map.address;
    for (int i = 0; i < map.rank; ++i) {
      const int64_t at = int64_t(coordinates[i]) + index[i];
      if (at < 0 || at > int64_t(map.dims[i])) inside = false;
      address += uint64_t(at) * (i == 0 ? bytes : map.strides[i - 1]);
    }
    f(offset, inside ? address : 0);
    offset += bytes;
    int i = 0;
    while (i < map.rank && ++index[i] == map.box[i]) index[i++] = 0;
    if (i == map.rank) return;
  }
}

uint32_t boxBytes(const TensorMap& map) {
  uint32_t n = map.elementBytes;
  for (int i = 0; i < map.rank; ++i) n *= map.box[i];
  return n;
}

void checkBox(Warp& w, const Op& o, int lane, uint64_t shared) {
  if (shared % 128) fault(w, o, lane, kMisalignedAddress, "misaligned access: a tensor copy is at a multiple of 128 bytes of shared memory");
}

/** Tensor to shared. r: to, map, barrier, mask. extra registers: coordinates. values: offsets of to, map, barrier. */
void tensorToShared(Warp& w, const Op& o, uint32_t m) {
  const MemoryMap& memory = *w.block->cluster->launch->memory;
  for (uint32_t bits = m; bits; bits &= bits - 1) {
    const int l = std::countr_zero(bits);
    const auto& v = o.extra->values;
    const int rank = int(o.extra->registers.size());
    const uint64_t to = sharedOffset(w, o, l, valueAt(w, o.r[0], o.imm & kToNarrow, l) + uint64_t(v[0]));
    const TensorMap map = mapAt(w, o, l, valueAt(w, o.r[1], o.imm & kFromNarrow, l) + uint64_t(v[1]), rank);
    const uint64_t barrier = sharedOffset(w, o, l, valueAt(w, o.r[2], o.imm & kBarrierNarrow, l) + uint64_t(v[2]));
    std::array<int32_t, 5> at{};
    for (int i = 0; i < rank; ++i) at[size_t(i)] = w.reg<int32_t>(o.extra->registers[size_t(i)])[l];
    checkBox(w, o, l, to);
    const uint32_t size = boxBytes(map);
    eachElement(map, at.data(), [&](uint32_t, uint64_t address) {
      Allocation a;
      if (address && address % (uint64_t(1) << 12) < map.elementBytes && !memory.find(address, a))
        fault(w, o, l, kIllegalAddress, "out of bounds: the tensor map reaches " + memory.describe(address, map.elementBytes));
    });
    const uint32_t mask = o.imm & kMulticast ? w.reg<uint16_t>(o.r[3])[l] : 0;
    for (const Destination& d : destinationsOf(w, o, l, to, barrier, size, mask, o.imm & kMulticast)) {
      mark(w, o, l, *d.block, d.offset, size);
      w.block->cluster->asynchronous.push_back([d, map, at, size, &memory] {
        Allocation known;
        eachElement(map, at.data(), [&](uint32_t offset, uint64_t address) {
          uint8_t* const to = d.block->shared.data() + swizzled(d.offset + offset, Swizzle(map.swizzle));
          if (address) {
            if (address < known.address || address + map.elementBytes > known.address + known.bytes)
              if (!memory.find(address, known)) throw Fault(kIllegalAddress, "out of bounds: a tensor copy reads " + memory.describe(address, map.elementBytes));
            std::memcpy(to, reinterpret_cast<const uint8_t*>(address & kHostMask), map.elementBytes);
          } else if (map.fill) {
            std::memset(to, 0xff, map.elementBytes);
          } else {
            std::memset(to, 0, map.elementBytes);
          }
        });
        std::memset(d.block->marks.data() + d.offset, kSet, size);
        mbarrierComplete(d.barrier, size);
      });
    }
  }
}

/** Shared to tensor. r: map, from. */
void tensorToGlobal(Warp& w, const Op& o, uint32_t m) {
  const MemoryMap& memory = *w.block->cluster->launch->memory;
  for (uint32_t bits = m; bits; bits &= bits - 1) {
    const int l = std::countr_zero(bits);
    const auto& v = o.extra->values;
    const int rank = int(o.extra->registers.size());
    const TensorMap map = mapAt(w, o, l, valueAt(w, o.r[0], o.imm & kToNarrow, l) + uint64_t(v[0]), rank);
    const uint64_t from = sharedOffset(w, o, l, valueAt(w, o.r[1], o.imm & kFromNarrow, l) + uint64_t(v[1]));
    std::array<int32_t, 5> at{};
    for (int i = 0; i < rank; ++i) at[size_t(i)] = w.reg<int32_t>(o.extra->registers[size_t(i)])[l];
    checkBox(w, o, l, from);
    resolveRange(w, o, l, Space::Shared, from, boxBytes(map), Use::Read);
    Block* block = w.block;
    w.bulk.push_back({l, w.bulkGroup[size_t(l)], [map, at, block, from, &memory](bool) {
      Allocation known;
      eachElement(map, at.data(), [&](uint32_t offset, uint64_t address) {
        if (!address) return;
        if (address < known.address || address + map.elementBytes > known.address + known.bytes)
          if (!memory.find(address, known)) throw Fault(kIllegalAddress, "out of bounds: a tensor copy writes " + memory.describe(address, map.elementBytes));
        std::memcpy(reinterpret_cast<uint8_t*>(address & kHostMask), block->shared.data() + swizzled(uint32_t(from) + offset, Swizzle(map.swizzle)), map.elementBytes);
      });
    }});
  }
}

void waitGroup(Warp& w, const Op& o, uint32_t m) {
  for (size_t i = 0; i < w.bulk.size(); ++i) {
    PendingBulk& b = w.bulk[i];
    if (!((m >> b.lane) & 1) || int64_t(b.group) + o.imm >= int64_t(w.bulkGroup[size_t(b.lane)])) continue;
    b.complete(false);
    b.lane = 32;
  }
  std::erase_if(w.bulk, [](const PendingBulk& b) { return b.lane == 32; });
}

uint32_t coordinatesOf(Assembler& a, const Operand& o, Extra& x, int rank) {
  if (o.kind != Operand::Kind::Address || o.items.size() != 2) a.fail("a tensor is [map, {coordinates}]");
  const Operand& v = o.items[1];
  if (v.kind == Operand::Kind::Vector) {
    for (const Operand& c : v.items) x.registers.push_back(a.source(c, Type::S32));
  } else {
    x.registers.push_back(a.source(v, Type::S32));
  }
  if (int(x.registers.size()) != rank) a.fail("the tensor has " + std::to_string(rank) + " coordinates");
  return uint32_t(rank);
}

}  // namespace

void lowerCpAsyncBulk(Assembler& a) {
  a.take("bulk");
  a.require(90, 80);
  if (a.take("commit_group")) {
    a.expectOperands(0);
    a.emit([](Warp& w, const Op&, uint32_t m) {
      for (uint32_t bits = m; bits; bits &= bits - 1) ++w.bulkGroup[size_t(std::countr_zero(bits))];
    });
    return;
  }
  if (a.take("wait_group")) {
    a.take("read");
    a.expectOperands(1);
    a.emit(waitGroup).imm = a.immediate(0);
    return;
  }
  const bool tensor = a.take("tensor");
  if (a.take("prefetch")) {
    a.take("tensor");
    a.takeOne({"1d", "2d", "3d", "4d", "5d"});
    a.take("L2");
    a.take("global");
    a.take("tile");
    return;
  }
  int rank = 0;
  if (tensor) {
    rank = a.takeOne({"1d", "2d", "3d", "4d", "5d"}) + 1;
    if (!rank) a.fail("a tensor copy is .1d to .5d");
  }
  // The state spaces in their order: destination, source
  std::vector<std::string> spaces;
  for (const std::string& m : a.in().modifiers)
    if (m == "global" || m == "shared::cta" || m == "shared::cluster") spaces.push_back(m);
  if (spaces.size() != 2) a.fail("a bulk copy names two state spaces");
  a.take("global");
  a.take("shared::cta");
  a.take("shared::cluster");
  if (tensor) a.take("tile");
  const bool toGlobal = spaces[0] == "global";
  const bool barrier = a.take("mbarrier::complete_tx::bytes"), group = a.take("bulk_group");
  const bool multicast = a.take("multicast::cluster");
  const bool hint = a.take("L2::cache_hint");
  if (toGlobal ? !group || barrier : !barrier || group) a.fail("copies to shared memory have .mbarrier::complete_tx::bytes, those to global memory .bulk_group");
  if (multicast && (toGlobal || spaces[0] != "shared::cluster")) a.fail(".multicast::cluster is of copies to shared::cluster");
  const size_t extraOperands = (multicast ? 1u : 0u) + (hint ? 1u : 0u);
  Extra& x = a.extra();
  const auto narrow = [](const Address& at, int64_t flag) { return at.baseBytes == 4 ? flag : 0; };
  if (tensor && !toGlobal) {
    a.expectOperands(3 + extraOperands);
    if (spaces[1] != "global") a.fail("a tensor is in global memory");
    const Address to = a.address(0), barrierAt = a.address(2);
    const Address map = a.address(1);
    coordinatesOf(a, a.operand(1), x, rank);
    x.values = {to.offset, map.offset, barrierAt.offset};
    Op& op = a.emit(tensorToShared, {to.base, map.base, barrierAt.base, multicast ? a.source(3, Type::B16) : kNone});
    op.extra = &x;
    op.imm = narrow(to, kToNarrow) | narrow(map, kFromNarrow) | narrow(barrierAt, kBarrierNarrow) | (multicast ? int64_t(kMulticast) : 0);
    return;
  }
  if (tensor) {
    a.expectOperands(2 + extraOperands);
    const Address map = a.address(0), from = a.address(1);
    coordinatesOf(a, a.operand(0), x, rank);
    x.values = {map.offset, from.offset};
    Op& op = a.emit(tensorToGlobal, {map.base, from.base});
    op.extra = &x;
    op.imm = narrow(map, kToNarrow) | narrow(from, kFromNarrow);
    return;
  }
  a.expectOperands((toGlobal ? 3 : 4) + extraOperands);
  const Address to = a.address(0), from = a.address(1);
  const uint32_t size = a.source(2, Type::U32);
  if (toGlobal) {
    x.values = {to.offset, from.offset};
    Op& op = a.emit(bulkToGlobal, {to.base, from.base, size});
    op.extra = &x;
    op.imm = narrow(to, kToNarrow) | narrow(from, kFromNarrow);
    return;
  }
  const Address object = a.address(3);
  x.values = {to.offset, from.offset, object.offset};
  Op& op = a.emit(bulkToShared, {to.base, from.base, size, object.base, multicast ? a.source(4, Type::B16) : kNone});
  op.extra = &x;
  op.imm = narrow(to, kToNarrow) | narrow(from, kFromNarrow) | narrow(object, kBarrierNarrow) | (multicast ? int64_t(kMulticast) : 0) | (spaces[1] == "shared::cta" ? int64_t(kSharedSource) : 0);
}

}  // namespace vcuda
