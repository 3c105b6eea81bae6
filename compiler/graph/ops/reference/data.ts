/**
 * Elements of host tensors for the reference evaluator.
 *
 * Two views: *elements* are the stored form, one array entry an element (packed types unpacked), for ops that only
 * move data; *numbers* are values, decoded from the small float formats. 64-bit integers are bigints in both.
 */
import {
  bitsOf,
  bytesOf,
  type DType,
  isFloat,
  isMiniFloat,
  isPacked,
  isSigned,
  type MiniFloatDType,
  perByte,
} from '../../../dtype.js';
import { decodeMiniFloat, encodeMiniFloat, type MiniFloatRounding } from '../../../minifloat.js';
import { bf16ToF32, f16ToF32, f32ToBf16, f32ToF16 } from '../../../numeric.js';
import { dataArrays, type HostTensor, sizeOf } from '../../../tensor.js';

export type NumberArray =
  | Float64Array
  | Float32Array
  | Int32Array
  | Uint32Array
  | Int16Array
  | Uint16Array
  | Int8Array
  | Uint8Array;
export type BigArray = BigInt64Array | BigUint64Array;
/** One entry an element. Indexing it by number is all that generic code does. */
export type Elements = NumberArray | BigArray | string[];

export const isBig = (dtype: DType): dtype is 'i64' | 'u64' => dtype === 'i64' || dtype === 'u64';

/** NaN among values that may be bigints. */
export const isNotANumber = (value: number | bigint): boolean => typeof value === 'number' && Number.isNaN(value);

/** The arrays of tensors, but signed elements that are unpacked are bytes with a sign. */
const elementArrays = { ...dataArrays, i4: Int8Array, i2: Int8Array } as const;

/** A zeroed array for the elements of a tensor. */
export const newElements = (dtype: DType, count: number): Elements =>
  dtype === 'string' ? new Array<string>(count).fill('') : new elementArrays[dtype](count);

/** The tensor's elements as stored (codes of small floats); shares its memory except for packed types. */
export function elementsOf({ dtype, shape, data }: HostTensor): Elements {
  if (!isPacked(dtype)) return data as Elements;
  const bytes = data as Uint8Array;
  const count = sizeOf(shape);
  const out = new elementArrays[dtype](count);
  const [bits, each] = [bitsOf(dtype), perByte(dtype)];
  const mask = (1 << bits) - 1;
  // Sign bits move to the top of a word and back.
  const extend = isSigned(dtype) && !isMiniFloat(dtype) ? 32 - bits : 0;
  for (let at = 0, i = 0; i < count; at++) {
    const byte = bytes[at];
    for (let j = 0; j < each && i < count; j++, i++) out[i] = (((byte >> (j * bits)) & mask) << extend) >> extend;
  }
  return out;
}

/** A tensor over elements as stored; shares their memory except for packed types. */
export function tensorOfElements(dtype: DType, shape: readonly number[], elements: Elements): HostTensor {
  if (!isPacked(dtype)) return { dtype, shape, data: elements };
  const fields = elements as Int8Array | Uint8Array;
  const bytes = new Uint8Array(bytesOf(dtype, fields.length));
  const [bits, each] = [bitsOf(dtype), perByte(dtype)];
  const mask = (1 << bits) - 1;
  for (let at = 0, i = 0; at < bytes.length; at++) {
    let byte = 0;
    for (let j = 0; j < each && i < fields.length; j++, i++) byte |= (fields[i] & mask) << (j * bits);
    bytes[at] = byte;
  }
  return { dtype, shape, data: bytes };
}

type SmallFloat = 'f16' | 'bf16' | MiniFloatDType;
const isSmallFloat = (dtype: DType): dtype is SmallFloat => dtype === 'f16' || dtype === 'bf16' || isMiniFloat(dtype);

function encode(dtype: SmallFloat, value: number, rounding: MiniFloatRounding): number {
  if (dtype === 'f16') return f32ToF16(value);
  return dtype === 'bf16' ? f32ToBf16(value) : encodeMiniFloat(dtype, value, rounding);
}

function decode(dtype: SmallFloat, bits: number): number {
  if (dtype === 'f16') return f16ToF32(bits);
  return dtype === 'bf16' ? bf16ToF32(bits) : decodeMiniFloat(dtype, bits);
}

const tables = new Map<SmallFloat, Float32Array>();
/** Values by bits; 16-bit formats take 256 KiB each, made when first needed. */
function decodeTable(dtype: SmallFloat): Float32Array {
  let table = tables.get(dtype);
  if (!table) {
    table = Float32Array.from({ length: 2 ** bitsOf(dtype) }, (_, i) => decode(dtype, i));
    tables.set(dtype, table);
  }
  return table;
}

/** Values of any type but i64, u64 and string. May share the tensor's memory. */
export function numbersOf(tensor: HostTensor): NumberArray {
  const { dtype } = tensor;
  if (isBig(dtype) || dtype === 'string') throw new TypeError(`${dtype} elements are no numbers`);
  if (!isSmallFloat(dtype)) return elementsOf(tensor) as NumberArray;
  const bits = elementsOf(tensor) as Uint16Array | Uint8Array;
  const out = new Float32Array(bits.length);
  const table = decodeTable(dtype);
  for (let i = 0; i < bits.length; i++) out[i] = table[bits[i]];
  return out;
}

export function bigsOf(tensor: HostTensor): BigArray {
  if (!isBig(tensor.dtype)) throw new TypeError(`${tensor.dtype} elements are no bigints`);
  return tensor.data as BigArray;
}

export function stringsOf(tensor: HostTensor): readonly string[] {
  if (tensor.dtype !== 'string') throw new TypeError(`${tensor.dtype} elements are no strings`);
  return tensor.data as readonly string[];
}

/** Where results are written as numbers before they are rounded: the type's own array, or f64 for small floats. */
export const newNumbers = (dtype: DType, count: number): NumberArray =>
  isSmallFloat(dtype) ? new Float64Array(count) : (newElements(dtype, count) as NumberArray);

/** A copy of numbers to accumulate in: f64 for floats, else the type's own array, which wraps. */
export function accumulators(dtype: DType, initial: ArrayLike<number> | number): NumberArray {
  const count = typeof initial === 'number' ? initial : initial.length;
  const out = isFloat(dtype) ? new Float64Array(count) : newNumbers(dtype, count);
  if (typeof initial !== 'number') out.set(initial);
  return out;
}

/** Keeps running integer results exact: modulo 2^32, which loses nothing that the type keeps. Floats stay as they are. */
export function wrapperOf(dtype: DType): (value: number) => number {
  if (isFloat(dtype)) return (value) => value;
  return dtype === 'u32' ? (value) => value >>> 0 : (value) => value | 0;
}

/**
 * A tensor of numbers rounded to the type: floats to nearest even (`rounding` is for those of a byte), integers modulo 2^bits (they must be integers below
 * 2^53). Shares the memory of an array that already has the type's form. Not for 64-bit integers and strings.
 */
export function tensorOfNumbers(
  dtype: DType,
  shape: readonly number[],
  values: NumberArray | readonly number[],
  rounding: MiniFloatRounding = { saturate: false },
): HostTensor {
  if (isBig(dtype) || dtype === 'string') throw new TypeError(`numbers are no ${dtype} elements`);
  if (isSmallFloat(dtype)) {
    const out = new elementArrays[dtype](values.length);
    for (let i = 0; i < values.length; i++) out[i] = encode(dtype, values[i], rounding);
    return tensorOfElements(dtype, shape, out);
  }
  const type = elementArrays[dtype];
  return tensorOfElements(dtype, shape, values instanceof type ? values : type.from(values));
}

/** A scalar or filled tensor. Numbers must be representable up to rounding; integers are taken modulo 2^bits. */
export function filledTensor(
  dtype: DType,
  shape: readonly number[],
  value: number | bigint | boolean | string,
): HostTensor {
  const count = sizeOf(shape);
  if (dtype === 'string') return { dtype, shape, data: new Array<string>(count).fill(String(value)) };
  if (isBig(dtype)) {
    const big = typeof value === 'bigint' ? value : BigInt(Math.trunc(Number(value)));
    return { dtype, shape, data: new elementArrays[dtype](count).fill(big) };
  }
  const number = Number(value);
  if (dtype === 'bool') return { dtype, shape, data: new Uint8Array(count).fill(number !== 0 ? 1 : 0) };
  const one = tensorOfNumbers(dtype, [1], [isFloat(dtype) ? number : Math.trunc(number)]);
  const [element] = elementsOf(one);
  const out = newElements(dtype, count) as NumberArray;
  return tensorOfElements(dtype, shape, out.fill(element as number));
}

/** Row-major strides of a packed tensor. */
export function stridesOf(shape: readonly number[]): number[] {
  const strides = new Array<number>(shape.length).fill(1);
  for (let i = shape.length - 2; i >= 0; i--) strides[i] = strides[i + 1] * shape[i + 1];
  return strides;
}

/** The value of the first element (of the only one, for scalars). @throws TypeError on strings. */
export const firstElement = (tensor: HostTensor): number | bigint =>
  isBig(tensor.dtype) ? bigsOf(tensor)[0] : numbersOf(tensor)[0];
