// mov (values, vectors, special registers), prmt, selp, slct, and the logic on predicates.
#include <chrono>

#include "lower.h"

namespace vcuda {
namespace {

Handler copyOf(int bytes) {
  switch (bytes) {
    case 1: return op1<uint8_t, uint8_t>([](uint8_t x) { return x; });
    case 2: return op1<uint16_t, uint16_t>([](uint16_t x) { return x; });
    case 4: return op1<uint32_t, uint32_t>([](uint32_t x) { return x; });
    default: return op1<uint64_t, uint64_t>([](uint64_t x) { return x; });
  }
}

template <class F>
void predicateOp(Warp& w, const Op& o, uint32_t m) {
  uint32_t& d = w.pred(o.r[0]);
  const uint32_t b = o.r[2] == kNone ? 0 : w.pred(o.r[2]);
  d = (d & ~m) | (F{}(w.pred(o.r[1]), b) & m);
}
template <class F>
constexpr Handler onPredicates(F) {
  return predicateOp<F>;
}

uint64_t readClock(Special which) {
  const auto now = std::chrono::steady_clock::now().time_since_epoch();
  const uint64_t ns = uint64_t(std::chrono::duration_cast<std::chrono::nanoseconds>(now).count());
  const uint64_t wall = uint64_t(std::chrono::duration_cast<std::chrono::nanoseconds>(std::chrono::system_clock::now().time_since_epoch()).count());
  switch (which) {
    case Special::Clock: return uint32_t(ns);
    case Special::ClockHi: return ns >> 32;
    case Special::Clock64: return ns;
    case Special::GlobalTimer: return wall;
    case Special::GlobalTimerLo: return uint32_t(wall);
    default: return wall >> 32;
  }
}

void moveClock(Warp& w, const Op& o, uint32_t m) {
  const uint64_t value = readClock(Special(o.imm));
  if (o.imm2 == 8) lanes(w.reg<uint64_t>(o.r[0]), m, [&](int) { return value; });
  else lanes(w.reg<uint32_t>(o.r[0]), m, [&](int) { return uint32_t(value); });
}

/** {a, b, …} into one register; imm is the bytes of an element. */
void pack(Warp& w, const Op& o, uint32_t m) {
  const auto& from = o.extra->registers;
  const int part = int(o.imm), whole = int(o.imm2);
  for (int l = 0; l < kLanes; ++l) {
    if (!((m >> l) & 1)) continue;
    uint64_t value = 0;
    for (size_t i = 0; i < from.size(); ++i) {
      uint64_t x = 0;
      __builtin_memcpy(&x, w.frame + from[i] + l * part, size_t(part));
      value |= x << (8 * part * int(i));
    }
    __builtin_memcpy(w.frame + o.r[0] + l * whole, &value, size_t(whole));
  }
}

void unpack(Warp& w, const Op& o, uint32_t m) {
  const auto& to = o.extra->registers;
  const int part = int(o.imm), whole = int(o.imm2);
  for (int l = 0; l < kLanes; ++l) {
    if (!((m >> l) & 1)) continue;
    uint64_t value = 0;
    __builtin_memcpy(&value, w.frame + o.r[1] + l * whole, size_t(whole));
    for (size_t i = 0; i < to.size(); ++i) {
      if (to[i] == kNone) continue;
      const uint64_t x = value >> (8 * part * int(i));
      __builtin_memcpy(w.frame + to[i] + l * part, &x, size_t(part));
    }
  }
}

void pack2x16(Warp& w, const Op& o, uint32_t m) {
  const uint16_t* a = w.reg<uint16_t>(o.r[1]);
  const uint16_t* b = w.reg<uint16_t>(o.r[2]);
  lanes(w.reg<uint32_t>(o.r[0]), m, [&](int l) { return uint32_t(a[l]) | uint32_t(b[l]) << 16; });
}
void pack2x32(Warp& w, const Op& o, uint32_t m) {
  const uint32_t* a = w.reg<uint32_t>(o.r[1]);
  const uint32_t* b = w.reg<uint32_t>(o.r[2]);
  lanes(w.reg<uint64_t>(o.r[0]), m, [&](int l) { return uint64_t(a[l]) | uint64_t(b[l]) << 32; });
}
template <class Part, class Whole>
void unpack2(Warp& w, const Op& o, uint32_t m) {
  Whole from[kLanes];
  __builtin_memcpy(from, w.reg<Whole>(o.r[2]), sizeof from);
  lanes(w.reg<Part>(o.r[0]), m, [&](int l) { return Part(from[l]); });
  lanes(w.reg<Part>(o.r[1]), m, [&](int l) { return Part(from[l] >> (8 * sizeof(Part))); });
}

void lowerMov(Assembler& a) {
  const Type type = a.takeType();
  a.expectOperands(2);
  if (type == Type::Pred) {
    a.emit(onPredicates([](uint32_t x, uint32_t) { return x; }), {a.predicateDestination(0), a.predicate(1)});
    return;
  }
  const int bytes = bytesOf(type);
  if (bytes == 1 || bytes == 16) a.fail("mov is of 16, 32 or 64 bits on this device");
  if (a.isVector(0) || a.isVector(1)) {
    if (a.isVector(0) && a.isVector(1)) a.fail("only one operand of mov is a vector");
    const bool packs = a.isVector(1);
    const auto& items = a.operand(packs ? 1 : 0).items;
    const int part = bytes / int(items.size());
    if ((items.size() != 2 && items.size() != 4) || part == 0 || part * int(items.size()) != bytes) a.fail("the vector does not have the width of ." + std::string(nameOf(type)));
    const Type element = part == 1 ? Type::B8 : part == 2 ? Type::B16 : Type::B32;
    std::vector<uint32_t> parts;
    for (const Operand& o : items) parts.push_back(packs ? a.source(o, element) : o.kind == Operand::Kind::Sink ? a.scratch(part) : a.destination(o, element));
    const uint32_t whole = packs ? a.destination(0, type) : a.source(1, type);
    if (parts.size() == 2 && part == 2) {
      if (packs) a.emit(pack2x16, {whole, parts[0], parts[1]});
      else a.emit(unpack2<uint16_t, uint32_t>, {parts[0], parts[1], whole});
      return;
    }
    if (parts.size() == 2 && part == 4) {
      if (packs) a.emit(pack2x32, {whole, parts[0], parts[1]});
      else a.emit(unpack2<uint32_t, uint64_t>, {parts[0], parts[1], whole});
      return;
    }
    Extra& x = a.extra();
    x.registers = parts;
    Op& op = packs ? a.emit(pack, {whole}) : a.emit(unpack, {kNone, whole});
    op.imm = part;
    op.imm2 = bytes;
    op.extra = &x;
    return;
  }
  if (const auto special = a.special(a.operand(1))) {
    const uint32_t d = a.destination(0, type);
    const bool wide = *special == Special::Clock64 || *special == Special::GlobalTimer || *special == Special::GridId;
    if (*special >= Special::Clock) {
      if (bytes != (wide ? 8 : 4)) a.fail("the special register " + a.operand(1).name + " has another width");
      Op& op = a.emit(moveClock, {d});
      op.imm = int64_t(*special);
      op.imm2 = bytes;
      return;
    }
    const uint32_t s = a.specialRegister(*special);
    if (bytes == 2 && !wide) a.emit(op1<uint16_t, uint32_t>([](uint32_t x) { return uint16_t(x); }), {d, s});
    else if (bytes == 4 && wide) a.emit(op1<uint32_t, uint64_t>([](uint64_t x) { return uint32_t(x); }), {d, s});
    else if (bytes == 8 && !wide) a.fail("the special register " + a.operand(1).name + " has 32 bits");
    else a.emit(copyOf(bytes), {d, s});
    return;
  }
  a.emit(copyOf(bytes), {a.destination(0, type), a.source(1, type)});
}

template <class F>
bool predicateLogic(Assembler& a, Type type, F, bool unary = false) {
  if (type != Type::Pred) return false;
  a.expectOperands(unary ? 2 : 3);
  a.emit(predicateOp<F>, {a.predicateDestination(0), a.predicate(1), unary ? kNone : a.predicate(2)});
  return true;
}

Type bitType(Assembler& a) {
  const Type type = a.takeType();
  if (type != Type::Pred && type != Type::B16 && type != Type::B32 && type != Type::B64) a.fail("the type is .pred, .b16, .b32 or .b64");
  return type;
}

void lowerAnd(Assembler& a) {
  const Type t = bitType(a);
  if (predicateLogic(a, t, [](uint32_t x, uint32_t y) { return x & y; })) return;
  a.expectOperands(3);
  a.emit(byInteger(t, []<class T>() -> Handler { return op2<T, T, T>([](T x, T y) { return T(x & y); }); }), {a.destination(0, t), a.source(1, t), a.source(2, t)});
}
void lowerOr(Assembler& a) {
  const Type t = bitType(a);
  if (predicateLogic(a, t, [](uint32_t x, uint32_t y) { return x | y; })) return;
  a.expectOperands(3);
  a.emit(byInteger(t, []<class T>() -> Handler { return op2<T, T, T>([](T x, T y) { return T(x | y); }); }), {a.destination(0, t), a.source(1, t), a.source(2, t)});
}
void lowerXor(Assembler& a) {
  const Type t = bitType(a);
  if (predicateLogic(a, t, [](uint32_t x, uint32_t y) { return x ^ y; })) return;
  a.expectOperands(3);
  a.emit(byInteger(t, []<class T>() -> Handler { return op2<T, T, T>([](T x, T y) { return T(x ^ y); }); }), {a.destination(0, t), a.source(1, t), a.source(2, t)});
}
void lowerNot(Assembler& a) {
  const Type t = bitType(a);
  if (predicateLogic(a, t, [](uint32_t x, uint32_t) { return ~x; }, true)) return;
  a.expectOperands(2);
  a.emit(byInteger(t, []<class T>() -> Handler { return op1<T, T>([](T x) { return T(~x); }); }), {a.destination(0, t), a.source(1, t)});
}
void lowerCnot(Assembler& a) {
  const Type t = bitType(a);
  if (t == Type::Pred) a.fail("cnot is of .b16, .b32 or .b64");
  a.expectOperands(2);
  a.emit(byInteger(t, []<class T>() -> Handler { return op1<T, T>([](T x) { return T(x == 0); }); }), {a.destination(0, t), a.source(1, t)});
}

template <class T>
void select(Warp& w, const Op& o, uint32_t m) {
  const T* x = w.reg<T>(o.r[1]);
  const T* y = w.reg<T>(o.r[2]);
  const uint32_t p = w.pred(o.r[3]);
  lanes(w.reg<T>(o.r[0]), m, [&](int l) { return (p >> l) & 1 ? x[l] : y[l]; });
}

Handler selectOf(int bytes) { return bytes == 2 ? select<uint16_t> : bytes == 4 ? select<uint32_t> : select<uint64_t>; }

void lowerSelp(Assembler& a) {
  const Type t = a.takeType();
  a.expectOperands(4);
  if (bytesOf(t) < 2 || t == Type::Pred) a.fail("selp is of 16, 32 or 64 bits");
  a.emit(selectOf(bytesOf(t)), {a.destination(0, t), a.source(1, t), a.source(2, t), a.predicate(3)});
}

template <class T, class C>
void selectBySign(Warp& w, const Op& o, uint32_t m) {
  const T* x = w.reg<T>(o.r[1]);
  const T* y = w.reg<T>(o.r[2]);
  const C* c = w.reg<C>(o.r[3]);
  const bool ftz = o.imm;
  lanes(w.reg<T>(o.r[0]), m, [&](int l) {
    if constexpr (std::is_same_v<C, float>) return (ftz ? flush(c[l]) : c[l]) >= 0 ? x[l] : y[l];
    else return c[l] >= 0 ? x[l] : y[l];
  });
}

void lowerSlct(Assembler& a) {
  const bool ftz = a.take("ftz");
  const Type t = a.takeType(), c = a.takeType();
  a.expectOperands(4);
  if (c != Type::S32 && c != Type::F32) a.fail("slct selects by .s32 or .f32");
  const int bytes = bytesOf(t);
  const bool f = c == Type::F32;
  const Handler h = bytes == 2   ? (f ? selectBySign<uint16_t, float> : selectBySign<uint16_t, int32_t>)
                    : bytes == 4 ? (f ? selectBySign<uint32_t, float> : selectBySign<uint32_t, int32_t>)
                                 : (f ? selectBySign<uint64_t, float> : selectBySign<uint64_t, int32_t>);
  a.emit(h, {a.destination(0, t), a.source(1, t), a.source(2, t), a.source(3, c)}).imm = ftz;
}

/** prmt: bytes of {b, a} chosen by nibbles; bit 3 of a nibble replicates the byte's sign. */
uint32_t permute(uint32_t a, uint32_t b, uint32_t selector) {
  const uint64_t both = uint64_t(a) | uint64_t(b) << 32;
  uint32_t d = 0;
  for (int i = 0; i < 4; ++i) {
    const uint32_t s = (selector >> (4 * i)) & 15;
    uint32_t byte = uint32_t(both >> (8 * (s & 7))) & 255;
    if (s & 8) byte = byte & 128 ? 255 : 0;
    d |= byte << (8 * i);
  }
  return d;
}

/** The special modes: the selector of the generic mode that mode and c[1:0] stand for. */
uint32_t permuteSelector(int mode, uint32_t c) {
  static constexpr uint32_t kSelectors[6][4] = {
      {0x3210, 0x4321, 0x5432, 0x6543},  // f4e
      {0x5670, 0x6701, 0x7012, 0x0123},  // b4e
      {0x0000, 0x1111, 0x2222, 0x3333},  // rc8
      {0x3210, 0x3211, 0x3222, 0x3333},  // ecl
      {0x0000, 0x1110, 0x2210, 0x3210},  // ecr
      {0x1010, 0x3232, 0x1010, 0x3232},  // rc16
  };
  return kSelectors[mode][c & 3];
}

void lowerPrmt(Assembler& a) {
  const Type t = a.takeType();
  if (t != Type::B32) a.fail("prmt is .b32");
  a.expectOperands(4);
  const int mode = a.takeOne({"f4e", "b4e", "rc8", "ecl", "ecr", "rc16"});
  if (mode < 0) {
    a.emit(op3<uint32_t, uint32_t, uint32_t, uint32_t>([](uint32_t x, uint32_t y, uint32_t s) { return permute(x, y, s); }),
           {a.destination(0, t), a.source(1, t), a.source(2, t), a.source(3, t)});
    return;
  }
  a.emit(
       [](Warp& w, const Op& o, uint32_t m) {
         const uint32_t *x = w.reg<uint32_t>(o.r[1]), *y = w.reg<uint32_t>(o.r[2]), *c = w.reg<uint32_t>(o.r[3]);
         lanes(w.reg<uint32_t>(o.r[0]), m, [&](int l) { return permute(x[l], y[l], permuteSelector(int(o.imm), c[l])); });
       },
       {a.destination(0, t), a.source(1, t), a.source(2, t), a.source(3, t)})
      .imm = mode;
}

}  // namespace

void addMoves(LoweringTable& t) {
  t["mov"] = lowerMov;
  t["and"] = lowerAnd;
  t["or"] = lowerOr;
  t["xor"] = lowerXor;
  t["not"] = lowerNot;
  t["cnot"] = lowerCnot;
  t["selp"] = lowerSelp;
  t["slct"] = lowerSlct;
  t["prmt"] = lowerPrmt;
}

}  // namespace vcuda
