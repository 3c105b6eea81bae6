// Integer functions.
#pragma once
#include "math.h"

namespace metal {
template <class T> struct __twice;
#define __MSL_TWICE(T, W, S, U) template <> struct __twice<T> { typedef W wide; typedef S with_sign; typedef U unsigned_; };
__MSL_TWICE(char, int, char, uchar) __MSL_TWICE(uchar, int, char, uchar) __MSL_TWICE(short, int, short, ushort)
__MSL_TWICE(ushort, int, short, ushort) __MSL_TWICE(int, long, int, uint) __MSL_TWICE(uint, long, int, uint)
__MSL_TWICE(long, __int128, long, ulong) __MSL_TWICE(ulong, __int128, long, ulong)
#undef __MSL_TWICE

/** Limits a result of twice the width to the type. */
template <class T, class W> __MSL T __saturated(W v) {
  const W low = W(numeric_limits<T>::lowest()), high = W(numeric_limits<T>::max());
  return T(v < low ? low : v > high ? high : v);
}
#define __MSL_WIDE typename __twice<T>::wide
template <class T> __MSL T __abs(T x) { return T(x < 0 ? -x : x); }
template <class T> __MSL T __addsat(T x, T y) { return __saturated<T>(__MSL_WIDE(x) + __MSL_WIDE(y)); }
template <class T> __MSL T __subsat(T x, T y) { return __saturated<T>(__MSL_WIDE(x) - __MSL_WIDE(y)); }
template <class T> __MSL T __hadd(T x, T y) { return T((__MSL_WIDE(x) + __MSL_WIDE(y)) >> 1); }
template <class T> __MSL T __rhadd(T x, T y) { return T((__MSL_WIDE(x) + __MSL_WIDE(y) + 1) >> 1); }
template <class T> __MSL T __mulhi(T x, T y) {
  if constexpr (__is_same(T, ulong)) return T(((unsigned __int128)x * y) >> 64);
  else if constexpr (__is_same(T, uint)) return T((ulong(x) * y) >> 32);
  else return T((__MSL_WIDE(x) * __MSL_WIDE(y)) >> (8 * sizeof(T)));
}
template <class T> __MSL typename __twice<T>::unsigned_ __absdiff(T x, T y) {
  typedef typename __twice<T>::unsigned_ U;
  return x > y ? U(U(x) - U(y)) : U(U(y) - U(x));
}
template <class T> __MSL T __rotate(T v, T by) {
  typedef typename __twice<T>::unsigned_ U;
  const uint bits = 8 * sizeof(T), k = uint(U(by)) % bits;
  return k == 0 ? v : T(U(U(U(v) << k) | U(U(v) >> (bits - k))));
}
template <class T> __MSL T __popcount(T x) { return T(__builtin_popcountl(ulong(typename __twice<T>::unsigned_(x)))); }
template <class T> __MSL T __clz(T x) {
  const ulong u = ulong(typename __twice<T>::unsigned_(x));
  return T(u == 0 ? 8 * sizeof(T) : __builtin_clzl(u) - (64 - 8 * sizeof(T)));
}
template <class T> __MSL T __ctz(T x) {
  const ulong u = ulong(typename __twice<T>::unsigned_(x));
  return T(u == 0 ? 8 * sizeof(T) : ulong(__builtin_ctzl(u)));
}
template <class T> __MSL T __reverse_bits(T x) {
  return T(__builtin_bitreverse64(ulong(typename __twice<T>::unsigned_(x))) >> (64 - 8 * sizeof(T)));
}
#undef __MSL_WIDE

#define __MSL_INTEGER(T)                                                                                             \
  __MSL T abs(T x) { return __abs<T>(x); }                                                                           \
  __MSL T addsat(T x, T y) { return __addsat<T>(x, y); }                                                             \
  __MSL T subsat(T x, T y) { return __subsat<T>(x, y); }                                                             \
  __MSL T hadd(T x, T y) { return __hadd<T>(x, y); }                                                                 \
  __MSL T rhadd(T x, T y) { return __rhadd<T>(x, y); }                                                               \
  __MSL T mulhi(T x, T y) { return __mulhi<T>(x, y); }                                                               \
  __MSL T madhi(T x, T y, T z) { return T(__mulhi<T>(x, y) + z); }                                                   \
  __MSL typename __twice<T>::unsigned_ absdiff(T x, T y) { return __absdiff<T>(x, y); }                              \
  __MSL T rotate(T x, T y) { return __rotate<T>(x, y); }                                                             \
  __MSL T popcount(T x) { return __popcount<T>(x); }                                                                 \
  __MSL T clz(T x) { return __clz<T>(x); }                                                                           \
  __MSL T ctz(T x) { return __ctz<T>(x); }                                                                           \
  __MSL T reverse_bits(T x) { return __reverse_bits<T>(x); }                                                         \
  /* `bits` bits of x from `offset` up, with the sign of the highest where T has one. */                             \
  __MSL T extract_bits(T x, uint offset, uint bits) {                                                                \
    const uint width = 8 * sizeof(T);                                                                                \
    return bits == 0 ? T(0) : T(T(x << (width - bits - offset)) >> (width - bits));                                  \
  }                                                                                                                  \
  __MSL T insert_bits(T base, T with, uint offset, uint bits) {                                                      \
    const ulong mask = (bits >= 64 ? ~0ul : (1ul << bits) - 1) << offset;                                            \
    return T((ulong(base) & ~mask) | ((ulong(with) << offset) & mask));                                              \
  }
__MSL_SCALARS(__MSL_INTEGER)
#undef __MSL_INTEGER
__MSL int mad24(int x, int y, int z) { return ((x << 8) >> 8) * ((y << 8) >> 8) + z; }
__MSL uint mad24(uint x, uint y, uint z) { return (x & 0xffffffu) * (y & 0xffffffu) + z; }
__MSL int mul24(int x, int y) { return mad24(x, y, 0); }
__MSL uint mul24(uint x, uint y) { return mad24(x, y, 0u); }
__MSL int madsat(int x, int y, int z) { return __saturated<int>(long(x) * y + z); }
__MSL uint madsat(uint x, uint y, uint z) {
  const ulong v = ulong(x) * y + z;
  return v > UINT_MAX ? UINT_MAX : uint(v);
}
__MSL_LIFT1(abs) __MSL_LIFT1(popcount) __MSL_LIFT1(clz) __MSL_LIFT1(ctz) __MSL_LIFT1(reverse_bits)
__MSL_LIFT2(addsat) __MSL_LIFT2(subsat) __MSL_LIFT2(hadd) __MSL_LIFT2(rhadd) __MSL_LIFT2(mulhi) __MSL_LIFT2(rotate)
__MSL_LIFT3(madhi)
template <class T, int N> __MSL vec<typename __twice<T>::unsigned_, N> absdiff(vec<T, N> a, vec<T, N> b) {
  vec<typename __twice<T>::unsigned_, N> r;
  for (int i = 0; i < N; ++i) (&r.x)[i] = absdiff((&a.x)[i], (&b.x)[i]);
  return r;
}
template <class T, int N> __MSL vec<T, N> extract_bits(vec<T, N> a, uint offset, uint bits) {
  vec<T, N> r;
  for (int i = 0; i < N; ++i) (&r.x)[i] = extract_bits((&a.x)[i], offset, bits);
  return r;
}
}  // namespace metal
