// Runs dispatches: threadgroups on host threads, the threads of a threadgroup as fibers that wait for each other at
// barriers and at the operations of their simdgroup.
#pragma once

#include <cstdint>
#include <string>

#include "compiler.h"

namespace vmetal {

constexpr unsigned kMaxThreads = 1024, kSimdWidth = 32, kMaxBuffers = 31, kThreadgroupBytes = 32768;
/** Threadgroup variables of a kernel: each lies against closed pages. */
constexpr unsigned kMaxVariables = 64;

/** What compiled code sees of its threadgroup: __msl_group of stdlib/metal_stdlib.h. */
struct Group {
  const uint64_t* buffers;
  uint32_t position[3];
  uint32_t groups[3];
  uint32_t size[3];
  uint32_t next, count, current;
};

struct Dispatch {
  const Compiled* library = nullptr;
  const CompiledKernel* kernel = nullptr;
  uint64_t buffers[kMaxBuffers] = {};
  uint32_t groups[3] = {1, 1, 1};
  uint32_t size[3] = {1, 1, 1};
};

enum class FaultKind { None, Access, Other };
struct Fault {
  FaultKind kind = FaultKind::None;
  std::string text;  // names the kernel, the thread and, where known, the buffer and the line
};

/** Runs one dispatch to its end. One at a time; any thread may call. */
Fault run(const Dispatch& dispatch);

}  // namespace vmetal
