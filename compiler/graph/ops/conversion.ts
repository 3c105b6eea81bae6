/**
 * Conversions between element types in Kernel IR, on one element (or a vector of elements) as kernels hold it: small
 * floats by their code, packed integers by their value in a byte.
 */
import {
  bitsOf,
  type DType,
  type IntDType,
  integerRange,
  isMiniFloat,
  isPacked,
  type MiniFloatDType,
  type PackedDType,
} from '../../dtype.js';
import type { KernelBuilder } from '../../kernel/builder.js';
import { decodeToF32, encodeF32 } from '../../kernel/minifloat.js';
import { isFloatScalar, isIntScalar, type KValue, ktype, scalarBits } from '../../kernel/types.js';
import type { MiniFloatRounding } from '../../minifloat.js';
import { elementScalar, floatClass, kernelScalar, like } from './scalar.js';

export function cast(b: KernelBuilder, x: KValue, from: DType, to: DType, rounding: MiniFloatRounding): KValue {
  if (from === to) return x;
  const value = isMiniFloat(from) ? decodeToF32(b, from, b.convert(x, 'u32')) : x;
  if (isMiniFloat(to)) return b.convert(encodeF32(b, to, nearF32(b, value, to), rounding), 'u8');
  if (isPacked(to)) return signExtended(b, to, isFloatScalar(value.type.scalar) ? clampedTo(b, to, value) : value);
  return b.convert(value, kernelScalar(to));
}

/** The value as an f32 that rounds to the format as the value does. */
function nearF32(b: KernelBuilder, value: KValue, to: MiniFloatDType): KValue {
  const { scalar, lanes } = value.type;
  // Integers that f32 does not hold are too large for every format but that of the scales.
  const isWide = scalarBits[scalar] >= 32 && (scalar === 'f64' || (isIntScalar(scalar) && to === 'f8e8m0'));
  if (!isWide) return b.convert(value, 'f32');
  const exact = b.convert(scalarBits[scalar] === 64 && scalar !== 'f64' ? stickyInteger(b, value) : value, 'f64');
  // To odd: what f32 cuts off leaves a one in its last place, so that it still counts when that is rounded.
  const near = b.convert(exact, 'f32');
  const back = b.unary('abs', b.convert(near, 'f64'));
  const [size, bits] = [b.unary('abs', exact), b.bitcast(near, ktype('u32', lanes))];
  const one = b.constant(1, 'u32', lanes);
  const below = b.select(b.compare('gt', back, size), b.sub(bits, one), bits);
  const odd = b.select(b.compare('ne', back, size), b.or(below, one), below);
  return b.select(floatClass(b, 'is_nan', exact), near, b.bitcast(odd, ktype('f32', lanes)));
}

/** A 64-bit integer that f64 holds: where it is too long its last bits become one that says whether there were any. */
function stickyInteger(b: KernelBuilder, x: KValue): KValue {
  const { scalar } = x.type;
  const [low, zero] = [b.and(x, like(b, x, 0xfff)), like(b, x, 0)];
  const kept = b.binary('shl', b.binary('shr', x, like(b, x, 12)), like(b, x, 12));
  const sticky = b.select(b.compare('ne', low, zero), b.or(kept, like(b, x, 0x800)), kept);
  const limit = 2n ** 53n;
  let isLong = b.compare('gt', x, like(b, x, limit));
  if (scalar === 'i64') isLong = b.or(isLong, b.compare('lt', x, like(b, x, -limit)));
  return b.select(isLong, sticky, x);
}

/** A float truncated and cut to the range of a packed type, in i32; NaN is 0. */
function clampedTo(b: KernelBuilder, to: PackedDType, value: KValue): KValue {
  const [low, high] = integerRange(to as IntDType & PackedDType).map(Number);
  return b.clamp(b.convert(value, 'i32'), low, high);
}

/** The low bits of an integer (u32 or what converts to it) as an element of a packed type, in its byte. */
export function signExtended(b: KernelBuilder, to: PackedDType, value: KValue): KValue {
  const { lanes } = value.type;
  const bits = bitsOf(to);
  const scalar = elementScalar(to);
  if (scalar === 'u8') return b.convert(b.and(b.convert(value, 'u32'), b.constant(2 ** bits - 1, 'u32', lanes)), 'u8');
  const top = b.constant(32 - bits, 'i32', lanes);
  return b.convert(b.binary('shr', b.binary('shl', b.convert(value, 'i32'), top), top), 'i8');
}

export function bitcast(b: KernelBuilder, x: KValue, from: DType, to: DType): KValue {
  const raw = b.bitcast(x, ktype(elementScalar(to), x.type.lanes));
  // Bits above those of the element follow its type.
  return isPacked(to) && elementScalar(from) !== elementScalar(to) ? signExtended(b, to, raw) : raw;
}
