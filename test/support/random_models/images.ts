/** Random pooling and resizing. */
import type { DType } from '../../../compiler/dtype.js';
import { big, type Draft, type Extent, flag, list, type Made, one } from './draft.js';

export function pooling(d: Draft): Made {
  const { c } = d;
  const rank = one(c, [2, 2, 1, 3] as const);
  const dtype: DType = one(c, ['f32', 'f32', 'f16'] as const);
  const lead = [d.vary(c.int(1, 2)), one(c, [3, 1, 4, 8, 17])];
  const op = one(c, ['MaxPool', 'AveragePool', 'MaxPool', 'LpPool', 'GlobalAveragePool', 'GlobalMaxPool'] as const);
  const room = [40, 14, 6][rank - 1];
  if (op.startsWith('Global')) {
    const x = d.data(dtype, [...lead, ...list(rank, () => c.int(1, room))], { as: 'input' });
    return d.op(op, [x], [...lead, ...list(rank, () => 1)]);
  }
  const kernel = list(rank, () => c.int(1, 4));
  const strides = list(rank, () => c.int(1, 4));
  const dilations = kernel.map(() => one(c, [1, 1, 2, 3]));
  const low = kernel.map((size) => c.int(0, size - 1));
  const high = kernel.map((size) => c.int(0, size - 1));
  const reach = kernel.map((size, i) => (size - 1) * dilations[i] + 1);
  const spatial = reach.map((size, i) => Math.max(1, size - low[i] - high[i]) + c.int(0, room));
  const ceil = flag(c);
  const result = spatial.map((size, i) => {
    const free = size + low[i] + high[i] - reach[i];
    const count = (ceil ? Math.ceil(free / strides[i]) : Math.floor(free / strides[i])) + 1;
    return ceil && (count - 1) * strides[i] >= size + low[i] ? count - 1 : count;
  });
  const x = d.data(dtype, [...lead, ...spatial], { as: 'input' });
  const shape: Extent[] = [...lead, ...result];
  const attrs = {
    kernel_shape: big(kernel),
    strides: big(strides),
    dilations: big(dilations),
    pads: big([...low, ...high]),
    ceil_mode: ceil ? 1n : 0n,
  };
  if (op === 'AveragePool') return d.op(op, [x], shape, { ...attrs, count_include_pad: flag(c) ? 1n : 0n });
  if (op === 'LpPool') return d.op(op, [x], shape, { ...attrs, p: BigInt(c.int(1, 3)) });
  if (flag(c)) return d.op(op, [x], shape, attrs);
  const [values, places] = d.several(op, [x], { ...attrs, storage_order: flag(c) ? 1n : 0n }, [
    { dtype, shape },
    { dtype: 'i64', shape },
  ]);
  d.output(places);
  return values;
}

/** Corners of what a fraction of a place is left of are nobody's agreement: those go by sizes alone. */
const coordinates = ['half_pixel', 'half_pixel_symmetric', 'pytorch_half_pixel', 'asymmetric'];

export function resizing(d: Draft): Made {
  const { c } = d;
  const spatial = list(one(c, [2, 1, 3]), () => c.int(1, 9));
  const shape = [d.vary(c.int(1, 2)), c.int(1, 4), ...spatial];
  const mode = one(c, ['nearest', 'linear', 'cubic'] as const);
  const x = d.data('f32', shape, { as: 'input' });
  const bySize = flag(c);
  const attrs = {
    mode,
    coordinate_transformation_mode: bySize ? one(c, [...coordinates, 'align_corners']) : one(c, coordinates),
    nearest_mode: one(c, ['round_prefer_floor', 'round_prefer_ceil', 'floor', 'ceil']),
    exclude_outside: mode === 'cubic' && flag(c) ? 1n : 0n,
    antialias: mode !== 'nearest' && flag(c) ? 1n : 0n,
    axes: big(spatial.map((_, i) => i + 2)),
  };
  if (bySize) {
    const sizes = spatial.map(() => c.int(1, 14));
    return d.op('Resize', [x, undefined, undefined, d.integers(sizes)], [...shape.slice(0, 2), ...sizes], attrs);
  }
  const scales = spatial.map(() => one(c, [1, 2, 0.5, 1.5, 3, 0.75, 2.5]));
  const sizes = spatial.map((size, i) => Math.floor(size * scales[i]));
  if (sizes.includes(0)) return x;
  return d.op(
    'Resize',
    [x, undefined, d.numbers('f32', [scales.length], scales)],
    [...shape.slice(0, 2), ...sizes],
    attrs,
  );
}
