/** Reductions along axes. */
import type { GraphBuilder } from '../builder.js';
import { productOf } from '../dims.js';
import type { ReduceFn, Value } from '../types.js';
import { axesOf, axisOf, one } from './append.js';
import { full } from './constants.js';
import { binaryC, div, wide } from './elementwise.js';

export function reduce(b: GraphBuilder, fn: ReduceFn, x: Value, axes: readonly number[], keep = false): Value {
  const places = axesOf(b, axes, x.type.shape.length);
  return places.length === 0 ? x : one(b, 'reduce', [x], { fn, axes: places, keep });
}

/**
 * Mean over axes, in f32 for smaller floats; integers divide the sum (truncating). Where the number of elements is
 * not known the sum is divided by a sum of ones.
 */
export function mean(b: GraphBuilder, x: Value, axes: readonly number[], keep = false): Value {
  const places = axesOf(b, axes, x.type.shape.length);
  if (places.length === 0) return x;
  return wide(b, x, (v) => {
    const sum = reduce(b, 'sum', v, places, keep);
    const { dtype, shape } = v.type;
    const count = productOf(places.map((axis) => shape[axis]));
    if (typeof count === 'number') return binaryC(b, 'div', sum, count);
    const ones = full(
      b,
      1,
      dtype,
      places.map((axis) => shape[axis]),
    );
    return div(
      b,
      sum,
      reduce(
        b,
        'sum',
        ones,
        ones.type.shape.map((_, i) => i),
      ),
    );
  });
}

export const argReduce = (
  b: GraphBuilder,
  fn: 'max' | 'min',
  x: Value,
  axis: number,
  keep = false,
  last = false,
): Value => one(b, 'arg_reduce', [x], { fn, axis: axisOf(b, axis, x.type.shape.length), keep, last });
