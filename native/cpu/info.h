// Facts about this machine's processor: what the compiler may assume of it.

#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace tutti::cpu {

struct CpuInfo {
  std::string model;
  std::string architecture;  // x86_64, aarch64, …
  unsigned cores = 1;        // that this process may run on
  uint64_t memoryBytes = 0;
  uint64_t l1dBytes = 0;
  uint64_t l2Bytes = 0;
  uint64_t l3Bytes = 0;
  /** Instruction set extensions by their usual names (avx2, fma, avx512f, neon, …). */
  std::vector<std::string> features;
};

/** Unknown facts stay 0 or empty. */
CpuInfo readCpuInfo();

}  // namespace tutti::cpu
