/**
 * Counting and searching: running sums that are not serial, bounds in sorted vectors, places where a condition holds.
 * With these, ops whose number of results depends on data need only the count from outside.
 */
import type { GraphBuilder } from './builder.js';
import {
  add,
  axisOf,
  binary,
  binaryC,
  broadcastTo,
  cast,
  full,
  gather,
  iota,
  pad,
  reshape,
  select3,
  slice1,
  sub,
} from './compose/index.js';
import type { Value } from './types.js';

/** Longer axes are summed in blocks of about the root of their length, side by side. */
const serialLimit = 256;

/** Inclusive running sums along a concrete axis. */
export function prefixSum(b: GraphBuilder, x: Value, axis: number): Value {
  const at = axisOf(b, axis, x.type.shape.length);
  const length = Number(x.type.shape[at]);
  if (length <= serialLimit)
    return b.op('cumulative', [x], { fn: 'sum', axis: at, exclusive: false, reverse: false })[0];
  const width = Math.ceil(Math.sqrt(length));
  const blocks = Math.ceil(length / width);
  const { shape } = x.type;
  const [before, after] = [shape.slice(0, at), shape.slice(at + 1)];
  const none = shape.map(() => 0);
  const padded = pad(
    b,
    x,
    none,
    none.map((_, i) => (i === at ? blocks * width - length : 0)),
  );
  const rows = prefixSum(b, reshape(b, padded, [...before, blocks, width, ...after]), at + 1);
  const totals = slice1(b, rows, at + 1, width - 1, 1);
  const offsets = sub(b, prefixSum(b, totals, at), totals);
  const sums = reshape(b, add(b, rows, offsets), [...before, blocks * width, ...after]);
  return slice1(b, sums, at, 0, length);
}

/**
 * For each target the number of leading elements of `sorted` (a concrete vector) for which `precedes` holds, in i32,
 * by bisection: once it fails it must fail for all later elements. `precedes` gets two values of the targets' shape.
 */
export function bisect(
  b: GraphBuilder,
  sorted: Value,
  targets: Value,
  precedes: (element: Value, target: Value) => Value = (element, target) => binary(b, 'lt', element, target),
): Value {
  const length = Number(sorted.type.shape[0]);
  let position = full(b, 0, 'i32', targets.type.shape);
  if (length === 0) return position;
  for (let step = 2 ** Math.floor(Math.log2(length)); step >= 1; step /= 2) {
    const next = binaryC(b, 'add', position, step);
    const element = gather(b, sorted, binaryC(b, 'sub', next, 1), 0);
    const within = binary(b, 'and', binaryC(b, 'le', next, length), precedes(element, targets));
    position = select3(b, within, next, position);
  }
  return position;
}

/** Indices (i32, ascending) of the `count` places of a concrete bool vector that are true. */
export function placesOf(b: GraphBuilder, mask: Value, count: number): Value {
  const sums = prefixSum(b, cast(b, mask, 'i32'), 0);
  return bisect(b, sums, binaryC(b, 'add', iota(b, 'i32', [count]), 1));
}

/** How many elements of a bool tensor are true: an i32 scalar. */
export function countOf(b: GraphBuilder, mask: Value): Value {
  const axes = mask.type.shape.map((_, i) => i);
  return b.op('reduce', [cast(b, mask, 'i32')], { fn: 'sum', axes, keep: false })[0];
}

/** A vector repeated as the rows of a matrix [rows, n]. */
export const asRows = (b: GraphBuilder, vector: Value, rows: number): Value =>
  broadcastTo(b, reshape(b, vector, [1, vector.type.shape[0]]), [rows, vector.type.shape[0]]);
