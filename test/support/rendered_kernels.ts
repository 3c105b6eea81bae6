/** Kernels that tests of renderers render: every op by type, all control flow, what takes long. */
import { KernelBuilder } from '../../compiler/kernel/builder.js';
import {
  type BinaryFn,
  isFloatScalar,
  isIntScalar,
  type KernelFunction,
  type KValue,
  ktype,
  type Lanes,
  scalarBits,
  type UnaryFn,
} from '../../compiler/kernel/types.js';
import type { NumberType } from './kernel_data.js';

/** Every op that a type has, on values of `lanes`. */
export function everyOpOn(scalar: NumberType, lanes: Lanes, others: readonly NumberType[]): KernelFunction {
  const b = new KernelBuilder();
  const x = b.buffer('x', scalar, 64, 'read');
  const y = b.buffer('y', scalar, 64, 'read');
  const out = b.buffer('out', scalar, 8192, 'readwrite');
  const words = b.buffer('words', 'u32', 8192, 'readwrite');
  const index = b.mulc(b.builtin('local_id', 0, 8), lanes);
  const [p, q] = [b.load(x, index, lanes, true), b.load(y, index, lanes, false)];
  let slot = 0;
  const keep = (value: KValue): void => b.store(out, b.addc(index, 64 * slot++), value, slot % 2 === 0);
  const float = isFloatScalar(scalar);
  const unary: UnaryFn[] = float
    ? ['neg', 'abs', 'floor', 'ceil', 'round', 'trunc', 'sqrt']
    : ['neg', 'abs', 'not', 'popcount', 'clz'];
  const binary: BinaryFn[] = float
    ? ['add', 'sub', 'mul', 'div', 'rem', 'min', 'max']
    : ['add', 'sub', 'mul', 'div', 'rem', 'min', 'max', 'and', 'or', 'xor', 'shl', 'shr'];
  if (scalar === 'i32' || scalar === 'u32') binary.push('mulhi');
  const two = b.constant(isIntScalar(scalar) && scalarBits[scalar] === 64 ? 2n : 2, scalar, lanes);
  for (const fn of unary) for (const operand of [p, two]) keep(b.unary(fn, operand));
  for (const fn of binary) {
    keep(b.binary(fn, p, q));
    keep(b.binary(fn, p, two));
    if (fn !== 'shl' && fn !== 'shr') keep(b.binary(fn, two, q));
  }
  if (float) {
    keep(b.fma(p, q, p));
    keep(b.fma(two, q, two));
    for (const special of [Number.NaN, Number.POSITIVE_INFINITY, -0])
      keep(b.add(p, b.constant(special, scalar, lanes)));
    keep(b.binary('add', b.binary('mul', p, q, true), p, true));
  }
  let flag = b.compare('eq', p, q);
  for (const fn of ['ne', 'lt', 'le', 'gt', 'ge'] as const) flag = b.binary('xor', flag, b.compare(fn, p, q));
  flag = b.select(b.compare('lt', p, two), flag, b.constant(true, 'bool', lanes));
  keep(b.select(flag, p, q));
  keep(b.select(b.extract(flag, 0), p, two));
  for (const other of others) {
    keep(b.convert(b.convert(p, other), scalar));
    keep(b.convert(b.constant(other === 'i64' || other === 'u64' ? 1n : 1, other, lanes), scalar));
    const count = (scalarBits[scalar] * lanes) / scalarBits[other];
    if (count === 1 || count === 2 || count === 4) {
      for (const value of [p, two]) {
        const cast = b.bitcast(value, ktype(other, count));
        const moved = isFloatScalar(other) ? cast : b.unary('not', cast);
        keep(b.bitcast(moved, ktype(scalar, lanes)));
      }
    }
  }
  keep(b.convert(b.convert(p, 'bool'), scalar));
  b.store(words, index, b.convert(flag, 'u32'), true);
  if (lanes > 1) keep(b.build(Array.from({ length: lanes }, (_, lane) => b.extract(p, lanes - 1 - lane))));
  keep(b.splat(b.extract(q, 0), lanes));
  const tile = b.array('tile', 'shared', scalar, 8 * lanes);
  const own = b.array('own', 'private', scalar, 8 * lanes);
  for (const memory of [tile, own]) {
    b.store(memory, index, p, true);
    b.barrier();
    keep(b.load(memory, index, lanes, true));
  }
  return b.finish({ name: `every_${scalar}_${lanes}`, grid: [1, 1, 1], workgroup: [8, 1, 1] });
}

/** Every subgroup op, by all lanes and by some. */
export function subgroupsOn(scalar: NumberType, lanes: Lanes): KernelFunction {
  const b = new KernelBuilder();
  const x = b.buffer('x', scalar, 512, 'readwrite');
  const lane = b.builtin('subgroup_lane', 0, 32);
  const index = b.mulc(b.add(lane, b.builtin('subgroup_size', 0, 33)), lanes);
  const value = b.load(x, index, lanes);
  for (const fn of ['add', 'min', 'max', 'broadcast', 'broadcast_first', 'shuffle_xor', 'shuffle_down'] as const) {
    const whole = b.subgroup(fn, value, 3);
    b.store(x, index, whole);
    b.if(b.compare('lt', lane, b.constant(11)), () => {
      b.store(x, index, b.subgroup(fn, b.max(whole, value), 1));
    });
  }
  return b.finish({ name: `subgroup_${scalar}_${lanes}`, grid: [1, 1, 1], workgroup: [64, 1, 1], subgroupSize: 32 });
}

/** Nested control flow, every memory, scalars, atomics and a helper; `subgroups` of 32 if asked. */
export function controlAndMemory(subgroups: boolean): KernelFunction {
  const b = new KernelBuilder();
  const x = b.buffer('x', 'f32', 256, 'read');
  const out = b.buffer('out', 'i32', 256, 'readwrite');
  const [limit, bias, scale] = [b.scalar('limit', 'u32'), b.scalar('bias', 'i32'), b.scalar('scale', 'f32')];
  const tile = b.array('tile', 'shared', 'f32', 128);
  const wide = b.array('wide', 'shared', 'f32', 64);
  const flags = b.array('flags', 'private', 'bool', 4);
  const lane = b.builtin('local_id', 0, 32);
  const rows = b.builtin('local_id', 1, 2);
  const group = b.builtin('workgroup_id', 2, 3);
  b.store(wide, b.mulc(b.remc(lane, 16), 4), b.load(x, b.mulc(lane, 4), 4, true), true);
  b.store(tile, b.add(lane, rows), b.mul(b.load(x, lane), scale));
  b.barrier();
  b.store(flags, b.constant(1), b.compare('gt', b.load(tile, rows), b.constant(0, 'f32')));
  const [sum, swapped] = b.for(0, b.convert(limit, 'i32'), 3, [b.constant(0), lane], (i, [s, t]) => {
    const [chosen] = b.if(
      b.load(flags, b.constant(1)),
      () => [b.add(s, i)],
      () => b.for(i, 7, 1, [s], (j, [u]) => [b.add(u, j)]),
    );
    b.if(b.compare('eq', chosen, bias), () => {
      b.atomic('max', out, b.constant(3), chosen);
    });
    return [t, chosen];
  });
  const [done, odd] = b.loop([sum, b.compare('eq', swapped, sum)], ([v, flag]) => {
    const next = b.binary('shr', v, b.constant(1));
    return { condition: flag, next: [next, b.compare('gt', next, group)] };
  });
  const helper = b.call(
    'twice',
    [done, odd],
    ktype('i32'),
    ([p, flag]) =>
      b.if(
        b.or(flag, b.compare('lt', p, b.constant(9))),
        () => [b.mulc(p, 2)],
        () => [p],
      )[0],
  );
  const [unrolled] = b.for(0, 4, 1, [helper], (i, [v]) => [b.add(v, b.mul(i, v))], { unroll: true });
  b.compareExchange(out, lane, unrolled, helper);
  for (const fn of ['add', 'min', 'max', 'and', 'or', 'xor', 'exchange'] as const) b.atomic(fn, out, rows, unrolled);
  if (subgroups) {
    for (const fn of ['add', 'min', 'max', 'broadcast', 'broadcast_first', 'shuffle_xor', 'shuffle_down'] as const) {
      b.store(out, lane, b.add(b.subgroup(fn, done, 1), b.convert(b.subgroup(fn, b.load(tile, lane), 1), 'i32')));
    }
    b.store(out, b.builtin('subgroup_lane', 0, 32), b.builtin('subgroup_size', 0, 33));
  }
  return b.finish({
    name: 'control',
    grid: [1, 1, 3],
    workgroup: [32, 2, 1],
    ...(subgroups ? { subgroupSize: 32 } : {}),
  });
}

/** Every mathematical function, on scalars and vectors, so often that helpers become functions. */
export function mathematics(scalar: 'f16' | 'f32' | 'f64'): KernelFunction {
  const b = new KernelBuilder();
  const x = b.buffer('x', scalar, 4096, 'readwrite');
  const i = b.mulc(b.builtin('local_id', 0, 32), 4);
  const unary = [
    'exp',
    'exp2',
    'log',
    'log2',
    'sin',
    'cos',
    'tan',
    'asin',
    'acos',
    'atan',
    'sinh',
    'cosh',
    'tanh',
    'erf',
  ];
  for (const lanes of [1, 4] as const) {
    let value = b.load(x, i, lanes, true);
    for (const fn of unary) value = b.unary(fn as UnaryFn, b.unary(fn as UnaryFn, value));
    value = b.binary('pow', b.binary('atan2', value, b.binary('rem', value, b.unary('neg', value))), value);
    for (let again = 0; again < 40; again++) value = b.unary('log', b.binary('rem', value, b.unary('exp', value)));
    b.store(x, i, value, true);
  }
  return b.finish({ name: `math_${scalar}`, grid: [1, 1, 1], workgroup: [32, 1, 1] });
}

/** A product with 64 accumulators an invocation: thousands of instructions. */
export function registerTile(): KernelFunction {
  const b = new KernelBuilder();
  const x = b.buffer('x', 'f32', 1 << 20, 'read');
  const out = b.buffer('out', 'f32', 1 << 20, 'write');
  const lane = b.mulc(b.builtin('local_id', 0, 8), 8);
  const sums = b.for(0, 1024, 4, new Array(64).fill(b.constant(0, 'f32')), (k, carried) => {
    const acc = [...carried];
    for (let u = 0; u < 4; u++) {
      const a = Array.from({ length: 8 }, (_, r) => b.load(x, b.add(b.mulc(k, 8), b.constant(8 * u + r))));
      const c = Array.from({ length: 8 }, (_, r) => b.load(x, b.add(b.mulc(b.addc(k, u), 64), b.addc(lane, r))));
      for (let r = 0; r < 64; r++) acc[r] = b.add(acc[r], b.mul(a[r >> 3], c[r & 7]));
    }
    return acc;
  });
  for (const [r, sum] of sums.entries()) b.store(out, b.addc(lane, 64 * r), sum);
  return b.finish({ name: 'tile', grid: [1, 1, 1], workgroup: [8, 1, 1] });
}

/** Milliseconds to render a large register tile: the best of ten, warm, and on a machine that does other things too. */
export function renderMilliseconds(render: (kernel: KernelFunction) => unknown): number {
  const times = Array.from({ length: 10 }, () => {
    const kernel = registerTile();
    const start = performance.now();
    render(kernel);
    return performance.now() - start;
  });
  return Math.min(...times);
}
