/** Pooling windows on host tensors. */
import { type HostTensor, sizeOf } from '../../../tensor.js';
import type { OpAttrs } from '../../types.js';
import {
  accumulators,
  type BigArray,
  bigsOf,
  isBig,
  isNotANumber,
  newElements,
  numbersOf,
  stridesOf,
  tensorOfNumbers,
  wrapperOf,
} from './data.js';
import { bigBinary, numberBinary } from './elementwise.js';
import { identityOf } from './reduction.js';

type WindowAttrs = OpAttrs['window_argmax'];
const binaryOf = { sum: 'add', prod: 'mul', max: 'max', min: 'min' } as const;

/** Along one axis: for each place of the window the offsets of the elements in it, padding left out. */
function axisOffsets(size: number, stride: number, places: number, attrs: WindowAttrs, axis: number): number[][] {
  return Array.from({ length: places }, (_, place) => {
    const offsets: number[] = [];
    for (let tap = 0; tap < attrs.window[axis]; tap++) {
      const at = place * attrs.strides[axis] - Number(attrs.padLow[axis]) + tap * attrs.dilations[axis];
      if (at >= 0 && at < size) offsets.push(at * stride);
    }
    return offsets;
  });
}

/** Calls `visit` for every window, in row-major order, with the offsets of its elements in row-major order. */
function forEachWindow(
  x: HostTensor,
  shape: readonly number[],
  attrs: WindowAttrs,
  visit: (window: number, offsets: readonly number[]) => void,
): void {
  const strides = stridesOf(x.shape);
  const offsets = x.shape.map((size, axis) => axisOffsets(size, strides[axis], shape[axis], attrs, axis));
  let window = 0;
  const walk = (axis: number, sums: readonly number[]): void => {
    if (axis === shape.length) {
      visit(window++, sums);
      return;
    }
    for (const list of offsets[axis]) {
      walk(
        axis + 1,
        list.length === 1 && sums.length === 1 ? [sums[0] + list[0]] : sums.flatMap((p) => list.map((q) => p + q)),
      );
    }
  };
  walk(0, [0]);
}

export function reduceWindow(x: HostTensor, shape: readonly number[], attrs: OpAttrs['reduce_window']): HostTensor {
  const { dtype } = x;
  const identity = identityOf(attrs.fn, dtype);
  if (isBig(dtype)) {
    const source = bigsOf(x);
    const out = newElements(dtype, sizeOf(shape)) as BigArray;
    const apply = bigBinary(binaryOf[attrs.fn], dtype);
    forEachWindow(x, shape, attrs, (window, offsets) => {
      out[window] = offsets.reduce((total, offset) => apply(total, source[offset]), identity as bigint);
    });
    return { dtype, shape, data: out };
  }
  const source = numbersOf(x);
  const out = accumulators(dtype, sizeOf(shape));
  const apply = numberBinary(binaryOf[attrs.fn], dtype);
  const wrap = wrapperOf(dtype);
  forEachWindow(x, shape, attrs, (window, offsets) => {
    let total = identity as number;
    for (const offset of offsets) total = wrap(apply(total, source[offset]));
    out[window] = total;
  });
  return tensorOfNumbers(dtype, shape, out);
}

export function windowArgmax(x: HostTensor, shape: readonly number[], attrs: WindowAttrs): HostTensor {
  const source = isBig(x.dtype) ? bigsOf(x) : numbersOf(x);
  const out = new BigInt64Array(sizeOf(shape));
  forEachWindow(x, shape, attrs, (window, offsets) => {
    let best = -1;
    for (const offset of offsets) {
      const [p, q] = [source[offset], source[best]];
      // The first NaN wins over everything.
      if (best < 0 || p > q || (isNotANumber(p) && !isNotANumber(q))) best = offset;
    }
    out[window] = BigInt(best);
  });
  return { dtype: 'i64', shape, data: out };
}
