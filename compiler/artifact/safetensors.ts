/**
 * Weights in the safetensors format: 8 bytes length, a JSON header, the data of the tensors without gaps.
 *
 * Readers elsewhere refuse gaps, so tensors cannot be padded. Instead they are ordered by the power of two that divides
 * their size, largest first: then each lies at a multiple of its own element size, and all whose size is a multiple of
 * 64 (most weights) at a multiple of 64.
 */
import { bytesOf, type DType, dtypes } from '../dtype.js';
import type { ConstantData } from '../graph/types.js';
import { bytesOfTensor, type HostTensor, sizeOf, tensorFromBytes } from '../tensor.js';
import { damaged } from './failure.js';

const alignment = 64;
const maxHeaderBytes = 100 << 20;
const maxRank = 64;

/** What the format has names for; the others are stored as bytes, and the key says what they are. */
const formatNames: Partial<Readonly<Record<DType, string>>> = {
  f64: 'F64',
  f32: 'F32',
  f16: 'F16',
  bf16: 'BF16',
  f8e4m3: 'F8_E4M3',
  f8e5m2: 'F8_E5M2',
  f8e8m0: 'F8_E8M0',
  i64: 'I64',
  i32: 'I32',
  i16: 'I16',
  i8: 'I8',
  u64: 'U64',
  u32: 'U32',
  u16: 'U16',
  u8: 'U8',
  bool: 'BOOL',
};

/** A tensor to write. Its bytes are asked for twice at most, so that they need not all be in memory at once. */
export interface StoredTensor {
  readonly key: string;
  readonly dtype: DType;
  readonly shape: readonly number[];
  /** As stored: strings are longer than nothing. */
  readonly byteLength: number;
  bytes(): Uint8Array;
}

/** `f32.64x3x7x7.<digest>`: what the bytes are and their SHA-256. */
export const keyOf = (dtype: DType, shape: readonly number[], digest: string): string =>
  `${dtype}.${shape.join('x')}.${digest}`;

export function storedBytes(tensor: HostTensor): Uint8Array {
  if (tensor.dtype === 'string') return new TextEncoder().encode(JSON.stringify(tensor.data));
  return bytesOfTensor(tensor);
}

/** The header, and the tensors in the order in which their bytes follow it. */
export function layoutSafetensors(tensors: readonly StoredTensor[]): {
  readonly header: Uint8Array;
  readonly order: readonly StoredTensor[];
  readonly byteLength: number;
} {
  const power = (bytes: number): number => (bytes === 0 ? alignment : Math.min(alignment, bytes & -bytes));
  const order = [...tensors].sort(
    (a, b) => power(b.byteLength % alignment) - power(a.byteLength % alignment) || (a.key < b.key ? -1 : 1),
  );
  let at = 0;
  const entries = order.map(({ key, dtype, shape, byteLength }) => {
    const name = formatNames[dtype];
    const start = at;
    at += byteLength;
    const entry = {
      dtype: name ?? 'U8',
      shape: name === undefined ? [byteLength] : shape,
      data_offsets: [start, at],
    };
    return [key, entry] as const;
  });
  const json = new TextEncoder().encode(JSON.stringify(Object.fromEntries(entries)));
  // The format allows blanks after the JSON: they put the data on a boundary.
  const length = Math.ceil((8 + json.byteLength) / alignment) * alignment;
  const header = new Uint8Array(length).fill(32);
  new DataView(header.buffer).setBigUint64(0, BigInt(length - 8), true);
  header.set(json, 8);
  return { header, order, byteLength: length + at };
}

/** The tensors of a blob by key; their data is a view of it. @throws TuttiError E_ARTIFACT */
export function readSafetensors(blob: Uint8Array): ReadonlyMap<string, ConstantData> {
  const view = new DataView(blob.buffer, blob.byteOffset, blob.byteLength);
  const declared = blob.byteLength < 8 ? 0n : view.getBigUint64(0, true);
  if (declared < 2n || declared > BigInt(Math.min(maxHeaderBytes, blob.byteLength - 8))) {
    throw damaged('bad length of the weights header', undefined, `2 to ${blob.byteLength - 8}`, `${declared}`);
  }
  const start = 8 + Number(declared);
  const header = parseJson(blob.subarray(8, start));
  const data = blob.subarray(start);
  const tensors = new Map<string, ConstantData>();
  const ranges: [start: number, end: number][] = [];
  for (const [key, entry] of Object.entries(header)) {
    if (key === '__metadata__') continue;
    const range = rangeOf(key, entry, data.byteLength);
    ranges.push(range);
    tensors.set(key, readTensor(key, entry, data.subarray(...range)));
  }
  let end = 0;
  for (const [from, to] of ranges.sort((a, b) => a[0] - b[0] || a[1] - b[1])) {
    if (from !== end) throw damaged('weights overlap or leave a gap', undefined, `offset ${end}`, `${from}`);
    end = to;
  }
  if (end !== data.byteLength)
    throw damaged('bytes after the weights', undefined, `${end} bytes`, `${data.byteLength}`);
  return tensors;
}

function parseJson(bytes: Uint8Array): Readonly<Record<string, unknown>> {
  try {
    const value: unknown = JSON.parse(new TextDecoder('utf-8', { fatal: true }).decode(bytes));
    if (typeof value === 'object' && value !== null && !Array.isArray(value)) return value as Record<string, unknown>;
  } catch {
    // Said below.
  }
  throw damaged('the header of the weights is not a JSON object');
}

const isCount = (value: unknown): value is number => Number.isSafeInteger(value) && (value as number) >= 0;

function rangeOf(key: string, entry: unknown, available: number): [start: number, end: number] {
  const offsets = (entry as { data_offsets?: unknown } | null)?.data_offsets;
  if (Array.isArray(offsets) && offsets.length === 2 && offsets.every(isCount)) {
    const [from, to] = offsets as [number, number];
    if (from <= to && to <= available) return [from, to];
  }
  throw damaged('bad place of a weight', key, `a range within ${available} bytes`, JSON.stringify(offsets));
}

function readTensor(key: string, entry: unknown, bytes: Uint8Array): ConstantData {
  const { dtype: stored, shape: storedShape } = entry as { readonly dtype?: unknown; readonly shape?: unknown };
  const match = /^([a-z0-9]+)\.((?:\d+x)*\d+)?\.[0-9a-f]{64}$/.exec(key);
  if (!match) throw damaged('bad name of a weight', key);
  const dtype = dtypeNames.get(match[1]);
  const shape = match[2] === undefined ? [] : match[2].split('x').map(Number);
  if (dtype === undefined) throw damaged('weight of an unknown type', key);
  // The product may overflow any integer: it is compared with what is there before it is used.
  const count = sizeOf(shape);
  if (shape.length > maxRank || !shape.every(isCount) || !isCount(count)) throw damaged('bad shape of a weight', key);
  const name = formatNames[dtype];
  const expected = name === undefined ? [bytes.byteLength] : shape;
  if (stored !== (name ?? 'U8') || JSON.stringify(storedShape) !== JSON.stringify(expected)) {
    throw damaged('type of a weight', key, `${name ?? 'U8'} [${expected.join(', ')}]`, `${JSON.stringify(entry)}`);
  }
  if (dtype === 'string') return readStrings(key, shape, count, bytes);
  const needed = bytesOf(dtype, count);
  if (bytes.byteLength !== needed) throw damaged('size of a weight', key, `${needed} bytes`, `${bytes.byteLength}`);
  let tensor: HostTensor | undefined;
  return {
    dtype,
    shape,
    load() {
      tensor ??= tensorFromBytes(dtype, shape, bytes);
      return tensor;
    },
  };
}

const dtypeNames = new Map<string, DType>(dtypes.map((dtype) => [dtype, dtype]));

function readStrings(key: string, shape: readonly number[], count: number, bytes: Uint8Array): ConstantData {
  let strings: unknown;
  try {
    strings = JSON.parse(new TextDecoder('utf-8', { fatal: true }).decode(bytes));
  } catch {
    // Said below.
  }
  if (!Array.isArray(strings) || strings.length !== count || !strings.every((text) => typeof text === 'string')) {
    throw damaged('bad strings', key);
  }
  const tensor: HostTensor = { dtype: 'string', shape, data: strings };
  return { dtype: 'string', shape, load: () => tensor };
}
