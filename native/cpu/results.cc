// Taking, keeping and freeing blocks.

#ifndef _WIN32

#include "results.h"

#include <sys/mman.h>

#include <algorithm>

namespace tutti::cpu {
namespace {

constexpr uint64_t kGranule = 64 << 10;
// Collectors run when they like, and tell of it when the event loop turns: a program that never lets it turn must not
// take ever more.
constexpr uint64_t kTakenBytes = 256 << 20;
// What waits in all may be as much as is taken, and this much in any case.
constexpr uint64_t kIdleBytes = 64 << 20;

}  // namespace

ResultMemory::~ResultMemory() { close(); }

ResultMemory::Block ResultMemory::take(uint64_t bytes) {
  const uint64_t size = (bytes + kGranule - 1) / kGranule * kGranule;
  std::lock_guard lock(mutex_);
  if (closed_ || size > kTakenBytes || takenBytes_ > kTakenBytes - size) return {};
  Block block;
  const auto found = idle_.lower_bound(size);
  if (found != idle_.end() && found->first <= size + size / 4) {
    block = {found->second, found->first};
    idleBytes_ -= found->first;
    idle_.erase(found);
  } else {
    void* memory = mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED) return {};
#ifdef MADV_HUGEPAGE
    madvise(memory, size, MADV_HUGEPAGE);
#endif
    block = {static_cast<unsigned char*>(memory), size};
  }
  takenBytes_ += block.bytes;
  return block;
}

void ResultMemory::giveBack(Block block) {
  std::lock_guard lock(mutex_);
  takenBytes_ -= block.bytes;
  idle_.emplace(block.bytes, block.data);
  idleBytes_ += block.bytes;
  trim();
}

void ResultMemory::close() {
  std::lock_guard lock(mutex_);
  closed_ = true;
  trim();
}

void ResultMemory::trim() {
  const uint64_t most = closed_ ? 0 : std::max(kIdleBytes, takenBytes_);
  while (idleBytes_ > most) {
    const auto largest = std::prev(idle_.end());
    munmap(largest->second, largest->first);
    idleBytes_ -= largest->first;
    idle_.erase(largest);
  }
}

}  // namespace tutti::cpu

#endif  // _WIN32
