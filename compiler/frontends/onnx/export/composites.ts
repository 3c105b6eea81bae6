/** Ops that are a formula of their own in both: softmax, normalisation, resize. */
import type { DType } from '../../../dtype.js';
import { type Dim, isConcrete } from '../../../graph/dims.js';
import { filledTensor } from '../../../graph/ops/reference/data.js';
import { type Convert, cast, dtypeIn, scalar, shapeIn } from './convert.js';

export const softmax: Convert<'softmax'> = (c, node, [x]) => {
  const { axes, log } = node.attrs;
  if (axes.length === 1) return c.one(log ? 'LogSoftmax' : 'Softmax', [x], { axis: BigInt(axes[0]) });
  const places = c.ints(axes);
  const noop = { noop_with_empty_axes: 1n };
  const shifted = c.one('Sub', [x, c.one('ReduceMax', [x, places], noop)]);
  const power = c.one('Exp', [shifted]);
  const sum = c.one('ReduceSum', [power, places], noop);
  return log ? c.one('Sub', [shifted, c.one('Log', [sum])]) : c.one('Div', [power, sum]);
};

export const normalize: Convert<'normalize'> = (c, node, [x]) => {
  const { axes, epsilon, center, statistics } = node.attrs;
  const dtype = dtypeIn(node);
  const shape = shapeIn(node);
  const first = shape.length - axes.length;
  const inner: DType = dtype === 'f64' ? 'f64' : 'f32';
  const normal = [...axes].sort((p, q) => p - q);
  const dims = shape.slice(first);
  if (
    center &&
    axes.length > 0 &&
    dtype !== 'f64' &&
    normal.every((axis, i) => axis === first + i) &&
    isConcrete(dims)
  ) {
    const ones = c.constant(filledTensor(dtype, dims, 1));
    return c.emit('LayerNormalization', [x, ones], { axis: BigInt(first), epsilon }, statistics ? 3 : 1);
  }
  const noop = { noop_with_empty_axes: 1n };
  const places = c.ints(axes);
  const wide = cast(c, x, dtype, inner);
  const average = c.one('ReduceMean', [wide, places], noop);
  const centred = center ? c.one('Sub', [wide, average]) : wide;
  const variance = c.one('ReduceMean', [c.one('Mul', [centred, centred]), places], noop);
  const deviation = c.one('Reciprocal', [c.one('Sqrt', [c.one('Add', [variance, scalar(c, epsilon, inner)])])]);
  const y = cast(c, c.one('Mul', [centred, deviation]), inner, dtype);
  if (!statistics) return y;
  return [y, center ? average : c.one('Mul', [average, scalar(c, 0, inner)]), deviation];
};

export const resize: Convert<'resize'> = (c, node, [x]) => {
  const { attrs } = node;
  const shape = shapeIn(node);
  const exact = attrs.scales.every(
    (scale, i) =>
      scale !== null &&
      Math.fround(scale) === scale &&
      typeof shape[i] === 'number' &&
      Math.floor(shape[i] * scale) === attrs.shape[i],
  );
  if (!exact && attrs.scales.some((scale, i) => scale !== null && !isQuotient(attrs.shape[i], shape[i], scale))) {
    c.unsupported('a resize whose scales are not those of its sizes');
  }
  const roi =
    attrs.roi === null
      ? ''
      : c.constant({ dtype: 'f32', shape: [attrs.roi.length], data: Float32Array.from(attrs.roi) });
  const scales = exact
    ? c.constant({ dtype: 'f32', shape: [shape.length], data: Float32Array.from(attrs.scales, Number) })
    : '';
  return c.one('Resize', exact ? [x, roi, scales] : [x, roi, '', c.dims(attrs.shape)], {
    mode: attrs.mode,
    coordinate_transformation_mode: attrs.coordinates,
    nearest_mode: attrs.nearest,
    cubic_coeff_a: attrs.cubicA,
    exclude_outside: attrs.excludeOutside ? 1n : 0n,
    antialias: attrs.antialias ? 1n : 0n,
    extrapolation_value: attrs.extrapolation,
  });
};

const isQuotient = (size: Dim, from: Dim, scale: number): boolean =>
  typeof size === 'number' && typeof from === 'number' ? Math.abs(size / from - scale) < 1e-12 * scale : scale === 1;
