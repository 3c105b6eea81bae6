// Faults of compiled kernels: an access to closed memory leaves the kernel and becomes an error of its command buffer.
// An integer division by zero, which Metal leaves without effect but an unspecified result, is stepped over.
#include <signal.h>
#include <sys/mman.h>
#include <ucontext.h>

#include <mutex>

#include "worker.h"

namespace vmetal {
namespace {

struct sigaction previous[65];

void chain(int signal, siginfo_t* info, void* context) {
  const struct sigaction& before = previous[signal];
  if (before.sa_flags & SA_SIGINFO) {
    before.sa_sigaction(signal, info, context);
  } else if (before.sa_handler == SIG_DFL || before.sa_handler == SIG_IGN) {
    ::signal(signal, SIG_DFL);  // the instruction runs again and ends the process as it would have
  } else {
    before.sa_handler(signal);
  }
}

#if defined(__x86_64__)
/** Length of the div or idiv at `at`, or 0. */
unsigned divisionLength(const uint8_t* at) {
  const uint8_t* p = at;
  while (*p == 0x66 || *p == 0x2e || *p == 0x3e || *p == 0x26 || *p == 0x36 || *p == 0x64 || *p == 0x65) ++p;
  if ((*p & 0xf0) == 0x40) ++p;
  if (*p != 0xf6 && *p != 0xf7) return 0;
  const uint8_t form = *++p;
  ++p;
  if (((form >> 3) & 7) < 6) return 0;
  const unsigned mod = form >> 6, rm = form & 7;
  if (mod != 3) {
    uint8_t base = uint8_t(rm);
    if (rm == 4) base = *p++ & 7;
    if (mod == 1)
      p += 1;
    else if (mod == 2 || (mod == 0 && base == 5))
      p += 4;
  }
  return unsigned(p - at);
}
#endif

void handle(int signal, siginfo_t* info, void* context) {
  Worker* worker = Worker::current();
  if (!worker) {
    chain(signal, info, context);
    return;
  }
  auto* state = static_cast<ucontext_t*>(context);
#if defined(__x86_64__)
  auto* registers = state->uc_mcontext.gregs;
  auto* instruction = reinterpret_cast<const uint8_t*>(registers[REG_RIP]);
  if (signal == SIGFPE) {
    if (const unsigned length = divisionLength(instruction)) {
      registers[REG_RAX] = -1;
      registers[REG_RDX] = 0x5a5a5a5a;
      registers[REG_RIP] += length;
      return;
    }
  }
#else
  auto* instruction = reinterpret_cast<const uint8_t*>(state->uc_mcontext.pc);
#endif
  if (signal == SIGFPE) {
    chain(signal, info, context);
    return;
  }
  worker->fault_at(reinterpret_cast<uintptr_t>(info->si_addr), instruction, signal);
}

}  // namespace

void installFaultHandlers() {
  static std::mutex mutex;
  std::lock_guard lock(mutex);
  for (const int signal : {SIGSEGV, SIGBUS, SIGFPE}) {
    struct sigaction now;
    sigaction(signal, nullptr, &now);
    if ((now.sa_flags & SA_SIGINFO) && now.sa_sigaction == &handle) continue;
    previous[signal] = now;
    struct sigaction own {};
    own.sa_sigaction = &handle;
    // SA_NODEFER: the handler is left by a switch of stacks, so nothing would unblock the signal.
    own.sa_flags = SA_SIGINFO | SA_ONSTACK | SA_NODEFER;
    sigemptyset(&own.sa_mask);
    sigaction(signal, &own, nullptr);
  }
}

void prepareThreadForFaults() {
  constexpr size_t bytes = 64 << 10;
  stack_t stack{};
  stack.ss_sp = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  stack.ss_size = bytes;
  if (stack.ss_sp != MAP_FAILED) sigaltstack(&stack, nullptr);
}

}  // namespace vmetal
