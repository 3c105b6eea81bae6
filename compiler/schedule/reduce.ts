/** Reductions on Kernel IR values: how two combine, what is neutral, and how a vector collapses. */
import type { ReduceFn } from '../graph/types.js';
import type { KernelBuilder } from '../kernel/builder.js';
import { isFloatScalar, type KValue, type ScalarType } from '../kernel/types.js';

/** Combines two values of one type. Floats: max and min propagate NaN. */
export function combine(b: KernelBuilder, fn: ReduceFn, x: KValue, y: KValue): KValue {
  switch (fn) {
    case 'sum':
      return b.add(x, y);
    case 'prod':
      return b.mul(x, y);
    case 'max':
    case 'min':
      if (x.type.scalar === 'bool') return fn === 'max' ? b.or(x, y) : b.and(x, y);
      return b.binary(fn, x, y);
    case 'and':
    case 'or':
      return b.binary(fn, x, y);
    default:
      return fn satisfies never;
  }
}

/** The value that changes nothing when combined. */
export function identity(fn: ReduceFn, scalar: ScalarType): number | bigint | boolean {
  const wide = scalar === 'i64' || scalar === 'u64';
  switch (fn) {
    case 'sum':
      return wide ? 0n : 0;
    case 'prod':
      return wide ? 1n : 1;
    case 'max':
      return scalar === 'bool' ? false : isFloatScalar(scalar) ? Number.NEGATIVE_INFINITY : extreme(scalar)[0];
    case 'min':
      return scalar === 'bool' ? true : isFloatScalar(scalar) ? Number.POSITIVE_INFINITY : extreme(scalar)[1];
    case 'and':
      return true;
    case 'or':
      return false;
    default:
      return fn satisfies never;
  }
}

function extreme(scalar: ScalarType): readonly [number | bigint, number | bigint] {
  const bits = Number(scalar.slice(1));
  const signed = scalar.startsWith('i');
  if (bits === 64) return signed ? [-(1n << 63n), (1n << 63n) - 1n] : [0n, (1n << 64n) - 1n];
  return signed ? [-(2 ** (bits - 1)), 2 ** (bits - 1) - 1] : [0, 2 ** bits - 1];
}

/** Halves of a vector are vectors down to this; below, its lanes change places. */
const narrowest = 4;

/** One value from the lanes of a vector, halving it step by step. */
export function collapse(b: KernelBuilder, fn: ReduceFn, vector: KValue): KValue {
  const { lanes } = vector.type;
  if (lanes > narrowest) return collapseWide(b, fn, vector);
  let values = Array.from({ length: lanes }, (_, lane) => b.extract(vector, lane));
  while (values.length > 1) {
    const half = values.length / 2;
    values = Array.from({ length: half }, (_, i) => combine(b, fn, values[i], values[i + half]));
  }
  return values[0];
}

/** Of CPUs, which combine a vector of four lanes as fast as one lane. */
function collapseWide(b: KernelBuilder, fn: ReduceFn, vector: KValue): KValue {
  const lanesOf = (v: KValue, count: number, from: (i: number) => number): KValue =>
    b.build(Array.from({ length: count }, (_, i) => b.extract(v, from(i))));
  let total = vector;
  while (total.type.lanes > narrowest) {
    const [whole, half] = [total, total.type.lanes / 2];
    const [low, high] = [0, half].map((start) => lanesOf(whole, half, (i) => start + i));
    total = combine(b, fn, low, high);
  }
  for (let distance = narrowest / 2; distance >= 1; distance /= 2) {
    total = combine(
      b,
      fn,
      total,
      lanesOf(total, narrowest, (i) => i ^ distance),
    );
  }
  return b.extract(total, 0);
}

/** The type in which sums and products of `scalar` are accumulated. */
export const accumulatorOf = (scalar: ScalarType): ScalarType =>
  scalar === 'f16' || scalar === 'bf16' ? 'f32' : scalar;

/** True where a float is NaN; constant false for other types. */
export const isNan = (b: KernelBuilder, value: KValue): KValue =>
  isFloatScalar(value.type.scalar) ? b.compare('ne', value, value) : b.constant(false, 'bool', value.type.lanes);
