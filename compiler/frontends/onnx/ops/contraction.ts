/** Matrix products and convolutions, in floats and integers. */

import { type DType, isFloat } from '../../../dtype.js';
import { add, binaryC, cast, matmul, reshape, reverse, sub, transpose } from '../../../graph/compose/index.js';
import { type Dim, floorDivDims, isSymbolic, mulDims } from '../../../graph/dims.js';
import type { Value, Window } from '../../../graph/types.js';
import type { Conversion, ConvertContext } from '../context.js';
import { autoPadOf, explicitPads, spatial, windowOf } from './windows.js';

/** alpha · A' · B' + beta · C. */
export function gemm(c: ConvertContext): Value {
  const [a, b] = [c.input(0), c.input(1)];
  if (c.rank(0) !== 2 || c.rank(1) !== 2) c.fail('Gemm takes matrices', '2 axes', `${c.rank(0)} and ${c.rank(1)}`);
  const product = c.op('dot', [a, b], {
    lhsBatch: [],
    rhsBatch: [],
    lhsContract: [c.flag('transA') ? 0 : 1],
    rhsContract: [c.flag('transB') ? 1 : 0],
    dtype: a.type.dtype,
  });
  const [alpha, beta] = [c.float('alpha', 1), c.float('beta', 1)];
  const scaled = scaledBy(c, product, alpha);
  if (!c.has(2) || beta === 0) return scaled;
  return add(c.b, scaled, scaledBy(c, c.input(2), beta));
}

/** x · factor; integers are multiplied in f64 if the factor is none. */
function scaledBy(c: ConvertContext, x: Value, factor: number): Value {
  if (factor === 1) return x;
  if (isFloat(x.type.dtype) || Number.isInteger(factor)) return binaryC(c.b, 'mul', x, factor);
  return cast(c.b, binaryC(c.b, 'mul', cast(c.b, x, 'f64'), factor), x.type.dtype);
}

/** Weights are [O, C/groups, …kernel]. */
export interface Convolution {
  readonly x: Value;
  readonly w: Value;
  readonly dtype: DType;
}

export function kernelOf(c: ConvertContext, w: Value): readonly number[] {
  const dims = c.concreteDims(w.type.shape.slice(2), 1);
  const given = c.ints('kernel_shape');
  if (given !== undefined && (given.length !== dims.length || given.some((d, i) => d !== dims[i]))) {
    c.fail('kernel_shape does not fit the weights', `[${dims.join(', ')}]`, `[${given.join(', ')}]`);
  }
  return dims;
}

export function convolve(c: ConvertContext, { x, w, dtype }: Convolution): Value {
  if (x.type.shape.length < 3) c.fail('wrong rank', '[N, C, …spatial]', `${x.type.shape.length} axes`);
  if (w.type.shape.length !== x.type.shape.length) {
    c.fail('weights differ in rank from the input', String(x.type.shape.length), String(w.type.shape.length));
  }
  const dims = x.type.shape.slice(2);
  const window = windowOf(c, dims, kernelOf(c, w));
  return c.op('conv', [x, w], { ...window, groups: c.int('group', 1), inputDilation: dims.map(() => 1), dtype });
}

/** Does to [N, …spatial, C] (if `last`) what `body` does to [N, C, …spatial]. */
export function channelsLast(c: ConvertContext, x: Value, last: boolean, body: (x: Value) => Value): Value {
  if (!last) return body(x);
  const rank = x.type.shape.length;
  const inner = Array.from({ length: rank - 2 }, (_, i) => i + 1);
  const y = body(transpose(c.b, x, [0, rank - 1, ...inner]));
  return transpose(c.b, y, [0, ...inner.map((axis) => axis + 1), 1]);
}

/** [O] as [1, O, 1, …], to be added to a result of `rank` axes. */
export function channelwise(c: ConvertContext, x: Value, rank: number): Value {
  const { shape } = x.type;
  if (shape.length !== 1) c.fail('a parameter per channel must be a vector', '1 axis', `[${shape.join(', ')}]`);
  return reshape(c.b, x, [1, shape[0], ...new Array<number>(Math.max(0, rank - 2)).fill(1)]);
}

const biased = (c: ConvertContext, y: Value, bias: number): Value =>
  c.has(bias) ? add(c.b, y, channelwise(c, c.input(bias), y.type.shape.length)) : y;

/** A transposed convolution is one over the input with zeros between its elements, with flipped kernels. */
function convTranspose(c: ConvertContext): Value {
  const [x, given] = [c.input(0), c.input(1)];
  if (given.type.shape.length !== x.type.shape.length || x.type.shape.length < 3) {
    c.fail('wrong rank', 'input [N, C, …spatial] and weights [C, M/group, …kernel]');
  }
  const dims = x.type.shape.slice(2);
  const kernel = kernelOf(c, given);
  const groups = c.int('group', 1);
  const strides = spatial(c, 'strides', dims.length, 1);
  const dilations = spatial(c, 'dilations', dims.length, 1);
  const outputPadding = spatial(c, 'output_padding', dims.length, 0);
  const extents = kernel.map((k, i) => (k - 1) * dilations[i] + 1);
  const { low, high } = transposePads(c, dims, strides, extents, outputPadding);
  const [channels, perGroup] = given.type.shape;
  // [C, M/g, …] → [M, C/g, …]
  const spatialAxes = kernel.map((_, i) => i + 3);
  const grouped = reshape(c.b, given, [groups, floorDivDims(channels, groups), perGroup, ...kernel]);
  const swapped = transpose(c.b, grouped, [0, 2, 1, ...spatialAxes]);
  let w = reshape(c.b, swapped, [mulDims(perGroup, groups), floorDivDims(channels, groups), ...kernel]);
  for (const axis of kernel.keys()) w = reverse(c.b, w, axis + 2);
  const window: Window = {
    strides: dims.map(() => 1),
    dilations,
    padLow: extents.map((extent, i) => extent - 1 - low[i]),
    padHigh: extents.map((extent, i) => extent - 1 - high[i] + outputPadding[i]),
  };
  const y = c.op('conv', [x, w], { ...window, groups, inputDilation: strides, dtype: x.type.dtype });
  return biased(c, y, 2);
}

function transposePads(
  c: ConvertContext,
  dims: readonly Dim[],
  strides: readonly number[],
  extents: readonly number[],
  outputPadding: readonly number[],
): { low: readonly number[]; high: readonly number[] } {
  const mode = autoPadOf(c);
  const shape = c.ints('output_shape');
  const same = mode === 'SAME_UPPER' || mode === 'SAME_LOWER';
  if (shape === undefined && !same) {
    return mode === 'VALID' ? { low: dims.map(() => 0), high: dims.map(() => 0) } : explicitPads(c, dims.length);
  }
  const total = dims.map((dim, i) => {
    // SAME: as many outputs as inputs times stride, whatever the size is. Where that is more than the kernel reaches,
    // the pads are negative: rows of zeros.
    if (shape === undefined) return extents[i] - strides[i] + outputPadding[i];
    const size = isSymbolic(dim) ? c.notConstant(0) : dim;
    const wanted = shape.length === dims.length ? shape[i] : shape[shape.length - dims.length + i];
    return strides[i] * (size - 1) + outputPadding[i] + extents[i] - wanted;
  });
  const less = total.map((pad) => Math.floor(pad / 2));
  const more = total.map((pad) => Math.ceil(pad / 2));
  return mode === 'SAME_UPPER' ? { low: less, high: more } : { low: more, high: less };
}

/** An integer operand less its zero point, exact in i32; untouched where the zero point is absent or 0. */
export function centred(
  c: ConvertContext,
  x: Value,
  zeroPoint: Value | undefined,
  place: (zero: Value) => Value,
): Value {
  if (zeroPoint === undefined) return x;
  const known = c.b.contentOf(zeroPoint);
  if (known?.every((zero) => zero === 0)) return x;
  return sub(c.b, cast(c.b, x, 'i32'), place(cast(c.b, zeroPoint, 'i32')));
}

/** A zero point per row of A [M] or, of B, per column [N]; scalars, vectors of one and full shapes broadcast as they are. */
export const rowwise = (c: ConvertContext, zero: Value): Value =>
  zero.type.shape.length === 1 && zero.type.shape[0] !== 1
    ? reshape(c.b, zero, [zero.type.shape[0], 1])
    : single(c, zero);
const single = (c: ConvertContext, zero: Value): Value =>
  zero.type.shape.length === 1 && zero.type.shape[0] === 1 ? reshape(c.b, zero, []) : zero;
/** A zero point per output channel [O] of weights, or of the whole. */
const perOutput = (c: ConvertContext, zero: Value, rank: number): Value =>
  zero.type.shape.length === 0 || zero.type.shape[0] === 1
    ? reshape(c.b, zero, [])
    : reshape(c.b, zero, [zero.type.shape[0], ...new Array<number>(rank - 1).fill(1)]);

/** i32 products of integers less their zero points. */
export const integerMatmul = (
  c: ConvertContext,
  a: Value,
  aZero: Value | undefined,
  b: Value,
  bZero: Value | undefined,
): Value =>
  matmul(
    c.b,
    centred(c, a, aZero, (zero) => rowwise(c, zero)),
    centred(c, b, bZero, (zero) => single(c, zero)),
    'i32',
  );

export function integerConv(
  c: ConvertContext,
  x: Value,
  xZero: Value | undefined,
  w: Value,
  wZero: Value | undefined,
): Value {
  // Padding is zero after the zero point is taken off: that is x equal to its zero point.
  return convolve(c, {
    x: centred(c, x, xZero, (zero) => reshape(c.b, zero, [])),
    w: centred(c, w, wZero, (zero) => perOutput(c, zero, w.type.shape.length)),
    dtype: 'i32',
  });
}

export const contractions: readonly Conversion[] = [
  { op: 'MatMul', since: 1, convert: (c) => matmul(c.b, c.input(0), c.input(1)) },
  { op: 'Gemm', since: 1, convert: gemm },
  {
    op: 'Conv',
    since: 1,
    convert: (c) => biased(c, convolve(c, { x: c.input(0), w: c.input(1), dtype: c.dtype(0) }), 2),
  },
  { op: 'ConvTranspose', since: 1, convert: convTranspose },
  {
    op: 'MatMulInteger',
    since: 10,
    convert: (c) => integerMatmul(c, c.input(0), c.inputs[2], c.input(1), c.inputs[3]),
  },
  {
    op: 'ConvInteger',
    since: 10,
    convert: (c) => integerConv(c, c.input(0), c.inputs[2], c.input(1), c.inputs[3]),
  },
];
