// Reserves addresses without memory, opens those of a buffer, and keeps wide gaps closed so that a wild index faults.
#include "memory.h"

#include <sys/mman.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>

namespace vmetal {
namespace {

constexpr size_t kPage = 4096;
constexpr uint8_t kCanary = 0xa7;
size_t roundUp(size_t v, size_t to) { return (v + to - 1) / to * to; }

}  // namespace

Memory& Memory::instance() {
  static Memory* memory = new Memory();  // kept: queues may still run when the process ends
  return *memory;
}

Memory::Memory() {
  budget_ = size_t(8) << 30;
  if (const char* mebibytes = std::getenv("TUTTI_VIRTUAL_METAL_MEMORY_MB")) budget_ = std::strtoull(mebibytes, nullptr, 10) << 20;
  for (size_t bytes = size_t(16) << 40; bytes >= size_t(64) << 30; bytes /= 2) {
    void* at = mmap(nullptr, bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (at == MAP_FAILED) continue;
    base_ = cursor_ = reinterpret_cast<uintptr_t>(at);
    reserved_ = bytes;
    break;
  }
}

uint8_t* Memory::allocate(size_t bytes) {
  std::lock_guard lock(mutex_);
  if (bytes == 0 || used_ + bytes > budget_) return nullptr;
  const size_t mapped = roundUp(bytes + kAlignment - 1, kPage), gap = roundUp(std::max(bytes, size_t(16) << 20), kPage);
  // Addresses are taken in turn, so that those of a released buffer stay closed for as long as possible.
  for (int round = 0; round < 2; ++round) {
    uintptr_t at = cursor_ + gap;
    for (auto next = blocks_.lower_bound(at); next != blocks_.end() && next->first < at + mapped + gap;
         next = blocks_.lower_bound(at))
      at = next->first + next->second.mapped + gap;
    if (at + mapped + gap <= base_ + reserved_) {
      if (mprotect(reinterpret_cast<void*>(at), mapped, PROT_READ | PROT_WRITE) != 0) return nullptr;
      Block block;
      block.mapping = at;
      block.mapped = mapped;
      block.allocation.start = reinterpret_cast<uint8_t*>((at + mapped - bytes) & ~uintptr_t(kAlignment - 1));
      block.allocation.bytes = bytes;
      std::memset(reinterpret_cast<void*>(at), kCanary, size_t(block.allocation.start - reinterpret_cast<uint8_t*>(at)));
      uint8_t* end = block.allocation.start + bytes;
      std::memset(end, kCanary, size_t(reinterpret_cast<uint8_t*>(at + mapped) - end));
      blocks_[at] = block;
      cursor_ = at + mapped;
      used_ += bytes;
      return block.allocation.start;
    }
    cursor_ = base_;
  }
  return nullptr;
}

void Memory::release(uint8_t* start) {
  std::lock_guard lock(mutex_);
  auto it = blocks_.upper_bound(reinterpret_cast<uintptr_t>(start));
  if (it == blocks_.begin()) return;
  --it;
  mmap(reinterpret_cast<void*>(it->second.mapping), it->second.mapped, PROT_NONE,
       MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1, 0);
  used_ -= it->second.allocation.bytes;
  blocks_.erase(it);
}

void Memory::label(uint8_t* start, const std::string& text) {
  std::lock_guard lock(mutex_);
  auto it = blocks_.upper_bound(reinterpret_cast<uintptr_t>(start));
  if (it != blocks_.begin()) (--it)->second.allocation.label = text;
}

bool Memory::nearest(uintptr_t address, Allocation& found) {
  std::lock_guard lock(mutex_);
  uintptr_t best = ~uintptr_t(0);
  const auto offer = [&](const Block& b) {
    const uintptr_t start = reinterpret_cast<uintptr_t>(b.allocation.start), end = start + b.allocation.bytes;
    const uintptr_t distance = address < start ? start - address : address >= end ? address - end : 0;
    if (distance < best) {
      best = distance;
      found = b.allocation;
    }
  };
  auto after = blocks_.upper_bound(address);
  if (after != blocks_.end()) offer(after->second);
  if (after != blocks_.begin()) offer(std::prev(after)->second);
  return best != ~uintptr_t(0);
}

std::string Memory::damage(uint8_t* start) {
  std::lock_guard lock(mutex_);
  auto it = blocks_.upper_bound(reinterpret_cast<uintptr_t>(start));
  if (it == blocks_.begin()) return "";
  const Block& b = (--it)->second;
  const auto check = [](uint8_t* from, uint8_t* to) -> uint8_t* {
    for (uint8_t* p = from; p < to; ++p)
      if (*p != kCanary) return p;
    return nullptr;
  };
  uint8_t* const low = reinterpret_cast<uint8_t*>(b.mapping);
  uint8_t* const end = b.allocation.start + b.allocation.bytes;
  uint8_t* const high = low + b.mapped;
  uint8_t* const before = check(low, b.allocation.start);
  uint8_t* const behind = check(end, high);
  if (!before && !behind) return "";
  std::memset(low, kCanary, size_t(b.allocation.start - low));
  std::memset(end, kCanary, size_t(high - end));
  const std::string name = "buffer" + (b.allocation.label.empty() ? "" : " '" + b.allocation.label + "'") + " (" +
                           std::to_string(b.allocation.bytes) + " bytes)";
  return before ? "a write " + std::to_string(b.allocation.start - before) + " bytes before the start of " + name
                : "a write " + std::to_string(behind - end) + " bytes past the end of " + name;
}

size_t Memory::used() {
  std::lock_guard lock(mutex_);
  return used_;
}

}  // namespace vmetal
