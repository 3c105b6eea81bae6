/** Composites on host tensors, straight from their formulas and in f64. */
import { isFloat } from '../../../dtype.js';
import { type HostTensor, sizeOf } from '../../../tensor.js';
import type { OpAttrs, ResizeAttrs } from '../../types.js';
import { resizeTaps } from '../resize.js';
import { elementsOf, newElements, numbersOf, stridesOf, tensorOfElements, tensorOfNumbers } from './data.js';
import { cast } from './elementwise.js';
import { pickBox } from './movement.js';
import { fromRows, rowsOf, sumOf } from './reduction.js';

export function softmax(x: HostTensor, axes: readonly number[], log: boolean): HostTensor {
  const { values, length, order } = rowsOf(x, axes);
  for (let start = 0; start < values.length; start += length) {
    const row = values.subarray(start, start + length);
    let max = -Infinity;
    for (const value of row) max = Math.max(max, value);
    const powers = row.map((value) => Math.exp(value - max));
    const sum = sumOf(powers, 0, length);
    for (let i = 0; i < length; i++) row[i] = log ? row[i] - max - Math.log(sum) : powers[i] / sum;
  }
  return fromRows(values, x, order);
}

export function normalize(x: HostTensor, { axes, epsilon, center, statistics }: OpAttrs['normalize']): HostTensor[] {
  const { values, length, order } = rowsOf(x, axes);
  const shape = x.shape.map((dim, i) => (axes.includes(i) ? 1 : dim));
  const count = sizeOf(shape);
  const [means, deviations] = [new Float64Array(count), new Float64Array(count)];
  for (let r = 0; r < count; r++) {
    const row = values.subarray(r * length, (r + 1) * length);
    const mean = center ? sumOf(row, 0, length) / length : 0;
    const squares = row.map((value) => (value - mean) ** 2);
    const reciprocal = 1 / Math.sqrt(sumOf(squares, 0, length) / length + epsilon);
    for (let i = 0; i < length; i++) row[i] = (row[i] - mean) * reciprocal;
    means[r] = mean;
    deviations[r] = reciprocal;
  }
  const result = fromRows(values, x, order);
  if (!statistics) return [result];
  const dtype = x.dtype === 'f64' ? 'f64' : 'f32';
  return [result, tensorOfNumbers(dtype, shape, means), tensorOfNumbers(dtype, shape, deviations)];
}

/** Axis after axis, in f64; integers are truncated at the end. */
export function resize(x: HostTensor, shape: readonly number[], attrs: ResizeAttrs): HostTensor {
  const taps = resizeTaps(x.shape, shape, attrs);
  if (attrs.mode === 'nearest') {
    const out = newElements(x.dtype, sizeOf(shape));
    const places = taps.map((axis, i) => axis?.indices[0] ?? Int32Array.from({ length: shape[i] }, (_, at) => at));
    pickBox(elementsOf(x), x.shape, places, out);
    const outside = outsideMask(taps, shape);
    const fill =
      outside &&
      elementsOf(
        cast({ dtype: 'f64', shape: [1], data: Float64Array.of(attrs.extrapolation) }, x.dtype, { saturate: true }),
      )[0];
    outside?.forEach((is, i) => {
      if (is) out[i] = fill as never;
    });
    return tensorOfElements(x.dtype, shape, out);
  }
  const wide = cast(x, 'f64', { saturate: false });
  let values = numbersOf(wide) as Float64Array;
  const current = [...x.shape];
  taps.forEach((axis, at) => {
    if (!axis) return;
    const inner = sizeOf(current.slice(at + 1));
    const outer = sizeOf(current.slice(0, at));
    const [before, after] = [current[at], shape[at]];
    const out = new Float64Array(outer * after * inner);
    for (let o = 0; o < outer; o++) {
      for (let place = 0; place < after; place++) {
        for (let t = 0; t < axis.indices.length; t++) {
          const weight = axis.weights[t][place];
          if (weight === 0) continue;
          const from = (o * before + axis.indices[t][place]) * inner;
          const to = (o * after + place) * inner;
          for (let i = 0; i < inner; i++) out[to + i] += values[from + i] * weight;
        }
      }
    }
    values = out;
    current[at] = after;
  });
  outsideMask(taps, shape)?.forEach((is, i) => {
    if (is) values[i] = attrs.extrapolation;
  });
  if (isFloat(x.dtype)) return tensorOfNumbers(x.dtype, shape, values);
  return cast({ dtype: 'f64', shape, data: values }, x.dtype, { saturate: false });
}

/** Where any axis lies outside the input (tf_crop_and_resize), or null if nowhere. */
function outsideMask(taps: ReturnType<typeof resizeTaps>, shape: readonly number[]): Uint8Array | null {
  if (!taps.some((axis) => axis?.outside)) return null;
  const mask = new Uint8Array(sizeOf(shape));
  const strides = stridesOf(shape);
  taps.forEach((axis, at) => {
    const { outside } = axis ?? {};
    if (!outside) return;
    for (let i = 0; i < mask.length; i++) mask[i] |= outside[Math.floor(i / strides[at]) % shape[at]];
  });
  return mask;
}
