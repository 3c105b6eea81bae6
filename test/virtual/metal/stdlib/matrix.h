// simdgroup_matrix: 8 by 8 elements held by the 32 threads of a simdgroup, two by each. Loads and stores touch each
// thread's own two elements; products need the whole simdgroup.
#pragma once
#include "simd.h"

namespace metal {
template <class T, int R, int C> struct simdgroup_matrix {
  static_assert(R == 8 && C == 8, "a simdgroup_matrix is 8 by 8");
  static_assert(__is_same(T, float) || __is_same(T, half) || __is_same(T, bfloat), "a simdgroup_matrix is of half, bfloat or float");
  T __e[2];
  simdgroup_matrix() = default;
  /** The diagonal is `v`, the rest 0. */
  explicit __MSL simdgroup_matrix(T v, int at = __MSL_HERE);
  __MSL thread vec<T, 2>& thread_elements() { return *(thread vec<T, 2>*)&__e; }
};
typedef simdgroup_matrix<half, 8, 8> simdgroup_half8x8;
typedef simdgroup_matrix<float, 8, 8> simdgroup_float8x8;
typedef simdgroup_matrix<bfloat, 8, 8> simdgroup_bfloat8x8;

extern "C" unsigned __msl_lane();
/** Row and first column of a lane's two elements, as published for Apple's GPUs; columns are neighbours. */
__MSL uint __row_of(uint lane) { return ((lane >> 2) & 4) + ((lane >> 1) & 3); }
__MSL uint __column_of(uint lane) { return ((lane >> 1) & 4) + ((lane & 1) << 1); }

template <class T, int R, int C> __MSL simdgroup_matrix<T, R, C>::simdgroup_matrix(T v, int) {
  const uint lane = __msl_lane(), row = __row_of(lane), column = __column_of(lane);
  __e[0] = row == column ? v : T(0);
  __e[1] = row == column + 1 ? v : T(0);
}
template <class T, int R, int C> __MSL simdgroup_matrix<T, R, C> make_filled_simdgroup_matrix(T v) {
  simdgroup_matrix<T, R, C> m;
  m.__e[0] = m.__e[1] = v;
  return m;
}
template <class T, int R> __MSL simdgroup_matrix<T, R, R> make_diagonal_simdgroup_matrix(T v) { return simdgroup_matrix<T, R, R>(v); }

#define __MSL_MATRIX_MEMORY(AS)                                                                                            \
  template <class T> __MSL void simdgroup_load(thread simdgroup_matrix<T, 8, 8>& m, const AS T* source, ulong elements_per_row = 8, \
                                               vec<ulong, 2> origin = vec<ulong, 2>(0ul), bool transpose = false) {        \
    const uint lane = __msl_lane(), row = __row_of(lane), column = __column_of(lane);                                      \
    const AS T* at = source + origin.y * elements_per_row + origin.x;                                                      \
    for (uint i = 0; i < 2; ++i) m.__e[i] = transpose ? at[(column + i) * elements_per_row + row] : at[row * elements_per_row + column + i]; \
  }                                                                                                                        \
  template <class T> __MSL void simdgroup_load(thread simdgroup_matrix<T, 8, 8>& m, const volatile AS T* source, ulong elements_per_row = 8, \
                                               vec<ulong, 2> origin = vec<ulong, 2>(0ul), bool transpose = false) {        \
    simdgroup_load(m, (const AS T*)source, elements_per_row, origin, transpose);                                           \
  }                                                                                                                        \
  template <class T> __MSL void simdgroup_store(thread const simdgroup_matrix<T, 8, 8>& m, AS T* target, ulong elements_per_row = 8, \
                                                vec<ulong, 2> origin = vec<ulong, 2>(0ul), bool transpose = false) {       \
    const uint lane = __msl_lane(), row = __row_of(lane), column = __column_of(lane);                                      \
    AS T* at = target + origin.y * elements_per_row + origin.x;                                                            \
    for (uint i = 0; i < 2; ++i) (transpose ? at[(column + i) * elements_per_row + row] : at[row * elements_per_row + column + i]) = m.__e[i]; \
  }
__MSL_MATRIX_MEMORY(__global)
__MSL_MATRIX_MEMORY(__local)
#undef __MSL_MATRIX_MEMORY

typedef float __row8 __attribute__((ext_vector_type(8)));
template <class D, class A, class B, class C> struct __product {
  D d[2];
  A a[2];
  B b[2];
  C c[2];
  int at;
  static void run(__global const ulong* at, uint active) {
#pragma clang fp contract(fast)
    if (active != 0xffffffffu) {
      const uint lane = uint(__builtin_ctz(active));
      __msl_fail("simdgroup_matrix product in a simdgroup of which not all 32 threads take part", ((__private __product*)at[lane])->at);
    }
    __row8 a[8], b[8], d[8];
    for (uint lane = 0; lane < 32; ++lane) {
      const __private __product& p = *(__private __product*)at[lane];
      const uint row = __row_of(lane), column = __column_of(lane);
      for (uint i = 0; i < 2; ++i) {
        a[row][column + i] = float(p.a[i]);
        b[row][column + i] = float(p.b[i]);
        d[row][column + i] = float(p.c[i]);
      }
    }
    for (uint row = 0; row < 8; ++row)
      for (uint k = 0; k < 8; ++k) d[row] = a[row][k] * b[k] + d[row];
    for (uint lane = 0; lane < 32; ++lane) {
      __private __product& p = *(__private __product*)at[lane];
      for (uint i = 0; i < 2; ++i) p.d[i] = D(d[__row_of(lane)][__column_of(lane) + i]);
    }
  }
};
/** d = a · b + c, accumulated in float. */
template <class D, class A, class B, class C>
__MSL void simdgroup_multiply_accumulate(thread simdgroup_matrix<D, 8, 8>& d, thread simdgroup_matrix<A, 8, 8>& a,
                                         thread simdgroup_matrix<B, 8, 8>& b, thread simdgroup_matrix<C, 8, 8>& c,
                                         int at = __MSL_HERE) {
  __product<D, A, B, C> p;
  for (int i = 0; i < 2; ++i) {
    p.a[i] = a.__e[i];
    p.b[i] = b.__e[i];
    p.c[i] = c.__e[i];
  }
  p.at = at;
  __msl_collective(ulong(&p), ulong(&__product<D, A, B, C>::run), at);
  for (int i = 0; i < 2; ++i) d.__e[i] = p.d[i];
}
template <class D, class A, class B>
__MSL void simdgroup_multiply(thread simdgroup_matrix<D, 8, 8>& d, thread simdgroup_matrix<A, 8, 8>& a,
                              thread simdgroup_matrix<B, 8, 8>& b, int at = __MSL_HERE) {
  simdgroup_matrix<D, 8, 8> zero = make_filled_simdgroup_matrix<D, 8, 8>(D(0.0f));
  simdgroup_multiply_accumulate(d, a, b, zero, at);
}
template <class T> __MSL simdgroup_matrix<T, 8, 8> operator*(simdgroup_matrix<T, 8, 8> a, simdgroup_matrix<T, 8, 8> b) {
  simdgroup_matrix<T, 8, 8> d;
  simdgroup_multiply(d, a, b);
  return d;
}
}  // namespace metal
