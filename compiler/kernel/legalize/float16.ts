/**
 * f16 and bf16 by integer operations: conversion from and to f32, exact or rounding to nearest even. Works on vectors.
 * An f16's subnormals are normal in f32, so nothing here depends on how a device treats f32's own subnormals.
 */
import type { KernelBuilder } from '../builder.js';
import { type KValue, ktype } from '../types.js';

export type Half = 'f16' | 'bf16';

/** The bits (in a u32) of the half that is nearest to the f32 `x`. NaN becomes quiet. */
export function halfBits(b: KernelBuilder, half: Half, x: KValue): KValue {
  const { lanes } = x.type;
  const type = ktype('u32', lanes);
  const c = (value: number) => b.constant(value, 'u32', lanes);
  const shr = (a: KValue, n: KValue) => b.binary('shr', a, n);
  return b.call(`tutti_${half}_bits${suffix(lanes)}`, [x], type, ([param]) => {
    const bits = b.bitcast(param, type);
    const magnitude = b.and(bits, c(0x7fffffff));
    const sign = b.and(shr(bits, c(16)), c(0x8000));
    const nan = b.compare('gt', magnitude, c(0x7f800000));
    if (half === 'bf16') {
      const lowest = b.and(shr(magnitude, c(16)), c(1));
      const rounded = shr(b.add(magnitude, b.add(c(0x7fff), lowest)), c(16));
      return b.or(sign, b.select(nan, b.or(shr(magnitude, c(16)), c(0x7fc0)), rounded));
    }
    const lowest = b.and(shr(magnitude, c(13)), c(1));
    const rounded = shr(b.sub(b.add(magnitude, b.add(c(0xfff), lowest)), c(0x38000000)), c(13));
    const normal = b.min(rounded, c(0x7c00));
    // Below 2^-14 the result counts units of 2^-24.
    const significand = b.or(b.and(magnitude, c(0x7fffff)), c(0x800000));
    const exponent = shr(magnitude, c(23));
    const shift = b.min(b.max(b.sub(c(126), exponent), c(14)), c(25));
    const safe = b.select(b.compare('gt', exponent, c(112)), c(14), shift);
    const odd = b.and(shr(significand, safe), c(1));
    const half1 = b.sub(b.binary('shl', c(1), b.sub(safe, c(1))), c(1));
    const subnormal = shr(b.add(b.add(significand, half1), odd), safe);
    const finite = b.select(b.compare('lt', magnitude, c(0x38800000)), subnormal, normal);
    return b.or(sign, b.select(nan, b.or(b.and(shr(magnitude, c(13)), c(0x1ff)), c(0x7e00)), finite));
  });
}

/** The f32 of a half's bits (in the low 16 bits of a u32, the others zero). */
export function halfValue(b: KernelBuilder, half: Half, bits: KValue): KValue {
  const { lanes } = bits.type;
  const f32 = ktype('f32', lanes);
  const c = (value: number) => b.constant(value, 'u32', lanes);
  const shl = (a: KValue, n: number) => b.binary('shl', a, c(n));
  if (half === 'bf16') return b.bitcast(shl(bits, 16), f32);
  return b.call(`tutti_f16_value${suffix(lanes)}`, [bits], f32, ([param]) => {
    const magnitude = b.and(param, c(0x7fff));
    const sign = shl(b.and(param, c(0x8000)), 16);
    const rebias = b.select(b.compare('ge', magnitude, c(0x7c00)), c(0x70000000), c(0x38000000));
    const normal = b.add(shl(magnitude, 13), rebias);
    const small = b.binary('mul', b.convert(magnitude, 'f32'), b.constant(2 ** -24, 'f32', lanes));
    const value = b.select(b.compare('lt', magnitude, c(0x400)), b.bitcast(small, ktype('u32', lanes)), normal);
    return b.bitcast(b.or(sign, value), f32);
  });
}

/**
 * a + c, given their types, rounded to odd: the sum's error, known exactly (Knuth), decides about the last bit. Rounding
 * the result again to a much shorter format then rounds the exact sum (Boldo, Melquiond 2008).
 */
export function oddSumF32(b: KernelBuilder, a: KValue, c: KValue): KValue {
  const { lanes } = a.type;
  return b.call(`tutti_odd_sum_f32${suffix(lanes)}`, [a, c], ktype('f32', lanes), ([x, y]) => {
    const int = ktype('i32', lanes);
    const constant = (value: number) => b.constant(value, 'i32', lanes);
    const sum = b.add(x, y);
    const part = b.sub(sum, x);
    const error = b.add(b.sub(x, b.sub(sum, part)), b.sub(y, part));
    const bits = b.bitcast(sum, int);
    const zero = b.constant(0, 'f32', lanes);
    const inexact = b.or(b.compare('gt', error, zero), b.compare('lt', error, zero));
    const finite = b.compare('lt', b.and(bits, constant(0x7fffffff)), constant(0x7f800000));
    const even = b.compare('eq', b.and(bits, constant(1)), constant(0));
    // Away from zero where the error has the sum's sign, else toward it.
    const same = b.compare('ge', b.binary('xor', bits, b.bitcast(error, int)), constant(0));
    const moved = b.add(bits, b.select(same, constant(1), constant(-1)));
    return b.bitcast(b.select(b.and(inexact, b.and(finite, even)), moved, bits), ktype('f32', lanes));
  });
}

const suffix = (lanes: number): string => (lanes === 1 ? '' : `_x${lanes}`);
