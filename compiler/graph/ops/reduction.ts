/** Reductions over axes, running reductions and selection of extremes. */
import type { OpDefinition } from '../definition.js';
import type { Dim } from '../dims.js';
import type { OpKind } from '../types.js';
import { checkAxes, checkAxis, checkDType, checkShape, define } from './common.js';
import { cumulativeGradient, noGradient, reduceGradient, topKGradient } from './gradients/structure.js';
import * as reference from './reference/reduction.js';

const reduced = (shape: readonly Dim[], axes: readonly number[], keep: boolean): Dim[] =>
  shape.flatMap((dim, i) => (axes.includes(i) ? (keep ? [1] : []) : [dim]));

const reduce = define<'reduce'>({
  kind: 'reduce',
  summary: 'Sum, product, extreme, conjunction or disjunction over axes; the identity where they are empty',
  arity: 1,
  family: 'rows',
  infer(context) {
    const {
      attrs: { fn, axes, keep },
      inputs: [x],
    } = context;
    checkDType(context, x.dtype, fn === 'and' || fn === 'or' ? 'bool' : 'numeric', `the input of reduce ${fn}`);
    checkAxes(context, axes, x.shape.length);
    return [{ dtype: x.dtype, shape: reduced(x.shape, axes, keep) }];
  },
  evaluate: ({ attrs, inputs: [x], outputs: [{ shape }] }) => [reference.reduce(x, shape, attrs.fn, attrs.axes)],
  gradient: reduceGradient,
});

const argReduce = define<'arg_reduce'>({
  kind: 'arg_reduce',
  summary: 'i64 index of the extreme along an axis, the first or the last of equals; NaN counts as the extreme',
  arity: 1,
  family: 'rows',
  infer(context) {
    const {
      attrs: { fn, axis, keep },
      inputs: [x],
    } = context;
    checkDType(context, x.dtype, 'ordered', `the input of arg_reduce ${fn}`);
    checkAxis(context, axis, x.shape.length);
    if (x.shape[axis] === 0) context.fail('arg_reduce over an empty axis');
    return [{ dtype: 'i64', shape: reduced(x.shape, [axis], keep) }];
  },
  evaluate: ({ attrs, inputs: [x], outputs: [{ shape }] }) => [
    reference.argReduce(x, shape, attrs.fn, attrs.axis, attrs.last),
  ],
  gradient: noGradient,
});

const cumulative = define<'cumulative'>({
  kind: 'cumulative',
  summary: 'Running sum, product or extreme along an axis; `exclusive` leaves out the element itself',
  arity: 1,
  family: 'rows',
  infer(context) {
    const {
      attrs: { fn, axis },
      inputs: [x],
    } = context;
    checkDType(context, x.dtype, 'numeric', `the input of cumulative ${fn}`);
    checkAxis(context, axis, x.shape.length);
    return [x];
  },
  evaluate: ({ attrs, inputs: [x] }) => [reference.cumulative(x, attrs)],
  gradient: cumulativeGradient,
});

const topK = define<'top_k'>({
  kind: 'top_k',
  summary: 'The k greatest or smallest along an axis, sorted, and their i64 indices; stable, NaN is the greatest',
  arity: 1,
  family: 'special',
  infer(context) {
    const {
      attrs: { k, axis },
      inputs: [x],
    } = context;
    checkDType(context, x.dtype, 'numeric', 'the input of top_k');
    checkAxis(context, axis, x.shape.length);
    checkShape(context, [k], 'k');
    const length = x.shape[axis];
    if (typeof k === 'number' && typeof length === 'number' && k > length) {
      context.fail('k of top_k exceeds the axis', `at most ${length}`, String(k));
    }
    const shape = x.shape.map((dim, i) => (i === axis ? k : dim));
    return [
      { dtype: x.dtype, shape },
      { dtype: 'i64', shape },
    ];
  },
  evaluate: ({ attrs, inputs: [x], outputs: [{ shape }] }) => reference.topK(x, shape, attrs.axis, attrs.largest),
  gradient: topKGradient,
});

export const reduction = { reduce, arg_reduce: argReduce, cumulative, top_k: topK } satisfies {
  readonly [K in ('reduce' | 'arg_reduce' | 'cumulative' | 'top_k') & OpKind]: OpDefinition<K>;
};
