// The whole of the virtual device's <metal_stdlib>: the one header that is precompiled, and what a kernel's entry uses.
#pragma once
#include "matrix.h"

/** What a kernel's entry knows of its threadgroup. The same as Group in ../machine.h. */
struct __msl_group {
  __global const unsigned long* buffers;
  unsigned position[3];
  unsigned groups[3];
  unsigned size[3];
  /** The next thread to start; how many there are; the one that runs. */
  unsigned next, count, current;
};
extern "C" {
/** Address of a kernel's threadgroup variable: sizes and alignments are in the section msl_threadgroup. */
__attribute__((const)) unsigned long __msl_threadgroup(unsigned index);
}

namespace metal {
template <class T> struct __components { static constexpr __constant int n = 1; };
template <class T, int N> struct __components<vec<T, N>> { static constexpr __constant int n = N; };
/** A position or size as the type that a kernel's parameter has: 1, 2 or 3 integers. */
template <class T> __MSL T __position(uint x, uint y, uint z) {
  if constexpr (__components<T>::n == 1) return T(x);
  else if constexpr (__components<T>::n == 2) return T(x, y);
  else return T(x, y, z);
}
}  // namespace metal
