/** 64-bit integers on 32-bit words: division, and conversion from and to f32 (f64: see `float64.ts`). */
import { type KValue, ktype, type ScalarType } from '../types.js';
import { type Pair, pairType, type Words } from './words.js';

export type Wide = 'i64' | 'u64';
const callPair = (w: Words, name: string, args: readonly Pair[], body: (args: readonly Pair[]) => Pair): Pair =>
  w.unpack(
    w.b.call(
      name,
      args.map((arg) => w.pack(arg)),
      pairType,
      (params) => w.pack(body(params.map((p) => w.unpack(p)))),
    ),
  );

/** Two's complement absolute value; the smallest number becomes 2^63. */
export function abs64(w: Words, a: Pair): Pair {
  const fill = w.signFill(a.hi);
  const filled = { lo: fill, hi: fill };
  return w.sub64(w.xor64(a, filled), filled);
}
const negateIf = (w: Words, fill: KValue, a: Pair): Pair => {
  const filled = { lo: fill, hi: fill };
  return w.sub64(w.xor64(a, filled), filled);
};

/** Restoring division, one bit a step; numbers below 2^32 divide in one instruction. */
function divmod(w: Words, part: 'div' | 'rem', a: Pair, d: Pair): Pair {
  return callPair(w, `tutti_${part}_u64`, [a, d], ([n, divisor]) => {
    const { b } = w;
    const small = w.is('eq', w.or(n.hi, divisor.hi), 0);
    const results = b.if(
      small,
      () => [b.binary(part, n.lo, divisor.lo), w.c(0)],
      () => {
        // The dividend moves left into the remainder; quotient bits follow it in.
        const [qlo, qhi, rlo, rhi] = b.for(0, 64, 1, [n.lo, n.hi, w.c(0), w.c(0)], (_, [xl, xh, rl, rh]) => {
          const overflow = w.is('ne', w.shr(rh, 31), 0);
          const shifted = { lo: w.or(w.shl(rl, 1), w.shr(xh, 31)), hi: w.or(w.shl(rh, 1), w.shr(rl, 31)) };
          const fits = w.either(overflow, w.no(w.lt64(shifted, divisor)));
          const rest = w.select64(fits, w.sub64(shifted, divisor), shifted);
          const quotient = w.shl64({ lo: xl, hi: xh }, 1);
          return [w.or(quotient.lo, w.bit(fits)), quotient.hi, rest.lo, rest.hi];
        });
        return part === 'div' ? [qlo, qhi] : [rlo, rhi];
      },
    );
    return { lo: results[0], hi: results[1] };
  });
}

export function divide64(w: Words, scalar: Wide, part: 'div' | 'rem', a: Pair, b: Pair): Pair {
  if (scalar === 'u64') return divmod(w, part, a, b);
  const unsigned = divmod(w, part, abs64(w, a), abs64(w, b));
  const sign = w.signFill(part === 'div' ? w.xor(a.hi, b.hi) : a.hi);
  return negateIf(w, sign, unsigned);
}

/** i64 or u64 to f32, rounding to nearest even, or to odd (for a second rounding to a shorter format). */
export function toF32(w: Words, scalar: Wide, a: Pair, rounding: 'even' | 'odd'): KValue {
  return w.b.call(`tutti_${scalar}_to_f32_${rounding}`, [w.pack(a)], ktype('f32'), ([param]) => {
    const value = w.unpack(param);
    const sign = scalar === 'i64' ? w.and(value.hi, 0x80000000) : w.c(0);
    const magnitude = scalar === 'i64' ? abs64(w, value) : value;
    const zeros = w.clz64(magnitude);
    const normal = w.shl64(magnitude, w.and(zeros, 63));
    // 24 bits stay above bit 8 of the high word.
    const sticky = w.bit(w.is('ne', w.or(w.and(normal.hi, 0xff), normal.lo), 0));
    let mantissa = w.shr(normal.hi, 8);
    if (rounding === 'odd') mantissa = w.or(mantissa, sticky);
    else {
      const rest = w.or(w.shl(w.and(normal.hi, 0xff), 1), w.bit(w.is('ne', normal.lo, 0)));
      mantissa = w.add(mantissa, w.bit(w.is('gt', w.add(rest, w.and(mantissa, 1)), 0x100)));
    }
    // The implicit bit adds one to the exponent field, and so does a carry out of the rounding.
    const exponent = w.shl(w.sub(w.c(126 + 63), zeros), 23);
    const bits = w.or(w.add(exponent, mantissa), sign);
    return w.b.bitcast(w.select(w.isZero64(value), w.c(0), bits), ktype('f32'));
  });
}

/** f32 to i64 or u64: truncates, saturates, NaN gives 0. */
export function fromF32(w: Words, scalar: Wide, x: KValue): Pair {
  const out = w.b.call(`tutti_f32_to_${scalar}`, [x], pairType, ([param]) => {
    const bits = w.b.bitcast(param, ktype('u32'));
    const exponent = w.and(w.shr(bits, 23), 0xff);
    const mantissa = w.or(w.and(bits, 0x7fffff), 0x800000);
    const magnitude = shiftToInteger(w, { lo: mantissa, hi: w.c(0) }, exponent, 127, 23);
    const nan = w.is('gt', w.and(bits, 0x7fffffff), 0x7f800000);
    return w.pack(saturate64(w, scalar, magnitude, w.sub(exponent, w.c(127)), w.is('lt', exponent, 127), bits, nan));
  });
  return w.unpack(out);
}

/** significand · 2^(exponent - bias - digits), truncated, for exponents of up to bias + 63. */
export function shiftToInteger(w: Words, significand: Pair, exponent: KValue, bias: number, digits: number): Pair {
  const split = w.c(bias + digits);
  const left = w.is('ge', exponent, split);
  const up = w.and(w.sub(exponent, split), 63);
  const down = w.sub(split, exponent);
  const far = w.is('gt', down, 63);
  const right = w.select64(far, w.zero64, w.shr64(significand, w.and(down, 63)));
  return w.select64(left, w.shl64(significand, up), right);
}

/** Clamps sign and magnitude to the type; `power` is the unbiased exponent, meaningless if `fraction` (|x| < 1). */
export function saturate64(
  w: Words,
  scalar: Wide,
  magnitude: Pair,
  power: KValue,
  fraction: KValue,
  signWord: KValue,
  nan: KValue,
): Pair {
  const negative = w.is('ge', signWord, 0x80000000);
  const whole = w.no(fraction);
  let out: Pair;
  if (scalar === 'i64') {
    const large = w.both(whole, w.is('ge', power, 63));
    const limit = w.select64(negative, w.constant64(1n << 63n), w.constant64((1n << 63n) - 1n));
    out = w.select64(large, limit, negateIf(w, w.signFill(signWord), magnitude));
  } else {
    const large = w.both(whole, w.is('ge', power, 64));
    out = w.select64(large, w.constant64((1n << 64n) - 1n), magnitude);
    out = w.select64(negative, w.zero64, out);
  }
  return w.select64(w.either(nan, fraction), w.zero64, out);
}

export const isWideInteger = (scalar: ScalarType): scalar is Wide => scalar === 'i64' || scalar === 'u64';
