/** Ops whose element places come from data: iota, gathers and scatters. */
import type { InferContext, OpDefinition } from '../definition.js';
import { printShape } from '../dims.js';
import type { OpKind } from '../types.js';
import { agree, agreeShapes, checkAxis, checkDType, checkInteger, checkShape, define } from './common.js';
import {
  gatherElementsGradient,
  gatherGradient,
  gatherNdGradient,
  noGradient,
  scatterElementsGradient,
  scatterNdGradient,
} from './gradients/structure.js';
import * as reference from './reference/indexing.js';

const iota = define<'iota'>({
  kind: 'iota',
  summary: '0, 1, 2 … along an axis',
  arity: 0,
  family: 'map',
  infer(context) {
    const {
      attrs: { dtype, shape, axis },
    } = context;
    checkShape(context, shape);
    checkDType(context, dtype, 'numeric', 'iota');
    checkAxis(context, axis, shape.length);
    return [{ dtype, shape }];
  },
  evaluate: ({ attrs, outputs: [{ dtype, shape }] }) => [reference.iota(dtype, shape, attrs.axis)],
  gradient: noGradient,
});

const gather = define<'gather'>({
  kind: 'gather',
  summary: 'x[…, indices, …] along an axis; negative indices count from the end, then are clamped into range',
  arity: 2,
  family: 'map',
  infer(context) {
    const {
      attrs: { axis },
      inputs: [x, indices],
    } = context;
    checkDType(context, indices.dtype, 'index', 'indices');
    checkAxis(context, axis, x.shape.length);
    return [{ dtype: x.dtype, shape: [...x.shape.slice(0, axis), ...indices.shape, ...x.shape.slice(axis + 1)] }];
  },
  evaluate: ({ attrs, inputs: [x, indices], outputs: [{ shape }] }) => [
    reference.gather(x, indices, shape, attrs.axis),
  ],
  gradient: gatherGradient,
});

const gatherElements = define<'gather_elements'>({
  kind: 'gather_elements',
  summary: 'out[i…] = x[i… with i[axis] = indices[i…]]; indices as in gather',
  arity: 2,
  family: 'map',
  infer(context) {
    const {
      attrs: { axis },
      inputs: [x, indices],
    } = context;
    checkElementIndices(context, axis);
    return [{ dtype: x.dtype, shape: indices.shape }];
  },
  evaluate: ({ attrs, inputs: [x, indices] }) => [reference.gatherElements(x, indices, attrs.axis)],
  gradient: gatherElementsGradient,
});

const gatherNd = define<'gather_nd'>({
  kind: 'gather_nd',
  summary: 'ONNX GatherND: index vectors along the last axis of indices pick slices of x; indices as in gather',
  arity: 2,
  family: 'map',
  infer(context) {
    const {
      attrs: { batchDims },
      inputs: [x, indices],
    } = context;
    checkInteger(context, batchDims, 0, 'number of batch dims');
    if (batchDims >= indices.shape.length || batchDims > x.shape.length) {
      context.fail('too many batch dims of gather_nd', `below ${indices.shape.length}`, String(batchDims));
    }
    const length = indexLength(context, x.shape.length - batchDims);
    const batch = x.shape.slice(0, batchDims).map((dim, i) => agree(context, dim, indices.shape[i], `batch dims ${i}`));
    const picked = indices.shape.slice(batchDims, -1);
    return [{ dtype: x.dtype, shape: [...batch, ...picked, ...x.shape.slice(batchDims + length)] }];
  },
  evaluate: ({ attrs, inputs: [x, indices], outputs: [{ shape }] }) => [
    reference.gatherNd(x, indices, shape, attrs.batchDims),
  ],
  gradient: gatherNdGradient,
});

const scatterElements = define<'scatter_elements'>({
  kind: 'scatter_elements',
  summary:
    'x with x[i… with i[axis] = indices[i…]] combined with updates[i…]; negative indices count from the end, ' +
    'updates out of range are dropped, of several `set`s the last in row-major order stays',
  arity: 3,
  family: 'special',
  infer(context) {
    const {
      attrs: { axis, fn },
      inputs: [x, indices, updates],
    } = context;
    checkElementIndices(context, axis);
    checkUpdates(context, fn);
    agreeShapes(context, indices.shape, updates.shape, 'shapes of indices and updates');
    return [x];
  },
  evaluate: ({ attrs, inputs: [x, indices, updates] }) => [
    reference.scatterElements(x, indices, updates, attrs.axis, attrs.fn),
  ],
  gradient: scatterElementsGradient,
});

const scatterNd = define<'scatter_nd'>({
  kind: 'scatter_nd',
  summary:
    'ONNX ScatterND: slices of x picked by index vectors are combined with updates; indices as in scatter_elements',
  arity: 3,
  family: 'special',
  infer(context) {
    const {
      attrs: { fn },
      inputs: [x, indices, updates],
    } = context;
    if (indices.shape.length === 0) context.fail('indices of scatter_nd are a scalar', 'at least one axis', 'none');
    const length = indexLength(context, x.shape.length);
    checkUpdates(context, fn);
    const expected = [...indices.shape.slice(0, -1), ...x.shape.slice(length)];
    agreeShapes(context, expected, updates.shape, 'shapes of the picked slices and the updates');
    return [x];
  },
  evaluate: ({ attrs, inputs: [x, indices, updates] }) => [reference.scatterNd(x, indices, updates, attrs.fn)],
  gradient: scatterNdGradient,
});

function checkElementIndices(context: InferContext<'gather_elements' | 'scatter_elements'>, axis: number): void {
  const [x, indices] = context.inputs;
  checkDType(context, indices.dtype, 'index', 'indices');
  checkAxis(context, axis, x.shape.length);
  if (indices.shape.length !== x.shape.length) {
    context.fail('indices differ in rank from the data', printShape(x.shape), printShape(indices.shape));
  }
  indices.shape.forEach((dim, i) => {
    const limit = x.shape[i];
    if (i !== axis && typeof dim === 'number' && typeof limit === 'number' && dim > limit) {
      context.fail(`indices are longer than the data along axis ${i}`, `at most ${limit}`, String(dim));
    }
  });
}

function checkUpdates(context: InferContext<'scatter_elements' | 'scatter_nd'>, fn: string): void {
  const [x, indices, updates] = context.inputs;
  checkDType(context, indices.dtype, 'index', 'indices');
  if (updates.dtype !== x.dtype) context.fail('updates differ in element type from the data', x.dtype, updates.dtype);
  if (fn !== 'set') checkDType(context, x.dtype, 'numeric', `the data of a scatter with ${fn}`);
}

/** Length of the index vectors: the last dim of the indices, at most `rank`. */
function indexLength(context: InferContext<'gather_nd' | 'scatter_nd'>, rank: number): number {
  const [, indices] = context.inputs;
  checkDType(context, indices.dtype, 'index', 'indices');
  const length = indices.shape[indices.shape.length - 1];
  if (typeof length !== 'number')
    return context.fail('length of the index vectors is not known', 'a number', String(length));
  if (length > rank)
    context.fail('index vectors are longer than the rank of the data', `at most ${rank}`, String(length));
  return length;
}

type Indexing = 'iota' | 'gather' | 'gather_elements' | 'gather_nd' | 'scatter_elements' | 'scatter_nd';
export const indexing = {
  iota,
  gather,
  gather_elements: gatherElements,
  gather_nd: gatherNd,
  scatter_elements: scatterElements,
  scatter_nd: scatterNd,
} satisfies { readonly [K in Indexing & OpKind]: OpDefinition<K> };
