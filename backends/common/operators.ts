/** What C and the languages that take after it (MSL, WGSL) write alike. */
import type { CompareFn } from '../../compiler/kernel/types.js';

export const compareOperators: Readonly<Record<CompareFn, string>> = {
  eq: '==',
  ne: '!=',
  lt: '<',
  le: '<=',
  gt: '>',
  ge: '>=',
};
