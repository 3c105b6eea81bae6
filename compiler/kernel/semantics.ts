/**
 * What each Kernel IR op means on one lane, as pure functions by element type.
 *
 * 64-bit integers are bigints, every other type is a JavaScript number that already lies in the type. Breaking a
 * promise of the IR (division by zero, MIN/-1, a shift out of range) throws: it is a bug of the producer.
 */
import {
  bigintToOddF64,
  fmaBf16,
  fmaF16,
  fmaF32,
  fmaF64,
  pow,
  realFunctions,
  roundBf16,
  roundF16,
  roundTiesToEven,
} from '../numeric.js';
import {
  type BinaryFn,
  type CompareFn,
  isFloatScalar,
  type MathBinaryFn,
  type ScalarType,
  scalarBits,
  type UnaryFn,
} from './types.js';

export type NumberFn1 = (a: number) => number;
export type NumberFn2 = (a: number, b: number) => number;
export type BigFn1 = (a: bigint) => bigint;
export type BigFn2 = (a: bigint, b: bigint) => bigint;

/** Types held as bigint. */
export const isBig = (scalar: ScalarType): scalar is 'i64' | 'u64' => scalar === 'i64' || scalar === 'u64';

const identity: NumberFn1 = (x) => x;

/** Brings an exact result into the type: integers wrap, floats round to nearest even. Not for 64-bit integers. */
export const normalizers: Readonly<Record<Exclude<ScalarType, 'i64' | 'u64'>, NumberFn1>> = {
  bool: (x) => (x !== 0 ? 1 : 0),
  i8: (x) => (x << 24) >> 24,
  u8: (x) => x & 0xff,
  i16: (x) => (x << 16) >> 16,
  u16: (x) => x & 0xffff,
  i32: (x) => x | 0,
  u32: (x) => x >>> 0,
  f16: roundF16,
  bf16: roundBf16,
  f32: Math.fround,
  f64: identity,
};

/** A 64-bit integer wrapped into its type. */
export const wrapBig = (scalar: 'i64' | 'u64'): BigFn1 =>
  scalar === 'i64' ? (x) => BigInt.asIntN(64, x) : (x) => BigInt.asUintN(64, x);

/** Inclusive bounds of an integer or bool type as numbers (those of 64-bit types are rounded). */
export function integerBounds(scalar: ScalarType): readonly [number, number] {
  if (scalar === 'bool') return [0, 1];
  const bits = scalarBits[scalar];
  return scalar.startsWith('u') ? [0, 2 ** bits - 1] : [-(2 ** (bits - 1)), 2 ** (bits - 1) - 1];
}

const bigBounds: Readonly<Record<'i64' | 'u64', readonly [bigint, bigint]>> = {
  i64: [-(1n << 63n), (1n << 63n) - 1n],
  u64: [0n, (1n << 64n) - 1n],
};

const unsupported = (fn: string, scalar: ScalarType): never => {
  throw new Error(`op '${fn}' has no meaning on ${scalar}`);
};

function popcount(x: number): number {
  let count = 0;
  for (let rest = x; rest !== 0; rest &= rest - 1) count++;
  return count;
}

/** Unary op on every type but i64 and u64. `popcount` and `clz` count within the width of the type. */
export function unaryNumber(fn: UnaryFn, scalar: Exclude<ScalarType, 'i64' | 'u64'>): NumberFn1 {
  const narrow = normalizers[scalar];
  if (isFloatScalar(scalar)) {
    switch (fn) {
      case 'neg':
        return (x) => -x;
      case 'abs':
        return Math.abs;
      case 'floor':
        return Math.floor;
      case 'ceil':
        return Math.ceil;
      case 'trunc':
        return Math.trunc;
      case 'round':
        return roundTiesToEven;
      case 'not':
      case 'popcount':
      case 'clz':
        return unsupported(fn, scalar);
      default: {
        const real = realFunctions[fn];
        return (x) => narrow(real(x));
      }
    }
  }
  if (scalar === 'bool') return fn === 'not' ? (x) => 1 - x : unsupported(fn, scalar);
  const bits = scalarBits[scalar];
  const mask = bits === 32 ? -1 : (1 << bits) - 1;
  switch (fn) {
    case 'neg':
      return (x) => narrow(-x);
    case 'abs':
      return (x) => narrow(Math.abs(x));
    case 'not':
      return (x) => narrow(~x);
    case 'popcount':
      return (x) => popcount(x & mask);
    case 'clz':
      return (x) => Math.clz32(x & mask) - (32 - bits);
    default:
      return unsupported(fn, scalar);
  }
}

/** Unary op on i64 and u64. */
export function unaryBig(fn: UnaryFn, scalar: 'i64' | 'u64'): BigFn1 {
  const narrow = wrapBig(scalar);
  switch (fn) {
    case 'neg':
      return (x) => narrow(-x);
    case 'abs':
      return (x) => narrow(x < 0n ? -x : x);
    case 'not':
      return (x) => narrow(~x);
    case 'popcount':
      return (x) => BigInt(popcount(Number(x & 0xffffffffn) | 0) + popcount(Number((x >> 32n) & 0xffffffffn) | 0));
    case 'clz':
      return (x) => {
        const top = Math.clz32(Number((x >> 32n) & 0xffffffffn));
        return BigInt(top < 32 ? top : 32 + Math.clz32(Number(x & 0xffffffffn)));
      };
    default:
      return unsupported(fn, scalar);
  }
}

/** High 32 bits of the product of two u32. */
function mulhiUnsigned(a: number, b: number): number {
  const aHigh = a >>> 16;
  const aLow = a & 0xffff;
  const bHigh = b >>> 16;
  const bLow = b & 0xffff;
  const middle = aHigh * bLow + ((aLow * bLow) >>> 16);
  const cross = aLow * bHigh + (middle & 0xffff);
  return (aHigh * bHigh + Math.floor(middle / 65536) + Math.floor(cross / 65536)) >>> 0;
}

function checkDivision(fn: string, dividend: number | bigint, divisor: number | bigint, min: number | bigint): void {
  if (divisor === 0 || divisor === 0n) throw new Error(`integer ${fn} by zero`);
  if (dividend === min && (divisor === -1 || divisor === -1n)) throw new Error(`integer ${fn} overflows: ${min} / -1`);
}

/** Binary op on every type but i64 and u64. */
export function binaryNumber(fn: BinaryFn | MathBinaryFn, scalar: Exclude<ScalarType, 'i64' | 'u64'>): NumberFn2 {
  const narrow = normalizers[scalar];
  if (isFloatScalar(scalar)) {
    switch (fn) {
      case 'add':
        return (a, b) => narrow(a + b);
      case 'sub':
        return (a, b) => narrow(a - b);
      case 'mul':
        return (a, b) => narrow(a * b);
      case 'div':
        return (a, b) => narrow(a / b);
      case 'rem':
        return (a, b) => a % b;
      case 'min':
        return Math.min;
      case 'max':
        return Math.max;
      case 'pow':
        return (a, b) => narrow(pow(a, b));
      case 'atan2':
        return (a, b) => narrow(Math.atan2(a, b));
      default:
        return unsupported(fn, scalar);
    }
  }
  if (scalar === 'bool') {
    switch (fn) {
      case 'and':
        return (a, b) => a & b;
      case 'or':
        return (a, b) => a | b;
      case 'xor':
        return (a, b) => a ^ b;
      default:
        return unsupported(fn, scalar);
    }
  }
  const bits = scalarBits[scalar];
  const [min] = integerBounds(scalar);
  const signed = min < 0;
  const lowest = signed ? min : Number.NaN;
  const shift = (b: number): number => {
    if (b < 0 || b >= bits) throw new Error(`${fn} of ${scalar} by ${b}`);
    return b;
  };
  switch (fn) {
    case 'add':
      return (a, b) => narrow(a + b);
    case 'sub':
      return (a, b) => narrow(a - b);
    case 'mul':
      return (a, b) => narrow(Math.imul(a, b));
    case 'div':
      return (a, b) => {
        checkDivision(fn, a, b, lowest);
        return Math.trunc(a / b) + 0;
      };
    case 'rem':
      return (a, b) => {
        checkDivision(fn, a, b, lowest);
        return (a % b) + 0;
      };
    case 'min':
      return Math.min;
    case 'max':
      return Math.max;
    case 'and':
      return (a, b) => narrow(a & b);
    case 'or':
      return (a, b) => narrow(a | b);
    case 'xor':
      return (a, b) => narrow(a ^ b);
    case 'shl':
      return (a, b) => narrow(a << shift(b));
    case 'shr':
      return signed ? (a, b) => a >> shift(b) : (a, b) => a >>> shift(b);
    case 'mulhi':
      if (scalar === 'u32') return mulhiUnsigned;
      if (scalar !== 'i32') return unsupported(fn, scalar);
      return (a, b) => (mulhiUnsigned(a >>> 0, b >>> 0) - (a < 0 ? b : 0) - (b < 0 ? a : 0)) | 0;
    case 'pow':
    case 'atan2':
      return unsupported(fn, scalar);
    default:
      return fn satisfies never;
  }
}

/** Binary op on i64 and u64. */
export function binaryBig(fn: BinaryFn | MathBinaryFn, scalar: 'i64' | 'u64'): BigFn2 {
  const narrow = wrapBig(scalar);
  const lowest = scalar === 'i64' ? bigBounds.i64[0] : -1n;
  const shift = (b: bigint): bigint => {
    if (b < 0n || b >= 64n) throw new Error(`${fn} of ${scalar} by ${b}`);
    return b;
  };
  switch (fn) {
    case 'add':
      return (a, b) => narrow(a + b);
    case 'sub':
      return (a, b) => narrow(a - b);
    case 'mul':
      return (a, b) => narrow(a * b);
    case 'div':
      return (a, b) => {
        checkDivision(fn, a, b, lowest);
        return a / b;
      };
    case 'rem':
      return (a, b) => {
        checkDivision(fn, a, b, lowest);
        return a % b;
      };
    case 'min':
      return (a, b) => (a < b ? a : b);
    case 'max':
      return (a, b) => (a > b ? a : b);
    case 'and':
      return (a, b) => a & b;
    case 'or':
      return (a, b) => a | b;
    case 'xor':
      return (a, b) => a ^ b;
    case 'shl':
      return (a, b) => narrow(a << shift(b));
    case 'shr':
      return (a, b) => a >> shift(b);
    case 'mulhi':
    case 'pow':
    case 'atan2':
      return unsupported(fn, scalar);
    default:
      return fn satisfies never;
  }
}

/** Fused multiply-add; on integers the wrapping a·b + c is not an IR op. */
export function fusedNumber(scalar: ScalarType): (a: number, b: number, c: number) => number {
  switch (scalar) {
    case 'f16':
      return fmaF16;
    case 'bf16':
      return fmaBf16;
    case 'f32':
      return fmaF32;
    case 'f64':
      return fmaF64;
    default:
      return unsupported('fma', scalar);
  }
}

/** Comparison of two numbers or two bigints: 0 or 1. */
export const comparisons: Readonly<Record<CompareFn, (a: number | bigint, b: number | bigint) => number>> = {
  eq: (a, b) => (a === b ? 1 : 0),
  ne: (a, b) => (a !== b ? 1 : 0),
  lt: (a, b) => (a < b ? 1 : 0),
  le: (a, b) => (a <= b ? 1 : 0),
  gt: (a, b) => (a > b ? 1 : 0),
  ge: (a, b) => (a >= b ? 1 : 0),
};

/** A conversion, in the form that fits how the two types are held. */
export type Conversion =
  | { readonly kind: 'number'; readonly apply: (x: number) => number }
  | { readonly kind: 'toBig'; readonly apply: (x: number) => bigint }
  | { readonly kind: 'fromBig'; readonly apply: (x: bigint) => number }
  | { readonly kind: 'big'; readonly apply: (x: bigint) => bigint };

export function conversion(from: ScalarType, to: ScalarType): Conversion {
  if (isBig(from)) {
    if (isBig(to)) return { kind: 'big', apply: wrapBig(to) };
    if (to === 'bool') return { kind: 'fromBig', apply: (x) => (x !== 0n ? 1 : 0) };
    if (to === 'f64') return { kind: 'fromBig', apply: Number };
    const narrow = normalizers[to];
    if (isFloatScalar(to)) return { kind: 'fromBig', apply: (x) => narrow(bigintToOddF64(x)) };
    return { kind: 'fromBig', apply: (x) => narrow(Number(BigInt.asIntN(32, x))) };
  }
  if (isBig(to)) {
    const narrow = wrapBig(to);
    if (!isFloatScalar(from)) return { kind: 'toBig', apply: (x) => narrow(BigInt(x)) };
    const [min, max] = bigBounds[to];
    const ceiling = to === 'i64' ? 2 ** 63 : 2 ** 64;
    const floor = to === 'i64' ? -(2 ** 63) : 0;
    return {
      kind: 'toBig',
      apply: (x) => (Number.isNaN(x) ? 0n : x >= ceiling ? max : x <= floor ? min : BigInt(Math.trunc(x))),
    };
  }
  if (to === 'bool' || !isFloatScalar(from) || isFloatScalar(to)) return { kind: 'number', apply: normalizers[to] };
  const [min, max] = integerBounds(to);
  return {
    kind: 'number',
    apply: (x) => (Number.isNaN(x) ? 0 : x >= max ? max : x <= min ? min : Math.trunc(x) + 0),
  };
}
