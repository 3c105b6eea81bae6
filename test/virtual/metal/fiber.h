// Stacks and the switch between them.
#pragma once

#include <cstddef>
#include <vector>

namespace vmetal {

/** Saves the callee-saved registers on the current stack and its address at `*from`, and continues at `to`. */
extern "C" void vmetal_switch(void** from, void* to);

class Stack {
 public:
  /** `index`: stacks of different indices begin in different sets of the caches. */
  explicit Stack(unsigned index);
  ~Stack();
  Stack(const Stack&) = delete;
  /** Makes `sp` such that a switch to it calls `start`, which must not return. */
  void prepare(void (*start)());
  /** Whether an address lies in the guard below this stack. */
  bool overflowed(const void* address) const;

 private:
  char* base_;
  char* top_;

 public:
  void* sp = nullptr;
};

}  // namespace vmetal
