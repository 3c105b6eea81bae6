/**
 * Float formats of 4 and 8 bits as data, and their codes on the host.
 *
 * Sources: OCP 8-bit Floating Point (e4m3fn, e5m2), Noune et al., "8-bit Numerical Formats for Deep Neural Networks"
 * (the fnuz kinds: no infinities, no negative zero, one NaN in its place), OCP Microscaling Formats (e8m0, e2m1), and
 * the tables of ONNX's Cast for what lies outside of a format. Kernels follow the same data (`kernel/minifloat.ts`).
 */
import { bitsOf, type MiniFloatDType } from './dtype.js';
import { exponentOf, roundTiesToEven } from './numeric.js';

/** Sign (its top bit), exponent and significand; a field of 0 in the exponent means subnormal numbers. */
export interface SignedFormat {
  readonly kind: 'signed';
  readonly mantissaBits: number;
  readonly bias: number;
  /** Code of the largest finite number. */
  readonly max: number;
  /** Code of +Inf, if there is one. */
  readonly infinity?: number;
  /** Code that NaN becomes: a NaN, or in a format without any what ONNX's cases have, -0. */
  readonly nan: number;
  /** Numbers saturate whatever is asked for: there is no code for what is too large. */
  readonly finite?: true;
  /** Without a negative zero its code is the one NaN. */
  readonly negativeZero: boolean;
}
/** 2^(code − 127) for the scales of blocks: no sign, no zero, no infinity; 255 is NaN. */
export interface ScaleFormat {
  readonly kind: 'scale';
  readonly bias: number;
  readonly max: number;
  readonly nan: number;
}
export type MiniFloatFormat = SignedFormat | ScaleFormat;

export const miniFloats: { readonly [K in MiniFloatDType]: K extends 'f8e8m0' ? ScaleFormat : SignedFormat } = {
  f8e4m3: { kind: 'signed', mantissaBits: 3, bias: 7, max: 0x7e, nan: 0x7f, negativeZero: true },
  f8e5m2: { kind: 'signed', mantissaBits: 2, bias: 15, max: 0x7b, infinity: 0x7c, nan: 0x7f, negativeZero: true },
  f8e4m3fnuz: { kind: 'signed', mantissaBits: 3, bias: 8, max: 0x7f, nan: 0x80, negativeZero: false },
  f8e5m2fnuz: { kind: 'signed', mantissaBits: 2, bias: 16, max: 0x7f, nan: 0x80, negativeZero: false },
  f8e8m0: { kind: 'scale', bias: 127, max: 254, nan: 255 },
  f4e2m1: { kind: 'signed', mantissaBits: 1, bias: 1, max: 7, nan: 8, finite: true, negativeZero: true },
};

/**
 * How a number becomes a scale of blocks (f8e8m0); the other formats round to nearest even.
 * `up` is away from zero, `down` toward it, `nearest` sends ties up.
 */
export type ScaleRounding = 'up' | 'down' | 'nearest';
export const scaleRoundings: readonly ScaleRounding[] = ['up', 'down', 'nearest'];

export interface MiniFloatRounding {
  /** What is too large, infinities included, becomes the largest number instead of an infinity or NaN. f4e2m1 always does. */
  readonly saturate: boolean;
  /** `up` unless it is said. */
  readonly rounding?: ScaleRounding;
}

/** The code of `x`, rounded once from the double. */
export function encodeMiniFloat(
  dtype: MiniFloatDType,
  x: number,
  { saturate, rounding = 'up' }: MiniFloatRounding,
): number {
  const format: MiniFloatFormat = miniFloats[dtype];
  return format.kind === 'scale'
    ? encodeScale(format, x, saturate, rounding)
    : encodeSigned(format, 1 << (bitsOf(dtype) - 1), x, saturate);
}

function encodeSigned(format: SignedFormat, signBit: number, x: number, saturate: boolean): number {
  const { mantissaBits, bias, max } = format;
  if (Number.isNaN(x)) return format.nan;
  const sign = x < 0 || Object.is(x, -0) ? signBit : 0;
  const magnitude = Math.abs(x);
  const tooLarge =
    saturate || format.finite
      ? sign | max
      : format.infinity === undefined
        ? format.nan | (format.negativeZero ? sign : 0)
        : sign | format.infinity;
  // Far above every format, where the shifts below would wrap.
  if (magnitude >= 2 ** 20) return tooLarge;
  const least = 1 - bias;
  const exponent = Math.max(exponentOf(magnitude), least);
  // A carry out of the significand runs into the exponent field, which is just right.
  const code =
    ((exponent - least) << mantissaBits) + roundTiesToEven((magnitude / 2 ** exponent) * (1 << mantissaBits));
  if (code > max) return tooLarge;
  return code === 0 && !format.negativeZero ? 0 : sign | code;
}

/** What lies outside, zero and negative numbers (which ONNX leaves open) included, saturates or is NaN. */
function encodeScale({ bias, max, nan }: ScaleFormat, x: number, saturate: boolean, rounding: ScaleRounding): number {
  if (Number.isNaN(x)) return nan;
  if (x < 2 ** -bias) return saturate ? 0 : nan;
  if (x === Number.POSITIVE_INFINITY) return saturate ? max : nan;
  const exponent = exponentOf(x);
  const fraction = x / 2 ** exponent - 1;
  const goesUp = rounding === 'up' ? fraction > 0 : rounding === 'nearest' ? fraction >= 0.5 : false;
  const code = exponent + bias + (goesUp ? 1 : 0);
  return code <= max ? code : saturate ? max : nan;
}

/** The value of a code; bits above the format's are not looked at. */
export function decodeMiniFloat(dtype: MiniFloatDType, code: number): number {
  const format: MiniFloatFormat = miniFloats[dtype];
  if (format.kind === 'scale') return (code & 0xff) === format.nan ? Number.NaN : 2 ** ((code & 0xff) - format.bias);
  const signBit = 1 << (bitsOf(dtype) - 1);
  const magnitude = code & (signBit - 1);
  const negative = (code & signBit) !== 0;
  if (!format.negativeZero && negative && magnitude === 0) return Number.NaN;
  const sign = negative ? -1 : 1;
  if (magnitude > format.max) return magnitude === format.infinity ? sign * Number.POSITIVE_INFINITY : Number.NaN;
  const exponent = magnitude >>> format.mantissaBits;
  const mantissa = magnitude & ((1 << format.mantissaBits) - 1);
  const one = 1 << format.mantissaBits;
  const scale = 2 ** (Math.max(exponent, 1) - format.bias - format.mantissaBits);
  return sign * (exponent === 0 ? mantissa : mantissa + one) * scale;
}
