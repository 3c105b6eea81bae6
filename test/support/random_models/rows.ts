/** Random rows: normalisations, softmax, reductions over any axes, scans along one. */
import type { DType } from '../../../compiler/dtype.js';
import { big, type Draft, type Extent, flag, list, type Made, one, product, rarely } from './draft.js';

const longs = [1, 2, 3, 5, 8, 9, 17, 33, 64, 100, 257, 1000, 2049] as const;

/** Extents of up to so many elements, one of them perhaps long. */
export function anyShape(d: Draft, least = 0, most = 5, elements = 20_000): Extent[] {
  const { c } = d;
  const rank = c.int(least, most);
  const shape = list(rank, () => one(c, [2, 1, 3, 4, 5, 7, 8]));
  if (rank > 0 && flag(c)) shape[flag(c) ? rank - 1 : c.int(0, rank - 1)] = one(c, longs);
  if (rank > 1 && rarely(c, 25)) shape[c.int(0, rank - 1)] = 0;
  for (let i = 0; product(shape) > elements; i = (i + 1) % rank) shape[i] = Math.ceil(shape[i] / 2);
  const extents: Extent[] = shape;
  if (rank > 0 && product(shape) > 0) extents[0] = d.vary(shape[0]);
  return extents;
}

const floats: readonly DType[] = ['f32', 'f32', 'f32', 'f32', 'f16', 'bf16', 'f64'];
const axesOf = (d: Draft, rank: number): number[] => list(rank, (i) => i).filter(() => flag(d.c));
const signed = (d: Draft, axis: number, rank: number): number => (flag(d.c) ? axis : axis - rank);

const reductions = [
  'ReduceSum',
  'ReduceMean',
  'ReduceMax',
  'ReduceMin',
  'ReduceProd',
  'ReduceL1',
  'ReduceL2',
  'ReduceLogSumExp',
  'ReduceSumSquare',
  'ReduceLogSum',
] as const;

export function reduction(d: Draft): Made {
  const { c } = d;
  const shape = anyShape(d);
  const op = one(c, reductions);
  const ints: readonly DType[] = op === 'ReduceSum' || op === 'ReduceMax' || op === 'ReduceMin' ? ['i32', 'i64'] : [];
  const dtype = one(c, [...floats, ...ints]);
  const small = op === 'ReduceProd' ? { low: 1, high: 2 } : op === 'ReduceLogSum' ? { low: 1, high: 6 } : {};
  const x = d.data(dtype, shape, { as: 'input', ...small });
  const axes = axesOf(d, shape.length);
  const keep = flag(c);
  const attrs = { keepdims: keep ? 1n : 0n };
  const result = (over: readonly number[]): Extent[] =>
    shape.flatMap((extent, i): Extent[] => (over.includes(i) ? (keep ? [1] : []) : [extent]));
  if (axes.length === 0) {
    if (flag(c)) return d.op(op, [x, d.integers([])], shape, { ...attrs, noop_with_empty_axes: 1n });
    return d.op(op, [x], result(shape.map((_, i) => i)), attrs);
  }
  const given = axes.map((axis) => signed(d, axis, shape.length));
  return d.op(op, [x, d.integers(given)], result(axes), attrs);
}

export function best(d: Draft): Made {
  const { c } = d;
  const shape = anyShape(d, 1);
  const axis = c.int(0, shape.length - 1);
  const x = d.data(one(c, ['f32', 'f16', 'i32'] as const), shape, { as: 'input' });
  if (d.size(shape[axis]) === 0) return x;
  if (flag(c)) {
    const attrs = { axis: BigInt(signed(d, axis, shape.length)), keepdims: 1n, select_last_index: flag(c) ? 1n : 0n };
    return d.op(one(c, ['ArgMax', 'ArgMin'] as const), [x], shape.with(axis, 1), attrs, 'i64');
  }
  const k = typeof shape[axis] === 'number' ? c.int(1, Math.min(9, shape[axis])) : 1;
  const [values, places] = d.several(
    'TopK',
    [x, d.integers([k])],
    { axis: BigInt(signed(d, axis, shape.length)), largest: flag(c) ? 1n : 0n },
    [
      { dtype: x.dtype, shape: shape.with(axis, k) },
      { dtype: 'i64', shape: shape.with(axis, k) },
    ],
  );
  if (flag(c)) d.output(places);
  return values;
}

export function running(d: Draft): Made {
  const { c } = d;
  const shape = anyShape(d, 1);
  const x = d.data(one(c, ['f32', 'i32', 'f32', 'i64'] as const), shape, { as: 'input' });
  const axis = d.constant({
    dtype: 'i64',
    shape: [],
    data: BigInt64Array.of(BigInt(signed(d, c.int(0, shape.length - 1), shape.length))),
  });
  return d.map('CumSum', x, { exclusive: flag(c) ? 1n : 0n, reverse: flag(c) ? 1n : 0n }, axis);
}

export function softmax(d: Draft): Made {
  const { c } = d;
  const shape = anyShape(d, 1);
  const x = d.data(one(c, floats), shape, { as: 'input' });
  const axis = BigInt(signed(d, c.int(0, shape.length - 1), shape.length));
  return d.map(one(c, ['Softmax', 'LogSoftmax', 'Softmax'] as const), x, { axis });
}

export function normalisation(d: Draft): Made {
  const { c } = d;
  const dtype = one(c, floats);
  const epsilon = one(c, [1e-5, 0.1]);
  switch (c.int(0, 6)) {
    case 0: {
      const shape = anyShape(d, 1);
      const axis =
        shape.length === 1 || typeof shape[0] === 'string' ? Math.min(1, shape.length - 1) : c.int(0, shape.length - 1);
      if (typeof shape[axis] === 'string') shape[axis] = 5;
      const tail = shape.slice(axis);
      const x = d.data(dtype, shape, { as: 'input' });
      return d.map(
        'LayerNormalization',
        x,
        { axis: BigInt(axis - shape.length), epsilon },
        d.data(dtype, tail),
        ...(flag(c) ? [d.data(dtype, tail)] : []),
      );
    }
    case 1: {
      const shape = anyShape(d, 2);
      const last = shape.at(-1) as Extent;
      const x = d.data(dtype, shape, { as: 'input' });
      return d.map('RMSNormalization', x, { axis: -1n, epsilon }, d.data(dtype, [last]));
    }
    default:
  }
  const [groups, per] = [c.int(1, 4), c.int(1, 5)];
  const channels = groups * per;
  const shape: Extent[] = [d.vary(c.int(1, 3)), channels, ...list(c.int(1, 3), () => one(c, [3, 1, 2, 5, 8, 13]))];
  const x = d.data(dtype, shape, { as: 'input' });
  const perChannel = (low = -6): Made => d.data(dtype, [channels], { low });
  switch (c.int(0, 4)) {
    case 0:
      return d.map('InstanceNormalization', x, { epsilon }, perChannel(), perChannel());
    case 1:
      return d.map('GroupNormalization', x, { epsilon, num_groups: BigInt(groups) }, perChannel(), perChannel());
    case 2:
      return d.map('BatchNormalization', x, { epsilon }, perChannel(), perChannel(), perChannel(), perChannel(1));
    case 3:
      return d.map('LRN', x, { size: BigInt(one(c, [1, 3, 4, 5])), alpha: 0.1, beta: 0.75, bias: 1 });
    default: {
      const axes = axesOf(d, shape.length);
      if (flag(c) && axes.length > 0) return d.map('MeanVarianceNormalization', x, { axes: big(axes) });
      return d.map('LpNormalization', x, { axis: BigInt(c.int(0, shape.length - 1)), p: flag(c) ? 1n : 2n });
    }
  }
}
