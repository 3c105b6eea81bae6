/**
 * Elementwise ops on one element (or a vector of elements) in Kernel IR.
 *
 * f16 and bf16 are computed in f32 and rounded once an op: for + - · / and roots that is the correctly rounded result
 * (24 ≥ 2·11 + 2 bits, Figueroa 1995), for the others it is closer than arithmetic in the small type. Integer ops never
 * trap: what Kernel IR forbids (division by zero, MIN/-1, wide shifts) is guarded unless intervals rule it out.
 */
import { type DType, isFloat, isMiniFloat, isPacked, isSigned as isSignedType } from '../../dtype.js';
import { TuttiError } from '../../error.js';
import { type KernelBuilder, rangeOf } from '../../kernel/builder.js';
import { type KValue, ktype, type ScalarType, scalarBits, scalarTypes } from '../../kernel/types.js';
import type { BinaryOp, UnaryOp } from '../types.js';

/**
 * The type that kernels compute with. Small floats and packed integers have none of their own: the pass `widen` puts
 * casts around what computes on them.
 * @throws TuttiError E_UNSUPPORTED
 */
export function kernelScalar(dtype: DType): ScalarType {
  if ((scalarTypes as readonly string[]).includes(dtype)) return dtype as ScalarType;
  throw new TuttiError('E_UNSUPPORTED', `kernels cannot compute on ${dtype}`, {
    found: dtype,
    remedy: 'Cast to a wider type before computing.',
  });
}

/**
 * The type in which kernels hold elements that they only move: small floats by their code, packed integers by their
 * value in a byte, the others as they are.
 * @throws TuttiError E_UNSUPPORTED for strings
 */
export function elementScalar(dtype: DType): ScalarType {
  if (isMiniFloat(dtype)) return 'u8';
  if (isPacked(dtype)) return isSignedType(dtype) ? 'i8' : 'u8';
  return kernelScalar(dtype);
}

export function unary(b: KernelBuilder, fn: UnaryOp, x: KValue, dtype: DType): KValue {
  kernelScalar(dtype);
  if (isFloat(dtype))
    return fn === 'is_nan' || fn === 'is_inf' ? floatClass(b, fn, x) : inFloat(b, [x], ([v]) => floatUnary(b, fn, v));
  switch (fn) {
    case 'neg':
      return isSigned(x) ? b.unary('neg', x) : b.sub(like(b, x, 0), x);
    case 'abs':
      return isSigned(x) ? b.unary('abs', x) : x;
    case 'sign': {
      const [zero, one] = [like(b, x, 0), like(b, x, 1)];
      const positive = b.select(b.compare('gt', x, zero), one, zero);
      return isSigned(x) ? b.select(b.compare('lt', x, zero), like(b, x, -1), positive) : positive;
    }
    case 'not':
      return b.unary('not', x);
    default:
      throw new Error(`${fn} of ${dtype}`);
  }
}

export function binary(b: KernelBuilder, fn: BinaryOp, x: KValue, y: KValue, dtype: DType): KValue {
  kernelScalar(dtype);
  if (dtype === 'bool') return boolBinary(b, fn, x, y);
  switch (fn) {
    case 'eq':
    case 'ne':
    case 'lt':
    case 'le':
    case 'gt':
    case 'ge': {
      const [p, q] = isFloat(dtype) ? [widened(b, x), widened(b, y)] : [x, y];
      return b.compare(fn, p, q);
    }
    case 'div':
      return isFloat(dtype) ? inFloat(b, [x, y], ([p, q]) => b.div(p, q)) : integerDiv(b, x, y);
    case 'rem':
      return isFloat(dtype) ? inFloat(b, [x, y], ([p, q]) => b.rem(p, q)) : b.rem(x, safeDivisor(b, x, y).divisor);
    case 'pow':
      return isFloat(dtype) ? inFloat(b, [x, y], ([p, q]) => b.binary('pow', p, q)) : integerPow(b, x, y);
    case 'shl':
    case 'shr':
      return shift(b, fn, x, y);
    case 'add':
    case 'sub':
    case 'mul':
    case 'max':
    case 'min':
    case 'atan2':
    case 'and':
    case 'or':
    case 'xor':
      return isFloat(dtype) ? inFloat(b, [x, y], ([p, q]) => b.binary(fn, p, q)) : b.binary(fn, x, y);
    default:
      return fn satisfies never;
  }
}

export function select(b: KernelBuilder, condition: KValue, x: KValue, y: KValue, dtype: DType): KValue {
  elementScalar(dtype);
  return b.select(condition, x, y);
}

export function clamp(b: KernelBuilder, x: KValue, dtype: DType, min: number | null, max: number | null): KValue {
  kernelScalar(dtype);
  if (isFloat(dtype)) {
    return inFloat(b, [x], ([v]) => {
      const round = v.type.scalar === 'f32' ? Math.fround : Number;
      const [low, high] = [min === null ? null : round(min), max === null ? null : round(max)];
      const raised = low === null || low === -Infinity ? v : b.max(v, like(b, v, low));
      return high === null || high === Infinity ? raised : b.min(raised, like(b, v, high));
    });
  }
  const { low, high } = integerBounds(x.type.scalar);
  const [least, most] = [integerBound(min, low, low, high, Math.ceil), integerBound(max, high, low, high, Math.floor)];
  const raised = least === low ? x : b.max(x, like(b, x, least));
  return most === high ? raised : b.min(raised, like(b, x, most));
}

// --- floats --------------------------------------------------------------------------------------------------------

const isSmall = (scalar: ScalarType): boolean => scalar === 'f16' || scalar === 'bf16';
const widened = (b: KernelBuilder, x: KValue): KValue => (isSmall(x.type.scalar) ? b.convert(x, 'f32') : x);

/** Runs `body` in f32 or f64 and rounds its result to the type of the arguments. */
function inFloat(b: KernelBuilder, args: readonly KValue[], body: (args: readonly KValue[]) => KValue): KValue {
  return b.convert(body(args.map((arg) => widened(b, arg))), args[0].type.scalar);
}

function floatUnary(b: KernelBuilder, fn: Exclude<UnaryOp, 'is_nan' | 'is_inf'>, x: KValue): KValue {
  switch (fn) {
    case 'sign': {
      const zero = like(b, x, 0);
      const negative = b.select(b.compare('lt', x, zero), like(b, x, -1), zero);
      return b.select(floatClass(b, 'is_nan', x), x, b.select(b.compare('gt', x, zero), like(b, x, 1), negative));
    }
    case 'recip':
      return b.div(like(b, x, 1), x);
    case 'rsqrt':
      return b.div(like(b, x, 1), b.unary('sqrt', x));
    case 'not':
      throw new Error('not of a float');
    default:
      return b.unary(fn, x);
  }
}

/** By the bits, because compilers that assume there is no NaN drop the comparison of a value with itself. */
export function floatClass(b: KernelBuilder, fn: 'is_nan' | 'is_inf', x: KValue): KValue {
  const wide = widened(b, x);
  const double = wide.type.scalar === 'f64';
  const bits = b.bitcast(wide, ktype(double ? 'u64' : 'u32', wide.type.lanes));
  const magnitude = b.and(bits, like(b, bits, double ? 0x7fff_ffff_ffff_ffffn : 0x7fff_ffff));
  const infinity = like(b, bits, double ? 0x7ff0_0000_0000_0000n : 0x7f80_0000);
  return b.compare(fn === 'is_nan' ? 'gt' : 'eq', magnitude, infinity);
}

// --- integers ------------------------------------------------------------------------------------------------------

const isSigned = (x: KValue): boolean => x.type.scalar.startsWith('i');

/** A constant of x's type. */
export function like(b: KernelBuilder, x: KValue, value: number | bigint): KValue {
  const { scalar, lanes } = x.type;
  const wide = scalar === 'i64' || scalar === 'u64';
  return b.constant(wide ? BigInt(value) : Number(value), scalar, lanes);
}

interface Bounds {
  readonly low: bigint;
  readonly high: bigint;
}
function integerBounds(scalar: ScalarType): Bounds {
  const bits = BigInt(scalarBits[scalar]);
  return scalar.startsWith('u')
    ? { low: 0n, high: (1n << bits) - 1n }
    : { low: -(1n << (bits - 1n)), high: (1n << (bits - 1n)) - 1n };
}

/** A bound of clamp as an integer of the type; `absent` if there is none. */
function integerBound(
  bound: number | null,
  absent: bigint,
  low: bigint,
  high: bigint,
  round: (x: number) => number,
): bigint {
  if (bound === null) return absent;
  if (bound === Infinity) return high;
  if (bound === -Infinity) return low;
  const exact = BigInt(round(bound));
  return exact < low ? low : exact > high ? high : exact;
}

/** The divisor with 1 in place of 0 and, where the quotient would overflow, of -1; and where that was done. */
function safeDivisor(
  b: KernelBuilder,
  x: KValue,
  y: KValue,
): { readonly divisor: KValue; readonly zero: KValue | null; readonly minusOne: KValue | null } {
  const [rx, ry] = [rangeOf(x), rangeOf(y)];
  const mayBe = (value: number) => !ry || (ry.min <= value && ry.max >= value);
  const mayBeLeast = isSigned(x) && (!rx || BigInt(rx.min) <= integerBounds(x.type.scalar).low);
  const zero = mayBe(0) ? b.compare('eq', y, like(b, y, 0)) : null;
  const minusOne = mayBeLeast && mayBe(-1) ? b.compare('eq', y, like(b, y, -1)) : null;
  let divisor = y;
  const one = like(b, y, 1);
  if (zero) divisor = b.select(zero, one, divisor);
  if (minusOne) divisor = b.select(minusOne, one, divisor);
  return { divisor, zero, minusOne };
}

function integerDiv(b: KernelBuilder, x: KValue, y: KValue): KValue {
  const { divisor, zero, minusOne } = safeDivisor(b, x, y);
  let quotient = b.div(x, divisor);
  if (minusOne) quotient = b.select(minusOne, b.unary('neg', x), quotient);
  if (zero) quotient = b.select(zero, like(b, x, 0), quotient);
  return quotient;
}

/** By repeated squaring, modulo 2^bits. Negative exponents give what truncation gives: 1, ±1 or 0. */
function integerPow(b: KernelBuilder, x: KValue, y: KValue): KValue {
  const one = like(b, x, 1);
  const constant = b.constantOf(y);
  if (constant !== undefined && constant >= 0 && constant <= 64) {
    let result = one;
    let base = x;
    for (let e = Number(constant); e > 0; e >>= 1) {
      if (e & 1) result = result === one ? base : b.mul(result, base);
      if (e > 1) base = b.mul(base, base);
    }
    return result;
  }
  const zero = like(b, x, 0);
  const bits = scalarBits[x.type.scalar];
  const odd = b.compare('ne', b.and(y, one), zero);
  const [power] = b.for(0, isSigned(y) ? bits - 1 : bits, 1, [one, x, y], (_, [result, base, rest]) => {
    const take = b.compare('ne', b.and(rest, one), zero);
    return [b.select(take, b.mul(result, base), result), b.mul(base, base), b.binary('shr', rest, one)];
  });
  if (!isSigned(y)) return power;
  const minusOne = like(b, x, -1);
  const unit = b.select(b.compare('eq', x, minusOne), b.select(odd, minusOne, one), zero);
  return b.select(b.compare('lt', y, zero), b.select(b.compare('eq', x, one), one, unit), power);
}

function shift(b: KernelBuilder, fn: 'shl' | 'shr', x: KValue, amount: KValue): KValue {
  const bits = scalarBits[x.type.scalar];
  let valid = b.compare('lt', amount, like(b, amount, bits));
  if (isSigned(amount)) valid = b.and(b.compare('ge', amount, like(b, amount, 0)), valid);
  const keepsSign = fn === 'shr' && isSigned(x);
  // The mask changes nothing; it shows that the count is in range.
  const safe = b.and(b.select(valid, amount, like(b, amount, keepsSign ? bits - 1 : 0)), like(b, amount, bits - 1));
  const shifted = b.binary(fn, x, safe);
  return keepsSign ? shifted : b.select(valid, shifted, like(b, x, 0));
}

// --- bool ----------------------------------------------------------------------------------------------------------

function boolBinary(b: KernelBuilder, fn: BinaryOp, x: KValue, y: KValue): KValue {
  const not = (value: KValue) => b.unary('not', value);
  switch (fn) {
    case 'and':
    case 'min':
      return b.and(x, y);
    case 'or':
    case 'max':
      return b.or(x, y);
    case 'xor':
    case 'ne':
      return b.binary('xor', x, y);
    case 'eq':
      return not(b.binary('xor', x, y));
    case 'lt':
      return b.and(not(x), y);
    case 'le':
      return b.or(not(x), y);
    case 'gt':
      return b.and(x, not(y));
    case 'ge':
      return b.or(x, not(y));
    default:
      throw new Error(`${fn} of bool`);
  }
}
