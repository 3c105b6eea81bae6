/**
 * Sine, cosine, tangent and their inverses. Reduction: M. Payne, R. Hanek, "Radian reduction for trigonometric
 * functions", 1983, in 32-bit integer pieces, so that every finite argument is reduced exactly and without a branch.
 * Inverse functions follow FDLIBM's identities with polynomials of our own.
 */
import type { KernelBuilder } from '../builder.js';
import { type KValue, ktype } from '../types.js';
import type { Calc, Double } from './calc.js';
import { twoOverPi } from './formats.js';

interface Reduced {
  /** x = quadrant · π/2 + high + low, |high| ≤ π/4. The quadrant is 0 … 3, as u32. */
  readonly quadrant: KValue;
  readonly r: Double;
}

/** 32-bit words of an unsigned number, most significant first. */
type Words = readonly KValue[];

const shr = (b: KernelBuilder, a: KValue, n: KValue): KValue => b.binary('shr', a, n);
const shl = (b: KernelBuilder, a: KValue, n: KValue): KValue => b.binary('shl', a, n);

/** high · 2^n + the top n bits of low, for n in 0 … 31. */
function funnel(m: Calc, high: KValue, low: KValue, n: KValue): KValue {
  const rest = shr(m.b, shr(m.b, low, m.word(1)), m.b.sub(m.word(31), n));
  return m.b.or(shl(m.b, high, n), rest);
}

/** The low `count` words of factor · number. */
function multiply(m: Calc, factor: Words, number: Words): Words {
  const { b } = m;
  const count = number.length;
  const sums: KValue[][] = Array.from({ length: count }, () => []);
  // Column i counts from the least significant word.
  for (let i = 0; i < factor.length; i++) {
    for (let j = 0; j < count - i; j++) {
      const [u, v] = [factor[factor.length - 1 - i], number[count - 1 - j]];
      sums[i + j].push(b.mul(u, v));
      if (i + j + 1 < count) sums[i + j + 1].push(b.binary('mulhi', u, v));
    }
  }
  const words: KValue[] = [];
  for (let column = 0; column < count; column++) {
    let [sum, ...others] = sums[column];
    for (const term of others) {
      sum = b.add(sum, term);
      if (column + 1 < count) sums[column + 1].push(b.convert(b.compare('lt', sum, term), 'u32'));
    }
    words.unshift(sum);
  }
  return words;
}

/** Significand (implicit bit included) and unbiased exponent of a finite number of 0.5 or more. */
function significand(m: Calc, x: KValue): { readonly words: Words; readonly exponent: KValue } {
  const { b, lanes, format } = m;
  const bits = m.absBits(x);
  if (format.int === 'i32') {
    const word = b.or(b.and(b.bitcast(bits, ktype('u32', lanes)), m.word(0x7fffff)), m.word(0x800000));
    return { words: [word], exponent: b.sub(b.binary('shr', bits, m.int(23)), m.int(127)) };
  }
  const high = b.convert(b.binary('shr', bits, m.int(32)), 'u32');
  const low = b.convert(bits, 'u32');
  const exponent = b.sub(b.bitcast(shr(b, high, m.word(20)), ktype('i32', lanes)), b.constant(1023, 'i32', lanes));
  return { words: [b.or(b.and(high, m.word(0xfffff)), m.word(0x100000)), low], exponent };
}

/**
 * x / 2π modulo 1 is M · (a window of the bits of 2/π, a quarter-turn scale), where M is the significand: bits of 2/π
 * above the window only add whole turns, bits below are too small to matter.
 */
function reduce(m: Calc, x: KValue): Reduced {
  const { b, lanes, format } = m;
  const wide = format.int === 'i64';
  const tiny = m.is('lt', m.abs(x), m.c(0.75));
  const finite = m.is('lt', m.absBits(x), m.int(m.infinityBits));
  const safe = m.select(m.and(finite, m.not(tiny)), m.abs(x), m.c(1));
  const { words: M, exponent } = significand(m, safe);

  // The window starts so that a step of M is half a turn's 2^-1 at its top bit; leading zero words keep offsets ≥ 0.
  const pad = wide ? 2 : 1;
  const table = [...Array<number>(pad).fill(0), ...twoOverPi];
  const windowWords = wide ? 6 : 3;
  const offset = b.bitcast(
    b.add(exponent, b.constant(32 * pad - format.mantissa - 2, 'i32', lanes)),
    ktype('u32', lanes),
  );
  const largest = (wide ? 1023 : 127) + 32 * pad - format.mantissa - 2;
  const index = shr(b, offset, m.word(5));
  const steps = Math.floor(Math.log2(largest >> 5)) + 1;
  let window: KValue[] = [];
  for (let i = 0; i <= (largest >> 5) + windowWords; i++) window.push(m.word(table[i]));
  for (let step = steps - 1; step >= 0; step--) {
    const taken = m.is('ne', b.and(index, m.word(1 << step)), m.word(0));
    const needed = windowWords + 2 ** step;
    const next: KValue[] = [];
    for (let i = 0; i < needed; i++) {
      const far = window[i + 2 ** step];
      if (window[i] === undefined) break;
      next.push(far === undefined ? window[i] : m.select(taken, far, window[i]));
    }
    window = next;
  }
  const shift = b.and(offset, m.word(31));
  const P = Array.from({ length: windowWords }, (_, i) => funnel(m, window[i], window[i + 1], shift));
  const turns = multiply(m, M, P);

  // Nearest quadrant; what remains is a signed fraction of a turn in two's complement.
  const top = turns[0];
  const quarter = shr(b, b.add(top, m.word(0x20000000)), m.word(30));
  let fraction = [b.sub(top, shl(b, quarter, m.word(30))), ...turns.slice(1, wide ? 4 : 2)];
  const negative = m.is('ge', fraction[0], m.word(0x80000000));
  const flip = m.select(negative, m.word(0xffffffff), m.word(0));
  // The complement is one unit short of the negative: the unit lies far below what counts.
  fraction = fraction.map((word) => b.binary('xor', word, flip));

  // Normalise: whole words first, then bits.
  let exponentOut = m.word(0);
  const kept = wide ? 2 : 1;
  for (let left = fraction.length - kept; left > 0; left--) {
    const zero = m.is('eq', fraction[0], m.word(0));
    fraction = fraction.map((word, i) => m.select(zero, fraction[i + 1] ?? m.word(0), word));
    exponentOut = b.add(exponentOut, m.select(zero, m.word(32), m.word(0)));
  }
  const bits = b.binary('and', b.unary('clz', fraction[0]), m.word(31));
  const normal = Array.from({ length: kept }, (_, i) => funnel(m, fraction[i], fraction[i + 1] ?? m.word(0), bits));
  exponentOut = b.add(exponentOut, bits);

  const size = m.powerOfTwo(b.sub(m.int(0), b.convert(exponentOut, format.int)));
  const float = (word: KValue): KValue => b.convert(word, format.scalar);
  let a: KValue;
  let rest: KValue;
  if (wide) {
    const head = b.and(normal[1], m.word(0xfffff800));
    a = m.add(m.mul(float(normal[0]), m.c(2 ** -32)), m.mul(float(head), m.c(2 ** -64)));
    rest = m.mul(float(b.and(normal[1], m.word(0x7ff))), m.c(2 ** -64));
  } else {
    a = m.mul(float(shr(b, normal[0], m.word(8))), m.c(2 ** -24));
    rest = m.mul(float(b.and(normal[0], m.word(255))), m.c(2 ** -32));
  }
  const product = m.doubleProduct({ high: a, low: rest }, m.pair(format.twoPi));
  const scaled: Double = { high: m.mul(product.high, size), low: m.mul(product.low, size) };

  // Sign of the fraction, then that of x; quadrants count backwards for negative x.
  const fractionSign = m.select(negative, m.signMask, m.int(0));
  const sign = b.binary('xor', fractionSign, m.signBit(x));
  const back = m.select(m.isNegative(x), b.sub(m.word(0), quarter), quarter);
  return {
    quadrant: m.select(tiny, m.word(0), b.and(back, m.word(3))),
    r: {
      high: m.select(tiny, x, m.flipSign(scaled.high, sign)),
      low: m.select(tiny, m.c(0), m.flipSign(scaled.low, sign)),
    },
  };
}

function sinKernel(m: Calc, { high, low }: Double): KValue {
  const z = m.mul(high, high);
  const tail = m.mul(m.mul(high, z), m.polynomial(m.format.polynomials.sin, z));
  return m.add(high, m.add(tail, low));
}

/** 1 - z/2 in two parts, so that the rounding of 1 - z/2 is not lost. */
function cosKernel(m: Calc, { high, low }: Double): KValue {
  const z = m.mul(high, high);
  const half = m.mul(m.c(0.5), z);
  const w = m.sub(m.c(1), half);
  const lost = m.sub(m.sub(m.c(1), w), half);
  const tail = m.mul(m.mul(z, z), m.polynomial(m.format.polynomials.cos, z));
  return m.add(w, m.add(lost, m.sub(tail, m.mul(high, low))));
}

function invalid(m: Calc, x: KValue, result: KValue): KValue {
  return m.select(m.isNaN(x), x, m.select(m.isInfinite(x), m.nan, result));
}

/** sin for a shift of 0 quadrants, cos for 1. */
function circular(m: Calc, x: KValue, quarters: 0 | 1): KValue {
  const { b } = m;
  const { quadrant, r } = reduce(m, x);
  const q = b.add(quadrant, m.word(quarters));
  const odd = m.is('ne', b.and(q, m.word(1)), m.word(0));
  const value = m.select(odd, cosKernel(m, r), sinKernel(m, r));
  const negated = m.select(m.is('ne', b.and(q, m.word(2)), m.word(0)), m.signMask, m.int(0));
  return invalid(m, x, m.flipSign(value, negated));
}

export const sin = (m: Calc, x: KValue): KValue => m.select(m.isZero(x), x, circular(m, x, 0));
export const cos = (m: Calc, x: KValue): KValue => circular(m, x, 1);

export function tan(m: Calc, x: KValue): KValue {
  const { b } = m;
  const { quadrant, r } = reduce(m, x);
  const z = m.mul(r.high, r.high);
  // tan(high + low) = tan high + low·(1 + tan² high)
  const cubic = m.mul(m.mul(r.high, z), m.polynomial(m.format.polynomials.tan, z));
  const t = m.add(r.high, cubic);
  const tail = m.add(cubic, m.mul(r.low, m.add(m.c(1), m.mul(t, t))));
  const value = m.fastSum(r.high, tail);
  // -1 / (high + low), corrected by its own residual.
  const safe = m.select(m.isZero(value.high), m.c(1), value.high);
  const q = m.div(m.c(-1), safe);
  const p = m.product(q, safe);
  const residual = m.add(m.add(m.add(m.c(1), p.high), p.low), m.mul(q, value.low));
  const inverse = m.add(q, m.mul(q, residual));
  const odd = m.is('ne', b.and(quadrant, m.word(1)), m.word(0));
  return m.select(m.isZero(x), x, invalid(m, x, m.select(odd, inverse, value.high)));
}

// --- inverse functions -------------------------------------------------------------------------------------------

/** s = √((1 - a)/2) as a short high part and the rest, for the identities of asin and acos above ½. */
function halfAngle(
  m: Calc,
  a: KValue,
): { readonly z: KValue; readonly s: KValue; readonly head: KValue; readonly rest: KValue } {
  const z = m.mul(m.sub(m.c(1), a), m.c(0.5));
  const s = m.sqrt(z);
  const head = m.float(m.and(m.bits(s), m.int(-(1n << BigInt(m.format.splitBits)))));
  const sum = m.add(s, head);
  const zero = m.isZero(sum);
  const rest = m.div(m.sub(z, m.mul(head, head)), m.select(zero, m.c(1), sum));
  return { z, s, head, rest };
}

const asinRest = (m: Calc, z: KValue): KValue => m.mul(z, m.polynomial(m.format.polynomials.asin, z));

export function asin(m: Calc, x: KValue): KValue {
  const a = m.abs(x);
  const square = m.mul(a, a);
  const small = m.add(a, m.mul(a, asinRest(m, square)));
  const { z, s, head, rest } = halfAngle(m, a);
  const [halfPi, halfPiLow] = m.format.halfPi;
  const quarterPi = m.c(m.format.quarterPi[0]);
  const two = m.c(2);
  const p = m.sub(m.mul(m.mul(two, s), asinRest(m, z)), m.sub(m.c(halfPiLow), m.mul(two, rest)));
  const q = m.sub(quarterPi, m.mul(two, head));
  const large = m.sub(quarterPi, m.sub(p, q));
  let magnitude = m.select(m.is('lt', a, m.c(0.5)), small, large);
  magnitude = m.select(m.is('eq', a, m.c(1)), m.c(halfPi), magnitude);
  const out = m.select(m.is('gt', a, m.c(1)), m.nan, m.withSign(magnitude, x));
  return m.select(m.isNaN(x), x, out);
}

export function acos(m: Calc, x: KValue): KValue {
  const a = m.abs(x);
  const [halfPi, halfPiLow] = m.format.halfPi;
  const small = m.sub(m.c(halfPi), m.sub(x, m.sub(m.c(halfPiLow), m.mul(x, asinRest(m, m.mul(x, x))))));
  const { z, s, head, rest } = halfAngle(m, a);
  const bent = m.mul(asinRest(m, z), s);
  const positive = m.mul(m.c(2), m.add(head, m.add(bent, rest)));
  const negative = m.sub(m.c(m.format.pi[0]), m.mul(m.c(2), m.add(s, m.sub(bent, m.c(halfPiLow)))));
  const large = m.select(m.isNegative(x), negative, positive);
  let out = m.select(m.is('lt', a, m.c(0.5)), small, large);
  out = m.select(m.is('gt', a, m.c(1)), m.nan, out);
  return m.select(m.isNaN(x), x, out);
}

/** atan of a positive number: centred on 0, ½, 1, 3/2 and Inf, whichever is nearest. */
function atanPositive(m: Calc, a: KValue): KValue {
  const { format } = m;
  const c = (v: number) => m.c(v);
  const regions: readonly { from: number; numerator: KValue; denominator: KValue; at: readonly [number, number] }[] = [
    { from: 7 / 16, numerator: m.sub(m.add(a, a), c(1)), denominator: m.add(c(2), a), at: format.atanHalf },
    { from: 11 / 16, numerator: m.sub(a, c(1)), denominator: m.add(a, c(1)), at: format.quarterPi },
    {
      from: 19 / 16,
      numerator: m.sub(a, c(1.5)),
      denominator: m.add(c(1), m.mul(c(1.5), a)),
      at: format.atanThreeHalves,
    },
    { from: 39 / 16, numerator: c(-1), denominator: a, at: format.halfPi },
  ];
  let [numerator, denominator, high, low] = [a, c(1), c(0), c(0)];
  for (const region of regions) {
    const inside = m.is('ge', a, c(region.from));
    numerator = m.select(inside, region.numerator, numerator);
    denominator = m.select(inside, region.denominator, denominator);
    high = m.select(inside, c(region.at[0]), high);
    low = m.select(inside, c(region.at[1]), low);
  }
  const t = m.div(numerator, denominator);
  const z = m.mul(t, t);
  const bend = m.mul(m.mul(t, z), m.polynomial(format.polynomials.atan, z));
  return m.add(high, m.add(t, m.add(bend, low)));
}

export function atan(m: Calc, x: KValue): KValue {
  return m.select(m.isNaN(x), x, m.withSign(atanPositive(m, m.abs(x)), x));
}

/** The angle of the point (x, y); special cases of C99, annex F. */
export function atan2(m: Calc, y: KValue, x: KValue): KValue {
  const { format } = m;
  const [ax, ay] = [m.abs(x), m.abs(y)];
  const zero = m.c(0);
  const xInfinite = m.isInfinite(x);
  const both = m.and(xInfinite, m.isInfinite(y));
  const neither = m.and(m.isZero(x), m.isZero(y));
  const ratio = m.select(both, m.c(1), m.select(neither, zero, m.div(ay, m.select(m.isZero(x), m.c(1), ax))));
  const steep = m.and(m.isZero(x), m.not(m.isZero(y)));
  const first = m.select(steep, m.c(format.halfPi[0]), atanPositive(m, ratio));
  const second = m.sub(m.c(format.pi[0]), m.sub(first, m.c(format.pi[1])));
  const magnitude = m.select(m.and(m.isNegative(x), m.not(steep)), second, first);
  const out = m.withSign(magnitude, y);
  return m.select(m.isNaN(y), y, m.select(m.isNaN(x), x, out));
}
