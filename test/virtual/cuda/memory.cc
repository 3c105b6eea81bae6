#include "memory.h"

#include <cinttypes>
#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "program.h"

namespace vcuda {

MemoryMap::~MemoryMap() {
  for (auto& [address, allocation] : table_)
    if (allocation.owned) std::free(allocation.host);
}

uint64_t MemoryMap::allocate(uint64_t bytes, const char* what) {
  const uint64_t rounded = (bytes + 511) & ~uint64_t(511);
  std::unique_lock lock(mutex_);
  if (rounded < bytes || rounded > total - used_) return 0;
  // One unused granule behind each allocation, so that neighbours never touch.
  void* host = std::aligned_alloc(512, rounded + 512);
  if (!host) return 0;
  // Untouched pages stay unmapped for big allocations; small ones get a pattern that is no zero.
  if (rounded <= (uint64_t(1) << 22)) std::memset(host, 0xCD, rounded);
  const uint64_t address = uint64_t(host) + kDeviceBias;
  table_[address] = {address, bytes, true, host, true, what};
  used_ += rounded;
  return address;
}

void* MemoryMap::allocateHost(uint64_t bytes) {
  void* host = std::aligned_alloc(4096, (bytes + 4095 + 4096) & ~uint64_t(4095));
  if (!host) return nullptr;
  std::unique_lock lock(mutex_);
  table_[uint64_t(host)] = {uint64_t(host), bytes, false, host, true, "cuMemAllocHost"};
  return host;
}

bool MemoryMap::registerHost(void* host, uint64_t bytes) {
  std::unique_lock lock(mutex_);
  return table_.emplace(uint64_t(host), Allocation{uint64_t(host), bytes, false, host, false, "cuMemHostRegister"}).second;
}

bool MemoryMap::release(uint64_t address, bool device) {
  std::unique_lock lock(mutex_);
  const auto it = table_.find(address);
  if (it == table_.end() || it->second.device != device) return false;
  if (device) used_ -= (it->second.bytes + 511) & ~uint64_t(511);
  if (it->second.owned) std::free(it->second.host);
  table_.erase(it);
  return true;
}

bool MemoryMap::find(uint64_t address, Allocation& found) const {
  std::shared_lock lock(mutex_);
  auto it = table_.upper_bound(address);
  if (it == table_.begin()) return false;
  --it;
  if (address - it->second.address >= it->second.bytes) return false;
  found = it->second;
  return true;
}

std::string MemoryMap::describe(uint64_t address, uint64_t bytes) const {
  char text[256];
  if (address < 4096) {
    std::snprintf(text, sizeof text, "address 0x%" PRIx64 " (a null pointer)", address);
    return text;
  }
  std::shared_lock lock(mutex_);
  auto above = table_.upper_bound(address);
  if (above != table_.begin()) {
    const Allocation& a = std::prev(above)->second;
    const uint64_t into = address - a.address;
    if (into < a.bytes + (uint64_t(1) << 32)) {
      if (into < a.bytes)
        std::snprintf(text, sizeof text, "address 0x%" PRIx64 ": %" PRIu64 " bytes at offset %" PRIu64 " of the %" PRIu64 " bytes at 0x%" PRIx64 " (%s)",
                      address, bytes, into, a.bytes, a.address, a.what);
      else
        std::snprintf(text, sizeof text, "address 0x%" PRIx64 ": %" PRIu64 " bytes behind the end of the %" PRIu64 " bytes at 0x%" PRIx64 " (%s)",
                      address, into - a.bytes, a.bytes, a.address, a.what);
      return text;
    }
  }
  if (above != table_.end() && above->first - address < (uint64_t(1) << 32)) {
    std::snprintf(text, sizeof text, "address 0x%" PRIx64 ": %" PRIu64 " bytes before the %" PRIu64 " bytes at 0x%" PRIx64 " (%s)", address,
                  above->first - address, above->second.bytes, above->first, above->second.what);
    return text;
  }
  std::snprintf(text, sizeof text, "address 0x%" PRIx64 ", in no allocation", address);
  return text;
}

uint64_t MemoryMap::used() const {
  std::shared_lock lock(mutex_);
  return used_;
}

}  // namespace vcuda
