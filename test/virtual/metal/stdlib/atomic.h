// Atomics in device and threadgroup memory, relaxed as Metal has them, and the memory fences.
#pragma once
#include "integer.h"

namespace metal {
enum memory_order { memory_order_relaxed, memory_order_acquire, memory_order_release, memory_order_acq_rel, memory_order_seq_cst };
enum thread_scope { thread_scope_thread, thread_scope_simdgroup, thread_scope_threadgroup, thread_scope_device };
enum class mem_flags { mem_none = 0, mem_device = 1, mem_threadgroup = 2, mem_texture = 4, mem_threadgroup_imageblock = 8 };
constexpr mem_flags operator|(mem_flags a, mem_flags b) { return mem_flags(int(a) | int(b)); }

template <class T> struct atomic {
  static_assert(__is_same(T, int) || __is_same(T, uint) || __is_same(T, bool) || __is_same(T, float) || __is_same(T, ulong),
                "Metal has no atomic of this type");
  T __v;
};
typedef atomic<int> atomic_int;
typedef atomic<uint> atomic_uint;
typedef atomic<bool> atomic_bool;
typedef atomic<float> atomic_float;
typedef atomic<ulong> atomic_ulong;

/** The integer type that an atomic's bits are exchanged as. */
template <class T> using __bits_of = conditional_t<__is_same(T, float), uint, conditional_t<__is_same(T, bool), uchar, T>>;
/** Stores `next` if the value is `seen`; otherwise `seen` becomes the value. */
template <class P, class B> __MSL bool __msl_compare_exchange(P p, thread B& seen, B next) {
  const B before = __sync_val_compare_and_swap(p, seen, next);
  const bool done = before == seen;
  seen = before;
  return done;
}

// The same in each address space; a pointer of either is a plain address here.
#define __MSL_ATOMIC(AS, IN_DEVICE)                                                                                        \
  template <class T> __MSL T atomic_load_explicit(const volatile AS atomic<T>* p, memory_order) {                          \
    return as_type<T>(__atomic_load_n((const volatile AS __bits_of<T>*)p, __ATOMIC_RELAXED));                              \
  }                                                                                                                        \
  template <class T> __MSL void atomic_store_explicit(volatile AS atomic<T>* p, typename __as_is<T>::type v, memory_order) { \
    __atomic_store_n((volatile AS __bits_of<T>*)p, as_type<__bits_of<T>>(v), __ATOMIC_RELAXED);                            \
  }                                                                                                                        \
  template <class T> __MSL T atomic_exchange_explicit(volatile AS atomic<T>* p, typename __as_is<T>::type v, memory_order) { \
    return as_type<T>(__atomic_exchange_n((volatile AS __bits_of<T>*)p, as_type<__bits_of<T>>(v), __ATOMIC_RELAXED));      \
  }                                                                                                                        \
  template <class T> __MSL bool atomic_compare_exchange_weak_explicit(volatile AS atomic<T>* p, thread T* expected,        \
                                                                      typename __as_is<T>::type v, memory_order, memory_order) { \
    __bits_of<T> seen = as_type<__bits_of<T>>(*expected);                                                                  \
    const bool done = __msl_compare_exchange((volatile AS __bits_of<T>*)p, seen, as_type<__bits_of<T>>(v));                \
    *expected = as_type<T>(seen);                                                                                          \
    return done;                                                                                                           \
  }                                                                                                                        \
  __MSL_FETCH(AS, IN_DEVICE, add)                                                                                          \
  __MSL_FETCH(AS, IN_DEVICE, sub)                                                                                          \
  __MSL_FETCH_BITS(AS, and)                                                                                                \
  __MSL_FETCH_BITS(AS, or)                                                                                                 \
  __MSL_FETCH_BITS(AS, xor)                                                                                                \
  __MSL_FETCH_ORDER(AS, min, <)                                                                                            \
  __MSL_FETCH_ORDER(AS, max, >)
#define __MSL_FETCH(AS, IN_DEVICE, op)                                                                                     \
  template <class T> __MSL T atomic_fetch_##op##_explicit(volatile AS atomic<T>* p, typename __as_is<T>::type v, memory_order) { \
    static_assert(__is_same(T, int) || __is_same(T, uint) || (IN_DEVICE && __is_same(T, float)), "Metal has no such atomic operation"); \
    if constexpr (__is_same(T, float)) {                                                                                   \
      uint old = __atomic_load_n((volatile AS uint*)p, __ATOMIC_RELAXED);                                                  \
      while (!__msl_compare_exchange((volatile AS uint*)p, old, as_type<uint>(__msl_float_##op(as_type<float>(old), v)))) {} \
      return as_type<float>(old);                                                                                          \
    } else {                                                                                                               \
      return __atomic_fetch_##op((volatile AS T*)p, v, __ATOMIC_RELAXED);                                                  \
    }                                                                                                                      \
  }
#define __MSL_FETCH_BITS(AS, op)                                                                                           \
  template <class T> __MSL T atomic_fetch_##op##_explicit(volatile AS atomic<T>* p, typename __as_is<T>::type v, memory_order) { \
    static_assert(__is_same(T, int) || __is_same(T, uint), "Metal has no such atomic operation");                          \
    return __atomic_fetch_##op((volatile AS T*)p, v, __ATOMIC_RELAXED);                                                    \
  }
#define __MSL_FETCH_ORDER(AS, op, before)                                                                                  \
  template <class T> __MSL T atomic_fetch_##op##_explicit(volatile AS atomic<T>* p, typename __as_is<T>::type v, memory_order) { \
    static_assert(__is_same(T, int) || __is_same(T, uint), "Metal has no such atomic operation");                          \
    T old = __atomic_load_n((volatile AS T*)p, __ATOMIC_RELAXED);                                                          \
    while (!__msl_compare_exchange((volatile AS T*)p, old, v before old ? v : old)) {}                                     \
    return old;                                                                                                            \
  }
__MSL float __msl_float_add(float a, float b) { return a + b; }
__MSL float __msl_float_sub(float a, float b) { return a - b; }
__MSL_ATOMIC(__global, true)
__MSL_ATOMIC(__local, false)
#undef __MSL_ATOMIC
#undef __MSL_FETCH
#undef __MSL_FETCH_BITS
#undef __MSL_FETCH_ORDER

__MSL void atomic_thread_fence(mem_flags, memory_order, thread_scope = thread_scope_device) { __atomic_thread_fence(__ATOMIC_SEQ_CST); }
}  // namespace metal
