/**
 * NumPy's .npy files (format versions 1 to 3, numpy/lib/format.py): one array, a short header in Python syntax, then
 * its elements. Written in version 1 (2 where the header is long), little-endian, C order.
 */
import { bytesOf, type DType } from '../compiler/dtype.js';
import { TuttiError } from '../compiler/error.js';
import { bytesOfTensor, type HostTensor, sizeOf, tensorFromBytes } from '../compiler/tensor.js';

/** Type code of a descr without its byte order. */
const dtypeByCode: Readonly<Record<string, Exclude<DType, 'string'>>> = {
  f8: 'f64',
  f4: 'f32',
  f2: 'f16',
  i8: 'i64',
  i4: 'i32',
  i2: 'i16',
  i1: 'i8',
  u8: 'u64',
  u4: 'u32',
  u2: 'u16',
  u1: 'u8',
  b1: 'bool',
};
const codeByDType = new Map(Object.entries(dtypeByCode).map(([code, dtype]) => [dtype as DType, code]));

const magic = [0x93, 0x4e, 0x55, 0x4d, 0x50, 0x59];

const malformed = (subject: string, message: string, found?: string): TuttiError =>
  new TuttiError('E_INPUT', `not a valid .npy file: ${message}`, { subject, found });

interface Header {
  readonly descr: string;
  readonly fortranOrder: boolean;
  readonly shape: readonly number[];
  readonly dataOffset: number;
}

function readHeader(bytes: Uint8Array, subject: string): Header {
  if (bytes.byteLength < 10 || magic.some((byte, i) => bytes[i] !== byte)) {
    throw malformed(subject, 'the magic string is missing', `${bytes.byteLength} bytes`);
  }
  const version = bytes[6];
  if (version < 1 || version > 3) throw malformed(subject, 'unknown format version', String(version));
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const start = version === 1 ? 10 : 12;
  if (bytes.byteLength < start) throw malformed(subject, 'the header is cut off');
  const length = version === 1 ? view.getUint16(8, true) : view.getUint32(8, true);
  if (start + length > bytes.byteLength) throw malformed(subject, 'the header is cut off');
  const text = new TextDecoder(version === 3 ? 'utf-8' : 'latin1').decode(bytes.subarray(start, start + length));
  const descr = /['"]descr['"]\s*:\s*['"]([^'"]*)['"]/.exec(text)?.[1];
  if (descr === undefined) {
    if (/['"]descr['"]\s*:\s*\[/.test(text)) {
      throw new TuttiError('E_UNSUPPORTED', 'arrays of records are not supported', { subject });
    }
    throw malformed(subject, 'the header has no descr');
  }
  const order = /['"]fortran_order['"]\s*:\s*(True|False)/.exec(text)?.[1];
  const dims = /['"]shape['"]\s*:\s*\(([\d\s,L]*)\)/.exec(text)?.[1];
  if (order === undefined || dims === undefined) throw malformed(subject, 'the header has no shape or order');
  const shape = dims
    .split(',')
    .map((dim) => dim.trim().replace(/L$/, ''))
    .filter((dim) => dim !== '')
    .map(Number);
  const count = sizeOf(shape);
  if (shape.some((dim) => !Number.isSafeInteger(dim)) || !Number.isSafeInteger(count)) {
    throw malformed(subject, 'bad shape', dims);
  }
  return { descr, fortranOrder: order === 'True', shape, dataOffset: start + length };
}

/**
 * Reads an array. float16 comes as bits; strings (U and S) as strings; Fortran order is turned into C order.
 * @throws TuttiError E_INPUT if the file is damaged, E_UNSUPPORTED for complex numbers, dates, objects and records
 */
export function readNpy(bytes: Uint8Array, subject: string): HostTensor {
  const { descr, fortranOrder, shape, dataOffset } = readHeader(bytes, subject);
  const [, order, kind, width] = /^([<>|=]?)([a-zA-Z])(\d*)$/.exec(descr) ?? [];
  const data = bytes.subarray(dataOffset);
  if (kind === 'U' || kind === 'S') {
    const strings = readStrings(data, kind, Number(width), sizeOf(shape), order === '>', subject);
    return { dtype: 'string', shape, data: fortranOrder ? reorder(strings, shape) : strings };
  }
  const dtype = dtypeByCode[`${kind}${width}`];
  if (dtype === undefined) {
    throw new TuttiError('E_UNSUPPORTED', 'elements of this kind are not supported', {
      subject,
      expected: 'bool, integers, floats or strings',
      found: descr,
    });
  }
  const needed = bytesOf(dtype, sizeOf(shape));
  if (data.byteLength < needed) {
    throw new TuttiError('E_INPUT', 'the .npy file is cut off', {
      subject,
      expected: `${needed} bytes of data`,
      found: `${data.byteLength}`,
    });
  }
  const native = order === '>' ? swapBytes(data.subarray(0, needed), Number(width)) : data.subarray(0, needed);
  const tensor = tensorFromBytes(dtype, shape, native);
  return fortranOrder && shape.length > 1 ? { ...tensor, data: reorder(tensor.data as Float64Array, shape) } : tensor;
}

function readStrings(
  data: Uint8Array,
  kind: string,
  width: number,
  count: number,
  bigEndian: boolean,
  subject: string,
): string[] {
  const stride = kind === 'U' ? 4 * width : width;
  if (data.byteLength < stride * count) throw malformed(subject, 'the data is cut off');
  const view = new DataView(data.buffer, data.byteOffset, data.byteLength);
  return Array.from({ length: count }, (_, i) => {
    if (kind === 'S') return new TextDecoder().decode(data.subarray(i * stride, (i + 1) * stride)).replace(/\0+$/, '');
    const codes = Array.from({ length: width }, (_, k) => view.getUint32(i * stride + 4 * k, !bigEndian));
    if (codes.some((code) => code > 0x10ffff)) throw malformed(subject, 'a string with an invalid character');
    return String.fromCodePoint(...codes).replace(/\0+$/, '');
  });
}

function swapBytes(bytes: Uint8Array, width: number): Uint8Array {
  const swapped = new Uint8Array(bytes.byteLength);
  for (let i = 0; i < bytes.byteLength; i++) swapped[i - (i % width) + width - 1 - (i % width)] = bytes[i];
  return swapped;
}

/** First axis fastest → last axis fastest. */
function reorder<T extends Float64Array | string[]>(data: T, shape: readonly number[]): T {
  const result = data.slice() as T;
  const strides: number[] = [];
  for (const axis of shape.keys()) strides.push(axis === 0 ? 1 : strides[axis - 1] * shape[axis - 1]);
  const index = shape.map(() => 0);
  for (let to = 0, from = 0; to < data.length; to++) {
    result[to] = data[from];
    for (let axis = shape.length - 1; axis >= 0; axis--) {
      from += strides[axis];
      if (++index[axis] < shape[axis]) break;
      from -= strides[axis] * shape[axis];
      index[axis] = 0;
    }
  }
  return result;
}

/**
 * The bytes of a .npy file.
 * @throws TuttiError E_UNSUPPORTED for types that NumPy does not have (bf16, floats of at most a byte, integers of less)
 */
export function writeNpy(tensor: HostTensor, subject: string): Uint8Array {
  const { dtype, shape } = tensor;
  const strings = dtype === 'string' ? encodeStrings(tensor.data as readonly string[]) : undefined;
  const code = strings === undefined ? codeByDType.get(dtype) : `U${strings.width}`;
  if (code === undefined) {
    throw new TuttiError('E_UNSUPPORTED', `.npy has no type for ${dtype}`, {
      subject,
      remedy: 'Write a .pb file instead',
    });
  }
  const order = code === 'b1' || code === 'i1' || code === 'u1' ? '|' : '<';
  const dims = shape.length === 1 ? `${shape[0]},` : shape.join(', ');
  const text = `{'descr': '${order}${code}', 'fortran_order': False, 'shape': (${dims}), }`;
  const version = text.length + 64 > 0xffff ? 2 : 1;
  const start = version === 1 ? 10 : 12;
  // NumPy aligns the data to 64 bytes and ends the header with a newline.
  const length = Math.ceil((start + text.length + 1) / 64) * 64 - start;
  const header = new Uint8Array(start + length).fill(0x20);
  header.set(magic);
  header.set([version, 0], 6);
  const view = new DataView(header.buffer);
  if (version === 1) view.setUint16(8, length, true);
  else view.setUint32(8, length, true);
  header.set(new TextEncoder().encode(text), start);
  header[header.length - 1] = 0x0a;
  const data = strings?.bytes ?? bytesOfTensor(tensor);
  const file = new Uint8Array(header.byteLength + data.byteLength);
  file.set(header);
  file.set(data, header.byteLength);
  return file;
}

function encodeStrings(strings: readonly string[]): { width: number; bytes: Uint8Array } {
  const codes = strings.map((text) => Array.from(text, (char) => char.codePointAt(0) as number));
  const width = Math.max(1, ...codes.map((code) => code.length));
  const words = new Uint32Array(width * strings.length);
  for (const [i, code] of codes.entries()) words.set(code, i * width);
  return { width, bytes: new Uint8Array(words.buffer) };
}
