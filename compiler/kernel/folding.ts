/**
 * What is known of an operation on integers or bools before it runs: constants folded, operands that are the result,
 * comparisons that intervals decide.
 */
import { rangeOf } from './intervals.js';
import { type BinaryFn, type CompareFn, type KValue, type Range, type ScalarType, scalarBits } from './types.js';

/** A constant that an operand is known to be. */
type Known = number | bigint | undefined;

/** An exact result as a constant of the integer type. */
export function wrapped(value: number, scalar: ScalarType): number | bigint {
  const bits = scalarBits[scalar];
  const wide = scalar.startsWith('i') ? BigInt.asIntN(bits, BigInt(value)) : BigInt.asUintN(bits, BigInt(value));
  return bits === 64 ? wide : Number(wide);
}

/** The exact result for numbers; undefined where folding is left alone. */
export function foldInteger(fn: BinaryFn, x: number, y: number): number | undefined {
  switch (fn) {
    case 'add':
      return x + y;
    case 'sub':
      return x - y;
    case 'mul':
      return x * y;
    case 'div':
      return y === 0 ? undefined : Math.trunc(x / y);
    case 'rem':
      return y === 0 ? undefined : x % y === 0 ? 0 : x % y;
    case 'min':
      return Math.min(x, y);
    case 'max':
      return Math.max(x, y);
    default:
      return undefined;
  }
}

/** The operand that `and` or `or` of bools is, if it is one; `x` and `y` are constants that `a` and `b` are. */
export function simplifiedBool(fn: string, a: KValue, b: KValue, x: Known, y: Known): KValue | undefined {
  if (fn === 'and') {
    if (x !== undefined) return x ? b : a;
    if (y !== undefined) return y ? a : b;
    if (a === b) return a;
  }
  if (fn === 'or') {
    if (x !== undefined) return x ? a : b;
    if (y !== undefined) return y ? b : a;
    if (a === b) return a;
  }
  return undefined;
}

/** The operand that an op on integers is, or 0, if it is that. */
export function simplifiedInteger(fn: BinaryFn, a: KValue, b: KValue, x: Known, y: Known): KValue | 0 | undefined {
  switch (fn) {
    case 'add':
      return isZero(y) ? a : isZero(x) ? b : undefined;
    case 'sub':
      return isZero(y) ? a : a === b ? 0 : undefined;
    case 'mul':
      if (isOne(y) || isZero(x)) return a;
      return isOne(x) || isZero(y) ? b : undefined;
    case 'div':
      if (isOne(y)) return a;
      return isBelow(a, b) ? 0 : undefined;
    case 'rem':
      if (isOne(y)) return 0;
      return isBelow(a, b) ? a : undefined;
    case 'min':
      return isAtMost(a, b) ? a : isAtMost(b, a) ? b : undefined;
    case 'max':
      return isAtMost(b, a) ? a : isAtMost(a, b) ? b : undefined;
    case 'shl':
    case 'shr':
      return isZero(y) ? a : undefined;
    case 'and':
      return isZero(x) || isZero(y) ? 0 : undefined;
    case 'or':
    case 'xor':
      return isZero(y) ? a : isZero(x) ? b : undefined;
    case 'mulhi':
      return undefined;
    default:
      return fn satisfies never;
  }
}

const isZero = (constant: Known): boolean => constant !== undefined && Number(constant) === 0;
const isOne = (constant: Known): boolean => constant !== undefined && Number(constant) === 1;

/** Whether 0 ≤ a < b for all values they may have. */
function isBelow(a: KValue, b: KValue): boolean {
  const [ra, rb] = [rangeOf(a), rangeOf(b)];
  return ra !== undefined && rb !== undefined && ra.min >= 0 && ra.max < rb.min;
}

/** Whether a ≤ b for all values they may have. */
function isAtMost(a: KValue, b: KValue): boolean {
  const [ra, rb] = [rangeOf(a), rangeOf(b)];
  return ra !== undefined && rb !== undefined && ra.max <= rb.min;
}

/** The truth of a comparison for all values in the intervals, if it is the same. */
export function decideCompare(fn: CompareFn, a: Range | undefined, b: Range | undefined): boolean | undefined {
  if (!a || !b) return undefined;
  switch (fn) {
    case 'lt':
      return a.max < b.min ? true : a.min >= b.max ? false : undefined;
    case 'le':
      return a.max <= b.min ? true : a.min > b.max ? false : undefined;
    case 'gt':
      return a.min > b.max ? true : a.max <= b.min ? false : undefined;
    case 'ge':
      return a.min >= b.max ? true : a.max < b.min ? false : undefined;
    case 'eq':
    case 'ne': {
      const equal = a.min === a.max && b.min === b.max && a.min === b.min;
      const apart = a.max < b.min || b.max < a.min;
      return equal ? fn === 'eq' : apart ? fn === 'ne' : undefined;
    }
    default:
      return fn satisfies never;
  }
}
