/**
 * Instructions of x86 vector units for what C's vector extensions say badly: choices, minima and maxima, saturating
 * conversions, scaling by powers of two. Each is a body for a prelude function and the macro that tells whether the
 * compiler has it; elsewhere the portable body stands. Builtins instead of intrinsics: the header with these takes
 * compilers longer than the kernels.
 */
import type { CompareFn, Lanes, ScalarType } from '../../compiler/kernel/types.js';
import type { CScalar } from './prelude/types.js';

export interface Hardware {
  /** All must be defined by the compiler. */
  readonly macros: readonly string[];
  readonly builtins: readonly string[];
  /** Statements over the function's parameters. */
  readonly body: string;
}

/** `hardware` where the compiler has it, else `otherwise`. */
export function preferring(hardware: Hardware | undefined, otherwise: string): string {
  if (hardware === undefined) return otherwise;
  const conditions = [
    ...hardware.macros.map((macro) => `defined(${macro})`),
    ...hardware.builtins.map((builtin) => `TUTTI_HAS(${builtin})`),
  ];
  return `\n#if ${conditions.join(' && ')}\n  ${hardware.body}\n#else\n  ${otherwise}\n#endif\n`;
}

const avx512 = (builtins: readonly string[], body: string, macro = '__AVX512F__'): Hardware => ({
  macros: [macro],
  builtins,
  body,
});
const isWhole = (lanes: Lanes, scalar: CScalar): boolean => lanes === 16 && /32$/.test(scalar);

/** Ordered, quiet; `ne` is true of NaN. */
const floatPredicates: Readonly<Record<CompareFn, number>> = { eq: 0, lt: 17, le: 18, ne: 4, gt: 30, ge: 29 };
const integerPredicates: Readonly<Record<CompareFn, number>> = { eq: 0, lt: 1, le: 2, ne: 4, ge: 5, gt: 6 };

/** The mask of x fn y, of 16 lanes of 32 bits. */
function mask(fn: CompareFn, scalar: CScalar, x: string, y: string): { readonly builtin: string; readonly c: string } {
  if (scalar === 'f32') {
    const builtin = '__builtin_ia32_cmpps512_mask';
    return { builtin, c: `(unsigned short)${builtin}(${x}, ${y}, ${floatPredicates[fn]}, -1, 4)` };
  }
  const builtin = scalar === 'u32' ? '__builtin_ia32_ucmpd512_mask' : '__builtin_ia32_cmpd512_mask';
  const word = '(int __attribute__((vector_size(64))))';
  return { builtin, c: `(unsigned short)${builtin}(${word}${x}, ${word}${y}, ${integerPredicates[fn]}, -1)` };
}

/** x fn y ? a : b, lane by lane. */
export function where(
  fn: CompareFn,
  compared: CScalar,
  result: CScalar,
  lanes: Lanes,
  type: string,
): Hardware | undefined {
  if (!isWhole(lanes, compared) || !isWhole(lanes, result)) return undefined;
  const condition = mask(fn, compared, 'x', 'y');
  const blend = '__builtin_ia32_blendmd_512_mask';
  const word = '(int __attribute__((vector_size(64))))';
  return avx512([condition.builtin, blend], `return (${type})${blend}(${word}b, ${word}a, ${condition.c});`);
}

/** a if it is beyond b, else b, also where either is NaN or both are zero: what the instruction does. */
export function beyond(fn: 'min' | 'max', scalar: CScalar, lanes: Lanes): Hardware | undefined {
  if (scalar !== 'f32') return undefined;
  if (lanes === 16) {
    const builtin = `__builtin_ia32_${fn}ps512_mask`;
    return avx512([builtin], `return ${builtin}(a, b, b, -1, 4);`);
  }
  if (lanes !== 8) return undefined;
  const builtin = `__builtin_ia32_${fn}ps256`;
  return { macros: ['__AVX__'], builtins: [builtin], body: `return ${builtin}(a, b);` };
}

/** NaN if either is NaN, which the range instruction loses; it does know the order of zeros. */
export function minMax(fn: 'min' | 'max', scalar: CScalar, lanes: Lanes): Hardware | undefined {
  const bits = 32 * lanes;
  if (scalar !== 'f32' || bits < 128) return undefined;
  const [range, sum, compare] = ['range', 'add', 'cmp'].map((name) => `__builtin_ia32_${name}ps${bits}_mask`);
  const rounding = lanes === 16 ? ', 4' : '';
  const mask = lanes === 16 ? 'unsigned short' : 'unsigned char';
  const unordered = `(${mask})${compare}(a, b, 3, -1${rounding})`;
  const ordered = `${range}(a, b, ${fn === 'max' ? 5 : 4}, a, -1${rounding})`;
  return {
    macros: ['__AVX512DQ__', '__AVX512VL__'],
    builtins: [range, sum, compare],
    body: `return ${sum}(a, b, ${ordered}, ${unordered}${rounding});`,
  };
}

/** Truncation gives the most negative number, or all ones, for what does not fit. */
export function saturate(from: CScalar, to: CScalar, lanes: Lanes): Hardware | undefined {
  if (from !== 'f32' || lanes !== 16) return undefined;
  const zero = '(int __attribute__((vector_size(64)))){0}';
  const keep = '__builtin_ia32_movdqa32_512_mask';
  const ordered = '(unsigned short)__builtin_ia32_cmpps512_mask(a, a, 7, -1, 4)';
  const compare = '__builtin_ia32_cmpps512_mask';
  if (to === 'i32') {
    const truncate = '__builtin_ia32_cvttps2dq512_mask';
    const over = mask('ge', 'f32', 'a', 'tutti_splat_f32x16(0x1p31f)').c;
    return avx512(
      [truncate, keep, compare],
      `return (tutti_i32x16)${keep}(${keep}((int __attribute__((vector_size(64))))tutti_splat_i32x16(INT32_MAX), ${truncate}(a, ${zero}, -1, 4), ${over}), ${zero}, ${ordered});`,
    );
  }
  if (to === 'u32') {
    const truncate = '__builtin_ia32_cvttps2udq512_mask';
    const positive = mask('gt', 'f32', 'a', '(tutti_f32x16){0}').c;
    return avx512(
      [truncate, keep, compare],
      `return (tutti_u32x16)${keep}(${truncate}(a, ${zero}, -1, 4), ${zero}, ${positive});`,
    );
  }
  return undefined;
}

/** x · 2^n, rounded once. */
export function scale(scalar: ScalarType, lanes: Lanes, x: string, n: string): Hardware | undefined {
  const whole: Partial<Record<string, string>> = { f32x16: 'ps', f64x8: 'pd' };
  const suffix = whole[`${scalar}x${lanes}`];
  if (suffix === undefined) return undefined;
  const builtin = `__builtin_ia32_scalef${suffix}512_mask`;
  return avx512([builtin], `return ${builtin}(${x}, ${n}, ${x}, -1, 4);`);
}
