/** Random movement of data: gather and scatter, pads, joins and cuts, depth and space. */
import type { DType } from '../../../compiler/dtype.js';
import { big, type Draft, type Extent, flag, list, type Made, one, rarely } from './draft.js';
import { anyShape } from './rows.js';

const types: readonly DType[] = ['f32', 'f32', 'f32', 'f16', 'i32', 'i64', 'u8', 'bool', 'i8', 'bf16'];
const known = (d: Draft, x: Made): number[] =>
  x.shape.flatMap((extent, i) => (typeof extent === 'number' && extent > 0 && d.elements(x.shape) > 0 ? [i] : []));

const indices = (d: Draft, shape: readonly number[], low: number, high: number): Made =>
  d.data(one(d.c, ['i64', 'i32'] as const), shape, { low, high });

/** A value moved about in one of many ways; itself where none fits. */
export function moved(d: Draft, x: Made): Made {
  const { c } = d;
  const { shape } = x;
  const rank = shape.length;
  const axes = known(d, x);
  if (rank === 0 || axes.length === 0) return d.op('Unsqueeze', [x, d.integers([0])], [1, ...shape]);
  const axis = one(c, axes);
  const extent = shape[axis] as number;
  const attr = { axis: BigInt(flag(c) ? axis : axis - rank) };
  switch (c.int(0, 10)) {
    case 0: {
      const order = list(rank, (i) => i);
      const mixed = list(rank, () => order.splice(c.int(0, order.length - 1), 1)[0]);
      return d.op(
        'Transpose',
        [x],
        mixed.map((i) => shape[i]),
        { perm: big(mixed) },
      );
    }
    case 1: {
      const step = one(c, [1, 1, 2, -1, -2, 3]);
      const [from, to] = [c.int(0, extent - 1), c.int(0, extent - 1)];
      const [least, greatest] = [Math.min(from, to), Math.max(from, to)];
      const [low, high] = step > 0 ? [least, greatest + c.int(0, 1)] : [greatest, least - c.int(0, 1)];
      const count = Math.max(0, Math.ceil((high - low) / step));
      const end = high < 0 ? -1000 : high;
      const [starts, ends] = [d.integers([low]), d.integers([end])];
      return d.op('Slice', [x, starts, ends, d.integers([axis]), d.integers([step])], shape.with(axis, count));
    }
    case 2: {
      if (extent < 2) return x;
      const first = c.int(1, extent - 1);
      const [a, b] = d.several('Split', [x, d.integers([first, extent - first])], attr, [
        { dtype: x.dtype, shape: shape.with(axis, first) },
        { dtype: x.dtype, shape: shape.with(axis, extent - first) },
      ]);
      if (flag(c)) d.output(b);
      if (flag(c)) return a;
      return d.op('Concat', [b, a], shape, attr);
    }
    case 3: {
      const other = d.data(x.dtype, shape.with(axis, c.int(1, 3)));
      const parts = flag(c) ? [x, other] : [other, x, x];
      const total = parts.reduce((sum, part) => sum + (part.shape[axis] as number), 0);
      return d.op('Concat', parts, shape.with(axis, total), attr);
    }
    case 4: {
      if (d.elements(shape) > 4000 || x.dtype === 'bool') return x;
      const mode = one(c, ['constant', 'edge', 'reflect', 'wrap', 'constant'] as const);
      const limit = mode === 'reflect' ? Math.min(2, extent - 1) : mode === 'wrap' ? extent : 3;
      const [low, high] = [c.int(0, limit), c.int(0, limit)];
      const cut = mode === 'constant' && extent > 3 && rarely(c, 4) ? -1 : low;
      const value = mode === 'constant' && flag(c) ? d.numbers(x.dtype, [], [3]) : undefined;
      return d.op(
        'Pad',
        [x, d.integers([cut, high]), value, d.integers([axis])],
        shape.with(axis, extent + cut + high),
        { mode },
      );
    }
    case 5: {
      const at = list(c.int(0, 2), () => c.int(1, 3));
      const places = indices(d, at, -extent, extent - 1);
      return d.op('Gather', [x, places], [...shape.slice(0, axis), ...at, ...shape.slice(axis + 1)], attr);
    }
    case 6: {
      if (!d.isFixed(shape)) return x;
      const places = indices(d, (shape as readonly number[]).with(axis, c.int(1, 5)), -extent, extent - 1);
      return d.op('GatherElements', [x, places], places.shape, attr);
    }
    case 7: {
      if (!d.isFixed(shape) || x.dtype === 'bool') return x;
      const sum = flag(c);
      // Several updates of one place in no order: only where the order does not matter.
      const count = sum ? c.int(1, extent) : 1;
      const places = indices(d, (shape as readonly number[]).with(axis, count), -extent, extent - 1);
      const updates = d.data(x.dtype, places.shape);
      const reduction = sum ? one(c, ['add', 'max', 'min']) : 'none';
      return d.op('ScatterElements', [x, places, updates], shape, { ...attr, reduction });
    }
    case 8: {
      const fixed = shape.every((e) => typeof e === 'number');
      if (fixed && flag(c))
        return d.op('Flatten', [x], [d.elements(shape.slice(0, axis)), d.elements(shape.slice(axis))], {
          axis: BigInt(axis),
        });
      const factor = [2, 3, 4, 5].find((f) => extent % f === 0) ?? 1;
      const dims = [...shape.slice(0, axis), factor, extent / factor, ...shape.slice(axis + 1)];
      if (dims.filter((e) => typeof e === 'string').length > 1) return x;
      const target = dims.map((e) => (typeof e === 'string' ? -1 : e));
      return d.op('Reshape', [x, d.integers(target)], dims);
    }
    case 9: {
      if (d.elements(shape) > 4000) return x;
      const repeats = list(rank, (i) => (i === axis ? c.int(1, 3) : 1));
      return d.op('Tile', [x, d.integers(repeats)], shape.with(axis, extent * repeats[axis]));
    }
    default: {
      if (d.elements(shape) > 4000) return x;
      const wider: Extent[] = [c.int(1, 3), ...shape];
      if (!d.isFixed(shape)) return x;
      return d.op('Expand', [x, d.integers(wider as number[])], wider);
    }
  }
}

export function movement(d: Draft): Made {
  const { c } = d;
  const dtype = one(c, types);
  if (rarely(c, 6)) {
    const block = c.int(1, 3);
    const [batch, channels, h, w] = [d.vary(c.int(1, 2)), c.int(1, 4), c.int(1, 5), c.int(1, 5)];
    const fine = [batch, channels, h * block, w * block];
    const coarse = [batch, channels * block * block, h, w];
    if (flag(c))
      return d.op('SpaceToDepth', [d.data('f32', fine, { as: 'input' })], coarse, { blocksize: BigInt(block) });
    return d.op('DepthToSpace', [d.data('f32', coarse, { as: 'input' })], fine, {
      blocksize: BigInt(block),
      mode: one(c, ['DCR', 'CRD']),
    });
  }
  if (rarely(c, 6)) {
    const [rows, columns] = [c.int(1, 9), c.int(1, 9)];
    const x = d.data('f32', [c.int(1, 2), rows, columns], { as: 'input' });
    return d.map(
      'Trilu',
      x,
      { upper: flag(c) ? 1n : 0n },
      d.constant({ dtype: 'i64', shape: [], data: BigInt64Array.of(BigInt(c.int(-3, 3))) }),
    );
  }
  let x = d.data(dtype, anyShape(d, 1), { as: 'input' });
  for (let i = c.int(1, 4); i > 0; i--) x = moved(d, x);
  return x;
}
