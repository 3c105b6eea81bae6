// Math, common, relational and integer functions. A half is computed as float and rounded once. `precise` and `fast`
// name the same functions, which are as exact as the C library's.
#pragma once
#include "vector.h"

extern "C" {
#define __MSL_LIBM1(f) __attribute__((const, nothrow)) float f(float);
__MSL_LIBM1(sinf) __MSL_LIBM1(cosf) __MSL_LIBM1(tanf) __MSL_LIBM1(asinf) __MSL_LIBM1(acosf) __MSL_LIBM1(atanf)
__MSL_LIBM1(sinhf) __MSL_LIBM1(coshf) __MSL_LIBM1(tanhf) __MSL_LIBM1(asinhf) __MSL_LIBM1(acoshf) __MSL_LIBM1(atanhf)
__MSL_LIBM1(expf) __MSL_LIBM1(exp2f) __MSL_LIBM1(logf) __MSL_LIBM1(log2f) __MSL_LIBM1(log10f)
#undef __MSL_LIBM1
__attribute__((const, nothrow)) float exp10f(float);
__attribute__((const, nothrow)) float powf(float, float);
__attribute__((const, nothrow)) float atan2f(float, float);
__attribute__((const, nothrow)) float fmodf(float, float);
__attribute__((const, nothrow)) float nextafterf(float, float);
__attribute__((const, nothrow)) float ldexpf(float, int);
__attribute__((const, nothrow)) int ilogbf(float);
}

namespace metal {
// Lifts a scalar function to vectors: element by element, also with scalars among the arguments.
#define __MSL_LIFT1(f)                                              \
  template <class T, int N> __MSL vec<T, N> f(vec<T, N> a) {        \
    vec<T, N> r;                                                    \
    for (int i = 0; i < N; ++i) (&r.x)[i] = f((&a.x)[i]);           \
    return r;                                                       \
  }
#define __MSL_LIFT2(f)                                                                                                 \
  template <class T, int N> __MSL vec<T, N> f(vec<T, N> a, vec<T, N> b) {                                              \
    vec<T, N> r;                                                                                                       \
    for (int i = 0; i < N; ++i) (&r.x)[i] = f((&a.x)[i], (&b.x)[i]);                                                   \
    return r;                                                                                                          \
  }                                                                                                                    \
  template <class T, int N> __MSL vec<T, N> f(vec<T, N> a, typename __as_is<T>::type b) { return f(a, vec<T, N>(b)); } \
  template <class T, int N> __MSL vec<T, N> f(typename __as_is<T>::type a, vec<T, N> b) { return f(vec<T, N>(a), b); }
#define __MSL_LIFT3(f)                                                                                                 \
  template <class T, int N> __MSL vec<T, N> f(vec<T, N> a, vec<T, N> b, vec<T, N> c) {                                 \
    vec<T, N> r;                                                                                                       \
    for (int i = 0; i < N; ++i) (&r.x)[i] = f((&a.x)[i], (&b.x)[i], (&c.x)[i]);                                        \
    return r;                                                                                                          \
  }                                                                                                                    \
  template <class T, int N> __MSL vec<T, N> f(vec<T, N> a, typename __as_is<T>::type b, typename __as_is<T>::type c) { \
    return f(a, vec<T, N>(b), vec<T, N>(c));                                                                           \
  }                                                                                                                    \
  template <class T, int N> __MSL vec<T, N> f(vec<T, N> a, vec<T, N> b, typename __as_is<T>::type c) {                 \
    return f(a, b, vec<T, N>(c));                                                                                      \
  }

#define __MSL_FLOAT1(f, expression)                                          \
  __MSL float f(float x) { return expression; }                              \
  __MSL half f(half y) { const float x = float(y); return half(expression); } \
  __MSL_LIFT1(f)
#define __MSL_FLOAT2(f, expression)                                                                     \
  __MSL float f(float x, float y) { return expression; }                                                \
  __MSL half f(half a, half b) { const float x = float(a), y = float(b); return half(expression); }     \
  __MSL_LIFT2(f)
#define __MSL_FLOAT3(f, expression)                                                                                   \
  __MSL float f(float x, float y, float z) { return expression; }                                                     \
  __MSL half f(half a, half b, half c) { const float x = float(a), y = float(b), z = float(c); return half(expression); } \
  __MSL_LIFT3(f)

__MSL_FLOAT1(fabs, __builtin_fabsf(x))
__MSL_FLOAT1(ceil, __builtin_ceilf(x))
__MSL_FLOAT1(floor, __builtin_floorf(x))
__MSL_FLOAT1(trunc, __builtin_truncf(x))
__MSL_FLOAT1(rint, __builtin_rintf(x))
__MSL_FLOAT1(round, __builtin_roundf(x))
__MSL_FLOAT1(sqrt, __builtin_sqrtf(x))
__MSL_FLOAT1(rsqrt, 1.0f / __builtin_sqrtf(x))
__MSL_FLOAT1(sin, ::sinf(x))
__MSL_FLOAT1(cos, ::cosf(x))
__MSL_FLOAT1(tan, ::tanf(x))
__MSL_FLOAT1(asin, ::asinf(x))
__MSL_FLOAT1(acos, ::acosf(x))
__MSL_FLOAT1(atan, ::atanf(x))
__MSL_FLOAT1(sinh, ::sinhf(x))
__MSL_FLOAT1(cosh, ::coshf(x))
__MSL_FLOAT1(tanh, ::tanhf(x))
__MSL_FLOAT1(asinh, ::asinhf(x))
__MSL_FLOAT1(acosh, ::acoshf(x))
__MSL_FLOAT1(atanh, ::atanhf(x))
__MSL_FLOAT1(exp, ::expf(x))
__MSL_FLOAT1(exp2, ::exp2f(x))
__MSL_FLOAT1(exp10, ::exp10f(x))
__MSL_FLOAT1(log, ::logf(x))
__MSL_FLOAT1(log2, ::log2f(x))
__MSL_FLOAT1(log10, ::log10f(x))
/** x reduced to [-1, 1], where the product with π is as exact as it gets. */
__MSL float __half_turns(float x) { return x - 2.0f * __builtin_rintf(x * 0.5f); }
__MSL_FLOAT1(sinpi, ::sinf(__half_turns(x) * M_PI_F))
__MSL_FLOAT1(cospi, ::cosf(__half_turns(x) * M_PI_F))
__MSL_FLOAT1(tanpi, ::tanf(__half_turns(x) * M_PI_F))
__MSL float __fract(float x) {
  const float f = x - __builtin_floorf(x);
  return f < 0x1.fffffep-1f ? f : x == x && __builtin_fabsf(x) != INFINITY ? 0x1.fffffep-1f : x != x ? x : 0.0f;
}
__MSL float fract(float x) { return __fract(x); }
__MSL half fract(half x) { const half f = x - half(__builtin_floorf(float(x))); return f < 0x1.ffcp-1h ? f : 0x1.ffcp-1h; }
__MSL_LIFT1(fract)
__MSL float __sign(float x) { return x > 0 ? 1.0f : x < 0 ? -1.0f : x == 0 ? x : 0.0f; }
__MSL_FLOAT1(sign, __sign(x))
__MSL float __fmin(float x, float y) { return x != x ? y : y != y ? x : y < x ? y : x; }
__MSL float __fmax(float x, float y) { return x != x ? y : y != y ? x : x < y ? y : x; }
__MSL_FLOAT1(saturate, __fmin(__fmax(x, 0.0f), 1.0f))
__MSL_FLOAT2(fmin, __fmin(x, y))
__MSL_FLOAT2(fmax, __fmax(x, y))
__MSL_FLOAT2(pow, ::powf(x, y))
__MSL_FLOAT2(powr, x < 0 ? NAN : ::powf(x, y))
__MSL_FLOAT2(atan2, ::atan2f(x, y))
__MSL_FLOAT2(fmod, ::fmodf(x, y))
__MSL_FLOAT2(copysign, __builtin_copysignf(x, y))
__MSL_FLOAT2(fdim, x != x || y != y ? NAN : x > y ? x - y : 0.0f)
__MSL_FLOAT2(step, y < x ? 0.0f : 1.0f)
__MSL float fma(float x, float y, float z) { return __builtin_fmaf(x, y, z); }
/** The product is exact in float; the sum is rounded to odd there, so that rounding it to half is the only rounding. */
__MSL half fma(half x, half y, half z) {
#pragma clang fp contract(off)
  const float product = float(x) * float(y), addend = float(z);
  const float sum = product + addend, back = sum - product;
  const float error = (product - (sum - back)) + (addend - back);
  uint bits = __builtin_astype(sum, uint);
  if ((error > 0 || error < 0) && (bits & 1) == 0) bits += (error > 0) == (sum > 0) ? 1u : ~0u;
  return half(__builtin_astype(bits, float));
}
__MSL_LIFT3(fma)
__MSL_FLOAT3(mix, x + (y - x) * z)
__MSL float __smoothstep(float a, float b, float x) {
  const float t = __fmin(__fmax((x - a) / (b - a), 0.0f), 1.0f);
  return t * t * (3.0f - 2.0f * t);
}
__MSL_FLOAT3(smoothstep, __smoothstep(x, y, z))
__MSL_FLOAT3(fmin3, __fmin(x, __fmin(y, z)))
__MSL_FLOAT3(fmax3, __fmax(x, __fmax(y, z)))
__MSL float nextafter(float x, float y) { return ::nextafterf(x, y); }
__MSL float ldexp(float x, int k) { return ::ldexpf(x, k); }
__MSL half ldexp(half x, int k) { return half(::ldexpf(float(x), k)); }
template <class T, int N> __MSL vec<T, N> ldexp(vec<T, N> x, vec<int, N> k) {
  vec<T, N> r;
  for (int i = 0; i < N; ++i) (&r.x)[i] = ldexp((&x.x)[i], (&k.x)[i]);
  return r;
}
__MSL int ilogb(float x) { return ::ilogbf(x); }
__MSL int ilogb(half x) { return ::ilogbf(float(x)); }
__MSL float frexp(float x, thread int& e) {
  if (x == 0 || x != x || __builtin_fabsf(x) == INFINITY) { e = 0; return x; }
  e = ::ilogbf(x) + 1;
  return ::ldexpf(x, -e);
}
__MSL half frexp(half x, thread int& e) { return half(frexp(float(x), e)); }
template <class T> __MSL T modf(T x, thread T& whole) {
  whole = trunc(x);
  return copysign(__builtin_fabsf(float(x)) == INFINITY ? T(0) : T(x - whole), x);
}
template <class T> __MSL T sincos(T x, thread T& c) { c = cos(x); return sin(x); }

// Relational.
#define __MSL_TEST(f, expression)                                                      \
  __MSL bool f(float x) { return expression; }                                         \
  __MSL bool f(half y) { const float x = float(y); return expression; }                \
  template <class T, int N> __MSL vec<bool, N> f(vec<T, N> a) {                        \
    vec<bool, N> r;                                                                    \
    for (int i = 0; i < N; ++i) (&r.x)[i] = f((&a.x)[i]);                              \
    return r;                                                                          \
  }
__MSL uint __magnitude(float x) { return __builtin_astype(x, uint) & 0x7fffffffu; }
__MSL_TEST(isnan, __magnitude(x) > 0x7f800000u)
__MSL_TEST(isinf, __magnitude(x) == 0x7f800000u)
__MSL_TEST(isfinite, __magnitude(x) < 0x7f800000u)
__MSL_TEST(signbit, (__builtin_astype(x, uint) >> 31) != 0)
__MSL bool isnormal(float x) { return __magnitude(x) - 0x00800000u < 0x7f000000u; }
__MSL bool isnormal(half x) { return (__builtin_astype(x, ushort) & 0x7fffu) - 0x0400u < 0x7800u; }
__MSL bool isordered(float x, float y) { return x == x && y == y; }
__MSL bool isunordered(float x, float y) { return x != x || y != y; }
template <int N> __MSL bool all(vec<bool, N> v) { bool r = true; for (int i = 0; i < N; ++i) r &= (&v.x)[i]; return r; }
template <int N> __MSL bool any(vec<bool, N> v) { bool r = false; for (int i = 0; i < N; ++i) r |= (&v.x)[i]; return r; }
__MSL bool all(bool v) { return v; }
__MSL bool any(bool v) { return v; }
template <class T, int N> __MSL vec<T, N> select(vec<T, N> a, vec<T, N> b, vec<bool, N> c) {
  vec<T, N> r;
  for (int i = 0; i < N; ++i) (&r.x)[i] = (&c.x)[i] ? (&b.x)[i] : (&a.x)[i];
  return r;
}

// Both kinds, by type.
#define __MSL_SCALARS(X) X(char) X(uchar) X(short) X(ushort) X(int) X(uint) X(long) X(ulong)
#define __MSL_SELECT(T) __MSL T select(T a, T b, bool c) { return c ? b : a; }
__MSL_SCALARS(__MSL_SELECT) __MSL_SELECT(half) __MSL_SELECT(float) __MSL_SELECT(bfloat) __MSL_SELECT(bool)
#undef __MSL_SELECT
#define __MSL_ORDER(T)                                                                     \
  __MSL T min(T x, T y) { return y < x ? y : x; }                                          \
  __MSL T max(T x, T y) { return x < y ? y : x; }                                          \
  __MSL T clamp(T x, T low, T high) { return min(max(x, low), high); }                     \
  __MSL T min3(T x, T y, T z) { return min(x, min(y, z)); }                                \
  __MSL T max3(T x, T y, T z) { return max(x, max(y, z)); }                                \
  __MSL T median3(T x, T y, T z) { return max(min(x, y), min(max(x, y), z)); }
__MSL_SCALARS(__MSL_ORDER)
#undef __MSL_ORDER
#define __MSL_ORDER(T)                                                                     \
  __MSL T min(T x, T y) { return fmin(x, y); }                                             \
  __MSL T max(T x, T y) { return fmax(x, y); }                                             \
  __MSL T clamp(T x, T low, T high) { return fmin(fmax(x, low), high); }                   \
  __MSL T min3(T x, T y, T z) { return fmin(x, fmin(y, z)); }                              \
  __MSL T max3(T x, T y, T z) { return fmax(x, fmax(y, z)); }                              \
  __MSL T median3(T x, T y, T z) { return fmax(fmin(x, y), fmin(fmax(x, y), z)); }         \
  __MSL T abs(T x) { return fabs(x); }
__MSL_ORDER(float) __MSL_ORDER(half)
#undef __MSL_ORDER
__MSL_LIFT2(min) __MSL_LIFT2(max) __MSL_LIFT3(clamp) __MSL_LIFT3(min3) __MSL_LIFT3(max3) __MSL_LIFT3(median3)

// Geometric.
template <class T, int N> __MSL T dot(vec<T, N> a, vec<T, N> b) {
  T r = a.x * b.x;
  for (int i = 1; i < N; ++i) r = r + (&a.x)[i] * (&b.x)[i];
  return r;
}
template <class T, int N> __MSL T length_squared(vec<T, N> a) { return dot(a, a); }
template <class T, int N> __MSL T length(vec<T, N> a) { return sqrt(dot(a, a)); }
template <class T, int N> __MSL T distance(vec<T, N> a, vec<T, N> b) { return length(a - b); }
template <class T, int N> __MSL vec<T, N> normalize(vec<T, N> a) { return a * rsqrt(dot(a, a)); }

namespace precise {
#define __MSL_SAME(f) using metal::f;
#define __MSL_ALL_FLOAT(X)                                                                                               \
  X(fabs) X(ceil) X(floor) X(trunc) X(rint) X(round) X(sqrt) X(rsqrt) X(sin) X(cos) X(tan) X(asin) X(acos) X(atan) X(sinh) \
  X(cosh) X(tanh) X(asinh) X(acosh) X(atanh) X(exp) X(exp2) X(exp10) X(log) X(log2) X(log10) X(sinpi) X(cospi) X(tanpi)  \
  X(fract) X(fmin) X(fmax) X(pow) X(powr) X(atan2) X(fmod) X(copysign) X(fdim) X(fma) X(ldexp) X(frexp) X(modf) X(sincos) \
  X(abs) X(min) X(max) X(clamp) X(mix) X(saturate) X(sign) X(smoothstep) X(step) X(fmin3) X(fmax3) X(min3) X(max3) X(median3)
// abs of integers comes with <integer.h>.
__MSL_ALL_FLOAT(__MSL_SAME)
}  // namespace precise
namespace fast {
__MSL_ALL_FLOAT(__MSL_SAME)
}  // namespace fast
}  // namespace metal
