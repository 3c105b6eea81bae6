/**
 * Tensors as users hold them, following onnxruntime-common: `type`, `dims`, `data`, `location`, `getData`, `dispose`.
 * Data is row-major and packed; the array type follows from the element type.
 */
import {
  bitsOf,
  type DType,
  integerRange,
  isInt,
  isMiniFloat,
  isPacked,
  type PackedDType,
  perByte,
} from '../compiler/dtype.js';
import { TuttiError } from '../compiler/error.js';
import { encodeMiniFloat } from '../compiler/minifloat.js';
import { f32ToBf16, f32ToF16 } from '../compiler/numeric.js';
import { dataLength, type HostTensor, sizeOf } from '../compiler/tensor.js';
import type { Resident } from './residents.js';

/**
 * Element types and the data each has: float16 and bfloat16 Uint16Array (bits), float8 Uint8Array (bits), bool
 * Uint8Array of 0 and 1, int64 BigInt64Array, uint64 BigUint64Array, int4, uint4 and float4e2m1 Uint8Array with two
 * elements a byte, int2 and uint2 with four (the first in the low bits), string an array of strings, the others the
 * like-named typed array.
 */
export type TensorType = keyof typeof types;

export type NumericArray =
  | Float64Array
  | Float32Array
  | Uint16Array
  | Int16Array
  | Int32Array
  | Uint32Array
  | Int8Array
  | Uint8Array
  | BigInt64Array
  | BigUint64Array;

/** What tensors can be made from. Plain numbers are rounded to the type, which is float32 unless it is said. */
export type TensorData =
  | NumericArray
  | Uint8ClampedArray
  | readonly number[]
  | readonly bigint[]
  | readonly boolean[]
  | readonly string[];

interface TypeFacts {
  readonly dtype: DType;
  /** Undefined for strings. */
  readonly array?: {
    new (length: number): NumericArray;
    from(values: ArrayLike<never>): NumericArray;
    readonly name: string;
  };
  /** How a plain number becomes an element, for types held as bits. */
  readonly encode?: (value: number) => number;
}

const types = {
  float32: { dtype: 'f32', array: Float32Array },
  float64: { dtype: 'f64', array: Float64Array },
  float16: { dtype: 'f16', array: Uint16Array, encode: f32ToF16 },
  bfloat16: { dtype: 'bf16', array: Uint16Array, encode: f32ToBf16 },
  float8e4m3fn: { dtype: 'f8e4m3', array: Uint8Array },
  float8e5m2: { dtype: 'f8e5m2', array: Uint8Array },
  float8e4m3fnuz: { dtype: 'f8e4m3fnuz', array: Uint8Array },
  float8e5m2fnuz: { dtype: 'f8e5m2fnuz', array: Uint8Array },
  float8e8m0: { dtype: 'f8e8m0', array: Uint8Array },
  float4e2m1: { dtype: 'f4e2m1', array: Uint8Array },
  int64: { dtype: 'i64', array: BigInt64Array },
  int32: { dtype: 'i32', array: Int32Array },
  int16: { dtype: 'i16', array: Int16Array },
  int8: { dtype: 'i8', array: Int8Array },
  int4: { dtype: 'i4', array: Uint8Array },
  int2: { dtype: 'i2', array: Uint8Array },
  uint64: { dtype: 'u64', array: BigUint64Array },
  uint32: { dtype: 'u32', array: Uint32Array },
  uint16: { dtype: 'u16', array: Uint16Array },
  uint8: { dtype: 'u8', array: Uint8Array },
  uint4: { dtype: 'u4', array: Uint8Array },
  uint2: { dtype: 'u2', array: Uint8Array },
  bool: { dtype: 'bool', array: Uint8Array },
  string: { dtype: 'string' },
} as const satisfies Record<string, TypeFacts>;

const factsOf = (type: TensorType): TypeFacts => types[type];
const typeByDType = new Map(Object.entries(types).map(([type, { dtype }]) => [dtype, type as TensorType]));

export const isTensorType = (text: string): text is TensorType => Object.hasOwn(types, text);
export const dtypeOfType = (type: TensorType): DType => factsOf(type).dtype;
export function typeOfDType(dtype: DType): TensorType {
  const type = typeByDType.get(dtype);
  if (type === undefined) throw new Error(`dtype ${dtype} has no tensor type`);
  return type;
}

/** Where the data of a tensor is: `cpu` is the host's memory. */
export type TensorLocation = 'cpu' | 'device';

/** The memory of a tensor that lies on a device; sessions make these. */
export interface DeviceStorage {
  /** Identity of the open device. */
  readonly device: object;
  readonly resident: Resident;
  read(dtype: DType, dims: readonly number[]): Promise<HostTensor>;
}

/** What makes tensors on a device: a session. */
export interface TensorMaker {
  tensor(type: TensorType, dims: readonly number[]): Promise<Tensor>;
}

export class Tensor {
  readonly type: TensorType;
  readonly dims: readonly number[];
  readonly location: TensorLocation = 'cpu';
  #data: NumericArray | readonly string[] | undefined;
  #storage: DeviceStorage | undefined;

  /**
   * `new Tensor('float32', data, [1, 3])`, or `new Tensor(data, dims)` with the type that the array has (plain numbers:
   * float32, bigints: int64, booleans: bool, strings: string). Dims default to one dim of all elements. Typed arrays
   * of the right kind are used in place.
   * @throws TuttiError E_INPUT if type, data and dims do not fit together.
   */
  constructor(type: TensorType, data: TensorData, dims?: readonly number[]);
  constructor(data: TensorData, dims?: readonly number[]);
  constructor(type: TensorType, storage: DeviceStorage, dims: readonly number[]);
  constructor(
    first: TensorType | TensorData,
    second?: TensorData | DeviceStorage | readonly number[],
    third?: readonly number[],
  ) {
    const typed = typeof first === 'string';
    if (typed && isStorage(second)) {
      this.type = first;
      this.dims = checkDims(third ?? []);
      this.location = 'device';
      this.#storage = second;
      return;
    }
    const data = typed ? (second as TensorData | undefined) : first;
    if (typed && !isTensorType(first)) {
      throw inputError(`unknown tensor type '${String(first)}'`, `one of ${Object.keys(types).join(', ')}`);
    }
    if (data === undefined || data === null || typeof data !== 'object' || !('length' in data)) {
      throw inputError('tensor data is missing', 'a typed array or an array', String(data));
    }
    this.type = typed ? first : inferType(data);
    this.#data = convert(this.type, data);
    const dims = (typed ? third : (second as readonly number[] | undefined)) ?? [countOf(this.type, data)];
    this.dims = checkDims(dims);
    checkLength(this.type, this.#data.length, this.dims);
  }

  /** Same as `new Tensor(data, dims)`; with a type, as `new Tensor(type, data, dims)`. */
  static from(data: TensorData, dims?: readonly number[], type?: TensorType): Tensor {
    return type === undefined ? new Tensor(data, dims) : new Tensor(type, data, dims);
  }

  /**
   * A tensor of zeros in the memory of a session's device; the same as `session.tensor(type, dims)`.
   * @throws TuttiError E_INPUT, E_OUT_OF_MEMORY
   */
  static empty(session: TensorMaker, type: TensorType, dims: readonly number[]): Promise<Tensor> {
    return session.tensor(type, dims);
  }

  /** Without copying. */
  static fromHost(tensor: HostTensor): Tensor {
    return new Tensor(typeOfDType(tensor.dtype), tensor.data, tensor.shape);
  }

  /** Without copying. */
  toHost(): HostTensor {
    return { dtype: this.dtype, shape: this.dims, data: this.data };
  }

  /** @throws TuttiError E_INPUT after `dispose`, and where the data is on a device: `getData` fetches it from there. */
  get data(): NumericArray | readonly string[] {
    if (this.#data !== undefined) return this.#data;
    if (this.#storage === undefined) throw inputError('the tensor is disposed');
    throw new TuttiError('E_INPUT', 'the data of the tensor is on a device', {
      remedy: 'Fetch it: await tensor.getData().',
    });
  }

  /** The memory of a tensor on a device. @throws TuttiError E_INPUT after `dispose` */
  get storage(): DeviceStorage | undefined {
    if (this.#storage === undefined && this.#data === undefined) throw inputError('the tensor is disposed');
    return this.#storage;
  }

  get dtype(): DType {
    return dtypeOfType(this.type);
  }

  /** Number of elements. */
  get size(): number {
    return sizeOf(this.dims);
  }

  /**
   * The data, read from the device if it is there. With `release` it is kept on the host from then on, and the device's
   * memory is given back.
   */
  async getData(release = false): Promise<NumericArray | readonly string[]> {
    const { storage } = this;
    if (storage === undefined) return this.data;
    const { data } = await storage.read(this.dtype, this.dims);
    if (release) {
      this.#letGo();
      this.#data = data;
      (this as { location: TensorLocation }).location = 'cpu';
    }
    return data;
  }

  /** The same data under other dims of equal size; on a device both share the memory, and each is to be disposed. */
  reshape(dims: readonly number[]): Tensor {
    const { storage } = this;
    if (storage === undefined) return new Tensor(this.type, this.data, dims);
    checkLength(this.type, dataLength(this.dtype, this.size), dims);
    return new Tensor(this.type, { ...storage, resident: storage.resident.hold() }, dims);
  }

  /** Lets go of the data; memory of a device is given back. */
  dispose(): void {
    this.#data = undefined;
    this.#letGo();
  }

  #letGo(): void {
    const storage = this.#storage;
    this.#storage = undefined;
    storage?.resident.release();
  }
}

const isStorage = (data: unknown): data is DeviceStorage =>
  typeof data === 'object' && data !== null && 'resident' in data;

function inferType(data: TensorData): TensorType {
  if (data instanceof Float64Array) return 'float64';
  if (data instanceof Float32Array) return 'float32';
  if (data instanceof Int32Array) return 'int32';
  if (data instanceof Uint32Array) return 'uint32';
  if (data instanceof Int16Array) return 'int16';
  if (data instanceof Uint16Array) return 'uint16';
  if (data instanceof Int8Array) return 'int8';
  if (data instanceof Uint8Array || data instanceof Uint8ClampedArray) return 'uint8';
  if (data instanceof BigInt64Array) return 'int64';
  if (data instanceof BigUint64Array) return 'uint64';
  if (isFloat16Array(data)) return 'float16';
  switch (typeof data[0]) {
    case 'string':
      return 'string';
    case 'bigint':
      return 'int64';
    case 'boolean':
      return 'bool';
    default:
      return 'float32';
  }
}

/** Engines that have Float16Array may hand one in; its bits are what we hold. */
const isFloat16Array = (data: object): boolean => Object.prototype.toString.call(data) === '[object Float16Array]';

function convert(type: TensorType, data: TensorData): NumericArray | readonly string[] {
  const { array, dtype, encode } = factsOf(type);
  if (array === undefined) {
    if (Array.isArray(data) && data.every((value) => typeof value === 'string')) return data;
    throw inputError('data does not fit the type string', 'an array of strings', describeData(data));
  }
  if (data instanceof array) return data as NumericArray;
  const view = ArrayBuffer.isView(data) ? data : undefined;
  if (view !== undefined) {
    const bits = (type === 'float16' && isFloat16Array(view)) || view instanceof Uint8ClampedArray;
    const fits = view instanceof Uint8ClampedArray ? type === 'uint8' || type === 'bool' : type === 'float16';
    if (!bits || !fits) throw inputError(`data does not fit the type ${type}`, array.name, describeData(data));
    if (type !== 'float16') return new Uint8Array(view.buffer, view.byteOffset, view.byteLength);
    return new Uint16Array(view.buffer, view.byteOffset, view.byteLength / 2);
  }
  const values = data as readonly (number | bigint | boolean | string)[];
  if (values.some((value) => typeof value === 'string' || value === undefined || value === null)) {
    throw inputError(`data does not fit the type ${type}`, 'numbers', describeData(data));
  }
  try {
    if (type === 'int64' || type === 'uint64') return array.from(values.map(BigInt) as never);
    const numbers = values.map(Number);
    if (isPacked(dtype)) return pack(type, dtype, numbers);
    if (isMiniFloat(dtype))
      return Uint8Array.from(numbers, (value) => encodeMiniFloat(dtype, value, { saturate: true }));
    if (type === 'bool') return Uint8Array.from(numbers, (value) => (value === 0 ? 0 : 1));
    return array.from((encode === undefined ? numbers : numbers.map(encode)) as never);
  } catch (cause) {
    if (cause instanceof TuttiError) throw cause;
    throw inputError(`data does not fit the type ${type}`, 'integers', describeData(data), cause);
  }
}

/** Several elements a byte, the first in the low bits. */
function pack(type: TensorType, dtype: PackedDType, values: readonly number[]): Uint8Array {
  const [bits, each] = [bitsOf(dtype), perByte(dtype)];
  const packed = new Uint8Array(Math.ceil(values.length / each));
  for (const [i, value] of values.entries()) {
    packed[Math.floor(i / each)] |= (fieldOf(type, dtype, value) & (2 ** bits - 1)) << (bits * (i % each));
  }
  return packed;
}

function fieldOf(type: TensorType, dtype: PackedDType, value: number): number {
  if (!isInt(dtype)) return encodeMiniFloat(dtype, value, { saturate: true });
  const [min, max] = integerRange(dtype).map(Number);
  if (Number.isInteger(value) && value >= min && value <= max) return value;
  throw inputError(`data does not fit the type ${type}`, `integers from ${min} to ${max}`, String(value));
}

/** Elements in `data`, which may be packed. */
const countOf = (type: TensorType, data: TensorData): number =>
  ArrayBuffer.isView(data) ? data.length * perByte(dtypeOfType(type)) : data.length;

function checkDims(dims: readonly number[]): readonly number[] {
  for (const dim of dims) {
    if (!Number.isSafeInteger(dim) || dim < 0) throw inputError('bad dims', 'integers from 0', `[${dims.join(', ')}]`);
  }
  return [...dims];
}

function checkLength(type: TensorType, length: number, dims: readonly number[]): void {
  const count = sizeOf(dims);
  const expected = dataLength(dtypeOfType(type), count);
  if (length === expected) return;
  throw inputError(`data and dims [${dims.join(', ')}] do not fit`, `${expected} elements`, String(length));
}

const describeData = (data: TensorData): string =>
  ArrayBuffer.isView(data) ? data.constructor.name : `an array of ${typeof data[0]}`;

const inputError = (message: string, expected?: string, found?: string, cause?: unknown): TuttiError =>
  new TuttiError('E_INPUT', message, { expected, found, cause });
