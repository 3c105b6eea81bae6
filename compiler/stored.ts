/** Constants whose elements lie as little-endian bytes somewhere, in memory or in a file, and are read when they are wanted. */
import { bytesOf, type DType } from './dtype.js';
import type { ConstantData } from './graph/types.js';
import { emptyTensor, type HostTensor, type NumericData, sizeOf, tensorFromBytes } from './tensor.js';

/** Data of this size or more is read in pieces, and left in its file until then. */
export const largeBytes = 1 << 16;

export interface Stored {
  /** Fills `into` with the bytes from `offset` on. */
  read(offset: number, into: Uint8Array): void;
  /** All bytes, where they are in memory. */
  readonly bytes?: Uint8Array;
}

/** Nothing is copied or read before it is asked for, and what is large is not kept. */
export function storedConstant(
  dtype: Exclude<DType, 'string'>,
  shape: readonly number[],
  { read, bytes }: Stored,
): ConstantData {
  let kept: HostTensor | undefined;
  const load = (): HostTensor => {
    if (kept !== undefined) return kept;
    let tensor: HostTensor;
    if (bytes === undefined) {
      tensor = emptyTensor(dtype, shape);
      read(0, bytesOfData(tensor.data as NumericData));
    } else tensor = tensorFromBytes(dtype, shape, bytes);
    const copied = bytes === undefined || (tensor.data as NumericData).buffer !== bytes.buffer;
    if (dtype === 'bool') tensor = { ...tensor, data: binary(tensor.data as Uint8Array, copied) };
    if (!copied || !isLarge({ dtype, shape })) kept = tensor;
    return tensor;
  };
  if (!isLarge({ dtype, shape })) return { dtype, shape, load };
  return {
    dtype,
    shape,
    load,
    readPart(start, into) {
      read(start * into.BYTES_PER_ELEMENT, bytesOfData(into));
      if (dtype === 'bool') binary(into as Uint8Array, true);
    },
  };
}

export const isLarge = ({ dtype, shape }: Pick<ConstantData, 'dtype' | 'shape'>): boolean =>
  dtype !== 'string' && bytesOf(dtype, sizeOf(shape)) >= largeBytes;

/** A bool is one byte of 0 or 1, whatever was stored. */
function binary(data: Uint8Array, own: boolean): Uint8Array {
  if (data.every((byte) => byte <= 1)) return data;
  const result = own ? data : new Uint8Array(data.length);
  for (let i = 0; i < data.length; i++) result[i] = data[i] === 0 ? 0 : 1;
  return result;
}

/** The bytes of an array, as a view. */
export const bytesOfData = (data: NumericData): Uint8Array =>
  new Uint8Array(data.buffer, data.byteOffset, data.byteLength);
