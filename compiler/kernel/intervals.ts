/**
 * Interval arithmetic on the integer types of the Kernel IR, for the builder and the verifier. Tests compare it with
 * what the interpreter computes. `undefined` means: not known to be narrower than the type.
 */
import { integerBounds } from './semantics.js';
import {
  type BinaryFn,
  isIntScalar,
  type KValue,
  type MathBinaryFn,
  type Range,
  type ScalarType,
  scalarBits,
  scalarTypes,
} from './types.js';

export type Interval = Range | undefined;

const typeIntervals: Readonly<Partial<Record<ScalarType, Range>>> = Object.fromEntries(
  scalarTypes
    .filter((scalar) => isIntScalar(scalar) && scalarBits[scalar] < 64)
    .map((scalar) => {
      const [min, max] = integerBounds(scalar);
      return [scalar, { min, max }];
    }),
);

/** All values of an integer type of at most 32 bits; undefined for others, whose bounds a double may not hold. */
export const typeInterval = (scalar: ScalarType): Interval => typeIntervals[scalar];

/** The interval of an integer value: what is known, else its type's; undefined for 64-bit values nothing is known of. */
export const rangeOf = (value: KValue): Interval => value.range ?? typeInterval(value.type.scalar);

/** `interval` if no value in it wraps in the type, else all of the type. */
export function fitted(interval: Interval, scalar: ScalarType): Interval {
  const all = typeInterval(scalar);
  if (interval === undefined || !Number.isSafeInteger(interval.min) || !Number.isSafeInteger(interval.max)) return all;
  if (all !== undefined) return interval.min >= all.min && interval.max <= all.max ? interval : all;
  return scalar === 'u64' && interval.min < 0 ? undefined : interval;
}

export const join = (a: Interval, b: Interval): Interval =>
  a && b && { min: Math.min(a.min, b.min), max: Math.max(a.max, b.max) };

/** Values in both; may be empty (min > max). */
export function meet(a: Interval, b: Interval): Interval {
  if (a === undefined || b === undefined) return a ?? b;
  return { min: Math.max(a.min, b.min), max: Math.min(a.max, b.max) };
}

export const isEmpty = (a: Interval): boolean => a !== undefined && a.min > a.max;

/** Whether `inner` is known to lie in `outer`. */
export const within = (inner: Interval, outer: Range): boolean =>
  inner !== undefined && (isEmpty(inner) || (inner.min >= outer.min && inner.max <= outer.max));

export const show = (a: Interval): string => (a === undefined ? 'unknown' : `[${a.min}, ${a.max}]`);

function hull(values: readonly number[]): Range {
  return { min: Math.min(...values) + 0, max: Math.max(...values) + 0 };
}

const bitLength = (x: number): number => (x === 0 ? 0 : Math.floor(Math.log2(x)) + 1);

/** What a binary op can give for operands in `a` and `b`, both of type `scalar`. */
export function binaryInterval(fn: BinaryFn | MathBinaryFn, a: Interval, b: Interval, scalar: ScalarType): Interval {
  return fitted(exactBinary(fn, a, b), scalar);
}

/** The interval before wrapping. */
function exactBinary(fn: BinaryFn | MathBinaryFn, a: Interval, b: Interval): Interval {
  // These bound the result by one operand alone.
  if (fn === 'and') {
    const bounds = [a, b].flatMap((side) => (side && side.min >= 0 ? [side.max] : []));
    return bounds.length === 0 ? undefined : { min: 0, max: Math.min(...bounds) };
  }
  if (fn === 'rem' && b && b.min > 0) {
    const most = b.max - 1;
    if (a === undefined) return { min: -most, max: most };
    if (a.min >= 0 && a.max < b.min) return a;
    return { min: a.min < 0 ? Math.max(a.min, -most) : 0, max: a.max > 0 ? Math.min(a.max, most) : 0 };
  }
  if (a === undefined || b === undefined) return undefined;
  switch (fn) {
    case 'add':
      return { min: a.min + b.min, max: a.max + b.max };
    case 'sub':
      return { min: a.min - b.max, max: a.max - b.min };
    case 'mul':
      return hull([a.min * b.min, a.min * b.max, a.max * b.min, a.max * b.max]);
    case 'div':
      if (b.min <= 0 && b.max >= 0) {
        // The divisor is not 0, so the magnitude does not grow.
        const most = Math.max(Math.abs(a.min), Math.abs(a.max));
        return { min: b.min >= 0 && a.min >= 0 ? 0 : -most, max: most };
      }
      return hull([a.min / b.min, a.min / b.max, a.max / b.min, a.max / b.max].map(Math.trunc));
    case 'min':
      return { min: Math.min(a.min, b.min), max: Math.min(a.max, b.max) };
    case 'max':
      return { min: Math.max(a.min, b.min), max: Math.max(a.max, b.max) };
    case 'or':
    case 'xor':
      if (a.min < 0 || b.min < 0) return undefined;
      return { min: 0, max: 2 ** Math.max(bitLength(a.max), bitLength(b.max)) - 1 };
    case 'shl': {
      if (b.min < 0 || b.max > 63) return undefined;
      return hull([a.min * 2 ** b.min, a.min * 2 ** b.max, a.max * 2 ** b.min, a.max * 2 ** b.max]);
    }
    case 'shr':
      if (b.min < 0 || b.max > 63) return undefined;
      return hull([a.min, a.max].flatMap((x) => [b.min, b.max].map((shift) => Math.floor(x / 2 ** shift))));
    default:
      return undefined;
  }
}

/**
 * What is known of `x` when `fn(x, constant)` without wrapping lies in `result`; undefined if nothing. `inner` is what
 * is known of x already.
 */
export function invertBinary(fn: BinaryFn | MathBinaryFn, result: Range, constant: number, inner: Interval): Interval {
  switch (fn) {
    case 'add':
      return { min: result.min - constant, max: result.max - constant };
    case 'sub':
      return { min: result.min + constant, max: result.max + constant };
    case 'mul':
      if (constant <= 0) return undefined;
      return { min: Math.ceil(result.min / constant) + 0, max: Math.floor(result.max / constant) };
    case 'div':
      if (constant <= 0 || inner === undefined || inner.min < 0) return undefined;
      return { min: result.min * constant, max: result.max * constant + constant - 1 };
    default:
      return undefined;
  }
}
