// The device's memory: one reserved range of addresses in which every buffer lies between pages that nobody may touch.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <mutex>
#include <string>

namespace vmetal {

/** As the widest vectors of the shading language, long4 and ulong4, need it. */
constexpr size_t kAlignment = 32;

struct Allocation {
  uint8_t* start = nullptr;  // aligned to kAlignment; the end is less than that before the guard page
  size_t bytes = 0;
  std::string label;
};

class Memory {
 public:
  static Memory& instance();

  /** Zeroed memory, or null if the budget or the addresses are used up. */
  uint8_t* allocate(size_t bytes);
  void release(uint8_t* start);
  void label(uint8_t* start, const std::string& text);

  /** Whether the address lies in the device's range; then what is nearest to it. */
  bool owns(uintptr_t address) const { return address >= base_ && address < base_ + reserved_; }
  bool nearest(uintptr_t address, Allocation& found);

  /** A text if something wrote to the bytes around a buffer; the bytes are restored. */
  std::string damage(uint8_t* start);

  size_t budget() const { return budget_; }
  size_t used();

 private:
  Memory();
  struct Block {
    Allocation allocation;
    uintptr_t mapping;
    size_t mapped;
  };
  std::mutex mutex_;
  std::map<uintptr_t, Block> blocks_;  // by mapping
  uintptr_t base_ = 0, cursor_ = 0;
  size_t reserved_ = 0, budget_ = 0, used_ = 0;
};

}  // namespace vmetal
