/** Rendered SPIR-V against the interpreter, on every software Vulkan driver that is installed. */
import fc from 'fast-check';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import type { Device } from '../../backends/backend.js';
import { KernelBuilder } from '../../compiler/kernel/builder.js';
import { interpret } from '../../compiler/kernel/interpreter.js';
import { expandMath } from '../../compiler/kernel/math.js';
import {
  type BinaryFn,
  type CompareFn,
  isFloatScalar,
  isIntScalar,
  isSignedScalar,
  type KernelFunction,
  type KValue,
  ktype,
  type Lanes,
  type ScalarType,
  scalarBits,
} from '../../compiler/kernel/types.js';
import { exchanging, flagData, flags, gridData, gridOfThree } from '../support/executed_kernels.js';
import {
  differences,
  encode,
  floatSpecials,
  integerSpecials,
  type NumberType,
  numberTypes,
  seeded,
} from '../support/kernel_data.js';
import { buffersOf, bytesOf, floatBinary, floatUnary, intBinary, intUnary } from '../support/kernel_runs.js';
import { openFirst, runKernels, softwareDrivers } from '../support/vulkan.js';

/** Vulkan leaves subnormals open. */
const normalSpecials = floatSpecials.filter((x) => x === 0 || !(Math.abs(x) < 2 ** -126));

function values(scalar: NumberType, count: number, seed: number): (number | bigint)[] {
  const random = seeded(seed * 2654435761);
  const next = (): number => random.int(0, 0xffffffff);
  const specials = isFloatScalar(scalar) ? normalSpecials : integerSpecials(scalar);
  return Array.from({ length: count }, (_, i) => {
    // Co-prime strides make all pairs of specials meet over two operands.
    if (i < count / 2)
      return specials[(i * (seed % 2 ? 1 : 7) + Math.floor(i / specials.length) * seed) % specials.length];
    if (!isFloatScalar(scalar)) {
      const wide = (BigInt(next()) << 32n) | BigInt(next());
      return wide >> BigInt(next() % 60);
    }
    return ((next() / 2 ** 31 - 1) * 2 ** ((next() % 40) - 20)) as number;
  });
}

/** Runs `kernel` on the device and in the interpreter; the bytes of its last buffer from both. */
async function both(
  device: Device,
  kernel: KernelFunction,
  inputs: readonly Uint8Array[],
  scalars: readonly number[] = [],
) {
  const output = bytesOf(buffersOf(kernel)[inputs.length]);
  const onDevice = [...inputs.map((input) => input.slice()), new Uint8Array(output)];
  const expected = [...inputs.map((input) => input.slice()), new Uint8Array(output)];
  const words = Int32Array.from(scalars);
  await runKernels(device, [
    { kernel, data: onDevice, ...(scalars.length > 0 ? { scalars: new Uint8Array(words.buffer) } : {}) },
  ]);
  interpret(kernel, expected, scalars);
  return { expected: expected[inputs.length], found: onDevice[inputs.length] };
}

/** An elementwise kernel of `count` elements a lane group: `out[i] = body(a[i], b[i], c[i])`. */
function elementwise(
  scalars: readonly NumberType[],
  out: NumberType,
  lanes: Lanes,
  count: number,
  body: (b: KernelBuilder, args: readonly KValue[]) => KValue,
): KernelFunction {
  const b = new KernelBuilder();
  const inputs = scalars.map((scalar, i) => b.buffer(`in${i}`, scalar, count, 'read'));
  const output = b.buffer('out', out, count, 'write');
  const group = 32 * lanes;
  const index = b.add(
    b.mulc(b.builtin('workgroup_id', 0, count / group), group),
    b.mulc(b.builtin('local_id', 0, 32), lanes),
  );
  const args = inputs.map((input) => b.load(input, index, lanes, true));
  b.store(output, index, body(b, args), true);
  return b.finish({ name: 'elementwise', grid: [count / group, 1, 1], workgroup: [32, 1, 1] });
}

const count = 1024;
const compareFns: readonly CompareFn[] = ['eq', 'ne', 'lt', 'le', 'gt', 'ge'];

/** What Vulkan lets a device round, in units in the last place. Everything else must be exact. */
const allowedUlps = (fn: string): number => (fn === 'div' || fn === 'sqrt' ? 3 : 0);

for (const [driverName, icd] of softwareDrivers) {
  describe(`vulkan kernels on ${driverName}`, () => {
    let device: Device;
    beforeAll(async () => {
      device = await openFirst(icd);
    });
    afterAll(async () => {
      await device?.close();
    });
    // SwiftShader flushes subnormal results; Vulkan lets every device that does not offer denormPreserve do so.
    const flush = driverName === 'SwiftShader';
    const supported = (scalar: ScalarType): boolean =>
      device.target.arithmetic.has(scalar) && device.target.storage.has(scalar);

    for (const scalar of numberTypes) {
      it(`computes every op on ${scalar} as the interpreter does`, async (context) => {
        if (!supported(scalar)) return context.skip();
        const float = isFloatScalar(scalar);
        const [x, y] = [values(scalar, count, 1), values(scalar, count, 2)];
        const failures: string[] = [];
        const check = async (
          what: string,
          out: NumberType,
          operands: readonly (readonly (number | bigint)[])[],
          lanes: Lanes,
          body: (b: KernelBuilder, args: readonly KValue[]) => KValue,
        ) => {
          const kernel = elementwise(
            operands.map(() => scalar),
            out,
            lanes,
            count,
            body,
          );
          const { expected, found } = await both(
            device,
            kernel,
            operands.map((list) => encode(scalar, list)),
          );
          const wrong = differences(out, expected, found, {
            ulps: allowedUlps(what),
            looseZero: what === 'min' || what === 'max',
            flush,
          });
          if (wrong.length > 0) failures.push(`${what} x${lanes}: ${wrong.length} differ, first ${wrong[0]}`);
        };
        for (const [i, fn] of (float ? floatUnary : intUnary).entries()) {
          await check(fn, scalar, [x], i % 2 ? 4 : 1, (b, [a]) => b.unary(fn, a));
        }
        const binaryFns: BinaryFn[] = [...(float ? floatBinary : intBinary)];
        if (scalar === 'i32' || scalar === 'u32') binaryFns.push('mulhi');
        for (const [i, fn] of binaryFns.entries()) {
          let [p, q] = [x, y];
          if (!float) {
            const bits = BigInt(scalarBits[scalar]);
            if (fn === 'shl' || fn === 'shr') q = y.map((v) => BigInt.asUintN(64, BigInt(v)) % bits);
            if (fn === 'div' || fn === 'rem') {
              const wrap = (v: bigint): bigint =>
                isSignedScalar(scalar) ? BigInt.asIntN(Number(bits), v) : BigInt.asUintN(Number(bits), v);
              q = y.map((v) => (wrap(BigInt(v)) === 0n || wrap(BigInt(v)) === -1n ? 3n : v));
            }
          }
          await check(fn, scalar, [p, q], i % 2 ? 2 : 1, (b, [a, c]) => b.binary(fn, a, c));
        }
        for (const fn of compareFns) {
          await check(fn, 'u32', [x, y], 1, (b, [a, c]) => b.convert(b.compare(fn, a, c), 'u32'));
        }
        await check('select', scalar, [x, y], 4, (b, [a, c]) => b.select(b.compare('lt', a, c), c, a));
        for (const c of [0, 1, 3, 4, 127]) {
          await check('min', scalar, [x], 1, (b, [a]) =>
            b.min(a, b.constant(scalarBits[scalar] === 64 && !float ? BigInt(c) : c, scalar)),
          );
          if (c > 0 && !float) {
            await check(`div by ${c}`, scalar, [x], 1, (b, [a]) =>
              b.div(a, b.constant(scalarBits[scalar] === 64 ? BigInt(c) : c, scalar)),
            );
            await check(`rem by ${c}`, scalar, [x], 1, (b, [a]) =>
              b.rem(a, b.constant(scalarBits[scalar] === 64 ? BigInt(c) : c, scalar)),
            );
          }
        }
        expect(failures).toEqual([]);
      });

      it(`converts ${scalar} to every type as the interpreter does`, async (context) => {
        if (!supported(scalar)) return context.skip();
        const failures: string[] = [];
        const source = values(scalar, count, 1);
        for (const to of numberTypes) {
          if (to === scalar || !supported(to)) continue;
          for (const lanes of [1, 4] as const) {
            const kernel = elementwise([scalar], to, lanes, count, (b, [a]) => b.convert(a, to));
            const { expected, found } = await both(device, kernel, [encode(scalar, source)]);
            const wrong = differences(to, expected, found);
            if (wrong.length > 0) failures.push(`${scalar}→${to} x${lanes}: ${wrong.length} differ, first ${wrong[0]}`);
          }
        }
        const kernel = elementwise([scalar], 'u32', 1, count, (b, [a]) => b.convert(b.convert(a, 'bool'), 'u32'));
        const { expected, found } = await both(device, kernel, [encode(scalar, source)]);
        expect(differences('u32', expected, found)).toEqual([]);
        expect(failures).toEqual([]);
      });
    }

    /** Runs and compares whole buffers bit for bit, apart from the payload of NaNs. */
    const same = async (
      kernel: KernelFunction,
      inputs: readonly Uint8Array[],
      scalars: readonly number[] = [],
    ): Promise<void> => {
      const { expected, found } = await both(device, kernel, inputs, scalars);
      const { scalar } = buffersOf(kernel)[inputs.length];
      expect(differences(scalar, expected, found, { flush })).toEqual([]);
    };
    const ints = (length: number, seed = 3): Uint8Array => encode('i32', values('i32', length, seed));
    const small = (length: number): Uint8Array =>
      encode(
        'i32',
        Array.from({ length }, (_, i) => (i * 37) % 101),
      );

    it('takes remainders of floats exactly, however large the quotient', async () => {
      for (const scalar of ['f32', 'f64', 'f16'] as const) {
        if (!supported(scalar)) continue;
        const xs = [
          ...values(scalar, 512, 5),
          ...Array.from({ length: 512 }, (_, i) => (i % 2 ? -1 : 1) * 1.7 ** (i % 160) * 1e-3),
        ];
        const ys = [...values(scalar, 512, 6), ...Array.from({ length: 512 }, (_, i) => 0.37 * (1 + (i % 7)))];
        const kernel = elementwise([scalar, scalar], scalar, 2, 1024, (b, [a, c]) => b.rem(a, c));
        await same(kernel, [encode(scalar, xs), encode(scalar, ys)]);
      }
    });

    it('computes expanded math functions as the interpreter does, within a few units in the last place', async () => {
      const x = Array.from({ length: 256 }, (_, i) => (i - 128) / 9.7);
      for (const fn of ['exp', 'log', 'sin', 'tanh', 'erf', 'pow'] as const) {
        const kernel = expandMath(
          elementwise(['f32'], 'f32', 2, 256, (b, [a]) => {
            if (fn === 'pow') return b.binary('pow', b.unary('abs', a), b.constant(1.75, 'f32', 2));
            return b.unary(fn, fn === 'log' ? b.unary('abs', a) : a);
          }),
        );
        const { expected, found } = await both(device, kernel, [encode('f32', x)]);
        expect(differences('f32', expected, found, { ulps: 4, flush, looseZero: true })).toEqual([]);
      }
    });

    it('fuses multiply-add with one rounding', async () => {
      for (const scalar of ['f16', 'f32', 'f64'] as const) {
        if (!supported(scalar)) continue;
        const n = 1024;
        const random = (seed: number): number[] => {
          let state = seed;
          return Array.from({ length: n }, () => {
            state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
            const low = (Math.imul(state, 22695477) + 1) >>> 0;
            return (state / 2 ** 31 - 1 + low / 2 ** 62) * 2 ** ((state >>> 9) % 7);
          });
        };
        const [x, y] = [random(1), random(2)];
        // Sums that cancel, that nearly do, and others; then special values.
        const z = x.map((v, i) => (i % 3 === 0 ? -v * y[i] : i % 3 === 1 ? -v * y[i] * (1 + 2 ** -8) : y[i] / 3));
        const special = [0, -0, 1, -1, Number.NaN, Number.POSITIVE_INFINITY, Number.NEGATIVE_INFINITY, 3];
        for (let i = 0; i < 512; i++) {
          x[i] = special[i & 7];
          y[i] = special[(i >> 3) & 7];
          z[i] = special[(i >> 6) & 7];
        }
        for (const lanes of [1, 4] as const) {
          const kernel = elementwise([scalar, scalar, scalar], scalar, lanes, n, (b, [p, q, r]) => b.fma(p, q, r));
          await same(kernel, [encode(scalar, x), encode(scalar, y), encode(scalar, z)]);
        }
      }
    });

    it('runs nested loops, ifs with results and loops that end by condition', async () => {
      const n = 96;
      const b = new KernelBuilder();
      const x = b.buffer('x', 'i32', n, 'read');
      const out = b.buffer('out', 'i32', n, 'write');
      const index = b.add(b.mulc(b.builtin('workgroup_id', 0, 3), 32), b.builtin('local_id', 0, 32));
      const value = b.load(x, index);
      const [sum, last] = b.for(
        0,
        b.rem(b.unary('abs', value), b.constant(11)),
        1,
        [b.constant(0), value],
        (i, [s, v]) => {
          const [inner] = b.for(i, 9, 2, [s], (j, [t]) =>
            b.if(
              b.compare('eq', b.remc(b.and(j, b.constant(7)), 3), b.constant(0)),
              () => [b.add(t, b.mul(j, v))],
              () =>
                b.if(
                  b.compare('lt', t, b.constant(50)),
                  () => [b.addc(t, 1)],
                  () => [b.sub(t, i)],
                ),
            ),
          );
          return [inner, b.binary('xor', v, inner)];
        },
      );
      const [steps, rest] = b.loop(
        [b.constant(0), b.unary('abs', b.binary('shr', last, b.constant(3)))],
        ([count, v]) => {
          const next = b.binary('shr', v, b.constant(1));
          return { condition: b.compare('gt', next, b.constant(1)), next: [b.addc(count, 1), next] };
        },
      );
      const [unrolled] = b.for(0, 6, 2, [rest], (i, [v]) => [b.add(b.mul(v, b.constant(5)), b.addc(b.mulc(i, 3), 1))], {
        unroll: true,
      });
      b.store(out, index, b.add(b.add(sum, steps), unrolled));
      await same(b.finish({ name: 'control', grid: [3, 1, 1], workgroup: [32, 1, 1] }), [ints(n)]);
    });

    it('addresses vectors at aligned and unaligned places, and arrays of both spaces', async () => {
      const n = 256;
      const b = new KernelBuilder();
      const x = b.buffer('x', 'f32', n + 8, 'read');
      const out = b.buffer('out', 'f32', 2 * n, 'readwrite');
      const shared = b.array('tile', 'shared', 'f32', 256);
      const scratch = b.array('scratch', 'private', 'f32', 8);
      const vectors = b.array('vectors', 'private', 'f32', 16);
      const lane = b.builtin('local_id', 0, 32);
      const group = b.builtin('workgroup_id', 0, 2);
      const base = b.add(b.mulc(group, 128), b.mulc(lane, 4));
      const aligned = b.load(x, base, 4, true);
      const unaligned = b.load(x, b.addc(base, 3), 4, false);
      b.store(shared, b.mulc(lane, 4), b.add(aligned, unaligned), true);
      b.barrier();
      const mirrored = b.load(shared, b.mulc(b.sub(b.constant(31), lane), 4), 4, true);
      for (let i = 0; i < 4; i++) {
        b.store(scratch, b.constant(i), b.extract(mirrored, i));
        b.store(scratch, b.constant(7 - i), b.extract(aligned, i));
        b.store(vectors, b.constant(4 * i), b.add(mirrored, b.splat(b.extract(unaligned, i), 4)), true);
      }
      const [sum] = b.for(0, 8, 1, [b.constant(0, 'f32')], (i, [s]) => [
        b.add(s, b.load(scratch, b.remc(b.add(i, lane), 8))),
      ]);
      const [total] = b.for(0, 4, 1, [b.splat(sum, 4)], (i, [s]) => [b.add(s, b.load(vectors, b.mulc(i, 4), 4, true))]);
      b.store(out, base, total, true);
      b.store(out, b.addc(base, n), b.load(out, base), false);
      b.store(out, b.addc(base, n + 1), b.load(shared, lane), false);
      b.store(out, b.addc(base, n + 2), b.build([b.extract(total, 3), b.extract(total, 0)]), true);
      await same(b.finish({ name: 'memory', grid: [2, 1, 1], workgroup: [32, 1, 1] }), [
        encode(
          'f32',
          values('f32', n + 8, 9).map((v) => (Math.abs(Number(v)) < 1e6 ? v : 1)),
        ),
      ]);
    });

    it('reduces through shared memory with barriers in a loop', async () => {
      const b = new KernelBuilder();
      const x = b.buffer('x', 'i32', 512, 'read');
      const out = b.buffer('out', 'i32', 4, 'write');
      const tile = b.array('tile', 'shared', 'i32', 128);
      const lane = b.builtin('local_id', 0, 128);
      const group = b.builtin('workgroup_id', 0, 4);
      b.store(tile, lane, b.load(x, b.add(b.mulc(group, 128), lane)));
      b.barrier();
      b.loop([b.constant(64)], ([width]) => {
        b.if(b.compare('lt', lane, width), () => {
          b.store(tile, lane, b.add(b.load(tile, lane), b.load(tile, b.add(lane, b.assume(width, 0, 64)))));
        });
        b.barrier();
        const next = b.binary('shr', width, b.constant(1));
        return { condition: b.compare('gt', next, b.constant(0)), next: [next] };
      });
      b.if(b.compare('eq', lane, b.constant(0)), () => b.store(out, group, b.load(tile, b.constant(0))));
      await same(b.finish({ name: 'reduce', grid: [4, 1, 1], workgroup: [128, 1, 1] }), [ints(512)]);
    });

    it('runs loops of a hundred thousand trips, one after the other, nested, and of run-time length', async () => {
      const b = new KernelBuilder();
      const x = b.buffer('x', 'u32', 8, 'read');
      const out = b.buffer('out', 'u32', 32, 'write');
      const lane = b.builtin('local_id', 0, 8);
      const one = b.load(x, lane);
      const mix = (value: KValue, i: KValue): KValue =>
        b.binary('xor', b.add(b.mulc(value, 5), one), b.convert(i, 'u32'));
      const zero = b.constant(0, 'u32');
      const length = b.assume(b.add(b.constant(70_001), b.convert(one, 'i32')), 0, 80_000);
      const results = [
        b.for(0, 100_003, 1, [zero], (i, [v]) => [mix(v, i)]),
        b.for(0, 301, 1, [zero, one], (i, [v, w]) => [
          b.for(i, 333, 1, [v], (j, [u]) => [mix(u, b.add(i, j))])[0],
          b.for(0, 3, 1, [w], (j, [u]) => [mix(u, j)])[0],
        ]),
        b.for(0, length, 3, [zero], (i, [v]) => [mix(v, i)]),
      ];
      for (const [i, [value]] of results.entries()) b.store(out, b.addc(lane, 8 * i), value);
      b.store(out, b.addc(lane, 24), results[1][1]);
      const data = encode('u32', [1, 2, 3, 5, 8, 13, 21, 34]);
      await same(b.finish({ name: 'long', grid: [1, 1, 1], workgroup: [8, 1, 1] }), [data]);
    });

    it('sees through a barrier what others wrote to global memory', async () => {
      await same(exchanging(), [ints(256)]);
    });

    it('updates memory atomically', async () => {
      const b = new KernelBuilder();
      const x = b.buffer('x', 'i32', 1024, 'read');
      const out = b.buffer('out', 'i32', 16, 'readwrite');
      const local = b.array('local', 'shared', 'u32', 4);
      const lane = b.builtin('local_id', 0, 64);
      const group = b.builtin('workgroup_id', 0, 16);
      b.if(b.compare('lt', lane, b.constant(4)), () => b.store(local, lane, b.constant(0, 'u32')));
      b.barrier();
      const value = b.load(x, b.add(b.mulc(group, 64), lane));
      for (const [i, fn] of (['add', 'min', 'max', 'xor', 'or', 'and'] as const).entries()) {
        b.atomic(fn, out, b.constant(i), value);
      }
      b.atomic('add', local, b.and(lane, b.constant(3)), b.convert(b.and(value, b.constant(255)), 'u32'));
      b.barrier();
      b.if(b.compare('lt', lane, b.constant(4)), () => {
        b.atomic('add', out, b.addc(lane, 8), b.convert(b.load(local, lane), 'i32'));
      });
      // A lock-free maximum by compare and exchange.
      b.loop([b.constant(0)], ([seen]) => {
        const wanted = b.max(seen, value);
        const old = b.compareExchange(out, b.constant(12), seen, wanted);
        return { condition: b.and(b.compare('ne', old, seen), b.compare('lt', old, wanted)), next: [old] };
      });
      await same(b.finish({ name: 'atomics', grid: [16, 1, 1], workgroup: [64, 1, 1] }), [small(1024)]);
    });

    it('calls helpers, reads scalars, and covers a grid of three dimensions', async () => {
      await same(gridOfThree(), [gridData], [-7, 100]);
    });

    it('keeps bools in memory as bytes or words', async () => {
      const bytes = device.target.storage.has('bool');
      await same(flags(bytes), [flagData(bytes)]);
    });

    it('casts bits between types and lane counts', async () => {
      await same(
        elementwise(['f32'], 'u32', 4, 128, (b, [a]) => b.bitcast(b.bitcast(a, ktype('i32', 4)), ktype('u32', 4))),
        [ints(128)],
      );
      await same(
        elementwise(['u32'], 'f32', 1, 128, (b, [a]) => b.bitcast(a, ktype('f32'))),
        [encode('f32', values('f32', 128, 4))],
      );
      if (!supported('u16')) return;
      const kernel = elementwise(['u32'], 'u32', 2, 128, (b, [a]) => {
        const halves = b.bitcast(a, ktype('u16', 4));
        return b.bitcast(b.build([3, 0, 2, 1].map((lane) => b.extract(halves, lane))), ktype('u32', 2));
      });
      await same(kernel, [ints(128)]);
      await same(
        elementwise(['u32'], 'f16', 1, 128, (b, [a]) => {
          const pair = b.bitcast(a, ktype('f16', 2));
          return b.extract(pair, 1);
        }),
        [ints(128)],
      );
    });

    it('exchanges values within subgroups', async (context) => {
      if (!device.target.features.has('subgroups')) return context.skip();
      const width = device.target.subgroup.min;
      const b = new KernelBuilder();
      const x = b.buffer('x', 'f32', 64, 'read');
      const out = b.buffer('out', 'f32', 64 * 9, 'write');
      const lane = b.builtin('local_id', 0, 64);
      const value = b.load(x, lane);
      const whole = b.convert(value, 'i32');
      const results = [
        b.subgroup('add', value),
        b.subgroup('min', value),
        b.subgroup('max', value),
        b.subgroup('broadcast_first', value),
        b.subgroup('shuffle_xor', value, 1),
        b.subgroup('shuffle_xor', value, width / 2),
        ...(['add', 'min', 'max'] as const).map((fn) => b.convert(b.subgroup(fn, whole), 'f32')),
      ];
      for (const [i, result] of results.entries()) b.store(out, b.addc(lane, 64 * i), result);
      const data = encode(
        'f32',
        Array.from({ length: 64 }, (_, i) => (i === 21 ? Number.NaN : ((i * 29) % 64) - 20)),
      );
      await same(b.finish({ name: 'subgroups', grid: [1, 1, 1], workgroup: [64, 1, 1], subgroupSize: width }), [data]);
    });

    it('agrees on random expressions', async () => {
      const scalars = numberTypes.filter(supported);
      await fc.assert(
        fc.asyncProperty(
          fc.array(fc.nat(0xffffffff), { minLength: 24, maxLength: 90 }),
          fc.constantFrom<Lanes>(1, 2, 4),
          async (choices, lanes) => {
            const { kernel, inputs } = randomKernel(choices, scalars, lanes);
            await same(kernel, inputs);
          },
        ),
        { numRuns: 40, seed: 20 },
      );
    });
  });
}

/** A kernel whose operations `choices` pick: values of every type, combined by ops that are exact on the device. */
function randomKernel(choices: readonly number[], scalars: readonly NumberType[], lanes: Lanes) {
  const length = 32 * lanes;
  const b = new KernelBuilder();
  const used = scalars.filter((_, i) => choices[i % choices.length] % 3 !== 0).slice(0, 5);
  if (used.length === 0) used.push('i32');
  const index = b.mulc(b.builtin('local_id', 0, 32), lanes);
  const inputs: Uint8Array[] = [];
  const pool = new Map<NumberType, KValue[]>();
  used.forEach((scalar, i) => {
    inputs.push(encode(scalar, values(scalar, length, (choices[i % choices.length] % 1000) + 1)));
    pool.set(scalar, [b.load(b.buffer(`in${i}`, scalar, length, 'read'), index, lanes, true)]);
  });
  let at = 0;
  const pick = (below: number): number => choices[at++ % choices.length] % below;
  const any = (scalar: NumberType): KValue => {
    const list = pool.get(scalar) as KValue[];
    return list[pick(list.length)];
  };
  for (let step = 0; step < choices.length; step++) {
    const scalar = used[pick(used.length)];
    const list = pool.get(scalar) as KValue[];
    const [x, y] = [any(scalar), any(scalar)];
    const float = isFloatScalar(scalar);
    switch (pick(6)) {
      case 0:
        list.push(b.convert(any(used[pick(used.length)]), scalar));
        break;
      case 1:
        list.push(b.select(b.compare((['lt', 'eq', 'ge'] as const)[pick(3)], x, y), y, x));
        break;
      case 2:
        list.push(
          float
            ? b.unary((['neg', 'abs', 'floor', 'round'] as const)[pick(4)], x)
            : b.unary((['neg', 'abs', 'not', 'clz'] as const)[pick(4)], x),
        );
        break;
      case 3:
        list.push(
          b.binary(float ? (['add', 'sub', 'mul'] as const)[pick(3)] : (['and', 'or', 'xor'] as const)[pick(3)], x, y),
        );
        break;
      case 4: {
        const c = isIntScalar(scalar) && scalarBits[scalar] === 64 ? BigInt(1 + pick(60)) : 1 + pick(60);
        const constant = b.constant(c, scalar, lanes);
        list.push(b.binary(float ? 'mul' : (['div', 'rem', 'mul', 'add'] as const)[pick(4)], x, constant));
        break;
      }
      default:
        list.push(b.binary((['add', 'sub', 'mul'] as const)[pick(3)], x, y));
    }
  }
  // All results of the first type, mixed into one output without losing bits.
  const [first] = used;
  const list = pool.get(first) as KValue[];
  const out = b.buffer('out', first, length * 4, 'write');
  for (let i = 0; i < 4; i++) b.store(out, b.addc(index, length * i), list[Math.max(0, list.length - 1 - i)], true);
  return { kernel: b.finish({ name: 'random', grid: [1, 1, 1], workgroup: [32, 1, 1] }), inputs };
}
