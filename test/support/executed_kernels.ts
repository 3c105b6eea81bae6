/** Kernels whose results tests compare with the interpreter's: control flow, memories, atomics, subgroups. */
import { KernelBuilder } from '../../compiler/kernel/builder.js';
import { isFloatScalar, type KernelFunction, type KValue, ktype, type Lanes } from '../../compiler/kernel/types.js';
import { encode, type NumberType } from './kernel_data.js';

/** Loops of all kinds with swapped values, conditions that are carried, ends near the type's. */
export function loops(): KernelFunction {
  const b = new KernelBuilder();
  const x = b.buffer('x', 'i32', 64, 'read');
  const out = b.buffer('out', 'i32', 512, 'write');
  const limit = b.scalar('limit', 'i32');
  const lane = b.builtin('local_id', 0, 64);
  const value = b.and(b.load(x, lane), b.constant(15));
  const keep = (slot: number, v: KValue): void => b.store(out, b.addc(lane, 64 * slot), v);
  const [p, q, r] = b.for(value, limit, 3, [b.constant(1), b.constant(2), value], (i, [s, t, u]) => [
    t,
    u,
    b.add(s, i),
  ]);
  keep(0, p);
  keep(1, q);
  keep(2, r);
  const [last, flag] = b.loop([value, b.compare('lt', value, b.constant(9))], ([v, go]) => {
    const next = b.addc(v, 1);
    return { condition: go, next: [next, b.compare('lt', next, b.constant(12))] };
  });
  keep(3, b.select(flag, last, b.unary('neg', last)));
  const end = b.constant(2 ** 31 - 1);
  const [trips] = b.for(b.sub(end, value), end, 7, [b.constant(0)], (_, [n]) => [b.addc(n, 1)]);
  keep(4, trips);
  const [chosen] = b.if(
    b.compare('gt', value, b.constant(7)),
    () => b.for(0, value, 1, [value], (i, [s]) => [b.binary('xor', b.mulc(s, 3), i)]),
    () =>
      b.if(
        b.compare('eq', b.and(value, b.constant(1)), b.constant(0)),
        () => [limit],
        () => [b.constant(-1)],
      ),
  );
  keep(5, chosen);
  const own = b.array('own', 'private', 'i32', 8);
  const fixed = b.array('fixed', 'private', 'i32', 8);
  b.for(0, 8, 1, [], (i) => void b.store(own, b.binary('and', b.add(i, value), b.constant(7)), b.mul(i, value)));
  b.for(0, 8, 1, [], (i) => void b.store(fixed, i, b.add(i, value)), { unroll: true });
  const before = b.load(fixed, b.constant(3));
  b.store(fixed, b.constant(3), b.constant(100));
  const [sum] = b.for(0, 8, 2, [before], (i, [s]) => [b.add(b.mulc(s, 3), b.add(b.load(own, i), b.load(fixed, i)))], {
    unroll: true,
  });
  keep(6, sum);
  keep(
    7,
    b.call(
      'halve',
      [sum, value],
      ktype('i32'),
      ([s, v]) =>
        b.if(
          b.compare('lt', s, v),
          () => [s],
          () => [b.binary('shr', s, b.constant(1))],
        )[0],
    ),
  );
  return b.finish({ name: 'loops', grid: [1, 1, 1], workgroup: [64, 1, 1] });
}

/** Shared memory, barriers in a loop, atomics on both memories. */
export function sharing(): KernelFunction {
  const b = new KernelBuilder();
  const x = b.buffer('x', 'u32', 1024, 'read');
  const out = b.buffer('out', 'u32', 16, 'readwrite');
  const sums = b.buffer('sums', 'u32', 4, 'write');
  const tile = b.array('tile', 'shared', 'u32', 256);
  const counters = b.array('counters', 'shared', 'i32', 4);
  const lane = b.builtin('local_id', 0, 256);
  const group = b.builtin('workgroup_id', 0, 4);
  const value = b.load(x, b.add(b.mulc(group, 256), lane));
  b.store(tile, lane, value);
  b.if(b.compare('lt', lane, b.constant(4)), () => void b.store(counters, lane, b.constant(0)));
  b.barrier();
  b.atomic('add', counters, b.and(lane, b.constant(3)), b.constant(2));
  b.for(0, 8, 1, [], (i) => {
    const stride = b.binary('shr', b.constant(128), i);
    b.if(b.compare('lt', lane, stride), () => {
      b.store(tile, lane, b.add(b.load(tile, lane), b.load(tile, b.add(lane, stride))));
    });
    b.barrier();
  });
  b.if(b.compare('eq', lane, b.constant(0)), () => {
    const count = b.convert(b.load(counters, b.constant(3)), 'u32');
    b.store(sums, group, b.add(b.load(tile, b.constant(0)), count));
  });
  const atomics = ['add', 'min', 'max', 'and', 'or', 'xor'] as const;
  for (const [i, fn] of atomics.entries()) b.atomic(fn, out, b.constant(i), value);
  b.compareExchange(out, b.constant(8), b.constant(0, 'u32'), b.constant(77, 'u32'));
  return b.finish({ name: 'sharing', grid: [4, 1, 1], workgroup: [256, 1, 1] });
}

/** Integer reductions and shuffles, by all lanes and by some. */
export function subgroups(scalar: 'i32' | 'u32' | 'i64' | 'f32' | 'f64'): KernelFunction {
  const b = new KernelBuilder();
  const x = b.buffer('x', scalar, 64, 'read');
  const out = b.buffer('out', scalar, 64 * 16, 'write');
  const lane = b.builtin('local_id', 0, 64);
  const value = b.load(x, lane);
  let slot = 0;
  const keep = (v: KValue): void => b.store(out, b.addc(lane, 64 * slot++), v);
  for (const fn of ['min', 'max', 'broadcast_first', 'shuffle_xor'] as const) keep(b.subgroup(fn, value, 5));
  if (!isFloatScalar(scalar)) keep(b.subgroup('add', value));
  b.if(b.compare('gt', b.and(lane, b.constant(7)), b.constant(4)), () => {
    for (const fn of ['min', 'max', 'broadcast_first', 'add'] as const) keep(b.subgroup(fn, value));
  });
  return b.finish({ name: 'subgroups', grid: [1, 1, 1], workgroup: [64, 1, 1], subgroupSize: 32 });
}

/** Accesses of every width, aligned and not, through buffers and arrays of every kind. */
export function accesses(scalar: NumberType, lanes: Lanes): KernelFunction {
  const b = new KernelBuilder();
  const x = b.buffer('x', scalar, 512, 'read');
  const out = b.buffer('out', scalar, 2048, 'readwrite');
  const lane = b.builtin('local_id', 0, 16);
  const index = b.mulc(lane, 4);
  const v = b.load(x, b.addc(index, 128), lanes, true);
  const odd = b.load(x, b.addc(b.mulc(lane, 3), 1), lanes);
  for (const [i, space] of (['shared', 'private'] as const).entries()) {
    const array = b.array(space, space, scalar, 80);
    b.store(array, index, v, true);
    const back = b.load(array, index, lanes, true);
    b.store(array, b.addc(index, 1), odd);
    b.store(out, b.addc(b.mulc(lane, 8), 256 * i), back, true);
    b.store(out, b.addc(b.mulc(lane, 8), 256 * i + 5), b.extract(b.load(array, b.addc(index, 1), lanes), lanes - 1));
    b.barrier();
  }
  b.store(out, b.addc(b.mulc(lane, 5), 1025), odd);
  return b.finish({ name: `access_${scalar}_${lanes}`, grid: [1, 1, 1], workgroup: [16, 1, 1] });
}

/** Words taken apart as elements of each of `types`, turned round and put together again. */
export function bitcasts(types: readonly NumberType[]): KernelFunction {
  const b = new KernelBuilder();
  const x = b.buffer('x', 'u32', 1024, 'read');
  const out = b.buffer('out', 'u32', 8192, 'write');
  const index = b.mulc(b.builtin('local_id', 0, 32), 4);
  const value = b.load(x, index, 4, true);
  const widths = [
    ['i8', 16],
    ['u16', 8],
    ['f16', 8],
    ['i16', 8],
    ['f32', 4],
    ['i64', 2],
    ['f64', 2],
  ] as const;
  let slot = 0;
  for (const [scalar, lanes] of widths) {
    if (!types.includes(scalar)) continue;
    if (lanes > 4) {
      for (let k = 0; k < 4; k++) {
        const part = b.bitcast(b.extract(value, k), ktype(scalar, (lanes / 4) as Lanes));
        const reversed = b.build(Array.from({ length: lanes / 4 }, (_, i) => b.extract(part, lanes / 4 - 1 - i)));
        b.store(out, b.addc(index, 128 * slot++), b.bitcast(reversed, ktype('u32')));
      }
      continue;
    }
    const part = b.bitcast(value, ktype(scalar, lanes));
    const reversed = b.build(Array.from({ length: lanes }, (_, i) => b.extract(part, lanes - 1 - i)));
    b.store(out, b.addc(index, 128 * slot++), b.bitcast(reversed, ktype('u32', 4)), true);
  }
  return b.finish({ name: 'bitcasts', grid: [1, 1, 1], workgroup: [32, 1, 1] });
}

/** What one invocation writes to global memory and its neighbours read behind a barrier. */
export function exchanging(): KernelFunction {
  const b = new KernelBuilder();
  const x = b.buffer('x', 'i32', 256, 'read');
  const out = b.buffer('out', 'i32', 256, 'readwrite');
  const lane = b.builtin('local_id', 0, 64);
  const base = b.mulc(b.builtin('workgroup_id', 0, 4), 64);
  const index = b.add(base, lane);
  b.store(out, index, b.load(x, index));
  for (const distance of [1, 7, 32]) {
    b.barrier();
    const other = b.load(out, b.add(base, b.remc(b.addc(lane, distance), 64)));
    b.barrier();
    b.store(out, index, b.add(b.load(out, index), b.binary('xor', other, lane)));
  }
  return b.finish({ name: 'exchanging', grid: [4, 1, 1], workgroup: [64, 1, 1] });
}

/** Helpers that call helpers, scalars of two types and a grid of three dimensions; `x` has 240 elements. */
export function gridOfThree(): KernelFunction {
  const b = new KernelBuilder();
  const x = b.buffer('x', 'f32', 240, 'read');
  const out = b.buffer('out', 'f32', 240, 'write');
  const [bias, limit] = [b.scalar('bias', 'i32'), b.scalar('limit', 'u32')];
  const at = (dim: 0 | 1 | 2, groups: number, size: number): KValue =>
    b.add(b.mulc(b.builtin('workgroup_id', dim, groups), size), b.builtin('local_id', dim, size));
  const [i, j, k] = [at(0, 2, 4), at(1, 3, 2), at(2, 5, 1)];
  const index = b.add(b.mulc(b.add(b.mulc(k, 6), j), 8), i);
  const square = (v: KValue): KValue => b.call('square', [v], ktype('f32'), ([p]) => b.mul(p, p));
  const guarded = b.call('guarded', [b.load(x, index)], ktype('f32'), ([p]) => {
    const [r] = b.if(
      b.compare('lt', p, b.constant(0, 'f32')),
      () => [square(p)],
      () => [b.unary('sqrt', square(p))],
    );
    return r;
  });
  const shifted = b.add(guarded, b.convert(b.add(bias, b.convert(limit, 'i32')), 'f32'));
  b.store(out, index, b.select(b.compare('gt', b.convert(index, 'u32'), limit), shifted, b.convert(index, 'f32')));
  return b.finish({ name: 'grid', grid: [2, 3, 5], workgroup: [4, 2, 1] });
}

/** Bools in memory of every kind: 64 of them, in bytes if the target has memory of bools, else in words. */
export function flags(bytes: boolean): KernelFunction {
  const n = 64;
  const b = new KernelBuilder();
  const x = b.buffer('x', bytes ? 'bool' : 'u32', n, 'read');
  const out = b.buffer('out', 'u32', n, 'write');
  const shared = b.array('flags', 'shared', 'bool', n);
  const lane = b.builtin('local_id', 0, n);
  const flag = b.convert(b.load(x, lane), 'bool');
  b.store(shared, lane, b.unary('not', flag));
  b.barrier();
  const other = b.load(shared, b.binary('xor', lane, b.constant(1)));
  b.store(out, lane, b.convert(b.or(b.and(flag, other), b.binary('xor', flag, other)), 'u32'));
  return b.finish({ name: 'flags', grid: [1, 1, 1], workgroup: [n, 1, 1] });
}

export const gridData = encode(
  'f32',
  Array.from({ length: 240 }, (_, n) => (n % 16) - 8),
);
export const flagData = (bytes: boolean): Uint8Array =>
  encode(
    bytes ? 'u8' : 'u32',
    Array.from({ length: 64 }, (_, i) => ((i * 5) % 7 < 3 ? 1 : 0)),
  );
