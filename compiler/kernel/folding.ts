/** What is known of an operation on integers before it runs: constants folded, comparisons that intervals decide. */
import type { BinaryFn, CompareFn, Range } from './types.js';

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
