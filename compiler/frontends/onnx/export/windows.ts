/** Convolutions and pooling as ONNX operators, which take pads of zero or more and windows over spatial axes. */
import { type DType, isFloat } from '../../../dtype.js';
import { addDims, type Dim, isConcrete, mulDims } from '../../../graph/dims.js';
import type { NodeOf, Window } from '../../../graph/types.js';
import { sizeOf } from '../../../tensor.js';
import type { ExportContext } from './context.js';
import { big, type Convert, cast, dtypeIn, scalar, shapeIn } from './convert.js';

interface Cropped {
  readonly x: string;
  readonly low: readonly number[];
  readonly high: readonly number[];
}

/** Negative pads cut the input first; `axes` are those of the pads. */
function crop(
  c: ExportContext,
  x: string,
  shape: readonly Dim[],
  low: readonly Dim[],
  high: readonly Dim[],
  first: number,
): Cropped {
  if (!isConcrete(low) || !isConcrete(high)) return c.unsupported('symbolic pads');
  const axes = low.flatMap((pad, i) => (pad < 0 || high[i] < 0 ? [i] : []));
  const ends = axes.map((i) => addDims(shape[i + first], Math.min(0, high[i])));
  const cut =
    axes.length === 0
      ? x
      : c.one('Slice', [
          x,
          c.ints(axes.map((i) => Math.max(0, -low[i]))),
          c.dims(ends),
          c.ints(axes.map((i) => i + first)),
        ]);
  return { x: cut, low: low.map((pad) => Math.max(0, pad)), high: high.map((pad) => Math.max(0, pad)) };
}

export const conv: Convert<'conv'> = (c, node, [x, w]) => {
  const { attrs } = node;
  const spatial = shapeIn(node).slice(2);
  let data = x;
  let shape = [...shapeIn(node)];
  attrs.inputDilation.forEach((step, i) => {
    if (step === 1) return;
    // step - 1 zeros after each element, but not after the last one.
    const axis = i + 2;
    const apart = [...shape.slice(0, axis + 1), 1, ...shape.slice(axis + 1)];
    const pads = new Array<number>(2 * apart.length).fill(0);
    pads[apart.length + axis + 1] = step - 1;
    const padded = c.one('Pad', [c.one('Reshape', [data, c.dims(apart)]), c.ints(pads)]);
    const joined = c.one('Reshape', [padded, c.dims(shape.map((dim, k) => (k === axis ? mulDims(dim, step) : dim)))]);
    const size = addDims(mulDims(addDims(shape[axis], -1), step), 1);
    data = c.one('Slice', [joined, c.ints([0]), c.dims([size]), c.ints([axis])]);
    shape = shape.map((dim, k) => (k === axis ? size : dim));
  });
  const { x: cut, low, high } = crop(c, data, shape, attrs.padLow, attrs.padHigh, 2);
  const options = {
    strides: big(attrs.strides),
    dilations: big(attrs.dilations),
    group: BigInt(attrs.groups),
    pads: big([...low, ...high]),
    kernel_shape: kernelShape(c, shapeIn(node, 1).slice(2)),
  };
  const [from, weights] = [dtypeIn(node), dtypeIn(node, 1)];
  if (isFloat(attrs.dtype) && spatial.length > 0) {
    return c.one('Conv', [cast(c, cut, from, attrs.dtype), cast(c, w, weights, attrs.dtype)], options);
  }
  const narrow = (dtype: DType) => dtype === 'i8' || dtype === 'u8';
  if (attrs.dtype === 'i32' && narrow(from) && narrow(weights)) return c.one('ConvInteger', [cut, w], options);
  // Sums of products of integers below 2^26 are exact in f64.
  if (attrs.dtype === 'i32') {
    const sum = c.one('Conv', [cast(c, cut, from, 'f64'), cast(c, w, weights, 'f64')], options);
    return cast(c, sum, 'f64', 'i32');
  }
  return c.unsupported(`convolution of ${from} to ${attrs.dtype}`);
};

const kernelShape = (c: ExportContext, dims: readonly Dim[]): bigint[] =>
  isConcrete(dims) ? big(dims) : c.unsupported('kernels of symbolic size');

/** Windows over [N, C, …spatial]; others by two axes of 1 in front. */
function poolInput(
  c: ExportContext,
  node: NodeOf<'reduce_window' | 'window_argmax'>,
  x: string,
): { x: string; spatial: Window & { readonly window: readonly number[] }; restore: (y: string) => string } {
  const { attrs } = node;
  const shape = shapeIn(node);
  const whole =
    shape.length < 3 ||
    [0, 1].some(
      (i) => attrs.window[i] !== 1 || attrs.strides[i] !== 1 || attrs.padLow[i] !== 0 || attrs.padHigh[i] !== 0,
    );
  const skip = whole ? 0 : 2;
  const input = whole ? c.one('Reshape', [x, c.dims([1, 1, ...shape])]) : x;
  const {
    x: cut,
    low,
    high,
  } = crop(c, input, whole ? [1, 1, ...shape] : shape, attrs.padLow.slice(skip), attrs.padHigh.slice(skip), 2);
  return {
    x: cut,
    spatial: {
      window: attrs.window.slice(skip),
      strides: attrs.strides.slice(skip),
      dilations: attrs.dilations.slice(skip),
      padLow: low,
      padHigh: high,
    },
    restore: (y) => (whole ? c.one('Reshape', [y, c.dims(node.outputs[0].type.shape)]) : y),
  };
}

const poolAttrs = ({
  window,
  strides,
  dilations,
  padLow,
  padHigh,
}: Window & { readonly window: readonly number[] }) => ({
  kernel_shape: big(window),
  strides: big(strides),
  dilations: big(dilations),
  pads: big([...padLow, ...padHigh].map(Number)),
});

export const reduceWindow: Convert<'reduce_window'> = (c, node, [x]) => {
  const dtype = dtypeIn(node);
  if (dtype === 'i64' || dtype === 'u64') return c.unsupported(`pooling of ${dtype}`);
  // Pooling operators take floats; integers of up to 32 bits fit into f64.
  const inner: DType = isFloat(dtype) ? dtype : 'f64';
  const { x: input, spatial, restore } = poolInput(c, node, cast(c, x, dtype, inner));
  const attrs = poolAttrs(spatial);
  let y: string;
  switch (node.attrs.fn) {
    case 'max':
      y = c.one('MaxPool', [input], attrs);
      break;
    case 'min':
      y = c.one('Neg', [c.one('MaxPool', [c.one('Neg', [input])], attrs)]);
      break;
    case 'sum': {
      const mean = c.one('AveragePool', [input], { ...attrs, count_include_pad: 1n });
      y = c.one('Mul', [mean, scalar(c, sizeOf(spatial.window), inner)]);
      if (!isFloat(dtype)) y = c.one('Round', [y]);
      break;
    }
    case 'prod':
      return c.unsupported('products over windows');
    default:
      return node.attrs.fn satisfies never;
  }
  return restore(cast(c, y, inner, dtype));
};

export const windowArgmax: Convert<'window_argmax'> = (c, node, [x]) => {
  const { x: input, spatial, restore } = poolInput(c, node, x);
  if (input !== x) return c.unsupported('places of maxima in windows over other than spatial axes');
  return restore(c.emit('MaxPool', [input], poolAttrs(spatial), 2)[1]);
};
