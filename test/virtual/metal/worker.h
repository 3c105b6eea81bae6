// One host thread's share of a dispatch: the fibers of the threadgroup it runs, and its threadgroup memory.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <vector>

#include "fiber.h"
#include "machine.h"

namespace vmetal {

class Worker {
 public:
  Worker();
  /** The worker of this host thread while it runs a threadgroup, or null. */
  static Worker*& current();

  /** Runs one threadgroup; false after a fault, which `fault` describes. */
  bool run(const Dispatch& dispatch, const uint32_t position[3]);
  Fault fault;

  // Called by compiled code.
  void collective(uint64_t part, uint64_t operation, int place, const void* site);
  void barrier(int place, const void* site);
  uint64_t variable(unsigned index);
  uint32_t lane() const { return group_.current % kSimdWidth; }
  [[noreturn]] void fail(FaultKind kind, const std::string& text, const void* site, int place = 0);
  /** In a signal handler: leaves the kernel. Does not return. */
  [[noreturn]] void fault_at(uintptr_t address, const void* instruction, int signal);

 private:
  enum class State : uint8_t { None, Collective, Barrier };
  struct Lane {
    State state = State::None;
    int place = 0;  // __MSL_HERE of stdlib/simd.h
    Stack* stack = nullptr;
    const void* site = nullptr;
    uint64_t part = 0, operation = 0;
  };

  Group group_{};
  const Dispatch* dispatch_ = nullptr;
  std::array<Lane, kMaxThreads> lanes_;
  std::vector<Stack*> stacks_, free_;
  Stack* running_ = nullptr;
  void* home_ = nullptr;  // the host thread's own stack
  unsigned waiting_ = 0;  // lanes that have a stack
  unsigned simd_ = 0;     // the simdgroup whose lanes are moved on
  std::array<uint16_t, kMaxThreads> ready_;
  unsigned readyAt_ = 0, readyEnd_ = 0;
  std::vector<uint8_t*> variables_;
  uint8_t* arena_ = nullptr;
  std::array<bool, kMaxVariables> opened_{};

  // What a fault leaves for `run` to describe.
  uintptr_t faultAddress_ = 0;
  const void* faultSite_ = nullptr;
  int faultSignal_ = 0, faultPlace_ = 0;
  std::string faultText_;
  FaultKind faultKind_ = FaultKind::None;

  static void start();
  void suspend(State state, const void* site, int place);
  /** What runs next: a fiber, or null when every thread has ended. */
  Stack* next();
  Stack* wake(unsigned thread);
  bool resolveSimd(unsigned simd);
  void releaseBarrier();
  void describe();
  [[noreturn]] void leave();
};

/** Installs the handlers of SIGSEGV, SIGBUS and SIGFPE where they are not; and this thread's stack for them. */
void installFaultHandlers();
void prepareThreadForFaults();

}  // namespace vmetal
