/** Contractions on host tensors: floats accumulate in f64, integers exactly. */
import { type DType, isFloat } from '../../../dtype.js';
import { type HostTensor, sizeOf } from '../../../tensor.js';
import type { OpAttrs } from '../../types.js';
import { bigsOf, isBig, numbersOf, tensorOfNumbers } from './data.js';
import { cast } from './elementwise.js';
import { transpose } from './movement.js';

/** How sums are held: f64, integers modulo 2^32 (which i32 and smaller results need no more of), or 64-bit integers. */
type Mode = 'float' | 'int' | 'big';
type Values = ArrayLike<number> | ArrayLike<bigint>;

function modeOf(lhs: HostTensor, rhs: HostTensor, dtype: DType): Mode {
  if (isFloat(lhs.dtype)) return 'float';
  if (isBig(lhs.dtype) || isBig(rhs.dtype) || isBig(dtype)) return 'big';
  return isFloat(dtype) ? 'float' : 'int';
}

function valuesOf(x: HostTensor, mode: Mode): Values & { slice(from: number, to: number): Values } {
  if (mode !== 'big') return numbersOf(x);
  return isBig(x.dtype) ? bigsOf(x) : BigInt64Array.from(numbersOf(x), BigInt);
}

const newSums = (mode: Mode, count: number): Float64Array | BigInt64Array =>
  mode === 'big' ? new BigInt64Array(count) : new Float64Array(count);

const rounded = (sums: Float64Array | BigInt64Array, dtype: DType, shape: readonly number[]): HostTensor =>
  sums instanceof BigInt64Array
    ? cast({ dtype: 'i64', shape, data: sums }, dtype, { saturate: false })
    : tensorOfNumbers(dtype, shape, sums);

interface MatrixSizes {
  readonly batch: number;
  readonly m: number;
  readonly n: number;
  readonly k: number;
}

/** out[b, m, n] = Σₖ x[b, m, k]·y[b, n, k], from `at` on. */
function products(
  mode: Mode,
  x: Values,
  y: Values,
  { batch, m, n, k }: MatrixSizes,
  out: Float64Array | BigInt64Array,
  at = 0,
): void {
  for (let b = 0; b < batch; b++) {
    for (let i = 0; i < m; i++) {
      const row = (b * m + i) * k;
      for (let j = 0; j < n; j++) {
        const column = (b * n + j) * k;
        out[at++] = (
          mode === 'float'
            ? floatProduct(x as ArrayLike<number>, row, y as ArrayLike<number>, column, k)
            : mode === 'int'
              ? integerProduct(x as ArrayLike<number>, row, y as ArrayLike<number>, column, k)
              : bigProduct(x as ArrayLike<bigint>, row, y as ArrayLike<bigint>, column, k)
        ) as never;
      }
    }
  }
}

function floatProduct(x: ArrayLike<number>, p: number, y: ArrayLike<number>, q: number, k: number): number {
  let sum = 0;
  for (let t = 0; t < k; t++) sum += x[p + t] * y[q + t];
  return sum;
}
function integerProduct(x: ArrayLike<number>, p: number, y: ArrayLike<number>, q: number, k: number): number {
  let sum = 0;
  for (let t = 0; t < k; t++) sum = (sum + Math.imul(x[p + t], y[q + t])) | 0;
  return sum;
}
function bigProduct(x: ArrayLike<bigint>, p: number, y: ArrayLike<bigint>, q: number, k: number): bigint {
  let sum = 0n;
  for (let t = 0; t < k; t++) sum += x[p + t] * y[q + t];
  return sum;
}

export function dot(lhs: HostTensor, rhs: HostTensor, shape: readonly number[], attrs: OpAttrs['dot']): HostTensor {
  const free = (x: HostTensor, ...bound: readonly number[]) =>
    x.shape.flatMap((_, i) => (bound.includes(i) ? [] : [i]));
  const lhsFree = free(lhs, ...attrs.lhsBatch, ...attrs.lhsContract);
  const rhsFree = free(rhs, ...attrs.rhsBatch, ...attrs.rhsContract);
  const p = transpose(lhs, [...attrs.lhsBatch, ...lhsFree, ...attrs.lhsContract]);
  const q = transpose(rhs, [...attrs.rhsBatch, ...rhsFree, ...attrs.rhsContract]);
  const size = (x: HostTensor, axes: readonly number[]) => sizeOf(axes.map((axis) => x.shape[axis]));
  const sizes: MatrixSizes = {
    batch: size(lhs, attrs.lhsBatch),
    m: size(lhs, lhsFree),
    n: size(rhs, rhsFree),
    k: size(lhs, attrs.lhsContract),
  };
  const mode = modeOf(lhs, rhs, attrs.dtype);
  const sums = newSums(mode, sizeOf(shape));
  products(mode, valuesOf(p, mode), valuesOf(q, mode), sizes, sums);
  return rounded(sums, attrs.dtype, shape);
}

/**
 * Convolution as a matrix product per image and group: the windows are unfolded into rows, zeros where a window
 * lies on padding or between dilated elements.
 */
export function conv(x: HostTensor, w: HostTensor, shape: readonly number[], attrs: OpAttrs['conv']): HostTensor {
  const { groups } = attrs;
  const [batch, channels, ...spatial] = x.shape;
  const [outputs, perGroup, ...kernel] = w.shape;
  const places = shape.slice(2);
  const [taps, positions, spatialSize] = [sizeOf(kernel), sizeOf(places), sizeOf(spatial)];
  const [m, k] = [outputs / groups, perGroup * taps];
  const mode = modeOf(x, w, attrs.dtype);
  const reads = windowSources(spatial, kernel, places, attrs);
  const [source, weights] = [valuesOf(x, mode), valuesOf(w, mode)];
  const unfolded = newSums(mode, positions * k);
  const sums = newSums(mode, sizeOf(shape));
  for (let image = 0; image < batch; image++) {
    for (let group = 0; group < groups; group++) {
      unfolded.fill((mode === 'big' ? 0n : 0) as never);
      for (let channel = 0; channel < perGroup; channel++) {
        const base = (image * channels + group * perGroup + channel) * spatialSize;
        for (let i = 0; i < reads.length; i++) {
          const [position, tap] = [Math.floor(i / taps), i % taps];
          if (reads[i] >= 0) unfolded[position * k + channel * taps + tap] = source[base + reads[i]] as never;
        }
      }
      const filters = weights.slice(group * m * k, (group + 1) * m * k);
      products(
        mode,
        filters,
        unfolded,
        { batch: 1, m, n: positions, k },
        sums,
        (image * groups + group) * m * positions,
      );
    }
  }
  return rounded(sums, attrs.dtype, shape);
}

/** For each output position and tap: the flat spatial place read, or -1. */
function windowSources(
  spatial: readonly number[],
  kernel: readonly number[],
  places: readonly number[],
  attrs: OpAttrs['conv'],
): Int32Array {
  const [taps, positions] = [sizeOf(kernel), sizeOf(places)];
  const out = new Int32Array(positions * taps);
  for (let position = 0; position < positions; position++) {
    for (let tap = 0; tap < taps; tap++) {
      let [p, t, stride, flat] = [position, tap, 1, 0];
      for (let axis = spatial.length - 1; axis >= 0; axis--) {
        const dilated =
          (p % places[axis]) * attrs.strides[axis] -
          Number(attrs.padLow[axis]) +
          (t % kernel[axis]) * attrs.dilations[axis];
        p = Math.floor(p / places[axis]);
        t = Math.floor(t / kernel[axis]);
        const step = attrs.inputDilation[axis];
        const place = dilated / step;
        if (dilated < 0 || dilated % step !== 0 || place >= spatial[axis]) flat = Number.NaN;
        flat += place * stride;
        stride *= spatial[axis];
      }
      out[position * taps + tap] = Number.isNaN(flat) ? -1 : flat;
    }
  }
  return out;
}
