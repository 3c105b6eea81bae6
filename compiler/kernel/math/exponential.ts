/**
 * exp, log and what is made of them. Formulas: W. J. Cody, W. Waite, "Software Manual for the Elementary Functions"
 * (argument reduction) and FDLIBM's derivations of the logarithm and its correction terms.
 *
 * Worst errors found by test/unit/math.test.ts, in ulp (f32, f64) are asserted there; bounds are in `math.ts`.
 */
import type { KValue } from '../types.js';
import type { Calc, Double } from './calc.js';

// --- exp ---------------------------------------------------------------------------------------------------------

interface Reduced {
  /** e^x = 2^n · significand, n an integral float. */
  readonly n: KValue;
  readonly significand: KValue;
}

/** e^(r + c) - 1 for |r| ≤ ln 2 / 2 and a correction c. */
function expTail(m: Calc, r: KValue, c: KValue): KValue {
  const square = m.mul(r, r);
  return m.add(r, m.multiplyAdd(square, m.polynomial(m.format.polynomials.exp, r), c));
}

function reduceExp(m: Calc, x: KValue): Reduced {
  const { inverseLn2, ln2Short } = m.format;
  const n = m.b.unary('round', m.mul(x, m.c(inverseLn2[0])));
  const high = m.multiplyAdd(n, m.c(-ln2Short[0]), x);
  const minusLow = m.c(-ln2Short[1]);
  const r = m.multiplyAdd(n, minusLow, high);
  // With one rounding a step, Horner's scheme is as good to the end.
  if (m.dialect.fused) return { n, significand: m.polynomial([1, 1, ...m.format.polynomials.exp], r) };
  return { n, significand: m.add(m.c(1), expTail(m, r, m.multiplyAdd(n, minusLow, m.sub(high, r)))) };
}

export function exp(m: Calc, x: KValue): KValue {
  const { n, significand } = reduceExp(m, m.cut(x, ...m.format.expLimits));
  return m.keepNaN(x, m.scale(significand, n));
}

/** e^x / 2, which overflows only where sinh and cosh do. */
function halfExp(m: Calc, x: KValue): KValue {
  const { n, significand } = reduceExp(m, m.cut(x, m.format.expLimits[0], m.format.expLimits[1] + 1));
  return m.scale(significand, m.sub(n, m.c(1)));
}

export function exp2(m: Calc, x: KValue): KValue {
  const cut = m.cut(x, ...m.format.exp2Limits);
  const n = m.b.unary('round', cut);
  const r = m.mul(m.sub(cut, n), m.c(m.format.ln2[0]));
  const power = m.scale(m.add(m.c(1), expTail(m, r, m.mul(m.sub(cut, n), m.c(m.format.ln2[1])))), n);
  return m.keepNaN(x, power);
}

export function sinh(m: Calc, x: KValue): KValue {
  const a = m.abs(x);
  const t = halfExp(m, a);
  const large = m.sub(t, m.div(m.c(0.25), t));
  const z = m.mul(x, x);
  const small = m.multiplyAdd(m.mul(a, z), m.polynomial(m.format.polynomials.sinh, z), a);
  const magnitude = m.select(m.is('lt', a, m.c(1)), small, large);
  return m.keepNaN(x, m.withSign(magnitude, x));
}

export function cosh(m: Calc, x: KValue): KValue {
  const t = halfExp(m, m.abs(x));
  return m.keepNaN(x, m.add(t, m.div(m.c(0.25), t)));
}

export function tanh(m: Calc, x: KValue): KValue {
  const a = m.abs(x);
  // Beyond 22 the result is 1 in either format, and e^2x still finite.
  const t = halfExp(m, m.mul(m.c(2), m.cut(a, 0, 22)));
  const large = m.sub(m.c(1), m.div(m.c(1), m.add(t, m.c(0.5))));
  const z = m.mul(a, a);
  const small = m.multiplyAdd(m.mul(a, z), m.polynomial(m.format.polynomials.tanh, z), a);
  const magnitude = m.select(m.is('lt', a, m.c(0.6)), small, large);
  return m.keepNaN(x, m.withSign(magnitude, x));
}

/** erf x = x + x·P(x²) below 1, 1 - e^(-Q(x)) above, Q fitted to the logarithm of the complement. */
export function erf(m: Calc, x: KValue): KValue {
  const { erfLimit, polynomials } = m.format;
  const a = m.abs(x);
  const small = m.multiplyAdd(a, m.polynomial(polynomials.erf, m.mul(a, a)), a);
  const cut = m.cut(a, 1, erfLimit);
  const complement = m.polynomial(polynomials.erfc, m.sub(cut, m.c(1)));
  const { n, significand } = reduceExp(m, m.b.unary('neg', complement));
  const large = m.sub(m.c(1), m.scaleNormal(significand, n));
  const magnitude = m.select(m.is('lt', a, m.c(1)), small, m.select(m.is('ge', a, m.c(erfLimit)), m.c(1), large));
  return m.keepNaN(x, m.withSign(magnitude, x));
}

// --- log ---------------------------------------------------------------------------------------------------------

interface Split {
  /** x = 2^k · (1 + f), √½ ≤ 1 + f < √2. */
  readonly k: KValue;
  readonly f: KValue;
}

/** Splits a positive finite number; subnormals are read as integers, which no device flushes. */
function splitExponent(m: Calc, x: KValue): Split {
  const { mantissa, bias } = m.format;
  const bits = m.bits(x);
  const subnormal = m.is('lt', bits, m.int(1n << BigInt(mantissa)));
  const normal = m.select(subnormal, m.bits(m.fromInt(bits)), bits);
  const offset = m.select(subnormal, m.int(-(bias + mantissa - 1)), m.int(0));
  // Adding the distance from √½ to 1 carries into the exponent exactly where the significand is √2 or more.
  const one = BigInt(bias) << BigInt(mantissa);
  const rootHalf = m.format.int === 'i64' ? 0x3fe6a09e667f3bcdn : 0x3f3504f3n;
  const shifted = m.add(normal, m.int(one - rootHalf));
  const k = m.sub(m.b.binary('shr', shifted, m.int(mantissa)), m.int(bias));
  const fraction = m.and(shifted, m.int((1n << BigInt(mantissa)) - 1n));
  const f = m.sub(m.float(m.add(fraction, m.int(rootHalf))), m.c(1));
  return { k: m.add(k, offset), f };
}

/** ln(1 + f) = f - (f²/2 - s·(f²/2 + R)) with s = f / (2 + f): the parts. */
function logParts(m: Calc, f: KValue): { readonly halfSquare: KValue; readonly rest: KValue } {
  const s = m.div(f, m.add(m.c(2), f));
  const z = m.mul(s, s);
  const halfSquare = m.mul(m.mul(m.c(0.5), f), f);
  const R = m.mul(z, m.polynomial(m.format.polynomials.log, z));
  return { halfSquare, rest: m.mul(s, m.add(halfSquare, R)) };
}

/** ln(u) + correction for positive finite u. */
function logCore(m: Calc, u: KValue, correction: KValue): KValue {
  const { k, f } = splitExponent(m, u);
  const exponent = m.fromInt(k);
  const { halfSquare, rest } = logParts(m, f);
  const [high, low] = m.format.ln2Short;
  const tail = m.add(rest, m.add(m.mul(exponent, m.c(low)), correction));
  return m.sub(m.mul(exponent, m.c(high)), m.sub(m.sub(halfSquare, tail), f));
}

/** Values outside (0, Inf): log 0 = -Inf, log of a negative is NaN, Inf and NaN stay. */
function logSpecials(m: Calc, x: KValue, result: KValue): KValue {
  let out = m.select(m.isInfinite(x), m.infinity, result);
  out = m.select(m.isNegative(x), m.nan, out);
  out = m.select(m.isZero(x), m.c(Number.NEGATIVE_INFINITY), out);
  return m.select(m.isNaN(x), x, out);
}

export function log(m: Calc, x: KValue): KValue {
  return logSpecials(m, x, logCore(m, x, m.c(0)));
}

export function log2(m: Calc, x: KValue): KValue {
  const { k, f } = splitExponent(m, x);
  const { halfSquare, rest } = logParts(m, f);
  // high + low = ln(1 + f), high short enough that its product with the short half of 1/ln 2 is exact.
  const cut = (v: KValue) => m.float(m.and(m.bits(v), m.int(-(1n << BigInt(m.format.splitBits)))));
  const high = cut(m.sub(f, halfSquare));
  const low = m.add(m.sub(m.sub(f, high), halfSquare), rest);
  const [inverse, inverseLow] = shortInverseLn2(m);
  const main = m.mul(high, inverse);
  const minor = m.add(m.mul(m.add(high, low), inverseLow), m.mul(low, inverse));
  const exponent = m.fromInt(k);
  const sum = m.fastSum(exponent, main);
  return logSpecials(m, x, m.add(sum.high, m.add(sum.low, minor)));
}

/** 1/ln 2 = short + rest, the short part with as many bits as the high half of a split number. */
function shortInverseLn2(m: Calc): readonly [KValue, KValue] {
  const [high, low] = m.format.inverseLn2;
  const scale = 2 ** (m.format.mantissa - m.format.splitBits);
  const short = Math.floor(high * scale) / scale;
  return [m.c(short), m.c(high - short + low)];
}

/** ln(1 + x) for x > -1: the rounding error of 1 + x is made up for by its relative size. */
function log1p(m: Calc, x: KValue): KValue {
  const one = m.c(1);
  const u = m.add(one, x);
  const small = m.is('lt', m.abs(x), one);
  const error = m.sub(m.select(small, x, one), m.sub(u, m.select(small, one, x)));
  return logCore(m, u, m.div(error, u));
}

export function asinh(m: Calc, x: KValue): KValue {
  const a = m.abs(x);
  const one = m.c(1);
  const bound = 2 ** (((m.format.mantissa + 7) / 2) | 0);
  const huge = m.is('gt', a, m.c(bound));
  // asinh a = ln(1 + a + a² / (1 + √(1 + a²))), and ln a + ln 2 where a² drowns 1.
  const moderate = m.select(huge, one, a);
  const square = m.mul(moderate, moderate);
  const t = m.add(moderate, m.div(square, m.add(one, m.sqrt(m.add(one, square)))));
  const large = m.add(logCore(m, m.select(huge, a, one), m.c(m.format.ln2[1])), m.c(m.format.ln2[0]));
  const magnitude = m.select(huge, large, log1p(m, t));
  const tiny = m.is('lt', a, m.c(2 ** -((m.format.mantissa / 2 + 2) | 0)));
  const out = m.withSign(m.select(tiny, a, magnitude), x);
  return m.select(m.or(m.isNaN(x), m.isInfinite(x)), x, out);
}

export function acosh(m: Calc, x: KValue): KValue {
  const one = m.c(1);
  const huge = m.is('gt', x, m.c(2 ** (((m.format.mantissa + 7) / 2) | 0)));
  const t = m.sub(m.select(huge, one, x), one);
  const root = m.sqrt(m.mul(t, m.add(t, m.c(2))));
  const large = m.add(logCore(m, m.select(huge, x, one), m.c(m.format.ln2[1])), m.c(m.format.ln2[0]));
  let out = m.select(huge, large, log1p(m, m.add(t, root)));
  out = m.select(m.is('lt', x, one), m.nan, out);
  out = m.select(m.isInfinite(x), m.select(m.isNegative(x), m.nan, x), out);
  return m.select(m.isNaN(x), x, out);
}

export function atanh(m: Calc, x: KValue): KValue {
  const a = m.abs(x);
  const one = m.c(1);
  const inside = m.is('lt', a, one);
  const safe = m.select(inside, a, m.c(0.5));
  const twice = m.add(safe, safe);
  const half = m.mul(m.c(0.5), log1p(m, m.div(twice, m.sub(one, safe))));
  const tiny = m.is('lt', a, m.c(2 ** -((m.format.mantissa / 2 + 2) | 0)));
  const edge = m.select(m.is('eq', a, one), m.infinity, m.nan);
  const magnitude = m.select(inside, m.select(tiny, a, half), edge);
  return m.select(m.isNaN(x), x, m.select(m.is('gt', a, one), m.nan, m.withSign(magnitude, x)));
}

// --- pow ---------------------------------------------------------------------------------------------------------

/** log2 of a positive finite number as an unevaluated sum good to about 30 (f32) or 65 (f64) bits. */
function doubleLog2(m: Calc, x: KValue): Double {
  const { k, f } = splitExponent(m, x);
  const one = m.c(1);
  // s = f / (2 + f) with its remainder.
  const base = m.add(f, one);
  const d = m.fastSum(one, base);
  const s = m.div(f, d.high);
  const p = m.product(s, d.high);
  const remainder = m.sub(m.sub(m.sub(f, p.high), p.low), m.mul(s, d.low));
  const quotient: Double = { high: s, low: m.div(remainder, d.high) };
  const { logTail } = m.format.polynomials;
  let cubic: Double;
  if (logTail.length > 0) {
    // s³·(2/3 + z·P(z)), the product in double precision too.
    const z = m.doubleProduct(quotient, quotient);
    const { high, low } = m.pair(m.format.twoThirds);
    const factor = m.fastSum(high, m.add(low, m.mul(z.high, m.polynomial(logTail, z.high))));
    cubic = m.doubleProduct(m.doubleProduct(quotient, z), factor);
  } else {
    const z = m.mul(s, s);
    cubic = { high: m.mul(m.mul(s, z), m.polynomial(m.format.polynomials.log, z)), low: m.c(0) };
  }
  const two = m.c(2);
  const main = m.fastSum(m.mul(two, s), cubic.high);
  const ln: Double = m.fastSum(main.high, m.add(main.low, m.add(m.mul(two, quotient.low), cubic.low)));
  const scaled = m.doubleProduct(ln, m.pair(m.format.inverseLn2));
  const total = m.fastSum(m.fromInt(k), scaled.high);
  return m.fastSum(total.high, m.add(total.low, scaled.low));
}

/** x^y = 2^(y · log2 |x|), the product in twice the precision; special cases of C99, annex F. */
export function pow(m: Calc, x: KValue, y: KValue): KValue {
  const { powLimit, exp2Limits, ln2 } = m.format;
  const one = m.c(1);
  const a = m.abs(x);
  const finite = m.is('lt', m.absBits(x), m.int(m.infinityBits));
  const regular = m.and(finite, m.not(m.isZero(x)));
  const logarithm = doubleLog2(m, m.select(regular, a, one));
  const exponent = m.cut(y, -powLimit, powLimit);
  const p = m.product(exponent, logarithm.high);
  const cut = m.cut(p.high, ...exp2Limits);
  const inRange = m.is('eq', cut, p.high);
  const low = m.select(inRange, m.add(p.low, m.mul(exponent, logarithm.low)), m.c(0));
  const n = m.b.unary('round', cut);
  const g = m.sub(cut, n);
  const sum = m.fastSum(g, low);
  const scaled = m.product(sum.high, m.c(ln2[0]));
  const correction = m.add(scaled.low, m.add(m.mul(sum.high, m.c(ln2[1])), m.mul(sum.low, m.c(ln2[0]))));
  let magnitude = m.scale(m.add(one, expTail(m, scaled.high, correction)), n);

  const yNegative = m.isNegative(y);
  const zero = m.c(0);
  magnitude = m.select(m.isInfinite(x), m.select(yNegative, zero, m.infinity), magnitude);
  magnitude = m.select(m.isZero(x), m.select(yNegative, m.infinity, zero), magnitude);

  // Every float of 2^(mantissa + 1) or more is an even integer, and so are infinities for C's purposes.
  const half = m.mul(m.c(0.5), y);
  const integer = m.is('eq', m.b.unary('floor', y), y);
  const odd = m.and(integer, m.is('ne', m.b.unary('floor', half), half));
  const negative = m.isNegative(x);
  let out = m.select(m.and(negative, odd), m.flipSign(magnitude, m.signMask), magnitude);
  out = m.select(m.and(m.and(negative, regular), m.not(integer)), m.nan, out);
  out = m.select(m.is('eq', y, m.c(2)), m.mul(x, x), m.select(m.is('eq', y, one), x, out));
  out = m.select(m.isNaN(y), y, m.select(m.isNaN(x), x, out));
  return m.select(m.or(m.isZero(y), m.is('eq', m.bits(x), m.bits(one))), one, out);
}
