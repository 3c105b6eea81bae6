/** The types that values of the Kernel IR have in C. */
import { type ScalarType, scalarBits } from '../../../compiler/kernel/types.js';

/** Types that C values have: what is left of the scalar types when f16 and bf16 are held as f32. */
export type CScalar = Exclude<ScalarType, 'f16' | 'bf16' | 'bool'>;
export type CInteger = Exclude<CScalar, 'f32' | 'f64'>;
export type MaskBits = 8 | 16 | 32 | 64;

const cScalars: Readonly<Record<CScalar, string>> = {
  i8: 'int8_t',
  u8: 'uint8_t',
  i16: 'int16_t',
  u16: 'uint16_t',
  i32: 'int32_t',
  u32: 'uint32_t',
  i64: 'int64_t',
  u64: 'uint64_t',
  f32: 'float',
  f64: 'double',
};

export const isHalf = (scalar: ScalarType): scalar is 'f16' | 'bf16' => scalar === 'f16' || scalar === 'bf16';
/** The type that holds a value of `scalar` in a register. */
export const heldAs = (scalar: Exclude<ScalarType, 'bool'>): CScalar => (isHalf(scalar) ? 'f32' : scalar);
/** The type of an element in memory. */
export const storedAs = (scalar: ScalarType): CScalar => (scalar === 'bool' ? 'u8' : isHalf(scalar) ? 'u16' : scalar);
export const cScalar = (scalar: CScalar): string => cScalars[scalar];
export const unsignedOf = (scalar: CScalar): CScalar => `u${scalarBits[scalar]}` as CScalar;
export const signedOf = (bits: number): CScalar => `i${bits}` as CScalar;
