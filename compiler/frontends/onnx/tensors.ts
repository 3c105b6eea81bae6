/** TensorProto, SparseTensorProto ↔ HostTensor: every element type we hold, raw and typed fields, external data. */
import { bytesOf, type DType } from '../../dtype.js';
import { TuttiError } from '../../error.js';
import { elementsOf, newElements, tensorOfElements } from '../../graph/ops/reference/data.js';
import type { ConstantData } from '../../graph/types.js';
import { storedConstant } from '../../stored.js';
import { bytesOfTensor, dataLength, emptyTensor, type HostData, type HostTensor, sizeOf } from '../../tensor.js';
import type { MessageInit, SparseTensorProto, TensorProto } from './proto.js';

/** TensorProto.DataType by number; null where we hold no such elements. */
const dataTypes: readonly { readonly name: string; readonly dtype: DType | null }[] = [
  { name: 'UNDEFINED', dtype: null },
  { name: 'FLOAT', dtype: 'f32' },
  { name: 'UINT8', dtype: 'u8' },
  { name: 'INT8', dtype: 'i8' },
  { name: 'UINT16', dtype: 'u16' },
  { name: 'INT16', dtype: 'i16' },
  { name: 'INT32', dtype: 'i32' },
  { name: 'INT64', dtype: 'i64' },
  { name: 'STRING', dtype: 'string' },
  { name: 'BOOL', dtype: 'bool' },
  { name: 'FLOAT16', dtype: 'f16' },
  { name: 'DOUBLE', dtype: 'f64' },
  { name: 'UINT32', dtype: 'u32' },
  { name: 'UINT64', dtype: 'u64' },
  { name: 'COMPLEX64', dtype: null },
  { name: 'COMPLEX128', dtype: null },
  { name: 'BFLOAT16', dtype: 'bf16' },
  { name: 'FLOAT8E4M3FN', dtype: 'f8e4m3' },
  { name: 'FLOAT8E4M3FNUZ', dtype: 'f8e4m3fnuz' },
  { name: 'FLOAT8E5M2', dtype: 'f8e5m2' },
  { name: 'FLOAT8E5M2FNUZ', dtype: 'f8e5m2fnuz' },
  { name: 'UINT4', dtype: 'u4' },
  { name: 'INT4', dtype: 'i4' },
  { name: 'FLOAT4E2M1', dtype: 'f4e2m1' },
  { name: 'FLOAT8E8M0', dtype: 'f8e8m0' },
  { name: 'UINT2', dtype: 'u2' },
  { name: 'INT2', dtype: 'i2' },
];

/** Which data type number a dtype has in ONNX. */
export const onnxTypeOf = (dtype: DType): number => dataTypes.findIndex((entry) => entry.dtype === dtype);

/**
 * Our dtype of a TensorProto.DataType.
 * @throws TuttiError E_UNSUPPORTED for types that we do not hold, E_MODEL_INVALID for numbers that ONNX does not have.
 */
export function dtypeOf(type: number, subject: string): DType {
  const entry = dataTypes[type];
  if (entry === undefined || type === 0) {
    throw new TuttiError('E_MODEL_INVALID', `element type ${type} is none of ONNX's`, { subject });
  }
  if (entry.dtype === null) {
    throw new TuttiError('E_UNSUPPORTED', `element type ${entry.name} is not supported`, {
      subject,
      expected: 'a type of real numbers, integers, bools or strings',
      found: entry.name,
      remedy: 'Keep real and imaginary parts as a last axis of two, as DFT does',
    });
  }
  return entry.dtype;
}

/** A file beside the model. */
export interface ExternalFile {
  /** Bytes. */
  readonly size: number;
  /** Exactly `length` bytes from `offset`; called when a constant's data is needed. */
  read(offset: number, length: number): Uint8Array;
  /** The same into memory that is there already. */
  readInto?(offset: number, into: Uint8Array): void;
}
/**
 * Opens a file of the model's folder. `location` is a relative path with `/` that has been checked lexically; whoever
 * opens it must not follow links out of the folder. Throws if there is no such file.
 */
export type ExternalReader = (location: string) => ExternalFile;

/** The dims of a tensor as numbers. @throws TuttiError E_MODEL_INVALID */
export function dimsOf(dims: readonly bigint[], subject: string): number[] {
  let count = 1n;
  for (const dim of dims) {
    if (dim < 0n) throw new TuttiError('E_MODEL_INVALID', `negative dim in shape [${dims.join(', ')}]`, { subject });
    count *= dim;
  }
  if (count > BigInt(Number.MAX_SAFE_INTEGER) || dims.some((dim) => dim > BigInt(Number.MAX_SAFE_INTEGER))) {
    throw new TuttiError('E_MODEL_INVALID', `shape [${dims.join(', ')}] has too many elements`, { subject });
  }
  return dims.map(Number);
}

/** Parts of the model's bytes that were not read: places of tensors' data, still in the file. */
export interface LeftOut {
  /** Whether the bytes from `offset` on are such a part. */
  has(offset: number): boolean;
  /** Fills `into` with the file's bytes from `offset` on. */
  read(offset: number, into: Uint8Array): void;
}

/** A tensor of the model as a constant; nothing is copied or read before it is asked for. */
export function constantOf(
  proto: TensorProto,
  subject: string,
  readExternal?: ExternalReader,
  leftOut?: LeftOut,
): ConstantData {
  const dtype = dtypeOf(proto.dataType ?? 0, subject);
  const shape = dimsOf(proto.dims, subject);
  if (proto.dataLocation === 1) return externalConstant(proto, dtype, shape, subject, readExternal);
  checkAmount(proto, dtype, shape, subject);
  const raw = proto.rawData;
  if (dtype !== 'string' && raw !== undefined && (raw.byteLength > 0 || typedLength(proto, dtype) === 0)) {
    if (leftOut?.has(raw.byteOffset))
      return storedConstant(dtype, shape, { read: (at, into) => leftOut.read(raw.byteOffset + at, into) });
    const read = (at: number, into: Uint8Array) => into.set(raw.subarray(at, at + into.byteLength));
    return storedConstant(dtype, shape, { read, bytes: raw });
  }
  let tensor: HostTensor | undefined;
  return {
    dtype,
    shape,
    load() {
      tensor ??= readTyped(proto, dtype, shape);
      return tensor;
    },
  };
}

/** A tensor whose data is in the message itself. */
export const tensorOf = (proto: TensorProto, subject: string): HostTensor => constantOf(proto, subject).load();

/** The data a shape claims must be there, before anything is allocated for it. */
function checkAmount(proto: TensorProto, dtype: DType, shape: readonly number[], subject: string): void {
  const count = sizeOf(shape);
  const wrong = (expected: string, found: string): TuttiError =>
    new TuttiError('E_MODEL_FORMAT', `tensor data does not fit its shape [${shape.join(', ')}]`, {
      subject,
      expected,
      found,
      remedy: 'The file may be truncated or damaged',
    });
  if (proto.rawData !== undefined && dtype !== 'string') {
    // Some exporters write a stray empty raw field next to typed data.
    if (proto.rawData.byteLength > 0 || typedLength(proto, dtype) === 0) {
      const needed = bytesOf(dtype, count);
      if (proto.rawData.byteLength !== needed) throw wrong(`${needed} bytes`, `${proto.rawData.byteLength}`);
      return;
    }
  }
  const needed = dataLength(dtype, count);
  const found = typedLength(proto, dtype);
  if (found !== needed) throw wrong(`${needed} elements`, `${found}`);
}

const typedLength = (proto: TensorProto, dtype: DType): number => typedData(proto, dtype).length;

function typedData(proto: TensorProto, dtype: DType): readonly (number | bigint | Uint8Array)[] {
  switch (dtype) {
    case 'f32':
      return proto.floatData;
    case 'f64':
      return proto.doubleData;
    case 'i64':
      return proto.int64Data;
    case 'u64':
    case 'u32':
      return proto.uint64Data;
    case 'string':
      return proto.stringData;
    case 'f16':
    case 'bf16':
    case 'f8e4m3':
    case 'f8e5m2':
    case 'f8e4m3fnuz':
    case 'f8e5m2fnuz':
    case 'f8e8m0':
    case 'f4e2m1':
    case 'i32':
    case 'i16':
    case 'i8':
    case 'i4':
    case 'i2':
    case 'u16':
    case 'u8':
    case 'u4':
    case 'u2':
    case 'bool':
      return proto.int32Data;
    default:
      return dtype satisfies never;
  }
}

function readTyped(proto: TensorProto, dtype: DType, shape: readonly number[]): HostTensor {
  if (dtype === 'string') {
    const decoder = new TextDecoder();
    return { dtype, shape, data: proto.stringData.map((bytes) => decoder.decode(bytes)) };
  }
  const typed = typedData(proto, dtype);
  const tensor = emptyTensor(dtype, shape);
  const data = tensor.data as Exclude<HostData, readonly string[]>;
  if (data instanceof BigInt64Array || data instanceof BigUint64Array) data.set(typed as readonly bigint[]);
  // Typed arrays wrap modulo their width: an int32 that holds bits or a byte lands as it should.
  else data.set(typed.map(Number));
  return normaliseBool(tensor);
}

/** A bool is one byte of 0 or 1, whatever the file says. */
function normaliseBool(tensor: HostTensor): HostTensor {
  if (tensor.dtype !== 'bool') return tensor;
  const data = tensor.data as Uint8Array;
  return data.every((byte) => byte <= 1) ? tensor : { ...tensor, data: data.map((byte) => (byte === 0 ? 0 : 1)) };
}

/** The path of external data, checked to lie below the model's folder. @throws TuttiError E_EXTERNAL_DATA */
export function checkLocation(location: string, subject: string): string {
  const bad =
    location === ''
      ? 'is empty'
      : location.includes('\0')
        ? 'contains a NUL'
        : location.includes('\\')
          ? 'contains a backslash'
          : location.startsWith('/')
            ? 'is absolute'
            : /^[A-Za-z][A-Za-z0-9+.-]*:/.test(location)
              ? 'starts with a drive letter or scheme'
              : location.split('/').includes('..')
                ? 'leaves the folder of the model'
                : location.split('/').every((part) => part === '' || part === '.')
                  ? 'names no file'
                  : undefined;
  if (bad !== undefined) {
    throw new TuttiError('E_EXTERNAL_DATA', `the location of external data ${bad}`, {
      subject,
      expected: "a relative path inside the model's folder",
      found: JSON.stringify(location),
    });
  }
  return location;
}

function externalConstant(
  proto: TensorProto,
  dtype: DType,
  shape: readonly number[],
  subject: string,
  readExternal?: ExternalReader,
): ConstantData {
  const entries = new Map(proto.externalData.map(({ key, value }) => [key ?? '', value ?? '']));
  const location = checkLocation(entries.get('location') ?? '', subject);
  if (dtype === 'string') throw new TuttiError('E_EXTERNAL_DATA', 'strings cannot be external', { subject });
  const needed = bytesOf(dtype, sizeOf(shape));
  const offset = wholeNumber(entries.get('offset') ?? '0', 'offset', subject);
  const length = wholeNumber(entries.get('length') ?? String(needed), 'length', subject);
  if (length !== needed) {
    throw new TuttiError('E_EXTERNAL_DATA', `length does not fit shape [${shape.join(', ')}] of ${dtype}`, {
      subject,
      expected: `${needed} bytes`,
      found: String(length),
    });
  }
  if (readExternal === undefined) {
    throw new TuttiError(
      'E_EXTERNAL_DATA',
      `the data is in a file beside the model, ${location}, that cannot be read`,
      {
        subject,
        remedy: 'Load the model from its folder or pass readExternal',
      },
    );
  }
  const file = guarded(() => readExternal(location), location, subject);
  if (offset + needed > file.size) {
    throw new TuttiError('E_EXTERNAL_DATA', `${location} is too short`, {
      subject,
      expected: `${offset + needed} bytes or more`,
      found: String(file.size),
    });
  }
  return storedConstant(dtype, shape, {
    read: (at, into) =>
      guarded(
        () => (file.readInto ? file.readInto(offset + at, into) : into.set(file.read(offset + at, into.byteLength))),
        location,
        subject,
      ),
  });
}

function guarded<T>(read: () => T, location: string, subject: string): T {
  try {
    return read();
  } catch (cause) {
    if (cause instanceof TuttiError) throw cause;
    const why = cause instanceof Error ? cause.message : String(cause);
    throw new TuttiError('E_EXTERNAL_DATA', `${location} cannot be read: ${why}`, { subject, cause });
  }
}

function wholeNumber(text: string, key: string, subject: string): number {
  const value = Number(text);
  if (!/^\d+$/.test(text) || !Number.isSafeInteger(value)) {
    throw new TuttiError('E_EXTERNAL_DATA', `${key} of external data is no whole number`, {
      subject,
      found: JSON.stringify(text),
    });
  }
  return value;
}

/** Dense tensors above this many elements are not made from sparse ones. */
const maximumDense = 2 ** 28;

/** A sparse tensor (COO, indices linear [nnz] or coordinates [nnz, rank]) as a dense one. */
export function denseOf(proto: SparseTensorProto, subject: string): HostTensor {
  if (proto.values === undefined || proto.indices === undefined) {
    throw new TuttiError('E_MODEL_INVALID', 'a sparse tensor without values or indices', { subject });
  }
  const values = tensorOf(proto.values, subject);
  const indices = tensorOf(proto.indices, subject);
  const shape = dimsOf(proto.dims, subject);
  const count = sizeOf(shape);
  if (values.dtype === 'string' || indices.dtype !== 'i64') {
    throw new TuttiError('E_UNSUPPORTED', `a sparse tensor of ${values.dtype} with ${indices.dtype} indices`, {
      subject,
    });
  }
  if (count > maximumDense) throw new TuttiError('E_UNSUPPORTED', `a sparse tensor of ${count} elements`, { subject });
  const stored = sizeOf(values.shape);
  const coordinates = indices.shape.length === 2;
  if (sizeOf(indices.shape) !== stored * (coordinates ? shape.length : 1)) {
    throw new TuttiError('E_MODEL_INVALID', 'a sparse tensor whose indices do not fit its values', { subject });
  }
  const from = elementsOf(values);
  const to = newElements(values.dtype, count);
  const index = indices.data as BigInt64Array;
  for (let i = 0; i < stored; i++) {
    const place = coordinates ? index.subarray(i * shape.length, (i + 1) * shape.length) : index.subarray(i, i + 1);
    const limits = coordinates ? shape : [count];
    if (limits.some((limit, d) => place[d] < 0n || place[d] >= BigInt(limit))) {
      throw new TuttiError('E_MODEL_INVALID', 'a sparse index out of range', {
        subject,
        found: `[${place.join(', ')}]`,
      });
    }
    to[limits.reduce((at, limit, d) => at * limit + Number(place[d]), 0)] = from[i];
  }
  return tensorOfElements(values.dtype, shape, to);
}

/** A tensor as a message: raw little-endian bytes, or strings. */
export function protoOf(tensor: HostTensor, name?: string): MessageInit<'TensorProto'> {
  const dims = tensor.shape.map(BigInt);
  const dataType = onnxTypeOf(tensor.dtype);
  if (tensor.dtype === 'string') {
    const encoder = new TextEncoder();
    return { name, dims, dataType, stringData: (tensor.data as readonly string[]).map((text) => encoder.encode(text)) };
  }
  return { name, dims, dataType, rawData: bytesOfTensor(tensor) };
}
