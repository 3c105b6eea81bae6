/** The cpu backend on this machine: rendered kernels against the interpreter, and what is its own in its driver. */
import { mkdtempSync, readdirSync, readFileSync, rmSync, truncateSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import fc from 'fast-check';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import type { Command, Device, KernelCode } from '../../backends/backend.js';
import { cpuBackend } from '../../backends/cpu/index.js';
import { KernelBuilder } from '../../compiler/kernel/builder.js';
import { interpret } from '../../compiler/kernel/interpreter.js';
import {
  isFloatScalar,
  isIntScalar,
  type KBuffer,
  type KernelFunction,
  type KValue,
  ktype,
  type Lanes,
  type ScalarType,
  scalarBits,
  scalarTypes,
} from '../../compiler/kernel/types.js';

let folder: string;
let device: Device;
beforeAll(async () => {
  folder = mkdtempSync(join(tmpdir(), 'tutti-cpu-test-'));
  const driver = await cpuBackend.driver({ cacheDirectory: folder });
  expect(await driver.probe()).toEqual({ ok: true });
  device = await driver.open('cpu');
});
afterAll(async () => {
  await device.close();
  rmSync(folder, { recursive: true, force: true });
});

// --- helpers -------------------------------------------------------------------------------------------------------

const bytesOf = (buffer: KBuffer) => (buffer.length * scalarBits[buffer.scalar]) / 8;
const buffersOf = (kernel: KernelFunction) => kernel.params.filter((p): p is KBuffer => p.kind === 'buffer');

/** Runs kernels on the device, each with its own host buffers, which are changed in place. */
async function runOn(
  target: Device,
  work: readonly { kernel: KernelFunction; data: readonly Uint8Array[]; scalars?: Uint8Array }[],
) {
  const kernels = await target.loadKernels(work.map(({ kernel }) => cpuBackend.render(kernel, target.target)));
  for (const [i, { kernel, data, scalars }] of work.entries()) {
    const buffers = data.map((bytes) => target.allocate(bytes.length));
    const whole = buffers.map((buffer) => ({ buffer, offset: 0, bytes: buffer.bytes }));
    const list = await target.record([
      { kind: 'dispatch', kernel: kernels[i], grid: kernel.grid, bindings: whole, scalars },
    ]);
    await target.queue.submit({
      list,
      writes: whole.map((to, j) => ({ to, data: data[j] })),
      reads: whole.map((from, j) => ({ from, into: data[j] })),
    });
    list.release();
    for (const buffer of buffers) buffer.free();
  }
}

/** Little numbers that meet each other, limits, and noise. */
function fill(scalar: ScalarType, length: number, seed: number): Uint8Array {
  let state = seed >>> 0 || 1;
  const next = () => {
    state = (Math.imul(state ^ (state >>> 15), 0x2c1b3c6d) + 0x9e3779b9) >>> 0;
    return (state ^ (state >>> 13)) >>> 0;
  };
  const bytes = new Uint8Array((length * scalarBits[scalar]) / 8);
  const view = new DataView(bytes.buffer);
  const special = [
    0,
    -0,
    1,
    -1,
    0.5,
    2.5,
    -3.5,
    7,
    255,
    65504,
    1e-40,
    -1e-7,
    3e38,
    -2147483648,
    2147483647,
    4294967295,
    9.3e18,
    Number.NaN,
    Number.POSITIVE_INFINITY,
    Number.NEGATIVE_INFINITY,
  ];
  for (let i = 0; i < length; i++) {
    const mode = next() % 3;
    if (scalar === 'bool') bytes[i] = next() & 1;
    else if (scalar === 'f32' && mode > 0)
      view.setFloat32(4 * i, mode === 1 ? special[next() % special.length] : (next() / 2 ** 32 - 0.5) * 200, true);
    else if (scalar === 'f64' && mode > 0)
      view.setFloat64(8 * i, mode === 1 ? special[next() % special.length] : (next() / 2 ** 32 - 0.5) * 200, true);
    else if (isIntScalar(scalar) && mode === 1) {
      const small = BigInt((next() % 9) - 4);
      for (let j = 0; j < scalarBits[scalar] / 8; j++)
        bytes[(i * scalarBits[scalar]) / 8 + j] = Number((BigInt.asUintN(64, small) >> BigInt(8 * j)) & 255n);
    } else for (let j = 0; j < scalarBits[scalar] / 8; j++) bytes[(i * scalarBits[scalar]) / 8 + j] = next() >>> 11;
  }
  return bytes;
}

/** Elements as bits, any NaN as one. */
function canonical(scalar: ScalarType, bytes: Uint8Array): string[] {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const size = scalarBits[scalar] / 8;
  return Array.from({ length: bytes.length / size }, (_, i) => {
    let bits = 0n;
    for (let j = size - 1; j >= 0; j--) bits = (bits << 8n) | BigInt(view.getUint8(i * size + j));
    const inf = { f16: 0x7c00n, bf16: 0x7f80n, f32: 0x7f800000n, f64: 0x7ff0000000000000n }[scalar as 'f16'];
    if (inf !== undefined && BigInt.asUintN(scalarBits[scalar] - 1, bits) > inf) return 'nan';
    return bits.toString(16);
  });
}

async function expectEqualToInterpreter(kernels: readonly KernelFunction[], seed = 1) {
  const work = kernels.map((kernel, k) => ({
    kernel,
    data: buffersOf(kernel).map((buffer, i) =>
      buffer.access === 'write'
        ? new Uint8Array(bytesOf(buffer))
        : fill(buffer.scalar, buffer.length, seed * 7919 + 31 * k + i),
    ),
  }));
  const expected = work.map(({ kernel, data }) => {
    const copies = data.map((bytes) => bytes.slice());
    interpret(kernel, copies);
    return copies;
  });
  await runOn(device, work);
  work.forEach(({ kernel, data }, k) => {
    const inputs = buffersOf(kernel);
    inputs.forEach((buffer, i) => {
      const label = `${kernel.name}.${buffer.name}`;
      const [got, want] = [canonical(buffer.scalar, data[i]), canonical(buffer.scalar, expected[k][i])];
      const wrong = want.findIndex((bits, j) => bits !== got[j]);
      if (wrong >= 0) {
        const context = inputs
          .filter((b) => b.access === 'read' && b.length === buffer.length)
          .map((b) => `${b.name}=${canonical(b.scalar, work[k].data[inputs.indexOf(b)])[wrong]}`);
        throw new Error(`${label}[${wrong}]: ${got[wrong]} instead of ${want[wrong]} for ${context.join(' ')}`);
      }
    });
  });
}

const GROUPS = 24;

/** One kernel that applies every op to operands of one type, with a result buffer an op. */
function everyOp(scalar: ScalarType, lanes: Lanes): KernelFunction {
  const k = new KernelBuilder();
  const length = GROUPS * lanes;
  const [a0, b0, c0] = ['a', 'b', 'c'].map((name) => k.buffer(name, scalar, length, 'read'));
  const p0 = k.buffer('p', 'bool', length, 'read');
  const index = k.mulc(k.builtin('workgroup_id', 0, GROUPS), lanes);
  const [a, b, c] = [a0, b0, c0].map((buffer) => k.load(buffer, index, lanes, true));
  const p = k.load(p0, index, lanes);
  const out = (name: string, value: KValue) =>
    k.store(k.buffer(name, value.type.scalar, length, 'write'), index, value, true);
  const zero = k.constant(0, scalar, lanes);
  const one = k.constant(1, scalar, lanes);
  for (const fn of ['eq', 'ne', 'lt', 'le', 'gt', 'ge'] as const) out(fn, k.compare(fn, a, b));
  out('select', k.select(p, a, b));
  out('selectByCompare', k.select(k.compare('lt', a, b), c, a));
  if (lanes > 1) {
    out('selectScalar', k.select(k.extract(p, 1), a, b));
    out('splat', k.splat(k.extract(a, lanes - 1), lanes));
    out('build', k.build(Array.from({ length: lanes }, (_, i) => k.extract(a, lanes - 1 - i))));
  }
  for (const to of scalarTypes) if (to !== scalar) out(`to_${to}`, k.convert(a, to));
  if (scalar === 'bool') {
    for (const fn of ['and', 'or', 'xor'] as const) out(fn, k.binary(fn, a, b));
    out('not', k.unary('not', a));
    out('mixedMasks', k.binary('and', k.compare('lt', k.convert(a, 'f64'), k.convert(b, 'f64')), p));
  } else {
    for (const fn of ['add', 'sub', 'mul', 'min', 'max'] as const) out(fn, k.binary(fn, a, b));
    out('maxZero', k.binary('max', a, zero));
    out('minZero', k.binary('min', zero, a));
    out('neg', k.unary('neg', a));
    out('abs', k.unary('abs', a));
  }
  if (isFloatScalar(scalar)) {
    for (const fn of ['div', 'rem'] as const) out(fn, k.binary(fn, a, b));
    for (const fn of ['floor', 'ceil', 'round', 'trunc', 'sqrt'] as const) out(fn, k.unary(fn, a));
    out('fma', k.fma(a, b, c));
    for (const [name, value] of Object.entries({
      nan: Number.NaN,
      inf: Number.NEGATIVE_INFINITY,
      negativeZero: -0,
      third: 1 / 3,
      tiny: 1e-45,
    })) {
      out(`min_${name}`, k.binary('min', a, k.constant(value, scalar, lanes)));
      out(`max_${name}`, k.binary('max', a, k.constant(value, scalar, lanes)));
      out(`const_${name}`, k.constant(value, scalar, lanes));
    }
    const bits = `u${scalarBits[scalar]}` as ScalarType;
    const number = k.select(k.compare('eq', a, a), k.binary('min', a, k.constant(9, scalar, lanes)), one); // NaNs differ in bits
    out('bits', k.bitcast(number, ktype(bits, lanes)));
  } else if (scalar !== 'bool') {
    for (const fn of ['and', 'or', 'xor'] as const) out(fn, k.binary(fn, a, b));
    for (const fn of ['not', 'popcount', 'clz'] as const) out(fn, k.unary(fn, a));
    const shift = k.binary('and', b, k.constant(scalarBits[scalar] - 1, scalar, lanes));
    for (const fn of ['shl', 'shr'] as const) out(fn, k.binary(fn, a, shift));
    if (scalar === 'i32' || scalar === 'u32') out('mulhi', k.binary('mulhi', a, b));
    const minusOne = scalar.startsWith('i') ? k.compare('eq', b, k.unary('neg', one)) : k.compare('eq', b, zero);
    const divisor = k.select(k.binary('or', minusOne, k.compare('eq', b, zero)), one, b);
    for (const fn of ['div', 'rem'] as const) out(fn, k.binary(fn, a, divisor));
    const positive = k.binary('shr', a, one);
    if (!scalar.startsWith('i')) out('divThree', k.divc(positive, 3));
    const signed = {
      u8: 'i8',
      u16: 'f16',
      u32: 'f32',
      u64: 'f64',
      i8: 'u8',
      i16: 'bf16',
      i32: 'f32',
      i64: 'f64',
    } as const;
    out('bits', k.bitcast(a, ktype(signed[scalar as 'u8'], lanes)));
    if (lanes >= 2 && scalarBits[scalar] <= 32) {
      const wide = `u${scalarBits[scalar] * 2}` as ScalarType;
      const half = (lanes / 2) as Lanes;
      const packed = k.bitcast(a, ktype(wide, half));
      k.store(k.buffer('packed', wide, length / 2, 'write'), k.divc(index, 2), packed, false);
    }
  }
  return k.finish({ name: `every_${scalar}x${lanes}`, grid: [GROUPS, 1, 1], workgroup: [1, 1, 1] });
}

describe('rendered kernels compute what the interpreter computes', () => {
  for (const lanes of [1, 2, 4, 8, 16] as const) {
    it(`every op on every type with ${lanes} lanes`, async () => {
      const kernels = scalarTypes.map((scalar) => everyOp(scalar, lanes));
      for (const seed of [1, 2, 3, 4, 5]) await expectEqualToInterpreter(kernels, seed);
    });
  }

  it('every f16 and bf16 value through loads, stores and conversions', async () => {
    const kernels = (['f16', 'bf16'] as const).flatMap((scalar) =>
      ([1, 4, 8, 16] as const).map((lanes) => {
        const k = new KernelBuilder();
        const from = k.buffer('from', 'u16', 65536, 'read');
        const index = k.mulc(k.builtin('workgroup_id', 0, 65536 / lanes), lanes);
        const value = k.bitcast(k.load(from, index, lanes, true), ktype(scalar, lanes));
        const wide = k.convert(value, 'f32');
        k.store(k.buffer('same', scalar, 65536, 'write'), index, value, true);
        k.store(k.buffer('wide', 'f32', 65536, 'write'), index, wide, true);
        // Between two neighbours: ties and what lies beside them.
        const number = k.select(k.compare('eq', wide, wide), wide, k.constant(0, 'f32', lanes));
        const bits = k.bitcast(number, ktype('u32', lanes));
        for (const [name, delta] of [
          ['tie', 0x1000],
          ['above', 0x1001],
          ['below', 0xfff],
          ['bfTie', 0x8000],
          ['bfAbove', 0x8001],
        ] as const) {
          const near = k.bitcast(k.addc(bits, delta), ktype('f32', lanes));
          k.store(k.buffer(name, scalar, 65536, 'write'), index, k.convert(near, scalar), true);
        }
        return k.finish({ name: `round_${scalar}x${lanes}`, grid: [65536 / lanes, 1, 1], workgroup: [1, 1, 1] });
      }),
    );
    const input = new Uint8Array(new Uint16Array(65536).map((_, i) => i).buffer);
    const work = kernels.map((kernel) => ({
      kernel,
      data: buffersOf(kernel).map((b, i) => (i === 0 ? input.slice() : new Uint8Array(bytesOf(b)))),
    }));
    const expected = work.map(({ kernel, data }) => {
      const copies = data.map((bytes) => bytes.slice());
      interpret(kernel, copies);
      return copies;
    });
    await runOn(device, work);
    work.forEach(({ kernel, data }, k) => {
      buffersOf(kernel).forEach((buffer, i) => {
        expect(canonical(buffer.scalar, data[i]), `${kernel.name}.${buffer.name}`).toEqual(
          canonical(buffer.scalar, expected[k][i]),
        );
      });
    });
  });

  it('loads of neighbours under conditions of their own, on narrower numbers than they are', async () => {
    const [trips, unrolled] = [16, 4];
    const length = trips * unrolled;
    const kernels = (['i16', 'f16', 'i32', 'f32', 'i64', 'f64'] as const).flatMap((scalar) =>
      (['bool', 'u8', 'i16', 'i32'] as const).map((mask) => {
        const k = new KernelBuilder();
        const flags = k.buffer('flags', mask, length, 'read');
        const input = k.buffer('in', scalar, length, 'read');
        const out = k.buffer('out', scalar, length, 'write');
        k.for(0, trips, 1, [], (trip) => {
          for (let lane = 0; lane < unrolled; lane++) {
            const at = k.addc(k.mulc(trip, unrolled), lane);
            const flag = k.load(flags, at);
            const chosen = mask === 'bool' ? flag : k.compare('gt', k.convert(flag, 'i32'), k.constant(3));
            const [value] = k.if(
              chosen,
              () => [k.load(input, at)],
              () => [k.constant(0, scalar)],
            );
            k.store(out, at, value);
          }
        });
        return k.finish({ name: `chosen_${scalar}_${mask}`, grid: [1, 1, 1], workgroup: [1, 1, 1] });
      }),
    );
    for (const seed of [1, 2, 3]) await expectEqualToInterpreter(kernels, seed);
  });

  it('control flow: loops, ifs, carried values that swap, wrapping and descending bounds', async () => {
    const kernels: KernelFunction[] = [];
    for (const lanes of [1, 8] as const) {
      const k = new KernelBuilder();
      const input = k.buffer('in', 'i32', 64 * lanes, 'read');
      const out = k.buffer('out', 'i32', 64 * lanes, 'write');
      const flags = k.buffer('flags', 'bool', 64 * lanes, 'write');
      const id = k.builtin('workgroup_id', 0, 64);
      const value = k.load(input, k.mulc(id, lanes), lanes, true);
      const start = k.compare('lt', k.splat(k.convert(id, 'f64'), lanes), k.constant(20, 'f64', lanes));
      const [x, y, flag] = k.for(id, 70, 3, [value, k.constant(1, 'i32', lanes), start], (i, [p, q, r]) => {
        const [next] = k.if(
          k.compare('lt', i, k.constant(40)),
          () => [k.add(p, k.splat(i, lanes))],
          () => [k.sub(p, q)],
        );
        return [q, next, k.binary('xor', r, k.compare('gt', next, p))];
      });
      const [count, z] = k.loop([k.constant(0), x], ([n, v]) => {
        const more = k.addc(n, 1);
        return { condition: k.compare('lt', more, k.remc(id, 7)), next: [more, k.mul(k.addc(v, 3), y)] };
      });
      k.if(k.compare('ne', k.remc(id, 5), k.constant(2)), () => {
        k.store(out, k.mulc(id, lanes), k.add(z, k.splat(count, lanes)), true);
      });
      k.store(flags, k.mulc(id, lanes), flag);
      kernels.push(k.finish({ name: `control_x${lanes}`, grid: [64, 1, 1], workgroup: [1, 1, 1] }));
    }
    for (const scalar of ['i8', 'u8', 'i32', 'u32'] as const) {
      const k = new KernelBuilder();
      const top = 2 ** (scalarBits[scalar] - (scalar.startsWith('i') ? 1 : 0)) - 1;
      const literal = (v: number) => k.constant(v, scalar);
      const out = k.buffer('out', scalar, 1, 'write');
      const [sum] = k.for(literal(top - 9), literal(top), 4, [literal(0)], (i, [s]) => [
        k.add(k.mul(s, literal(3)), i),
      ]);
      k.store(out, k.constant(0), sum);
      kernels.push(k.finish({ name: `bounds_${scalar}`, grid: [1, 1, 1], workgroup: [1, 1, 1] }));
    }
    await expectEqualToInterpreter(kernels);
  });

  it('loops over 64-bit integers end at the top of the type', async () => {
    for (const scalar of ['i64', 'u64'] as const) {
      const k = new KernelBuilder();
      const top = scalar === 'i64' ? 2n ** 63n - 1n : 2n ** 64n - 1n;
      const literal = (v: bigint) => k.constant(v, scalar);
      const out = k.buffer('out', scalar, 1, 'write');
      const [sum] = k.for(literal(top - 9n), literal(top), 4, [literal(0n)], (i, [s]) => [
        k.add(k.mul(s, literal(3n)), i),
      ]);
      k.store(out, k.constant(0), sum);
      const data = [new Uint8Array(8)];
      await runOn(device, [
        { kernel: k.finish({ name: `bounds_${scalar}`, grid: [1, 1, 1], workgroup: [1, 1, 1] }), data },
      ]);
      const expected = BigInt.asUintN(64, 9n * (top - 9n) + 3n * (top - 5n) + (top - 1n));
      expect(new DataView(data[0].buffer).getBigUint64(0, true)).toBe(expected);
    }
  });

  it('grids in three dimensions, helpers, shared and private arrays, atomics', async () => {
    const k = new KernelBuilder();
    const [gx, gy, gz] = [5, 3, 4];
    const input = k.buffer('in', 'f32', gx * gy * gz, 'read');
    const out = k.buffer('out', 'f32', gx * gy * gz, 'write');
    const counts = k.buffer('counts', 'i32', 8, 'readwrite');
    const wide = k.buffer('wide', 'u32', 8, 'readwrite');
    const shared = k.array('shared', 'shared', 'f32', 40);
    const large = k.array('large', 'private', 'bf16', 20000);
    const small = k.array('small', 'private', 'bool', 7);
    const [x, y, z] = [
      k.builtin('workgroup_id', 0, gx),
      k.builtin('workgroup_id', 1, gy),
      k.builtin('workgroup_id', 2, gz),
    ];
    const index = k.add(x, k.mulc(k.add(y, k.mulc(z, gy)), gx));
    const value = k.load(input, index);
    k.for(0, 40, 1, [], (i) => k.store(shared, i, k.binary('mul', value, k.convert(i, 'f32'))));
    k.barrier();
    k.store(large, k.addc(index, 19000), k.convert(value, 'bf16'));
    k.store(small, k.remc(index, 7), k.compare('gt', value, k.constant(0, 'f32')));
    const clamped = k.call('clamp', [value, k.constant(-3, 'f32')], ktype('f32'), ([v, low]) =>
      k.binary('max', v, low),
    );
    const sum = k.binary('add', k.load(shared, k.remc(index, 40)), clamped);
    const read = k.select(k.load(small, k.remc(index, 7)), k.convert(k.load(large, k.addc(index, 19000)), 'f32'), sum);
    k.store(out, index, k.binary('add', read, sum));
    const slot = (n: number) => k.constant(n);
    k.atomic('add', counts, slot(0), index);
    k.atomic('min', counts, slot(1), k.sub(k.constant(7), index));
    k.atomic('max', counts, slot(2), index);
    k.atomic('xor', counts, slot(3), index);
    k.atomic('or', wide, slot(0), k.convert(index, 'u32'));
    k.atomic('and', wide, slot(1), k.constant(0xfffffff7, 'u32'));
    k.atomic('max', wide, slot(2), k.constant(0x80000001, 'u32'));
    k.compareExchange(wide, slot(3), k.constant(123, 'u32'), k.constant(5, 'u32'));
    const kernel = k.finish({ name: 'arrays', sources: ['Node_7 */ evil'], grid: [gx, gy, gz], workgroup: [1, 1, 1] });
    await expectEqualToInterpreter([kernel]);
  });

  it('random expressions', async () => {
    const lanesOf = fc.constantFrom<Lanes>(1, 4, 16);
    const step = fc.record({
      op: fc.nat(11),
      a: fc.nat(63),
      b: fc.nat(63),
      c: fc.nat(63),
      type: fc.nat(scalarTypes.length - 1),
      n: fc.nat(31),
    });
    const program = fc.record({ lanes: lanesOf, steps: fc.array(step, { minLength: 4, maxLength: 30 }) });
    let batch: KernelFunction[] = [];
    const programs = fc.sample(program, { numRuns: 150, seed: 20240607 });
    for (const [number, { lanes, steps }] of programs.entries()) {
      const k = new KernelBuilder();
      const length = 8 * lanes;
      const index = k.mulc(k.builtin('workgroup_id', 0, 8), lanes);
      const pool = scalarTypes.map((scalar) =>
        k.load(k.buffer(`in_${scalar}`, scalar, length, 'read'), index, lanes, true),
      );
      const pick = (i: number) => pool[i % pool.length];
      const pickLike = (i: number, like: KValue) => {
        const same = pool.filter((v) => v.type.scalar === like.type.scalar);
        return same[i % same.length];
      };
      for (const s of steps) {
        const a = pick(s.a);
        const { scalar } = a.type;
        const b = pickLike(s.b, a);
        const condition = pool.filter((v) => v.type.scalar === 'bool')[
          s.c % pool.filter((v) => v.type.scalar === 'bool').length
        ];
        const float = isFloatScalar(scalar);
        const arithmetic = ['add', 'sub', 'mul', 'min', 'max'] as const;
        const logic = ['and', 'or', 'xor'] as const;
        if (s.op < 4)
          pool.push(scalar === 'bool' ? k.binary(logic[s.n % 3], a, b) : k.binary(arithmetic[s.n % 5], a, b));
        else if (s.op === 4) pool.push(k.compare((['eq', 'ne', 'lt', 'le', 'gt', 'ge'] as const)[s.n % 6], a, b));
        else if (s.op === 5) pool.push(k.select(condition, a, b));
        else if (s.op < 8) pool.push(k.convert(a, scalarTypes[s.type]));
        else if (s.op === 8)
          pool.push(
            float
              ? k.fma(a, b, pickLike(s.c, a))
              : scalar === 'bool'
                ? k.unary('not', a)
                : k.binary(logic[s.n % 3], a, b),
          );
        else if (s.op === 9 && scalar !== 'bool')
          pool.push(
            float
              ? k.unary((['floor', 'ceil', 'trunc', 'round', 'sqrt'] as const)[s.n % 5], a)
              : k.binary(s.n % 2 ? 'shl' : 'shr', a, k.constant(s.n % scalarBits[scalar], scalar, lanes)),
          );
        else if (s.op === 10)
          pool.push(
            k.if(
              lanes === 1 ? condition : k.extract(condition, s.n % lanes),
              () => [a],
              () => [b],
            )[0],
          );
        else if (scalar !== 'bool')
          pool.push(
            k.for(0, (s.n % 3) + 2, 1, [a, b], (_, [p, q]) => [q, float ? k.binary('sub', p, q) : k.sub(p, q)])[1],
          );
      }
      const seen = new Set(scalarTypes.map((_, i) => pool[i]));
      pool
        .filter((v) => !seen.has(v))
        .slice(-12)
        .forEach((value, i) => {
          k.store(k.buffer(`out_${i}`, value.type.scalar, length, 'write'), index, value, true);
        });
      batch.push(k.finish({ name: `random_${number}`, grid: [8, 1, 1], workgroup: [1, 1, 1] }));
      if (batch.length === 25) {
        await expectEqualToInterpreter(batch, number);
        batch = [];
      }
    }
  });
});

// --- the driver ----------------------------------------------------------------------------------------------------

/** out[i] = in[i] * factor + 1 over `length` elements, 16 a workgroup. */
function affine(length: number, factor = 3, name = 'affine'): KernelFunction {
  const k = new KernelBuilder();
  const input = k.buffer('in', 'i32', length, 'read');
  const out = k.buffer('out', 'i32', length, 'write');
  const index = k.mulc(k.builtin('workgroup_id', 0, length / 16), 16);
  k.store(out, index, k.addc(k.mulc(k.load(input, index, 16, true), factor), 1), true);
  return k.finish({ name, grid: [length / 16, 1, 1], workgroup: [1, 1, 1] });
}

const code = (kernel: KernelFunction) => cpuBackend.render(kernel, device.target);
const asBytes = (array: Int32Array) => new Uint8Array(array.buffer);

async function openHere(options: { cacheDirectory?: string; threads?: number } = {}): Promise<Device> {
  return (await cpuBackend.driver({ cacheDirectory: folder, ...options })).open('cpu');
}

describe('driver', () => {
  it('describes the device', async () => {
    const driver = await cpuBackend.driver({});
    const [info] = await driver.enumerate();
    expect(info).toMatchObject({ id: 'cpu', backend: 'cpu', virtual: false, software: false });
    expect(info.memoryBytes).toBeGreaterThan(2 ** 28);
    expect(info.limits.cores).toBeGreaterThan(0);
    expect(cpuBackend.describe(info)).toEqual(device.target);
    await expect(driver.open('cpu:1')).rejects.toMatchObject({ code: 'E_DEVICE_UNKNOWN' });
    await expect((await cpuBackend.driver({ threads: 0 })).open('cpu')).rejects.toMatchObject({ code: 'E_USAGE' });
  });

  it('names the kernel that the compiler refuses', async () => {
    const good = code(affine(16));
    const broken: KernelCode = {
      ...good,
      name: 'broken_one',
      entry: 'tutti_broken',
      text: 'void tutti_broken(void) { nonsense; }',
    };
    await expect(device.loadKernels([code(affine(16, 5)), broken])).rejects.toMatchObject({
      code: 'E_KERNEL',
      message: expect.stringMatching(/broken_one.*nonsense/s),
    });
  });

  it('reuses compiled kernels, and replaces damaged ones', async () => {
    const cache = mkdtempSync(join(tmpdir(), 'tutti-cpu-cache-'));
    const kernels = [affine(64, 7), affine(64, 11), affine(64, 13)].map(code);
    const objects = () =>
      readdirSync(join(cache, 'cpu'))
        .filter((name) => name.endsWith('.so'))
        .sort();
    const check = async () => {
      const fresh = await openHere({ cacheDirectory: cache, threads: 1 });
      const loaded = await fresh.loadKernels([...kernels, kernels[0]]);
      const [a, b] = [fresh.allocate(256), fresh.allocate(256)];
      const bind = [a, b].map((buffer) => ({ buffer, offset: 0, bytes: 256 }));
      const list = await fresh.record([{ kind: 'dispatch', kernel: loaded[1], grid: [4, 1, 1], bindings: bind }]);
      const into = new Int32Array(64);
      await fresh.queue.submit({
        list,
        writes: [{ to: bind[0], data: asBytes(new Int32Array(64).fill(2)) }],
        reads: [{ from: bind[1], into: asBytes(into) }],
      });
      expect(into.every((value) => value === 23)).toBe(true);
      await fresh.close();
    };
    await check();
    const first = objects();
    expect(readdirSync(join(cache, 'cpu')).some((name) => name.startsWith('tmp'))).toBe(false);
    const contents = readFileSync(join(cache, 'cpu', first[0]));
    await check();
    expect(objects()).toEqual(first);
    for (const name of first) truncateSync(join(cache, 'cpu', name), 100);
    await check();
    for (const name of first) writeFileSync(join(cache, 'cpu', name), Buffer.alloc(contents.length, 1));
    await check();
    for (const name of readdirSync(join(cache, 'cpu')))
      if (name.endsWith('.kernel')) writeFileSync(join(cache, 'cpu', name), '../../evil');
    await check();
    expect(readFileSync(join(cache, 'cpu', objects()[0])).length).toBeGreaterThan(1000);
    rmSync(cache, { recursive: true });
  });

  it('gives the same result for any number of threads', async () => {
    const length = 16 * 1000;
    const data = new Int32Array(length).map((_, i) => i * 977);
    for (const threads of [1, 2, 3, 8]) {
      const fresh = await openHere({ threads });
      const [kernel] = await fresh.loadKernels([code(affine(length))]);
      const [a, b] = [fresh.allocate(4 * length), fresh.allocate(4 * length)];
      const bind = [a, b].map((buffer) => ({ buffer, offset: 0, bytes: 4 * length }));
      const list = await fresh.record(
        Array.from(
          { length: 50 },
          (_, i): Command => ({
            kind: 'dispatch',
            kernel,
            grid: [1000, 1, 1],
            bindings: i % 2 ? [bind[1], bind[0]] : bind,
          }),
        ),
      );
      const into = new Int32Array(length);
      for (let round = 0; round < 20; round++) {
        await fresh.queue.submit({
          list,
          writes: [{ to: bind[0], data: asBytes(data) }],
          reads: [{ from: bind[0], into: asBytes(into) }],
        });
      }
      let [factor, bias] = [1, 0];
      for (let i = 0; i < 50; i++) [factor, bias] = [Math.imul(factor, 3), (Math.imul(bias, 3) + 1) | 0];
      expect(into.every((value, i) => value === ((Math.imul(data[i], factor) + bias) | 0))).toBe(true);
      await fresh.close();
    }
  });

  it('says in words that there is no compiler', async () => {
    const [path, cc] = [process.env.PATH, process.env.CC];
    process.env.PATH = folder;
    delete process.env.CC;
    try {
      const driver = await cpuBackend.driver({});
      const answer = await driver.probe();
      expect(answer).toMatchObject({
        ok: false,
        reason: expect.stringMatching(/no C compiler found.*cc \(ENOENT\).*install/),
      });
      expect(await driver.enumerate()).toEqual([]);
      await expect(driver.open('cpu')).rejects.toMatchObject({ code: 'E_DEVICE' });
    } finally {
      process.env.PATH = path;
      if (cc !== undefined) process.env.CC = cc;
    }
  });

  it('compiles sixty kernels cold in seconds', async () => {
    const fresh = await (await cpuBackend.driver({})).open('cpu');
    const kernels = Array.from({ length: 60 }, (_, i) => code(affine(4096, i + 2, `layer_${i}`)));
    const started = performance.now();
    await fresh.loadKernels(kernels);
    expect(performance.now() - started).toBeLessThan(6000);
    await fresh.close();
  });
});
