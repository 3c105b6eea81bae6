// Number formats narrower than f64 and PTX's rounding modes. Everything is rounded once, from a double that is
// either exact or "rounded to odd" (Boldo and Melquiond, "Emulation of FMA and correctly rounded sums", 2008): such a
// double carries a sticky last bit, so a second rounding to 24 bits or fewer gives the correctly rounded result.
#pragma once

#include <bit>
#include <cmath>
#include <cstdint>
#include <limits>

namespace vcuda {

enum class Round : uint8_t { Nearest, Zero, Down, Up, Away };  // .rn .rz .rm .rp .rna

inline uint32_t bitsOf(float x) { return std::bit_cast<uint32_t>(x); }
inline uint64_t bitsOf(double x) { return std::bit_cast<uint64_t>(x); }
inline float asFloat(uint32_t x) { return std::bit_cast<float>(x); }
inline double asDouble(uint64_t x) { return std::bit_cast<double>(x); }

/** Subnormal f32 to zero of the same sign (.ftz). */
inline float flush(float x) { return (bitsOf(x) & 0x7f800000u) == 0 ? asFloat(bitsOf(x) & 0x80000000u) : x; }

constexpr uint32_t kNaN32 = 0x7fffffffu;  // the f32 NaN that PTX instructions make
constexpr uint16_t kNaN16 = 0x7fffu;      // of f16 and of bf16

/** f32 results that are NaN become the canonical NaN. */
inline float canonical(float x) { return x != x ? asFloat(kNaN32) : x; }

/** A binary format with an implied leading bit: where the largest exponent field means Inf/NaN unless `finite`. */
struct Format {
  int exponentBits;
  int fractionBits;
  bool finite;         // e4m3: no infinities, only S.1111.111 is NaN
  int bias() const { return (1 << (exponentBits - 1)) - 1; }
};
constexpr Format kHalf{5, 10, false}, kBfloat{8, 7, false}, kTf32{8, 10, false}, kSingle{8, 23, false},
    kE4M3{4, 3, true}, kE5M2{5, 2, false}, kE2M1{2, 1, true};

/** The bits of `x` in `format`. Overflow gives Inf (or the largest finite, as the mode says; always with `saturate`). */
inline uint32_t roundTo(const Format& format, double x, Round mode, bool saturate = false) {
  const uint64_t bits = bitsOf(x);
  const uint32_t sign = uint32_t(bits >> 63) << (format.exponentBits + format.fractionBits);
  const bool negative = bits >> 63;
  const uint32_t exponentMax = (1u << format.exponentBits) - 1;
  const uint32_t infinity = exponentMax << format.fractionBits;
  const uint32_t nan = infinity | ((1u << format.fractionBits) - 1);
  const uint32_t largest = format.finite ? nan - 1 : infinity - 1;
  if (x != x) return nan;
  if (std::isinf(x)) {
    if (saturate) return sign | largest;
    return format.finite ? (sign | nan) : (sign | infinity);
  }
  if (x == 0) return sign;
  int exponent = int((bits >> 52) & 0x7ff) - 1023;
  uint64_t fraction = bits & ((uint64_t(1) << 52) - 1);
  if (exponent == -1023) {
    const int shift = std::countl_zero(fraction) - 11;
    fraction = (fraction << shift) & ((uint64_t(1) << 52) - 1);
    exponent -= shift - 1;
  }
  uint64_t significand = fraction | (uint64_t(1) << 52);
  int field = exponent + format.bias();
  int drop = 52 - format.fractionBits;
  if (field < 1) {
    drop += 1 - field;
    field = 0;
  }
  uint64_t kept, rest, half;
  if (drop > 62) {
    kept = 0;
    rest = 1;
    half = 2;
  } else {
    kept = significand >> drop;
    rest = significand & ((uint64_t(1) << drop) - 1);
    half = uint64_t(1) << (drop - 1);
  }
  bool up = false;
  switch (mode) {
    case Round::Nearest: up = rest > half || (rest == half && (kept & 1)); break;
    case Round::Away: up = rest >= half; break;
    case Round::Zero: break;
    case Round::Down: up = negative && rest; break;
    case Round::Up: up = !negative && rest; break;
  }
  kept += up;
  // A normal number's leading bit adds one to the exponent field; so does a carry out of the fraction.
  uint64_t magnitude = (field == 0 ? 0 : (uint64_t(field) - 1) << format.fractionBits) + kept;
  if (magnitude > largest) {
    const bool toLargest = saturate || mode == Round::Zero || (mode == Round::Down && !negative) ||
                           (mode == Round::Up && negative);
    magnitude = toLargest ? largest : format.finite ? nan : infinity;
  }
  return sign | uint32_t(magnitude);
}

/** The value of the format's bits. */
inline double valueOf(const Format& format, uint32_t bits) {
  const uint32_t fractionMask = (1u << format.fractionBits) - 1;
  const uint32_t exponentMax = (1u << format.exponentBits) - 1;
  const uint32_t fraction = bits & fractionMask;
  const uint32_t exponent = (bits >> format.fractionBits) & exponentMax;
  const double sign = (bits >> (format.fractionBits + format.exponentBits)) & 1 ? -1.0 : 1.0;
  if (exponent == exponentMax) {
    if (!format.finite) return fraction ? std::numeric_limits<double>::quiet_NaN() : sign * INFINITY;
    if (format.fractionBits == 3 && fraction == fractionMask) return std::numeric_limits<double>::quiet_NaN();
  }
  if (exponent == 0) return sign * std::ldexp(double(fraction), 1 - format.bias() - format.fractionBits);
  return sign * std::ldexp(double(fraction | (fractionMask + 1)), int(exponent) - format.bias() - format.fractionBits);
}

inline float fromHalf(uint16_t x) { return float(std::bit_cast<_Float16>(x)); }
inline uint16_t toHalf(float x) { return x != x ? kNaN16 : std::bit_cast<uint16_t>(_Float16(x)); }
inline float fromBfloat(uint16_t x) { return asFloat(uint32_t(x) << 16); }
inline uint16_t toBfloat(float x) {
  const uint32_t b = bitsOf(x);
  return x != x ? kNaN16 : uint16_t((b + 0x7fffu + ((b >> 16) & 1)) >> 16);
}

/** The exact `sum = s + error` folded into one double whose last bit is sticky. */
inline double toOdd(double s, double error) {
  if (error == 0 || std::isnan(error) || std::isinf(s)) return s;
  uint64_t b = bitsOf(s);
  if (b & 1) return s;
  if (s == 0) return error;  // cannot happen for sums of f32 products; kept exact in any case
  return asDouble((error > 0) == (s > 0) ? b + 1 : b - 1);
}

/** a + b with a sticky last bit (Knuth's two-sum). */
inline double addOdd(double a, double b) {
  const double s = a + b, t = s - a;
  return toOdd(s, (a - (s - t)) + (b - t));
}

/** a / b with a sticky last bit, for operands of 24 bits or fewer. */
inline double divOdd(double a, double b) {
  const double q = a / b;
  if (!std::isfinite(q) || q == 0) return q;
  const double r = std::fma(-q, b, a);
  return toOdd(q, (b > 0) ? r : -r);
}

inline double sqrtOdd(double a) {
  const double s = std::sqrt(a);
  if (!std::isfinite(s) || s == 0) return s;
  return toOdd(s, std::fma(-s, s, a));
}

/** An exactly known or sticky double to f32 in any mode. */
inline float toSingle(double x, Round mode) {
  if (x != x) return asFloat(kNaN32);
  if (mode == Round::Nearest) return float(x);
  return asFloat(roundTo(kSingle, x, mode));
}

/** x rounded to an integer in the mode (.rni .rzi .rmi .rpi). */
inline double roundIntegral(double x, Round mode) {
  switch (mode) {
    case Round::Nearest: return std::nearbyint(x);
    case Round::Zero: return std::trunc(x);
    case Round::Down: return std::floor(x);
    case Round::Up: return std::ceil(x);
    case Round::Away: return std::round(x);
  }
  return x;
}

}  // namespace vcuda
