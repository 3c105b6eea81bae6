// wgmma: matrix multiply of a warpgroup from shared memory by descriptors. Each of the four warps computes its sixteen
// rows when it waits for the group that the instruction was committed to; until then its registers hold what they held.
//
// Matrix descriptors (ISA, "Matrix Descriptor Format"): bits 0-13 start address / 16, 16-29 leading byte offset / 16,
// 32-45 stride byte offset / 16, 49-51 base offset, 62-63 swizzle (0 none, 1 128 bytes, 2 64, 3 32).
#include <bit>
#include <cmath>
#include <cstring>

#include "access.h"
#include "matrix.h"
#include "tensor_map.h"

namespace vcuda {
namespace {

struct WgmmaPlan {
  uint16_t n;
  uint8_t k;
  Type a, b, d;
  bool aInRegisters, transA, transB, negateA, negateB, saturate;
};
static_assert(sizeof(WgmmaPlan) <= 16);

struct Descriptor {
  uint32_t start, leading, stride;
  Swizzle swizzle;
};

Descriptor decode(Warp& w, const Op& o, uint64_t bits) {
  Descriptor d;
  d.start = uint32_t(bits & 0x3fff) << 4;
  d.leading = uint32_t((bits >> 16) & 0x3fff) << 4;
  d.stride = uint32_t((bits >> 32) & 0x3fff) << 4;
  static constexpr Swizzle kModes[] = {Swizzle::None, Swizzle::B128, Swizzle::B64, Swizzle::B32};
  d.swizzle = kModes[bits >> 62];
  if ((bits >> 49) & 7) fault(w, o, 0, kLaunchFailed, "wgmma: a base offset in a matrix descriptor is not known to this device (tiles begin where the swizzle pattern does)");
  return d;
}

/** Shared address of element (row of M or N, k) of `bytes`: the canonical layouts of the ISA. */
uint32_t elementAddress(const Descriptor& d, uint32_t row, uint32_t k, uint32_t bytes, bool transposed) {
  const uint32_t width = d.swizzle == Swizzle::None ? 16 : d.swizzle == Swizzle::B32 ? 32 : d.swizzle == Swizzle::B64 ? 64 : 128;
  uint32_t at;
  if (!transposed) {
    // K is contiguous: eight rows of `width` bytes, groups of eight rows `stride` apart.
    const uint32_t column = k * bytes;
    at = d.start + (row / 8) * d.stride + (row % 8) * width + (column % width) + (column / width) * d.leading;
  } else {
    // M or N is contiguous: `width` bytes of it in eight k; the next eight k `stride`, the next `width` `leading` apart.
    const uint32_t column = row * bytes;
    if (d.swizzle == Swizzle::None) at = d.start + (column / 16) * d.stride + (k / 8) * d.leading + (k % 8) * 16 + column % 16;
    else at = d.start + (column / width) * d.leading + (k / 8) * d.stride + (k % 8) * width + column % width;
  }
  return swizzled(at, d.swizzle);
}

double readElement(Warp& w, const Op& o, uint32_t address, Type type) {
  const int bytes = bytesOf(type);
  Block& block = *w.block;
  if (address < 1024 || address + uint32_t(bytes) > block.shared.size())
    fault(w, o, 0, kIllegalAddress, "out of bounds: wgmma reads the shared address " + std::to_string(address) + " of " + std::to_string(block.shared.size()));
  for (int i = 0; i < bytes; ++i) {
    const uint8_t mark = block.marks[address + uint32_t(i)];
    if (mark & kInFlight) fault(w, o, 0, kLaunchFailed, "race: wgmma reads the shared byte " + std::to_string(address) + " while an asynchronous copy to it has not been waited for");
    if (mark == kUnset) fault(w, o, 0, kLaunchFailed, "uninitialised shared memory: wgmma reads the shared byte " + std::to_string(address));
  }
  uint64_t bits = 0;
  std::memcpy(&bits, block.shared.data() + address, size_t(bytes));
  return elementValue(type, bits);
}

/** The warp's sixteen rows. extra: registers of d, then of a. */
void compute(Warp& w, const Op& o, const WgmmaPlan& p, uint64_t descriptorA, uint64_t descriptorB, const std::vector<uint32_t>& aBits, bool accumulate) {
  const int K = p.k, N = p.n;
  const bool halfD = p.d == Type::F16, integer = p.d == Type::S32;
  std::vector<double> A(size_t(16) * size_t(K)), B(size_t(K) * size_t(N)), D(size_t(16) * size_t(N));
  const uint32_t elementBytes = uint32_t(bytesOf(p.a));
  if (p.aInRegisters) {
    const int bits = bitsOf(p.a), E = 32 / bits;
    for (int lane = 0; lane < kLanes; ++lane)
      for (int r = 0; r < 4; ++r) {
        const uint32_t word = aBits[size_t(r * kLanes + lane)];
        const int row = (lane >> 2) + 8 * (r & 1), col = (r >> 1) * 4 * E + (lane & 3) * E;
        for (int e = 0; e < E; ++e) A[size_t(row * K + col + e)] = elementValue(p.a, bits == 32 ? word : word >> (e * bits));
      }
  } else {
    const Descriptor d = decode(w, o, descriptorA);
    const uint32_t first = uint32_t(w.index % 4) * 16;
    for (int row = 0; row < 16; ++row)
      for (int k = 0; k < K; ++k) A[size_t(row * K + k)] = readElement(w, o, elementAddress(d, first + uint32_t(row), uint32_t(k), elementBytes, p.transA), p.a);
  }
  const Descriptor db = decode(w, o, descriptorB);
  for (int n = 0; n < N; ++n)
    for (int k = 0; k < K; ++k) B[size_t(k * N + n)] = readElement(w, o, elementAddress(db, uint32_t(n), uint32_t(k), elementBytes, p.transB), p.b);
  const auto& regs = o.extra->registers;
  const int count = N / 2;
  for (int lane = 0; lane < kLanes; ++lane)
    for (int i = 0; i < count; ++i) {
      const int row = (lane >> 2) + 8 * ((i >> 1) & 1), col = 8 * (i >> 2) + (lane & 3) * 2 + (i & 1);
      double& v = D[size_t(row * N + col)];
      if (!accumulate) v = 0;
      else if (halfD) v = fromHalf(uint16_t(w.reg<uint32_t>(regs[size_t(i / 2)])[lane] >> (16 * (i & 1))));
      else v = elementValue(p.d, w.reg<uint32_t>(regs[size_t(i)])[lane]);
    }
  const double sign = p.negateA != p.negateB ? -1 : 1;
  for (int row = 0; row < 16; ++row) {
    std::vector<double> sum(size_t(N), 0.0);
    for (int k = 0; k < K; ++k) {
      const double x = sign * A[size_t(row * K + k)];
      for (int n = 0; n < N; ++n) sum[size_t(n)] += x * B[size_t(k * N + n)];
    }
    for (int n = 0; n < N; ++n) D[size_t(row * N + n)] += sum[size_t(n)];
  }
  for (int lane = 0; lane < kLanes; ++lane)
    for (int i = 0; i < count; ++i) {
      const int row = (lane >> 2) + 8 * ((i >> 1) & 1), col = 8 * (i >> 2) + (lane & 3) * 2 + (i & 1);
      const double v = D[size_t(row * N + col)];
      if (halfD) {
        const uint16_t h = uint16_t(v != v ? kNaN16 : roundTo(kHalf, v, Round::Nearest));
        uint32_t& d = w.reg<uint32_t>(regs[size_t(i / 2)])[lane];
        d = i & 1 ? (d & 0xffff) | uint32_t(h) << 16 : (d & 0xffff0000u) | h;
      } else if (integer) {
        w.reg<int32_t>(regs[size_t(i)])[lane] = p.saturate ? int32_t(std::min(2147483647.0, std::max(-2147483648.0, v))) : int32_t(uint32_t(int64_t(v)));
      } else {
        w.reg<float>(regs[size_t(i)])[lane] = canonical(float(v));
      }
    }
}

/** r: descriptor of a (or kNone), descriptor of b, scale-d predicate. */
void wgmma(Warp& w, const Op& o, uint32_t mask) {
  WgmmaPlan p;
  std::memcpy(static_cast<void*>(&p), &o.imm, sizeof p);
  if (mask != kAll) fault(w, o, std::countr_zero(mask), kLaunchFailed, "wgmma needs all 32 lanes of the warp");
  if (w.block->warps.size() < size_t(w.index / 4 * 4 + 4)) fault(w, o, 0, kLaunchFailed, "wgmma needs the four warps of a warpgroup");
  if (!w.matmulFenced) fault(w, o, 0, kLaunchFailed, "wgmma.mma_async before any wgmma.fence");
  const uint32_t scale = w.pred(o.r[2]);
  if (scale != 0 && scale != kAll) fault(w, o, 0, kLaunchFailed, "wgmma: scale-d differs between the lanes");
  const auto uniform = [&](uint32_t at) {
    const uint64_t* v = w.reg<uint64_t>(at);
    for (int l = 1; l < kLanes; ++l)
      if (v[l] != v[0]) fault(w, o, l, kLaunchFailed, "wgmma: the matrix descriptor differs between the lanes");
    return v[0];
  };
  const uint64_t a = p.aInRegisters ? 0 : uniform(o.r[0]), b = uniform(o.r[1]);
  std::vector<uint32_t> bits;
  const size_t dCount = size_t(p.d == Type::F16 ? p.n / 4 : p.n / 2);
  if (p.aInRegisters)
    for (size_t r = 0; r < 4; ++r)
      for (int l = 0; l < kLanes; ++l) bits.push_back(w.reg<uint32_t>(o.extra->registers[dCount + r])[l]);
  const Op* op = &o;
  Warp* warp = &w;
  w.matmuls.push_back({w.matmulGroup, [warp, op, p, a, b, bits, scale] { compute(*warp, *op, p, a, b, bits, scale != 0); }});
}

void waitGroup(Warp& w, const Op& o, uint32_t) {
  size_t done = 0;
  for (; done < w.matmuls.size() && int64_t(w.matmuls[done].group) + o.imm < int64_t(w.matmulGroup); ++done) w.matmuls[done].run();
  w.matmuls.erase(w.matmuls.begin(), w.matmuls.begin() + long(done));
}

void lowerWgmma(Assembler& a) {
  a.require(90, 80, true);
  if (a.take("fence")) {
    if (!a.take("sync") || !a.take("aligned")) a.fail("wgmma.fence is .sync.aligned");
    a.emit([](Warp& w, const Op&, uint32_t) { w.matmulFenced = true; }).flow = Flow::Warp;
    return;
  }
  if (a.take("commit_group")) {
    if (!a.take("sync") || !a.take("aligned")) a.fail("wgmma.commit_group is .sync.aligned");
    a.emit([](Warp& w, const Op&, uint32_t) { ++w.matmulGroup; }).flow = Flow::Warp;
    return;
  }
  if (a.take("wait_group")) {
    if (!a.take("sync") || !a.take("aligned")) a.fail("wgmma.wait_group is .sync.aligned");
    a.expectOperands(1);
    Op& op = a.emit(waitGroup);
    op.flow = Flow::Warp;
    op.imm = a.immediate(0);
    return;
  }
  if (!a.take("mma_async") || !a.take("sync") || !a.take("aligned")) a.fail("wgmma is .mma_async.sync.aligned, .fence, .commit_group or .wait_group");
  std::string shape;
  if (!a.takePrefix("m64n", &shape)) a.fail("wgmma is of m64nNkK");
  WgmmaPlan p{};
  int n = 0, k = 0;
  if (std::sscanf(shape.c_str(), "m64n%dk%d", &n, &k) != 2 || n < 8 || n > 256 || n % 8) a.fail("the shape ." + shape + " does not exist");
  p.saturate = a.take("satfinite");
  p.d = a.takeType();
  p.a = a.takeType();
  p.b = a.takeType();
  p.n = uint16_t(n);
  p.k = uint8_t(k);
  const bool sixteen = p.a == Type::F16 || p.a == Type::BF16, eight = p.a == Type::E4M3 || p.a == Type::E5M2, integer = p.a == Type::S8 || p.a == Type::U8;
  const bool types = (p.a == Type::F16 && p.b == p.a && (p.d == Type::F16 || p.d == Type::F32) && k == 16) || (p.a == Type::BF16 && p.b == p.a && p.d == Type::F32 && k == 16) ||
                     (p.a == Type::TF32 && p.b == p.a && p.d == Type::F32 && k == 8) ||
                     (eight && (p.b == Type::E4M3 || p.b == Type::E5M2) && (p.d == Type::F32 || p.d == Type::F16) && k == 32) ||
                     (integer && (p.b == Type::S8 || p.b == Type::U8) && p.d == Type::S32 && k == 32 && (n <= 32 ? n % 8 == 0 : n % 16 == 0));
  if (!types) a.fail("these types and this shape do not go together, or are not known to this device");
  if (p.saturate && !integer) a.fail(".satfinite is of integers");
  p.aInRegisters = a.isVector(1);
  const size_t scales = integer ? 0 : 2, transposes = sixteen ? (p.aInRegisters ? 1u : 2u) : 0u;
  a.expectOperands(4 + scales + transposes);
  const auto flag = [&](size_t i, int64_t least, int64_t most) {
    const int64_t v = a.immediate(i);
    if (v < least || v > most) a.fail("a scale or transposition is out of range");
    return v;
  };
  if (scales) {
    const int64_t sa = flag(4, -1, 1), sb = flag(5, -1, 1);
    if (sa == 0 || sb == 0) a.fail("scales are 1 or -1");
    p.negateA = sa < 0;
    p.negateB = sb < 0;
  }
  if (transposes == 2) p.transA = flag(6, 0, 1), p.transB = flag(7, 0, 1);
  else if (transposes == 1) p.transB = flag(6, 0, 1);
  Extra& x = a.extra();
  const size_t dCount = size_t(p.d == Type::F16 ? n / 4 : n / 2);
  if (!a.isVector(0) || a.operand(0).items.size() != dCount) a.fail("the accumulator has " + std::to_string(dCount) + " registers");
  for (const Operand& r : a.operand(0).items) x.registers.push_back(a.destination(r, Type::B32));
  if (p.aInRegisters) {
    if (a.operand(1).items.size() != 4) a.fail("A has 4 registers");
    for (const Operand& r : a.operand(1).items) x.registers.push_back(a.source(r, Type::B32));
  }
  Op& op = a.emit(wgmma, {p.aInRegisters ? kNone : a.source(1, Type::B64), a.source(2, Type::B64), a.predicate(3)});
  op.flow = Flow::Warp;
  op.extra = &x;
  std::memcpy(&op.imm, &p, sizeof p);
}

}  // namespace

void addWarpgroups(LoweringTable& t) { t["wgmma"] = lowerWgmma; }

}  // namespace vcuda
