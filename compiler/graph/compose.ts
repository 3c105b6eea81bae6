/**
 * Graphs in the terms that frontends, decompositions and the public builder think in: numpy broadcasting, matmul,
 * activations. Everything is expressed in the ops of the IR; ops that would change nothing are left out.
 * Axes may be negative here; in the IR they are not.
 */
import { type DType, isFloat, isInt } from '../dtype.js';
import { TuttiError } from '../error.js';
import type { ScaleRounding } from '../minifloat.js';
import type { HostTensor } from '../tensor.js';
import { describe, type GraphBuilder } from './builder.js';
import { addDims, type Dim, mulDims, printShape, productOf, shapeEquals } from './dims.js';
import { filledTensor, tensorOfElements, tensorOfNumbers } from './ops/reference/data.js';
import type { BinaryOp, OpAttrs, ReduceFn, ScatterFn, UnaryOp, Value } from './types.js';

type Literal = number | bigint | boolean;

// --- constants -----------------------------------------------------------------------------------------------------

/** A constant without axes. */
export const scalar = (b: GraphBuilder, value: Literal | string, dtype: DType): Value =>
  b.constant(filledTensor(dtype, [], value));

/** A constant value in every place of `shape`. */
export const full = (b: GraphBuilder, value: Literal | string, dtype: DType, shape: readonly Dim[]): Value =>
  broadcastTo(b, scalar(b, value, dtype), shape);

/** A constant vector (or of `shape`) of numbers; i64 and u64 from integers. */
export function tensor(
  b: GraphBuilder,
  dtype: DType,
  values: readonly (number | bigint)[],
  shape: readonly number[] = [values.length],
): Value {
  if (dtype === 'i64') return b.constant(tensorOfElements(dtype, shape, BigInt64Array.from(values, BigInt)));
  if (dtype === 'u64') return b.constant(tensorOfElements(dtype, shape, BigUint64Array.from(values, BigInt)));
  return b.constant(tensorOfNumbers(dtype, shape, values.map(Number)));
}

/** 0, 1, 2 … along an axis. */
export const iota = (b: GraphBuilder, dtype: DType, shape: readonly Dim[], axis = 0): Value =>
  one(b, 'iota', [], { dtype, shape, axis: axisOf(b, axis, shape.length) });

/** The data of a value that is a constant, or undefined. */
export const constantData = (b: GraphBuilder, value: Value): HostTensor | undefined => b.constantOf(value)?.load();

// --- elementwise ---------------------------------------------------------------------------------------------------

/** Numpy's broadcasting of two shapes; of two unequal expressions the first is taken. @throws TuttiError E_SHAPE */
export function broadcastShapes(b: GraphBuilder, x: readonly Dim[], y: readonly Dim[]): Dim[] {
  const rank = Math.max(x.length, y.length);
  return Array.from({ length: rank }, (_, i) => {
    const p = x[i - rank + x.length] ?? 1;
    const q = y[i - rank + y.length] ?? 1;
    if (p === 1) return q;
    if (q === 1) return p;
    if (typeof p === 'number' && typeof q === 'number' && p !== q) {
      fail(b, 'shapes do not broadcast together', printShape(x), printShape(y));
    }
    return typeof q === 'number' ? q : p;
  });
}

/** Repeats axes of size 1 and adds axes in front. */
export function broadcastTo(b: GraphBuilder, x: Value, shape: readonly Dim[]): Value {
  return shapeEquals(x.type.shape, shape) ? x : one(b, 'broadcast', [x], { shape });
}

/** Brings values to their common broadcast shape. */
export function broadcastAll(b: GraphBuilder, ...values: readonly Value[]): Value[] {
  const shape = values.map((value) => value.type.shape).reduce((p, q) => broadcastShapes(b, p, q));
  return values.map((value) => broadcastTo(b, value, shape));
}

export const unary = (b: GraphBuilder, fn: UnaryOp, x: Value): Value => one(b, fn, [x], {});

/** With numpy's broadcasting. */
export function binary(b: GraphBuilder, fn: BinaryOp, x: Value, y: Value): Value {
  return one(b, fn, broadcastAll(b, x, y), {});
}

/** `x fn constant`, the constant in x's element type. */
export const binaryC = (b: GraphBuilder, fn: BinaryOp, x: Value, value: Literal): Value =>
  binary(b, fn, x, scalar(b, value, x.type.dtype));

export const add = (b: GraphBuilder, x: Value, y: Value): Value => binary(b, 'add', x, y);
export const sub = (b: GraphBuilder, x: Value, y: Value): Value => binary(b, 'sub', x, y);
export const mul = (b: GraphBuilder, x: Value, y: Value): Value => binary(b, 'mul', x, y);
export const div = (b: GraphBuilder, x: Value, y: Value): Value => binary(b, 'div', x, y);

/** condition ? x : y, with broadcasting. */
export const select3 = (b: GraphBuilder, condition: Value, x: Value, y: Value): Value =>
  one(b, 'select', broadcastAll(b, condition, x, y), {});

export const clamp = (b: GraphBuilder, x: Value, min: number | null, max: number | null): Value =>
  min === null && max === null ? x : one(b, 'clamp', [x], { min, max });

/** ONNX semantics; `saturate` matters for f8 only, `rounding` for f8e8m0. */
export const cast = (b: GraphBuilder, x: Value, dtype: DType, saturate = true, rounding?: ScaleRounding): Value =>
  x.type.dtype === dtype ? x : one(b, 'cast', [x], { dtype, saturate, ...(rounding && { rounding }) });

export const bitcast = (b: GraphBuilder, x: Value, dtype: DType): Value =>
  x.type.dtype === dtype ? x : one(b, 'bitcast', [x], { dtype });

export const not = (b: GraphBuilder, x: Value): Value => unary(b, 'not', x);
export const square = (b: GraphBuilder, x: Value): Value => binary(b, 'mul', x, x);

/** Remainder with the sign of the divisor (Python's %, ONNX Mod with fmod = 0). */
export function floorMod(b: GraphBuilder, x: Value, y: Value): Value {
  const rest = binary(b, 'rem', x, y);
  if (isInt(x.type.dtype) && x.type.dtype.startsWith('u')) return rest;
  const zero = scalar(b, 0, x.type.dtype);
  const opposite = binary(b, 'ne', binary(b, 'lt', rest, zero), binary(b, 'lt', y, zero));
  const mend = binary(b, 'and', binary(b, 'ne', rest, zero), opposite);
  return select3(b, mend, binary(b, 'add', rest, y), rest);
}

/** Quotient rounded down. */
export function floorDiv(b: GraphBuilder, x: Value, y: Value): Value {
  if (isFloat(x.type.dtype)) return unary(b, 'floor', div(b, x, y));
  return div(b, sub(b, x, floorMod(b, x, y)), y);
}

// --- activations ---------------------------------------------------------------------------------------------------

export const relu = (b: GraphBuilder, x: Value): Value => clamp(b, x, 0, null);
export const relu6 = (b: GraphBuilder, x: Value): Value => clamp(b, x, 0, 6);

/** 1 / (1 + e^-x). */
export const sigmoid = (b: GraphBuilder, x: Value): Value =>
  wide(b, x, (v) => unary(b, 'recip', binaryC(b, 'add', unary(b, 'exp', unary(b, 'neg', v)), 1)));

/** log(1 + e^x) in the form that does not overflow: max(x, 0) + log(1 + e^-|x|). */
export const softplus = (b: GraphBuilder, x: Value): Value =>
  wide(b, x, (v) => add(b, relu(b, v), log1p(b, unary(b, 'exp', unary(b, 'neg', unary(b, 'abs', v))))));

/**
 * log(1 + x) for x ≥ 0 without the rounding of 1 + x: 2·atanh(x / (2 + x)), since (1 + u) / (1 - u) = 1 + x for that u.
 */
export const log1p = (b: GraphBuilder, x: Value): Value =>
  binaryC(b, 'mul', unary(b, 'atanh', div(b, x, binaryC(b, 'add', x, 2))), 2);

/** x · sigmoid(x). */
export const silu = (b: GraphBuilder, x: Value): Value => wide(b, x, (v) => mul(b, v, sigmoid(b, v)));

/** x · Φ(x), exactly by erf or by the usual tanh polynomial. */
export function gelu(b: GraphBuilder, x: Value, approximate: 'none' | 'tanh' = 'none'): Value {
  return wide(b, x, (v) => {
    const inner =
      approximate === 'none'
        ? unary(b, 'erf', binaryC(b, 'mul', v, Math.SQRT1_2))
        : unary(
            b,
            'tanh',
            binaryC(b, 'mul', add(b, v, binaryC(b, 'mul', mul(b, mul(b, v, v), v), 0.044715)), Math.sqrt(2 / Math.PI)),
          );
    return mul(b, binaryC(b, 'mul', v, 0.5), binaryC(b, 'add', inner, 1));
  });
}

/** clamp(alpha·x + beta, 0, 1). */
export const hardSigmoid = (b: GraphBuilder, x: Value, alpha = 0.2, beta = 0.5): Value =>
  clamp(b, binaryC(b, 'add', binaryC(b, 'mul', x, alpha), beta), 0, 1);

/** x · hardSigmoid(x) with alpha 1/6 and beta 1/2. */
export const hardSwish = (b: GraphBuilder, x: Value): Value => mul(b, x, hardSigmoid(b, x, 1 / 6, 0.5));

/** x where it is not negative, else slope · x; the slope is a number or broadcasts. */
export function leakyRelu(b: GraphBuilder, x: Value, slope: number | Value): Value {
  const scaled = typeof slope === 'number' ? binaryC(b, 'mul', x, slope) : mul(b, x, slope);
  return select3(b, binaryC(b, 'lt', x, 0), scaled, x);
}

/** x where it is positive, else alpha · (e^x - 1). */
export const elu = (b: GraphBuilder, x: Value, alpha = 1): Value =>
  wide(b, x, (v) => select3(b, binaryC(b, 'gt', v, 0), v, binaryC(b, 'mul', expm1(b, v), alpha)));

/** gamma · elu(x, alpha). */
export const selu = (b: GraphBuilder, x: Value, alpha = 1.6732632423543772, gamma = 1.0507009873554805): Value =>
  wide(b, x, (v) => binaryC(b, 'mul', elu(b, v, alpha), gamma));

/** max(x, 0) + min(0, alpha · (e^(x/alpha) - 1)). */
export const celu = (b: GraphBuilder, x: Value, alpha = 1): Value =>
  wide(b, x, (v) =>
    select3(b, binaryC(b, 'gt', v, 0), v, binaryC(b, 'mul', expm1(b, binaryC(b, 'mul', v, 1 / alpha)), alpha)),
  );

/** e^x - 1 without cancellation near 0: tanh(x/2)·(e^x + 1), and e^x - 1 itself where that overflows or saturates. */
export function expm1(b: GraphBuilder, x: Value): Value {
  const power = unary(b, 'exp', x);
  const near = mul(b, unary(b, 'tanh', binaryC(b, 'mul', x, 0.5)), binaryC(b, 'add', power, 1));
  return select3(b, binaryC(b, 'lt', unary(b, 'abs', x), 1), near, binaryC(b, 'sub', power, 1));
}

/** x · tanh(softplus(x)). */
export const mish = (b: GraphBuilder, x: Value): Value =>
  wide(b, x, (v) => mul(b, v, unary(b, 'tanh', softplus(b, v))));

export const softsign = (b: GraphBuilder, x: Value): Value => div(b, x, binaryC(b, 'add', unary(b, 'abs', x), 1));

/** Softmax over axes, or its logarithm. */
export const softmax = (b: GraphBuilder, x: Value, axes: readonly number[], log = false): Value =>
  one(b, 'softmax', [x], { axes: axesOf(b, axes, x.type.shape.length), log });

/** Computes in f32 if x is of a smaller float type, and rounds once at the end. */
export function wide(b: GraphBuilder, x: Value, body: (x: Value) => Value): Value {
  const { dtype } = x.type;
  if (!isFloat(dtype) || dtype === 'f32' || dtype === 'f64') return body(x);
  return cast(b, body(cast(b, x, 'f32')), dtype);
}

// --- movement ------------------------------------------------------------------------------------------------------

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

// --- indexing ------------------------------------------------------------------------------------------------------

/** Indices of another integer type are cast to i64. */
const indexed = (b: GraphBuilder, indices: Value): Value =>
  indices.type.dtype === 'i32' ? indices : cast(b, indices, 'i64');

export const gather = (b: GraphBuilder, x: Value, indices: Value, axis: number): Value =>
  one(b, 'gather', [x, indexed(b, indices)], { axis: axisOf(b, axis, x.type.shape.length) });

export const gatherElements = (b: GraphBuilder, x: Value, indices: Value, axis: number): Value =>
  one(b, 'gather_elements', [x, indexed(b, indices)], { axis: axisOf(b, axis, x.type.shape.length) });

export const gatherNd = (b: GraphBuilder, x: Value, indices: Value, batchDims = 0): Value =>
  one(b, 'gather_nd', [x, indexed(b, indices)], { batchDims });

export const scatterElements = (
  b: GraphBuilder,
  x: Value,
  indices: Value,
  updates: Value,
  axis: number,
  fn: ScatterFn = 'set',
): Value =>
  one(b, 'scatter_elements', [x, indexed(b, indices), updates], { axis: axisOf(b, axis, x.type.shape.length), fn });

export const scatterNd = (b: GraphBuilder, x: Value, indices: Value, updates: Value, fn: ScatterFn = 'set'): Value =>
  one(b, 'scatter_nd', [x, indexed(b, indices), updates], { fn });

export function topK(
  b: GraphBuilder,
  x: Value,
  k: Dim,
  axis: number,
  largest = true,
): { readonly values: Value; readonly indices: Value } {
  const [values, indices] = b.op('top_k', [x], { k, axis: axisOf(b, axis, x.type.shape.length), largest });
  return { values, indices };
}

// --- reductions ----------------------------------------------------------------------------------------------------

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

// --- contractions --------------------------------------------------------------------------------------------------

/**
 * Numpy's matmul: vectors become matrices for the while, leading axes broadcast. Leading axes that only one operand
 * has (or has larger than 1) become free axes of `dot`, so nothing is repeated in memory.
 * `dtype` is the result's, by default that of the operands.
 */
export function matmul(b: GraphBuilder, x: Value, y: Value, dtype: DType = x.type.dtype): Value {
  if (x.type.shape.length === 0 || y.type.shape.length === 0)
    fail(b, 'matmul of a scalar', 'at least one axis', 'none');
  const lhs = x.type.shape.length === 1 ? unsqueeze(b, x, [0]) : x;
  const rhs = y.type.shape.length === 1 ? unsqueeze(b, y, [1]) : y;
  const product = matmulBatched(b, lhs, rhs, dtype);
  const { shape } = product.type;
  const drop = [
    ...(x.type.shape.length === 1 ? [shape.length - 2] : []),
    ...(y.type.shape.length === 1 ? [shape.length - 1] : []),
  ];
  return drop.length === 0 ? product : squeeze(b, product, drop);
}

function matmulBatched(b: GraphBuilder, x: Value, y: Value, dtype: DType): Value {
  const batchX = x.type.shape.slice(0, -2);
  const batchY = y.type.shape.slice(0, -2);
  const batch = broadcastShapes(b, batchX, batchY);
  const rank = batch.length;
  const [rows, columns] = [x.type.shape[batchX.length], y.type.shape[batchY.length + 1]];
  // Each leading axis belongs to both operands, or to the one in which it is not 1.
  const owner = batch.map((_, i) => {
    const p = batchX[i - rank + batchX.length] ?? 1;
    const q = batchY[i - rank + batchY.length] ?? 1;
    return p === 1 && q === 1 ? 'none' : q === 1 ? 'x' : p === 1 ? 'y' : 'both';
  });
  const keepAxes = (value: Value, own: readonly Dim[], name: 'x' | 'y'): { value: Value; axes: number[] } => {
    const axes = batch.flatMap((_, i) => (owner[i] === name || owner[i] === 'both' ? [i] : []));
    const dims = axes.map((i) => own[i - rank + own.length]);
    return { value: reshape(b, value, [...dims, ...value.type.shape.slice(-2)]), axes };
  };
  const left = keepAxes(x, batchX, 'x');
  const right = keepAxes(y, batchY, 'y');
  const shared = batch.flatMap((_, i) => (owner[i] === 'both' ? [i] : []));
  const product = one(b, 'dot', [left.value, right.value], {
    lhsBatch: shared.map((i) => left.axes.indexOf(i)),
    rhsBatch: shared.map((i) => right.axes.indexOf(i)),
    lhsContract: [left.axes.length + 1],
    rhsContract: [right.axes.length],
    dtype,
  });
  // dot gives: shared axes, x's own, rows, y's own, columns. Bring the leading axes into order.
  const places = [
    ...shared,
    ...left.axes.filter((i) => !shared.includes(i)),
    -2,
    ...right.axes.filter((i) => !shared.includes(i)),
    -1,
  ];
  const order = [...batch.keys()].filter((i) => places.includes(i));
  const sorted = transpose(
    b,
    product,
    [...order, -2, -1].map((place) => places.indexOf(place)),
  );
  return reshape(b, sorted, [...batch, rows, columns]);
}

// --- internals -----------------------------------------------------------------------------------------------------

type SingleResult = Exclude<keyof OpAttrs, 'top_k' | 'normalize' | 'source_op'>;

/** Adds a node of one result. */
function one<K extends SingleResult>(b: GraphBuilder, kind: K, inputs: readonly Value[], attrs: OpAttrs[K]): Value {
  return b.op(kind, inputs, attrs)[0];
}

/** A non-negative axis. @throws TuttiError E_SHAPE */
export function axisOf(b: GraphBuilder, axis: number, rank: number): number {
  const at = axis < 0 ? axis + rank : axis;
  if (!Number.isInteger(at) || at < 0 || at >= rank)
    fail(b, 'axis out of range', `${-rank} to ${rank - 1}`, String(axis));
  return at;
}

export const axesOf = (b: GraphBuilder, axes: readonly number[], rank: number): number[] =>
  axes.map((axis) => axisOf(b, axis, rank));

function fail(b: GraphBuilder, message: string, expected: string, found: string): never {
  throw new TuttiError('E_SHAPE', message, { subject: describe(b.source), expected, found });
}
