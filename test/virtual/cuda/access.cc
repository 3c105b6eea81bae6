#include "access.h"

#include <algorithm>
#include <bit>
#include <cstdio>
#include <cstring>

#include "memory.h"

namespace vcuda {
namespace {

std::string hex(uint64_t v) {
  char text[24];
  std::snprintf(text, sizeof text, "0x%llx", static_cast<unsigned long long>(v));
  return text;
}

const char* verb(Use use) { return use == Use::Read ? "reads" : use == Use::Write ? "writes" : "updates"; }

[[noreturn]] void misaligned(Warp& w, const Op& op, int lane, uint64_t address, uint32_t bytes, Use use) {
  fault(w, op, lane, kMisalignedAddress, std::string("misaligned access: ") + verb(use) + " " + std::to_string(bytes) + " bytes at " + hex(address));
}

void checkMarks(Warp& w, const Op& op, int lane, uint64_t address, uint8_t* marks, uint32_t bytes, Use use) {
  for (uint32_t i = 0; i < bytes; ++i) {
    if (marks[i] & kInFlight)
      fault(w, op, lane, kLaunchFailed, std::string("race: ") + verb(use) + " the shared byte " + hex(address + i) + " while an asynchronous copy to it has not been waited for");
    if (use != Use::Write && marks[i] == kUnset)
      fault(w, op, lane, kLaunchFailed, std::string("uninitialised shared memory: ") + verb(use) + " " + std::to_string(bytes) + " bytes at " + hex(address) + ", byte " + std::to_string(i) + " was never written");
  }
  if (use != Use::Read) std::memset(marks, kSet, bytes);
}

void globalSlow(Warp& w, const Op& op, uint32_t mask, const uint64_t* addresses, uint32_t bytes, Use use) {
  const MemoryMap& memory = *w.block->cluster->launch->memory;
  Allocation found;
  for (uint32_t bits = mask; bits; bits &= bits - 1) {
    const int l = std::countr_zero(bits);
    if (addresses[l] >= found.address && addresses[l] + bytes <= found.address + found.bytes) continue;
    Allocation a;
    if (!memory.find(addresses[l], a) || addresses[l] + bytes > a.address + a.bytes)
      fault(w, op, l, kIllegalAddress, std::string("out of bounds: ") + verb(use) + " " + std::to_string(bytes) + " bytes at " + memory.describe(addresses[l], bytes));
    found = a;
  }
  w.ranges[op.source & 63] = {found.address, found.address + found.bytes};
}

}  // namespace

void addressesOf(const Warp& w, const Op& op, int reg, uint64_t* addresses) {
  if (op.imm2 & kNarrowBase) {
    const uint32_t* base = w.reg<uint32_t>(op.r[reg]);
    for (int l = 0; l < kLanes; ++l) addresses[l] = uint64_t(uint32_t(base[l] + uint32_t(op.imm)));
  } else {
    const uint64_t* base = w.reg<uint64_t>(op.r[reg]);
    for (int l = 0; l < kLanes; ++l) addresses[l] = base[l] + uint64_t(op.imm);
  }
}

Block& sharedBlock(Warp& w, const Op& op, int lane, uint64_t address, uint32_t& offset) {
  const uint64_t rank = address >> kRankShift;
  offset = uint32_t(address & ((1u << kRankShift) - 1));
  if (rank == 0) return *w.block;
  Cluster& cluster = *w.block->cluster;
  if (cluster.launch->cooperative || rank > cluster.blocks.size())
    fault(w, op, lane, kIllegalAddress, "the shared address " + hex(address) + " names no block of the cluster");
  Block& other = *cluster.blocks[rank - 1];
  if (other.liveWarps == 0) fault(w, op, lane, kIllegalAddress, "the shared address " + hex(address) + " is of a block that has ended");
  return other;
}

uint8_t* resolveRange(Warp& w, const Op& op, int lane, Space space, uint64_t address, uint64_t bytes, Use use) {
  if (space == Space::Generic) {
    const uint64_t window = address >> 44;
    space = window == kSharedWindow >> 44 ? Space::Shared : window == kLocalWindow >> 44 ? Space::Local : window == kParamWindow >> 44 ? Space::Param : Space::Global;
    if (space == Space::Shared || space == Space::Local) address &= kWindowBytes - 1;
  }
  switch (space) {
    case Space::Generic:
    case Space::Global:
    case Space::Const: {
      const MemoryMap& memory = *w.block->cluster->launch->memory;
      Allocation a;
      if (!memory.find(address, a) || bytes > a.address + a.bytes - address)
        fault(w, op, lane, kIllegalAddress, std::string("out of bounds: ") + verb(use) + " " + std::to_string(bytes) + " bytes at " + memory.describe(address, bytes));
      return reinterpret_cast<uint8_t*>(address & kHostMask);
    }
    case Space::Shared: {
      uint32_t offset;
      Block& block = sharedBlock(w, op, lane, address, offset);
      if (offset < 1024 || offset + bytes > block.shared.size())
        fault(w, op, lane, kIllegalAddress, std::string("out of bounds: ") + verb(use) + " " + std::to_string(bytes) + " bytes at the shared address " + hex(address) + "; the block has " + std::to_string(block.shared.size() - 1024) + " bytes from 0x400");
      return block.shared.data() + offset;
    }
    case Space::Local:
    case Space::Param: {
      if (space == Space::Param && (address >> 44) == (kParamWindow >> 44)) {
        const auto& parameters = w.block->cluster->launch->parameters;
        const uint64_t offset = address & (kWindowBytes - 1);
        if (use != Use::Read) fault(w, op, lane, kIllegalAddress, "a kernel parameter is written");
        if (offset + bytes > parameters.size()) fault(w, op, lane, kIllegalAddress, "out of bounds: reads " + std::to_string(bytes) + " bytes at offset " + std::to_string(offset) + " of " + std::to_string(parameters.size()) + " bytes of parameters");
        return const_cast<uint8_t*>(parameters.data()) + offset;
      }
      if (address + bytes > w.localStride || address + bytes < address)
        fault(w, op, lane, kIllegalAddress, std::string("out of bounds: ") + verb(use) + " " + std::to_string(bytes) + " bytes at the local address " + hex(address) + " of " + std::to_string(w.localStride));
      return w.local + uint64_t(lane) * w.localStride + address;
    }
  }
  return nullptr;
}

void resolve(Warp& w, const Op& op, uint32_t mask, Space space, uint64_t* a, uint32_t bytes, Use use, Where& where) {
  const int first = std::countr_zero(mask);
  if (mask != kAll)
    for (int l = 0; l < kLanes; ++l) a[l] = (mask >> l) & 1 ? a[l] : a[first];
  // Most accesses are to consecutive elements or of one address by all lanes.
  uint64_t skew = 0, different = 0;
  for (int l = 0; l < kLanes; ++l) {
    const uint64_t d = a[l] - a[0];
    skew |= d ^ (uint64_t(l) * bytes);
    different |= d;
  }
  where.step = skew == 0 ? int64_t(bytes) : different == 0 ? 0 : Where::kScattered;
  uint64_t low = a[0], high = skew == 0 ? a[kLanes - 1] : a[0], all = a[0];
  if (where.step == Where::kScattered)
    for (int l = 0; l < kLanes; ++l) {
      low = std::min(low, a[l]);
      high = std::max(high, a[l]);
      all |= a[l];
    }
  if (all & (bytes - 1))
    for (uint32_t bits = mask; bits; bits &= bits - 1) {
      const int l = std::countr_zero(bits);
      if (a[l] & (bytes - 1)) misaligned(w, op, l, a[l], bytes, use);
    }
  where.global = true;
  if (space == Space::Generic) {
    const auto windowOf = [](uint64_t x) { return x >> 44; };
    const bool special = windowOf(low) >= 0xA && windowOf(low) <= 0xC, specialHigh = windowOf(high) >= 0xA && windowOf(high) <= 0xC;
    if (!special && !specialHigh) {
      space = Space::Global;  // a range that begins below the windows and ends above them holds no address in them, or fails below
      for (int l = 0; l < kLanes; ++l)
        if (windowOf(a[l]) >= 0xA && windowOf(a[l]) <= 0xC) space = Space::Generic;
    } else if (windowOf(low) == windowOf(high) && windowOf(low) == (kSharedWindow >> 44)) {
      space = Space::Shared;
      for (int l = 0; l < kLanes; ++l) a[l] &= kWindowBytes - 1;
      low &= kWindowBytes - 1;
      high &= kWindowBytes - 1;
    }
  }
  if (space == Space::Global || space == Space::Const) {
    const Warp::Range& range = w.ranges[op.source & 63];
    if (low < range.from || high + bytes > range.to) globalSlow(w, op, mask, a, bytes, use);
    where.host[0] = reinterpret_cast<uint8_t*>(a[0] & kHostMask);
    if (where.step == Where::kScattered)
      for (int l = 1; l < kLanes; ++l) where.host[l] = reinterpret_cast<uint8_t*>(a[l] & kHostMask);
    return;
  }
  where.global = false;
  if (space == Space::Shared) {
    Block& block = *w.block;
    const uint64_t size = block.shared.size();
    if (low >= 1024 && high + bytes <= size) {
      uint8_t* const base = block.shared.data();
      where.host[0] = base + a[0];
      if (where.step == Where::kScattered)
        for (int l = 1; l < kLanes; ++l) where.host[l] = base + a[l];
      uint8_t* const marks = block.marks.data();
      if (where.step == 0) {
        checkMarks(w, op, first, a[0], marks + a[0], bytes, use);
        return;
      }
      if (where.step > 0 && mask == kAll) {
        uint8_t* const from = marks + a[0];
        uint8_t bad = 0;
        if (use == Use::Write)
          for (uint32_t i = 0; i < kLanes * bytes; ++i) bad |= from[i] & kInFlight;
        else
          for (uint32_t i = 0; i < kLanes * bytes; ++i) bad |= from[i] ^ kSet;
        if (!bad) {
          if (use != Use::Read) std::memset(from, kSet, kLanes * bytes);
          return;
        }
      }
      for (uint32_t bits = mask; bits; bits &= bits - 1) {
        const int l = std::countr_zero(bits);
        uint8_t* const m = marks + a[l];
        if (bytes == 4 && use == Use::Read) {
          uint32_t word;
          std::memcpy(&word, m, 4);
          if (word == 0x01010101u) continue;
        } else if (bytes == 16 && use == Use::Read) {
          uint64_t words[2];
          std::memcpy(words, m, 16);
          if ((words[0] & words[1]) == 0x0101010101010101ull && (words[0] | words[1]) == 0x0101010101010101ull) continue;
        }
        checkMarks(w, op, l, a[l], m, bytes, use);
      }
      return;
    }
  }
  where.step = Where::kScattered;
  for (int l = 0; l < kLanes; ++l) {
    if (!((mask >> l) & 1)) continue;
    where.host[l] = resolveRange(w, op, l, space, a[l], bytes, use);
    const bool shared = space == Space::Shared || (space == Space::Generic && (a[l] >> 44) == (kSharedWindow >> 44));
    if (shared) {
      uint32_t offset;
      Block& block = sharedBlock(w, op, l, a[l] & (kWindowBytes - 1), offset);
      checkMarks(w, op, l, a[l], block.marks.data() + offset, bytes, use);
    } else if (space == Space::Generic) {
      where.global = true;
    }
  }
  for (int l = 0; l < kLanes; ++l)
    if (!((mask >> l) & 1)) where.host[l] = where.host[first];
}

Space takeSpace(Assembler& a, bool* cluster) {
  static constexpr struct {
    const char* name;
    Space space;
  } kSpaces[] = {{"global", Space::Global}, {"shared", Space::Shared}, {"shared::cta", Space::Shared}, {"shared::cluster", Space::Shared},
                 {"local", Space::Local},   {"const", Space::Const},   {"param", Space::Param},        {"param::entry", Space::Param},
                 {"param::func", Space::Param}};
  for (const auto& s : kSpaces)
    if (a.take(s.name)) {
      if (cluster) *cluster = std::string_view(s.name) == "shared::cluster";
      return s.space;
    }
  return Space::Generic;
}

Space spaceOf(Assembler& a, Space said, const Address& address) {
  if (address.space == Space::Generic) return said;
  if (said == Space::Generic) {
    if (address.space == Space::Global || address.space == Space::Const) return Space::Global;
    a.fail("a variable is accessed without its state space");
  }
  if (said != address.space && !(said == Space::Const && address.space == Space::Global)) a.fail("the variable is in another state space");
  return said;
}

}  // namespace vcuda
