/** Rendered MSL as text, and targets; what rendered kernels compute is checked in test/device/metal-render.test.ts. */
import { readFileSync } from 'node:fs';
import { describe, expect, it } from 'vitest';
import type { DeviceInfo, KernelCode } from '../../backends/backend.js';
import { literal } from '../../backends/metal/msl.js';
import { render } from '../../backends/metal/render.js';
import { describe as describeMetal, target as metalTarget } from '../../backends/metal/target.js';
import { plan } from '../../compiler/compile.js';
import { importOnnx } from '../../compiler/frontends/onnx/index.js';
import { KernelBuilder } from '../../compiler/kernel/builder.js';
import type { MatrixUnit } from '../../compiler/kernel/engines.js';
import type { Target } from '../../compiler/kernel/target.js';
import type { BinaryFn, KValue, Lanes, ScalarType, UnaryFn } from '../../compiler/kernel/types.js';
import { dataPath, modelsData } from '../support/data.js';
import { numberTypes } from '../support/kernel_data.js';
import { everyOp } from '../support/kernels.js';
import {
  controlAndMemory,
  everyOpOn,
  mathematics,
  renderMilliseconds,
  subgroupsOn,
} from '../support/rendered_kernels.js';
import { kernelsOf, legalized, randomNodes } from '../support/scheduled_runs.js';
import { product } from '../support/tiles.js';

const target = metalTarget('apple7') as Target;
const types = numberTypes.filter((scalar) => target.arithmetic.has(scalar));

const device = (features: readonly string[], limits: Readonly<Record<string, number>> = {}): DeviceInfo => ({
  id: 'metal:1',
  backend: 'metal',
  name: 'x',
  driver: 'y',
  virtual: false,
  software: false,
  memoryBytes: 2 ** 34,
  features,
  limits,
});

/** A kernel of one workgroup of 32. */
function simple(build: (b: KernelBuilder, lane: KValue) => void, subgroupSize?: number): KernelCode {
  const b = new KernelBuilder();
  build(b, b.builtin('local_id', 0, 32));
  const shape = { name: 'simple', grid: [1, 1, 1], workgroup: [32, 1, 1] } as const;
  return render(b.finish(subgroupSize === undefined ? shape : { ...shape, subgroupSize }), target);
}

/** The lines of the kernel's body without indentation and comments. */
function bodyOf({ text = '' }: KernelCode): string[] {
  const lines = text.split('\n');
  const start = lines.indexOf(') {');
  return lines.slice(start + 1, -2).map((line) => line.replace(/ *\/\/.*/, '').trim());
}

/** What an expression of two values is written as, with the values called x and y. */
function written(scalar: ScalarType, lanes: Lanes, make: (b: KernelBuilder, x: KValue, y: KValue) => KValue): string {
  let names: readonly KValue[] = [];
  const code = simple((b) => {
    const buffer = b.buffer('x', scalar, 64, 'readwrite');
    const [x, y] = [b.load(buffer, b.constant(0), lanes, true), b.load(buffer, b.constant(16), lanes, true)];
    const result = make(b, x, y);
    names = [x, y, result];
    b.store(b.buffer('out', result.type.scalar, 64, 'write'), b.constant(0), result, true);
  });
  const [x, y, result] = names.map(({ id }) => `v${id}`);
  const line = bodyOf(code).find((text) => text.includes(` ${result} = `)) ?? '';
  return line
    .replace(/^const \w+ \w+ = /, '')
    .replace(/;$/, '')
    .replaceAll(new RegExp(`\\b${x}\\b`, 'g'), 'x')
    .replaceAll(new RegExp(`\\b${y}\\b`, 'g'), 'y');
}

describe('what MSL each op becomes', () => {
  const unary: readonly (readonly [UnaryFn, ScalarType, Lanes, string])[] = [
    ['neg', 'f32', 1, '-x'],
    ['neg', 'i32', 1, 'int(0u - uint(x))'],
    ['neg', 'i8', 1, 'char(0u - uint(x))'],
    ['neg', 'i8', 4, 'char4(uchar4(uchar(0u)) - uchar4(x))'],
    ['abs', 'f16', 4, 'fabs(x)'],
    ['abs', 'u32', 1, 'x'],
    ['abs', 'i32', 1, 'x < 0 ? int(0u - uint(x)) : x'],
    ['abs', 'i32', 2, 'select(x, int2(uint2(0u) - uint2(x)), x < int2(0))'],
    ['round', 'f32', 4, 'rint(x)'],
    ['trunc', 'f16', 1, 'trunc(x)'],
    ['sqrt', 'f32', 1, 'precise::sqrt(x)'],
    ['sqrt', 'f16', 2, 'half2(precise::sqrt(float2(x)))'],
    ['not', 'i32', 1, 'int(~x)'],
    ['popcount', 'u64', 1, 'popcount(x)'],
    ['clz', 'i16', 4, 'clz(x)'],
  ];
  it.each(unary)('%s %s x%i', (fn, scalar, lanes, text) => {
    expect(written(scalar, lanes, (b, x) => b.unary(fn, x))).toBe(text);
  });

  const binary: readonly (readonly [BinaryFn, ScalarType, Lanes, string])[] = [
    ['add', 'f32', 4, 'x + y'],
    ['div', 'f32', 1, 'x / y'],
    ['div', 'f16', 1, 'half(float(x) / float(y))'],
    ['rem', 'f32', 1, 'tutti_fmod(x, y)'],
    ['rem', 'f16', 2, 'half2(half(tutti_fmod(float(x.x), float(y.x))), half(tutti_fmod(float(x.y), float(y.y))))'],
    ['min', 'f32', 4, 'tutti_min_float4(x, y)'],
    ['max', 'f16', 1, 'tutti_max_half(x, y)'],
    ['add', 'i32', 1, 'int(uint(x) + uint(y))'],
    ['mul', 'u32', 1, 'x * y'],
    ['mul', 'u16', 1, 'ushort(uint(x) * uint(y))'],
    ['mul', 'i64', 2, 'long2(ulong2(x) * ulong2(y))'],
    ['div', 'i8', 1, 'char(x / y)'],
    ['rem', 'i32', 4, 'x % y'],
    ['min', 'i32', 4, 'min(x, y)'],
    ['max', 'i64', 1, 'x > y ? x : y'],
    ['max', 'u64', 2, 'ulong2((x > y).x ? x.x : y.x, (x > y).y ? x.y : y.y)'],
    ['shl', 'i32', 1, 'int(uint(x) << uint(y))'],
    ['shl', 'u32', 2, 'x << y'],
    ['shr', 'i32', 1, 'x >> y'],
    ['shr', 'u8', 1, 'uchar(x >> y)'],
    ['mulhi', 'u32', 4, 'mulhi(x, y)'],
  ];
  it.each(binary)('%s %s x%i', (fn, scalar, lanes, text) => {
    expect(written(scalar, lanes, (b, x, y) => b.binary(fn, x, y))).toBe(text);
  });

  it('leaves arithmetic signed where ranges prove that it does not wrap', () => {
    const code = simple((b, lane) => {
      const x = b.buffer('x', 'i32', 256, 'readwrite');
      b.store(x, b.addc(b.mulc(lane, 3), 5), lane);
    });
    expect(bodyOf(code).join('\n')).toMatch(/= v\d+ \* 3;\n.*= v\d+ \+ 5;/);
  });

  it('compares, selects and converts', () => {
    expect(written('f32', 4, (b, x, y) => b.compare('ne', x, y))).toBe('x != y');
    expect(written('f32', 1, (b, x, y) => b.select(b.compare('lt', x, y), x, y))).toMatch(/^v\d+ \? x : y$/);
    expect(written('f32', 4, (b, x, y) => b.select(b.compare('lt', x, y), x, y))).toMatch(/^select\(y, x, v\d+\)$/);
    const conversions: readonly (readonly [ScalarType, ScalarType, Lanes, string])[] = [
      ['i32', 'i8', 1, 'char(x)'],
      ['f32', 'i32', 1, 'tutti_to_int(x)'],
      ['f16', 'u8', 4, 'tutti_to_uchar4(float4(x))'],
      ['i32', 'f32', 4, 'float4(x)'],
      ['u32', 'f16', 1, 'half(float(x))'],
      ['u64', 'f32', 1, 'tutti_to_float_ulong(x)'],
      ['i64', 'f16', 1, 'half(tutti_to_float_long(x))'],
      ['f32', 'f16', 4, 'half4(x)'],
      ['f32', 'bool', 1, 'x != 0.0f'],
    ];
    for (const [from, to, lanes, text] of conversions)
      expect(written(from, lanes, (b, x) => b.convert(x, to))).toBe(text);
    expect(written('bool', 4, (b, x) => b.convert(x, 'f32'))).toBe('select(float4(0.0f), float4(1.0f), x)');
    expect(written('bool', 4, (b, x, y) => b.compare('le', x, y))).toBe('!x | y');
  });

  it('contracts only what is fast, and the source forbids the rest', () => {
    const sum = (fn: 'add' | 'sub', swap: boolean, fast: boolean): string =>
      written('f32', 1, (b, x, y) => {
        const product = b.binary('mul', x, y, fast);
        return swap ? b.binary(fn, x, product, fast) : b.binary(fn, product, x, fast);
      });
    expect(sum('add', false, true)).toBe('fma(x, y, x)');
    expect(sum('sub', false, true)).toBe('fma(x, y, -x)');
    expect(sum('sub', true, true)).toBe('fma(-x, y, x)');
    expect(sum('add', false, false)).toMatch(/^v\d+ \+ x$/);
    expect(simple(() => undefined).text).toContain('#pragma clang fp contract(off)');
  });
});

describe('literals', () => {
  it('say the value and no other', () => {
    const one = (scalar: ScalarType, value: number | bigint): string => literal({ scalar, lanes: 1 }, value);
    expect(one('i32', -2147483648)).toBe('(-2147483647 - 1)');
    expect(one('i8', 255)).toBe('char((-0 - 1))');
    expect(one('u32', -1)).toBe('4294967295u');
    expect(one('i64', -(2n ** 63n))).toBe('(-9223372036854775807l - 1)');
    expect(one('u64', 2n ** 64n - 1n)).toBe('18446744073709551615ul');
    expect(one('f32', 0.1)).toBe('0.10000000149011612f');
    expect(one('f32', -3)).toBe('(-3.0f)');
    expect(one('f32', -0)).toBe('(-0.0f)');
    expect(one('f32', Number.NaN)).toBe('as_type<float>(0x7fc00000u)');
    expect(one('f32', Number.NEGATIVE_INFINITY)).toBe('as_type<float>(0xff800000u)');
    expect(one('f32', 2 ** -149)).toBe('as_type<float>(0x00000001u)');
    expect(one('f16', 0.1)).toBe('half(0.0999755859375f)');
    expect(literal({ scalar: 'bool', lanes: 4 }, 1)).toBe('bool4(true)');
    for (const value of [1e-30, 3.4e38, 16777217, 1 / 3]) {
      expect(Math.fround(Number(one('f32', value).slice(0, -1)))).toBe(Math.fround(value));
    }
  });
});

describe('the kernel function', () => {
  it('has buffers in binding order, then the scalars, then the ids it uses', () => {
    const b = new KernelBuilder();
    const out = b.buffer('out', 'f32', 64, 'write');
    const factor = b.scalar('factor', 'f32');
    const input = b.buffer('in', 'bool', 64, 'read');
    const count = b.scalar('count', 'i32');
    const tile = b.array('tile', 'shared', 'i64', 10);
    const own = b.array('own\n}', 'private', 'f16', 3);
    const lane = b.builtin('local_id', 1, 64);
    b.store(tile, b.constant(0), b.constant(1n, 'i64'));
    b.store(own, b.constant(0), b.constant(1, 'f16'));
    b.store(out, lane, b.select(b.load(input, count), factor, b.constant(0, 'f32')));
    const kernel = b.finish({ name: 'a/b\n', sources: ['Conv "1"\u2028'], grid: [1, 1, 1], workgroup: [1, 64, 1] });
    const code = render(kernel, target);
    expect(render(kernel, target)).toEqual(code);
    expect(code).toMatchObject({
      entry: 'tutti_a_b_',
      bindings: ['write', 'read'],
      scalarBytes: 8,
      sharedBytes: 96,
      workgroup: [1, 64, 1],
    });
    expect(code.text).toContain(`struct Scalars { float s0; int s1; };
kernel void tutti_a_b_(
    device float* b0 [[buffer(0)]],
    device const uchar* b1 [[buffer(1)]],
    constant Scalars& scalars [[buffer(2)]],
    uint3 local_id [[thread_position_in_threadgroup]]
) {
  alignas(32) threadgroup long shared0[10]; // tile
  alignas(16) half private1[3]; // own?}
`);
    expect(code.text?.split('\n')[0]).toBe('// a/b? from Conv "1"?');
  });

  it('makes one access of an aligned vector, in every address space', () => {
    const code = simple((b, lane) => {
      const x = b.buffer('x', 'f32', 256, 'read');
      const y = b.buffer('y', 'bool', 256, 'readwrite');
      const tile = b.array('tile', 'shared', 'f32', 256);
      const at = b.mulc(lane, 4);
      b.store(tile, at, b.load(x, at, 4, true), true);
      b.store(y, at, b.compare('lt', b.load(tile, b.addc(lane, 1), 4), b.load(x, b.addc(lane, 1), 4)), true);
      b.store(y, lane, b.load(y, at, 2, true));
    });
    const lines = bodyOf(code).join('\n');
    expect(lines).toMatch(/= \*\(device const float4\*\)\(b0 \+ v\d+\);/);
    expect(lines).toMatch(/\*\(threadgroup float4\*\)\(shared0 \+ v\d+\) = v\d+;/);
    expect(lines).toMatch(/= float4\(\*\(threadgroup const packed_float4\*\)\(shared0 \+ v\d+\)\);/);
    expect(lines).toMatch(/\*\(device uchar4\*\)\(b1 \+ v\d+\) = uchar4\(uchar\(v\d+\.x \? 1 : 0\), /);
    expect(lines).toMatch(/= \*\(device const uchar2\*\)\(b1 \+ v\d+\) != uchar2\(uchar\(0u\)\);/);
    expect(lines).toMatch(/\*\(device packed_uchar2\*\)\(b1 \+ v\d+\) = /);
  });

  it('accesses atomically what is changed atomically, and orders global memory where it is exchanged', () => {
    const barrier = (exchange: boolean): string =>
      bodyOf(
        simple((b, lane) => {
          const x = b.buffer('x', 'u32', 64, exchange ? 'readwrite' : 'write');
          const tile = b.array('tile', 'shared', 'i32', 64);
          b.store(tile, lane, lane);
          b.barrier();
          if (exchange) b.atomic('min', x, lane, b.load(x, b.constant(3)));
          else b.store(x, lane, b.constant(1, 'u32'));
          b.compareExchange(tile, lane, b.constant(1), b.constant(2));
        }),
      ).join('\n');
    expect(barrier(false)).toContain('threadgroup_barrier(mem_flags::mem_threadgroup);');
    const lines = barrier(true);
    expect(lines).toContain('threadgroup_barrier(mem_flags::mem_device | mem_flags::mem_threadgroup);');
    expect(lines).toMatch(
      /atomic_store_explicit\(\(threadgroup atomic_int\*\)\(shared0 \+ v\d+\), v\d+, memory_order_relaxed\);/,
    );
    expect(lines).toContain('atomic_load_explicit((device atomic_uint*)(b0 + 3), memory_order_relaxed)');
    expect(lines).toMatch(
      /atomic_fetch_min_explicit\(\(device atomic_uint\*\)\(b0 \+ v\d+\), v\d+, memory_order_relaxed\)/,
    );
    expect(lines).toMatch(
      /tutti_exchange_if_equal_threadgroup_int\(\(threadgroup atomic_int\*\)\(shared0 \+ v\d+\), 1, 2\)/,
    );
  });

  it('reduces floats in a known order: a butterfly by whole SIMD-groups, a walk by some lanes', () => {
    const code = simple((b, lane) => {
      const x = b.buffer('x', 'f32', 64, 'readwrite');
      const value = b.load(x, lane);
      b.store(x, lane, b.subgroup('add', value));
      b.if(b.compare('lt', lane, b.constant(5)), () => {
        b.store(x, lane, b.subgroup('max', value));
        b.store(x, lane, b.convert(b.subgroup('add', lane), 'f32'));
        b.store(x, lane, b.subgroup('shuffle_down', value, 3));
      });
    }, 32);
    const lines = bodyOf(code).join('\n');
    expect(lines).toMatch(/tutti_add_all_float\(v\d+\)/);
    expect(lines).toMatch(/tutti_max_active_float\(v\d+\)/);
    expect(lines).toMatch(/int\(simd_sum\(uint\(v\d+\)\)\)/);
    expect(lines).toMatch(/simd_shuffle_down\(v\d+, ushort\(3\)\)/);
    // Each function stands behind those it calls.
    expect(code.text).toMatch(/float tutti_max_float\([\s\S]*float tutti_max_active_float\(/);
  });

  it('widens the counter of a loop that may pass its bound', () => {
    const header = (upper: (b: KernelBuilder) => KValue, lower?: (b: KernelBuilder) => KValue): string =>
      bodyOf(
        simple((b, lane) => {
          const x = b.buffer('x', 'u32', 64, 'readwrite');
          b.for(lower ? lower(b) : 0, upper(b), 7, [], () => void b.store(x, lane, b.constant(1, 'u32')));
        }),
      ).find((line) => line.startsWith('for')) ?? '';
    expect(header((b) => b.constant(100))).toMatch(/^for \(int (i\d+) = \(int\)0; \1 < \(int\)100; \1 \+= 7\) \{$/);
    expect(header((b) => b.scalar('n', 'i32'))).toMatch(/^for \(long i\d+ = 0; i\d+ < \(long\)v\d+; i\d+ \+= 7\) \{$/);
    const wide = header(
      (b) => b.constant(2n ** 62n, 'i64'),
      (b) => b.constant(0n, 'i64'),
    );
    expect(wide).toMatch(/^for \(long i\d+ = 0l, more = 1;/);
  });
});

describe('matrix tiles', () => {
  const unit = (m: number, n: number, k: number) =>
    ({ m, n, k, a: 'f16', b: 'f16', accumulator: 'f32' }) as const satisfies MatrixUnit;

  it('are simdgroup matrices, transposed where memory has columns', () => {
    const { kernel, strideA, strideB } = product(unit(8, 8, 8), { layoutB: 'column' });
    const lines = bodyOf(render(kernel, target)).join('\n');
    expect(lines).toContain('simdgroup_matrix<half, 8, 8> tile0[1];');
    expect(lines).toContain('simdgroup_matrix<float, 8, 8> tile2[1];');
    expect(lines).toContain(`simdgroup_load(tile0[0], (device const half*)(b0 + 0), ${strideA});`);
    expect(lines).toContain(`simdgroup_load(tile1[0], (device const half*)(b1 + 0), ${strideB}, ulong2(0), true);`);
    expect(lines).toContain('simdgroup_multiply_accumulate(tile2[0], tile0[0], tile1[0], tile2[0]);');
    expect(lines).toMatch(/simdgroup_store\(tile2\[0\], \(device float\*\)\(b3 \+ 0\), \d+\);/);
  });

  it('of larger shapes are several, and other shapes and types are refused', () => {
    const { kernel, strideB } = product(unit(16, 24, 8), { space: 'shared' });
    const lines = bodyOf(render(kernel, target)).join('\n');
    expect(lines.match(/simdgroup_multiply_accumulate/g)).toHaveLength(6);
    expect(lines).toContain(`simdgroup_load(tile1[2], (threadgroup const half*)(shared1 + 0 + 16), ${strideB});`);
    expect(lines).toContain('simdgroup_multiply_accumulate(tile2[5], tile0[1], tile1[2], tile2[5]);');
    expect(() => render(product(unit(12, 8, 8)).kernel, target)).toThrow(/tile of 12×8/);
    const integers = product({ ...unit(8, 8, 8), a: 'i8', b: 'i8', accumulator: 'i32' });
    expect(() => render(integers.kernel, target)).toThrow(/tile of i8/);
  });

  it('are of the types that the device multiplies', () => {
    const operands = (name: string) => metalTarget(name)?.matrixUnits?.map(({ a }) => a);
    expect(operands('apple8')).toEqual(['f16', 'bf16', 'f32']);
    expect(operands('mac2')).toBeUndefined();
    expect(describeMetal(device(['apple7'])).matrixUnits?.map(({ a }) => a)).toEqual(['f16', 'f32']);
  });
});

describe('what the renderer takes', () => {
  it('takes every op on every type, and every kind of control flow', () => {
    for (const scalar of types) {
      for (const lanes of [1, 2, 4] as const) {
        expect(render(everyOpOn(scalar, lanes, types), target)).toMatchObject({
          bindings: ['read', 'read', 'readwrite', 'readwrite'],
          scalarBytes: 0,
        });
        render(subgroupsOn(scalar, lanes), target);
      }
    }
    render(legalized(everyOp(), target), target);
    for (const scalar of ['f16', 'f32', 'f64'] as const) render(legalized(mathematics(scalar), target), target);
    const code = render(controlAndMemory(true), target);
    expect(code).toMatchObject({ scalarBytes: 12, sharedBytes: 4 * (128 + 64), subgroupSize: 32 });
  });

  it('takes what the scheduler makes of random nodes of every op', () => {
    let count = 0;
    for (const { graph } of randomNodes(4)) {
      for (const kernel of kernelsOf(graph, target)) {
        expect(render(kernel, target).text).not.toContain('undefined');
        count++;
      }
    }
    expect(count).toBeGreaterThan(100);
  });

  it.skipIf(modelsData.missing)('takes the kernels of a model', (context) => {
    const graph = importOnnx(readFileSync(dataPath(context, modelsData, 'transformer-encoder-tiny', 'model.onnx')));
    const { kernels } = plan(graph, target, { dims: { batch: 2, tokens: 9 } });
    expect(kernels.length).toBeGreaterThan(0);
    for (const kernel of kernels) render(kernel, target);
  });

  it('refuses what it cannot mean', () => {
    expect(() =>
      simple((b, lane) => {
        const x = b.buffer('x', 'f32', 32, 'readwrite');
        b.store(x, lane, b.unary('tanh', b.load(x, lane)));
      }),
    ).toThrow(/simple.*tanh.*expandMath/);
    expect(() =>
      simple((b, lane) => {
        const x = b.buffer('x', 'f64', 32, 'readwrite');
        b.store(x, lane, b.load(x, lane));
      }),
    ).toThrow(/f64.*legaliser/);
    expect(() =>
      simple((b, lane) => {
        const x = b.buffer('x', 'f32', 512, 'readwrite');
        b.store(x, lane, b.load(x, lane, 8));
      }),
    ).toThrow(/8 lanes.*legaliser/);
    const wrongWidth = expect.objectContaining({ code: 'E_KERNEL' });
    expect(() => simple(() => undefined, 16)).toThrow(wrongWidth);
    const b = new KernelBuilder();
    const kernel = b.finish({ name: 'k', grid: [1, 1, 1], workgroup: [32, 1, 1], subgroupSize: 32 });
    expect(() => render(kernel, metalTarget('mac2') as Target)).toThrow(wrongWidth);
  });

  it('renders a large register tile in a few milliseconds', () => {
    expect(renderMilliseconds((kernel) => render(kernel, target))).toBeLessThan(10);
  });
});

describe('targets', () => {
  it('describes families by their names', () => {
    for (const name of ['apple7', 'apple8', 'apple9', 'apple10']) {
      expect(metalTarget(name)).toMatchObject({ backend: 'metal', arch: name, subgroup: { min: 32, max: 32 } });
    }
    expect(metalTarget('mac2')?.features.has('subgroups')).toBe(false);
    for (const unknown of ['apple6', 'sm_80', 'metal3', 'constructor', ''])
      expect(metalTarget(unknown)).toBeUndefined();
    expect(target.limits).toMatchObject({ workgroupInvocations: 1024, sharedBytes: 32768, storageBuffers: 30 });
    expect(target.arithmetic.has('f64')).toBe(false);
    expect(target.arithmetic.has('i64')).toBe(true);
    expect(target.arithmetic.has('bf16')).toBe(false);
  });

  it('describes a device by what it reports', () => {
    const described = describeMetal(
      device(['apple7', 'apple8', 'metal3', 'timestamps'], {
        maxThreadgroupMemoryLength: 65536,
        maxBufferLength: 2 ** 33,
        maxThreadsPerThreadgroupWidth: 512,
      }),
    );
    expect(described).toMatchObject({ arch: 'apple8', style: 'simt' });
    expect(described.limits).toMatchObject({
      sharedBytes: 65536,
      bufferBytes: 2 ** 33,
      workgroupSize: [512, 1024, 1024],
    });
    expect([...described.features].sort()).toEqual(['fma', 'subgroups', 'timestamps']);
    expect(describeMetal(device(['mac2', 'metal3']))).toMatchObject({ arch: 'mac2', subgroup: { min: 1, max: 1 } });
  });
});
