/** The meaning of composites in terms of other ops. Shapes are concrete here. */
import { isFloat } from '../../dtype.js';
import type { GraphBuilder } from '../builder.js';
import {
  add,
  binary,
  binaryC,
  broadcastTo,
  cast,
  full,
  gather,
  mul,
  reduce,
  select3,
  sub,
  tensor,
  transpose,
  unary,
} from '../compose/index.js';
import type { NodeOf, Value } from '../types.js';
import { filledTensor } from './reference/data.js';
import { cast as castTensor } from './reference/elementwise.js';
import { type AxisTaps, resizeTaps } from './resize.js';

/** Smaller floats are computed in f32. */
const widened = (b: GraphBuilder, x: Value): Value => (x.type.dtype === 'f64' ? x : cast(b, x, 'f32'));

export function decomposeSoftmax(b: GraphBuilder, { attrs, inputs: [x] }: NodeOf<'softmax'>): readonly Value[] {
  const wide = widened(b, x);
  const shifted = sub(b, wide, reduce(b, 'max', wide, attrs.axes, true));
  const powers = unary(b, 'exp', shifted);
  const sum = reduce(b, 'sum', powers, attrs.axes, true);
  const result = attrs.log ? sub(b, shifted, unary(b, 'log', sum)) : binary(b, 'div', powers, sum);
  return [cast(b, result, x.type.dtype)];
}

export function decomposeNormalize(b: GraphBuilder, { attrs, inputs: [x] }: NodeOf<'normalize'>): readonly Value[] {
  const wide = widened(b, x);
  const count = attrs.axes.reduce((product, axis) => product * Number(x.type.shape[axis]), 1);
  const rowShape = x.type.shape.map((dim, i) => (attrs.axes.includes(i) ? 1 : dim));
  const meanOf = (v: Value) => binaryC(b, 'div', reduce(b, 'sum', v, attrs.axes, true), count);
  const mean = attrs.center ? meanOf(wide) : full(b, 0, wide.type.dtype, rowShape);
  const centered = attrs.center ? sub(b, wide, mean) : wide;
  const reciprocal = unary(b, 'rsqrt', binaryC(b, 'add', meanOf(mul(b, centered, centered)), attrs.epsilon));
  const result = cast(b, mul(b, centered, reciprocal), x.type.dtype);
  return attrs.statistics ? [result, mean, reciprocal] : [result];
}

/** From how many taps on a product with a matrix is better than a gather per tap. */
const matrixTaps = 6;

export function decomposeResize(b: GraphBuilder, { attrs, inputs: [x] }: NodeOf<'resize'>): readonly Value[] {
  const shape = attrs.shape.map(Number);
  const { dtype } = x.type;
  const taps = resizeTaps(x.type.shape.map(Number), shape, attrs);
  const nearest = attrs.mode === 'nearest';
  let value = nearest ? x : isFloat(dtype) ? widened(b, x) : cast(b, x, 'f32');
  taps.forEach((axisTaps, axis) => {
    if (!axisTaps) return;
    if (nearest) value = gather(b, value, tensor(b, 'i32', [...axisTaps.indices[0]]), axis);
    else if (axisTaps.indices.length < matrixTaps) value = weightedGathers(b, value, axisTaps, axis);
    else value = weightMatrix(b, value, axisTaps, axis);
  });
  taps.forEach((axisTaps, axis) => {
    if (!axisTaps?.outside) return;
    const along = shape.map((dim, i) => (i === axis ? dim : 1));
    const mask = tensor(b, 'bool', [...axisTaps.outside], along);
    // What the type does not have is its nearest value.
    const fill = castTensor(filledTensor('f64', [], attrs.extrapolation), value.type.dtype, { saturate: true });
    value = select3(b, mask, b.constant(fill), value);
  });
  return [cast(b, value, dtype)];
}

function weightedGathers(b: GraphBuilder, x: Value, { indices, weights }: AxisTaps, axis: number): Value {
  const rank = x.type.shape.length;
  const terms = indices.map((places, t) => {
    const along = Array.from({ length: rank }, (_, i) => (i === axis ? places.length : 1));
    const picked = gather(b, x, tensor(b, 'i32', [...places]), axis);
    return mul(b, picked, broadcastTo(b, tensor(b, x.type.dtype, [...weights[t]], along), picked.type.shape));
  });
  return terms.reduce((sum, term) => add(b, sum, term));
}

function weightMatrix(b: GraphBuilder, x: Value, { indices, weights }: AxisTaps, axis: number): Value {
  const size = Number(x.type.shape[axis]);
  const places = indices[0].length;
  const matrix = new Array<number>(places * size).fill(0);
  indices.forEach((list, t) => {
    list.forEach((from, place) => {
      matrix[place * size + from] += weights[t][place];
    });
  });
  const [product] = b.op('dot', [x, tensor(b, x.type.dtype, matrix, [places, size])], {
    lhsBatch: [],
    rhsBatch: [],
    lhsContract: [axis],
    rhsContract: [1],
    dtype: x.type.dtype,
  });
  const rank = x.type.shape.length;
  // The contracted axis comes out last.
  return transpose(
    b,
    product,
    Array.from({ length: rank }, (_, i) => (i < axis ? i : i === axis ? rank - 1 : i - 1)),
  );
}
