/**
 * Random graphs of several ops, for the property that every backend computes what the reference evaluation does. Values
 * stay moderate, and what is discontinuous (comparisons, rounding, picking the greatest) only sees values that are exact
 * in all types of arithmetic, so that a tolerance can tell right from wrong.
 */
import type { DType } from '../../compiler/dtype.js';
import { GraphBuilder } from '../../compiler/graph/builder.js';
import * as ops from '../../compiler/graph/compose/index.js';
import type { BinaryOp, Graph, UnaryOp, Value } from '../../compiler/graph/types.js';
import { type HostTensor, sizeOf } from '../../compiler/tensor.js';
import type { Chooser } from './graph_cases.js';

/** Multiples of ½ up to 3, the same for equal names, shapes and seeds. */
export function inputsFor(graph: Graph, seed: number): Record<string, HostTensor> {
  let state = seed >>> 0;
  const next = (): number => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    return (state >>> 16) % 13;
  };
  return Object.fromEntries(
    graph.inputs.map(({ name, type }): [string, HostTensor] => {
      const shape = type.shape as readonly number[];
      const data = Array.from({ length: sizeOf(shape) }, () => (next() - 6) / 2);
      if (type.dtype === 'i32') return [name, { dtype: 'i32', shape, data: Int32Array.from(data) }];
      return [name, { dtype: 'f32', shape, data: Float32Array.from(data) }];
    }),
  );
}

interface Made {
  readonly value: Value;
  /** Largest magnitude that an element may have. */
  readonly bound: number;
  /** A multiple of ¼ that f32 holds, on every device. */
  readonly exact: boolean;
}

const dims = (value: Value): readonly number[] => value.type.shape as readonly number[];
const rankOf = (value: Value): number => dims(value).length;
/** Whether `from` broadcasts to `to` as it is. */
const broadcastable = (from: readonly number[], to: readonly number[]): boolean =>
  from.length <= to.length && from.every((dim, i) => dim === 1 || dim === to[i + to.length - from.length]);
const pick = <T>(c: Chooser, list: readonly T[]): T => list[c.int(0, list.length - 1)];

type Rule = (c: Chooser, b: GraphBuilder, x: Made, others: readonly Made[]) => Made | undefined;

const smooth: readonly UnaryOp[] = ['tanh', 'sin', 'cos', 'erf', 'atan', 'asinh'];
const stepped: readonly UnaryOp[] = ['floor', 'ceil', 'round', 'sign', 'trunc'];

const unaryExact: Rule = (c, b, x) => {
  const fn = pick(c, ['neg', 'abs'] as const);
  return { ...x, value: ops.unary(b, fn, x.value) };
};
const unarySmooth: Rule = (c, b, x) => ({
  value: ops.unary(b, pick(c, smooth), x.value),
  bound: Math.max(4, x.bound),
  exact: false,
});
const unaryStepped: Rule = (c, b, x) =>
  x.exact ? { value: ops.unary(b, pick(c, stepped), x.value), bound: x.bound + 1, exact: true } : undefined;
const root: Rule = (_, b, x) => ({
  value: ops.unary(b, 'sqrt', ops.unary(b, 'abs', x.value)),
  bound: x.bound + 1,
  exact: false,
});

/** A second operand of the shape, or a broadcast of a part of it. */
function partner(c: Chooser, b: GraphBuilder, x: Made, others: readonly Made[]): Made {
  const same = others.filter(({ value }) => broadcastable(dims(value), dims(x.value)));
  if (same.length > 0 && c.int(0, 3) > 0) return pick(c, same);
  const number = c.int(-4, 4) / 2;
  return { value: ops.scalar(b, number, 'f32'), bound: Math.abs(number), exact: true };
}
const arithmetic: Rule = (c, b, x, others) => {
  const y = partner(c, b, x, others);
  const fn: BinaryOp = pick(c, ['add', 'sub', 'mul', 'max', 'min']);
  const bound =
    fn === 'mul' ? x.bound * y.bound : fn === 'max' || fn === 'min' ? Math.max(x.bound, y.bound) : x.bound + y.bound;
  // Products of multiples of ½ are multiples of ¼; further ones would have to be rounded.
  const exact = x.exact && y.exact && fn !== 'mul';
  return bound > 1e4 ? undefined : { value: ops.binary(b, fn, x.value, y.value), bound, exact };
};
const choice: Rule = (c, b, x, others) => {
  const y = partner(c, b, x, others);
  const test = [x, ...others].find(({ exact, value }) => exact && broadcastable(dims(value), dims(x.value)));
  if (test === undefined) return undefined;
  const condition = ops.binary(
    b,
    pick(c, ['lt', 'ge', 'eq'] as const),
    test.value,
    ops.scalar(b, c.int(-2, 2) / 2, 'f32'),
  );
  const value = ops.broadcastTo(b, ops.select3(b, condition, x.value, y.value), dims(x.value));
  return { value, bound: Math.max(x.bound, y.bound), exact: x.exact && y.exact };
};
const clamped: Rule = (c, b, x) => {
  const low = c.int(-4, 0) / 2;
  return { ...x, value: ops.clamp(b, x.value, low, low + c.int(1, 6) / 2), bound: 5 };
};
const whole: Rule = (c, b, x) => {
  if (!x.exact) return undefined;
  const dtype: DType = pick(c, ['i32', 'i64', 'i16', 'f16', 'bf16', 'f64'] as const);
  if (x.bound > 100) return undefined;
  return { ...x, value: ops.cast(b, ops.cast(b, x.value, dtype), 'f32') };
};

const moved: Rule = (c, b, x) => {
  const rank = rankOf(x.value);
  if (rank < 2) return undefined;
  const order = Array.from({ length: rank }, (_, i) => i);
  const [p, q] = [c.int(0, rank - 1), c.int(0, rank - 1)];
  [order[p], order[q]] = [order[q], order[p]];
  return { ...x, value: ops.transpose(b, x.value, order) };
};
const flat: Rule = (_, b, x) => ({ ...x, value: ops.reshape(b, x.value, [sizeOf(dims(x.value))]) });
const split: Rule = (_, b, x) => {
  const size = sizeOf(dims(x.value));
  const factor = [4, 3, 2, 5].find((f) => size % f === 0);
  return factor === undefined ? undefined : { ...x, value: ops.reshape(b, x.value, [factor, size / factor]) };
};
const sliced: Rule = (c, b, x) => {
  const rank = rankOf(x.value);
  if (rank === 0) return undefined;
  const axis = c.int(0, rank - 1);
  const size = dims(x.value)[axis];
  const step = size > 2 ? pick(c, [1, 2, -1] as const) : 1;
  const count = c.int(1, Math.max(1, Math.floor(size / Math.abs(step))));
  return { ...x, value: ops.slice1(b, x.value, axis, step < 0 ? count - 1 : 0, count, step) };
};
const padded: Rule = (c, b, x) => {
  const low = dims(x.value).map(() => c.int(0, 1));
  const high = dims(x.value).map(() => c.int(0, 2));
  return sizeOf(dims(x.value)) > 200
    ? undefined
    : { ...x, value: ops.pad(b, x.value, low, high, ops.scalar(b, 0.5, 'f32')) };
};
const joined: Rule = (c, b, x, others) => {
  const rank = rankOf(x.value);
  if (rank === 0 || sizeOf(dims(x.value)) > 200) return undefined;
  const axis = c.int(0, rank - 1);
  const fits = [x, ...others].filter(
    ({ value }) => rankOf(value) === rank && dims(value).every((d, i) => i === axis || d === dims(x.value)[i]),
  );
  const y = pick(c, fits);
  return {
    value: ops.concat(b, [x.value, y.value], axis),
    bound: Math.max(x.bound, y.bound),
    exact: x.exact && y.exact,
  };
};
const gathered: Rule = (c, b, x) => {
  const rank = rankOf(x.value);
  if (rank === 0) return undefined;
  const axis = c.int(0, rank - 1);
  const size = dims(x.value)[axis];
  const places = BigInt64Array.from({ length: c.int(1, 4) }, () => BigInt(c.int(-size, size - 1)));
  return {
    ...x,
    value: ops.gather(b, x.value, b.constant({ dtype: 'i64', shape: [places.length], data: places }), axis),
  };
};

const axesOf = (c: Chooser, x: Made): number[] => {
  const rank = rankOf(x.value);
  const axes = Array.from({ length: rank }, (_, i) => i).filter(() => c.int(0, 1) === 1);
  return axes.length === 0 && rank > 0 ? [rank - 1] : axes;
};
const reduced: Rule = (c, b, x) => {
  const fn = pick(c, ['sum', 'max', 'min'] as const);
  const axes = axesOf(c, x);
  const count = axes.reduce((product, axis) => product * dims(x.value)[axis], 1);
  const bound = fn === 'sum' ? x.bound * count : x.bound;
  if (bound > 1e4) return undefined;
  return { value: ops.reduce(b, fn, x.value, axes, c.int(0, 1) === 1), bound, exact: x.exact };
};
const running: Rule = (c, b, x) => {
  const rank = rankOf(x.value);
  if (rank === 0) return undefined;
  const axis = c.int(0, rank - 1);
  const bound = x.bound * dims(x.value)[axis];
  if (bound > 1e4) return undefined;
  const attrs = { fn: 'sum', axis, exclusive: c.int(0, 1) === 1, reverse: c.int(0, 1) === 1 } as const;
  return { value: b.op('cumulative', [x.value], attrs)[0], bound, exact: x.exact };
};
const softened: Rule = (c, b, x) =>
  rankOf(x.value) === 0
    ? undefined
    : { value: ops.softmax(b, x.value, [c.int(0, rankOf(x.value) - 1)]), bound: 1, exact: false };
const normal: Rule = (c, b, x) => {
  if (rankOf(x.value) === 0) return undefined;
  const attrs = { axes: axesOf(c, x), epsilon: 0.1, center: c.int(0, 1) === 1, statistics: false };
  return { value: b.op('normalize', [x.value], attrs)[0], bound: 32, exact: false };
};
const product: Rule = (c, b, x, others) => {
  if (rankOf(x.value) === 0) return undefined;
  const inner = dims(x.value)[rankOf(x.value) - 1];
  const fits = others.filter(({ value }) => rankOf(value) === 2 && dims(value)[0] === inner);
  const y = fits.length > 0 ? pick(c, fits) : { value: weights(b, inner, c.int(1, 5)), bound: 1, exact: true };
  const bound = x.bound * y.bound * inner;
  return bound > 1e4 ? undefined : { value: ops.matmul(b, x.value, y.value), bound, exact: false };
};
const weights = (b: GraphBuilder, rows: number, columns: number): Value => {
  const data = Float32Array.from({ length: rows * columns }, (_, i) => ((i * 7) % 5) / 2 - 1);
  return b.constant({ dtype: 'f32', shape: [rows, columns], data });
};
const greatest: Rule = (c, b, x) => {
  const rank = rankOf(x.value);
  if (!x.exact || rank === 0) return undefined;
  const best = ops.argReduce(b, pick(c, ['max', 'min'] as const), x.value, c.int(0, rank - 1), c.int(0, 1) === 1);
  return { value: ops.cast(b, best, 'f32'), bound: 64, exact: true };
};

const rules: readonly Rule[] = [
  unaryExact,
  unarySmooth,
  unaryStepped,
  root,
  arithmetic,
  arithmetic,
  choice,
  clamped,
  whole,
  moved,
  flat,
  split,
  sliced,
  padded,
  joined,
  gathered,
  reduced,
  running,
  softened,
  normal,
  product,
  greatest,
];

/** A graph of up to `most` steps over a few inputs; its outputs are the last value and one in the middle. */
export function randomGraph(c: Chooser, most: number): Graph {
  const b = new GraphBuilder('random');
  const shapes: readonly (readonly number[])[] = [[2, 3, 4], [3, 4], [4], [5, 4], [1, 3, 1], [2, 1, 7]];
  const made: Made[] = Array.from({ length: c.int(1, 3) }, (_, i) => {
    return { value: b.input(`x${i}`, 'f32', pick(c, shapes)), bound: 3, exact: true };
  });
  const count = c.int(1, most);
  for (let i = 0; i < count; i++) {
    const x = c.int(0, 2) === 0 ? pick(c, made) : made[made.length - 1];
    const next = pick(c, rules)(c, b, x, made);
    if (next !== undefined && sizeOf(dims(next.value)) > 0) made.push(next);
  }
  b.output('last', made[made.length - 1].value);
  b.output('middle', made[Math.floor(made.length / 2)].value);
  return b.finish();
}
