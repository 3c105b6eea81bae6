// Integer arithmetic, shifts, bit fields, extended precision and dot products.
#include <algorithm>
#include <bit>
#include <limits>
#include <type_traits>

#include "lower.h"

namespace vcuda {
namespace {

template <class T>
using Unsigned = std::make_unsigned_t<T>;
template <class T>
using Wide = std::conditional_t<sizeof(T) == 2, std::conditional_t<std::is_signed_v<T>, int32_t, uint32_t>,
                                std::conditional_t<sizeof(T) == 4, std::conditional_t<std::is_signed_v<T>, int64_t, uint64_t>,
                                                   std::conditional_t<std::is_signed_v<T>, __int128, unsigned __int128>>>;

template <class T>
T wrapAdd(T a, T b) { return T(Unsigned<T>(Unsigned<T>(a) + Unsigned<T>(b))); }
template <class T>
T wrapSub(T a, T b) { return T(Unsigned<T>(Unsigned<T>(a) - Unsigned<T>(b))); }
template <class T>
T mulLow(T a, T b) { return T(uint64_t(Unsigned<T>(a)) * uint64_t(Unsigned<T>(b))); }
template <class T>
T mulHigh(T a, T b) { return T((Wide<T>(a) * Wide<T>(b)) >> (8 * sizeof(T))); }
/** Division by zero is unspecified in PTX; the quotient of all ones is what the hardware gives. */
template <class T>
T divide(T a, T b) {
  if (b == 0) return T(~T(0));
  if constexpr (std::is_signed_v<T>)
    if (b == -1) return wrapSub<T>(0, a);
  return T(a / b);
}
template <class T>
T remainder(T a, T b) {
  if (b == 0) return a;
  if constexpr (std::is_signed_v<T>)
    if (b == -1) return 0;
  return T(a % b);
}
inline int32_t saturate(int64_t x) { return int32_t(std::clamp<int64_t>(x, std::numeric_limits<int32_t>::min(), std::numeric_limits<int32_t>::max())); }

Type integerType(Assembler& a) {
  const Type t = a.takeType();
  if (!isInteger(t) || bitsOf(t) < 16) a.fail("the type is .u16, .u32, .u64, .s16, .s32 or .s64");
  return t;
}

/** Lane-wise packed .u16x2/.s16x2 (sm_90). */
template <class F>
void packed16(Warp& w, const Op& o, uint32_t m) {
  const uint32_t *x = w.reg<uint32_t>(o.r[1]), *y = w.reg<uint32_t>(o.r[2]);
  lanes(w.reg<uint32_t>(o.r[0]), m, [&](int l) {
    return uint32_t(uint16_t(F{}(int16_t(x[l]), int16_t(y[l])))) | uint32_t(uint16_t(F{}(int16_t(x[l] >> 16), int16_t(y[l] >> 16)))) << 16;
  });
}

#define INTEGER_BINARY(NAME, EXPRESSION)                                                             \
  void lower##NAME(Assembler& a) {                                                                   \
    const Type t = integerType(a);                                                                   \
    a.expectOperands(3);                                                                             \
    a.emit(byInteger(t, []<class T>() -> Handler { return op2<T, T, T>([](T x, T y) { return T(EXPRESSION); }); }), \
           {a.destination(0, t), a.source(1, t), a.source(2, t)});                                   \
  }

INTEGER_BINARY(Div, divide<T>(x, y))
INTEGER_BINARY(Rem, remainder<T>(x, y))
#undef INTEGER_BINARY

enum class AddKind { Add, Sub };
template <AddKind kind>
void lowerAddSub(Assembler& a) {
  const bool sat = a.take("sat");
  for (const bool isSignedPair : {true, false})
    if (a.take(isSignedPair ? "s16x2" : "u16x2")) {
      a.require(90, 80);
      if (kind == AddKind::Sub) a.fail("sub of packed 16-bit integers is not known to this device");
      a.expectOperands(3);
      const auto add = [](int16_t x, int16_t y) { return int16_t(x + y); };
      a.emit(packed16<decltype(add)>, {a.destination(0, Type::B32), a.source(1, Type::B32), a.source(2, Type::B32)});
      return;
    }
  const Type t = integerType(a);
  a.expectOperands(3);
  const std::initializer_list<uint32_t> operands = {a.destination(0, t), a.source(1, t), a.source(2, t)};
  if (sat) {
    if (t != Type::S32) a.fail(".sat is of .s32");
    a.emit(op2<int32_t, int32_t, int32_t>([](int32_t x, int32_t y) { return saturate(kind == AddKind::Add ? int64_t(x) + y : int64_t(x) - y); }), operands);
    return;
  }
  a.emit(byInteger(t, []<class T>() -> Handler { return op2<T, T, T>([](T x, T y) { return kind == AddKind::Add ? wrapAdd(x, y) : wrapSub(x, y); }); }), operands);
}

void lowerMulInteger(Assembler& a) {
  const int part = a.takeOne({"lo", "hi", "wide"});
  const Type t = integerType(a);
  a.expectOperands(3);
  if (part < 0) a.fail("an integer mul is .lo, .hi or .wide");
  if (part == 2) {
    if (bitsOf(t) == 64) a.fail("mul.wide is of 16 or 32 bits");
    const Type d = t == Type::U16 ? Type::U32 : t == Type::S16 ? Type::S32 : t == Type::U32 ? Type::U64 : Type::S64;
    const Handler h = t == Type::U16   ? op2<uint32_t, uint16_t, uint16_t>([](uint16_t x, uint16_t y) { return uint32_t(x) * y; })
                      : t == Type::S16 ? op2<int32_t, int16_t, int16_t>([](int16_t x, int16_t y) { return int32_t(x) * y; })
                      : t == Type::U32 ? op2<uint64_t, uint32_t, uint32_t>([](uint32_t x, uint32_t y) { return uint64_t(x) * y; })
                                       : op2<int64_t, int32_t, int32_t>([](int32_t x, int32_t y) { return int64_t(x) * y; });
    a.emit(h, {a.destination(0, d), a.source(1, t), a.source(2, t)});
    return;
  }
  const std::initializer_list<uint32_t> operands = {a.destination(0, t), a.source(1, t), a.source(2, t)};
  if (part == 0) a.emit(byInteger(t, []<class T>() -> Handler { return op2<T, T, T>([](T x, T y) { return mulLow(x, y); }); }), operands);
  else a.emit(byInteger(t, []<class T>() -> Handler { if constexpr (sizeof(T) == 1) return nullptr; else return op2<T, T, T>([](T x, T y) { return mulHigh(x, y); }); }), operands);
}

void lowerMadInteger(Assembler& a) {
  const int part = a.takeOne({"lo", "hi", "wide"});
  const bool sat = a.take("sat");
  const Type t = integerType(a);
  a.expectOperands(4);
  if (part < 0) a.fail("an integer mad is .lo, .hi or .wide");
  if (sat && (part != 1 || t != Type::S32)) a.fail(".sat is of mad.hi.s32");
  if (part == 2) {
    if (bitsOf(t) == 64) a.fail("mad.wide is of 16 or 32 bits");
    const Type d = t == Type::U16 ? Type::U32 : t == Type::S16 ? Type::S32 : t == Type::U32 ? Type::U64 : Type::S64;
    const Handler h = t == Type::U16   ? op3<uint32_t, uint16_t, uint16_t, uint32_t>([](uint16_t x, uint16_t y, uint32_t z) { return uint32_t(x) * y + z; })
                      : t == Type::S16 ? op3<uint32_t, int16_t, int16_t, uint32_t>([](int16_t x, int16_t y, uint32_t z) { return uint32_t(int32_t(x) * y) + z; })
                      : t == Type::U32 ? op3<uint64_t, uint32_t, uint32_t, uint64_t>([](uint32_t x, uint32_t y, uint64_t z) { return uint64_t(x) * y + z; })
                                       : op3<uint64_t, int32_t, int32_t, uint64_t>([](int32_t x, int32_t y, uint64_t z) { return uint64_t(int64_t(x) * y) + z; });
    a.emit(h, {a.destination(0, d), a.source(1, t), a.source(2, t), a.source(3, d)});
    return;
  }
  const std::initializer_list<uint32_t> operands = {a.destination(0, t), a.source(1, t), a.source(2, t), a.source(3, t)};
  if (sat) a.emit(op3<int32_t, int32_t, int32_t, int32_t>([](int32_t x, int32_t y, int32_t z) { return saturate(int64_t(mulHigh(x, y)) + z); }), operands);
  else if (part == 0) a.emit(byInteger(t, []<class T>() -> Handler { return op3<T, T, T, T>([](T x, T y, T z) { return wrapAdd(mulLow(x, y), z); }); }), operands);
  else a.emit(byInteger(t, []<class T>() -> Handler { if constexpr (sizeof(T) == 1) return nullptr; else return op3<T, T, T, T>([](T x, T y, T z) { return wrapAdd(mulHigh(x, y), z); }); }), operands);
}

inline int32_t low24(int32_t x) { return int32_t(uint32_t(x) << 8) >> 8; }

void lowerMul24(Assembler& a) {
  const int part = a.takeOne({"lo", "hi"});
  const Type t = a.takeType();
  if (part < 0 || (t != Type::U32 && t != Type::S32)) a.fail("mul24 is .lo or .hi of .u32 or .s32");
  a.expectOperands(3);
  const std::initializer_list<uint32_t> operands = {a.destination(0, t), a.source(1, t), a.source(2, t)};
  const Handler h = t == Type::U32
      ? (part == 0 ? op2<uint32_t, uint32_t, uint32_t>([](uint32_t x, uint32_t y) { return uint32_t(uint64_t(x & 0xffffff) * (y & 0xffffff)); })
                   : op2<uint32_t, uint32_t, uint32_t>([](uint32_t x, uint32_t y) { return uint32_t((uint64_t(x & 0xffffff) * (y & 0xffffff)) >> 16); }))
      : (part == 0 ? op2<int32_t, int32_t, int32_t>([](int32_t x, int32_t y) { return int32_t(int64_t(low24(x)) * low24(y)); })
                   : op2<int32_t, int32_t, int32_t>([](int32_t x, int32_t y) { return int32_t((int64_t(low24(x)) * low24(y)) >> 16); }));
  a.emit(h, operands);
}

void lowerMad24(Assembler& a) {
  const int part = a.takeOne({"lo", "hi"});
  const bool sat = a.take("sat");
  const Type t = a.takeType();
  if (part < 0 || (t != Type::U32 && t != Type::S32)) a.fail("mad24 is .lo or .hi of .u32 or .s32");
  if (sat && (part != 1 || t != Type::S32)) a.fail(".sat is of mad24.hi.s32");
  a.expectOperands(4);
  const std::initializer_list<uint32_t> operands = {a.destination(0, t), a.source(1, t), a.source(2, t), a.source(3, t)};
  Handler h;
  if (t == Type::U32)
    h = part == 0 ? op3<uint32_t, uint32_t, uint32_t, uint32_t>([](uint32_t x, uint32_t y, uint32_t z) { return uint32_t(uint64_t(x & 0xffffff) * (y & 0xffffff)) + z; })
                  : op3<uint32_t, uint32_t, uint32_t, uint32_t>([](uint32_t x, uint32_t y, uint32_t z) { return uint32_t((uint64_t(x & 0xffffff) * (y & 0xffffff)) >> 16) + z; });
  else if (sat)
    h = op3<int32_t, int32_t, int32_t, int32_t>([](int32_t x, int32_t y, int32_t z) { return saturate(((int64_t(low24(x)) * low24(y)) >> 16) + z); });
  else
    h = part == 0 ? op3<uint32_t, int32_t, int32_t, uint32_t>([](int32_t x, int32_t y, uint32_t z) { return uint32_t(int64_t(low24(x)) * low24(y)) + z; })
                  : op3<uint32_t, int32_t, int32_t, uint32_t>([](int32_t x, int32_t y, uint32_t z) { return uint32_t((int64_t(low24(x)) * low24(y)) >> 16) + z; });
  a.emit(h, operands);
}

void lowerSad(Assembler& a) {
  const Type t = integerType(a);
  a.expectOperands(4);
  a.emit(byInteger(t, []<class T>() -> Handler { return op3<T, T, T, T>([](T x, T y, T z) { return wrapAdd(z, x < y ? wrapSub(y, x) : wrapSub(x, y)); }); }),
         {a.destination(0, t), a.source(1, t), a.source(2, t), a.source(3, t)});
}

/** Shift amounts are .u32 and clamp at the width. */
void lowerShl(Assembler& a) {
  const Type t = a.takeType();
  if (t != Type::B16 && t != Type::B32 && t != Type::B64) a.fail("shl is of .b16, .b32 or .b64");
  a.expectOperands(3);
  a.emit(byInteger(t, []<class T>() -> Handler { return op2<T, T, uint32_t>([](T x, uint32_t n) { return n >= 8 * sizeof(T) ? T(0) : T(uint64_t(x) << (n & 63)); }); }),
         {a.destination(0, t), a.source(1, t), a.source(2, Type::U32)});
}
void lowerShr(Assembler& a) {
  const Type t = a.takeType();
  if (bitsOf(t) < 16 || isFloat(t) || t == Type::Pred) a.fail("shr is of 16, 32 or 64 bits");
  a.expectOperands(3);
  a.emit(byInteger(t, []<class T>() -> Handler {
           return op2<T, T, uint32_t>([](T x, uint32_t n) {
             constexpr uint32_t width = 8 * sizeof(T);
             if constexpr (std::is_signed_v<T>) return T(x >> (n >= width ? width - 1 : n));
             else return n >= width ? T(0) : T(x >> n);
           });
         }),
         {a.destination(0, t), a.source(1, t), a.source(2, Type::U32)});
}

void lowerShf(Assembler& a) {
  const int direction = a.takeOne({"l", "r"}), mode = a.takeOne({"clamp", "wrap"});
  if (direction < 0 || mode < 0 || a.takeType() != Type::B32) a.fail("shf is .l or .r, .clamp or .wrap, .b32");
  a.expectOperands(4);
  Op& op = a.emit(
      [](Warp& w, const Op& o, uint32_t m) {
        const uint32_t *lo = w.reg<uint32_t>(o.r[1]), *hi = w.reg<uint32_t>(o.r[2]), *c = w.reg<uint32_t>(o.r[3]);
        lanes(w.reg<uint32_t>(o.r[0]), m, [&](int l) {
          const uint32_t n = o.imm2 ? c[l] & 31 : std::min<uint32_t>(c[l], 32);
          const uint64_t both = uint64_t(hi[l]) << 32 | lo[l];
          return o.imm ? uint32_t(both >> n) : uint32_t((both << n) >> 32);
        });
      },
      {a.destination(0, Type::B32), a.source(1, Type::B32), a.source(2, Type::B32), a.source(3, Type::U32)});
  op.imm = direction;
  op.imm2 = mode;
}

/** abs and neg of integers; the float forms share the opcode. */
void lowerAbsInteger(Assembler& a) {
  const Type t = integerType(a);
  if (!isSigned(t)) a.fail("abs is of signed integers");
  a.expectOperands(2);
  a.emit(byInteger(t, []<class T>() -> Handler { return op1<T, T>([](T x) { return x < 0 ? wrapSub<T>(0, x) : x; }); }), {a.destination(0, t), a.source(1, t)});
}
void lowerNegInteger(Assembler& a) {
  const Type t = integerType(a);
  if (!isSigned(t)) a.fail("neg is of signed integers");
  a.expectOperands(2);
  a.emit(byInteger(t, []<class T>() -> Handler { return op1<T, T>([](T x) { return wrapSub<T>(0, x); }); }), {a.destination(0, t), a.source(1, t)});
}

template <bool least>
void lowerMinMaxInteger(Assembler& a) {
  const bool relu = a.take("relu");
  for (const bool isSignedPair : {true, false})
    if (a.take(isSignedPair ? "s16x2" : "u16x2")) {
      a.require(90, 80);
      a.expectOperands(3);
      const auto s = [](int16_t x, int16_t y) { return least ? std::min(x, y) : std::max(x, y); };
      const auto sr = [](int16_t x, int16_t y) { return std::max<int16_t>(0, least ? std::min(x, y) : std::max(x, y)); };
      const auto u = [](int16_t x, int16_t y) { return int16_t(least ? std::min(uint16_t(x), uint16_t(y)) : std::max(uint16_t(x), uint16_t(y))); };
      if (relu && !isSignedPair) a.fail(".relu is of .s16x2 and .s32");
      a.emit(!isSignedPair ? packed16<decltype(u)> : relu ? packed16<decltype(sr)> : packed16<decltype(s)>,
             {a.destination(0, Type::B32), a.source(1, Type::B32), a.source(2, Type::B32)});
      return;
    }
  const Type t = integerType(a);
  a.expectOperands(3);
  const std::initializer_list<uint32_t> operands = {a.destination(0, t), a.source(1, t), a.source(2, t)};
  if (relu) {
    if (t != Type::S32) a.fail(".relu is of .s16x2 and .s32");
    a.require(90, 80);
    a.emit(op2<int32_t, int32_t, int32_t>([](int32_t x, int32_t y) { return std::max(0, least ? std::min(x, y) : std::max(x, y)); }), operands);
    return;
  }
  a.emit(byInteger(t, []<class T>() -> Handler { return op2<T, T, T>([](T x, T y) { return least ? std::min(x, y) : std::max(x, y); }); }), operands);
}

Type bits3264(Assembler& a) {
  const Type t = a.takeType();
  if (t != Type::B32 && t != Type::B64) a.fail("the type is .b32 or .b64");
  return t;
}
void lowerPopc(Assembler& a) {
  const Type t = bits3264(a);
  a.expectOperands(2);
  a.emit(t == Type::B32 ? op1<uint32_t, uint32_t>([](uint32_t x) { return uint32_t(std::popcount(x)); }) : op1<uint32_t, uint64_t>([](uint64_t x) { return uint32_t(std::popcount(x)); }),
         {a.destination(0, Type::U32), a.source(1, t)});
}
void lowerClz(Assembler& a) {
  const Type t = bits3264(a);
  a.expectOperands(2);
  a.emit(t == Type::B32 ? op1<uint32_t, uint32_t>([](uint32_t x) { return uint32_t(std::countl_zero(x)); }) : op1<uint32_t, uint64_t>([](uint64_t x) { return uint32_t(std::countl_zero(x)); }),
         {a.destination(0, Type::U32), a.source(1, t)});
}
template <class T>
T reverse(T x) {
  T d = 0;
  for (size_t i = 0; i < 8 * sizeof(T); ++i) d |= T((x >> i) & 1) << (8 * sizeof(T) - 1 - i);
  return d;
}
void lowerBrev(Assembler& a) {
  const Type t = bits3264(a);
  a.expectOperands(2);
  a.emit(t == Type::B32 ? op1<uint32_t, uint32_t>([](uint32_t x) { return reverse(x); }) : op1<uint64_t, uint64_t>([](uint64_t x) { return reverse(x); }),
         {a.destination(0, t), a.source(1, t)});
}

void lowerBfind(Assembler& a) {
  const bool amount = a.take("shiftamt");
  const Type t = integerType(a);
  if (bitsOf(t) < 32) a.fail("bfind is of 32 or 64 bits");
  a.expectOperands(2);
  Op& op = a.emit(byInteger(t, []<class T>() -> Handler {
                    return [](Warp& w, const Op& o, uint32_t m) {
                      const T* x = w.reg<T>(o.r[1]);
                      lanes(w.reg<uint32_t>(o.r[0]), m, [&](int l) {
                        const Unsigned<T> v = std::is_signed_v<T> && x[l] < 0 ? Unsigned<T>(~x[l]) : Unsigned<T>(x[l]);
                        if (v == 0) return ~0u;
                        const uint32_t at = uint32_t(std::countl_zero(v));
                        return o.imm ? at : uint32_t(8 * sizeof(T)) - 1 - at;
                      });
                    };
                  }),
                  {a.destination(0, Type::U32), a.source(1, t)});
  op.imm = amount;
}

/** bfe: `length` bits from `position`; beyond the width comes the sign (signed) or zero. */
template <class T>
T extract(T x, uint32_t position, uint32_t length) {
  constexpr uint32_t most = 8 * sizeof(T) - 1;
  position &= 255;
  length &= 255;
  using U = Unsigned<T>;
  bool sign = false;
  if (std::is_signed_v<T> && length) sign = (U(x) >> std::min(position + length - 1, most)) & 1;
  U d = 0;
  for (uint32_t i = 0; i <= most; ++i) {
    const bool bit = i < length && position + i <= most ? (U(x) >> (position + i)) & 1 : sign;
    d |= U(bit) << i;
  }
  return T(d);
}
void lowerBfe(Assembler& a) {
  const Type t = integerType(a);
  if (bitsOf(t) < 32) a.fail("bfe is of 32 or 64 bits");
  a.expectOperands(4);
  a.emit(byInteger(t, []<class T>() -> Handler { if constexpr (sizeof(T) < 4) return nullptr; else return op3<T, T, uint32_t, uint32_t>([](T x, uint32_t p, uint32_t n) { return extract(x, p, n); }); }),
         {a.destination(0, t), a.source(1, t), a.source(2, Type::U32), a.source(3, Type::U32)});
}
template <class T>
void insertBits(Warp& w, const Op& o, uint32_t m) {
  const T *x = w.reg<T>(o.r[1]), *y = w.reg<T>(o.r[2]);
  const uint32_t *p = w.reg<uint32_t>(o.r[3]), *n = w.reg<uint32_t>(o.r[4]);
  lanes(w.reg<T>(o.r[0]), m, [&](int l) {
    constexpr uint32_t width = 8 * sizeof(T);
    const uint32_t position = p[l] & 255, length = n[l] & 255;
    if (position >= width || length == 0) return y[l];
    const T ones = length >= width ? T(~T(0)) : T((T(1) << length) - 1);
    const T field = T(ones << position);
    return T((y[l] & ~field) | ((x[l] << position) & field));
  });
}
void lowerBfi(Assembler& a) {
  const Type t = bits3264(a);
  a.expectOperands(5);
  a.emit(t == Type::B32 ? insertBits<uint32_t> : insertBits<uint64_t>,
         {a.destination(0, t), a.source(1, t), a.source(2, t), a.source(3, Type::U32), a.source(4, Type::U32)});
}
void lowerBmsk(Assembler& a) {
  const int mode = a.takeOne({"clamp", "wrap"});
  if (mode < 0 || a.takeType() != Type::B32) a.fail("bmsk is .clamp or .wrap, .b32");
  a.expectOperands(3);
  const Handler h = mode == 0 ? op2<uint32_t, uint32_t, uint32_t>([](uint32_t p, uint32_t n) {
    if (p >= 32 || n == 0) return 0u;
    return (n >= 32 ? ~0u : (1u << n) - 1) << p;
  }) : op2<uint32_t, uint32_t, uint32_t>([](uint32_t p, uint32_t n) { return ((1u << (n & 31)) - 1) << (p & 31); });
  a.emit(h, {a.destination(0, Type::B32), a.source(1, Type::U32), a.source(2, Type::U32)});
}
void lowerSzext(Assembler& a) {
  const int mode = a.takeOne({"clamp", "wrap"});
  const Type t = a.takeType();
  if (mode < 0 || (t != Type::U32 && t != Type::S32)) a.fail("szext is .clamp or .wrap, .u32 or .s32");
  a.expectOperands(3);
  Op& op = a.emit(
      [](Warp& w, const Op& o, uint32_t m) {
        const uint32_t *x = w.reg<uint32_t>(o.r[1]), *n = w.reg<uint32_t>(o.r[2]);
        lanes(w.reg<uint32_t>(o.r[0]), m, [&](int l) {
          const uint32_t bits = (o.imm & 1) ? n[l] & 31 : n[l];
          if (bits >= 32) return x[l];
          if (bits == 0) return 0u;
          const uint32_t kept = x[l] & ((1u << bits) - 1);
          return (o.imm & 2) && (kept >> (bits - 1)) ? kept | ~((1u << bits) - 1) : kept;
        });
      },
      {a.destination(0, t), a.source(1, t), a.source(2, Type::U32)});
  op.imm = mode | (t == Type::S32 ? 2 : 0);
}

void lowerLop3(Assembler& a) {
  if (a.takeOne({"or", "and"}) >= 0) a.fail("lop3 with a predicate result is not known to this device");
  if (a.takeType() != Type::B32) a.fail("lop3 is .b32");
  a.expectOperands(5);
  a.emit(
       [](Warp& w, const Op& o, uint32_t m) {
         const uint32_t *x = w.reg<uint32_t>(o.r[1]), *y = w.reg<uint32_t>(o.r[2]), *z = w.reg<uint32_t>(o.r[3]);
         const int64_t table = o.imm;
         lanes(w.reg<uint32_t>(o.r[0]), m, [&](int l) {
           uint32_t d = 0;
           for (int i = 0; i < 8; ++i)
             if ((table >> i) & 1) d |= (i & 4 ? x[l] : ~x[l]) & (i & 2 ? y[l] : ~y[l]) & (i & 1 ? z[l] : ~z[l]);
           return d;
         });
       },
       {a.destination(0, Type::B32), a.source(1, Type::B32), a.source(2, Type::B32), a.source(3, Type::B32)})
      .imm = a.immediate(4);
}

/** Arithmetic on the condition code register CC.CF, one bit per lane. kind 0: add, 1: sub, 2: mad.lo, 3: mad.hi. */
template <class T, int kind, bool in, bool out>
void carry(Warp& w, const Op& o, uint32_t m) {
  uint32_t& cc = w.pred(o.r[4]);
  uint32_t next = cc;
  T* d = w.reg<T>(o.r[0]);
  for (uint32_t bits = m; bits; bits &= bits - 1) {
    const int l = std::countr_zero(bits);
    T x = w.reg<T>(o.r[1])[l], y = w.reg<T>(o.r[2])[l];
    const T carryIn = in ? (cc >> l) & 1 : 0;
    if (kind >= 2) {
      const T product = kind == 2 ? mulLow(x, y) : o.imm ? T(mulHigh(std::make_signed_t<T>(x), std::make_signed_t<T>(y))) : mulHigh(x, y);
      x = product;
      y = w.reg<T>(o.r[3])[l];
    }
    using W = unsigned __int128;
    bool flag;
    if (kind == 1) {
      flag = W(x) < W(y) + carryIn;
      d[l] = T(x - y - carryIn);
    } else {
      flag = ((W(x) + y + carryIn) >> (8 * sizeof(T))) & 1;
      d[l] = T(x + y + carryIn);
    }
    next = (next & ~(1u << l)) | (uint32_t(flag) << l);
  }
  if (out) cc = next;
}

template <int kind>
void emitCarry(Assembler& a, bool in, bool out, uint32_t cc, Type t, bool isMad) {
  const bool wide = bitsOf(t) == 64;
  const Handler h = wide ? (in ? (out ? carry<uint64_t, kind, true, true> : carry<uint64_t, kind, true, false>) : carry<uint64_t, kind, false, true>)
                         : (in ? (out ? carry<uint32_t, kind, true, true> : carry<uint32_t, kind, true, false>) : carry<uint32_t, kind, false, true>);
  Op& op = a.emit(h, {a.destination(0, t), a.source(1, t), a.source(2, t), isMad ? a.source(3, t) : kNone, cc});
  op.imm = isSigned(t);
}

}  // namespace

/** CC.CF lives at one place of the frame. */
uint32_t carryFlag(Assembler& a) {
  for (const Kernel::Constant& c : a.kernel().constants)
    if (c.predicate && c.value == 2) return c.at;
  const uint32_t at = a.scratchPredicate();
  a.kernel().constants.push_back({at, 4, 2, true});
  return at;
}

namespace {

template <int kind, bool in>
void lowerCarry(Assembler& a) {
  const bool out = a.take("cc");
  int part = 0;
  if (kind == 2) part = a.takeOne({"lo", "hi"});
  const Type t = integerType(a);
  if (bitsOf(t) < 32) a.fail("extended-precision arithmetic is of 32 or 64 bits");
  a.expectOperands(kind == 2 ? 4 : 3);
  if (part < 0) a.fail("mad with carry is .lo or .hi");
  const uint32_t cc = carryFlag(a);
  if (kind == 2 && part == 1) emitCarry<3>(a, in, out, cc, t, true);
  else emitCarry<kind>(a, in, out, cc, t, kind == 2);
}

void lowerDp4a(Assembler& a) {
  const Type ta = a.takeType(), tb = a.takeType();
  if ((ta != Type::U32 && ta != Type::S32) || (tb != Type::U32 && tb != Type::S32)) a.fail("dp4a is of .u32 and .s32");
  a.expectOperands(4);
  Op& op = a.emit(
      [](Warp& w, const Op& o, uint32_t m) {
        const uint32_t *x = w.reg<uint32_t>(o.r[1]), *y = w.reg<uint32_t>(o.r[2]), *z = w.reg<uint32_t>(o.r[3]);
        lanes(w.reg<uint32_t>(o.r[0]), m, [&](int l) {
          uint32_t d = z[l];
          for (int i = 0; i < 4; ++i) {
            const int32_t p = o.imm ? int8_t(x[l] >> (8 * i)) : int32_t(uint8_t(x[l] >> (8 * i)));
            const int32_t q = o.imm2 ? int8_t(y[l] >> (8 * i)) : int32_t(uint8_t(y[l] >> (8 * i)));
            d += uint32_t(p * q);
          }
          return d;
        });
      },
      {a.destination(0, Type::B32), a.source(1, Type::B32), a.source(2, Type::B32), a.source(3, Type::B32)});
  op.imm = isSigned(ta);
  op.imm2 = isSigned(tb);
}

void lowerDp2a(Assembler& a) {
  const int part = a.takeOne({"lo", "hi"});
  const Type ta = a.takeType(), tb = a.takeType();
  if (part < 0 || (ta != Type::U32 && ta != Type::S32) || (tb != Type::U32 && tb != Type::S32)) a.fail("dp2a is .lo or .hi of .u32 and .s32");
  a.expectOperands(4);
  Op& op = a.emit(
      [](Warp& w, const Op& o, uint32_t m) {
        const uint32_t *x = w.reg<uint32_t>(o.r[1]), *y = w.reg<uint32_t>(o.r[2]), *z = w.reg<uint32_t>(o.r[3]);
        lanes(w.reg<uint32_t>(o.r[0]), m, [&](int l) {
          uint32_t d = z[l];
          for (int i = 0; i < 2; ++i) {
            const int32_t p = (o.imm & 1) ? int16_t(x[l] >> (16 * i)) : int32_t(uint16_t(x[l] >> (16 * i)));
            const uint32_t byte = y[l] >> (8 * (i + (o.imm2 ? 2 : 0)));
            const int32_t q = (o.imm & 2) ? int8_t(byte) : int32_t(uint8_t(byte));
            d += uint32_t(p * q);
          }
          return d;
        });
      },
      {a.destination(0, Type::B32), a.source(1, Type::B32), a.source(2, Type::B32), a.source(3, Type::B32)});
  op.imm = (isSigned(ta) ? 1 : 0) | (isSigned(tb) ? 2 : 0);
  op.imm2 = part;
}

/** True if the instruction's first type is one of the float formats: then isa_float.cc lowers it. */
bool ofFloats(const Assembler& a) {
  for (const std::string& m : a.in().modifiers) {
    const Type t = typeNamed(m);
    if (t != Type::None) return isFloat(t);
  }
  return false;
}

}  // namespace

void lowerFloatAdd(Assembler&);
void lowerFloatSub(Assembler&);
void lowerFloatMul(Assembler&);
void lowerFloatMad(Assembler&);
void lowerFloatDiv(Assembler&);
void lowerFloatMin(Assembler&);
void lowerFloatMax(Assembler&);
void lowerFloatAbs(Assembler&);
void lowerFloatNeg(Assembler&);

void addIntegers(LoweringTable& t) {
  t["add"] = [](Assembler& a) {
    for (const std::string& m : a.in().modifiers)
      if (m == "cc") return lowerCarry<0, false>(a);
    ofFloats(a) ? lowerFloatAdd(a) : lowerAddSub<AddKind::Add>(a);
  };
  t["sub"] = [](Assembler& a) {
    for (const std::string& m : a.in().modifiers)
      if (m == "cc") return lowerCarry<1, false>(a);
    ofFloats(a) ? lowerFloatSub(a) : lowerAddSub<AddKind::Sub>(a);
  };
  t["mul"] = [](Assembler& a) { ofFloats(a) ? lowerFloatMul(a) : lowerMulInteger(a); };
  t["mad"] = [](Assembler& a) {
    for (const std::string& m : a.in().modifiers)
      if (m == "cc") return lowerCarry<2, false>(a);
    ofFloats(a) ? lowerFloatMad(a) : lowerMadInteger(a);
  };
  t["div"] = [](Assembler& a) { ofFloats(a) ? lowerFloatDiv(a) : lowerDiv(a); };
  t["rem"] = lowerRem;
  t["abs"] = [](Assembler& a) { ofFloats(a) ? lowerFloatAbs(a) : lowerAbsInteger(a); };
  t["neg"] = [](Assembler& a) { ofFloats(a) ? lowerFloatNeg(a) : lowerNegInteger(a); };
  t["min"] = [](Assembler& a) { ofFloats(a) ? lowerFloatMin(a) : lowerMinMaxInteger<true>(a); };
  t["max"] = [](Assembler& a) { ofFloats(a) ? lowerFloatMax(a) : lowerMinMaxInteger<false>(a); };
  t["addc"] = lowerCarry<0, true>;
  t["subc"] = lowerCarry<1, true>;
  t["madc"] = lowerCarry<2, true>;
  t["mul24"] = lowerMul24;
  t["mad24"] = lowerMad24;
  t["sad"] = lowerSad;
  t["shl"] = lowerShl;
  t["shr"] = lowerShr;
  t["shf"] = lowerShf;
  t["popc"] = lowerPopc;
  t["clz"] = lowerClz;
  t["brev"] = lowerBrev;
  t["bfind"] = lowerBfind;
  t["bfe"] = lowerBfe;
  t["bfi"] = lowerBfi;
  t["bmsk"] = lowerBmsk;
  t["szext"] = lowerSzext;
  t["lop3"] = lowerLop3;
  t["dp4a"] = lowerDp4a;
  t["dp2a"] = lowerDp2a;
}

}  // namespace vcuda
