// The allocation table of the virtual device: which addresses a kernel and the copy engine may touch.
#pragma once

#include <cstdint>
#include <map>
#include <mutex>
#include <shared_mutex>
#include <string>

namespace vcuda {

struct Allocation {
  uint64_t address = 0;  // as the program sees it
  uint64_t bytes = 0;
  bool device = true;    // false: pinned host memory, at its own address
  void* host = nullptr;
  bool owned = true;     // freed here
  const char* what = "cuMemAlloc";
};

struct MemoryMap {
  explicit MemoryMap(uint64_t bytes) : total(bytes) {}
  ~MemoryMap();

  /** Device memory, aligned to 512 bytes and filled with 0xCD. 0 when the device's memory is used up. */
  uint64_t allocate(uint64_t bytes, const char* what);
  /** Page-locked host memory; also usable by kernels at the same address. */
  void* allocateHost(uint64_t bytes);
  bool registerHost(void* host, uint64_t bytes);
  /** False when `address` is not the start of an allocation of that kind. */
  bool release(uint64_t address, bool device);
  /** The allocation that holds `address`, if any. */
  bool find(uint64_t address, Allocation& found) const;
  /** "12 bytes behind the 4096 bytes at 0x…": what is near an address that is in no allocation. */
  std::string describe(uint64_t address, uint64_t bytes) const;
  uint64_t used() const;

  const uint64_t total;

 private:
  mutable std::shared_mutex mutex_;
  std::map<uint64_t, Allocation> table_;
  uint64_t used_ = 0;
};

}  // namespace vcuda
