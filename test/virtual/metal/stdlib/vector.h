// Vectors of 2, 3 and 4 elements: constructors, element-wise operators, conversions, packed vectors and as_type.
// A whole vector read from or written to device or threadgroup memory must be aligned as its type says.
#pragma once
#include "scalar.h"

extern "C" __attribute__((noreturn, cold)) void __msl_misaligned(unsigned long address, unsigned bytes);

namespace metal {
template <class T, int N> struct vec;
template <class T, int N> struct packed_vec;

/** What the compiler computes on: its own vector type, or elements one by one where it has none. */
template <class T, int N> struct __native { typedef T type __attribute__((ext_vector_type(N))); };
template <class T, int N> struct __elements {
  T e[N];
  // A splat, and a copy from constant memory.
  __MSL void operator=(T v) { for (int i = 0; i < N; ++i) e[i] = v; }
  template <class C, class = enable_if_t<__is_same(C, __elements)>> __MSL void operator=(const __constant C& o) {
    for (int i = 0; i < N; ++i) e[i] = o.e[i];
  }
  __MSL T& operator[](int i) { return e[i]; }
  __MSL T operator[](int i) const { return e[i]; }
#define __MSL_ELEMENTS(R, op)                                             \
  friend __MSL __elements<R, N> operator op(__elements a, __elements b) { \
    __elements<R, N> r;                                                   \
    for (int i = 0; i < N; ++i) r.e[i] = R(a.e[i] op b.e[i]);             \
    return r;                                                             \
  }
  __MSL_ELEMENTS(T, +) __MSL_ELEMENTS(T, -) __MSL_ELEMENTS(T, *) __MSL_ELEMENTS(T, /) __MSL_ELEMENTS(T, &)
  __MSL_ELEMENTS(T, |) __MSL_ELEMENTS(T, ^) __MSL_ELEMENTS(bool, <) __MSL_ELEMENTS(bool, >) __MSL_ELEMENTS(bool, <=)
  __MSL_ELEMENTS(bool, >=) __MSL_ELEMENTS(bool, ==) __MSL_ELEMENTS(bool, !=)
#undef __MSL_ELEMENTS
  friend __MSL __elements operator-(__elements a) {
    for (int i = 0; i < N; ++i) a.e[i] = -a.e[i];
    return a;
  }
};
template <int N> struct __native<bool, N> { typedef __elements<bool, N> type; };
template <int N> struct __native<bfloat, N> { typedef __elements<bfloat, N> type; };

template <class T> constexpr __constant bool __is_native = !__is_same(T, bool) && !__is_same(T, bfloat);
template <class T> constexpr __constant bool __is_float = __is_same(T, float) || __is_same(T, half) || __is_same(T, bfloat);

struct __of_native {};
template <class T> __MSL void __check_vector(T pointer, uint bytes) {
  ulong address = ulong(pointer);
  __asm__("" : "+r"(address));  // or the compiler would trust the type's alignment
  if (__builtin_expect((address & (bytes - 1)) != 0, 0)) __msl_misaligned(address, bytes);
}

/** Members `M` (a name and what follows it) for every binary operator. */
#define __MSL_ARITHMETIC(X) X(+) X(-) X(*) X(/) X(%) X(&) X(|) X(^) X(<<) X(>>)
#define __MSL_COMPARE(X) X(<) X(>) X(<=) X(>=) X(==) X(!=)
#define __MSL_OPERATOR(op)                                                                        \
  friend __MSL vec operator op(vec a, vec b) { return vec(a.n op b.n, __of_native()); }           \
  __MSL vec& operator op##=(vec b) {                                                              \
    n = n op b.n;                                                                                 \
    return *this;                                                                                 \
  }
#define __MSL_COMPARISON(op)                                                                      \
  friend __MSL vec<bool, __n> operator op(vec a, vec b) { return vec<bool, __n>::__of_mask(a.n op b.n); }

// The body common to the three widths.
#define __MSL_VECTOR(N)                                                                     \
  static constexpr __constant int __n = N;                                                        \
  typedef typename __native<T, N>::type __native_type;                                            \
  vec() = default;                                                                                \
  vec(const vec&) = default;                                                                      \
  __MSL vec(const __global vec& o) { __check_vector(&o, sizeof(vec)); n = o.n; }                  \
  __MSL vec(const __local vec& o) { __check_vector(&o, sizeof(vec)); n = o.n; }                   \
  __MSL vec(const __constant vec& o) { __check_vector(&o, sizeof(vec)); n = o.n; }                \
  __MSL vec(__native_type v, __of_native) { n = v; }                                              \
  __MSL vec(T v) { n = v; }                                                                       \
  template <class U> explicit __MSL vec(vec<U, N> o) {                                            \
    /* One instruction where the conversion is plain; float to integer saturates element by element. */ \
    if constexpr (__is_native<T> && __is_native<U> && (__is_float<T> || !__is_float<U>)) {        \
      n = __builtin_convertvector(o.n, __native_type);                                            \
    } else {                                                                                      \
      x = T(o.x);                                                                                 \
      y = T(o.y);                                                                                 \
      if constexpr (N > 2) (&x)[2] = T((&o.x)[2]);                                                \
      if constexpr (N > 3) (&x)[3] = T((&o.x)[3]);                                                \
    }                                                                                             \
  }                                                                                               \
  __MSL vec(packed_vec<T, N> o) {                                                                 \
    x = o.__e[0];                                                                                 \
    y = o.__e[1];                                                                                 \
    if constexpr (N > 2) (&x)[2] = o.__e[2];                                                      \
    if constexpr (N > 3) (&x)[3] = o.__e[3];                                                      \
  }                                                                                               \
  vec& operator=(const vec&) = default;                                                           \
  template <class C, class = enable_if_t<__is_same(C, vec)>> __MSL vec& operator=(const __constant C& o) { return *this = vec(o); } \
  __MSL void operator=(vec o) __global { __check_vector(this, sizeof(vec)); n = o.n; }            \
  __MSL void operator=(vec o) __local { __check_vector(this, sizeof(vec)); n = o.n; }             \
  __MSL T& operator[](uint i) { return (&x)[i]; }                                                 \
  __MSL T operator[](uint i) const { return (&x)[i]; }                                            \
  __MSL T operator[](uint i) const __constant { return (&x)[i]; }                                 \
  __MSL_ARITHMETIC(__MSL_OPERATOR)                                                                \
  __MSL_COMPARE(__MSL_COMPARISON)                                                                 \
  template <class M> static __MSL vec __of_mask(M m) { vec r; for (int i = 0; i < N; ++i) (&r.x)[i] = m[i] != 0; return r; } \
  friend __MSL vec operator-(vec a) { return vec(-a.n, __of_native()); }                          \
  friend __MSL vec operator+(vec a) { return a; }                                                 \
  friend __MSL vec operator~(vec a) { return vec(~a.n, __of_native()); }                          \
  friend __MSL vec<bool, N> operator!(vec a) { vec<bool, N> r; for (int i = 0; i < N; ++i) (&r.x)[i] = !(&a.x)[i]; return r; } \
  friend __MSL vec<bool, N> operator&&(vec a, vec b) { vec<bool, N> r; for (int i = 0; i < N; ++i) (&r.x)[i] = bool((&a.x)[i]) & bool((&b.x)[i]); return r; } \
  friend __MSL vec<bool, N> operator||(vec a, vec b) { vec<bool, N> r; for (int i = 0; i < N; ++i) (&r.x)[i] = bool((&a.x)[i]) | bool((&b.x)[i]); return r; } \
  __MSL vec& operator++() { return *this += vec(T(1)); }                                          \
  __MSL vec& operator--() { return *this -= vec(T(1)); }                                          \
  /** `v.zyx` is rewritten to this by the virtual device's front end; so is an assignment. */     \
  template <int... I> __MSL vec<T, sizeof...(I)> __swizzle() const { return vec<T, sizeof...(I)>((&x)[I]...); } \
  template <int... I> __MSL vec<T, sizeof...(I)> __swizzle() const __constant { return vec<T, sizeof...(I)>((&x)[I]...); } \
  template <int... I> __MSL void __assign(vec<T, sizeof...(I)> v) { int at = 0; (void(((&x)[I] = v[at++])), ...); }

template <class T> struct __attribute__((aligned(2 * sizeof(T)))) vec<T, 2> {
  union {
    typename __native<T, 2>::type n;
    struct { T x, y; };
    struct { T r, g; };
  };
  __MSL_VECTOR(2)
  __MSL vec(T a, T b) { x = a; y = b; }
};
template <class T> struct __attribute__((aligned(4 * sizeof(T)))) vec<T, 3> {
  union {
    typename __native<T, 3>::type n;
    struct { T x, y, z; };
    struct { T r, g, b; };
  };
  __MSL_VECTOR(3)
  __MSL vec(T a, T b, T c) { x = a; y = b; z = c; }
  __MSL vec(vec<T, 2> a, T c) { x = a.x; y = a.y; z = c; }
  __MSL vec(T a, vec<T, 2> b) { x = a; y = b.x; z = b.y; }
};
template <class T> struct __attribute__((aligned(4 * sizeof(T)))) vec<T, 4> {
  union {
    typename __native<T, 4>::type n;
    struct { T x, y, z, w; };
    struct { T r, g, b, a; };
  };
  __MSL_VECTOR(4)
  __MSL vec(T a, T b, T c, T d) { x = a; y = b; z = c; w = d; }
  __MSL vec(vec<T, 2> a, T c, T d) { x = a.x; y = a.y; z = c; w = d; }
  __MSL vec(T a, vec<T, 2> b, T d) { x = a; y = b.x; z = b.y; w = d; }
  __MSL vec(T a, T b, vec<T, 2> c) { x = a; y = b; z = c.x; w = c.y; }
  __MSL vec(vec<T, 2> a, vec<T, 2> c) { x = a.x; y = a.y; z = c.x; w = c.y; }
  __MSL vec(vec<T, 3> a, T d) { x = a.x; y = a.y; z = a.z; w = d; }
  __MSL vec(T a, vec<T, 3> b) { x = a; y = b.x; z = b.y; w = b.z; }
};
#undef __MSL_OPERATOR
#undef __MSL_COMPARISON
#undef __MSL_VECTOR

/** As a vector, but aligned as one element and without padding. */
template <class T, int N> struct packed_vec {
  T __e[N];
  packed_vec() = default;
  packed_vec(const packed_vec&) = default;
  packed_vec& operator=(const packed_vec&) = default;
  __MSL packed_vec(const __constant packed_vec& o) { for (int i = 0; i < N; ++i) __e[i] = o.__e[i]; }
  __MSL packed_vec(vec<T, N> v) { for (int i = 0; i < N; ++i) __e[i] = v[i]; }
  __MSL packed_vec(T v) { for (int i = 0; i < N; ++i) __e[i] = v; }
  template <class... A> __MSL packed_vec(T a, T b, A... more) : __e{a, b, T(more)...} {}
  __MSL T& operator[](uint i) { return __e[i]; }
  __MSL T operator[](uint i) const { return __e[i]; }
  __MSL T operator[](uint i) const __constant { return __e[i]; }
};

#define __MSL_PACKED(op)                                                                          \
  template <class T, int N> __MSL vec<T, N> operator op(packed_vec<T, N> a, packed_vec<T, N> b) { return vec<T, N>(a) op vec<T, N>(b); } \
  template <class T, int N> __MSL vec<T, N> operator op(packed_vec<T, N> a, vec<T, N> b) { return vec<T, N>(a) op b; } \
  template <class T, int N> __MSL vec<T, N> operator op(vec<T, N> a, packed_vec<T, N> b) { return a op vec<T, N>(b); } \
  template <class T, int N> __MSL vec<T, N> operator op(packed_vec<T, N> a, typename __as_is<T>::type b) { return vec<T, N>(a) op b; } \
  template <class T, int N> __MSL vec<T, N> operator op(typename __as_is<T>::type a, packed_vec<T, N> b) { return a op vec<T, N>(b); }
__MSL_PACKED(+) __MSL_PACKED(-) __MSL_PACKED(*) __MSL_PACKED(/)
#undef __MSL_PACKED

#define __MSL_NAMES(T, NAME)                                                                      \
  typedef vec<T, 2> NAME##2;                                                                      \
  typedef vec<T, 3> NAME##3;                                                                      \
  typedef vec<T, 4> NAME##4;                                                                      \
  typedef packed_vec<T, 2> packed_##NAME##2;                                                      \
  typedef packed_vec<T, 3> packed_##NAME##3;                                                      \
  typedef packed_vec<T, 4> packed_##NAME##4;                                                      \
  static_assert(sizeof(NAME##2) == 2 * sizeof(T) && sizeof(NAME##3) == 4 * sizeof(T) && sizeof(NAME##4) == 4 * sizeof(T)); \
  static_assert(sizeof(packed_##NAME##3) == 3 * sizeof(T));
__MSL_NAMES(bool, bool) __MSL_NAMES(char, char) __MSL_NAMES(uchar, uchar) __MSL_NAMES(short, short)
__MSL_NAMES(ushort, ushort) __MSL_NAMES(int, int) __MSL_NAMES(uint, uint) __MSL_NAMES(long, long) __MSL_NAMES(ulong, ulong)
__MSL_NAMES(half, half) __MSL_NAMES(bfloat, bfloat) __MSL_NAMES(float, float)
#undef __MSL_NAMES

/** The same bits as another type of the same size. */
template <class To, class From> __MSL To as_type(From v) {
  static_assert(sizeof(To) == sizeof(From), "as_type: the sizes of the types differ");
  To r;
  __builtin_memcpy(&r, &v, sizeof(To));
  return r;
}

template <class T, size_t N> struct array {
  T __e[N];
  __MSL T& operator[](size_t i) { return __e[i]; }
  __MSL const T& operator[](size_t i) const { return __e[i]; }
  __MSL const __constant T& operator[](size_t i) const __constant { return __e[i]; }
  __MSL constexpr size_t size() const { return N; }
};
}  // namespace metal
