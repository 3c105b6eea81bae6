/** Integer tensors on the host, to and from plain numbers. */
import { type DType, isInt } from '../dtype.js';
import type { HostTensor } from '../tensor.js';
import { elementsOf, isBig, newElements, tensorOfElements } from './ops/reference/data.js';

/** Elements as exact numbers; undefined if one is beyond 2^53 or the tensor holds no integers. */
export function integersOf(tensor: HostTensor): readonly number[] | undefined {
  if (!isInt(tensor.dtype) && tensor.dtype !== 'bool') return undefined;
  // Slices use the extremes of i64 for "to the end": as numbers they are rounded, and still beyond every dim.
  return Array.from(elementsOf(tensor) as ArrayLike<number | bigint>, Number);
}

export function tensorOfIntegers(dtype: DType, shape: readonly number[], values: readonly number[]): HostTensor {
  const elements = newElements(dtype, values.length);
  values.forEach((value, i) => {
    elements[i] = isBig(dtype) ? BigInt(value) : value;
  });
  return tensorOfElements(dtype, shape, elements);
}
