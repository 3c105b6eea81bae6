// mma.sync, ldmatrix, stmatrix, movmatrix: fragments as the PTX ISA lays them over the lanes.
//
// With g = lane / 4, t = lane % 4 and E elements of A or B per 32-bit register, every shape of 16 rows follows one rule
// (figures of "Matrix Fragments for mma.m16n8k…"): A's register r holds row g + 8 (r & 1), columns
// (r >> 1) 4E + t E …; B's register r holds rows r 4E + t E … of column g; C and D hold row g + 8 (i >> 1), column
// 2t + (i & 1). Shapes of 8 rows have A's register r at columns r 4E + t E of row g.
#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>

#include "access.h"
#include "matrix.h"

namespace vcuda {
namespace {

struct MmaPlan {
  uint8_t m, k;       // n is 8
  Type a, b, c, d;
  bool saturate;
};
static_assert(sizeof(MmaPlan) <= 8);

/** extra: registers of d, a, b, c one after another. */
void mma(Warp& w, const Op& o, uint32_t mask) {
  MmaPlan p;
  std::memcpy(static_cast<void*>(&p), &o.imm, sizeof p);
  if (mask != kAll) fault(w, o, std::countr_zero(mask), kLaunchFailed, "mma needs all 32 lanes of the warp");
  const uint32_t* regs = o.extra->registers.data();
  const int bitsA = bitsOf(p.a), wordBits = bitsA == 64 ? 64 : 32;
  const int E = wordBits / bitsA, rows = p.m, K = p.k;
  const int aRegs = rows * K * bitsA / wordBits / kLanes, bRegs = K * 8 * bitsA / wordBits / kLanes;
  const int cdElements = rows * 8 / kLanes;
  const bool halfC = p.c == Type::F16, halfD = p.d == Type::F16;
  const int dRegs = halfD ? cdElements / 2 : cdElements;
  const bool integer = p.c == Type::S32, real = p.c == Type::F64;
  double A[16][64], B[64][8];
  const auto word = [&](uint32_t at, int lane) -> uint64_t { return wordBits == 64 ? w.reg<uint64_t>(at)[lane] : w.reg<uint32_t>(at)[lane]; };
  for (int lane = 0; lane < kLanes; ++lane) {
    const int g = lane >> 2, t = lane & 3;
    for (int r = 0; r < aRegs; ++r) {
      const uint64_t bits = word(regs[dRegs + r], lane);
      const int row = rows == 16 ? g + 8 * (r & 1) : g, col = (rows == 16 ? r >> 1 : r) * 4 * E + t * E;
      for (int e = 0; e < E; ++e) A[row][col + e] = elementValue(p.a, bits >> (e * bitsA));
    }
    for (int r = 0; r < bRegs; ++r) {
      const uint64_t bits = word(regs[dRegs + aRegs + r], lane);
      for (int e = 0; e < E; ++e) B[r * 4 * E + t * E + e][g] = elementValue(p.b, bits >> (e * bitsA));
    }
  }
  double D[16][8];
  const uint32_t* cs = regs + dRegs + aRegs + bRegs;
  for (int lane = 0; lane < kLanes; ++lane) {
    const int g = lane >> 2, t = lane & 3;
    for (int i = 0; i < cdElements; ++i) {
      const int row = g + 8 * (i >> 1), col = 2 * t + (i & 1);
      if (halfC) D[row][col] = fromHalf(uint16_t(w.reg<uint32_t>(cs[i / 2])[lane] >> (16 * (i & 1))));
      else if (real) D[row][col] = w.reg<double>(cs[i])[lane];
      else D[row][col] = elementValue(p.c, w.reg<uint32_t>(cs[i])[lane]);
    }
  }
  for (int row = 0; row < rows; ++row) {
    if (real) {
      for (int k = 0; k < K; ++k)
        for (int n = 0; n < 8; ++n) D[row][n] = std::fma(A[row][k], B[k][n], D[row][n]);
    } else {
      // Products are exact; the sum is rounded once at the end.
      double sum[8] = {};
      for (int k = 0; k < K; ++k)
        for (int n = 0; n < 8; ++n) sum[n] += A[row][k] * B[k][n];
      for (int n = 0; n < 8; ++n) D[row][n] += sum[n];
    }
  }
  for (int lane = 0; lane < kLanes; ++lane) {
    const int g = lane >> 2, t = lane & 3;
    for (int i = 0; i < cdElements; ++i) {
      const double v = D[g + 8 * (i >> 1)][2 * t + (i & 1)];
      if (halfD) {
        const uint16_t h = uint16_t(v != v ? kNaN16 : roundTo(kHalf, v, Round::Nearest));
        uint32_t& d = w.reg<uint32_t>(regs[i / 2])[lane];
        d = i & 1 ? (d & 0xffff) | uint32_t(h) << 16 : (d & 0xffff0000u) | h;
      } else if (real) {
        w.reg<double>(regs[i])[lane] = v;
      } else if (integer) {
        w.reg<int32_t>(regs[i])[lane] = p.saturate ? int32_t(std::clamp(v, -2147483648.0, 2147483647.0)) : int32_t(uint32_t(int64_t(v)));
      } else {
        w.reg<float>(regs[i])[lane] = canonical(float(v));
      }
    }
  }
}

void fragment(Assembler& a, const Operand& o, int count, Type type, std::vector<uint32_t>& to, bool destination) {
  if (count == 1 && o.kind != Operand::Kind::Vector) {
    to.push_back(destination ? a.destination(o, type) : a.source(o, type));
    return;
  }
  if (o.kind != Operand::Kind::Vector || int(o.items.size()) != count) a.fail("a fragment has " + std::to_string(count) + " registers");
  for (const Operand& r : o.items) to.push_back(destination ? a.destination(r, type) : a.source(r, type));
}

void lowerMma(Assembler& a) {
  if (!a.take("sync") || !a.take("aligned")) a.fail("mma is .sync.aligned");
  struct Shape {
    const char* name;
    int m, k;
  };
  static constexpr Shape kShapes[] = {{"m16n8k4", 16, 4}, {"m16n8k8", 16, 8}, {"m16n8k16", 16, 16}, {"m16n8k32", 16, 32}, {"m8n8k4", 8, 4}, {"m8n8k16", 8, 16}};
  const Shape* shape = nullptr;
  for (const Shape& s : kShapes)
    if (a.take(s.name)) shape = &s;
  if (!shape) a.fail("this shape of mma is not known to this device");
  if (!a.take("row") || !a.take("col")) a.fail("mma is .row.col");
  const bool saturate = a.take("satfinite");
  MmaPlan p{};
  p.m = uint8_t(shape->m);
  p.k = uint8_t(shape->k);
  p.saturate = saturate;
  p.d = a.takeType();
  p.a = a.takeType();
  p.b = a.takeType();
  p.c = a.takeType();
  a.expectOperands(4);
  const auto fits = [&]() -> bool {
    const bool f32 = p.c == Type::F32 && p.d == Type::F32;
    const bool f16 = (p.c == Type::F16 || p.c == Type::F32) && (p.d == Type::F16 || p.d == Type::F32);
    const int k = p.k;
    if (saturate && p.d != Type::S32) return false;
    switch (p.a) {
      case Type::F16: return p.b == Type::F16 && f16 && p.m == 16 && (k == 8 || k == 16) && (a.require(k == 8 ? 75 : 80, k == 8 ? 65 : 70), true);
      case Type::BF16: return p.b == Type::BF16 && f32 && p.m == 16 && (k == 8 || k == 16) && (a.require(80, 70), true);
      case Type::TF32: return p.b == Type::TF32 && f32 && p.m == 16 && (k == 4 || k == 8) && (a.require(80, 70), true);
      case Type::F64: return p.b == Type::F64 && p.c == Type::F64 && p.d == Type::F64 && ((p.m == 8 && k == 4) || (p.m == 16 && k <= 16)) && (a.require(p.m == 8 ? 80 : 90, p.m == 8 ? 70 : 78), true);
      case Type::U8:
      case Type::S8:
        return (p.b == Type::U8 || p.b == Type::S8) && p.c == Type::S32 && p.d == Type::S32 && ((p.m == 8 && k == 16) || (p.m == 16 && (k == 16 || k == 32))) &&
               (a.require(p.m == 8 ? 75 : 80, p.m == 8 ? 65 : 70), true);
      case Type::E4M3:
      case Type::E5M2: return (p.b == Type::E4M3 || p.b == Type::E5M2) && f32 && p.m == 16 && k == 32 && (a.require(89, 84), true);
      default: return false;
    }
  };
  if (!fits()) a.fail("these types and this shape do not go together, or are not known to this device");
  const int bits = bitsOf(p.a), wordBits = bits == 64 ? 64 : 32;
  const Type word = bits == 64 ? Type::F64 : Type::B32;
  const int cd = p.m * 8 / kLanes;
  const auto cdType = [](Type t) { return t == Type::F64 ? Type::F64 : Type::B32; };
  Extra& x = a.extra();
  fragment(a, a.operand(0), p.d == Type::F16 ? cd / 2 : cd, cdType(p.d), x.registers, true);
  fragment(a, a.operand(1), p.m * p.k * bits / wordBits / kLanes, word, x.registers, false);
  fragment(a, a.operand(2), p.k * 8 * bits / wordBits / kLanes, word, x.registers, false);
  fragment(a, a.operand(3), p.c == Type::F16 ? cd / 2 : cd, cdType(p.c), x.registers, false);
  Op& op = a.emit(mma);
  op.flow = Flow::Warp;
  op.extra = &x;
  std::memcpy(&op.imm, &p, sizeof p);
}

/** imm: offset; imm2: flags of addressesOf and 0x10000 for .trans; r[1]: base; extra: registers. */
void matrixAddresses(Warp& w, const Op& o, uint32_t mask, int count, Use use, Where& where) {
  if (mask != kAll) fault(w, o, std::countr_zero(mask), kLaunchFailed, "ldmatrix and stmatrix need all 32 lanes of the warp");
  uint64_t addresses[kLanes];
  addressesOf(w, o, 1, addresses);
  const uint32_t taking = count == 4 ? kAll : (1u << (8 * count)) - 1;
  resolve(w, o, taking, Space(o.imm2 & 0xff), addresses, 16, use, where);
  where.expand();
}

void ldmatrix(Warp& w, const Op& o, uint32_t mask) {
  const int count = int(o.extra->registers.size());
  Where where;
  matrixAddresses(w, o, mask, count, Use::Read, where);
  for (int j = 0; j < count; ++j) {
    uint16_t m[8][8];
    for (int r = 0; r < 8; ++r) std::memcpy(m[r], where.host[8 * j + r], 16);
    uint32_t* d = w.reg<uint32_t>(o.extra->registers[size_t(j)]);
    for (int l = 0; l < kLanes; ++l) {
      const int g = l >> 2, t = (l & 3) * 2;
      d[l] = o.imm2 & 0x10000 ? uint32_t(m[t][g]) | uint32_t(m[t + 1][g]) << 16 : uint32_t(m[g][t]) | uint32_t(m[g][t + 1]) << 16;
    }
  }
}

void stmatrix(Warp& w, const Op& o, uint32_t mask) {
  const int count = int(o.extra->registers.size());
  Where where;
  matrixAddresses(w, o, mask, count, Use::Write, where);
  for (int j = 0; j < count; ++j) {
    uint16_t m[8][8];
    const uint32_t* s = w.reg<uint32_t>(o.extra->registers[size_t(j)]);
    for (int l = 0; l < kLanes; ++l) {
      const int g = l >> 2, t = (l & 3) * 2;
      if (o.imm2 & 0x10000) m[t][g] = uint16_t(s[l]), m[t + 1][g] = uint16_t(s[l] >> 16);
      else m[g][t] = uint16_t(s[l]), m[g][t + 1] = uint16_t(s[l] >> 16);
    }
    for (int r = 0; r < 8; ++r) std::memcpy(where.host[8 * j + r], m[r], 16);
  }
}

void lowerMatrixAccess(Assembler& a, bool isLoad) {
  a.require(isLoad ? 75 : 90, isLoad ? 65 : 78);
  if (!a.take("sync") || !a.take("aligned") || !a.take("m8n8")) a.fail("needs .sync.aligned.m8n8");
  const int which = a.takeOne({"x1", "x2", "x4"});
  if (which < 0) a.fail("needs .x1, .x2 or .x4");
  const bool trans = a.take("trans");
  const Space said = takeSpace(a);
  if (a.takeType() != Type::B16) a.fail("the type is .b16");
  a.expectOperands(2);
  const Address at = a.address(isLoad ? 1 : 0);
  const Space space = spaceOf(a, said, at);
  if (space != Space::Shared && space != Space::Generic) a.fail("the matrices are in shared memory");
  Extra& x = a.extra();
  fragment(a, a.operand(isLoad ? 0 : 1), 1 << which, Type::B32, x.registers, isLoad);
  Op& op = a.emit(isLoad ? ldmatrix : stmatrix, {kNone, at.base});
  op.flow = Flow::Warp;
  op.extra = &x;
  op.imm = at.offset;
  op.imm2 = int64_t(space) | (at.baseBytes == 4 ? kNarrowBase : 0) | (trans ? 0x10000 : 0);
}

void lowerMovmatrix(Assembler& a) {
  a.require(75, 78);
  if (!a.take("sync") || !a.take("aligned") || !a.take("m8n8") || !a.take("trans") || a.takeType() != Type::B16) a.fail("movmatrix is .sync.aligned.m8n8.trans.b16");
  a.expectOperands(2);
  Op& op = a.emit(
      [](Warp& w, const Op& o, uint32_t mask) {
        if (mask != kAll) fault(w, o, std::countr_zero(mask), kLaunchFailed, "movmatrix needs all 32 lanes of the warp");
        uint16_t m[8][8];
        const uint32_t* s = w.reg<uint32_t>(o.r[1]);
        uint32_t* d = w.reg<uint32_t>(o.r[0]);
        for (int l = 0; l < kLanes; ++l) m[l >> 2][(l & 3) * 2] = uint16_t(s[l]), m[l >> 2][(l & 3) * 2 + 1] = uint16_t(s[l] >> 16);
        for (int l = 0; l < kLanes; ++l) d[l] = uint32_t(m[(l & 3) * 2][l >> 2]) | uint32_t(m[(l & 3) * 2 + 1][l >> 2]) << 16;
      },
      {a.destination(0, Type::B32), a.source(1, Type::B32)});
  op.flow = Flow::Warp;
}

}  // namespace

void addMatrices(LoweringTable& t) {
  t["mma"] = lowerMma;
  t["ldmatrix"] = [](Assembler& a) { lowerMatrixAccess(a, true); };
  t["stmatrix"] = [](Assembler& a) { lowerMatrixAccess(a, false); };
  t["movmatrix"] = lowerMovmatrix;
}

}  // namespace vcuda
