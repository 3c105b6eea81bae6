// Context switch for x86-64 (System V) and AArch64, and stacks with a guard below.
#include "fiber.h"

#include <sys/mman.h>

#include <cstdint>
#include <cstring>
#include <new>

namespace vmetal {
namespace {
// The guard is wide: a frame may be larger than the stack, and its first access far below.
constexpr size_t kStack = 128 << 10, kGuard = 1 << 20;
}  // namespace

#if defined(__x86_64__)
asm(R"(
.text
.globl vmetal_switch
.hidden vmetal_switch
.type vmetal_switch, @function
vmetal_switch:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
.size vmetal_switch, .-vmetal_switch
)");
constexpr size_t kSaved = 6;  // registers below the address to return to
#elif defined(__aarch64__)
asm(R"(
.text
.globl vmetal_switch
.hidden vmetal_switch
.type vmetal_switch, %function
vmetal_switch:
  sub sp, sp, #160
  stp x19, x20, [sp, #0]
  stp x21, x22, [sp, #16]
  stp x23, x24, [sp, #32]
  stp x25, x26, [sp, #48]
  stp x27, x28, [sp, #64]
  stp x29, x30, [sp, #80]
  stp d8, d9, [sp, #96]
  stp d10, d11, [sp, #112]
  stp d12, d13, [sp, #128]
  stp d14, d15, [sp, #144]
  mov x9, sp
  str x9, [x0]
  mov sp, x1
  ldp x19, x20, [sp, #0]
  ldp x21, x22, [sp, #16]
  ldp x23, x24, [sp, #32]
  ldp x25, x26, [sp, #48]
  ldp x27, x28, [sp, #64]
  ldp x29, x30, [sp, #80]
  ldp d8, d9, [sp, #96]
  ldp d10, d11, [sp, #112]
  ldp d12, d13, [sp, #128]
  ldp d14, d15, [sp, #144]
  add sp, sp, #160
  ret
.size vmetal_switch, .-vmetal_switch
)");
#else
#error "the virtual Metal device runs on x86-64 and AArch64"
#endif

Stack::Stack(unsigned index) {
  void* at = mmap(nullptr, kGuard + kStack, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (at == MAP_FAILED) throw std::bad_alloc();
  base_ = static_cast<char*>(at);
  mprotect(base_, kGuard, PROT_NONE);
  top_ = base_ + kGuard + kStack - index * 5 % 128 * 64;
}
Stack::~Stack() { munmap(base_, kGuard + kStack); }

void Stack::prepare(void (*start)()) {
  auto* top = reinterpret_cast<uint64_t*>(top_);
#if defined(__x86_64__)
  // As after a call: the stack is 8 off a multiple of 16 when `start` begins.
  top -= 2;
  *top = reinterpret_cast<uint64_t>(start);
  top -= kSaved;
  std::memset(top, 0, kSaved * 8);
#else
  top -= 20;
  std::memset(top, 0, 160);
  top[11] = reinterpret_cast<uint64_t>(start);
#endif
  sp = top;
}

bool Stack::overflowed(const void* address) const { return address >= base_ && address < base_ + kGuard; }

}  // namespace vmetal
