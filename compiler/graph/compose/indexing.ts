/** Elements by index. */
import type { GraphBuilder } from '../builder.js';
import type { Dim } from '../dims.js';
import type { ScatterFn, Value } from '../types.js';
import { axisOf, one } from './append.js';
import { cast } from './elementwise.js';

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
