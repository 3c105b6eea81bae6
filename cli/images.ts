/** Pictures as tensors: PNG files in and out, in the layout and range that a model wants. */
import { decode, encode } from 'fast-png';
import { numbersOf } from '../compiler/compare.js';
import { type DType, isFloat, isMiniFloat, isPacked } from '../compiler/dtype.js';
import { TuttiError } from '../compiler/error.js';
import { f32ToBf16, f32ToF16 } from '../compiler/numeric.js';
import { emptyTensor, type HostData, type HostTensor } from '../compiler/tensor.js';
import type { ImageOptions, Layout } from './image_options.js';

type Dims = readonly (number | string)[];

/** The layout that a shape suggests: where 1, 3 or 4 channels stand. */
export function layoutOf(shape: Dims): Layout | undefined {
  const channels = (dim: number | string): boolean => dim === 1 || dim === 3 || dim === 4;
  if (shape.length === 4) return !channels(shape[1]) && channels(shape[3]) ? 'nhwc' : 'nchw';
  if (shape.length === 3) return !channels(shape[0]) && channels(shape[2]) ? 'hwc' : 'chw';
  return shape.length === 2 ? 'hw' : undefined;
}

const channelAxis: Readonly<Record<Layout, number | undefined>> = { nchw: 1, nhwc: 3, chw: 0, hwc: 2, hw: undefined };

/** Element (channel, y, x) in the packed tensor. */
function indexer(
  layout: Layout,
  channels: number,
  height: number,
  width: number,
): (c: number, y: number, x: number) => number {
  return layout === 'nhwc' || layout === 'hwc'
    ? (c, y, x) => (y * width + x) * channels + c
    : (c, y, x) => (c * height + y) * width + x;
}

function shapeOf(layout: Layout, channels: number, height: number, width: number): number[] {
  switch (layout) {
    case 'nchw':
      return [1, channels, height, width];
    case 'nhwc':
      return [1, height, width, channels];
    case 'chw':
      return [channels, height, width];
    case 'hwc':
      return [height, width, channels];
    case 'hw':
      return [height, width];
    default:
      return layout satisfies never;
  }
}

/**
 * A picture (8 or 16 bits, grey, RGB, palette, with or without alpha) as a tensor for an input of this type and shape.
 * Colours are mixed to grey (Rec. 709 luma) and grey is repeated, as the number of channels asks; alpha is left out
 * unless there are 4 channels.
 * @throws TuttiError E_INPUT if the file is no PNG or the input is not one for a picture
 */
export function readPng(
  bytes: Uint8Array,
  dtype: DType,
  shape: Dims,
  options: ImageOptions,
  subject: string,
): HostTensor {
  const image = decodePng(bytes, subject);
  const layout = options.layout ?? layoutOf(shape);
  if (layout === undefined) {
    throw new TuttiError('E_INPUT', 'this input does not take a picture', {
      subject,
      expected: 'an input of 2 to 4 dims',
      found: `[${shape.join(', ')}]`,
    });
  }
  const axis = channelAxis[layout];
  const wanted = axis === undefined ? 1 : shape[axis];
  const { width, height } = image;
  const channels = wanted === 1 || wanted === 3 || wanted === 4 ? wanted : image.colours;
  const [black, white] = options.range ?? (isFloat(dtype) ? [0, 1] : [0, 255]);
  const tensor = emptyTensor(dtype, shapeOf(layout, channels, height, width));
  const put = writer(dtype, tensor.data, subject);
  const index = indexer(layout, channels, height, width);
  for (let y = 0; y < height; y++) {
    for (let x = 0; x < width; x++) {
      for (let c = 0; c < channels; c++) {
        const source = options.order === 'bgr' && c < 3 && channels >= 3 ? 2 - c : c;
        put(index(c, y, x), black + (white - black) * image.at(x, y, source, channels));
      }
    }
  }
  return tensor;
}

interface Picture {
  readonly width: number;
  readonly height: number;
  /** 1 or 3: alpha does not count. */
  readonly colours: 1 | 3;
  /** 0 to 1, of the channel of a picture with that many. */
  at(x: number, y: number, channel: number, channels: number): number;
}

function decodePng(bytes: Uint8Array, subject: string): Picture {
  let png: ReturnType<typeof decode>;
  try {
    png = decode(bytes);
  } catch (cause) {
    const found = cause instanceof Error ? cause.message : String(cause);
    throw new TuttiError('E_INPUT', 'not a PNG file that can be read', { subject, found, cause });
  }
  const { width, height, depth, data, palette } = png;
  const stored = png.channels;
  const scale = 1 / (2 ** depth - 1);
  // Samples of less than 8 bits are packed, each row from a new byte.
  const rowBytes = Math.ceil((width * stored * depth) / 8);
  const sample = (x: number, y: number, c: number): number => {
    if (depth >= 8) return data[(y * width + x) * stored + c];
    const bit = (x * stored + c) * depth;
    return (data[y * rowBytes + (bit >> 3)] >> (8 - depth - (bit & 7))) & (2 ** depth - 1);
  };
  const colours = palette !== undefined || stored >= 3 ? 3 : 1;
  const alphaAt = palette !== undefined ? undefined : stored === 2 ? 1 : stored === 4 ? 3 : undefined;
  const colour = (x: number, y: number, c: number): number => {
    if (palette !== undefined) return (palette[sample(x, y, 0)]?.[c] ?? 0) / 255;
    return sample(x, y, colours === 1 ? 0 : c) * scale;
  };
  return {
    width,
    height,
    colours,
    at(x, y, channel, channels) {
      if (channel === 3) return alphaAt === undefined ? 1 : sample(x, y, alphaAt) * scale;
      if (channels > 1 || colours === 1) return colour(x, y, channel);
      return 0.2126 * colour(x, y, 0) + 0.7152 * colour(x, y, 1) + 0.0722 * colour(x, y, 2);
    },
  };
}

function writer(dtype: DType, data: HostData, subject: string): (index: number, value: number) => void {
  const numbers = data as Float32Array;
  if (dtype === 'f32' || dtype === 'f64') return (index, value) => void (numbers[index] = value);
  if (dtype === 'f16') return (index, value) => void (numbers[index] = f32ToF16(value));
  if (dtype === 'bf16') return (index, value) => void (numbers[index] = f32ToBf16(value));
  if (dtype === 'i64' || dtype === 'u64') {
    const bigs = data as BigInt64Array;
    return (index, value) => void (bigs[index] = BigInt(Math.round(value)));
  }
  if (dtype === 'string' || isPacked(dtype) || isMiniFloat(dtype)) {
    throw new TuttiError('E_INPUT', 'this input does not take a picture', { subject, found: dtype });
  }
  return (index, value) => void (numbers[index] = Math.round(value));
}

/**
 * A tensor as an 8-bit PNG: values of the range become 0 to 255, others are clamped.
 * @throws TuttiError E_INPUT if it has not the shape of a picture
 */
export function writePng(tensor: HostTensor, options: ImageOptions, subject: string): Uint8Array {
  const layout = options.layout ?? layoutOf(tensor.shape);
  const axis = layout === undefined ? undefined : channelAxis[layout];
  const channels = axis === undefined ? 1 : tensor.shape[axis];
  const dims = layout === 'nhwc' || layout === 'hwc' ? tensor.shape.slice(-3, -1) : tensor.shape.slice(-2);
  const [height, width] = dims;
  const one = tensor.shape.length < 4 || tensor.shape[0] === 1;
  const rank = layout === undefined ? -1 : layout.length;
  if (
    layout === undefined ||
    rank !== tensor.shape.length ||
    !one ||
    channels < 1 ||
    channels > 4 ||
    width * height === 0
  ) {
    throw new TuttiError('E_INPUT', 'this tensor is not one picture', {
      subject,
      expected: 'one picture of 1 to 4 channels, for instance [1, 3, height, width]',
      found: `[${tensor.shape.join(', ')}]${layout === undefined ? '' : ` as ${layout}`}`,
    });
  }
  const [black, white] = options.range ?? (isFloat(tensor.dtype) ? [0, 1] : [0, 255]);
  const values = numbersOf(tensor);
  const index = indexer(layout, channels, height, width);
  const data = new Uint8Array(width * height * channels);
  for (let y = 0; y < height; y++) {
    for (let x = 0; x < width; x++) {
      for (let c = 0; c < channels; c++) {
        const source = options.order === 'bgr' && c < 3 && channels >= 3 ? 2 - c : c;
        const level = ((values[index(source, y, x)] - black) / (white - black)) * 255;
        data[(y * width + x) * channels + c] = Math.min(255, Math.max(0, Math.round(level))) || 0;
      }
    }
  }
  return encode({ width, height, data, depth: 8, channels });
}
