/** Reductions on host tensors. Floats accumulate in f64; sums of f64 are compensated (Neumaier). */
import { type DType, integerRange, isFloat, isInt } from '../../../dtype.js';
import { type HostTensor, sizeOf } from '../../../tensor.js';
import type { OpAttrs, ReduceFn } from '../../types.js';
import {
  accumulators,
  type BigArray,
  bigsOf,
  elementsOf,
  isBig,
  isNotANumber,
  newElements,
  numbersOf,
  stridesOf,
  tensorOfElements,
  tensorOfNumbers,
  wrapperOf,
} from './data.js';
import { bigBinary, numberBinary } from './elementwise.js';
import { transpose } from './movement.js';

type Fold = Exclude<ReduceFn, 'and' | 'or'>;
const binaryOf = { sum: 'add', prod: 'mul', max: 'max', min: 'min', and: 'and', or: 'or' } as const;

/** What a reduction of nothing gives. */
export function identityOf(fn: ReduceFn, dtype: DType): number | bigint {
  const wrap = (value: bigint): number | bigint => (isBig(dtype) ? value : Number(value));
  switch (fn) {
    case 'sum':
      return wrap(0n);
    case 'prod':
      return wrap(1n);
    case 'and':
      return 1;
    case 'or':
      return 0;
    case 'max':
      return isInt(dtype) ? wrap(integerRange(dtype)[0]) : -Infinity;
    case 'min':
      return isInt(dtype) ? wrap(integerRange(dtype)[1]) : Infinity;
    default:
      return fn satisfies never;
  }
}

/** x with `axes` last, so that each result reduces one run; and the length of the runs. */
function inRows(x: HostTensor, axes: readonly number[]): { readonly rows: HostTensor; readonly length: number } {
  const kept = x.shape.flatMap((_, i) => (axes.includes(i) ? [] : [i]));
  const sorted = [...axes].sort((p, q) => p - q);
  return { rows: transpose(x, [...kept, ...sorted]), length: sizeOf(sorted.map((axis) => x.shape[axis])) };
}

export function reduce(x: HostTensor, shape: readonly number[], fn: ReduceFn, axes: readonly number[]): HostTensor {
  const { dtype } = x;
  const { rows, length } = inRows(x, axes);
  const count = sizeOf(shape);
  const identity = identityOf(fn, dtype);
  if (isBig(dtype)) {
    const apply = bigBinary(binaryOf[fn], dtype);
    const source = bigsOf(rows);
    const out = newElements(dtype, count) as BigArray;
    for (let r = 0; r < count; r++) {
      let total = identity as bigint;
      for (let i = r * length; i < (r + 1) * length; i++) total = apply(total, source[i]);
      out[r] = total;
    }
    return { dtype, shape, data: out };
  }
  const source = numbersOf(rows);
  const out = accumulators(dtype, count);
  if (fn === 'sum' && isFloat(dtype)) {
    for (let r = 0; r < count; r++) out[r] = sumOf(source, r * length, length);
  } else {
    const apply = numberBinary(binaryOf[fn], dtype === 'bool' ? 'u8' : dtype);
    const wrap = wrapperOf(dtype);
    for (let r = 0; r < count; r++) {
      let total = identity as number;
      for (let i = r * length; i < (r + 1) * length; i++) total = wrap(apply(total, source[i]));
      out[r] = total;
    }
  }
  return tensorOfNumbers(dtype, shape, out);
}

/** Sum of a run with the rounding errors carried along (A. Neumaier, 1974). */
export function sumOf(values: ArrayLike<number>, start: number, length: number): number {
  let sum = 0;
  let error = 0;
  for (let i = start; i < start + length; i++) {
    const value = values[i];
    const next = sum + value;
    error += Math.abs(sum) >= Math.abs(value) ? sum - next + value : value - next + sum;
    sum = next;
  }
  // An infinite sum has no meaningful error term.
  return Number.isFinite(error) ? sum + error : sum;
}

/** Whether p comes before q when the extreme is looked for; NaN comes before everything. */
const beats = {
  max: (p: number | bigint, q: number | bigint) => p > q || (isNotANumber(p) && !isNotANumber(q)),
  min: (p: number | bigint, q: number | bigint) => p < q || (isNotANumber(p) && !isNotANumber(q)),
} as const;

export function argReduce(
  x: HostTensor,
  shape: readonly number[],
  fn: 'max' | 'min',
  axis: number,
  last: boolean,
): HostTensor {
  const { rows, length } = inRows(x, [axis]);
  const source = isBig(x.dtype) ? bigsOf(rows) : numbersOf(rows);
  const before = beats[fn];
  const out = new BigInt64Array(sizeOf(shape));
  for (let r = 0; r < out.length; r++) {
    let best = r * length;
    for (let i = best + 1; i < (r + 1) * length; i++) {
      if (last ? !before(source[best], source[i]) : before(source[i], source[best])) best = i;
    }
    out[r] = BigInt(best - r * length);
  }
  return { dtype: 'i64', shape, data: out };
}

export function cumulative(x: HostTensor, { fn, axis, exclusive, reverse }: OpAttrs['cumulative']): HostTensor {
  const { dtype, shape } = x;
  const length = shape[axis];
  const step = stridesOf(shape)[axis];
  const block = length * step;
  const count = sizeOf(shape);
  const identity = identityOf(fn, dtype);
  const walk = (visit: (from: number, first: boolean) => void): void => {
    for (let base = 0; base < count; base += block) {
      for (let inner = 0; inner < step; inner++) {
        for (let k = 0; k < length; k++) visit(base + inner + (reverse ? length - 1 - k : k) * step, k === 0);
      }
    }
  };
  if (isBig(dtype)) {
    const apply = bigBinary(binaryOf[fn], dtype);
    const source = bigsOf(x);
    const out = newElements(dtype, count) as BigArray;
    const wrap = dtype === 'i64' ? BigInt.asIntN : BigInt.asUintN;
    let total = 0n;
    walk((i, first) => {
      const before = first ? (identity as bigint) : total;
      total = wrap(64, apply(before, source[i]));
      out[i] = exclusive ? before : total;
    });
    return { dtype, shape, data: out };
  }
  const apply = numberBinary(binaryOf[fn satisfies Fold], dtype);
  const source = numbersOf(x);
  const out = accumulators(dtype, count);
  const wrap = wrapperOf(dtype);
  let total = 0;
  walk((i, first) => {
    const before = first ? (identity as number) : total;
    total = wrap(apply(before, source[i]));
    out[i] = exclusive ? before : total;
  });
  return tensorOfNumbers(dtype, shape, out);
}

/** Sorted descending (`largest`) or ascending; NaN is the greatest; equal values stay in the order of indices. */
export function topK(x: HostTensor, shape: readonly number[], axis: number, largest: boolean): HostTensor[] {
  const { dtype } = x;
  const length = x.shape[axis];
  const k = shape[axis];
  const step = stridesOf(x.shape)[axis];
  const keys = isBig(dtype) ? bigsOf(x) : numbersOf(x);
  const source = elementsOf(x);
  const values = newElements(dtype, sizeOf(shape));
  const indices = new BigInt64Array(sizeOf(shape));
  const rows = length === 0 ? 0 : sizeOf(x.shape) / length;
  const order = (p: number | bigint, q: number | bigint): number => {
    if (p === q) return 0;
    if (isNotANumber(p)) return isNotANumber(q) ? 0 : 1;
    return isNotANumber(q) || p < q ? -1 : 1;
  };
  for (let row = 0; row < rows; row++) {
    const [outer, inner] = [Math.floor(row / step), row % step];
    const base = outer * length * step + inner;
    const places = Array.from({ length }, (_, i) => i).sort((p, q) => {
      const direction = order(keys[base + p * step], keys[base + q * step]);
      return direction === 0 ? p - q : largest ? -direction : direction;
    });
    for (let i = 0; i < k; i++) {
      const at = outer * k * step + i * step + inner;
      values[at] = source[base + places[i] * step];
      indices[at] = BigInt(places[i]);
    }
  }
  return [tensorOfElements(dtype, shape, values), { dtype: 'i64', shape, data: indices }];
}

/** Rows of numbers in f64, for composites. */
export function rowsOf(
  x: HostTensor,
  axes: readonly number[],
): { readonly values: Float64Array; readonly length: number; readonly order: readonly number[] } {
  const { rows, length } = inRows(x, axes);
  const kept = x.shape.flatMap((_, i) => (axes.includes(i) ? [] : [i]));
  return { values: Float64Array.from(numbersOf(rows)), length, order: [...kept, ...[...axes].sort((p, q) => p - q)] };
}

/** Undoes the order of axes of `rowsOf`. */
export function fromRows(values: Float64Array, x: HostTensor, order: readonly number[]): HostTensor {
  const moved = tensorOfNumbers(
    x.dtype,
    order.map((axis) => x.shape[axis]),
    values,
  );
  return transpose(
    moved,
    order.map((_, i) => order.indexOf(i)),
  );
}
