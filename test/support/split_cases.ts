/** Contractions that are cut along k, in every form of their partial sums. */
import type { DType } from '../../compiler/dtype.js';
import type { GraphBuilder } from '../../compiler/graph/builder.js';
import * as c from '../../compiler/graph/compose/index.js';
import { tensorOfNumbers } from '../../compiler/graph/ops/reference/data.js';
import type { Value } from '../../compiler/graph/types.js';
import type { Target } from '../../compiler/kernel/target.js';
import { contractionOf } from '../../compiler/schedule/contract/contraction.js';
import { formsOf, type Schedule } from '../../compiler/schedule/contract/index.js';
import { splitInto } from '../../compiler/schedule/contract/split_k.js';
import type { Group } from '../../compiler/schedule/group.js';
import type { ContractionCase } from './contractions.js';

/** All forms of a group's contraction in `count` slices, of all of k or but for `left` steps. */
export function splitForms(group: Group, target: Target, count: number, left = 0): readonly Schedule[] {
  const { k } = contractionOf(group);
  const length = Math.floor((k - left) / count);
  return splitInto(group, target, { count, length }, (sliced) => formsOf(sliced, target));
}

const convAttrs = {
  ...{ strides: [1, 1], padLow: [1, 1], padHigh: [1, 1] },
  ...{ dilations: [1, 1], inputDilation: [1, 1], groups: 1 },
};
const relu = (b: GraphBuilder, y: Value, bias: Value) => c.relu(b, c.add(b, y, bias));

/** Products and convolutions with long sums of one float type, and all that may be around them. */
export const splitCases = (dtype: DType): readonly ContractionCase[] => [
  { name: 'one row by weights', build: (b, x, w) => c.matmul(b, x(dtype, [1, 256]), w(dtype, [256, 40])) },
  { name: 'rows by odd weights', build: (b, x, w) => c.matmul(b, x(dtype, [5, 131]), w(dtype, [131, 37])) },
  { name: 'weights by a column', build: (b, x, w) => c.matmul(b, w(dtype, [40, 128]), x(dtype, [128, 1])) },
  { name: 'two vectors', build: (b, x) => c.matmul(b, x(dtype, [1, 201]), x(dtype, [201, 1])) },
  {
    name: 'bias and relu, two results',
    build: (b, x, w) => {
      const y = c.add(b, c.matmul(b, x(dtype, [18, 192]), w(dtype, [192, 24])), w(dtype, [24]));
      b.output('z', y);
      return c.relu(b, y);
    },
  },
  {
    name: 'both transposed, result too',
    build: (b, x) => {
      const [p, q] = [x(dtype, [160, 20]), x(dtype, [33, 160])].map((value) => c.transpose(b, value, [1, 0]));
      return c.transpose(b, c.relu(b, c.matmul(b, p, q)), [1, 0]);
    },
  },
  {
    name: 'batched, bias and relu',
    build: (b, x, w) => relu(b, c.matmul(b, x(dtype, [3, 9, 136]), w(dtype, [3, 136, 20])), w(dtype, [20])),
  },
  {
    name: 'gradient of weights, over batches and rows',
    build: (b, x) =>
      b.op('dot', [x(dtype, [4, 16, 12]), x(dtype, [4, 16, 20])], {
        ...{ lhsBatch: [], rhsBatch: [], lhsContract: [0, 1], rhsContract: [0, 1], dtype },
      })[0],
  },
  {
    name: 'conv, bias and relu',
    build: (b, x, w) =>
      relu(
        b,
        b.op('conv', [x(dtype, [2, 12, 4, 5]), w(dtype, [10, 12, 3, 3])], { ...convAttrs, dtype })[0],
        w(dtype, [10, 1, 1]),
      ),
  },
  {
    name: 'strided conv in groups',
    build: (b, x, w) =>
      b.op('conv', [x(dtype, [2, 16, 5, 7]), w(dtype, [12, 8, 3, 3])], {
        ...{ ...convAttrs, dtype, groups: 2 },
        strides: [2, 2],
      })[0],
  },
  {
    name: 'pointwise conv of one pixel',
    build: (b, x, w) =>
      b.op('conv', [x(dtype, [1, 144, 1, 1]), w(dtype, [20, 144, 1, 1])], {
        ...{ ...convAttrs, dtype },
        ...{ padLow: [0, 0], padHigh: [0, 0] },
      })[0],
  },
];

/** Integers as quantised models hold them: bytes behind casts, zero points, weights in wider types. */
export const splitByteCases: readonly ContractionCase[] = [
  {
    name: 'bytes',
    build: (b, x) => c.matmul(b, c.cast(b, x('i8', [9, 192]), 'i32'), c.cast(b, x('i8', [192, 20]), 'i32')),
  },
  {
    name: 'u8 with a zero point by constant i8 held in i32',
    build: (b, x, w) => {
      const zero = b.constant(tensorOfNumbers('i32', [], [77]));
      return c.matmul(b, c.sub(b, c.cast(b, x('u8', [17, 150]), 'i32'), zero), w('i32', [150, 20]));
    },
  },
  {
    name: 'batched, transposed u8 by u8',
    build: (b, x) => {
      const left = c.transpose(b, c.cast(b, x('u8', [2, 136, 11]), 'i32'), [0, 2, 1]);
      return c.matmul(b, left, c.cast(b, x('u8', [2, 136, 20]), 'i32'));
    },
  },
  { name: 'i64', build: (b, x) => c.matmul(b, x('i64', [3, 70]), x('i64', [70, 8])) },
];

/** A product of random shape and type, perhaps batched and transposed, with an epilogue or without. */
export function randomSplit(seed: number): ContractionCase & { readonly count: number; readonly left: number } {
  let state = seed;
  const below = (count: number): number => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    return Math.floor((state / 2 ** 32) * count);
  };
  const dtype = (['f32', 'f32', 'f16', 'bf16', 'i32'] as const)[below(5)];
  const batch = below(3) === 0 ? [2 + below(2)] : [];
  const [m, n, k] = [1 + below(20), 1 + below(40), 8 + below(200)];
  const count = 2 + below(6);
  const [turnLeft, turnRight, constant, epilogue] = [below(2), below(2), below(2), below(2)];
  const side = (b: GraphBuilder, turned: number, of: Parameters<ContractionCase['build']>[1], p: number, q: number) => {
    const rank = batch.length;
    if (turned === 0) return of(dtype, [...batch, p, q]);
    const order = rank === 0 ? [1, 0] : [0, 2, 1];
    return c.transpose(b, of(dtype, [...batch, q, p]), order);
  };
  return {
    name: `${dtype} ${[...batch, m, n, k].join('×')}${turnLeft ? ' lhs turned' : ''}${turnRight ? ' rhs turned' : ''}${constant ? ', weights' : ''} in ${count}`,
    count,
    left: below(3) === 0 ? Math.min(below(7), k - count) : 0,
    build: (b, x, w) => {
      const y = c.matmul(b, side(b, turnLeft, x, m, k), side(b, turnRight, constant ? w : x, k, n));
      return epilogue ? relu(b, y, x(dtype, [n])) : y;
    },
  };
}
