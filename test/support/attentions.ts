/** Attention as models write it, at ragged sizes: for every form and every device. */
import type { DType } from '../../compiler/dtype.js';
import { GraphBuilder } from '../../compiler/graph/builder.js';
import * as c from '../../compiler/graph/compose/index.js';
import { numbersOf, tensorOfNumbers } from '../../compiler/graph/ops/reference/data.js';
import type { Graph, Value } from '../../compiler/graph/types.js';
import { type HostTensor, sizeOf } from '../../compiler/tensor.js';

/** About normal, from a seed. */
function numbers(dtype: DType, shape: readonly number[], seed: number): HostTensor {
  let state = seed * 7919 + 1;
  const next = (): number => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    return state / 2 ** 32 - 0.5;
  };
  return tensorOfNumbers(
    dtype,
    shape,
    Array.from({ length: sizeOf(shape) }, () => 2 * (next() + next() + next())),
  );
}

export interface BuiltAttention {
  readonly graph: Graph;
  readonly inputs: Readonly<Record<string, HostTensor>>;
}
type Make = (shape: readonly number[], dtype?: DType) => Value;

export function built(build: (b: GraphBuilder, input: Make) => Value, dtype: DType = 'f32'): BuiltAttention {
  const b = new GraphBuilder('attention');
  const inputs: Record<string, HostTensor> = {};
  const input: Make = (shape, type = dtype) => {
    const name = `x${Object.keys(inputs).length}`;
    const values = numbers(type === 'bool' ? 'f32' : type, shape, Object.keys(inputs).length + 1);
    inputs[name] =
      type === 'bool'
        ? tensorOfNumbers(
            'bool',
            shape,
            [...numbersOf(values)].map((x) => Number(x > -0.3)),
          )
        : values;
    return b.input(name, type, shape);
  };
  b.output('y', build(b, input));
  return { graph: b.finish(), inputs };
}

export const swap = (b: GraphBuilder, x: Value): Value => c.swapAxes(b, x, -1, -2);
const infinite = Number.NEGATIVE_INFINITY;

/** Keys up to row + shift. */
export function causal(b: GraphBuilder, scores: Value, shift = 0, window?: number): Value {
  const square = scores.type.shape.slice(-2);
  const row = c.binaryC(b, 'add', c.iota(b, 'i64', square, 0), shift);
  const column = c.iota(b, 'i64', square, 1);
  const seen = c.binary(b, 'le', column, row);
  const near =
    window === undefined ? seen : c.binary(b, 'and', seen, c.binary(b, 'gt', column, c.binaryC(b, 'sub', row, window)));
  return c.select3(b, near, scores, c.scalar(b, infinite, scores.type.dtype));
}

export interface AttentionCase {
  readonly name: string;
  readonly build: (b: GraphBuilder, input: Make) => Value;
  readonly dtype?: DType;
  readonly tolerance?: number;
}

export const plain =
  (
    shape: readonly number[],
    keys: number,
    width: number,
    change?: (b: GraphBuilder, scores: Value, input: Make) => Value,
  ) =>
  (b: GraphBuilder, input: Make): Value => {
    const [outer, depth] = [shape.slice(0, -2), shape[shape.length - 1]];
    const [q, k, v] = [input(shape), input([...outer, keys, depth]), input([...outer, keys, width])];
    const scores = c.binaryC(b, 'mul', c.matmul(b, q, swap(b, k)), 1 / Math.sqrt(depth));
    return c.matmul(b, c.softmax(b, change ? change(b, scores, input) : scores, [-1]), v);
  };

export const attentionCases: readonly AttentionCase[] = [
  { name: 'as it is', build: plain([2, 3, 32, 16], 24, 16) },
  { name: 'ragged', build: plain([1, 2, 21, 10], 37, 13) },
  { name: 'without heads', build: plain([40, 8], 40, 8) },
  { name: 'many keys', build: plain([1, 1, 17, 8], 301, 20) },
  { name: 'few queries', build: plain([2, 2, 3, 24], 75, 9) },
  { name: 'one query', build: plain([1, 4, 1, 40], 131, 24) },
  { name: 'one query of one head', build: plain([1, 64], 700, 48) },
  { name: 'causal', build: plain([1, 2, 70, 8], 70, 8, (b, s) => causal(b, s)) },
  { name: 'causal after a past', build: plain([1, 2, 33, 8], 90, 8, (b, s) => causal(b, s, 57)) },
  { name: 'window', build: plain([1, 1, 150, 8], 150, 8, (b, s) => causal(b, s, 0, 20)) },
  { name: 'hidden rows', build: plain([1, 1, 40, 8], 200, 8, (b, s) => causal(b, s, -9)) },
  {
    name: 'mask of keys',
    build: plain([2, 2, 20, 8], 33, 8, (b, s, input) =>
      c.select3(b, input([2, 1, 1, 33], 'bool'), s, c.scalar(b, infinite, s.type.dtype)),
    ),
  },
  {
    name: 'bias of pairs',
    build: plain([1, 3, 20, 8], 35, 8, (b, s, input) => c.add(b, s, input([3, 20, 35]))),
  },
  {
    name: 'soft cap',
    build: plain([1, 2, 20, 8], 35, 8, (b, s) => c.binaryC(b, 'mul', c.unary(b, 'tanh', c.binaryC(b, 'div', s, 2)), 2)),
  },
  {
    name: 'constant causal mask',
    build: plain([1, 1, 50, 8], 50, 8, (b, s) =>
      c.add(
        b,
        s,
        c.cast(
          b,
          c.tensor(
            b,
            'f32',
            Array.from({ length: 2500 }, (_, i) => (i % 50 > i / 50 ? infinite : 0)),
            [50, 50],
          ),
          s.type.dtype,
        ),
      ),
    ),
  },
  {
    name: 'grouped heads',
    build: (b, input) => {
      const [q, k, v] = [input([2, 3, 2, 18, 8]), input([2, 3, 25, 8]), input([2, 3, 25, 12])];
      const shared = (x: Value) => c.unsqueeze(b, x, [2]);
      const scores = c.matmul(b, q, swap(b, shared(k)));
      const joined = causal(b, c.reshape(b, scores, [2, 6, 18, 25]), 7);
      const weights = c.reshape(b, c.softmax(b, joined, [3]), [2, 3, 2, 18, 25]);
      return c.reshape(b, c.matmul(b, weights, shared(v)), [2, 6, 18, 12]);
    },
  },
  {
    name: 'grouped heads, one query',
    build: (b, input) => {
      const [q, k, v] = [input([1, 2, 4, 1, 16]), input([1, 2, 90, 16]), input([1, 2, 90, 8])];
      const shared = (x: Value) => c.unsqueeze(b, x, [2]);
      return c.matmul(b, c.softmax(b, c.matmul(b, q, swap(b, shared(k))), [-1]), shared(v));
    },
  },
  {
    name: 'repeated heads',
    build: (b, input) => {
      const q = input([2, 4, 18, 8]);
      const repeat = (x: Value, width: number) =>
        c.reshape(b, c.broadcastTo(b, c.unsqueeze(b, x, [2]), [2, 2, 2, 25, width]), [2, 4, 25, width]);
      const [k, v] = [repeat(input([2, 2, 25, 8]), 8), repeat(input([2, 2, 25, 12]), 12)];
      return c.matmul(b, c.softmax(b, c.matmul(b, q, swap(b, k)), [-1]), v);
    },
  },
  {
    name: 'repeated heads, one query',
    build: (b, input) => {
      const q = input([2, 6, 1, 8]);
      const repeat = (x: Value, width: number) =>
        c.reshape(b, c.broadcastTo(b, c.unsqueeze(b, x, [2]), [2, 2, 3, 75, width]), [2, 6, 75, width]);
      const [k, v] = [repeat(input([2, 2, 75, 8]), 8), repeat(input([2, 2, 75, 12]), 12)];
      const scores = c.add(b, c.matmul(b, q, swap(b, k)), input([2, 6, 1, 75]));
      return c.matmul(b, c.softmax(b, c.binaryC(b, 'mul', scores, 0.3), [-1]), v);
    },
  },
  {
    name: 'split and joined heads',
    build: (b, input) => {
      const heads = (x: Value) => c.transpose(b, c.reshape(b, x, [2, 20, 3, 8]), [0, 2, 1, 3]);
      const [q, k, v] = [heads(input([2, 20, 24])), heads(input([2, 20, 24])), heads(input([2, 20, 24]))];
      const y = c.matmul(b, c.softmax(b, c.matmul(b, q, swap(b, k)), [-1]), v);
      return c.binaryC(b, 'add', c.reshape(b, c.transpose(b, y, [0, 2, 1, 3]), [2, 20, 24]), 1);
    },
  },
  {
    name: 'turned about',
    build: (b, input) => {
      const [q, k, v] = [input([2, 20, 8]), input([2, 30, 8]), input([2, 9, 30])];
      const weights = c.softmax(b, c.matmul(b, k, swap(b, q)), [1]);
      return c.matmul(b, v, weights);
    },
  },
  { name: 'ragged keys', build: plain([1, 2, 70, 24], 131, 40) },
  { name: 'wide heads', build: plain([1, 1, 150, 128], 150, 72, (b, s) => causal(b, s)) },
  {
    name: 'grouped heads of whole vectors',
    build: (b, input) => {
      const [q, k, v] = [input([1, 2, 3, 30, 32]), input([1, 2, 90, 32]), input([1, 2, 90, 64])];
      const shared = (x: Value) => c.unsqueeze(b, x, [2]);
      const scores = c.binaryC(b, 'mul', c.matmul(b, q, swap(b, shared(k))), 0.2);
      return c.matmul(b, c.softmax(b, scores, [-1]), shared(v));
    },
  },
  { name: 'f16', build: plain([1, 2, 19, 16], 40, 16), dtype: 'f16', tolerance: 4e-3 },
  { name: 'bf16', build: plain([1, 2, 19, 16], 40, 16), dtype: 'bf16', tolerance: 3e-2 },
  { name: 'f64', build: plain([1, 2, 19, 16], 40, 16), dtype: 'f64', tolerance: 1e-12 },
  { name: 'f16, one query', build: plain([1, 2, 1, 16], 140, 16), dtype: 'f16', tolerance: 4e-3 },
];
