// Memory for results that the host keeps.
//
// The system hands out memory page by page as it is touched, which costs several times what writing a result costs, and
// takes it back as soon as it is freed. So what the host has let go is kept for the next result.

#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <mutex>

namespace tutti::cpu {

/** Blocks aligned to a page. What is in them is not defined. Outlives the device as long as one is out. */
class ResultMemory {
 public:
  ResultMemory() = default;
  ~ResultMemory();
  ResultMemory(const ResultMemory&) = delete;
  ResultMemory& operator=(const ResultMemory&) = delete;

  struct Block {
    unsigned char* data = nullptr;
    uint64_t bytes = 0;
  };
  /** A block of `bytes` or more; null `data` if the host holds much already, or there is no memory. */
  Block take(uint64_t bytes);
  void giveBack(Block block);
  /** Keeps nothing any more. */
  void close();

 private:
  void trim();

  std::mutex mutex_;
  std::multimap<uint64_t, unsigned char*> idle_;
  uint64_t idleBytes_ = 0;
  uint64_t takenBytes_ = 0;
  bool closed_ = false;
};

}  // namespace tutti::cpu
