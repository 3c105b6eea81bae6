// Keywords and scalar types of the Metal Shading Language, on clang's C++ for OpenCL: that mode gives address spaces
// that are checked, shift counts taken modulo the width, half arithmetic that rounds each time, and literals as float.
#pragma once
#pragma OPENCL EXTENSION cl_khr_fp16 : enable
#pragma OPENCL EXTENSION __cl_clang_function_pointers : enable

#define device __global
#define threadgroup __local
#define thread __private
#undef kernel
#define kernel

// Keywords and predeclared types of OpenCL that are plain names in Metal.
#define global __msl_name_global
#define local __msl_name_local
#define private __msl_name_private_
#define generic __msl_name_generic
#define pipe __msl_name_pipe
#define uniform __msl_name_uniform
#define read_only __msl_name_read_only
#define write_only __msl_name_write_only
#define read_write __msl_name_read_write
#define vec_step __msl_name_vec_step
#define event_t __msl_name_event_t
#define queue_t __msl_name_queue_t
#define sampler_t __msl_name_sampler_t
#define atomic_int __msl_name_atomic_int
#define atomic_uint __msl_name_atomic_uint
#define atomic_long __msl_name_atomic_long
#define atomic_ulong __msl_name_atomic_ulong
#define atomic_float __msl_name_atomic_float
#define atomic_double __msl_name_atomic_double
#define atomic_flag __msl_name_atomic_flag
#define atomic_half __msl_name_atomic_half
#undef private

#define __METAL__ 1
#define __METAL_VERSION__ 310
#define __METAL_MACOS__ 1
#define METAL_FUNC inline __attribute__((always_inline))
#define __MSL inline __attribute__((always_inline))

// The limits and constants of <metal_stdlib>.
#define INFINITY __builtin_inff()
#define HUGE_VALF __builtin_inff()
#define HUGE_VALH half(__builtin_inff())
#define NAN __builtin_nanf("")
#define FLT_MAX 0x1.fffffep127f
#define MAXFLOAT FLT_MAX
#define FLT_MIN 0x1p-126f
#define FLT_EPSILON 0x1p-23f
#define HALF_MAX 65504.0h
#define MAXHALF HALF_MAX
#define HALF_MIN 0x1p-14h
#define HALF_EPSILON 0x1p-10h
#define CHAR_BIT 8
#define CHAR_MAX 127
#define CHAR_MIN (-128)
#define UCHAR_MAX 255
#define SHRT_MAX 32767
#define SHRT_MIN (-32768)
#define USHRT_MAX 65535
#define INT_MAX 2147483647
#define INT_MIN (-2147483647 - 1)
#define UINT_MAX 4294967295u
#define LONG_MAX 0x7fffffffffffffffL
#define LONG_MIN (-LONG_MAX - 1)
#define ULONG_MAX 0xffffffffffffffffUL
#define M_E_F 2.71828182845904523536f
#define M_LOG2E_F 1.44269504088896340736f
#define M_LOG10E_F 0.434294481903251827651f
#define M_LN2_F 0.693147180559945309417f
#define M_LN10_F 2.30258509299404568402f
#define M_PI_F 3.14159265358979323846f
#define M_PI_2_F 1.57079632679489661923f
#define M_PI_4_F 0.785398163397448309616f
#define M_1_PI_F 0.318309886183790671538f
#define M_2_PI_F 0.636619772367581343076f
#define M_2_SQRTPI_F 1.12837916709551257390f
#define M_SQRT2_F 1.41421356237309504880f
#define M_SQRT1_2_F 0.707106781186547524401f

namespace metal {
typedef unsigned char uchar;
typedef unsigned short ushort;
typedef unsigned int uint;
typedef unsigned long ulong;
typedef signed char int8_t;
typedef unsigned char uint8_t;
typedef short int16_t;
typedef unsigned short uint16_t;
typedef int int32_t;
typedef unsigned int uint32_t;
typedef long int64_t;
typedef unsigned long uint64_t;
typedef __SIZE_TYPE__ size_t;
typedef __PTRDIFF_TYPE__ ptrdiff_t;
typedef unsigned long uintptr_t;
typedef long intptr_t;

// Traits, as far as kernels use them.
template <class T, T V> struct integral_constant { static constexpr __constant T value = V; };
template <bool V> struct bool_constant { static constexpr __constant bool value = V; };
typedef bool_constant<true> true_type;
typedef bool_constant<false> false_type;
template <class A, class B> struct is_same : false_type {};
template <class A> struct is_same<A, A> : true_type {};
template <class A, class B> constexpr __constant bool is_same_v = __is_same(A, B);
template <bool C, class T = void> struct enable_if {};
template <class T> struct enable_if<true, T> { typedef T type; };
template <bool C, class T = void> using enable_if_t = typename enable_if<C, T>::type;
template <bool C, class A, class B> struct conditional { typedef A type; };
template <class A, class B> struct conditional<false, A, B> { typedef B type; };
template <bool C, class A, class B> using conditional_t = typename conditional<C, A, B>::type;
template <class T> struct remove_const { typedef T type; };
template <class T> struct remove_const<const T> { typedef T type; };
/**
 * The value of an operand of `?:`, which clang wants in one address space: the front end writes `__value *` before both.
 * `*` binds tighter than what may follow, and the type stays.
 */
enum __value_of { __value };
template <class T> constexpr __attribute__((always_inline)) T operator*(__value_of, T v) { return v; }
/** A parameter that does not take part in deduction. */
template <class T> struct __as_is { typedef T type; };

/** 16 bits of a float: each operation is done as float and rounded to nearest, ties to even. */
struct bfloat {
  ushort __bits;

  bfloat() = default;
  __MSL bfloat(float v) { __bits = __round(v); }
  __MSL bfloat(half v) { __bits = __round(float(v)); }
  __MSL bfloat(bool v) { __bits = v ? 0x3f80 : 0; }
  // An integer is rounded once, not first to float.
  __MSL bfloat(int v) { __bits = __integer(v < 0, v < 0 ? 0ul - ulong(v) : ulong(v)); }
  __MSL bfloat(uint v) { __bits = __integer(false, v); }
  __MSL bfloat(long v) { __bits = __integer(v < 0, v < 0 ? 0ul - ulong(v) : ulong(v)); }
  __MSL bfloat(ulong v) { __bits = __integer(false, v); }
  __MSL bfloat(const __constant bfloat& o) { __bits = o.__bits; }
  bfloat(const bfloat&) = default;
  bfloat& operator=(const bfloat&) = default;
  template <class C, class = enable_if_t<__is_same(C, bfloat)>> __MSL bfloat& operator=(const __constant C& o) {
    __bits = o.__bits;
    return *this;
  }

  __MSL operator float() const { return __builtin_astype(uint(__bits) << 16, float); }
  __MSL operator float() const __constant { return __builtin_astype(uint(__bits) << 16, float); }

  static __MSL ushort __round(float v) {
    const uint b = __builtin_astype(v, uint);
    if ((b & 0x7fffffffu) > 0x7f800000u) return ushort((b >> 16) | 0x40);
    return ushort((b + 0x7fffu + ((b >> 16) & 1u)) >> 16);
  }
  static __MSL ushort __integer(bool negative, ulong m) {
    // Bits below the 24 that a float keeps become one sticky bit, which is below the 8 of a bfloat.
    const int drop = m >> 24 ? 40 - __builtin_clzl(m) : 0;
    const ulong kept = (m >> drop) | ulong((m & ((1ul << drop) - 1)) != 0);
    float f = float(uint(kept));
    f *= __builtin_astype(uint(127 + drop) << 23, float);
    return __round(negative ? -f : f);
  }
};

#define __MSL_BFLOAT(op)                                                                    \
  template <class A, class = enable_if_t<__is_same(A, bfloat)>> __MSL A operator op(A a, A b) { \
    return bfloat(float(a) op float(b));                                                    \
  }                                                                                         \
  template <class B> __MSL bfloat& operator op##=(bfloat& a, B b) {                         \
    a = bfloat(a op b);                                                                     \
    return a;                                                                               \
  }
__MSL_BFLOAT(+) __MSL_BFLOAT(-) __MSL_BFLOAT(*) __MSL_BFLOAT(/)
#undef __MSL_BFLOAT
template <class A, class = enable_if_t<__is_same(A, bfloat)>> __MSL A operator-(A a) {
  a.__bits ^= 0x8000;
  return a;
}

template <class T> struct numeric_limits { static constexpr __constant bool is_specialized = false; };
#define __MSL_INTEGER_LIMITS(T, LOW, HIGH)                          \
  template <> struct numeric_limits<T> {                            \
    static constexpr __constant bool is_specialized = true;         \
    static constexpr __constant bool is_integer = true;             \
    static constexpr T min() { return T(LOW); }                     \
    static constexpr T lowest() { return T(LOW); }                  \
    static constexpr T max() { return T(HIGH); }                    \
  };
__MSL_INTEGER_LIMITS(char, -128, 127) __MSL_INTEGER_LIMITS(uchar, 0, 255) __MSL_INTEGER_LIMITS(short, -32768, 32767)
__MSL_INTEGER_LIMITS(ushort, 0, 65535) __MSL_INTEGER_LIMITS(int, INT_MIN, INT_MAX) __MSL_INTEGER_LIMITS(uint, 0, UINT_MAX)
__MSL_INTEGER_LIMITS(long, LONG_MIN, LONG_MAX) __MSL_INTEGER_LIMITS(ulong, 0, ULONG_MAX)
#undef __MSL_INTEGER_LIMITS
template <> struct numeric_limits<float> {
  static constexpr __constant bool is_specialized = true;
  static constexpr __constant bool is_integer = false;
  static constexpr float min() { return FLT_MIN; }
  static constexpr float lowest() { return -FLT_MAX; }
  static constexpr float max() { return FLT_MAX; }
  static constexpr float epsilon() { return FLT_EPSILON; }
  static constexpr float infinity() { return __builtin_inff(); }
  static constexpr float quiet_NaN() { return __builtin_nanf(""); }
};
template <> struct numeric_limits<half> {
  static constexpr __constant bool is_specialized = true;
  static constexpr __constant bool is_integer = false;
  static constexpr half min() { return HALF_MIN; }
  static constexpr half lowest() { return -HALF_MAX; }
  static constexpr half max() { return HALF_MAX; }
  static constexpr half epsilon() { return HALF_EPSILON; }
  static constexpr half infinity() { return half(__builtin_inff()); }
  static constexpr half quiet_NaN() { return half(__builtin_nanf("")); }
};
template <> struct numeric_limits<bfloat> {
  static constexpr __constant bool is_specialized = true;
  static constexpr __constant bool is_integer = false;
  static __MSL bfloat __of(ushort bits) { bfloat b; b.__bits = bits; return b; }
  static __MSL bfloat min() { return __of(0x0080); }
  static __MSL bfloat lowest() { return __of(0xff7f); }
  static __MSL bfloat max() { return __of(0x7f7f); }
  static __MSL bfloat epsilon() { return __of(0x3c00); }
  static __MSL bfloat infinity() { return __of(0x7f80); }
  static __MSL bfloat quiet_NaN() { return __of(0x7fc0); }
};
}  // namespace metal
