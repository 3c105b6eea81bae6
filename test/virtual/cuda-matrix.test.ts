// Matrix and asynchronous instructions of the virtual CUDA device: fragment layouts as the ISA's figures give them per
// shape, ldmatrix, cp.async groups, mbarriers, bulk copies with tensor maps and swizzles, wgmma, clusters.
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import {
  buildVirtualCuda,
  evaluate,
  fromHex,
  PtxFolder,
  toHex,
  virtualCuda,
  virtualCudaMissing,
  virtualCudaOk,
} from '../support/virtual_cuda.js';

const folder = new PtxFolder();
beforeAll(() => buildVirtualCuda(), 900_000);
afterAll(() => folder.remove());

/** A format by its bits: small integers are exact in all of them. */
const float = new Float32Array(1);
const word = new Uint32Array(float.buffer);
const f32 = (x: number) => {
  float[0] = x;
  return word[0] ?? 0;
};
const ofF32 = (bits: bigint | number) => {
  word[0] = Number(bits);
  return float[0] ?? 0;
};
const half = (x: number) => {
  if (x === 0) return 0;
  const m = Math.abs(x);
  const e = Math.floor(Math.log2(m));
  return (x < 0 ? 0x8000 : 0) | ((e + 15) << 10) | Math.round((m / 2 ** e - 1) * 1024);
};
const bfloat = (x: number) => f32(x) >>> 16;
const e4m3 = (x: number) => {
  if (x === 0) return 0;
  const m = Math.abs(x);
  const e = Math.floor(Math.log2(m));
  return (x < 0 ? 0x80 : 0) | ((e + 7) << 3) | Math.round((m / 2 ** e - 1) * 8);
};
const double = new Float64Array(1);
const f64 = (x: number) => {
  double[0] = x;
  return new BigUint64Array(double.buffer)[0] ?? 0n;
};

type Place = readonly [row: number, column: number];

interface Shape {
  readonly name: string;
  readonly m: number;
  readonly k: number;
  readonly bits: 8 | 16 | 32 | 64;
  readonly encode: (x: number) => number | bigint;
  /** Element i of a lane's A and B fragments: row and column, in the words of the ISA's tables. */
  readonly a: (g: number, t: number, i: number) => Place;
  readonly b: (g: number, t: number, i: number) => Place;
  readonly accumulator: 'f32' | 'f16' | 's32' | 'f64';
}

const rowLowHigh = (g: number, high: boolean) => (high ? g + 8 : g);
const shapes: readonly Shape[] = [
  {
    name: 'm16n8k16.row.col.f32.f16.f16.f32',
    m: 16,
    k: 16,
    bits: 16,
    encode: half,
    accumulator: 'f32',
    a: (g, t, i) => [rowLowHigh(g, !((i >= 0 && i < 2) || (i >= 4 && i < 6))), t * 2 + (i & 1) + (i >= 4 ? 8 : 0)],
    b: (g, t, i) => [t * 2 + (i & 1) + (i >= 2 ? 8 : 0), g],
  },
  {
    name: 'm16n8k16.row.col.f16.f16.f16.f16',
    m: 16,
    k: 16,
    bits: 16,
    encode: half,
    accumulator: 'f16',
    a: (g, t, i) => [rowLowHigh(g, !((i >= 0 && i < 2) || (i >= 4 && i < 6))), t * 2 + (i & 1) + (i >= 4 ? 8 : 0)],
    b: (g, t, i) => [t * 2 + (i & 1) + (i >= 2 ? 8 : 0), g],
  },
  {
    name: 'm16n8k8.row.col.f32.f16.f16.f32',
    m: 16,
    k: 8,
    bits: 16,
    encode: half,
    accumulator: 'f32',
    a: (g, t, i) => [rowLowHigh(g, i >= 2), t * 2 + (i & 1)],
    b: (g, t, i) => [t * 2 + i, g],
  },
  {
    name: 'm16n8k16.row.col.f32.bf16.bf16.f32',
    m: 16,
    k: 16,
    bits: 16,
    encode: bfloat,
    accumulator: 'f32',
    a: (g, t, i) => [rowLowHigh(g, !((i >= 0 && i < 2) || (i >= 4 && i < 6))), t * 2 + (i & 1) + (i >= 4 ? 8 : 0)],
    b: (g, t, i) => [t * 2 + (i & 1) + (i >= 2 ? 8 : 0), g],
  },
  {
    name: 'm16n8k8.row.col.f32.tf32.tf32.f32',
    m: 16,
    k: 8,
    bits: 32,
    encode: f32,
    accumulator: 'f32',
    a: (g, t, i) => [rowLowHigh(g, i === 1 || i === 3), i < 2 ? t : t + 4],
    b: (g, t, i) => [i === 0 ? t : t + 4, g],
  },
  {
    name: 'm16n8k4.row.col.f32.tf32.tf32.f32',
    m: 16,
    k: 4,
    bits: 32,
    encode: f32,
    accumulator: 'f32',
    a: (g, t, i) => [rowLowHigh(g, i === 1), t],
    b: (g, t) => [t, g],
  },
  {
    name: 'm16n8k32.row.col.s32.s8.s8.s32',
    m: 16,
    k: 32,
    bits: 8,
    encode: (x) => x & 255,
    accumulator: 's32',
    a: (g, t, i) => [rowLowHigh(g, !((i >= 0 && i < 4) || (i >= 8 && i < 12))), t * 4 + (i & 3) + (i >= 8 ? 16 : 0)],
    b: (g, t, i) => [t * 4 + (i & 3) + (i >= 4 ? 16 : 0), g],
  },
  {
    name: 'm16n8k16.row.col.s32.s8.s8.s32',
    m: 16,
    k: 16,
    bits: 8,
    encode: (x) => x & 255,
    accumulator: 's32',
    a: (g, t, i) => [rowLowHigh(g, i >= 4), t * 4 + (i & 3)],
    b: (g, t, i) => [t * 4 + i, g],
  },
  {
    name: 'm8n8k16.row.col.s32.s8.s8.s32',
    m: 8,
    k: 16,
    bits: 8,
    encode: (x) => x & 255,
    accumulator: 's32',
    a: (g, t, i) => [g, t * 4 + i],
    b: (g, t, i) => [t * 4 + i, g],
  },
  {
    name: 'm16n8k32.row.col.f32.e4m3.e4m3.f32',
    m: 16,
    k: 32,
    bits: 8,
    encode: e4m3,
    accumulator: 'f32',
    a: (g, t, i) => [rowLowHigh(g, !((i >= 0 && i < 4) || (i >= 8 && i < 12))), t * 4 + (i & 3) + (i >= 8 ? 16 : 0)],
    b: (g, t, i) => [t * 4 + (i & 3) + (i >= 4 ? 16 : 0), g],
  },
  {
    name: 'm8n8k4.row.col.f64.f64.f64.f64',
    m: 8,
    k: 4,
    bits: 64,
    encode: f64,
    accumulator: 'f64',
    a: (g, t) => [g, t],
    b: (g, t) => [t, g],
  },
];

const matrix = (rows: number, columns: number, f: (r: number, c: number) => number) =>
  Array.from({ length: rows }, (_, r) => Array.from({ length: columns }, (_, c) => f(r, c)));
const product = (a: number[][], b: number[][], c: number[][]) =>
  c.map((row, i) => row.map((x, j) => x + (a[i] ?? []).reduce((s, v, k) => s + v * (b[k]?.[j] ?? 0), 0)));

/** Values that differ everywhere, small enough for all formats. */
const valueA = (r: number, c: number) => ((r * 7 + c * 3) % 13) - 6;
const valueB = (r: number, c: number) => ((r * 5 + c * 11) % 15) - 7;

describe.skipIf(virtualCudaMissing !== undefined)('mma.sync', () => {
  for (const shape of shapes)
    it(shape.name, () => {
      const A = matrix(shape.m, shape.k, valueA);
      const B = matrix(shape.k, 8, valueB);
      const C = matrix(shape.m, 8, (r, c) => r - 2 * c);
      const perRegister = shape.bits === 64 ? 1 : 32 / shape.bits;
      const registerBits = shape.bits === 64 ? 64 : 32;
      const aCount = (shape.m * shape.k) / 32;
      const bCount = (shape.k * 8) / 32;
      const cCount = (shape.m * 8) / 32;
      const registers = (count: number, place: (g: number, t: number, i: number) => Place, m: number[][]) =>
        Array.from({ length: 32 }, (_, lane) =>
          Array.from({ length: count }, (_, i) => {
            const [r, c] = place(lane >> 2, lane & 3, i);
            return shape.encode(m[r]?.[c] ?? Number.NaN);
          }),
        );
      const place = (g: number, t: number, i: number): Place => [i < 2 ? g : g + 8, t * 2 + (i & 1)];
      const accumulator = { f32, f16: half, s32: (x: number) => x, f64 }[shape.accumulator];
      const cBits = { f32: 32, f16: 16, s32: 32, f64: 64 }[shape.accumulator] as 16 | 32 | 64;
      const laneC = Array.from({ length: 32 }, (_, lane) =>
        Array.from({ length: cCount }, (_, i) => {
          const [r, c] = place(lane >> 2, lane & 3, i);
          return accumulator(C[r]?.[c] ?? Number.NaN);
        }),
      );
      const hex = (lanes: (number | bigint)[][], bits: 8 | 16 | 32 | 64) => lanes.map((v) => toHex(v, bits)).join('');
      const n = {
        a: aCount / perRegister,
        b: bCount / perRegister,
        c: shape.accumulator === 'f16' ? cCount / 2 : cCount,
      };
      const type = registerBits === 64 ? 'f64' : 'b32';
      const width = registerBits / 8;
      const cType = shape.accumulator === 'f64' ? 'f64' : 'b32';
      const cWidth = shape.accumulator === 'f64' ? 8 : 4;
      const names = (prefix: string, count: number) =>
        Array.from({ length: count }, (_, i) => `%${prefix}${i}`).join(', ');
      const loads = (name: string, count: number, t: string, bytes: number) =>
        `ld.param.u64 %rd0, [${name}]; mul.wide.u32 %rd1, %r0, ${count * bytes}; add.u64 %rd0, %rd0, %rd1;\n${Array.from({ length: count }, (_, i) => `ld.global.${t} %${name}${i}, [%rd0+${i * bytes}];`).join(' ')}`;
      const text = `.version 8.4\n.target sm_90\n.address_size 64\n.visible .entry f(.param .u64 a, .param .u64 b, .param .u64 c, .param .u64 d) {
.reg .b32 %r0; .reg .b64 %rd<2>; .reg .${type} %a<8>; .reg .${type} %b<8>; .reg .${cType} %c<8>; .reg .${cType} %d<8>;
mov.u32 %r0, %tid.x;
${loads('a', n.a, type, width)}\n${loads('b', n.b, type, width)}\n${loads('c', n.c, cType, cWidth)}
mma.sync.aligned.${shape.name} {${names('d', n.c)}}, {${names('a', n.a)}}, {${names('b', n.b)}}, {${names('c', n.c)}};
ld.param.u64 %rd0, [d]; mul.wide.u32 %rd1, %r0, ${n.c * cWidth}; add.u64 %rd0, %rd0, %rd1;
${Array.from({ length: n.c }, (_, i) => `st.global.${cType} [%rd0+${i * cWidth}], %d${i};`).join(' ')}
ret; }`;
      const bytes = 32 * n.c * cWidth;
      const answers = virtualCudaOk([
        `module M ${folder.write(text)}`,
        'alloc a 4096',
        'alloc b 4096',
        'alloc c 4096',
        'alloc d 4096',
        `put a 0 ${hex(registers(aCount, shape.a, A), shape.bits)}`,
        `put b 0 ${hex(registers(bCount, shape.b, B), shape.bits)}`,
        `put c 0 ${hex(laneC, cBits)}`,
        'launch M f 1 1 1 32 1 1 0 0 @a @b @c @d',
        `get d 0 ${bytes}`,
      ]);
      const got = fromHex(answers.at(-1) ?? '', cBits);
      const D = product(A, B, C);
      for (let lane = 0; lane < 32; lane++)
        for (let i = 0; i < cCount; i++) {
          const [r, c] = place(lane >> 2, lane & 3, i);
          const expected = D[r]?.[c] ?? Number.NaN;
          expect(got[lane * cCount + i], `lane ${lane} element ${i} = D[${r}][${c}]`).toBe(
            BigInt.asUintN(cBits, BigInt(accumulator(expected))),
          );
        }
    });

  it('is refused on targets and in shapes that do not have it', () => {
    const text = (target: string, instruction: string) =>
      `.version 7.0\n.target ${target}\n.address_size 64\n.visible .entry f() { .reg .b32 %r<16>;\n${instruction}\nret; }`;
    const answer = (target: string, instruction: string) =>
      virtualCuda([`module M ${folder.write(text(target, instruction), { assemble: false })}`])[0];
    expect(
      answer(
        'sm_75',
        'mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%r0,%r1,%r2,%r3}, {%r4,%r5,%r6,%r7}, {%r8,%r9}, {%r0,%r1,%r2,%r3};',
      ),
    ).toMatch(/218.*needs \.target sm_80/);
    expect(
      answer(
        'sm_80',
        'mma.sync.aligned.m16n8k16.row.col.f32.bf16.f16.f32 {%r0,%r1,%r2,%r3}, {%r4,%r5,%r6,%r7}, {%r8,%r9}, {%r0,%r1,%r2,%r3};',
      ),
    ).toMatch(/218/);
    expect(
      answer(
        'sm_80',
        'mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%r0,%r1,%r2}, {%r4,%r5,%r6,%r7}, {%r8,%r9}, {%r0,%r1,%r2,%r3};',
      ),
    ).toMatch(/218.*4 registers/);
  });
});

describe.skipIf(virtualCudaMissing !== undefined)('ldmatrix and stmatrix', () => {
  const inputs = [{ width: 32 as const, values: Array.from({ length: 32 }, (_, i) => BigInt(i)) }];
  /** Four 8 × 8 matrices of 16-bit values matrix * 64 + row * 8 + column; row r of matrix j is at 16 * (8 j + r). */
  const fill = `.shared .align 16 .b8 tile[512]; mov.u32 %r0, tile; shl.b32 %r1, %t, 4; add.u32 %r0, %r0, %r1;
    shl.b32 %r2, %t, 3; mad.lo.u32 %r2, %r2, 0x10001, 0x10000; add.u32 %r3, %r2, 0x20002; add.u32 %r4, %r2, 0x40004; add.u32 %r5, %r2, 0x60006;
    st.shared.v4.b32 [%r0], {%r2, %r3, %r4, %r5}; bar.sync 0;`;
  const element = (j: number, r: number, c: number) => j * 64 + r * 8 + c;
  it('gives lane l row l / 4, columns 2 (l % 4) and + 1; .trans the transpose', () => {
    for (const trans of [false, true]) {
      const got = evaluate(folder, {
        code: `${fill} ldmatrix.sync.aligned.m8n8.x4${trans ? '.trans' : ''}.shared.b16 {%r6, %r7, %r8, %r9}, [%r0]; mov.b32 %d, %r6; mov.b32 %e, %r9;`,
        inputs,
        output: 32,
        second: 32,
      });
      const expected = (j: number) =>
        Array.from({ length: 32 }, (_, l) => {
          const g = l >> 2;
          const c = (l & 3) * 2;
          return trans
            ? BigInt(element(j, c, g) + element(j, c + 1, g) * 65536)
            : BigInt(element(j, g, c) + element(j, g, c + 1) * 65536);
        });
      expect(got.first).toEqual(expected(0));
      expect(got.second).toEqual(expected(3));
    }
  });
  it('takes the addresses of the first 8 or 16 lanes for .x1 and .x2', () => {
    const got = evaluate(folder, {
      // Lanes 16 and up give an address that would be out of bounds.
      code: `${fill} setp.ge.u32 %p, %t, 16; @%p mov.u32 %r0, 3; ldmatrix.sync.aligned.m8n8.x2.shared.b16 {%r6, %r7}, [%r0]; mov.b32 %d, %r7;`,
      inputs,
      output: 32,
    });
    expect(got.first).toEqual(
      Array.from({ length: 32 }, (_, l) =>
        BigInt(element(1, l >> 2, (l & 3) * 2) + element(1, l >> 2, (l & 3) * 2 + 1) * 65536),
      ),
    );
  });
  it('stmatrix writes back what ldmatrix reads', () => {
    const got = evaluate(folder, {
      code: `${fill} .shared .align 16 .b8 back[512]; mov.u32 %r10, back; add.u32 %r10, %r10, %r1;
        ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%r6, %r7, %r8, %r9}, [%r0]; stmatrix.sync.aligned.m8n8.x4.trans.shared.b16 [%r10], {%r6, %r7, %r8, %r9};
        bar.sync 0; ld.shared.b32 %d, [%r10];`,
      inputs,
      output: 32,
    });
    // Row r of the transposed matrix j begins with elements (0, r) and (1, r).
    expect(got.first).toEqual(
      Array.from({ length: 32 }, (_, l) => BigInt(element(l >> 3, 0, l & 7) + element(l >> 3, 1, l & 7) * 65536)),
    );
  });
});

describe.skipIf(virtualCudaMissing !== undefined)('asynchronous copies', () => {
  it('cp.async: groups complete in order, short sources are filled with zeros', () => {
    const values = Array.from({ length: 64 }, (_, i) => BigInt(1000 + i));
    const code = `
      .shared .align 16 .b8 s[2048]; mov.u32 %r0, s; shl.b32 %r1, %t, 4; add.u32 %r0, %r0, %r1; add.u32 %r3, %r0, 1024;
      ld.param.u64 %rd0, [in0]; and.b32 %r2, %t, 15; mul.wide.u32 %rd1, %r2, 16; add.u64 %rd0, %rd0, %rd1;
      cp.async.cg.shared.global [%r0], [%rd0], 16; cp.async.commit_group;
      mov.b32 %r4, 4; cp.async.ca.shared.global [%r3], [%rd0], 16, %r4; cp.async.commit_group;
      cp.async.wait_group 1; ld.shared.b32 %d, [%r0+12];
      cp.async.wait_all; ld.shared.b32 %r5, [%r3]; ld.shared.b32 %r6, [%r3+4]; add.u32 %e, %r5, %r6;`;
    const got = evaluate(folder, { code, inputs: [{ width: 32, values }], output: 32, second: 32 });
    expect(got.first).toEqual(values.map((_, i) => BigInt(1000 + (i % 16) * 4 + 3)));
    expect(got.second).toEqual(values.map((_, i) => BigInt(1000 + (i % 16) * 4)));
  });

  it('mbarrier: phases by arrivals, parity waits, expected bytes of a bulk copy', () => {
    const values = Array.from({ length: 64 }, (_, i) => BigInt(i * 3));
    const code = `
      .shared .align 8 .b64 bar; .shared .align 128 .b8 s[256]; mov.u32 %r0, bar; mov.u32 %r1, s;
      setp.eq.u32 %p, %t, 0; @%p mbarrier.init.shared::cta.b64 [%r0], 1; fence.mbarrier_init.release.cluster; bar.sync 0;
      ld.param.u64 %rd0, [in0];
      @!%p bra WAIT;
      mbarrier.arrive.expect_tx.shared::cta.b64 _, [%r0], 256;
      cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%r1], [%rd0], 256, [%r0];
      WAIT: mbarrier.try_wait.parity.shared::cta.b64 %q, [%r0], 0; @!%q bra WAIT;
      shl.b32 %r2, %t, 2; add.u32 %r2, %r1, %r2; ld.shared.b32 %d, [%r2];
      mbarrier.test_wait.parity.shared::cta.b64 %q, [%r0], 1; selp.b32 %e, 1, 0, %q;`;
    const got = evaluate(folder, { code, inputs: [{ width: 32, values }], output: 32, second: 32 });
    expect(got.first).toEqual(values);
    expect(new Set(got.second)).toEqual(new Set([0n])); // phase 1 is not over; parity 1 is that of the phase before 0
  });
});

/** 2-D tile of bf16 by tensor map into shared memory, out again as it lies there. */
const copyTile = (bytes: number, swizzle: boolean) => `.version 8.4\n.target sm_90a\n.address_size 64
.visible .entry f(.param .align 64 .b8 map[128], .param .u64 out, .param .u32 x, .param .u32 y) {
.reg .pred %p<2>; .reg .b32 %r<8>; .reg .b64 %rd<4>;
.shared .align 8 .b64 bar; .shared .align 1024 .b8 s[${bytes}];
// ${swizzle}
mov.u32 %r0, bar; mov.u32 %r1, s; mov.u32 %r2, %tid.x; ld.param.u32 %r3, [x]; ld.param.u32 %r4, [y];
setp.eq.u32 %p0, %r2, 0; @%p0 mbarrier.init.shared::cta.b64 [%r0], 1; bar.sync 0;
mov.b64 %rd0, map; cvta.param.u64 %rd1, %rd0;
@%p0 mbarrier.arrive.expect_tx.shared::cta.b64 _, [%r0], ${bytes};
@%p0 cp.async.bulk.tensor.2d.shared::cluster.global.tile.mbarrier::complete_tx::bytes [%r1], [%rd1, {%r3, %r4}], [%r0];
W: mbarrier.try_wait.parity.shared::cta.b64 %p1, [%r0], 0; @!%p1 bra W;
ld.param.u64 %rd2, [out];
L: add.u32 %r5, %r1, %r2; ld.shared.u8 %r6, [%r5]; cvt.u64.u32 %rd3, %r2; add.u64 %rd3, %rd2, %rd3; st.global.u8 [%rd3], %r6;
add.u32 %r2, %r2, 128; setp.lt.u32 %p1, %r2, ${bytes}; @%p1 bra L;
ret; }`;

describe.skipIf(virtualCudaMissing !== undefined)('tensor maps', () => {
  // 20 rows of 72 bf16 each, rows 144 bytes apart; value = row * 100 + column as an integer
  const rows = 20;
  const columns = 72;
  const value = (r: number, c: number) => (r < 0 || c < 0 || r >= rows || c >= columns ? 0 : r * 100 + c + 1);
  const source = toHex(
    Array.from({ length: rows * columns }, (_, i) => value(Math.floor(i / columns), i % columns)),
    16,
  );
  const type = 9; // bfloat16: the bits are only moved
  for (const [mode, name, inner] of [
    [0, 'no swizzle', 64],
    [1, '32 bytes', 16],
    [2, '64 bytes', 32],
    [3, '128 bytes', 64],
  ] as const)
    it(`2-D tile, ${name}; what is outside is zero`, () => {
      for (const [x, y] of [
        [0, 0],
        [16, 8],
        [-8, -3],
        [48, 14],
      ] as const) {
        const boxRows = 16;
        const bytes = inner * boxRows * 2;
        const answers = virtualCudaOk([
          `module M ${folder.write(copyTile(bytes, mode !== 0))}`,
          `alloc t ${rows * columns * 2}`,
          `put t 0 ${source}`,
          `alloc out ${bytes}`,
          `tensormap T ${type} 2 @t ${columns},${rows} ${columns * 2} ${inner},${boxRows} 1,1 0 ${mode} 0 0`,
          `launch M f 1 1 1 128 1 1 0 0 map:T @out s32:${x} s32:${y}`,
          `get out 0 ${bytes}`,
        ]);
        const got = fromHex(answers.at(-1) ?? '', 16);
        for (let r = 0; r < boxRows; r++)
          for (let c = 0; c < inner; c++) {
            const plain = (r * inner + c) * 2;
            // 16-byte units: their index in the row is xor-ed with the row of the 128-byte pattern.
            const mask = [0, 1, 3, 7][mode];
            const at = plain ^ (((plain >> 7) & (mask ?? 0)) << 4);
            expect(got[at / 2], `(${x}, ${y}) row ${r} column ${c}`).toBe(BigInt(value(y + r, x + c)));
          }
      }
    });

  it('refuses maps that the driver refuses', () => {
    const answer = (map: string) => virtualCuda(['alloc t 4096', `tensormap T ${map}`])[1];
    expect(answer('9 2 @t 64,16 128 64,16 1,1 0 3 0 0')).toBe('ok');
    expect(answer('9 2 @t+8 64,16 128 64,16 1,1 0 3 0 0')).toMatch(/^error 1 /);
    expect(answer('9 2 @t 64,16 100 64,16 1,1 0 3 0 0')).toMatch(/^error 1 /);
    expect(answer('9 2 @t 64,16 128 128,8 1,1 0 3 0 0')).toMatch(/^error 1 /);
    expect(answer('9 2 @t 64,16 128 64,257 1,1 0 3 0 0')).toMatch(/^error 1 /);
  });
});

describe.skipIf(virtualCudaMissing !== undefined)('wgmma', () => {
  /** D[64][n] = A[64][64] B, both tiles loaded by tensor maps with the 128-byte swizzle; B is n × k or (transposed) k × n. */
  const kernel = (n: number, transposedB: boolean) => {
    const count = n / 2;
    const d = Array.from({ length: count }, (_, i) => `%f${i}`).join(', ');
    const bBytes = n * 64 * 2;
    // K-major: 32 bytes further per step of 16 k. MN-major (n is 64 here): 16 rows of 128 bytes further.
    const steps = [0, 1, 2, 3].map(
      (s) => `add.u64 %rd4, %rd2, ${(s * 32) / 16}; add.u64 %rd5, %rd3, ${(transposedB ? s * 2048 : s * 32) / 16};
wgmma.mma_async.sync.aligned.m64n${n}k16.f32.bf16.bf16 {${d}}, %rd4, %rd5, %p2, 1, 1, 0, ${transposedB ? 1 : 0};`,
    );
    return `.version 8.4\n.target sm_90a\n.address_size 64
.visible .entry f(.param .align 64 .b8 mapA[128], .param .align 64 .b8 mapB[128], .param .u64 out) {
.reg .pred %p<4>; .reg .b32 %r<16>; .reg .b64 %rd<12>; .reg .f32 %f<${count}>;
.shared .align 8 .b64 bar; .shared .align 1024 .b8 a[8192]; .shared .align 1024 .b8 b[${bBytes}];
mov.u32 %r0, bar; mov.u32 %r1, a; mov.u32 %r2, b; mov.u32 %r3, %tid.x;
setp.eq.u32 %p0, %r3, 0; @%p0 mbarrier.init.shared::cta.b64 [%r0], 1; fence.mbarrier_init.release.cluster; bar.sync 0;
mov.b64 %rd0, mapA; cvta.param.u64 %rd0, %rd0; mov.b64 %rd1, mapB; cvta.param.u64 %rd1, %rd1; mov.b32 %r4, 0;
@!%p0 bra WAIT;
mbarrier.arrive.expect_tx.shared::cta.b64 _, [%r0], ${8192 + bBytes};
cp.async.bulk.tensor.2d.shared::cluster.global.tile.mbarrier::complete_tx::bytes [%r1], [%rd0, {%r4, %r4}], [%r0];
cp.async.bulk.tensor.2d.shared::cluster.global.tile.mbarrier::complete_tx::bytes [%r2], [%rd1, {%r4, %r4}], [%r0];
WAIT: mbarrier.try_wait.parity.shared::cta.b64 %p1, [%r0], 0; @!%p1 bra WAIT;
shr.u32 %r5, %r1, 4; and.b32 %r5, %r5, 0x3fff; cvt.u64.u32 %rd2, %r5; or.b64 %rd2, %rd2, ${(1n << 62n) | (64n << 32n) | (1n << 16n)};
shr.u32 %r6, %r2, 4; and.b32 %r6, %r6, 0x3fff; cvt.u64.u32 %rd3, %r6; or.b64 %rd3, %rd3, ${(1n << 62n) | (64n << 32n) | (1n << 16n)};
${Array.from({ length: count }, (_, i) => `mov.f32 %f${i}, 0f3f000000;`).join(' ')}
setp.eq.u32 %p2, %r4, 0;
wgmma.fence.sync.aligned;
${steps.join('\n')}
wgmma.commit_group.sync.aligned;
wgmma.wait_group.sync.aligned 0;
ld.param.u64 %rd6, [out]; mul.wide.u32 %rd7, %r3, ${count * 4}; add.u64 %rd6, %rd6, %rd7;
${Array.from({ length: count }, (_, i) => `st.global.f32 [%rd6+${i * 4}], %f${i};`).join(' ')}
ret; }`;
  };
  for (const [n, transposed] of [
    [8, false],
    [64, false],
    [128, false],
    [64, true],
  ] as const)
    it(`m64n${n}k16 bf16 over tiles by tensor maps${transposed ? ', B along n' : ''}`, () => {
      const A = matrix(64, 64, valueA);
      const B = matrix(64, n, valueB); // [k][n]
      const flat = (m: number[][]) => toHex(m.flat().map(bfloat), 16);
      const stored = transposed ? B : Array.from({ length: n }, (_, j) => B.map((row) => row[j] ?? 0));
      const answers = virtualCudaOk([
        `module M ${folder.write(kernel(n, transposed))}`,
        'alloc a 8192',
        `alloc b ${n * 128}`,
        `alloc out ${64 * n * 4}`,
        `put a 0 ${flat(A)}`,
        `put b 0 ${flat(stored)}`,
        'tensormap A 9 2 @a 64,64 128 64,64 1,1 0 3 0 0',
        `tensormap B 9 2 @b 64,${transposed ? 64 : n} 128 64,${transposed ? 64 : n} 1,1 0 3 0 0`,
        'launch M f 1 1 1 128 1 1 0 0 map:A map:B @out',
        `get out 0 ${64 * n * 4}`,
      ]);
      const got = fromHex(answers.at(-1) ?? '', 32);
      const D = product(
        A,
        B,
        matrix(64, n, () => 0.5),
      );
      for (let thread = 0; thread < 128; thread++)
        for (let i = 0; i < n / 2; i++) {
          const row = 16 * (thread >> 5) + ((thread & 31) >> 2) + (i % 4 >= 2 ? 8 : 0);
          const column = 8 * Math.floor(i / 4) + (thread & 3) * 2 + (i & 1);
          expect(ofF32(got[thread * (n / 2) + i] ?? 0n), `thread ${thread} register ${i}`).toBe(D[row]?.[column]);
        }
    });
});

describe.skipIf(virtualCudaMissing !== undefined)('clusters', () => {
  it('mapa and barrier.cluster: each block reads its neighbour', () => {
    const text = `.version 8.0\n.target sm_90\n.address_size 64
.visible .entry f(.param .u64 out) {
.reg .pred %p; .reg .b32 %r<12>; .reg .b64 %rd<4>; .shared .align 4 .b32 v;
mov.u32 %r0, %cluster_ctarank; mov.u32 %r1, %cluster_nctarank; mov.u32 %r2, %ctaid.x; mov.u32 %r3, v; mov.u32 %r9, %tid.x;
setp.eq.u32 %p, %r9, 0; add.u32 %r4, %r2, 100; @%p st.shared.u32 [%r3], %r4;
barrier.cluster.arrive.release.aligned; barrier.cluster.wait.acquire.aligned;
add.u32 %r5, %r0, 1; rem.u32 %r5, %r5, %r1; mapa.shared::cluster.u32 %r6, %r3, %r5; ld.shared::cluster.u32 %r7, [%r6];
barrier.cluster.arrive.aligned; barrier.cluster.wait.aligned;
ld.param.u64 %rd0, [out]; mul.wide.u32 %rd1, %r2, 4; add.u64 %rd0, %rd0, %rd1; @%p st.global.u32 [%rd0], %r7;
ret; }`;
    const answers = virtualCudaOk([
      `module M ${folder.write(text)}`,
      'alloc out 32',
      'cluster 4 1 1',
      'launch M f 8 1 1 64 1 1 0 0 @out',
      'get out 0 32',
    ]);
    expect(fromHex(answers.at(-1) ?? '', 32)).toEqual([101n, 102n, 103n, 100n, 105n, 106n, 107n, 104n]);
    expect(
      virtualCuda([
        `module M ${folder.write(text)}`,
        'alloc out 32',
        'cluster 3 1 1',
        'launch M f 8 1 1 64 1 1 0 0 @out',
      ])[3],
    ).toMatch(/^error 912 /);
  });
});
