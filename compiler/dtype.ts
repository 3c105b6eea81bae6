/** Element types of tensors, their sizes and their host representation. */

export const dtypes = [
  'f64',
  'f32',
  'f16',
  'bf16',
  'f8e4m3',
  'f8e5m2',
  'f8e4m3fnuz',
  'f8e5m2fnuz',
  'f8e8m0',
  'f4e2m1',
  'i64',
  'i32',
  'i16',
  'i8',
  'i4',
  'i2',
  'u64',
  'u32',
  'u16',
  'u8',
  'u4',
  'u2',
  'bool',
  'string',
] as const;

export type DType = (typeof dtypes)[number];
/** Float formats of at most a byte; `minifloat.ts` says what their codes mean. */
export type MiniFloatDType = 'f8e4m3' | 'f8e5m2' | 'f8e4m3fnuz' | 'f8e5m2fnuz' | 'f8e8m0' | 'f4e2m1';
export type FloatDType = 'f64' | 'f32' | 'f16' | 'bf16' | MiniFloatDType;
export type IntDType = 'i64' | 'i32' | 'i16' | 'i8' | 'i4' | 'i2' | 'u64' | 'u32' | 'u16' | 'u8' | 'u4' | 'u2';
/** Several elements share a byte, the first in its low bits. */
export type PackedDType = 'f4e2m1' | 'i4' | 'i2' | 'u4' | 'u2';

interface DTypeFacts {
  readonly bits: number;
  readonly kind: 'float' | 'minifloat' | 'signed' | 'unsigned' | 'bool' | 'string';
}

const facts: Readonly<Record<DType, DTypeFacts>> = {
  f64: { bits: 64, kind: 'float' },
  f32: { bits: 32, kind: 'float' },
  f16: { bits: 16, kind: 'float' },
  bf16: { bits: 16, kind: 'float' },
  f8e4m3: { bits: 8, kind: 'minifloat' },
  f8e5m2: { bits: 8, kind: 'minifloat' },
  f8e4m3fnuz: { bits: 8, kind: 'minifloat' },
  f8e5m2fnuz: { bits: 8, kind: 'minifloat' },
  f8e8m0: { bits: 8, kind: 'minifloat' },
  f4e2m1: { bits: 4, kind: 'minifloat' },
  i64: { bits: 64, kind: 'signed' },
  i32: { bits: 32, kind: 'signed' },
  i16: { bits: 16, kind: 'signed' },
  i8: { bits: 8, kind: 'signed' },
  i4: { bits: 4, kind: 'signed' },
  i2: { bits: 2, kind: 'signed' },
  u64: { bits: 64, kind: 'unsigned' },
  u32: { bits: 32, kind: 'unsigned' },
  u16: { bits: 16, kind: 'unsigned' },
  u8: { bits: 8, kind: 'unsigned' },
  u4: { bits: 4, kind: 'unsigned' },
  u2: { bits: 2, kind: 'unsigned' },
  bool: { bits: 8, kind: 'bool' },
  string: { bits: 0, kind: 'string' },
};

/** Bits of one element as stored; 0 for strings, which live only on the host. */
export const bitsOf = (dtype: DType): number => facts[dtype].bits;
/** Bytes that `count` elements take, packed as `perByte` says. */
export const bytesOf = (dtype: DType, count: number): number => Math.ceil((facts[dtype].bits * count) / 8);
export const isPacked = (dtype: DType): dtype is PackedDType => facts[dtype].bits === 4 || facts[dtype].bits === 2;
/** Elements in a byte: 2 or 4 of a packed type, else 1 (also where an element takes several bytes). */
export const perByte = (dtype: DType): 1 | 2 | 4 => (isPacked(dtype) ? ((8 / facts[dtype].bits) as 2 | 4) : 1);
export const isMiniFloat = (dtype: DType): dtype is MiniFloatDType => facts[dtype].kind === 'minifloat';
/** Floats of 16 bits. */
export const isHalf = (dtype: DType): dtype is 'f16' | 'bf16' => dtype === 'f16' || dtype === 'bf16';
export const isFloat = (dtype: DType): dtype is FloatDType => facts[dtype].kind === 'float' || isMiniFloat(dtype);
export const isInt = (dtype: DType): dtype is IntDType =>
  facts[dtype].kind === 'signed' || facts[dtype].kind === 'unsigned';
export const isSigned = (dtype: DType): boolean =>
  facts[dtype].kind === 'signed' || (isFloat(dtype) && dtype !== 'f8e8m0');
export const isDType = (text: string): text is DType => Object.hasOwn(facts, text);

/** Inclusive value range of an integer or bool type, as bigint. */
export function integerRange(dtype: IntDType | 'bool'): readonly [bigint, bigint] {
  if (dtype === 'bool') return [0n, 1n];
  const bits = BigInt(facts[dtype].bits);
  return facts[dtype].kind === 'signed' ? [-(1n << (bits - 1n)), (1n << (bits - 1n)) - 1n] : [0n, (1n << bits) - 1n];
}
