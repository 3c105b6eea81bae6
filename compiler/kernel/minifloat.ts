/**
 * Floats of 4 and 8 bits in kernels. Their codes are integers to Kernel IR; where a number is wanted they are decoded to
 * f32, which holds every value of every format, and encoded from it, by integer ops, one rounding and one conversion.
 * No float op here meets a subnormal f32, so devices that flush those do not matter (but for the smallest scale, 2⁻¹²⁷).
 *
 * The formats and the meaning of their codes are those of the host (`minifloat.ts`).
 */
import { bitsOf, type MiniFloatDType } from '../dtype.js';
import { type MiniFloatRounding, miniFloats, type ScaleFormat, type SignedFormat } from '../minifloat.js';
import type { KernelBuilder } from './builder.js';
import { type KType, type KValue, ktype } from './types.js';

/** Layout of f32. */
const f32 = { mantissaBits: 23, bias: 127, infinity: 0x7f80_0000, nan: 0x7fc0_0000, magnitude: 0x7fff_ffff };

/** The f32 value of codes in u32 (scalars or vectors; no bits above the code's). */
export function decodeToF32(b: KernelBuilder, dtype: MiniFloatDType, codes: KValue): KValue {
  const type = ktype('f32', codes.type.lanes);
  return b.call(nameOf(`${dtype}_to_f32`, type), [codes], type, ([code]) => {
    const w = new Bits(b, code);
    const format = miniFloats[dtype];
    return b.bitcast(format.kind === 'scale' ? decodeScale(w, format, code) : decodeSigned(w, dtype, code), type);
  });
}

/** The codes of f32 values, in u32. */
export function encodeF32(
  b: KernelBuilder,
  dtype: MiniFloatDType,
  values: KValue,
  { saturate, rounding = 'up' }: MiniFloatRounding,
): KValue {
  const format = miniFloats[dtype];
  const type = ktype('u32', values.type.lanes);
  const variant = `${saturate ? '_sat' : ''}${format.kind === 'scale' ? `_${rounding}` : ''}`;
  return b.call(nameOf(`f32_to_${dtype}${variant}`, type), [values], type, ([value]) => {
    const bits = b.bitcast(value, type);
    const w = new Bits(b, bits);
    const magnitude = w.and(bits, f32.magnitude);
    return format.kind === 'scale'
      ? encodeScale(w, format, bits, magnitude, saturate, rounding)
      : encodeSigned(w, dtype, bits, magnitude, saturate);
  });
}

const nameOf = (what: string, { lanes }: KType): string => `tutti_${what}${lanes === 1 ? '' : `x${lanes}`}`;

/** u32 arithmetic with constants as wide as the values. */
class Bits {
  constructor(
    readonly b: KernelBuilder,
    private readonly like: KValue,
  ) {}

  c(value: number): KValue {
    return this.b.constant(value >>> 0, 'u32', this.like.type.lanes);
  }
  and(a: KValue, mask: number): KValue {
    return this.b.and(a, this.c(mask));
  }
  shl(a: KValue, by: number): KValue {
    return this.b.binary('shl', a, this.c(by));
  }
  shr(a: KValue, by: number): KValue {
    return this.b.binary('shr', a, this.c(by));
  }
  add(a: KValue, value: number): KValue {
    return this.b.add(a, this.c(value));
  }
  is(fn: 'eq' | 'lt' | 'gt' | 'ge', a: KValue, value: number): KValue {
    return this.b.compare(fn, a, this.c(value));
  }
  select(condition: KValue, a: KValue | number, b: KValue | number): KValue {
    const value = (v: KValue | number) => (typeof v === 'number' ? this.c(v) : v);
    return this.b.select(condition, value(a), value(b));
  }
}

function decodeSigned(w: Bits, dtype: MiniFloatDType, code: KValue): KValue {
  const { b } = w;
  const { mantissaBits, bias, max, infinity, negativeZero } = miniFloats[dtype] as SignedFormat;
  const signAt = bitsOf(dtype) - 1;
  const sign = w.shl(w.shr(code, signAt), 31);
  const magnitude = w.and(code, 2 ** signAt - 1);
  // The exponent moves to f32's place and takes its bias.
  const normal = w.add(w.shl(magnitude, f32.mantissaBits - mantissaBits), (f32.bias - bias) << f32.mantissaBits);
  const lanes = code.type.lanes;
  const least = b.constant(2 ** (1 - bias - mantissaBits), 'f32', lanes);
  const subnormal = b.bitcast(b.mul(b.convert(magnitude, 'f32'), least), ktype('u32', lanes));
  let bits = w.select(w.is('lt', magnitude, 2 ** mantissaBits), subnormal, normal);
  if (max < 2 ** signAt - 1) {
    bits = w.select(w.is('gt', magnitude, max), f32.nan, bits);
    if (infinity !== undefined) bits = w.select(w.is('eq', magnitude, infinity), f32.infinity, bits);
  }
  const signed = b.or(bits, sign);
  return negativeZero ? signed : w.select(w.is('eq', code, 2 ** signAt), f32.nan, signed);
}

function encodeSigned(w: Bits, dtype: MiniFloatDType, bits: KValue, magnitude: KValue, saturate: boolean): KValue {
  const { b } = w;
  const { mantissaBits, bias, max, infinity, nan, finite, negativeZero } = miniFloats[dtype] as SignedFormat;
  const lanes = bits.type.lanes;
  const signAt = bitsOf(dtype) - 1;
  const drop = f32.mantissaBits - mantissaBits;
  // To nearest even: half of the last place less one, and one more where the last bit kept is odd.
  const odd = w.and(w.shr(magnitude, drop), 1);
  const rounded = w.shr(b.add(w.add(magnitude, 2 ** (drop - 1) - 1), odd), drop);
  const normal = w.add(rounded, -((f32.bias - bias) << mantissaBits));
  // Below the smallest normal number codes count multiples of the smallest number; a carry gives the next code.
  const value = b.bitcast(magnitude, ktype('f32', lanes));
  const counts = b.unary('round', b.mul(value, b.constant(2 ** (bias - 1 + mantissaBits), 'f32', lanes)));
  const isSmall = w.is('lt', magnitude, (f32.bias + 1 - bias) << f32.mantissaBits);
  // A large value must not reach the conversion, where it would wrap on some devices.
  const small = b.convert(b.select(isSmall, counts, b.constant(0, 'f32', lanes)), 'u32');
  const code = b.select(isSmall, small, normal);
  const sign = w.shl(w.shr(bits, 31), signAt);
  let result = b.or(sign, code);
  const above = saturate || finite ? max : (infinity ?? nan);
  // Without a negative zero the one NaN is in its place, whatever the sign.
  const beyond = above === nan && !negativeZero ? w.c(above) : b.or(sign, w.c(above));
  result = w.select(w.is('gt', code, max), beyond, result);
  if (!negativeZero) result = w.select(w.is('eq', code, 0), 0, result);
  return w.select(w.is('gt', magnitude, f32.infinity), nan, result);
}

function decodeScale(w: Bits, { nan }: ScaleFormat, code: KValue): KValue {
  // Its exponent is f32's; the smallest is a subnormal there.
  const bits = w.select(w.is('eq', code, 0), 2 ** (f32.mantissaBits - 1), w.shl(code, f32.mantissaBits));
  return w.select(w.is('eq', code, nan), f32.nan, bits);
}

function encodeScale(
  w: Bits,
  { max, nan }: ScaleFormat,
  bits: KValue,
  magnitude: KValue,
  saturate: boolean,
  rounding: NonNullable<MiniFloatRounding['rounding']>,
): KValue {
  const { b } = w;
  const least = 2 ** (f32.mantissaBits - 1);
  const one = 2 ** f32.mantissaBits;
  const exponent = w.shr(magnitude, f32.mantissaBits);
  // From 2⁻¹²⁷ to 2⁻¹²⁶ f32 is subnormal: its leading one is the top bit of the fraction.
  const fraction = w.select(w.is('lt', magnitude, one), w.shl(magnitude, 1), magnitude);
  const rest = w.and(fraction, one - 1);
  const goesUp = rounding === 'down' ? undefined : rounding === 'up' ? w.is('gt', rest, 0) : w.is('ge', rest, least);
  const code = goesUp ? b.add(exponent, b.convert(goesUp, 'u32')) : exponent;
  const inside = w.select(w.is('gt', code, max), saturate ? max : nan, code);
  const below = b.or(w.is('lt', magnitude, least), w.is('gt', bits, f32.magnitude));
  const result = w.select(below, saturate ? 0 : nan, inside);
  return w.select(w.is('gt', magnitude, f32.infinity), nan, result);
}
