/** Reductions, running sums, selection of extremes. */
import { isFloat } from '../../../dtype.js';
import {
  add,
  binary,
  cast,
  mean,
  reduce,
  scalar,
  select3,
  square,
  sub,
  topK,
  unary,
  wide,
} from '../../../graph/compose/index.js';
import type { Value } from '../../../graph/types.js';
import type { Conversion, ConvertContext } from '../context.js';

/** Axes from the attribute, or from input 1 since `inputSince`; none means all, or nothing if so asked. */
function reducedAxes(c: ConvertContext, inputSince: number): readonly number[] {
  const rank = c.rank(0);
  const given = c.opset >= inputSince && c.has(1) ? c.numbers(1) : c.ints('axes');
  if (given !== undefined && given.length > 0) return c.axes(given, rank);
  return c.flag('noop_with_empty_axes') ? [] : Array.from({ length: rank }, (_, i) => i);
}

type Body = (c: ConvertContext, x: Value, axes: readonly number[], keep: boolean) => Value;

const reduction = (op: string, body: Body, inputSince = 18): Conversion => ({
  op,
  since: 1,
  convert: (c) => body(c, c.input(0), reducedAxes(c, inputSince), c.flag('keepdims', true)),
});

/** Roots and logarithms of integers are taken in f64 and converted back. */
const inFloat = (c: ConvertContext, x: Value, body: (x: Value) => Value): Value =>
  isFloat(x.type.dtype) ? wide(c.b, x, body) : cast(c.b, body(cast(c.b, x, 'f64')), x.type.dtype);

/** log Σ e^x by the maximum, which is left out where it is infinite. */
const logSumExp: Body = (c, x, axes, keep) =>
  inFloat(c, x, (v) => {
    const top = reduce(c.b, 'max', v, axes, true);
    const shift = select3(c.b, unary(c.b, 'is_inf', top), scalar(c.b, 0, v.type.dtype), top);
    const sum = reduce(c.b, 'sum', unary(c.b, 'exp', sub(c.b, v, shift)), axes, true);
    const result = add(c.b, unary(c.b, 'log', sum), shift);
    return keep ? result : c.op('reshape', [result], { shape: v.type.shape.filter((_, i) => !axes.includes(i)) });
  });

const extreme =
  (fn: 'max' | 'min'): Body =>
  (c, x, axes, keep) =>
    reduce(c.b, x.type.dtype === 'bool' ? (fn === 'max' ? 'or' : 'and') : fn, x, axes, keep);

const arg = (op: 'ArgMax' | 'ArgMin', fn: 'max' | 'min'): Conversion => ({
  op,
  since: 1,
  convert: (c) =>
    c.op('arg_reduce', [c.input(0)], {
      fn,
      axis: c.axis(c.int('axis', 0), c.rank(0)),
      keep: c.flag('keepdims', true),
      last: c.flag('select_last_index'),
    }),
});

const cumulative = (op: string, fn: 'sum' | 'prod'): Conversion => ({
  op,
  since: 11,
  convert: (c) =>
    c.op('cumulative', [c.input(0)], {
      fn,
      axis: c.axis(c.number(1), c.rank(0)),
      exclusive: c.flag('exclusive'),
      reverse: c.flag('reverse'),
    }),
});

function largest(c: ConvertContext): readonly Value[] {
  const k = c.opset < 10 ? c.int('k') : c.dim(1);
  const { values, indices } = topK(c.b, c.input(0), k, c.axis(c.int('axis', -1), c.rank(0)), c.flag('largest', true));
  return [values, indices];
}

export const reductions: readonly Conversion[] = [
  reduction('ReduceSum', (c, x, axes, keep) => reduce(c.b, 'sum', x, axes, keep), 13),
  reduction('ReduceProd', (c, x, axes, keep) => reduce(c.b, 'prod', x, axes, keep)),
  reduction('ReduceMax', extreme('max')),
  reduction('ReduceMin', extreme('min')),
  reduction('ReduceMean', (c, x, axes, keep) => mean(c.b, x, axes, keep)),
  reduction('ReduceL1', (c, x, axes, keep) => reduce(c.b, 'sum', unary(c.b, 'abs', x), axes, keep)),
  reduction('ReduceL2', (c, x, axes, keep) =>
    inFloat(c, x, (v) => unary(c.b, 'sqrt', reduce(c.b, 'sum', square(c.b, v), axes, keep))),
  ),
  reduction('ReduceLogSum', (c, x, axes, keep) =>
    inFloat(c, x, (v) => unary(c.b, 'log', reduce(c.b, 'sum', v, axes, keep))),
  ),
  reduction('ReduceLogSumExp', logSumExp),
  reduction('ReduceSumSquare', (c, x, axes, keep) =>
    isFloat(x.type.dtype)
      ? wide(c.b, x, (v) => reduce(c.b, 'sum', square(c.b, v), axes, keep))
      : reduce(c.b, 'sum', binary(c.b, 'mul', x, x), axes, keep),
  ),
  arg('ArgMax', 'max'),
  arg('ArgMin', 'min'),
  cumulative('CumSum', 'sum'),
  cumulative('CumProd', 'prod'),
  { op: 'TopK', since: 1, convert: largest },
];
