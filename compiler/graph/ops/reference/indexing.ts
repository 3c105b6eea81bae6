/** Indexing ops on host tensors. Each gather picks whole runs of elements by a list of offsets. */
import type { DType } from '../../../dtype.js';
import { type HostTensor, sizeOf } from '../../../tensor.js';
import type { ScatterFn } from '../../types.js';
import {
  accumulators,
  bigsOf,
  type Elements,
  elementsOf,
  isBig,
  newElements,
  newNumbers,
  numbersOf,
  stridesOf,
  tensorOfElements,
  tensorOfNumbers,
} from './data.js';
import { bigBinary, numberBinary } from './elementwise.js';

export function iota(dtype: DType, shape: readonly number[], axis: number): HostTensor {
  const length = shape[axis];
  const inner = sizeOf(shape.slice(axis + 1));
  const count = sizeOf(shape);
  if (isBig(dtype)) {
    const out = newElements(dtype, count) as BigInt64Array;
    for (let i = 0; i < count; i++) out[i] = BigInt(Math.floor(i / inner) % length);
    return { dtype, shape, data: out };
  }
  const out = newNumbers(dtype, count);
  for (let i = 0; i < count; i++) out[i] = Math.floor(i / inner) % length;
  return tensorOfNumbers(dtype, shape, out);
}

/** Indices as numbers: negative ones count from the end of an axis of `size`. Values beyond 2^53 stay out of range. */
function indexList(indices: HostTensor): Float64Array {
  return indices.dtype === 'i64' ? Float64Array.from(bigsOf(indices), Number) : Float64Array.from(numbersOf(indices));
}
const fromEnd = (index: number, size: number): number => (index < 0 ? index + size : index);
const clamped = (index: number, size: number): number => Math.min(Math.max(fromEnd(index, size), 0), size - 1);

/** Appends `length` elements from `offset` of source at `at` of target. */
function copyRun(source: Elements, offset: number, target: Elements, at: number, length: number): void {
  if (length > 8 && !Array.isArray(source)) {
    (target as Uint8Array).set((source as Uint8Array).subarray(offset, offset + length), at);
  } else for (let i = 0; i < length; i++) target[at + i] = source[offset + i];
}

export function gather(x: HostTensor, indices: HostTensor, shape: readonly number[], axis: number): HostTensor {
  const source = elementsOf(x);
  const out = newElements(x.dtype, sizeOf(shape));
  const size = x.shape[axis];
  const inner = sizeOf(x.shape.slice(axis + 1));
  const outer = sizeOf(x.shape.slice(0, axis));
  const places = indexList(indices).map((index) => clamped(index, size));
  // An empty axis has nothing to clamp to: zeros.
  if (size > 0) {
    let at = 0;
    for (let o = 0; o < outer; o++) {
      for (const place of places) {
        copyRun(source, (o * size + place) * inner, out, at, inner);
        at += inner;
      }
    }
  }
  return tensorOfElements(x.dtype, shape, out);
}

/** Calls `visit` with the row-major number of each element of `shape` and the offset that `strides` give it. */
function forEachOffset(
  shape: readonly number[],
  strides: readonly number[],
  visit: (i: number, offset: number) => void,
): void {
  const count = sizeOf(shape);
  const index = new Array<number>(shape.length).fill(0);
  let offset = 0;
  for (let i = 0; i < count; i++) {
    visit(i, offset);
    for (let axis = shape.length - 1; axis >= 0; axis--) {
      offset += strides[axis];
      if (++index[axis] < shape[axis]) break;
      offset -= strides[axis] * shape[axis];
      index[axis] = 0;
    }
  }
}

/** Strides of x with that of `axis` 0: the offset of an element of the indices but for its index. */
const stridesWithout = (shape: readonly number[], axis: number): number[] =>
  stridesOf(shape).map((stride, i) => (i === axis ? 0 : stride));

export function gatherElements(x: HostTensor, indices: HostTensor, axis: number): HostTensor {
  const source = elementsOf(x);
  const out = newElements(x.dtype, sizeOf(indices.shape));
  const places = indexList(indices);
  const size = x.shape[axis];
  const step = stridesOf(x.shape)[axis];
  if (size > 0) {
    forEachOffset(indices.shape, stridesWithout(x.shape, axis), (i, offset) => {
      out[i] = source[offset + clamped(places[i], size) * step];
    });
  }
  return tensorOfElements(x.dtype, indices.shape, out);
}

export function gatherNd(x: HostTensor, indices: HostTensor, shape: readonly number[], batchDims: number): HostTensor {
  const source = elementsOf(x);
  const out = newElements(x.dtype, sizeOf(shape));
  const length = indices.shape[indices.shape.length - 1];
  const places = indexList(indices);
  const strides = stridesOf(x.shape);
  const batchSize = sizeOf(x.shape.slice(batchDims));
  const picksPerBatch = sizeOf(indices.shape.slice(batchDims, -1));
  const inner = sizeOf(x.shape.slice(batchDims + length));
  const picks = sizeOf(indices.shape.slice(0, -1));
  if (source.length === 0) return tensorOfElements(x.dtype, shape, out);
  for (let pick = 0; pick < picks; pick++) {
    let offset = Math.floor(pick / picksPerBatch) * batchSize;
    for (let k = 0; k < length; k++) {
      const axis = batchDims + k;
      offset += clamped(places[pick * length + k], x.shape[axis]) * strides[axis];
    }
    copyRun(source, offset, out, pick * inner, inner);
  }
  return tensorOfElements(x.dtype, shape, out);
}

type Combine = (place: number, from: number) => void;

/** x with what `visit` combines into it; floats are combined in f64 and rounded once at the end. */
function scattered(x: HostTensor, updates: HostTensor, fn: ScatterFn, visit: (combine: Combine) => void): HostTensor {
  const { dtype, shape } = x;
  if (fn === 'set') {
    const [source, from] = [elementsOf(x), elementsOf(updates)];
    const out = newElements(dtype, source.length);
    copyRun(source, 0, out, 0, source.length);
    visit((place, i) => {
      out[place] = from[i];
    });
    return tensorOfElements(dtype, shape, out);
  }
  if (isBig(dtype)) {
    const apply = bigBinary(fn, dtype);
    const out = bigsOf(x).slice();
    const from = bigsOf(updates);
    visit((place, i) => {
      out[place] = apply(out[place], from[i]);
    });
    return { dtype, shape, data: out };
  }
  const apply = numberBinary(fn, dtype);
  const from = numbersOf(updates);
  const out = accumulators(dtype, numbersOf(x));
  visit((place, i) => {
    out[place] = apply(out[place], from[i]);
  });
  return tensorOfNumbers(dtype, shape, out);
}

export function scatterElements(
  x: HostTensor,
  indices: HostTensor,
  updates: HostTensor,
  axis: number,
  fn: ScatterFn,
): HostTensor {
  const places = indexList(indices);
  const size = x.shape[axis];
  const step = stridesOf(x.shape)[axis];
  return scattered(x, updates, fn, (combine) => {
    forEachOffset(indices.shape, stridesWithout(x.shape, axis), (i, offset) => {
      const place = fromEnd(places[i], size);
      if (place >= 0 && place < size) combine(offset + place * step, i);
    });
  });
}

export function scatterNd(x: HostTensor, indices: HostTensor, updates: HostTensor, fn: ScatterFn): HostTensor {
  const places = indexList(indices);
  const length = indices.shape[indices.shape.length - 1];
  const strides = stridesOf(x.shape);
  const inner = sizeOf(x.shape.slice(length));
  const picks = sizeOf(indices.shape.slice(0, -1));
  return scattered(x, updates, fn, (combine) => {
    for (let pick = 0; pick < picks; pick++) {
      let offset = 0;
      let inside = true;
      for (let k = 0; k < length; k++) {
        const place = fromEnd(places[pick * length + k], x.shape[k]);
        inside &&= place >= 0 && place < x.shape[k];
        offset += place * strides[k];
      }
      if (inside) for (let i = 0; i < inner; i++) combine(offset + i, pick * inner + i);
    }
  });
}
