/** Tensors as devices take them. */
import { bytesOfTensor, type HostTensor } from '../compiler/tensor.js';

/** Kernels rely on bools being 0 or 1. */
export function wireBytes(tensor: HostTensor): Uint8Array {
  const bytes = bytesOfTensor(tensor);
  if (tensor.dtype !== 'bool' || bytes.every((value) => value <= 1)) return bytes;
  return bytes.map((value) => (value === 0 ? 0 : 1));
}
