// What the virtual Metal device makes of the Metal Shading Language: arithmetic and conversions bit for bit, functions,
// vectors, simdgroup functions and matrices, and what the language refuses. The device is in metal.test.ts.
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import {
  buildVirtualMetal,
  type Expression,
  evaluate,
  fromHex,
  MetalFolder,
  msl,
  toHex,
  virtualMetal,
  virtualMetalMissing,
  virtualMetalOk,
} from '../support/virtual_metal.js';

const folder = new MetalFolder();
beforeAll(() => {
  if (virtualMetalMissing === undefined) buildVirtualMetal();
}, 900_000);
afterAll(() => folder.remove());

const f32 = (x: number) => new Uint32Array(Float32Array.of(x).buffer)[0] ?? 0;
const float = (...values: number[]) => ({ type: 'float', width: 32 as const, values: values.map(f32) });
const bits = (type: string, width: 8 | 16 | 32 | 64, ...values: (number | bigint)[]) => ({ type, width, values });

/** An expression with the bits that it must have at each element. */
type Case = readonly [expression: Expression, expected: readonly (number | bigint)[]];
const value = (
  code: string,
  output: string,
  outputWidth: 8 | 16 | 32 | 64,
  inputs: Expression['inputs'],
): Expression => ({
  code,
  output,
  outputWidth,
  inputs,
});

function check(cases: readonly Case[], env: Readonly<Record<string, string>> = {}): void {
  const results = evaluate(
    folder,
    cases.map(([expression]) => expression),
    env,
  );
  const show = (values: readonly (number | bigint)[]) => values.map((v) => BigInt(v).toString(16)).join(' ');
  const all = cases.map(([{ code, outputWidth }, expected], i) => [
    code,
    show(expected.map((v) => BigInt.asUintN(outputWidth, BigInt(v)))),
    show(results[i] ?? []),
  ]);
  expect(all.map(([code, , got]) => [code, got])).toEqual(all.map(([code, expected]) => [code, expected]));
}

describe.skipIf(virtualMetalMissing !== undefined)('scalars', () => {
  it('takes shift counts modulo the width, wraps, and truncates quotients', () => {
    check([
      [value('a << b', 'uint', 32, [bits('uint', 32, 1, 1, 3), bits('uint', 32, 31, 32, 33)]), [0x80000000, 1, 6]],
      [value('a >> b', 'int', 32, [bits('int', 32, -8, -8), bits('int', 32, 1, 33)]), [-4, -4]],
      [value('a >> b', 'uint', 32, [bits('uint', 32, 0xfffffff8), bits('uint', 32, 1)]), [0x7ffffffc]],
      [value('a << b', 'long', 64, [bits('long', 64, 1n, 1n), bits('long', 64, 63n, 64n)]), [1n << 63n, 1n]],
      [value('a + b', 'int', 32, [bits('int', 32, 0x7fffffff), bits('int', 32, 1)]), [-0x80000000]],
      [value('a * b', 'uint', 32, [bits('uint', 32, 0x10001), bits('uint', 32, 0x10001)]), [0x20001]],
      [value('a / b', 'int', 32, [bits('int', 32, -7, 7), bits('int', 32, 2, -2)]), [-3, -3]],
      [value('a % b', 'int', 32, [bits('int', 32, -7, 7), bits('int', 32, 2, -2)]), [-1, 1]],
      [value('a + b', 'uchar', 8, [bits('uchar', 8, 200), bits('uchar', 8, 100)]), [44]],
    ]);
  });

  it('goes on after an integer division by zero', () => {
    const source = msl(
      'kernel void f(device const int* a [[buffer(0)]], device int* out [[buffer(1)]]) { out[0] = a[0] / a[1]; out[1] = a[0] % a[1]; out[2] = 7; }',
    );
    const answers = virtualMetalOk([
      `library L ${folder.write(source)}`,
      'pipeline P L f',
      'buffer a 8',
      `put a 0 ${toHex([5, 0], 32)}`,
      'buffer o 12',
      'run P 1 1 1 1 1 1 @a @o',
      'get o 8 4',
    ]);
    expect(fromHex(answers.at(-1) ?? '', 32)).toEqual([7n]);
  });

  it('converts floats to integers by truncation, saturated, and NaN to 0', () => {
    const wide = float(1.9, -1.9, 3e9, -3e9, 1e20, Number.NaN, Number.POSITIVE_INFINITY, Number.NEGATIVE_INFINITY);
    check([
      [value('int(a)', 'int', 32, [wide]), [1, -1, 0x7fffffff, -0x80000000, 0x7fffffff, 0, 0x7fffffff, -0x80000000]],
      [value('uint(a)', 'uint', 32, [wide]), [1, 0, 3e9, 0, 0xffffffff, 0, 0xffffffff, 0]],
      [
        value('int4(float4(a)).z', 'int', 32, [wide]),
        [1, -1, 0x7fffffff, -0x80000000, 0x7fffffff, 0, 0x7fffffff, -0x80000000],
      ],
      [value('float(a)', 'float', 32, [bits('int', 32, 16777217, -16777219)]), [f32(16777216), f32(-16777220)]],
      [
        value('half(a)', 'half', 16, [float(65519, 65520, 5.9604645e-8, 2.980232e-8, 1.00048828125)]),
        [0x7bff, 0x7c00, 1, 0, 0x3c00],
      ],
    ]);
  });

  it('rounds half and bfloat after each operation', () => {
    check([
      // 2048 + 1 + 1 in half: each sum rounds to even.
      [value('a + b + b', 'half', 16, [bits('half', 16, 0x6800), bits('half', 16, 0x3c00)]), [0x6800]],
      [
        value('half(a * b) + c', 'half', 16, [
          bits('half', 16, 0x3c01),
          bits('half', 16, 0x3c01),
          bits('half', 16, 0x3c00),
        ]),
        [0x4001],
      ],
      [value('a + b', 'bfloat', 16, [bits('bfloat', 16, 0x4380), bits('bfloat', 16, 0x3f80)]), [0x4380]],
      [
        value('bfloat(a)', 'bfloat', 16, [float(1 + 2 ** -8, 1 + 3 * 2 ** -8, 1 + 2 ** -8 + 2 ** -20, 3.4e38)]),
        [0x3f80, 0x3f82, 0x3f81, 0x7f80],
      ],
      // 2^24 + 2^16 + 1 is above a half-way case that float would round it to.
      [value('bfloat(a)', 'bfloat', 16, [bits('int', 32, (1 << 24) + (1 << 16) + 1, -3)]), [0x4b81, 0xc040]],
      [value('float(a) + float(b)', 'float', 32, [bits('bfloat', 16, 0x4380), bits('half', 16, 0x3c00)]), [f32(257)]],
      [value('a + 1.0bf', 'bfloat', 16, [bits('bfloat', 16, 0x3f80)]), [0x4000]],
      [value('a + 0.5h', 'half', 16, [bits('half', 16, 0x3c00)]), [0x3e00]],
    ]);
  });

  it('contracts where it may, and not where the pragma forbids', () => {
    const a = 1 + 2 ** -12;
    const inputs = [float(a), float(a), float(-(1 + 2 ** -11))];
    const off = {
      ...value('unfused(a, b, c)', 'float', 32, inputs),
      declare: 'float unfused(float a, float b, float c) {\n#pragma METAL fp contract(off)\n  return a * b + c;\n}',
    };
    check([
      [value('fma(a, b, c)', 'float', 32, inputs), [f32(2 ** -24)]],
      [value('a * b + c', 'float', 32, inputs), [f32(2 ** -24)]],
      [off, [f32(0)]],
    ]);
  });

  it('keeps subnormal floats, or flushes them as Apple GPUs do', () => {
    const tiny = value('a * 0.5', 'float', 32, [float(1.5e-38, 1)]);
    check([[tiny, [f32(7.5e-39), f32(0.5)]]]);
    check([[tiny, [0, f32(0.5)]]], { TUTTI_VIRTUAL_METAL_SUBNORMALS: 'flush' });
  });
});

describe.skipIf(virtualMetalMissing !== undefined)('functions', () => {
  it('takes the other operand of min and max where one is NaN', () => {
    const x = float(Number.NaN, 1, -1, 2);
    const y = float(3, Number.NaN, 1, -2);
    check([
      [value('min(a, b)', 'float', 32, [x, y]), [f32(3), f32(1), f32(-1), f32(-2)]],
      [value('fmax(a, b)', 'float', 32, [x, y]), [f32(3), f32(1), f32(1), f32(2)]],
      [value('clamp(a, 0.0f, 1.5f)', 'float', 32, [x]), [0, f32(1), 0, f32(1.5)]],
      [value('min(a, b)', 'int', 32, [bits('int', 32, -1), bits('int', 32, 1)]), [-1]],
      [value('max(a, b)', 'uint', 32, [bits('uint', 32, -1), bits('uint', 32, 1)]), [0xffffffff]],
      [value('saturate(a)', 'float', 32, [float(-1, 0.25, 7)]), [0, f32(0.25), f32(1)]],
    ]);
  });

  it('rounds as named', () => {
    const x = float(2.5, -2.5, 3.5, -0.2, 1e10);
    check([
      [value('rint(a)', 'float', 32, [x]), [f32(2), f32(-2), f32(4), f32(-0), f32(1e10)]],
      [value('round(a)', 'float', 32, [x]), [f32(3), f32(-3), f32(4), f32(-0), f32(1e10)]],
      [value('trunc(a)', 'float', 32, [x]), [f32(2), f32(-2), f32(3), f32(-0), f32(1e10)]],
      [value('floor(a)', 'float', 32, [x]), [f32(2), f32(-3), f32(3), f32(-1), f32(1e10)]],
      [value('ceil(a)', 'float', 32, [x]), [f32(3), f32(-2), f32(4), f32(-0), f32(1e10)]],
      [value('fract(a)', 'float', 32, [float(2.25, -2.25, -1e-10)]), [f32(0.25), f32(0.75), 0x3f7fffff]],
      [value('sign(a)', 'float', 32, [float(2, -2, -0, Number.NaN)]), [f32(1), f32(-1), f32(-0), 0]],
    ]);
  });

  it('computes the mathematical functions closely', () => {
    const x = [0.1, 0.7, 1.3, 2.9];
    const close: [string, (v: number) => number][] = [
      ['exp', Math.exp],
      ['exp2', (v) => 2 ** v],
      ['log', Math.log],
      ['log2', Math.log2],
      ['sin', Math.sin],
      ['cos', Math.cos],
      ['tanh', Math.tanh],
      ['sqrt', Math.sqrt],
      ['rsqrt', (v) => 1 / Math.sqrt(v)],
      ['sinpi', (v) => Math.sin(Math.PI * v)],
      ['precise::atan', Math.atan],
      ['fast::exp10', (v) => 10 ** v],
    ];
    const results = evaluate(
      folder,
      close.map(([name]) => value(`${name}(a)`, 'float', 32, [float(...x)])),
    );
    close.forEach(([name, reference], k) => {
      const got = new Float32Array(Uint32Array.from(results[k] ?? [], Number).buffer);
      x.forEach((v, i) => {
        expect(Math.abs((got[i] ?? Number.NaN) - reference(v)), `${name}(${v})`).toBeLessThan(
          4e-6 * Math.max(1, Math.abs(reference(v))),
        );
      });
    });
  });

  it('has the integer functions', () => {
    check([
      [value('clz(a)', 'uint', 32, [bits('uint', 32, 0, 1, 0x80000000)]), [32, 31, 0]],
      [value('ctz(a)', 'ushort', 16, [bits('ushort', 16, 0, 8)]), [16, 3]],
      [value('clz(a)', 'char', 8, [bits('char', 8, -1, 1, 0)]), [0, 7, 8]],
      [value('popcount(a)', 'ulong', 64, [bits('ulong', 64, -1n, 5n)]), [64n, 2n]],
      [value('mulhi(a, b)', 'int', 32, [bits('int', 32, -2, 1 << 30), bits('int', 32, 3, 8)]), [-1, 2]],
      [value('mulhi(a, b)', 'uint', 32, [bits('uint', 32, 0xffffffff), bits('uint', 32, 0xffffffff)]), [0xfffffffe]],
      [value('mulhi(a, b)', 'ulong', 64, [bits('ulong', 64, -1n), bits('ulong', 64, -1n)]), [-2n]],
      [value('mulhi(a, b)', 'long', 64, [bits('long', 64, -1n), bits('long', 64, 5n)]), [-1n]],
      [value('addsat(a, b)', 'char', 8, [bits('char', 8, 100, -100), bits('char', 8, 100, -100)]), [127, -128]],
      [value('subsat(a, b)', 'uint', 32, [bits('uint', 32, 1), bits('uint', 32, 2)]), [0]],
      [value('absdiff(a, b)', 'uint', 32, [bits('int', 32, -0x80000000), bits('int', 32, 0x7fffffff)]), [0xffffffff]],
      [value('abs(a)', 'int', 32, [bits('int', 32, -5)]), [5]],
      [value('rotate(a, b)', 'uint', 32, [bits('uint', 32, 0x80000001), bits('uint', 32, 33)]), [3]],
      [value('reverse_bits(a)', 'uchar', 8, [bits('uchar', 8, 0b00010110)]), [0b01101000]],
      [value('extract_bits(a, 4, 8)', 'int', 32, [bits('int', 32, 0xf80)]), [-8]],
      [value('insert_bits(a, b, 4, 8)', 'uint', 32, [bits('uint', 32, 0xfffff), bits('uint', 32, 0)]), [0xff00f]],
      [value('hadd(a, b)', 'uchar', 8, [bits('uchar', 8, 255), bits('uchar', 8, 254)]), [254]],
      [value('rhadd(a, b)', 'int', 32, [bits('int', 32, -3), bits('int', 32, 0)]), [-1]],
    ]);
  });

  it('tests and selects', () => {
    const x = float(Number.NaN, Number.POSITIVE_INFINITY, 1, 1e-40);
    check([
      [
        value('uint(isnan(a)) | uint(isinf(a)) << 1 | uint(isfinite(a)) << 2 | uint(isnormal(a)) << 3', 'uint', 32, [
          x,
        ]),
        [1, 2, 12, 4],
      ],
      [value('select(1.0f, 2.0f, a > 0.5f)', 'float', 32, [x]), [f32(1), f32(2), f32(2), f32(1)]],
      [value('uint(a == a) | uint(a != a) << 1 | uint(a < 1e9f) << 2', 'uint', 32, [x]), [2, 1, 5, 5]],
      [
        value('as_type<uint>(select(float2(a), float2(1, 2), bool2(false, true)).y)', 'uint', 32, [x]),
        [f32(2), f32(2), f32(2), f32(2)],
      ],
    ]);
  });
});

describe.skipIf(virtualMetalMissing !== undefined)('vectors', () => {
  it('constructs, swizzles, assigns parts, compares', () => {
    const vector = (code: string, ...declare: string[]): Expression => ({
      ...value(code, 'uint4', 32, [bits('uint4', 32, 1, 2, 3, 4)]),
      declare: declare.join('\n'),
    });
    const run = (expression: Expression): bigint[] => {
      const text = msl(
        `${expression.declare}\nkernel void f(device const uint4* in [[buffer(0)]], device uint4* out [[buffer(1)]]) { uint4 a = in[0]; out[0] = ${expression.code}; }`,
      );
      const answers = virtualMetalOk([
        `library L ${folder.write(text)}`,
        'pipeline P L f',
        'buffer a 16',
        `put a 0 ${toHex([1, 2, 3, 4], 32)}`,
        'buffer o 16',
        'run P 1 1 1 1 1 1 @a @o',
        'get o 0 16',
      ]);
      return fromHex(answers.at(-1) ?? '', 32);
    };
    expect(run(vector('a.wzyx'))).toEqual([4n, 3n, 2n, 1n]);
    expect(run(vector('uint4(a.xy, 9, a.b)'))).toEqual([1n, 2n, 9n, 3n]);
    expect(run(vector('uint4(0, a.yzw)'))).toEqual([0n, 2n, 3n, 4n]);
    expect(run(vector('swapped(a)', 'uint4 swapped(uint4 v) { v.xw = v.wx; v[1] += 5; v.z *= 2; return v; }'))).toEqual(
      [4n, 7n, 6n, 1n],
    );
    expect(run(vector('uint4(a > 2) + uint4(all(a > 0), any(a > 4), 0, 0)'))).toEqual([1n, 0n, 1n, 1n]);
    expect(run(vector('a.x == 1 ? a * 2 : a'))).toEqual([2n, 4n, 6n, 8n]);
    expect(run(vector('uint4(int4(a) - 3) >> 28'))).toEqual([15n, 15n, 0n, 0n]);
    expect(run(vector('as_type<uint4>(float4(a) / 2)'))).toEqual([0.5, 1, 1.5, 2].map((x) => BigInt(f32(x))));
    expect(run(vector('uint4(uint3(packed_uint3(a.xyz)) + 1, sizeof(uint3) * 100 + sizeof(packed_uint3))'))).toEqual([
      2n,
      3n,
      4n,
      1612n,
    ]);
    expect(run(vector('uint4(uchar4(a + 254))'))).toEqual([255n, 0n, 1n, 2n]);
    expect(run(vector('a ^ (a << 31) ^ uint4(max(int4(a), 3)) ^ uint4(dot(float4(a), float4(1))) '))).toEqual(
      [1, 2, 3, 4].map((x) => BigInt((x ^ (x << 31) ^ Math.max(x, 3) ^ 10) >>> 0)),
    );
  });
});

describe.skipIf(virtualMetalMissing !== undefined)('simdgroups', () => {
  /** out[lane] of one simdgroup of a threadgroup of `threads`. */
  const lanes = (code: string, threads = 32): bigint[] => {
    const text = msl(
      `kernel void f(device uint* out [[buffer(0)]], uint i [[thread_position_in_threadgroup]], uint lane [[thread_index_in_simdgroup]], uint group [[simdgroup_index_in_threadgroup]]) {\n${code}\n}`,
    );
    const answers = virtualMetalOk([
      `library L ${folder.write(text)}`,
      'pipeline P L f',
      `buffer o ${threads * 4}`,
      `run P 1 1 1 ${threads} 1 1 @o`,
      `get o 0 ${threads * 4}`,
    ]);
    return fromHex(answers.at(-1) ?? '', 32);
  };
  const each = (f: (lane: number) => number, threads = 32) =>
    Array.from({ length: threads }, (_, i) => BigInt.asUintN(32, BigInt(f(i))));

  it('reduces, scans and shuffles', () => {
    expect(lanes('out[i] = simd_sum(lane);')).toEqual(each(() => 496));
    expect(lanes('out[i] = simd_max(lane * 7 % 31) + simd_min(lane + 5);')).toEqual(each(() => 35));
    expect(lanes('out[i] = uint(simd_product(lane == 3 ? 2.5f : lane == 9 ? 4.0f : 1.0f));')).toEqual(each(() => 10));
    expect(lanes('out[i] = simd_or(1u << lane) ^ simd_xor(lane) ^ simd_and(lane | 64);')).toEqual(each(() => ~64 ^ 0));
    expect(lanes('out[i] = simd_prefix_inclusive_sum(lane) * 1000 + simd_prefix_exclusive_sum(1u);')).toEqual(
      each((l) => ((l * (l + 1)) / 2) * 1000 + l),
    );
    expect(lanes('out[i] = simd_shuffle(lane * 10, ushort(31 - lane));')).toEqual(each((l) => (31 - l) * 10));
    expect(lanes('out[i] = simd_shuffle_xor(lane, 5);')).toEqual(each((l) => l ^ 5));
    expect(lanes('out[i] = simd_shuffle_down(lane, 3);')).toEqual(each((l) => (l < 29 ? l + 3 : l)));
    expect(lanes('out[i] = simd_shuffle_up(lane, 3);')).toEqual(each((l) => (l < 3 ? l : l - 3)));
    expect(lanes('out[i] = simd_shuffle_rotate_down(lane, 3);')).toEqual(each((l) => (l + 3) & 31));
    expect(lanes('out[i] = simd_shuffle_and_fill_up(lane, lane + 100, 2);')).toEqual(
      each((l) => (l < 2 ? l + 130 : l - 2)),
    );
    expect(lanes('out[i] = simd_broadcast(lane, 7) * 100 + simd_broadcast_first(lane + 1);')).toEqual(each(() => 701));
    expect(lanes('out[i] = quad_sum(lane) * 100 + quad_shuffle_xor(lane, 1) + quad_broadcast(lane, 2);')).toEqual(
      each((l) => ((l & ~3) * 4 + 6) * 100 + (l ^ 1) + (l & ~3) + 2),
    );
    expect(lanes('out[i] = uint(simd_sum(float4(lane, 1, 2, 3)).w) + uint(simd_sum(half(1)));')).toEqual(
      each(() => 128),
    );
  });

  it('counts only the active lanes, and those that a threadgroup has', () => {
    expect(lanes('uint r = 7; if (lane < 10) r = simd_sum(1u); out[i] = r;')).toEqual(each((l) => (l < 10 ? 10 : 7)));
    expect(
      lanes('uint r; if (lane & 1) r = simd_sum(lane); else r = simd_max(lane); out[i] = r + simd_sum(1u) * 1000;'),
    ).toEqual(each((l) => 32000 + (l & 1 ? 256 : 30)));
    expect(lanes('uint r = 0; for (uint k = 0; k < lane; ++k) r += simd_sum(1u); out[i] = r;')).toEqual(
      each((l) => Array.from({ length: l }, (_, k) => 31 - k).reduce((x, y) => x + y, 0)),
    );
    expect(lanes('out[i] = simd_sum(1u) + group * 100;', 40)).toEqual(each((l) => (l < 32 ? 32 : 108), 40));
    expect(
      lanes(
        'out[i] = uint(ulong(simd_vote::vote_t(simd_ballot(lane % 3 == 0)))) ^ (simd_all(lane < 32) ? 1u << 1 : 0) ^ (simd_any(lane > 31) ? 1u << 2 : 0);',
      ),
    ).toEqual(each(() => 0b01001001001001001001001001001001 ^ 2));
  });

  it('shares threadgroup memory across a barrier, which starts as NaN', () => {
    const code = (barrier: string) =>
      `threadgroup uint tile[2][64]; threadgroup float sum; if (i == 0) out[63] = isnan(sum); tile[1][i] = i; ${barrier} out[i] = tile[1][(i + 33) % 64] + (i == 63 ? 1000 : 0);`;
    expect(lanes(code('threadgroup_barrier(mem_flags::mem_threadgroup);'), 64)).toEqual(
      each((i) => ((i + 33) % 64) + (i === 63 ? 1000 : 0), 64),
    );
    // Without it, what has not been written yet shows as poison.
    expect(lanes(code(''), 64)).toContain(0xffffffffn);
  });

  it('multiplies matrices of 8 by 8 of every type', () => {
    const n = 8;
    const a = Array.from({ length: 64 }, (_, i) => ((i * 7) % 5) - 2);
    const b = Array.from({ length: 64 }, (_, i) => ((i * 3) % 7) - 3);
    const c = Array.from({ length: 64 }, (_, i) => i);
    const expected = c.map((v, i) => {
      let sum = v;
      for (let k = 0; k < n; ++k) sum += (a[((i / n) | 0) * n + k] ?? 0) * (b[k * n + (i % n)] ?? 0);
      return sum;
    });
    const hex = (values: number[]) => toHex(values.map(f32), 32);
    for (const type of ['float', 'half', 'bfloat']) {
      const text = msl(`
kernel void f(device const float* a [[buffer(0)]], device const float* b [[buffer(1)]], device const float* c [[buffer(2)]], device float* out [[buffer(3)]], uint i [[thread_index_in_simdgroup]]) {
  alignas(16) threadgroup ${type} ta[2 * 8 * 12], tb[64];
  for (uint k = i; k < 64; k += 32) { ta[(k / 8) * 12 + k % 8 + 5] = ${type}(a[k]); tb[(k % 8) * 8 + k / 8] = ${type}(b[k]); }
  simdgroup_barrier(mem_flags::mem_threadgroup);
  simdgroup_matrix<${type}, 8, 8> x, y;
  simdgroup_float8x8 z;
  simdgroup_load(x, ta + 1, 12, ulong2(4, 0));
  simdgroup_load(y, tb, 8, ulong2(0, 0), true);
  simdgroup_load(z, c);
  simdgroup_multiply_accumulate(z, x, y, z);
  simdgroup_float8x8 one = simdgroup_float8x8(1.0f), zero = make_filled_simdgroup_matrix<float, 8, 8>(0.0f), result;
  simdgroup_multiply(result, z, one);
  simdgroup_multiply_accumulate(result, result, one, zero);
  simdgroup_store(result, out, 8, ulong2(0, 0), true);
}`);
      const answers = virtualMetalOk([
        `library L ${folder.write(text)}`,
        'pipeline P L f',
        ...['a', 'b', 'c', 'o'].map((name) => `buffer ${name} 256`),
        `put a 0 ${hex(a)}`,
        `put b 0 ${hex(b)}`,
        `put c 0 ${hex(c)}`,
        'run P 1 1 1 32 1 1 @a @b @c @o',
        'get o 0 256',
      ]);
      const transposed = expected.map((_, i) => expected[(i % n) * n + ((i / n) | 0)] ?? 0);
      expect(answers.at(-1), type).toBe(hex(transposed));
    }
  });

  it('adds atomically in device and threadgroup memory', () => {
    const text = msl(`
kernel void f(device atomic_uint* out [[buffer(0)]], device atomic_float* sum [[buffer(1)]], uint i [[thread_position_in_grid]], uint t [[thread_position_in_threadgroup]]) {
  threadgroup atomic_int local_sum;
  if (t == 0) atomic_store_explicit(&local_sum, 0, memory_order_relaxed);
  threadgroup_barrier(mem_flags::mem_threadgroup);
  atomic_fetch_add_explicit(&local_sum, int(t), memory_order_relaxed);
  threadgroup_barrier(mem_flags::mem_threadgroup);
  if (t == 0) atomic_fetch_add_explicit(out, uint(atomic_load_explicit(&local_sum, memory_order_relaxed)), memory_order_relaxed);
  atomic_fetch_max_explicit(out + 1, i, memory_order_relaxed);
  atomic_fetch_or_explicit(&out[2], 1u << (i & 31), memory_order_relaxed);
  atomic_fetch_add_explicit(sum, 0.5f, memory_order_relaxed);
  uint seen = atomic_load_explicit(&out[3], memory_order_relaxed);
  while (!atomic_compare_exchange_weak_explicit(&out[3], &seen, seen + 2, memory_order_relaxed, memory_order_relaxed)) {}
}`);
    const answers = virtualMetalOk([
      `library L ${folder.write(text)}`,
      'pipeline P L f',
      'buffer o 16',
      'buffer s 4',
      'run P 200 1 1 64 1 1 @o @s',
      'get o 0 16',
      'get s 0 4',
    ]);
    expect(fromHex(answers.at(-2) ?? '', 32)).toEqual([200n * 2016n, 12799n, 0xffffffffn, 25600n]);
    expect(fromHex(answers.at(-1) ?? '', 32)).toEqual([BigInt(f32(6400))]);
  });
});

describe.skipIf(virtualMetalMissing !== undefined)('what Metal refuses', () => {
  const refusals: [what: string, text: string, error: RegExp][] = [
    [
      'an unknown function, with its line',
      'kernel void f(device float* o [[buffer(0)]]) {\n  o[0] = erf(1.0f);\n}',
      /program_source:4:10: error: use of undeclared identifier 'erf'/,
    ],
    [
      'double',
      'kernel void f(device float* o [[buffer(0)]]) { double d = 1; o[0] = float(d); }',
      /program_source:3:48: error: 'double' is not supported in Metal/,
    ],
    [
      'a pointer without an address space',
      'kernel void f(device float* o [[buffer(0)]]) { float* p = o; p[0] = 1; }',
      /pointer type must have explicit address space qualifier/,
    ],
    [
      'a reference without one',
      'struct S { float x; };\nfloat g(const S& s) { return s.x; }',
      /reference type must have explicit address space qualifier/,
    ],
    [
      'device memory as threadgroup memory',
      'kernel void f(device float* o [[buffer(0)]]) { threadgroup float* p = o; p[0] = 1; }',
      /cannot initialize a variable of type '__local float/,
    ],
    [
      'a write to constant memory',
      'kernel void f(constant float* o [[buffer(0)]]) { o[0] = 1; }',
      /cannot assign|read-only|not assignable/,
    ],
    ['a write through const', 'kernel void f(device const float* o [[buffer(0)]]) { o[0] = 1; }', /read-only/],
    [
      'conversions between vectors that are not written',
      'kernel void f(device float4* o [[buffer(0)]]) { int4 v = o[0]; o[1] = float4(v); }',
      /no viable conversion/,
    ],
    [
      'operands of different types in max',
      'kernel void f(device float* o [[buffer(0)]], uint i [[thread_position_in_grid]]) { o[0] = max(i, 1); }',
      /ambiguous/,
    ],
    [
      'two buffers at one index',
      'kernel void f(device float* a [[buffer(1)]], device float* b [[buffer(1)]]) {}',
      /cannot reserve 'buffer' resource location at index 1/,
    ],
    [
      'an index beyond 30',
      'kernel void f(device float* a [[buffer(31)]]) {}',
      /out of bounds: must be between 0 and 30/,
    ],
    [
      'a parameter without attribute',
      'kernel void f(uint i) {}',
      /invalid type 'uint' for input declaration in a kernel function/,
    ],
    [
      'an attribute that is not known',
      'kernel void f(uint i [[thread_position]]) {}',
      /attribute 'thread_position' is not known/,
    ],
    [
      'positions of different widths',
      'kernel void f(uint i [[thread_position_in_grid]], uint3 n [[threads_per_grid]]) {}',
      /number of components/,
    ],
    [
      'bfloat in simdgroup functions',
      'kernel void f(device bfloat* o [[buffer(0)]]) { o[0] = simd_sum(o[0]); }',
      /simdgroup and quadgroup functions take/,
    ],
    [
      '64-bit atomics it lacks',
      'kernel void f(device atomic_ulong* o [[buffer(0)]]) { atomic_fetch_add_explicit(o, 1ul, memory_order_relaxed); }',
      /Metal has no such atomic operation/,
    ],
    [
      'matrices of integers',
      'kernel void f() { simdgroup_matrix<int, 8, 8> m; (void)m; }',
      /is of half, bfloat or float/,
    ],
    [
      'as_type of another size',
      'kernel void f(device float* o [[buffer(0)]]) { o[0] = as_type<float>(half(1)); }',
      /sizes of the types differ/,
    ],
    ['a file that is not there', '#include "mine.h"\n', /'mine.h' file not found/],
    ['a kernel that returns', 'kernel int f() { return 1; }', /must return void/],
    ['syntax errors', 'kernel void f( {', /error: /],
  ];
  it.each(refusals)('%s', (_, text, error) => {
    const [answer] = virtualMetal([`library L ${folder.write(msl(text))}`]);
    expect(answer).toMatch(/^error 3 MTLLibraryErrorDomain/);
    expect(answer).toMatch(error);
  });

  it('names of metal without its header', () => {
    const [answer] = virtualMetal([`library L ${folder.write('using namespace metal;\nkernel void f() {}')}`]);
    expect(answer).toMatch(/<metal_stdlib> is not included/);
  });

  it('nothing of what OpenCL would call its own names', () => {
    const text = msl(
      'struct local { int global; };\nkernel void f(device int* o [[buffer(0)]], uint generic [[thread_position_in_grid]]) { local private_ = {int(generic)}; int pipe = private_.global; uint uniform = 4; o[generic] = pipe + int(uniform) + 3; }',
    );
    const answers = virtualMetalOk([
      `library L ${folder.write(text)}`,
      'pipeline P L f',
      'buffer o 8',
      'run P 2 1 1 1 1 1 @o',
      'get o 0 8',
    ]);
    expect(fromHex(answers.at(-1) ?? '', 32)).toEqual([7n, 8n]);
  });
});
