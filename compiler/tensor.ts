/** Tensors in host memory: the form in which constants, inputs, outputs and the reference evaluator hold data. */
import { bytesOf, type DType, isPacked } from './dtype.js';

export type HostData =
  | Float64Array
  | Float32Array
  | Uint16Array
  | Int16Array
  | Int32Array
  | Uint32Array
  | Int8Array
  | Uint8Array
  | BigInt64Array
  | BigUint64Array
  | readonly string[];

/**
 * Row-major and packed. `data` by dtype: f64 Float64Array, f32 Float32Array, f16 and bf16 Uint16Array (bits),
 * f8* Uint8Array (bits), i64 BigInt64Array, u64 BigUint64Array, i32 … u8 the like-named array, bool Uint8Array of
 * 0 and 1, f4e2m1, i4 and u4 Uint8Array with two elements a byte, i2 and u2 with four (the first in the low bits),
 * string an array of strings.
 */
export interface HostTensor {
  readonly dtype: DType;
  readonly shape: readonly number[];
  readonly data: HostData;
}

/** Data of all types but strings. */
export type NumericData = Exclude<HostData, readonly string[]>;

type ArrayConstructor = {
  new (length: number): NumericData;
  new (buffer: ArrayBufferLike, offset: number, length: number): NumericData;
  readonly BYTES_PER_ELEMENT: number;
};

/** What holds the data of a tensor, by element type. */
export const dataArrays = {
  f64: Float64Array,
  f32: Float32Array,
  f16: Uint16Array,
  bf16: Uint16Array,
  f8e4m3: Uint8Array,
  f8e5m2: Uint8Array,
  f8e4m3fnuz: Uint8Array,
  f8e5m2fnuz: Uint8Array,
  f8e8m0: Uint8Array,
  f4e2m1: Uint8Array,
  i64: BigInt64Array,
  i32: Int32Array,
  i16: Int16Array,
  i8: Int8Array,
  i4: Uint8Array,
  i2: Uint8Array,
  u64: BigUint64Array,
  u32: Uint32Array,
  u16: Uint16Array,
  u8: Uint8Array,
  u4: Uint8Array,
  u2: Uint8Array,
  bool: Uint8Array,
} as const satisfies Record<Exclude<DType, 'string'>, ArrayConstructor>;

const constructors: Readonly<Record<Exclude<DType, 'string'>, ArrayConstructor>> = dataArrays;

/** Number of elements of a shape; 1 for a scalar. */
export const sizeOf = (shape: readonly number[]): number => shape.reduce((product, dim) => product * dim, 1);

/** Entries of a tensor's `data`: elements, or bytes of packed types. */
export const dataLength = (dtype: DType, count: number): number => (isPacked(dtype) ? bytesOf(dtype, count) : count);

/** A tensor of zeros (empty strings). */
export function emptyTensor(dtype: DType, shape: readonly number[]): HostTensor {
  const count = sizeOf(shape);
  if (dtype === 'string') return { dtype, shape, data: new Array<string>(count).fill('') };
  return { dtype, shape, data: new constructors[dtype](dataLength(dtype, count)) };
}

/**
 * A tensor over little-endian bytes, without copying where their alignment allows.
 * @throws RangeError if `bytes` is shorter than the shape needs.
 */
export function tensorFromBytes(
  dtype: Exclude<DType, 'string'>,
  shape: readonly number[],
  bytes: Uint8Array,
): HostTensor {
  const needed = bytesOf(dtype, sizeOf(shape));
  if (bytes.byteLength < needed) throw new RangeError(`${needed} bytes expected, ${bytes.byteLength} given`);
  const arrayType = constructors[dtype];
  const length = dataLength(dtype, sizeOf(shape));
  const aligned = bytes.byteOffset % arrayType.BYTES_PER_ELEMENT === 0;
  // Not slice: that of Node's Buffer does not copy.
  const view = aligned ? bytes : new Uint8Array(bytes.subarray(0, needed));
  return { dtype, shape, data: new arrayType(view.buffer, view.byteOffset, length) };
}

/** The tensor's bytes, as a view. @throws TypeError on strings. */
export function bytesOfTensor(tensor: HostTensor): Uint8Array {
  const { data } = tensor;
  if (!ArrayBuffer.isView(data)) throw new TypeError('strings have no bytes');
  return new Uint8Array(data.buffer, data.byteOffset, data.byteLength);
}

export type { DType };
