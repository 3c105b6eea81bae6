/** Elementwise ops on host tensors: float math in f64 rounded once, integers modulo 2^bits, 64-bit integers exact. */
import { bitsOf, type DType, type IntDType, integerRange, isFloat, isInt } from '../../../dtype.js';
import type { MiniFloatRounding } from '../../../minifloat.js';
import { bigintToOddF64, pow, realFunctions, roundTiesToEven } from '../../../numeric.js';
import { bytesOfTensor, type HostTensor, sizeOf, tensorFromBytes } from '../../../tensor.js';
import type { BinaryOp, UnaryOp } from '../../types.js';
import {
  type BigArray,
  bigsOf,
  elementsOf,
  isBig,
  newElements,
  newNumbers,
  numbersOf,
  stringsOf,
  tensorOfElements,
  tensorOfNumbers,
} from './data.js';

type NumberFn = (x: number) => number;
type NumberFn2 = (x: number, y: number) => number;
type BigFn2 = (x: bigint, y: bigint) => bigint;

const isSignedInt = (dtype: DType): boolean => isInt(dtype) && dtype.startsWith('i');

// --- one operand ---------------------------------------------------------------------------------------------------

const floatUnary: Readonly<Record<Exclude<UnaryOp, 'not'>, NumberFn>> = {
  neg: (x) => -x,
  abs: Math.abs,
  sign: (x) => (x > 0 ? 1 : x < 0 ? -1 : x === 0 ? 0 : x),
  ...realFunctions,
  rsqrt: (x) => 1 / Math.sqrt(x),
  recip: (x) => 1 / x,
  floor: Math.floor,
  ceil: Math.ceil,
  round: roundTiesToEven,
  trunc: Math.trunc,
  is_nan: (x) => (Number.isNaN(x) ? 1 : 0),
  is_inf: (x) => (Math.abs(x) === Infinity ? 1 : 0),
};

export function unary(fn: UnaryOp, x: HostTensor): HostTensor {
  const { dtype, shape } = x;
  if (isBig(dtype)) {
    const source = bigsOf(x);
    const out = newElements(dtype, source.length) as BigArray;
    const apply = bigUnary(fn, dtype);
    for (let i = 0; i < source.length; i++) out[i] = apply(source[i]);
    return { dtype, shape, data: out };
  }
  const source = numbersOf(x);
  const result = fn === 'is_nan' || fn === 'is_inf' ? 'bool' : dtype;
  const out = newNumbers(result, source.length);
  const apply: NumberFn = fn !== 'not' ? floatUnary[fn] : dtype === 'bool' ? (v) => 1 - v : (v) => ~v;
  for (let i = 0; i < source.length; i++) out[i] = apply(source[i]);
  return tensorOfNumbers(result, shape, out);
}

function bigUnary(fn: UnaryOp, dtype: DType): (x: bigint) => bigint {
  switch (fn) {
    case 'neg':
      return (x) => -x;
    case 'abs':
      return (x) => (x < 0n ? -x : x);
    case 'sign':
      return (x) => (x > 0n ? 1n : x < 0n ? -1n : 0n);
    case 'not':
      return (x) => ~x;
    default:
      throw new TypeError(`${fn} of ${dtype}`);
  }
}

// --- two operands --------------------------------------------------------------------------------------------------

type Comparison = 'eq' | 'ne' | 'lt' | 'le' | 'gt' | 'ge';
const comparisons: Readonly<Record<Comparison, <T extends number | bigint | string>(x: T, y: T) => number>> = {
  eq: (x, y) => (x === y ? 1 : 0),
  ne: (x, y) => (x !== y ? 1 : 0),
  lt: (x, y) => (x < y ? 1 : 0),
  le: (x, y) => (x <= y ? 1 : 0),
  gt: (x, y) => (x > y ? 1 : 0),
  ge: (x, y) => (x >= y ? 1 : 0),
};
const isComparison = (fn: BinaryOp): fn is Comparison => Object.hasOwn(comparisons, fn);

export function binary(fn: BinaryOp, x: HostTensor, y: HostTensor): HostTensor {
  const { dtype, shape } = x;
  if (isComparison(fn)) return { dtype: 'bool', shape, data: compared(fn, x, y) };
  if (isBig(dtype)) {
    const [p, q] = [bigsOf(x), bigsOf(y)];
    const out = newElements(dtype, p.length) as BigArray;
    const apply = bigBinary(fn, dtype);
    for (let i = 0; i < p.length; i++) out[i] = apply(p[i], q[i]);
    return { dtype, shape, data: out };
  }
  const [p, q] = [numbersOf(x), numbersOf(y)];
  const out = newNumbers(dtype, p.length);
  const apply = numberBinary(fn, dtype);
  for (let i = 0; i < p.length; i++) out[i] = apply(p[i], q[i]);
  return tensorOfNumbers(dtype, shape, out);
}

function compared(fn: Comparison, x: HostTensor, y: HostTensor): Uint8Array {
  const compare = comparisons[fn];
  const out = new Uint8Array(sizeOf(x.shape));
  if (x.dtype === 'string') {
    const [p, q] = [stringsOf(x), stringsOf(y)];
    for (let i = 0; i < out.length; i++) out[i] = compare(p[i], q[i]);
  } else if (isBig(x.dtype)) {
    const [p, q] = [bigsOf(x), bigsOf(y)];
    for (let i = 0; i < out.length; i++) out[i] = compare(p[i], q[i]);
  } else {
    const [p, q] = [numbersOf(x), numbersOf(y)];
    for (let i = 0; i < out.length; i++) out[i] = compare(p[i], q[i]);
  }
  return out;
}

/** The op on values held as numbers, not rounded to the type yet. */
export const numberBinary = (fn: BinaryOp, dtype: DType): NumberFn2 =>
  isFloat(dtype) ? floatBinary(fn) : integerBinary(fn, dtype);

function floatBinary(fn: BinaryOp): NumberFn2 {
  switch (fn) {
    case 'add':
      return (x, y) => x + y;
    case 'sub':
      return (x, y) => x - y;
    case 'mul':
      return (x, y) => x * y;
    case 'div':
      return (x, y) => x / y;
    case 'rem':
      return (x, y) => x % y;
    case 'pow':
      return pow;
    case 'max':
      return Math.max;
    case 'min':
      return Math.min;
    case 'atan2':
      return Math.atan2;
    default:
      throw new TypeError(`${fn} of floats`);
  }
}

/** Results are exact modulo 2^32; storing them wraps. */
function integerBinary(fn: BinaryOp, dtype: DType): NumberFn2 {
  const bits = bitsOf(dtype);
  const signed = isSignedInt(dtype);
  const inWidth = (n: number) => n >= 0 && n < bits;
  switch (fn) {
    case 'add':
      return (x, y) => x + y;
    case 'sub':
      return (x, y) => x - y;
    case 'mul':
      return Math.imul;
    case 'div':
      return (x, y) => (y === 0 ? 0 : Math.trunc(x / y));
    case 'rem':
      return (x, y) => (y === 0 ? 0 : x % y);
    case 'pow':
      return (x, y) => Number(BigInt.asIntN(32, integerPow(BigInt(x), BigInt(y))));
    case 'max':
      return Math.max;
    case 'min':
      return Math.min;
    case 'and':
      return (x, y) => x & y;
    case 'or':
      return (x, y) => x | y;
    case 'xor':
      return (x, y) => x ^ y;
    case 'shl':
      return (x, y) => (inWidth(y) ? x << y : 0);
    case 'shr':
      return signed ? (x, y) => x >> (inWidth(y) ? y : 31) : (x, y) => (inWidth(y) ? x >>> y : 0);
    default:
      throw new TypeError(`${fn} of ${dtype}`);
  }
}

/** Results are exact modulo 2^64; storing them wraps. */
export function bigBinary(fn: BinaryOp, dtype: 'i64' | 'u64'): BigFn2 {
  const signed = dtype === 'i64';
  const inWidth = (n: bigint) => n >= 0n && n < 64n;
  switch (fn) {
    case 'add':
      return (x, y) => x + y;
    case 'sub':
      return (x, y) => x - y;
    case 'mul':
      return (x, y) => x * y;
    case 'div':
      return (x, y) => (y === 0n ? 0n : x / y);
    case 'rem':
      return (x, y) => (y === 0n ? 0n : x % y);
    case 'pow':
      return integerPow;
    case 'max':
      return (x, y) => (x > y ? x : y);
    case 'min':
      return (x, y) => (x < y ? x : y);
    case 'and':
      return (x, y) => x & y;
    case 'or':
      return (x, y) => x | y;
    case 'xor':
      return (x, y) => x ^ y;
    case 'shl':
      return (x, y) => (inWidth(y) ? x << y : 0n);
    case 'shr':
      return signed ? (x, y) => x >> (inWidth(y) ? y : 63n) : (x, y) => (inWidth(y) ? x >> y : 0n);
    default:
      throw new TypeError(`${fn} of 64-bit integers`);
  }
}

/** x^y modulo 2^64 by repeated squaring; negative exponents truncate. */
function integerPow(x: bigint, y: bigint): bigint {
  if (y < 0n) return x === 1n ? 1n : x === -1n ? (y & 1n ? -1n : 1n) : 0n;
  let result = 1n;
  let base = x;
  for (let rest = y; rest > 0n; rest >>= 1n) {
    if (rest & 1n) result = BigInt.asIntN(64, result * base);
    base = BigInt.asIntN(64, base * base);
  }
  return result;
}

// --- select, clamp -------------------------------------------------------------------------------------------------

export function select(condition: HostTensor, x: HostTensor, y: HostTensor): HostTensor {
  const { dtype, shape } = x;
  const [c, p, q] = [numbersOf(condition), elementsOf(x), elementsOf(y)];
  const out = newElements(dtype, p.length);
  for (let i = 0; i < p.length; i++) out[i] = c[i] ? p[i] : q[i];
  return tensorOfElements(dtype, shape, out);
}

/** Bounds of integers are rounded inwards and cut to the type's range; the upper bound wins. */
export function clamp(x: HostTensor, min: number | null, max: number | null): HostTensor {
  const { dtype, shape } = x;
  if (isFloat(dtype)) {
    const source = numbersOf(x);
    const out = newNumbers(dtype, source.length);
    const [low, high] = [min ?? -Infinity, max ?? Infinity];
    for (let i = 0; i < source.length; i++) out[i] = Math.min(Math.max(source[i], low), high);
    return tensorOfNumbers(dtype, shape, out);
  }
  if (!isInt(dtype)) throw new TypeError(`clamp of ${dtype}`);
  const [least, most] = integerRange(dtype);
  const bound = (value: number | null, absent: bigint, round: NumberFn): bigint => {
    if (value === null) return absent;
    if (Math.abs(value) === Infinity) return value > 0 ? most : least;
    const exact = BigInt(round(value));
    return exact < least ? least : exact > most ? most : exact;
  };
  const [low, high] = [bound(min, least, Math.ceil), bound(max, most, Math.floor)];
  if (isBig(dtype)) {
    const source = bigsOf(x);
    const out = newElements(dtype, source.length) as BigArray;
    for (let i = 0; i < source.length; i++) {
      const raised = source[i] < low ? low : source[i];
      out[i] = raised > high ? high : raised;
    }
    return { dtype, shape, data: out };
  }
  const source = numbersOf(x);
  const out = newNumbers(dtype, source.length);
  for (let i = 0; i < source.length; i++) out[i] = Math.min(Math.max(source[i], Number(low)), Number(high));
  return tensorOfNumbers(dtype, shape, out);
}

// --- conversions ---------------------------------------------------------------------------------------------------

export const bitcast = (x: HostTensor, dtype: DType): HostTensor => {
  if (dtype === 'string') throw new TypeError('strings have no bits');
  return tensorFromBytes(dtype, x.shape, bytesOfTensor(x));
};

export function cast(x: HostTensor, dtype: DType, rounding: MiniFloatRounding): HostTensor {
  const { shape } = x;
  if (x.dtype === dtype) return x;
  if (x.dtype === 'string') return fromStrings(stringsOf(x), dtype, shape, rounding);
  if (dtype === 'string') return { dtype, shape, data: toStrings(x) };
  if (isBig(x.dtype)) return fromBigs(bigsOf(x), dtype, shape, rounding);
  const source = numbersOf(x);
  if (dtype === 'bool') {
    const out = new Uint8Array(source.length);
    for (let i = 0; i < out.length; i++) out[i] = source[i] !== 0 ? 1 : 0;
    return { dtype, shape, data: out };
  }
  if (isFloat(x.dtype) && isInt(dtype)) return floatToInteger(source, dtype, shape);
  if (isBig(dtype)) {
    const out = newElements(dtype, source.length) as BigArray;
    for (let i = 0; i < out.length; i++) out[i] = BigInt(source[i]);
    return { dtype, shape, data: out };
  }
  return tensorOfNumbers(dtype, shape, source, rounding);
}

function fromBigs(source: BigArray, dtype: DType, shape: readonly number[], rounding: MiniFloatRounding): HostTensor {
  if (isBig(dtype)) {
    const out = newElements(dtype, source.length) as BigArray;
    for (let i = 0; i < out.length; i++) out[i] = source[i];
    return { dtype, shape, data: out };
  }
  const out = isFloat(dtype) ? new Float64Array(source.length) : newNumbers(dtype, source.length);
  if (dtype === 'bool') for (let i = 0; i < out.length; i++) out[i] = source[i] !== 0n ? 1 : 0;
  else if (dtype === 'f64') for (let i = 0; i < out.length; i++) out[i] = Number(source[i]);
  // Rounding to odd first keeps the second rounding exact.
  else if (isFloat(dtype)) for (let i = 0; i < out.length; i++) out[i] = bigintToOddF64(source[i]);
  else for (let i = 0; i < out.length; i++) out[i] = Number(BigInt.asIntN(32, source[i]));
  return tensorOfNumbers(dtype, shape, out, rounding);
}

function floatToInteger(source: ArrayLike<number>, dtype: IntDType, shape: readonly number[]): HostTensor {
  const [least, most] = integerRange(dtype);
  const [low, high] = [Number(least), Number(most)];
  if (isBig(dtype)) {
    const out = newElements(dtype, source.length) as BigArray;
    for (let i = 0; i < out.length; i++) {
      const v = source[i];
      out[i] = Number.isNaN(v) ? 0n : v >= high ? most : v <= low ? least : BigInt(Math.trunc(v));
    }
    return { dtype, shape, data: out };
  }
  const out = newNumbers(dtype, source.length);
  for (let i = 0; i < out.length; i++) {
    const v = source[i];
    out[i] = v >= high ? high : v <= low ? low : Math.trunc(v);
  }
  return tensorOfNumbers(dtype, shape, out);
}

/** Shortest text that reads back as the same number of the type, in numpy's spelling. */
function toStrings(x: HostTensor): string[] {
  if (x.dtype === 'bool') return Array.from(numbersOf(x), (v) => (v ? 'True' : 'False'));
  if (!isFloat(x.dtype)) return Array.from(elementsOf(x), String);
  const { dtype } = x;
  const one = new Float64Array(1);
  const rounded = (v: number): number => {
    one[0] = v;
    return numbersOf(tensorOfNumbers(dtype, [1], dtype === 'f64' ? one.slice() : [v]))[0];
  };
  return Array.from(numbersOf(x), (v) => floatText(v, rounded));
}

function floatText(v: number, rounded: NumberFn): string {
  if (Number.isNaN(v)) return 'nan';
  if (!Number.isFinite(v)) return v > 0 ? 'inf' : '-inf';
  if (v === 0) return Object.is(v, -0) ? '-0' : '0';
  let digits = 1;
  while (digits < 17 && rounded(Number(v.toPrecision(digits))) !== v) digits++;
  return String(Number(v.toPrecision(digits)));
}

function fromStrings(
  source: readonly string[],
  dtype: DType,
  shape: readonly number[],
  rounding: MiniFloatRounding,
): HostTensor {
  if (isBig(dtype)) {
    const out = newElements(dtype, source.length) as BigArray;
    for (let i = 0; i < out.length; i++)
      out[i] = BigInt(
        /^[+-]?\d+$/.test(source[i].trim()) ? source[i].trim().replace('+', '') : Math.trunc(textNumber(source[i])),
      );
    return { dtype, shape, data: out };
  }
  const numbers = Float64Array.from(source, textNumber);
  if (dtype === 'bool') return { dtype, shape, data: Uint8Array.from(numbers, (v) => (v !== 0 ? 1 : 0)) };
  if (isInt(dtype)) return floatToInteger(numbers, dtype, shape);
  return tensorOfNumbers(dtype, shape, numbers, rounding);
}

/** Decimal and scientific notation, and the words for infinities and NaN in any case. */
function textNumber(text: string): number {
  const word = text.trim().toLowerCase();
  const special = /^([+-]?)(inf|infinity|nan)$/.exec(word);
  if (!special) return word === '' ? Number.NaN : Number(word);
  return special[2] === 'nan' ? Number.NaN : special[1] === '-' ? -Infinity : Infinity;
}
