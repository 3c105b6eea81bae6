/** Numpy's matmul. */
import type { DType } from '../../dtype.js';
import type { GraphBuilder } from '../builder.js';
import type { Dim } from '../dims.js';
import type { Value } from '../types.js';
import { fail, one } from './append.js';
import { broadcastShapes } from './broadcast.js';
import { reshape, squeeze, transpose, unsqueeze } from './movement.js';

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
