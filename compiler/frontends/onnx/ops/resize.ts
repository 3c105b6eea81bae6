/** Resize and Upsample of all opsets. */
import { type Dim, isSymbolic, mulDims } from '../../../graph/dims.js';
import type { ResizeAttrs, Value } from '../../../graph/types.js';
import type { Conversion, ConvertContext } from '../context.js';

const modes = {
  nearest: 'nearest',
  linear: 'linear',
  bilinear: 'linear',
  trilinear: 'linear',
  cubic: 'cubic',
} as const;
const modeOf = (c: ConvertContext): ResizeAttrs['mode'] =>
  modes[c.choice('mode', ['nearest', 'linear', 'bilinear', 'trilinear', 'cubic'], 'nearest')];

/** floor(dim · scale); symbolic where the scale is whole. */
function scaledDim(c: ConvertContext, dim: Dim, scale: number): Dim {
  if (!isSymbolic(dim)) return Math.floor(dim * scale);
  return Number.isInteger(scale) ? mulDims(dim, scale) : c.notConstant(0);
}

/** Before opset 11: scales for all axes, places as floor(out / scale). */
function upsample(c: ConvertContext, scales: readonly number[]): Value {
  const shape = c.shape(0);
  if (scales.length !== shape.length) c.fail('wrong number of scales', String(shape.length), String(scales.length));
  return c.op('resize', [c.input(0)], {
    mode: modeOf(c),
    shape: shape.map((dim, i) => scaledDim(c, dim, scales[i])),
    scales,
    coordinates: 'asymmetric',
    nearest: 'floor',
    cubicA: -0.75,
    excludeOutside: false,
    antialias: false,
    roi: null,
    extrapolation: 0,
  });
}

const coordinates = [
  'half_pixel',
  'half_pixel_symmetric',
  'pytorch_half_pixel',
  'align_corners',
  'asymmetric',
  'tf_crop_and_resize',
  'tf_half_pixel_for_nn',
] as const;
const nearest = ['round_prefer_floor', 'round_prefer_ceil', 'floor', 'ceil'] as const;

function resize(c: ConvertContext): Value {
  const shape = c.shape(0);
  const rank = shape.length;
  const axes = c.axes(c.ints('axes') ?? shape.map((_, i) => i), rank);
  const mode = c.choice('coordinate_transformation_mode', coordinates, 'half_pixel');
  const { sizes, scales } = target(c, axes);
  let roi: number[] | null = null;
  if (mode === 'tf_crop_and_resize') {
    const given = c.numbers(1);
    if (given.length !== 2 * axes.length) c.fail('wrong length of roi', String(2 * axes.length), String(given.length));
    roi = [...new Array<number>(rank).fill(0), ...new Array<number>(rank).fill(1)];
    for (const [i, axis] of axes.entries()) [roi[axis], roi[rank + axis]] = [given[i], given[axes.length + i]];
  }
  return c.op('resize', [c.input(0)], {
    mode: modeOf(c),
    shape: sizes,
    scales,
    coordinates: mode,
    nearest: c.choice('nearest_mode', nearest, 'round_prefer_floor'),
    cubicA: c.float('cubic_coeff_a', -0.75),
    excludeOutside: c.flag('exclude_outside'),
    antialias: c.flag('antialias'),
    roi,
    extrapolation: c.float('extrapolation_value', 0),
  });
}

/** Output dims and scales of all axes, from input `scales` (2) or `sizes` (3). */
function target(
  c: ConvertContext,
  axes: readonly number[],
): { sizes: readonly Dim[]; scales: readonly (number | null)[] } {
  const sizes = [...c.shape(0)];
  const scales: (number | null)[] = sizes.map(() => 1);
  // An empty tensor stands for an absent one in opset 11.
  const given = c.has(2) && c.shape(2)[0] !== 0 ? c.numbers(2) : undefined;
  if (given !== undefined) {
    if (given.length !== axes.length) c.fail('wrong number of scales', String(axes.length), String(given.length));
    axes.forEach((axis, i) => {
      scales[axis] = given[i];
      sizes[axis] = scaledDim(c, sizes[axis], given[i]);
    });
    return { sizes, scales };
  }
  const wanted = c.has(3) ? c.dims(3) : c.fail('neither scales nor sizes are given');
  if (wanted.length !== axes.length) c.fail('wrong number of sizes', String(axes.length), String(wanted.length));
  const policy = c.choice('keep_aspect_ratio_policy', ['stretch', 'not_larger', 'not_smaller'], 'stretch');
  if (policy === 'stretch') {
    axes.forEach((axis, i) => {
      scales[axis] = null;
      sizes[axis] = wanted[i];
    });
    return { sizes, scales };
  }
  const dims = c.concreteDims(axes.map((axis) => sizes[axis]));
  const ratios = c.concreteDims(wanted, 3).map((size, i) => size / dims[i]);
  const scale = policy === 'not_larger' ? Math.min(...ratios) : Math.max(...ratios);
  axes.forEach((axis, i) => {
    scales[axis] = scale;
    sizes[axis] = Math.floor(scale * dims[i] + 0.5);
  });
  return { sizes, scales };
}

export const resizing: readonly Conversion[] = [
  {
    op: 'Upsample',
    since: 1,
    convert: (c) => upsample(c, [1, 1, c.float('height_scale'), c.float('width_scale')]),
  },
  { op: 'Upsample', since: 7, convert: (c) => upsample(c, c.floats('scales') ?? c.fail('scales are missing')) },
  { op: 'Upsample', since: 9, convert: (c) => upsample(c, c.numbers(1)) },
  { op: 'Resize', since: 10, convert: (c) => upsample(c, c.numbers(1)) },
  { op: 'Resize', since: 11, convert: resize },
];
