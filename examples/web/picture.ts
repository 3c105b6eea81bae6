/** Pictures to tensors and back: RGBA bytes as canvases hold them, and the layouts that image models want. */
import type { TensorData, ValueInfo } from 'tutti/web';

/** An ImageData, or what looks like one. */
export interface Pixels {
  readonly width: number;
  readonly height: number;
  /** RGBA, rows from the top. */
  readonly data: Uint8ClampedArray;
}

/** How bytes become numbers: (byte / 255 - mean) / deviation for each of red, green and blue. */
export interface Scale {
  readonly label: string;
  readonly mean: readonly [number, number, number];
  readonly deviation: readonly [number, number, number];
}

export const scales: Readonly<Record<string, Scale>> = {
  unit: { label: '0 to 1', mean: [0, 0, 0], deviation: [1, 1, 1] },
  signed: { label: '−1 to 1', mean: [0.5, 0.5, 0.5], deviation: [0.5, 0.5, 0.5] },
  bytes: { label: '0 to 255', mean: [0, 0, 0], deviation: [1 / 255, 1 / 255, 1 / 255] },
  imagenet: { label: 'ImageNet mean and deviation', mean: [0.485, 0.456, 0.406], deviation: [0.229, 0.224, 0.225] },
};

/** What a model wants of a picture. */
export interface Frame {
  readonly layout: 'nchw' | 'nhwc';
  readonly channels: 1 | 3;
  /** Undefined where the model takes any. */
  readonly height?: number;
  readonly width?: number;
}

const isChannels = (dim: number | string | undefined): dim is 1 | 3 => dim === 1 || dim === 3;

/** How an input takes a picture, or undefined if it is not one for pictures. */
export function frameOf({ shape, type }: Pick<ValueInfo, 'shape' | 'type'>): Frame | undefined {
  if (shape.length !== 4 || (shape[0] !== 1 && typeof shape[0] === 'number')) return undefined;
  if (type !== 'float32' && type !== 'float16' && type !== 'uint8') return undefined;
  const size = (dim: number | string): number | undefined => (typeof dim === 'number' ? dim : undefined);
  if (isChannels(shape[1])) {
    return { layout: 'nchw', channels: shape[1], height: size(shape[2]), width: size(shape[3]) };
  }
  if (isChannels(shape[3])) {
    return { layout: 'nhwc', channels: shape[3], height: size(shape[1]), width: size(shape[2]) };
  }
  return undefined;
}

/** The picture as numbers in the frame's layout, and its dims. One channel is the luma of the three. */
export function tensorOfPicture(
  { width, height, data }: Pixels,
  { layout, channels }: Frame,
  { mean, deviation }: Scale,
): { readonly data: Float32Array; readonly dims: readonly number[] } {
  const area = width * height;
  const out = new Float32Array(channels * area);
  for (let at = 0; at < area; at++) {
    const rgb = [0, 1, 2].map((c) => (data[4 * at + c] / 255 - mean[c]) / deviation[c]);
    const values = channels === 3 ? rgb : [0.299 * rgb[0] + 0.587 * rgb[1] + 0.114 * rgb[2]];
    for (const [c, value] of values.entries()) out[layout === 'nchw' ? c * area + at : at * channels + c] = value;
  }
  return { data: out, dims: layout === 'nchw' ? [1, channels, height, width] : [1, height, width, channels] };
}

/** Values as a picture, or undefined if these dims are none. Values are taken as 0..1, −1..1 or 0..255, or stretched. */
export function pictureOfTensor(
  dims: readonly number[],
  data: TensorData,
): (Pixels & { readonly range: readonly [low: number, high: number] }) | undefined {
  const frame = frameOf({ shape: dims, type: 'float32' });
  if (frame?.width === undefined || frame.height === undefined || Math.min(frame.width, frame.height) < 8) {
    return undefined;
  }
  const { width, height, channels, layout } = frame;
  const area = width * height;
  const values = Float64Array.from(data as ArrayLike<number>, Number);
  const [low, high] = rangeOf(values);
  const pixels = new Uint8ClampedArray(4 * area).fill(255);
  for (let at = 0; at < area; at++) {
    for (let c = 0; c < 3; c++) {
      const channel = channels === 3 ? c : 0;
      const value = values[layout === 'nchw' ? channel * area + at : at * channels + channel];
      pixels[4 * at + c] = (255 * (value - low)) / (high - low);
    }
  }
  return { width, height, data: pixels, range: [low, high] };
}

function rangeOf(values: Float64Array): readonly [number, number] {
  let [low, high] = [Infinity, -Infinity];
  for (const value of values) {
    if (value < low) low = value;
    if (value > high) high = value;
  }
  for (const [from, to] of [
    [0, 1],
    [-1, 1],
    [0, 255],
  ] as const) {
    const slack = 0.1 * (to - from);
    if (low >= from - slack && high <= to + slack) return [from, to];
  }
  return high > low ? [low, high] : [low, low + 1];
}
