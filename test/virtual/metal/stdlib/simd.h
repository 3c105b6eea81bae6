// What threads of a threadgroup do together: barriers, and the functions of simdgroups and quadgroups. Each thread hands
// its operand to the runtime and waits; when all that take part are there, one call computes every result.
#pragma once
#include "atomic.h"

/** The place of a call in the source: its line times 1024 and its column. */
#define __MSL_HERE ((__builtin_LINE() << 10) | (__builtin_COLUMN() < 1023 ? __builtin_COLUMN() : 1023))

extern "C" {
/**
 * Waits for the threads of the simdgroup that are at this place; then `run` is called once, with the addresses of the
 * parts by lane and the mask of the lanes that take part. It is void(__global const ulong*, uint), as an address.
 */
__attribute__((convergent)) void __msl_collective(unsigned long part, unsigned long run, int at);
__attribute__((convergent)) void __msl_barrier(int flags, int at);
__attribute__((convergent)) void __msl_simdgroup_barrier(int flags, int at);
/** Fails the command buffer with a text. Does not return. */
__attribute__((noreturn, cold)) void __msl_fail(__constant const char* text, int at);
}

namespace metal {
__MSL void threadgroup_barrier(mem_flags flags, int at = __MSL_HERE) { __msl_barrier(int(flags), at); }
__MSL void threadgroup_barrier(mem_flags flags, thread_scope, int at = __MSL_HERE) { __msl_barrier(int(flags), at); }
__MSL void simdgroup_barrier(mem_flags flags, int at = __MSL_HERE) { __msl_simdgroup_barrier(int(flags), at); }

template <class T> struct __element { typedef T type; };
template <class T, int N> struct __element<vec<T, N>> { typedef T type; };
#define __MSL_SIMD_TYPE(T)                                                                                         \
  static_assert(sizeof(typename __element<T>::type) <= 4 && !__is_same(typename __element<T>::type, bfloat),       \
                "simdgroup and quadgroup functions take 8-, 16- and 32-bit integers, half and float");

template <class T> struct __part {
  T value;
  T fill;
  uint lane;
  uint amount;
  T result;
};
/** The parts that operations read: those of the lanes in `active`. */
template <class T> struct __parts {
  __global const ulong* at;
  uint active;
  __MSL bool has(uint lane) const { return lane < 32 && ((active >> lane) & 1) != 0; }
  __MSL __private __part<T>& operator[](uint lane) const { return *(__private __part<T>*)at[lane]; }
};
#define __MSL_EACH(lane) for (uint lane = 0; lane < 32; ++lane) if (p.has(lane))
/** Runs `O::run` on the parts; `width` lanes (32, or 4 in a quadgroup) know of each other. */
template <class T, class O> __MSL T __together(T value, uint amount, T fill, int at) {
  __MSL_SIMD_TYPE(T)
  __part<T> part;
  part.value = value;
  part.fill = fill;
  part.amount = amount;
  part.result = value;
  __msl_collective(ulong(&part), ulong(&O::run), at);
  return part.result;
}

// Permutations. What a lane that takes no part holds is not defined: here it is the reader's own value with all bits
// flipped, which no test takes for right.
template <class T> __MSL T __nobody(T v) {
  thread uchar* bytes = (thread uchar*)&v;
  for (uint i = 0; i < sizeof(T); ++i) bytes[i] = ~bytes[i];
  return v;
}
#define __MSL_PERMUTE(name, from)                                                                        \
  template <class T, uint W> struct __##name {                                                           \
    static void run(__global const ulong* at, uint active) {                                             \
      const __parts<T> p = {at, active};                                                                 \
      __MSL_EACH(lane) {                                                                                 \
        const uint k = p[lane].amount, base = lane & ~(W - 1), self = lane & (W - 1);                    \
        const uint source = from;                                                                        \
        p[lane].result = source == ~0u ? __value * p[lane].value                                         \
                         : source < W && p.has(base + source) ? __value * p[base + source].value         \
                                                              : __value * __nobody(p[lane].value);       \
        (void)k;                                                                                         \
        (void)self;                                                                                      \
      }                                                                                                  \
    }                                                                                                    \
  };                                                                                                     \
  template <class T> __MSL T simd_##name(T v, ushort k, int at = __MSL_HERE) {                   \
    return __together<T, __##name<T, 32>>(v, k, v, at);                                                \
  }                                                                                                      \
  template <class T> __MSL T quad_##name(T v, ushort k, int at = __MSL_HERE) {                   \
    return __together<T, __##name<T, 4>>(v, k, v, at);                                                 \
  }
__MSL_PERMUTE(shuffle, k)
__MSL_PERMUTE(shuffle_xor, self ^ k)
__MSL_PERMUTE(shuffle_up, self >= k ? self - k : ~0u)
__MSL_PERMUTE(shuffle_down, self + k < W ? self + k : ~0u)
__MSL_PERMUTE(shuffle_rotate_up, (self - k) & (W - 1))
__MSL_PERMUTE(shuffle_rotate_down, (self + k) & (W - 1))
__MSL_PERMUTE(broadcast, k)
#undef __MSL_PERMUTE

/** Lanes that a shift leaves empty take `fill` of the lane that would have come round. `amount`: shift, modulo above 16. */
template <class T, uint W, bool UP> struct __shift_and_fill {
  static void run(__global const ulong* at, uint active) {
    const __parts<T> p = {at, active};
    __MSL_EACH(lane) {
      const uint k = p[lane].amount & 0xffff, modulo = p[lane].amount >> 16;
      const uint block = lane & ~(modulo - 1), self = lane & (modulo - 1);
      const bool inside = UP ? self >= k : self + k < modulo;
      const uint source = block + ((UP ? self - k : self + k) & (modulo - 1));
      p[lane].result = !p.has(source) ? __value * __nobody(p[lane].value) : inside ? __value * p[source].value : __value * p[source].fill;
    }
  }
};
template <class T> __MSL T simd_shuffle_and_fill_up(T v, T fill, ushort k, ushort modulo = 32, int at = __MSL_HERE) {
  return __together<T, __shift_and_fill<T, 32, true>>(v, k | uint(modulo) << 16, fill, at);
}
template <class T> __MSL T simd_shuffle_and_fill_down(T v, T fill, ushort k, ushort modulo = 32, int at = __MSL_HERE) {
  return __together<T, __shift_and_fill<T, 32, false>>(v, k | uint(modulo) << 16, fill, at);
}

// Reductions: a tree over the active lanes, so that float sums do not come out in the order of a loop.
#define __MSL_COMBINE(name, expression)                                    \
  struct __op_##name {                                                     \
    template <class T> static __MSL T of(T a, T b) { return T(expression); } \
  };
__MSL_COMBINE(sum, a + b) __MSL_COMBINE(product, a * b) __MSL_COMBINE(min, metal::min(a, b)) __MSL_COMBINE(max, metal::max(a, b))
__MSL_COMBINE(and, a & b) __MSL_COMBINE(or, a | b) __MSL_COMBINE(xor, a ^ b)
#undef __MSL_COMBINE
template <class T, class O, uint W> struct __reduce {
  static void run(__global const ulong* at, uint active) {
    const __parts<T> p = {at, active};
    for (uint base = 0; base < 32; base += W) {
      T values[W];
      bool there[W];
      for (uint i = 0; i < W; ++i)
        if ((there[i] = p.has(base + i))) values[i] = p[base + i].value;
      for (uint step = W / 2; step > 0; step /= 2)
        for (uint i = 0; i < step; ++i) {
          if (there[i] && there[i + step]) values[i] = O::of(values[i], values[i + step]);
          else if (there[i + step]) values[i] = values[i + step], there[i] = true;
        }
      for (uint i = 0; i < W; ++i)
        if (p.has(base + i)) p[base + i].result = values[0];
    }
  }
};
template <class T, class O, uint W, bool INCLUSIVE> struct __scan {
  static void run(__global const ulong* at, uint active) {
    const __parts<T> p = {at, active};
    for (uint base = 0; base < 32; base += W) {
      bool first = true;
      T total;
      for (uint i = base; i < base + W; ++i) {
        if (!p.has(i)) continue;
        const T next = first ? __value * p[i].value : __value * O::of(total, p[i].value);
        p[i].result = INCLUSIVE ? __value * next : first ? __value * p[i].fill : __value * total;
        total = next;
        first = false;
      }
    }
  }
};
#define __MSL_REDUCE(name)                                                              \
  template <class T> __MSL T simd_##name(T v, int at = __MSL_HERE) {            \
    return __together<T, __reduce<T, __op_##name, 32>>(v, 0, v, at);                  \
  }                                                                                     \
  template <class T> __MSL T quad_##name(T v, int at = __MSL_HERE) {            \
    return __together<T, __reduce<T, __op_##name, 4>>(v, 0, v, at);                   \
  }
__MSL_REDUCE(sum) __MSL_REDUCE(product) __MSL_REDUCE(min) __MSL_REDUCE(max) __MSL_REDUCE(and) __MSL_REDUCE(or) __MSL_REDUCE(xor)
#undef __MSL_REDUCE
#define __MSL_SCAN(name, identity)                                                                       \
  template <class T> __MSL T simd_prefix_inclusive_##name(T v, int at = __MSL_HERE) {            \
    return __together<T, __scan<T, __op_##name, 32, true>>(v, 0, T(identity), at);                     \
  }                                                                                                      \
  template <class T> __MSL T simd_prefix_exclusive_##name(T v, int at = __MSL_HERE) {            \
    return __together<T, __scan<T, __op_##name, 32, false>>(v, 0, T(identity), at);                    \
  }                                                                                                      \
  template <class T> __MSL T quad_prefix_inclusive_##name(T v, int at = __MSL_HERE) {            \
    return __together<T, __scan<T, __op_##name, 4, true>>(v, 0, T(identity), at);                      \
  }                                                                                                      \
  template <class T> __MSL T quad_prefix_exclusive_##name(T v, int at = __MSL_HERE) {            \
    return __together<T, __scan<T, __op_##name, 4, false>>(v, 0, T(identity), at);                     \
  }
__MSL_SCAN(sum, 0) __MSL_SCAN(product, 1)
#undef __MSL_SCAN

/** The mask of active lanes whose value is not 0; and the lowest active lane's value. */
struct __ballot {
  static void run(__global const ulong* at, uint active) {
    const __parts<uint> p = {at, active};
    uint mask = 0;
    __MSL_EACH(lane) mask |= p[lane].value != 0 ? 1u << lane : 0u;
    __MSL_EACH(lane) p[lane].result = mask;
  }
};
struct __active {
  static void run(__global const ulong* at, uint active) {
    const __parts<uint> p = {at, active};
    __MSL_EACH(lane) p[lane].result = active;
  }
};
template <class T, uint W> struct __first {
  static void run(__global const ulong* at, uint active) {
    const __parts<T> p = {at, active};
    for (uint base = 0; base < 32; base += W) {
      uint lowest = base;
      while (lowest < base + W && !p.has(lowest)) ++lowest;
      for (uint lane = base; lane < base + W; ++lane)
        if (p.has(lane)) p[lane].result = p[lowest].value;
    }
  }
};
template <class T, uint W> struct __lane_of {
  static void run(__global const ulong* at, uint active) {
    const __parts<T> p = {at, active};
    __MSL_EACH(lane) p[lane].result = T(lane);
  }
};
#undef __MSL_EACH
struct simd_vote {
  typedef ulong vote_t;
  vote_t __mask;
  explicit __MSL simd_vote(vote_t v = 0) { __mask = v; }
  explicit __MSL operator vote_t() const { return __mask; }
  __MSL bool any() const { return __mask != 0; }
  __MSL bool all() const { return uint(__mask) == 0xffffffffu; }
};
__MSL simd_vote simd_ballot(bool v, int at = __MSL_HERE) { return simd_vote(__together<uint, __ballot>(v, 0, 0, at)); }
__MSL simd_vote simd_active_threads_mask(int at = __MSL_HERE) { return simd_vote(__together<uint, __active>(0, 0, 0, at)); }
__MSL bool simd_any(bool v, int at = __MSL_HERE) { return __together<uint, __ballot>(v, 0, 0, at) != 0; }
__MSL bool simd_all(bool v, int at = __MSL_HERE) { return __together<uint, __ballot>(!v, 0, 0, at) == 0; }
__MSL bool simd_is_first(int at = __MSL_HERE) {
  const uint lane = __together<uint, __lane_of<uint, 32>>(0, 0, 0, at);
  return lane == uint(__builtin_ctz(__together<uint, __active>(0, 0, 0, at)));
}
__MSL bool simd_is_helper_thread() { return false; }
template <class T> __MSL T simd_broadcast_first(T v, int at = __MSL_HERE) { return __together<T, __first<T, 32>>(v, 0, v, at); }
template <class T> __MSL T quad_broadcast_first(T v, int at = __MSL_HERE) { return __together<T, __first<T, 4>>(v, 0, v, at); }
}  // namespace metal
