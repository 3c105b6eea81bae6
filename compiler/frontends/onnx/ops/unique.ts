/** Distinct elements or slices. */
import { isFloat } from '../../../dtype.js';
import {
  add,
  binary,
  binaryC,
  cast,
  concat,
  full,
  gather,
  iota,
  not,
  reduce,
  reshape,
  scalar,
  select3,
  slice1,
  sub,
  tensor,
  topK,
  transpose,
  unary,
} from '../../../graph/compose/index.js';
import { bisect, prefixSum } from '../../../graph/search.js';
import type { Value } from '../../../graph/types.js';
import { sizeOf } from '../../../tensor.js';
import type { Conversion, ConvertContext } from '../context.js';

/** NaN is the greatest value, and all NaN are the same one. */
const isNan = (c: ConvertContext, x: Value): Value =>
  isFloat(x.type.dtype) ? unary(c.b, 'is_nan', x) : full(c.b, false, 'bool', x.type.shape);

const less = (c: ConvertContext, x: Value, y: Value): Value => {
  const smaller = binary(c.b, 'lt', x, y);
  if (!isFloat(x.type.dtype)) return smaller;
  return binary(c.b, 'or', smaller, binary(c.b, 'and', isNan(c, y), not(c.b, isNan(c, x))));
};

const differ = (c: ConvertContext, x: Value, y: Value): Value => {
  const different = binary(c.b, 'ne', x, y);
  if (!isFloat(x.type.dtype)) return different;
  return binary(c.b, 'and', different, not(c.b, binary(c.b, 'and', isNan(c, x), isNan(c, y))));
};

/** Elements of a table of comparisons that are in memory at once. */
const tableLimit = 2 ** 24;

/**
 * For each row of a matrix [n, m] how many rows are less in lexicographic order (i32): equal rows get equal keys, and
 * the order of the keys is that of the rows.
 */
function keysOfRows(c: ConvertContext, rows: Value): Value {
  const [n, m] = rows.type.shape.map(Number);
  const block = Math.max(1, Math.min(n, Math.floor(tableLimit / n)));
  const all = reshape(c.b, rows, [1, n, m]);
  // The first place where two rows differ has the greatest weight; its lowest bit tells which row is greater.
  const weight = tensor(
    c.b,
    'i32',
    Array.from({ length: m }, (_, k) => 2 * (m - k)),
    [1, 1, m],
  );
  const keys: Value[] = [];
  for (let start = 0; start < n; start += block) {
    const size = Math.min(block, n - start);
    const own = reshape(c.b, slice1(c.b, rows, 0, start, size), [size, 1, m]);
    const greater = cast(c.b, less(c, all, own), 'i32');
    const code = select3(c.b, differ(c, own, all), add(c.b, weight, greater), scalar(c.b, 0, 'i32'));
    const first = reduce(c.b, 'max', code, [2]);
    keys.push(reduce(c.b, 'sum', binaryC(c.b, 'and', first, 1), [1]));
  }
  return concat(c.b, keys, 0);
}

/** Outputs: the distinct slices, where each comes first, which one each slice is, and how often each comes. */
function unique(c: ConvertContext): readonly Value[] {
  const shape = c.concreteShape(0);
  if (c.dtype(0) === 'string') c.unsupported('distinct strings');
  const flat = !c.hasAttr('axis');
  const axis = flat ? 0 : c.axis(c.int('axis'), shape.length);
  const x = flat ? reshape(c.b, c.input(0), [sizeOf(shape)]) : c.input(0);
  const n = Number(x.type.shape[axis]);
  const none = tensor(c.b, 'i64', []);
  if (n === 0) return [x, none, none, none];
  const keys = keysOf(c, x, axis);
  const { values: sorted, indices: order } = topK(c.b, keys, n, 0, false);
  const changes = differ(c, slice1(c.b, sorted, 0, 1, n - 1), slice1(c.b, sorted, 0, 0, n - 1));
  const groups = concat(
    c.b,
    [tensor(c.b, 'i32', [1]), binaryC(c.b, 'add', prefixSum(c.b, cast(c.b, changes, 'i32'), 0), 1)],
    0,
  );
  const [count] = c.demand(slice1(c.b, groups, 0, n - 1, 1), 'count');
  const starts = bisect(c.b, groups, binaryC(c.b, 'add', iota(c.b, 'i32', [count]), 1));
  const ends = concat(c.b, [slice1(c.b, starts, 0, 1, count - 1), tensor(c.b, 'i32', [n])], 0);
  const counts = cast(c.b, sub(c.b, ends, starts), 'i64');
  // Sorting is stable: the first of a group has the least index.
  const firsts = gather(c.b, order, starts, 0);
  const distinct = gather(c.b, sorted, starts, 0);
  const group = bisect(c.b, distinct, keys, (element, target) => less(c, element, target));
  if (c.flag('sorted', true)) {
    return [gather(c.b, x, firsts, axis), firsts, cast(c.b, group, 'i64'), counts];
  }
  const { values: inOrder, indices: permutation } = topK(c.b, firsts, count, 0, false);
  const rank = topK(c.b, permutation, count, 0, false).indices;
  return [gather(c.b, x, inOrder, axis), inOrder, gather(c.b, rank, group, 0), gather(c.b, counts, permutation, 0)];
}

/** A vector of numbers that order the slices as they are ordered. */
function keysOf(c: ConvertContext, x: Value, axis: number): Value {
  const shape = x.type.shape.map(Number);
  const rest = shape.filter((_, i) => i !== axis);
  const numbers = x.type.dtype === 'bool' ? cast(c.b, x, 'u8') : x;
  if (sizeOf(rest) === 0) return full(c.b, 0, 'i32', [shape[axis]]);
  const first = transpose(c.b, numbers, [axis, ...shape.map((_, i) => i).filter((i) => i !== axis)]);
  const rows = reshape(c.b, first, [shape[axis], sizeOf(rest)]);
  return sizeOf(rest) === 1 ? reshape(c.b, rows, [shape[axis]]) : keysOfRows(c, rows);
}

export const uniques: readonly Conversion[] = [{ op: 'Unique', since: 11, convert: unique }];
