/** Reductions along axes as ONNX operators. */
import { type Conversions, scalar } from './convert.js';

export const reductions: Conversions<'reduce' | 'arg_reduce' | 'cumulative' | 'top_k'> = {
  reduce: (c, { attrs: { fn, axes, keep } }, [x]) => {
    const names = {
      sum: 'ReduceSum',
      prod: 'ReduceProd',
      max: 'ReduceMax',
      min: 'ReduceMin',
      and: 'ReduceMin',
      or: 'ReduceMax',
    };
    return c.one(names[fn], [x, c.ints(axes)], { keepdims: keep ? 1n : 0n, noop_with_empty_axes: 1n });
  },
  arg_reduce: (c, { attrs: { fn, axis, keep, last } }, inputs) =>
    c.one(fn === 'max' ? 'ArgMax' : 'ArgMin', inputs, {
      axis: BigInt(axis),
      keepdims: keep ? 1n : 0n,
      select_last_index: last ? 1n : 0n,
    }),
  cumulative: (c, { attrs: { fn, axis, exclusive, reverse } }, [x]) => {
    if (fn !== 'sum' && fn !== 'prod') return c.unsupported(`running ${fn}`);
    if (fn === 'prod') c.needs(26);
    return c.one(fn === 'sum' ? 'CumSum' : 'CumProd', [x, scalar(c, axis, 'i64')], {
      exclusive: exclusive ? 1n : 0n,
      reverse: reverse ? 1n : 0n,
    });
  },
  top_k: (c, { attrs: { k, axis, largest } }, [x]) =>
    c.emit('TopK', [x, c.dims([k])], { axis: BigInt(axis), largest: largest ? 1n : 0n, sorted: 1n }, 2),
};
