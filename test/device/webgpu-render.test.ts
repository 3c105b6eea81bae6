// WGSL against the interpreter of Kernel IR: the same kernel on the same buffers, bit by bit.
import fc from 'fast-check';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import type { Device } from '../../backends/backend.js';
import { KernelBuilder } from '../../compiler/kernel/builder.js';
import {
  type AtomicFn,
  type BinaryFn,
  type CompareFn,
  type ExactUnaryFn,
  isFloatScalar,
  type KernelFunction,
  type KValue,
  ktype,
  type Lanes,
  type ScalarType,
} from '../../compiler/kernel/types.js';
import { openWebGpu, runBoth } from '../support/webgpu.js';

const opened = await openWebGpu();
const missing = 'missing' in opened ? opened.missing : undefined;
if (missing) console.warn(`webgpu tests skipped: ${missing}`);

type Native = 'i32' | 'u32' | 'f32';
const natives: readonly Native[] = ['i32', 'u32', 'f32'];
const arrays = { i32: Int32Array, u32: Uint32Array, f32: Float32Array } as const;
type Words = Int32Array | Uint32Array | Float32Array;

const floats = [
  0,
  -0,
  1,
  -1,
  0.5,
  -0.5,
  1.5,
  2.5,
  -2.5,
  3.7,
  -3.7,
  1e-20,
  1e20,
  -1e20,
  3.4e38,
  -3.4e38,
  8388609,
  16777217,
  2147483520,
  2147483648,
  -2147483648,
  -2147483904,
  4294967040,
  4294967296,
  1e10,
  Number.POSITIVE_INFINITY,
  Number.NEGATIVE_INFINITY,
  Number.NaN,
  0.1,
  123456.789,
  -0.99999994,
  7,
];
const integers = [
  0, 1, -1, 2, -2, 3, 7, -7, 31, 32, 255, 256, 65535, 65536, -65536, 0x7fffffff, -0x80000000, 0x55555555, -0x55555556,
  0x12345678, 1000003, -1000003, 46341, -46341, 16777217, 0x7fffff80, 2147483583, 5, 10, -10, 100, 0x40000000,
];
const samples = (scalar: Native): readonly number[] => (scalar === 'f32' ? floats : integers);

/** Words of an f32 result with one NaN for all. */
const canonical = (words: Words): number[] =>
  words instanceof Float32Array
    ? [...words].map((x, i) => (Number.isNaN(x) ? 0x7fc00000 : new Uint32Array(words.buffer)[i]))
    : [...words];

describe.skipIf(missing !== undefined)('WGSL equals the interpreter', () => {
  let device: Device;
  beforeAll(() => {
    if ('device' in opened) device = opened.device;
  });
  afterAll(async () => {
    await device?.close();
  });

  /** Applies `make` to every pair of samples, in vectors of `lanes`. */
  function pairs(
    a: Native,
    b: Native,
    out: Native,
    lanes: Lanes,
    make: (k: KernelBuilder, x: KValue, y: KValue) => KValue,
    keep: (x: number, y: number) => boolean = () => true,
  ): { kernel: KernelFunction; buffers: Words[] } {
    const xs: number[] = [];
    const ys: number[] = [];
    for (const x of samples(a))
      for (const y of samples(b))
        if (keep(x, y)) {
          xs.push(x);
          ys.push(y);
        }
    while (xs.length % 4 !== 0) {
      xs.push(xs[0]);
      ys.push(ys[0]);
    }
    const k = new KernelBuilder();
    const [left, right, result] = [
      k.buffer('left', a, xs.length, 'read'),
      k.buffer('right', b, xs.length, 'read'),
      k.buffer('out', out, xs.length, 'write'),
    ];
    const groups = xs.length / 4;
    const base = k.add(
      k.mulc(k.builtin('workgroup_id', 0, groups), 4),
      k.mulc(k.builtin('local_id', 0, 4 / lanes), lanes),
    );
    k.store(result, base, make(k, k.load(left, base, lanes, true), k.load(right, base, lanes, true)), true);
    const kernel = k.finish({ name: 'pairs', grid: [groups, 1, 1], workgroup: [4 / lanes, 1, 1] });
    const words = (scalar: Native, values: readonly number[]): Words => new arrays[scalar](values);
    return { kernel, buffers: [words(a, xs), words(b, ys), new arrays[out](xs.length)] };
  }

  async function same(kernel: KernelFunction, buffers: readonly Words[], ulps = 0): Promise<void> {
    const result = await runBoth<Words>(device, kernel, buffers);
    result.interpreter.forEach((want, i) => {
      const got = result.device[i];
      if (ulps === 0) {
        const [ours, theirs] = [canonical(got), canonical(want)];
        const at = ours.findIndex((word, n) => word !== theirs[n]);
        const inputs = buffers.map((buffer) => buffer[at]);
        if (at >= 0) expect.fail(`buffer ${i}[${at}]: ${got[at]}, expected ${want[at]}; inputs ${inputs.join(', ')}`);
        return;
      }
      want.forEach((value, at) => {
        if (Number.isNaN(value)) expect(got[at]).toBeNaN();
        else if (!Number.isFinite(value) || value === 0) expect(got[at] + 0).toBe(value + 0);
        else expect(Math.abs(got[at] - value)).toBeLessThanOrEqual(Math.abs(value) * ulps * 2 ** -23);
      });
    });
  }

  const lanesOf: readonly Lanes[] = [1, 2, 4];

  const unary: Readonly<Record<Native, readonly ExactUnaryFn[]>> = {
    f32: ['neg', 'abs', 'floor', 'ceil', 'round', 'trunc'],
    i32: ['neg', 'abs', 'not', 'popcount', 'clz'],
    u32: ['neg', 'not', 'popcount', 'clz'],
  };
  for (const scalar of natives) {
    it.each(unary[scalar])(`${scalar} %s`, async (fn) => {
      for (const lanes of lanesOf) {
        const { kernel, buffers } = pairs(scalar, scalar, scalar, lanes, (k, x) => k.unary(fn, x));
        await same(kernel, buffers);
      }
    });
  }
  it('f32 sqrt', async () => {
    const { kernel, buffers } = pairs('f32', 'f32', 'f32', 4, (k, x) => k.unary('sqrt', x));
    await same(kernel, buffers, 2);
  });

  const binary: Readonly<Record<Native, readonly BinaryFn[]>> = {
    f32: ['add', 'sub', 'mul', 'rem', 'min', 'max'],
    i32: ['add', 'sub', 'mul', 'div', 'rem', 'min', 'max', 'and', 'or', 'xor', 'mulhi'],
    u32: ['add', 'sub', 'mul', 'div', 'rem', 'min', 'max', 'and', 'or', 'xor', 'mulhi'],
  };
  for (const scalar of natives) {
    it.each(binary[scalar])(`${scalar} %s`, async (fn) => {
      // The sign of a zero that min and max return is open.
      const subnormal = (x: number) => x !== 0 && Math.abs(x) < 2 ** -126;
      const zeros = (x: number, y: number) =>
        fn === 'min' || fn === 'max' ? !(x === 0 && y === 0) : fn !== 'mul' || scalar !== 'f32' || !subnormal(x * y);
      const legal = (x: number, y: number) =>
        scalar === 'f32' || (fn !== 'div' && fn !== 'rem') ? zeros(x, y) : y !== 0 && !(x === -0x80000000 && y === -1);
      for (const lanes of lanesOf) {
        const { kernel, buffers } = pairs(scalar, scalar, scalar, lanes, (k, x, y) => k.binary(fn, x, y), legal);
        await same(kernel, buffers);
      }
    });
  }
  it('fma rounds once, for all bit patterns', async () => {
    const count = 4096;
    const patterns = (seed: number): Float32Array => {
      let state = seed;
      const next = (): number => {
        state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
        return state;
      };
      // Every exponent, then exponents that make products and addends meet, then few significant bits.
      return new Float32Array(
        Uint32Array.from({ length: count }, (_, i) => {
          const word = next() ^ (next() >>> 16);
          if (i % 3 === 0) return word;
          const near = (word & 0x807fffff) | ((120 + ((word >>> 24) % 14)) << 23);
          return i % 3 === 1 ? near : near & 0xfff80003;
        }).buffer,
      );
    };
    const [a, b] = [patterns(1), patterns(2)];
    const c = patterns(3);
    // Addends that cancel the product, give or take a bit.
    for (let i = 0; i < count; i += 5) c[i] = -Math.fround(a[i] * b[i]) * (1 + ((i % 3) - 1) * 2 ** -23);
    const k = new KernelBuilder();
    const [x, y, z] = ['a', 'b', 'c'].map((name) => k.buffer(name, 'f32', count, 'read'));
    const out = k.buffer('out', 'f32', count, 'write');
    const at = k.mulc(k.add(k.mulc(k.builtin('workgroup_id', 0, count / 128), 32), k.builtin('local_id', 0, 32)), 4);
    k.store(out, at, k.fma(k.load(x, at, 4, true), k.load(y, at, 4, true), k.load(z, at, 4, true)), true);
    await same(k.finish({ name: 'fused', grid: [count / 128, 1, 1], workgroup: [32, 1, 1] }), [
      a,
      b,
      c,
      new Float32Array(count),
    ]);
  });
  it('keeps every rounding of expressions that compilers like to simplify', async (context) => {
    const forms: Readonly<
      Record<string, (k: KernelBuilder, x: KValue, y: KValue, c: (value: number) => KValue) => KValue>
    > = {
      'magic rounding': (k, x, _, c) => k.sub(k.add(x, c(12582912)), c(12582912)),
      '(x - c) + d': (k, x, _, c) => k.add(k.sub(x, c(3)), c(0.1)),
      'c - (d - x)': (k, x, _, c) => k.sub(c(1e8), k.sub(c(0.3), x)),
      '(x - y) + y': (k, x, y) => k.add(k.sub(x, y), y),
      '(x + y) - x': (k, x, y) => k.sub(k.add(x, y), x),
      'error of a sum': (k, x, y) => {
        const sum = k.add(x, y);
        const back = k.sub(sum, x);
        return k.add(k.sub(x, k.sub(sum, back)), k.sub(y, back));
      },
      x·c·d: (k, x, _, c) => k.mul(k.mul(x, c(0.1)), c(0.7)),
      'x·c/d': (k, x, _, c) => k.div(k.mul(x, c(0.1)), c(0.7)),
      'x / 3': (k, x, _, c) => k.div(x, c(3)),
      '(x / y)·y': (k, x, y) => k.mul(k.div(x, y), y),
      'x·a + y·a': (k, x, y, c) => k.add(k.mul(x, c(0.1)), k.mul(y, c(0.1))),
      'x·z - y·z': (k, x, y) => k.sub(k.mul(x, k.add(x, y)), k.mul(y, k.add(x, y))),
      x·0: (k, x, _, c) => k.mul(x, c(0)),
      'x + 0': (k, x, _, c) => k.add(x, c(0)),
      '0 - x': (k, x, _, c) => k.sub(c(0), x),
      'x - x': (k, x) => k.sub(x, x),
      'x / x': (k, x) => k.div(x, x),
      '-(x - y)': (k, x, y) => k.unary('neg', k.sub(x, y)),
      '-(x + c)': (k, x, _, c) => k.unary('neg', k.add(x, c(-1))),
      'across a helper': (k, x, _, c) =>
        k.add(
          k.call('less', [k.add(x, c(0.1))], x.type, ([p]) => k.sub(p, k.constant(0.7, 'f32', p.type.lanes))),
          c(0.3),
        ),
    };
    if (!device.info.software) context.skip('a GPU may contract products and sums, and divide with an error');
    const inner = (v: number) => v === 0 || !Number.isFinite(v) || (Math.abs(v) > 1e-15 && Math.abs(v) < 1e18);
    const normal = (x: number, y: number) => inner(x) && inner(y); // no subnormals on the way
    for (const [name, make] of Object.entries(forms)) {
      for (const lanes of [1, 4] as const) {
        const { kernel, buffers } = pairs(
          'f32',
          'f32',
          'f32',
          lanes,
          (k, x, y) => make(k, x, y, (value) => k.constant(value, 'f32', lanes)),
          normal,
        );
        await same(kernel, buffers).catch((error: Error) => expect.fail(`${name}: ${error.message}`));
      }
    }
  });
  it('f32 div', async () => {
    const normal = (x: number, y: number) => x === 0 || Math.abs(x / y) > 1e-37 || !Number.isFinite(y);
    const { kernel, buffers } = pairs('f32', 'f32', 'f32', 4, (k, x, y) => k.div(x, y), normal);
    await same(kernel, buffers, 3);
  });
  it.each(['shl', 'shr'] as const)('%s by values and constants', async (fn) => {
    for (const scalar of ['i32', 'u32'] as const) {
      const mask = (k: KernelBuilder, y: KValue) => k.and(y, k.constant(31, scalar, y.type.lanes));
      for (const lanes of lanesOf) {
        const byValue = pairs(scalar, scalar, scalar, lanes, (k, x, y) => k.binary(fn, x, mask(k, y)));
        await same(byValue.kernel, byValue.buffers);
        const byConstant = pairs(scalar, scalar, scalar, lanes, (k, x) =>
          k.binary(fn, x, k.constant(31, scalar, lanes)),
        );
        await same(byConstant.kernel, byConstant.buffers);
      }
    }
  });

  const compares: readonly CompareFn[] = ['eq', 'ne', 'lt', 'le', 'gt', 'ge'];
  for (const scalar of natives) {
    it.each(compares)(`${scalar} %s, select and bool to numbers`, async (fn) => {
      for (const lanes of lanesOf) {
        const one = pairs(scalar, scalar, scalar, lanes, (k, x, y) => k.select(k.compare(fn, x, y), x, y));
        await same(one.kernel, one.buffers);
        const two = pairs(scalar, scalar, 'i32', lanes, (k, x, y) => {
          const less = k.compare(fn, x, y);
          const self = k.compare(fn, x, x);
          const mixed = k.binary('xor', k.and(less, k.unary('not', self)), k.or(self, less));
          return k.add(k.convert(mixed, 'i32'), k.mul(k.convert(self, 'i32'), k.constant(2, 'i32', lanes)));
        });
        await same(two.kernel, two.buffers);
      }
    });
  }

  for (const from of natives) {
    for (const to of natives) {
      it(`converts and casts ${from} to ${to}`, async () => {
        for (const lanes of lanesOf) {
          const value = pairs(from, from, to, lanes, (k, x) => k.convert(x, to));
          await same(value.kernel, value.buffers);
          const bits = pairs(from, from, to, lanes, (k, x) => k.bitcast(x, ktype(to, lanes)));
          await same(bits.kernel, bits.buffers);
          const truth = pairs(from, from, to, lanes, (k, x) => k.convert(k.convert(x, 'bool'), to));
          await same(truth.kernel, truth.buffers);
        }
      });
    }
  }

  it('constants: extremes, NaN, infinities, −0, subnormals, and expressions of constants that overflow', async () => {
    const k = new KernelBuilder();
    const values: readonly (readonly [Native, number])[] = [
      ...floats.map((x) => ['f32', x] as const),
      ['f32', 2 ** -126],
      ['f32', 2 ** -149],
      ['f32', 3.4028234663852886e38],
      ...integers.map((x) => ['i32', x] as const),
      ['u32', 4294967295],
      ['u32', 2147483648],
    ];
    const out = k.buffer('out', 'u32', values.length + 4, 'write');
    values.forEach(([scalar, value], i) => {
      const constant = k.constant(scalar === 'u32' ? value >>> 0 : value, scalar);
      k.store(out, k.constant(i), k.bitcast(constant, ktype('u32')));
    });
    const raw = (fn: BinaryFn, scalar: Native, a: number, b: number) =>
      k.emit({ op: 'binary', fn, a: k.constant(a, scalar), b: k.constant(b, scalar) }, ktype(scalar));
    k.store(out, k.constant(values.length), k.bitcast(raw('mul', 'f32', 3e38, 3e38), ktype('u32')));
    k.store(out, k.constant(values.length + 1), k.bitcast(raw('add', 'i32', 0x7fffffff, 1), ktype('u32')));
    k.store(out, k.constant(values.length + 2), raw('shl', 'u32', 0xffffffff, 31));
    k.store(out, k.constant(values.length + 3), k.convert(k.constant(-1e30, 'f32'), 'u32'));
    await same(k.finish({ name: 'constants', grid: [1, 1, 1], workgroup: [1, 1, 1] }), [
      new Uint32Array(values.length + 4),
    ]);
  });

  it('vectors: splat, extract, build, mixed widths, unaligned and partial access', async () => {
    const k = new KernelBuilder();
    const mixed = k.buffer('mixed', 'f32', 64, 'read'); // loads of 1, 2 and 4 aligned: vec4 elements
    const loose = k.buffer('loose', 'f32', 67, 'read'); // unaligned: scalars
    const wide = k.buffer('wide', 'f32', 64, 'write');
    const narrow = k.buffer('narrow', 'f32', 48, 'write');
    const id = k.builtin('local_id', 0, 8);
    const at = k.mulc(id, 4);
    const four = k.load(mixed, at, 4, true);
    const two = k.load(mixed, k.addc(at, 2), 2, true);
    const lone = k.load(mixed, k.addc(at, 3));
    const fixed = k.load(mixed, k.constant(6), 2, true);
    const skew = k.load(loose, k.addc(at, 3), 4, false);
    const built = k.build([k.extract(two, 1), lone, k.extract(fixed, 0), k.extract(four, 2)]);
    k.store(wide, at, k.add(k.mul(four, k.splat(lone, 4)), skew), true);
    k.store(wide, k.addc(at, 32), built, true);
    k.store(narrow, at, k.add(built, k.load(loose, k.constant(63), 4, false)), false);
    k.store(narrow, k.addc(k.mulc(id, 2), 32), two, true);
    const kernel = k.finish({ name: 'vectors', grid: [1, 1, 1], workgroup: [8, 1, 1] });
    const ramp = (n: number) => Float32Array.from({ length: n }, (_, i) => i * 0.5 - 3);
    await same(kernel, [ramp(64), ramp(67), new Float32Array(64), new Float32Array(48)]);
  });

  it('control: nested loops with swapped carried values, loop, if with results, helpers, private arrays', async () => {
    const k = new KernelBuilder();
    const out = k.buffer('out', 'i32', 64, 'write');
    const scratch = k.array('scratch', 'private', 'i32', 8);
    const id = k.builtin('local_id', 0, 64);
    const [fib, next] = k.for(0, k.remc(id, 20), 1, [k.constant(0), k.constant(1)], (_, [a, b]) => [b, k.add(a, b)]);
    k.for(0, 8, 1, [], (i) => k.store(scratch, i, k.mul(i, id)));
    const [sum] = k.for(k.remc(id, 3), 8, 3, [k.constant(0)], (i, [s]) =>
      k.for(0, i, 1, [s], (j, [inner]) => [k.add(inner, k.add(j, k.load(scratch, i)))]),
    );
    const [collatz] = k.loop(
      [k.constant(0), k.addc(id, 1)].map((v) => v),
      ([steps, n]) => {
        const odd = k.compare('eq', k.remc(n, 2), k.constant(1));
        const [m] = k.if(
          k.and(odd, k.compare('gt', n, k.constant(1))),
          () => [k.addc(k.mulc(n, 3), 1)],
          () => [k.select(k.compare('gt', n, k.constant(1)), k.divc(n, 2), n)],
        );
        const count = k.select(k.compare('gt', n, k.constant(1)), k.addc(steps, 1), steps);
        return { condition: k.compare('gt', m, k.constant(1)), next: [count, m] };
      },
    );
    const twice = (x: KValue) => k.call('twice and a bit', [x], ktype('i32'), ([p]) => k.addc(k.mulc(p, 2), 1));
    k.if(
      k.compare('lt', id, k.constant(50)),
      () => {
        k.store(out, id, k.add(k.add(k.mul(fib, next), twice(sum)), twice(collatz)));
      },
      () => k.store(out, id, k.sub(k.constant(0), collatz)),
    );
    await same(k.finish({ name: 'control', sources: ['a\nb', 'c*/d'], grid: [1, 1, 1], workgroup: [64, 1, 1] }), [
      new Int32Array(64),
    ]);
  });

  it('shared memory and barriers: a tree sum and a transpose, and global memory across a barrier', async () => {
    const k = new KernelBuilder();
    const input = k.buffer('in', 'f32', 256, 'read');
    const sums = k.buffer('sums', 'f32', 4, 'write');
    const turned = k.buffer('turned', 'f32', 256, 'readwrite');
    const tile = k.array('tile', 'shared', 'f32', 64);
    const flags = k.array('flags', 'shared', 'bool', 64);
    const group = k.builtin('workgroup_id', 0, 4);
    const id = k.builtin('local_id', 0, 64);
    const base = k.mulc(group, 64);
    const value = k.load(input, k.add(base, id));
    k.store(tile, id, value);
    k.store(flags, id, k.compare('lt', value, k.constant(0, 'f32')));
    k.barrier();
    const other = k.add(k.mulc(k.remc(id, 8), 8), k.divc(id, 8));
    const moved = k.select(k.load(flags, other), k.unary('neg', k.load(tile, other)), k.load(tile, other));
    k.store(turned, k.add(base, id), moved);
    k.barrier();
    const neighbour = k.load(turned, k.add(base, k.remc(k.addc(id, 1), 64)));
    k.barrier();
    k.store(turned, k.add(base, id), k.add(moved, neighbour));
    for (let half = 32; half > 0; half >>= 1) {
      k.if(k.compare('lt', id, k.constant(half)), () =>
        k.store(tile, id, k.add(k.load(tile, id), k.load(tile, k.addc(id, half)))),
      );
      k.barrier();
    }
    k.if(k.compare('eq', id, k.constant(0)), () => k.store(sums, group, k.load(tile, k.constant(0))));
    const kernel = k.finish({ name: 'shared', grid: [4, 1, 1], workgroup: [64, 1, 1] });
    await same(kernel, [
      Float32Array.from({ length: 256 }, (_, i) => Math.sin(i)),
      new Float32Array(4),
      new Float32Array(256),
    ]);
  });

  it('barriers in control flow that is uniform: scalars, workgroups, loops with carried values beside', async () => {
    const k = new KernelBuilder();
    const data = k.buffer('data', 'f32', 64, 'readwrite');
    const tile = k.array('tile', 'shared', 'f32', 16);
    const rounds = k.scalar('rounds', 'i32');
    const group = k.builtin('workgroup_id', 0, 4);
    const id = k.builtin('local_id', 0, 16);
    const at = k.add(k.mulc(group, 16), id);
    const step = (value: KValue, distance: KValue): KValue => {
      k.store(tile, id, value);
      k.barrier();
      const sum = k.add(value, k.load(tile, k.remc(k.add(id, distance), 16)));
      k.barrier();
      return sum;
    };
    const [looped] = k.for(0, rounds, 1, [k.load(data, at)], (i, [value]) => [step(value, k.addc(i, 1))]);
    const [value] = k.if(
      k.compare('gt', group, k.constant(1)),
      () =>
        k.if(
          k.compare('gt', rounds, k.constant(2)),
          () => [step(looped, k.constant(3))],
          () => [looped],
        ),
      () => [looped],
    );
    const [, final] = k.loop([rounds, value], ([left, current]) => {
      const next = k.addc(left, -1);
      return { condition: k.compare('gt', next, k.constant(0)), next: [next, step(current, left)] };
    });
    k.store(data, at, final);
    const kernel = k.finish({ name: 'uniform', grid: [4, 1, 1], workgroup: [16, 1, 1] });
    const input = Float32Array.from({ length: 64 }, (_, i) => i % 7);
    const result = await runBoth(device, kernel, [input], [3], new Uint8Array(Int32Array.of(3).buffer));
    expect(result.device).toEqual(result.interpreter);
    expect(result.device[0]).not.toEqual(input);
  });

  it('shared memory of vectors', async () => {
    const k = new KernelBuilder();
    const data = k.buffer('data', 'f32', 64, 'readwrite');
    const tile = k.array('tile', 'shared', 'f32', 64);
    const id = k.builtin('local_id', 0, 16);
    k.store(tile, k.mulc(id, 4), k.load(data, k.mulc(id, 4), 4, true), true);
    k.barrier();
    const [total] = k.for(0, 64, 1, [k.constant(0, 'f32')], (i, [s]) => [k.add(s, k.load(tile, i))]);
    k.store(
      data,
      k.mulc(id, 4),
      k.add(k.load(tile, k.sub(k.constant(60), k.mulc(id, 4)), 4, true), k.splat(total, 4)),
      true,
    );
    await same(k.finish({ name: 'tile', grid: [1, 1, 1], workgroup: [16, 1, 1] }), [
      Float32Array.from({ length: 64 }, (_, i) => i),
    ]);
  });

  it('atomics in global and shared memory', async () => {
    for (const scalar of ['i32', 'u32'] as const) {
      const k = new KernelBuilder();
      const fns: readonly AtomicFn[] = ['add', 'min', 'max', 'and', 'or', 'xor'];
      const input = k.buffer('in', scalar, 128, 'read');
      const out = k.buffer('out', scalar, 2 * fns.length + 2, 'readwrite');
      const own = k.array('own', 'shared', scalar, 8);
      const id = k.builtin('local_id', 0, 64);
      const value = k.load(input, k.add(k.mulc(k.builtin('workgroup_id', 0, 2), 64), id));
      k.if(k.compare('lt', id, k.constant(8)), () => k.store(own, id, k.constant(7, scalar)));
      k.barrier();
      fns.forEach((fn, i) => {
        k.atomic(fn, out, k.constant(i), value);
        k.atomic(fn, own, k.constant(i), value);
      });
      // Each invocation adds one by compare-exchange: correct only if none is lost.
      const place = k.constant(2 * fns.length);
      k.loop([k.constant(0, scalar)], ([seen]) => {
        const old = k.compareExchange(out, place, seen, k.addc(seen, 1));
        return { condition: k.compare('ne', old, seen), next: [old] };
      });
      k.atomic('exchange', out, k.constant(2 * fns.length + 1), k.constant(5, scalar));
      k.barrier();
      k.if(
        k.compare('lt', id, k.constant(fns.length)),
        () => k.atomic('max', out, k.addc(id, fns.length), k.load(own, id)) && [],
      );
      const words = (n: number) =>
        new arrays[scalar](Array.from({ length: n }, (_, i) => Math.imul(i + 1, 0x9e3779b1)));
      await same(k.finish({ name: 'atomics', grid: [2, 1, 1], workgroup: [64, 1, 1] }), [
        words(128),
        words(2 * fns.length + 2).fill(0, 12),
      ]);
    }
  });

  it('scalars and grids of three dimensions', async () => {
    const k = new KernelBuilder();
    const out = k.buffer('out', 'f32', 2 * 3 * 4 * 8, 'write');
    const [a, b, c] = [k.scalar('a', 'u32'), k.scalar('b', 'i32'), k.scalar('c', 'f32')];
    const [x, y, z] = [
      k.builtin('workgroup_id', 0, 2),
      k.builtin('workgroup_id', 1, 3),
      k.builtin('workgroup_id', 2, 4),
    ];
    const local = k.add(k.mulc(k.builtin('local_id', 1, 4), 2), k.builtin('local_id', 0, 2));
    const at = k.add(k.mulc(k.add(k.mulc(k.add(k.mulc(z, 3), y), 2), x), 8), local);
    const sum = k.add(k.add(k.convert(a, 'f32'), k.convert(b, 'f32')), k.mul(c, k.convert(at, 'f32')));
    k.store(out, at, sum);
    const kernel = k.finish({ name: 'grid', grid: [2, 3, 4], workgroup: [2, 4, 1] });
    const bytes = new Uint8Array(12);
    const view = new DataView(bytes.buffer);
    view.setUint32(0, 3000000000, true);
    view.setInt32(4, -5, true);
    view.setFloat32(8, 0.25, true);
    const result = await runBoth(device, kernel, [new Float32Array(192)], [3000000000, -5, 0.25], bytes);
    expect(result.device[0]).toEqual(result.interpreter[0]);
  });

  it('subgroup ops where the device has one width', async (context) => {
    if (!device.target.features.has('subgroups')) context.skip('no subgroups');
    const width = device.target.subgroup.min;
    const k = new KernelBuilder();
    const out = k.buffer('out', 'i32', 5 * 64, 'write');
    const id = k.builtin('local_id', 0, 64);
    const value = k.add(k.mul(id, id), k.constant(3));
    k.store(out, id, k.subgroup('add', value));
    k.store(out, k.addc(id, 64), k.subgroup('max', k.unary('neg', value)));
    k.store(out, k.addc(id, 128), k.subgroup('broadcast_first', value));
    k.store(out, k.addc(id, 192), k.subgroup('shuffle_xor', value, 1));
    k.store(out, k.addc(id, 256), k.subgroup('min', value));
    await same(k.finish({ name: 'subgroups', grid: [1, 1, 1], workgroup: [64, 1, 1], subgroupSize: width }), [
      new Int32Array(320),
    ]);
  });

  it('random expressions of every exact op', async () => {
    const op = fc.record({ op: fc.nat(1000), a: fc.nat(1000), b: fc.nat(1000), c: fc.nat(1000) });
    const program = fc.record({
      lanes: fc.constantFrom<Lanes>(1, 2, 4),
      steps: fc.array(op, { minLength: 5, maxLength: 40 }),
      ints: fc.array(fc.integer(), { minLength: 16, maxLength: 16 }),
      floats: fc.array(
        fc.float({ noNaN: true }).map((x) => (Math.abs(x) < 1e-10 ? 0 : x)),
        { minLength: 16, maxLength: 16 },
      ),
    });
    await fc.assert(
      fc.asyncProperty(program, async ({ lanes, steps, ints, floats: reals }) => {
        const k = new KernelBuilder();
        const buffers = {
          i32: k.buffer('i', 'i32', 16, 'read'),
          u32: k.buffer('u', 'u32', 16, 'read'),
          f32: k.buffer('f', 'f32', 16, 'read'),
        };
        const out = k.buffer('out', 'u32', 4 * 16, 'write');
        const id = k.mulc(k.builtin('local_id', 0, 16 / lanes), lanes);
        const values = new Map<ScalarType, KValue[]>(
          natives.map((t) => [t, [k.load(buffers[t], id, lanes, true), k.constant(3, t, lanes)]]),
        );
        values.set('bool', [k.constant(true, 'bool', lanes)]);
        const pick = (t: ScalarType, n: number): KValue => {
          const all = values.get(t) as KValue[];
          return all[n % all.length];
        };
        const push = (v: KValue): void => {
          (values.get(v.type.scalar) as KValue[]).push(v);
        };
        for (const { op: n, a, b, c } of steps) {
          const t = natives[n % 3];
          const kind = Math.floor(n / 3) % 8;
          if (kind === 0) push(k.unary(unary[t][b % unary[t].length], pick(t, a)));
          else if (kind === 1 || kind === 2) {
            const fns = binary[t].filter((fn) => t === 'f32' || (fn !== 'div' && fn !== 'rem'));
            const fn = fns[c % fns.length];
            // Zeros of either sign in min and max, and contraction of mul and add, are open: see render.ts.
            if (t === 'f32' && (fn === 'min' || fn === 'max' || (fn === 'mul' && !device.info.software))) continue;
            const result = k.binary(fn, pick(t, a), pick(t, b));
            // Subnormals are flushed, so products stay away from them.
            const tiny = t === 'f32' && fn === 'mul';
            const one = tiny && k.constant(1, t, lanes);
            push(
              one
                ? k.select(k.compare('lt', k.unary('abs', result), k.constant(1e-10, t, lanes)), one, result)
                : result,
            );
          } else if (kind === 3) push(k.compare(compares[c % 6], pick(t, a), pick(t, b)));
          else if (kind === 4) push(k.select(pick('bool', c), pick(t, a), pick(t, b)));
          else if (kind === 5) {
            // Carried values that swap places, beside the loop's index.
            const [first, second] = k.for(0, 1 + (c % 5), 1 + (a % 2), [pick(t, a), pick(t, b)], (i, [x, y]) => [
              k.unary(unary[t][c % unary[t].length], y),
              t === 'f32' ? k.select(k.compare('lt', x, y), x, y) : k.binary('xor', x, k.splat(k.convert(i, t), lanes)),
            ]);
            push(first);
            push(second);
          } else if (kind === 6) {
            const [x] = k.if(
              k.extract(pick('bool', c), 0),
              () => [k.unary(unary[t][b % unary[t].length], pick(t, a))],
              () =>
                k.if(
                  k.extract(pick('bool', a), lanes - 1),
                  () => [pick(t, b)],
                  () => [pick(t, c)],
                ),
            );
            push(x);
          } else push(k.convert(pick(t, a), natives[c % 3]));
        }
        natives.forEach((t, i) => {
          const last = (values.get(t) as KValue[]).at(-1) as KValue;
          const bits = isFloatScalar(t)
            ? k.select(k.compare('ne', last, last), k.constant(1, 'u32', lanes), k.bitcast(last, ktype('u32', lanes)))
            : k.bitcast(last, ktype('u32', lanes));
          k.store(out, k.addc(id, 16 * i), bits, true);
        });
        k.store(out, k.addc(id, 48), k.convert((values.get('bool') as KValue[]).at(-1) as KValue, 'u32'), true);
        const kernel = k.finish({ name: 'random', grid: [1, 1, 1], workgroup: [16 / lanes, 1, 1] });
        await same(kernel, [
          Int32Array.from(ints),
          Uint32Array.from(ints),
          Float32Array.from(reals),
          new Uint32Array(64),
        ]);
      }),
      { numRuns: 200, interruptAfterTimeLimit: 60_000 },
    );
  });
});
