/** Other shapes and orders of the same elements. */
import type { GraphBuilder } from '../builder.js';
import { addDims, type Dim, mulDims, productOf, shapeEquals } from '../dims.js';
import type { OpAttrs, Value } from '../types.js';
import { axesOf, axisOf, type Literal, one } from './append.js';
import { broadcastTo } from './broadcast.js';
import { scalar } from './constants.js';

export const reshape = (b: GraphBuilder, x: Value, shape: readonly Dim[]): Value =>
  shapeEquals(x.type.shape, shape) ? x : one(b, 'reshape', [x], { shape });

export function transpose(b: GraphBuilder, x: Value, permutation: readonly number[]): Value {
  const axes = permutation.map((axis) => axisOf(b, axis, x.type.shape.length));
  return axes.every((axis, i) => axis === i) ? x : one(b, 'transpose', [x], { permutation: axes });
}

/** Exchanges two axes. */
export function swapAxes(b: GraphBuilder, x: Value, p: number, q: number): Value {
  const axes = x.type.shape.map((_, i) => i);
  const [i, j] = [axisOf(b, p, axes.length), axisOf(b, q, axes.length)];
  [axes[i], axes[j]] = [axes[j], axes[i]];
  return transpose(b, x, axes);
}

/** Inserts axes of size 1; `axes` are places in the result. */
export function unsqueeze(b: GraphBuilder, x: Value, axes: readonly number[]): Value {
  const rank = x.type.shape.length + axes.length;
  const places = axesOf(b, axes, rank);
  const rest = [...x.type.shape];
  return reshape(
    b,
    x,
    Array.from({ length: rank }, (_, i) => (places.includes(i) ? 1 : (rest.shift() as Dim))),
  );
}

/** Removes axes of size 1. */
export function squeeze(b: GraphBuilder, x: Value, axes: readonly number[]): Value {
  const places = axesOf(b, axes, x.type.shape.length);
  return reshape(
    b,
    x,
    x.type.shape.filter((_, i) => !places.includes(i)),
  );
}

/** Joins the axes before `axis` and those from it on: a matrix. */
export function flatten(b: GraphBuilder, x: Value, axis: number): Value {
  const { shape } = x.type;
  const at = axis < 0 ? axis + shape.length : axis;
  return reshape(b, x, [productOf(shape.slice(0, at)), productOf(shape.slice(at))]);
}

/** Elements start, start + step … along one axis. */
export function slice1(b: GraphBuilder, x: Value, axis: number, start: Dim, size: Dim, step = 1): Value {
  const { shape } = x.type;
  const at = axisOf(b, axis, shape.length);
  const pick = <T>(value: T, other: (dim: Dim) => T): T[] => shape.map((dim, i) => (i === at ? value : other(dim)));
  return slice(
    b,
    x,
    pick<Dim>(start, () => 0),
    pick<Dim>(size, (dim) => dim),
    pick(step, () => 1),
  );
}

export function slice(
  b: GraphBuilder,
  x: Value,
  starts: readonly Dim[],
  sizes: readonly Dim[],
  steps: readonly number[],
): Value {
  const whole = starts.every((start) => start === 0) && steps.every((step) => step === 1);
  return whole && shapeEquals(sizes, x.type.shape) ? x : one(b, 'slice', [x], { starts, sizes, steps });
}

/** Parts of given sizes along an axis. */
export function split(b: GraphBuilder, x: Value, axis: number, sizes: readonly number[]): Value[] {
  let start = 0;
  return sizes.map((size) => {
    const part = slice1(b, x, axis, start, size);
    start += size;
    return part;
  });
}

export function reverse(b: GraphBuilder, x: Value, axis: number): Value {
  const at = axisOf(b, axis, x.type.shape.length);
  const dim = x.type.shape[at];
  if (dim === 0 || dim === 1) return x;
  return slice1(b, x, at, addDims(dim, -1), dim, -1);
}

export const concat = (b: GraphBuilder, values: readonly Value[], axis: number): Value =>
  values.length === 1 ? values[0] : one(b, 'concat', values, { axis: axisOf(b, axis, values[0].type.shape.length) });

/** Values as slices of a new axis. */
export const stack = (b: GraphBuilder, values: readonly Value[], axis: number): Value =>
  concat(
    b,
    values.map((value) => unsqueeze(b, value, [axis])),
    axis,
  );

/** Pads with a value (default 0) or by mode; pads are at least 0. */
export function pad(
  b: GraphBuilder,
  x: Value,
  low: readonly Dim[],
  high: readonly Dim[],
  value: Value | Literal = 0,
  mode: OpAttrs['pad']['mode'] = 'constant',
): Value {
  if ([...low, ...high].every((p) => p === 0)) return x;
  if (mode !== 'constant') return one(b, 'pad', [x], { low, high, mode });
  const fill = typeof value === 'object' ? value : scalar(b, value, x.type.dtype);
  return one(b, 'pad', [x, fill], { low, high, mode });
}

/** Repeats the tensor along each axis (numpy tile): a broadcast between two reshapes. */
export function tile(b: GraphBuilder, x: Value, repeats: readonly Dim[]): Value {
  const { shape } = x.type;
  if (repeats.every((n) => n === 1)) return x;
  const apart = reshape(
    b,
    x,
    shape.flatMap((dim) => [1, dim]),
  );
  const repeated = broadcastTo(
    b,
    apart,
    shape.flatMap((dim, i) => [repeats[i], dim]),
  );
  return reshape(
    b,
    repeated,
    shape.map((dim, i) => mulDims(repeats[i], dim)),
  );
}
