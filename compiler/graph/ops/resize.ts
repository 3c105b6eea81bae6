/**
 * Where a resized element comes from: along each axis a few source places and their weights. Interpolation is
 * separable, so this is all that the reference and the decomposition need.
 * Formulas: ONNX operator specification, Resize-19.
 */
import type { ResizeAttrs } from '../types.js';

export interface AxisTaps {
  /** `indices[t][i]`: source place of tap t of output place i, already inside the axis. */
  readonly indices: readonly Int32Array[];
  /** Like `indices`; of one output place they add up to 1. */
  readonly weights: readonly Float64Array[];
  /** 1 where the place lies outside the input and takes the extrapolation value; absent if nowhere. */
  readonly outside?: Uint8Array;
}

/** Taps of each axis, or null for an axis that stays as it is. */
export function resizeTaps(
  input: readonly number[],
  output: readonly number[],
  attrs: ResizeAttrs,
): (AxisTaps | null)[] {
  return input.map((size, axis) => {
    const scale = attrs.scales[axis] ?? output[axis] / size;
    const crop = attrs.coordinates === 'tf_crop_and_resize' && attrs.roi !== null;
    const region: readonly [number, number] = crop ? [attrs.roi[axis], attrs.roi[axis + input.length]] : [0, 1];
    const same = size === output[axis] && scale === 1 && region[0] === 0 && region[1] === 1;
    // With the same size and scale every transform is the identity, except this one, which is off by half.
    const shifted = attrs.coordinates === 'tf_half_pixel_for_nn';
    return same && !shifted ? null : axisTaps(size, output[axis], scale, region, attrs);
  });
}

function axisTaps(
  size: number,
  places: number,
  scale: number,
  region: readonly [number, number],
  attrs: ResizeAttrs,
): AxisTaps {
  const offsets = tapOffsets(scale, attrs);
  const indices = offsets.map(() => new Int32Array(places));
  const weights = offsets.map(() => new Float64Array(places));
  const outside = new Uint8Array(places);
  for (let place = 0; place < places; place++) {
    const at = sourcePlace(place, size, places, scale, region, attrs);
    if (attrs.coordinates === 'tf_crop_and_resize' && (at < 0 || at > size - 1)) outside[place] = 1;
    const inside = (index: number) => Math.min(Math.max(index, 0), size - 1);
    if (attrs.mode === 'nearest') {
      indices[0][place] = inside(nearestPlace(at, attrs.nearest));
      weights[0][place] = 1;
      continue;
    }
    // The pixel to the left, so that the ratio lies in (0, 1].
    const left = Math.ceil(at) - 1;
    const ratio = at - left;
    const row = offsets.map((offset) => {
      const index = left + offset;
      const excluded = attrs.excludeOutside && (index < 0 || index >= size);
      return excluded ? 0 : kernel(offset - ratio, scale, attrs);
    });
    // Sums differ from 1 where taps are excluded or, antialiased, sampled off the kernel's grid.
    const total = attrs.excludeOutside || attrs.antialias ? row.reduce((p, q) => p + q, 0) : 1;
    offsets.forEach((offset, t) => {
      indices[t][place] = inside(left + offset);
      weights[t][place] = row[t] / total;
    });
  }
  return outside.some((is) => is !== 0) ? { indices, weights, outside } : { indices, weights };
}

/** Distances of the taps from the pixel to the left of the place. */
function tapOffsets(scale: number, { mode, antialias }: ResizeAttrs): number[] {
  if (mode === 'nearest') return [0];
  const reach = mode === 'linear' ? 1 : 2;
  const start = Math.floor(-reach / (antialias ? Math.min(scale, 1) : 1)) + 1;
  return Array.from({ length: 2 - 2 * start }, (_, i) => start + i);
}

/** Weight at a signed distance from the place; antialiasing stretches the kernel when shrinking. */
function kernel(distance: number, scale: number, { mode, antialias, cubicA: a }: ResizeAttrs): number {
  const x = Math.abs(antialias ? distance * Math.min(scale, 1) : distance);
  if (mode === 'linear') return Math.max(0, 1 - x);
  // Keys' cubic convolution kernel (1981).
  if (x <= 1) return ((a + 2) * x - (a + 3)) * x * x + 1;
  return x < 2 ? ((a * x - 5 * a) * x + 8 * a) * x - 4 * a : 0;
}

function nearestPlace(at: number, rule: ResizeAttrs['nearest']): number {
  switch (rule) {
    case 'round_prefer_floor':
      return Math.ceil(at - 0.5);
    case 'round_prefer_ceil':
      return Math.floor(at + 0.5);
    case 'floor':
      return Math.floor(at);
    case 'ceil':
      return Math.ceil(at);
    default:
      return rule satisfies never;
  }
}

/** Place in the input that an output place corresponds to. */
function sourcePlace(
  place: number,
  size: number,
  places: number,
  scale: number,
  [start, end]: readonly [number, number],
  attrs: ResizeAttrs,
): number {
  // The exact length of the output before it was rounded down.
  const length = scale * size;
  switch (attrs.coordinates) {
    case 'half_pixel':
      return (place + 0.5) / scale - 0.5;
    case 'half_pixel_symmetric':
      return (size / 2) * (1 - places / length) + (place + 0.5) / scale - 0.5;
    case 'pytorch_half_pixel':
      return places > 1 ? (place + 0.5) / scale - 0.5 : 0;
    case 'align_corners':
      return places === 1 || length === 1 ? 0 : (place * (size - 1)) / (length - 1);
    case 'asymmetric':
      return place / scale;
    case 'tf_crop_and_resize':
      return places > 1
        ? start * (size - 1) + (place * (end - start) * (size - 1)) / (places - 1)
        : 0.5 * (start + end) * (size - 1);
    case 'tf_half_pixel_for_nn':
      return (place + 0.5) / scale;
    default:
      return attrs.coordinates satisfies never;
  }
}
