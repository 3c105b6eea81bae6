/**
 * Software f64 on 32-bit words, correctly rounded to nearest even, subnormals kept, NaN canonical.
 *
 * A result is first an exact or sticky significand of 64 bits, then `round` packs it. The layout (leading bit at 62,
 * ten bits below the result's last) follows J. Hauser's SoftFloat; IEEE 754-2019 says what each operation returns.
 */
import { type CompareFn, type KType, type KValue, ktype } from '../types.js';
import { abs64, saturate64, shiftToInteger, type Wide } from './int64.js';
import { type Pair, pairType, type Words } from './words.js';

const f32Type = ktype('f32');
const infinityHigh = 0x7ff00000;
const nan64 = 0x7ff8000000000000n;

const call = (
  w: Words,
  name: string,
  args: readonly KValue[],
  type: KType,
  body: (args: readonly KValue[]) => KValue,
) => w.b.call(`tutti_f64_${name}`, args, type, body);
const callPair = (w: Words, name: string, args: readonly Pair[], body: (args: readonly Pair[]) => Pair): Pair =>
  w.unpack(
    call(
      w,
      name,
      args.map((arg) => w.pack(arg)),
      pairType,
      (params) => w.pack(body(params.map((p) => w.unpack(p)))),
    ),
  );

// --- fields ------------------------------------------------------------------------------------------------------

const sign = (w: Words, a: Pair): KValue => w.and(a.hi, 0x80000000);
const magnitude = (w: Words, a: Pair): Pair => ({ lo: a.lo, hi: w.and(a.hi, 0x7fffffff) });
const exponent = (w: Words, a: Pair): KValue => w.and(w.shr(a.hi, 20), 0x7ff);
const hasNaN = (w: Words, a: Pair): KValue => w.lt64({ lo: w.c(0), hi: w.c(infinityHigh) }, magnitude(w, a));
const isInfinite = (w: Words, a: Pair): KValue =>
  w.is('eq', w.or(w.xor(w.and(a.hi, 0x7fffffff), infinityHigh), a.lo), 0);
const isZero = (w: Words, a: Pair): KValue => w.isZero64(magnitude(w, a));
const infinity = (w: Words, signWord: KValue): Pair => ({ lo: w.c(0), hi: w.or(signWord, infinityHigh) });
const zero = (w: Words, signWord: KValue): Pair => ({ lo: w.c(0), hi: signWord });
const quiet = (w: Words): Pair => w.constant64(nan64);

interface Finite {
  /** Biased exponent, 1 for subnormals; below 1 after normalising one. Two's complement. */
  readonly exponent: KValue;
  readonly significand: Pair;
}

function fields(w: Words, a: Pair): Finite {
  const e = exponent(w, a);
  const subnormal = w.is('eq', e, 0);
  const high = w.and(a.hi, 0xfffff);
  return {
    exponent: w.select(subnormal, w.c(1), e),
    significand: { lo: a.lo, hi: w.select(subnormal, high, w.or(high, 0x100000)) },
  };
}

/** The same with the significand's leading bit at 52, whatever the number (but 0). */
function normalized(w: Words, a: Pair): Finite {
  const { exponent: e, significand } = fields(w, a);
  const shift = w.sub(w.clz64(significand), w.c(11));
  return { exponent: w.sub(e, shift), significand: w.shl64(significand, w.and(shift, 63)) };
}

/**
 * Packs sign, exponent and a significand with its leading bit at 62 (any lower bits if the exponent is ≤ 0 already
 * says so), value = significand · 2^(e - 1022 - 62 - …): the implicit bit adds one to the exponent when it is packed.
 */
function round(w: Words, signWord: KValue, e: KValue, significand: Pair): Pair {
  const packed = call(w, 'pack', [signWord, e, w.pack(significand)], pairType, ([s, ex, m]) => {
    const tiny = w.is('ge', ex, 0x80000000);
    const shifted = w.select64(tiny, w.shrJam64(w.unpack(m), w.select(tiny, w.sub(w.c(0), ex), w.c(0))), w.unpack(m));
    const base = w.select(tiny, w.c(0), ex);
    const rest = w.and(shifted.lo, 0x3ff);
    const kept = w.shr64(shifted, 10);
    const up = w.is('gt', w.add(rest, w.and(kept.lo, 1)), 0x200);
    const mantissa = w.add64(kept, { lo: w.bit(up), hi: w.c(0) });
    const out = { lo: mantissa.lo, hi: w.add(mantissa.hi, w.shl(base, 20)) };
    const overflow = w.either(w.is('ge', base, 0x7fe), w.is('ge', out.hi, infinityHigh));
    const finite = { lo: out.lo, hi: w.or(out.hi, s) };
    return w.pack(w.select64(overflow, infinity(w, s), finite));
  });
  return w.unpack(packed);
}

/** The same for a significand whose leading bit is anywhere, at 62 for exponent `e`. Zero gives zero. */
function normalizeAndRound(w: Words, signWord: KValue, e: KValue, significand: Pair): Pair {
  // A significand of 64 bits moves right by one, jammed.
  const wide = w.is('ge', significand.hi, 0x80000000);
  const jammed = w.or(w.shr64(significand, 1).lo, w.and(significand.lo, 1));
  const halved: Pair = { lo: jammed, hi: w.shr(significand.hi, 1) };
  const shift = w.sub(w.clz64(significand), w.c(1));
  const normal = w.select64(wide, halved, w.shl64(significand, w.and(shift, 63)));
  const out = round(w, signWord, w.sub(e, shift), normal);
  return w.select64(w.isZero64(significand), zero(w, signWord), out);
}

// --- arithmetic --------------------------------------------------------------------------------------------------

export const neg = (w: Words, a: Pair): Pair => ({ lo: a.lo, hi: w.xor(a.hi, 0x80000000) });
export const abs = (w: Words, a: Pair): Pair => magnitude(w, a);

export function add(w: Words, x: Pair, y: Pair): Pair {
  return callPair(w, 'add', [x, y], ([p, q]) => {
    const swap = w.lt64(magnitude(w, p), magnitude(w, q));
    const a = w.select64(swap, q, p);
    const b = w.select64(swap, p, q);
    const [fa, fb] = [fields(w, a), fields(w, b)];
    const same = w.is('lt', w.xor(a.hi, b.hi), 0x80000000);
    const large = w.shl64(fa.significand, 9);
    const small = w.shrJam64(w.shl64(fb.significand, 9), w.sub(fa.exponent, fb.exponent));
    const sum = w.select64(same, w.add64(large, small), w.sub64(large, small));
    const signWord = w.select(w.either(same, w.no(w.isZero64(sum))), sign(w, a), w.c(0));
    const finite = normalizeAndRound(w, signWord, fa.exponent, sum);
    const clash = w.both(isInfinite(w, b), w.no(same));
    const special = w.select64(w.either(hasNaN(w, a), clash), quiet(w), a);
    return w.select64(w.is('ge', w.and(a.hi, 0x7fffffff), infinityHigh), special, finite);
  });
}

export const sub = (w: Words, a: Pair, b: Pair): Pair => add(w, a, neg(w, b));

export function mul(w: Words, x: Pair, y: Pair): Pair {
  return callPair(w, 'mul', [x, y], ([a, b]) => {
    const signWord = w.and(w.xor(a.hi, b.hi), 0x80000000);
    const [fa, fb] = [normalized(w, a), normalized(w, b)];
    const [p3, p2, p1, p0] = w.product64(w.shl64(fa.significand, 10), w.shl64(fb.significand, 11));
    const sticky = w.bit(w.is('ne', w.or(p1, p0), 0));
    const significand = { lo: w.or(p2, sticky), hi: p3 };
    const e = w.sub(w.add(fa.exponent, fb.exponent), w.c(0x3ff));
    const finite = normalizeAndRound(w, signWord, e, significand);
    const anyZero = w.either(isZero(w, a), isZero(w, b));
    const anyInfinite = w.either(isInfinite(w, a), isInfinite(w, b));
    const anyNaN = w.either(hasNaN(w, a), hasNaN(w, b));
    let out = w.select64(anyZero, zero(w, signWord), finite);
    out = w.select64(anyInfinite, infinity(w, signWord), out);
    return w.select64(w.either(anyNaN, w.both(anyInfinite, anyZero)), quiet(w), out);
  });
}

export function div(w: Words, x: Pair, y: Pair): Pair {
  return callPair(w, 'div', [x, y], ([a, b]) => {
    const signWord = w.and(w.xor(a.hi, b.hi), 0x80000000);
    const [fa, fb] = [normalized(w, a), normalized(w, b)];
    // 64 bits of the quotient of significands in [1, 2): the first has weight 1.
    const [ql, qh, rl, rh] = w.b.for(
      0,
      63,
      1,
      [w.c(0), w.c(0), fa.significand.lo, fa.significand.hi],
      (_, [lo, hi, restLow, restHigh]) => {
        const rest = { lo: restLow, hi: restHigh };
        const fits = w.no(w.lt64(rest, fb.significand));
        const next = w.shl64(w.select64(fits, w.sub64(rest, fb.significand), rest), 1);
        const quotient = w.shl64({ lo, hi }, 1);
        return [w.or(quotient.lo, w.bit(fits)), quotient.hi, next.lo, next.hi];
      },
    );
    const sticky = w.bit(w.is('ne', w.or(rl, rh), 0));
    const e = w.add(w.sub(fa.exponent, fb.exponent), w.c(0x3fe));
    const finite = normalizeAndRound(w, signWord, e, { lo: w.or(ql, sticky), hi: qh });
    const [zeroA, zeroB] = [isZero(w, a), isZero(w, b)];
    const [infiniteA, infiniteB] = [isInfinite(w, a), isInfinite(w, b)];
    let out = w.select64(w.either(zeroA, infiniteB), zero(w, signWord), finite);
    out = w.select64(w.either(zeroB, infiniteA), infinity(w, signWord), out);
    const invalid = w.either(w.both(zeroA, zeroB), w.both(infiniteA, infiniteB));
    return w.select64(w.either(invalid, w.either(hasNaN(w, a), hasNaN(w, b))), quiet(w), out);
  });
}

export function sqrt(w: Words, x: Pair): Pair {
  return callPair(w, 'sqrt', [x], ([a]) => {
    const { exponent: e, significand } = normalized(w, a);
    // m · 2^(e - 1023), the power made even: the root has half of it. Digit by digit, two bits of the radicand a step.
    const odd = w.is('eq', w.and(e, 1), 0);
    const radicand = w.select64(odd, w.shl64(significand, 11), w.shl64(significand, 10));
    const [rootLow, rootHigh, restLow, restHigh] = w.b.for(
      0,
      56,
      1,
      [w.c(0), w.c(0), w.c(0), w.c(0), radicand.lo, radicand.hi],
      (_, [rl, rh, sl, sh, xl, xh]) => {
        const rest = w.or64(w.shl64({ lo: sl, hi: sh }, 2), { lo: w.shr(xh, 30), hi: w.c(0) });
        const trial = w.or64(w.shl64({ lo: rl, hi: rh }, 2), { lo: w.c(1), hi: w.c(0) });
        const fits = w.no(w.lt64(rest, trial));
        const next = w.select64(fits, w.sub64(rest, trial), rest);
        const root = w.shl64({ lo: rl, hi: rh }, 1);
        const left = w.shl64({ lo: xl, hi: xh }, 2);
        return [w.or(root.lo, w.bit(fits)), root.hi, next.lo, next.hi, left.lo, left.hi];
      },
    );
    const sticky = w.bit(w.is('ne', w.or(restLow, restHigh), 0));
    const root = w.shl64({ lo: rootLow, hi: rootHigh }, 7);
    const signed = w.signed(w.sub(e, w.select(odd, w.c(1024), w.c(1023))));
    const half = w.unsigned(w.b.binary('shr', signed, w.b.constant(1, 'i32')));
    const finite = round(w, w.c(0), w.add(half, w.c(1022)), { lo: w.or(root.lo, sticky), hi: root.hi });
    let out = w.select64(w.is('ge', a.hi, 0x80000000), quiet(w), finite);
    out = w.select64(w.either(isZero(w, a), w.both(isInfinite(w, a), w.is('lt', a.hi, 0x80000000))), a, out);
    return w.select64(hasNaN(w, a), quiet(w), out);
  });
}

/** Fused: the exact product, 106 bits in 128, meets the addend before the one rounding. */
export function fma(w: Words, x: Pair, y: Pair, z: Pair): Pair {
  return callPair(w, 'fma', [x, y, z], ([a, b, c]) => {
    const signP = w.and(w.xor(a.hi, b.hi), 0x80000000);
    const signC = sign(w, c);
    const [fa, fb, fc] = [normalized(w, a), normalized(w, b), normalized(w, c)];
    // Both as 128-bit numbers; exponent of bit 125 (the product's leading bit is 124 or 125 after the shift).
    const product = w.product64(w.shl64(fa.significand, 10), w.shl64(fb.significand, 10));
    const eP = w.sub(w.add(fa.exponent, fb.exponent), w.c(1022));
    const shiftedC = w.shl64(fc.significand, 10);
    const addend = [
      w.shr(shiftedC.hi, 1),
      w.or(w.shr(shiftedC.lo, 1), w.shl(shiftedC.hi, 31)),
      w.shl(shiftedC.lo, 31),
      w.c(0),
    ];
    // The addend's leading bit is at 125.
    const eC = fc.exponent;
    const none = [w.c(0), w.c(0), w.c(0), w.c(0)];
    const zeroP = w.either(isZero(w, a), isZero(w, b));
    const zeroC = isZero(w, c);
    const pick = (condition: KValue, u: readonly KValue[], v: readonly KValue[]) =>
      u.map((word, i) => w.select(condition, word, v[i]));
    const P = pick(zeroP, none, product);
    const C = pick(zeroC, none, addend);
    const difference = w.sub(eP, eC);
    const productFirst = w.either(zeroC, w.both(w.no(zeroP), w.is('lt', difference, 0x80000000)));
    const e = w.select(productFirst, eP, eC);
    const large = pick(productFirst, P, C);
    const distance = w.select(productFirst, difference, w.sub(w.c(0), difference));
    const small = w.shrJamWords(pick(productFirst, C, P), distance);
    const same = w.is('eq', signP, signC);
    const sum = w.addWords(large, pick(same, small, w.negWords(small)));
    // The smaller exponent may hold the larger number when they are close: the difference is then exact, negate it.
    const negative = w.both(w.no(same), w.is('ge', sum[0], 0x80000000));
    const total = pick(negative, w.negWords(sum), sum);
    const empty = w.isZeroWords(total);
    const first = w.select(productFirst, signP, signC);
    const signSum = w.select(negative, w.xor(first, 0x80000000), first);
    const signWord = w.select(empty, w.select(same, signP, w.c(0)), signSum);
    // Leading bit to 126 of 128, that is to 62 of the upper half.
    const shift = w.sub(w.clzWords(total), w.c(1));
    const normal = w.shlWords(total, w.and(shift, 127));
    const sticky = w.bit(w.is('ne', w.or(normal[2], normal[3]), 0));
    const significand = { lo: w.or(normal[1], sticky), hi: normal[0] };
    // Bit 125 stands for `e`; the leading bit came from 126 - shift, and packing adds one.
    const rounded = round(w, signWord, w.sub(e, shift), significand);
    const finite = w.select64(empty, zero(w, signWord), rounded);
    const infiniteP = w.either(isInfinite(w, a), isInfinite(w, b));
    const infiniteC = isInfinite(w, c);
    let out = w.select64(infiniteC, c, finite);
    out = w.select64(infiniteP, infinity(w, signP), out);
    const clash = w.both(w.both(infiniteP, infiniteC), w.no(same));
    const invalid = w.either(w.both(infiniteP, zeroP), clash);
    const anyNaN = w.either(hasNaN(w, a), w.either(hasNaN(w, b), hasNaN(w, c)));
    return w.select64(w.either(invalid, anyNaN), quiet(w), out);
  });
}

/** a + c rounded to odd (see `oddSumF32`), for numbers far from overflow. */
export function oddSum(w: Words, x: Pair, y: Pair): Pair {
  return callPair(w, 'odd_sum', [x, y], ([a, c]) => {
    const sum = add(w, a, c);
    const part = sub(w, sum, a);
    const error = add(w, sub(w, a, sub(w, sum, part)), sub(w, c, part));
    const finite = w.is('lt', w.and(sum.hi, 0x7fffffff), infinityHigh);
    const even = w.is('eq', w.and(sum.lo, 1), 0);
    const move = w.both(w.both(finite, even), isNonZero(w, error));
    const away = w.add64(sum, w.constant64(1n));
    const toward = w.sub64(sum, w.constant64(1n));
    const same = w.is('lt', w.xor(sum.hi, error.hi), 0x80000000);
    return w.select64(move, w.select64(same, away, toward), sum);
  });
}

/** C's fmod: exact, by one conditional subtraction for each step of the exponent's difference. */
export function rem(w: Words, x: Pair, y: Pair): Pair {
  return callPair(w, 'rem', [x, y], ([a, b]) => {
    const [fa, fb] = [normalized(w, a), normalized(w, b)];
    const signWord = sign(w, a);
    const smaller = w.lt64(magnitude(w, a), magnitude(w, b));
    const invalid = w.either(
      w.either(hasNaN(w, a), hasNaN(w, b)),
      w.either(w.is('ge', exponent(w, a), 0x7ff), isZero(w, b)),
    );
    // Both numbers are finite here or the result is decided: cut the steps.
    const steps = w.select(w.either(invalid, smaller), w.c(0), w.sub(fa.exponent, fb.exponent));
    const [lo, hi] = w.b.loop([fa.significand.lo, fa.significand.hi, steps], ([restLow, restHigh, left]) => {
      const rest = { lo: restLow, hi: restHigh };
      const fits = w.no(w.lt64(rest, fb.significand));
      const reduced = w.select64(fits, w.sub64(rest, fb.significand), rest);
      const more = w.is('ne', left, 0);
      const next = w.select64(more, w.shl64(reduced, 1), reduced);
      return { condition: more, next: [next.lo, next.hi, w.sub(left, w.c(1))] };
    });
    const remainder = normalizeAndRound(w, signWord, fb.exponent, w.shl64({ lo, hi }, 9));
    const finite = w.select64(w.either(smaller, isInfinite(w, b)), a, remainder);
    return w.select64(invalid, quiet(w), finite);
  });
}

// --- comparison --------------------------------------------------------------------------------------------------

export function compare(w: Words, fn: CompareFn, x: Pair, y: Pair): KValue {
  if (fn === 'gt') return compare(w, 'lt', y, x);
  if (fn === 'ge') return compare(w, 'le', y, x);
  if (fn === 'ne') return w.no(compare(w, 'eq', x, y));
  return call(w, fn, [w.pack(x), w.pack(y)], ktype('bool'), ([p, q]) => {
    const [a, b] = [w.unpack(p), w.unpack(q)];
    const ordered = w.no(w.either(hasNaN(w, a), hasNaN(w, b)));
    const zeros = w.both(isZero(w, a), isZero(w, b));
    const equal = w.either(zeros, w.eq64(a, b));
    if (fn === 'eq') return w.both(ordered, equal);
    const less = w.both(w.no(zeros), w.signedLt64(rank(w, a), rank(w, b)));
    return w.both(ordered, fn === 'lt' ? less : w.either(less, equal));
  });
}

/** A signed integer in the order of the numbers, -0 just below +0. */
function rank(w: Words, a: Pair): Pair {
  const fill = w.shr(w.signFill(a.hi), 1);
  return { lo: w.xor(a.lo, w.signFill(a.hi)), hi: w.xor(a.hi, fill) };
}

export function minimum(w: Words, fn: 'min' | 'max', x: Pair, y: Pair): Pair {
  return callPair(w, fn, [x, y], ([a, b]) => {
    const less = w.signedLt64(rank(w, a), rank(w, b));
    const picked = fn === 'min' ? w.select64(less, a, b) : w.select64(less, b, a);
    return w.select64(w.either(hasNaN(w, a), hasNaN(w, b)), quiet(w), picked);
  });
}

// --- to integral numbers -----------------------------------------------------------------------------------------

export function toIntegral(w: Words, fn: 'floor' | 'ceil' | 'round' | 'trunc', x: Pair): Pair {
  return callPair(w, fn, [x], ([a]) => {
    const e = exponent(w, a);
    const integral = w.is('ge', e, 1023 + 52);
    const below = w.is('lt', e, 1023);
    // Fraction bits of |a| ≥ 1: 52 - (e - 1023), in 1 … 52.
    const count = w.select(w.either(integral, below), w.c(1), w.sub(w.c(1023 + 52), e));
    const unit = w.shl64(w.constant64(1n), count);
    const mask = w.sub64(unit, w.constant64(1n));
    const cut = w.and64(a, w.not64(mask));
    const fraction = w.and64(a, mask);
    const inexact = w.no(w.isZero64(fraction));
    const negative = w.is('ge', a.hi, 0x80000000);
    const half = w.shr64(unit, 1);
    let up: KValue;
    let upBelow: KValue;
    const nonzero = w.no(isZero(w, a));
    switch (fn) {
      case 'trunc':
        [up, upBelow] = [w.b.constant(false, 'bool'), w.b.constant(false, 'bool')];
        break;
      case 'floor':
        [up, upBelow] = [w.both(negative, inexact), w.both(negative, nonzero)];
        break;
      case 'ceil':
        [up, upBelow] = [w.both(w.no(negative), inexact), w.both(w.no(negative), nonzero)];
        break;
      case 'round': {
        // The unit's own bit says whether the integer part is odd; for count = 52 it is the exponent's last bit, and
        // 1 is odd while the bias 1023 is too.
        const odd = w.no(w.isZero64(w.and64(a, unit)));
        const tie = w.both(w.eq64(fraction, half), odd);
        up = w.either(w.lt64(half, fraction), tie);
        upBelow = w.lt64(w.constant64(0x3fe0000000000000n), magnitude(w, a));
        break;
      }
      default:
        return fn satisfies never;
    }
    const moved = w.select64(up, w.add64(cut, unit), cut);
    const small = { lo: w.c(0), hi: w.or(sign(w, a), w.select(upBelow, w.c(0x3ff00000), w.c(0))) };
    const out = w.select64(integral, a, w.select64(below, small, moved));
    return w.select64(hasNaN(w, a), quiet(w), out);
  });
}

// --- conversion --------------------------------------------------------------------------------------------------

/** f64 to f32: to nearest even, or to odd (for a second rounding to a shorter format). */
export function toF32(w: Words, x: Pair, rounding: 'even' | 'odd'): KValue {
  return call(w, `to_f32_${rounding}`, [w.pack(x)], f32Type, ([param]) => {
    const a = w.unpack(param);
    const { exponent: e, significand } = fields(w, a);
    // Leading bit at 30 with seven bits below f32's last; the rest is jammed.
    const top = w.shl64(significand, 10);
    const jammed = w.or(top.hi, w.bit(w.is('ne', top.lo, 0)));
    const power = w.sub(e, w.c(1023 - 127 + 1));
    const tiny = w.is('ge', power, 0x80000000);
    const by = w.select(tiny, w.sub(w.c(0), power), w.c(0));
    const far = w.select(w.is('gt', by, 31), w.c(31), by);
    const moved = w.shr(jammed, far);
    const shifted = w.or(moved, w.bit(w.is('ne', w.shl(moved, far), jammed)));
    const rest = w.and(shifted, 0x7f);
    let mantissa = w.shr(shifted, 7);
    if (rounding === 'odd') mantissa = w.or(mantissa, w.bit(w.is('ne', rest, 0)));
    else mantissa = w.add(mantissa, w.bit(w.is('gt', w.add(rest, w.and(mantissa, 1)), 0x40)));
    const base = w.select(tiny, w.c(0), power);
    const packed = w.add(w.shl(base, 23), mantissa);
    const overflow = w.either(w.is('ge', base, 0xfe), w.is('ge', packed, 0x7f800000));
    const limit = rounding === 'odd' ? w.select(isInfinite(w, a), w.c(0x7f800000), w.c(0x7f7fffff)) : w.c(0x7f800000);
    const finite = w.select(overflow, limit, packed);
    const bits = w.select(hasNaN(w, a), w.c(0x7fc00000), w.or(sign(w, a), finite));
    return w.b.bitcast(bits, f32Type);
  });
}

export function fromF32(w: Words, x: KValue): Pair {
  const out = call(w, 'from_f32', [x], pairType, ([param]) => {
    const bits = w.b.bitcast(param, ktype('u32'));
    const signWord = w.and(bits, 0x80000000);
    const rest = w.and(bits, 0x7fffffff);
    const mantissa = w.and(bits, 0x7fffff);
    // A subnormal's significand moves up to the implicit bit.
    const shift = w.sub(w.clz(w.or(mantissa, 1)), w.c(8));
    const safe = w.and(shift, 31);
    const subnormal = w.is('lt', rest, 0x800000);
    const field = w.select(subnormal, w.and(w.shl(mantissa, safe), 0x7fffff), mantissa);
    const e = w.select(subnormal, w.sub(w.c(897), shift), w.add(w.shr(rest, 23), w.c(896)));
    const finite = { lo: w.shl(field, 29), hi: w.or(signWord, w.or(w.shl(e, 20), w.shr(field, 3))) };
    let result = w.select64(w.is('eq', rest, 0), zero(w, signWord), finite);
    result = w.select64(w.is('eq', rest, 0x7f800000), infinity(w, signWord), result);
    return w.pack(w.select64(w.is('gt', rest, 0x7f800000), quiet(w), result));
  });
  return w.unpack(out);
}

export function fromInteger(w: Words, scalar: Wide | 'i32' | 'u32', x: Pair): Pair {
  // 32-bit integers arrive extended to 64 bits: one function serves each signedness.
  const signed = scalar === 'i64' || scalar === 'i32';
  return callPair(w, signed ? 'from_i64' : 'from_u64', [x], ([a]) => {
    const signWord = signed ? w.and(a.hi, 0x80000000) : w.c(0);
    return normalizeAndRound(w, signWord, w.c(1023 + 61), signed ? abs64(w, a) : a);
  });
}

export function toWide(w: Words, scalar: Wide, x: Pair): Pair {
  return callPair(w, `to_${scalar}`, [x], ([a]) => {
    const e = exponent(w, a);
    const significand = { lo: a.lo, hi: w.or(w.and(a.hi, 0xfffff), 0x100000) };
    const whole = shiftToInteger(w, significand, e, 1023, 52);
    return saturate64(w, scalar, whole, w.sub(e, w.c(1023)), w.is('lt', e, 1023), a.hi, hasNaN(w, a));
  });
}

/** f64 to i32 or u32, as a u32 word. */
export function toWord(w: Words, scalar: 'i32' | 'u32', x: Pair): KValue {
  return call(w, `to_${scalar}`, [w.pack(x)], ktype('u32'), ([param]) => {
    const wide = toWide(w, 'i64', w.unpack(param));
    if (scalar === 'u32') {
      const high = w.signed(wide.hi);
      const zero32 = w.b.constant(0, 'i32');
      const negative = w.b.compare('lt', high, zero32);
      return w.select(negative, w.c(0), w.select(w.b.compare('gt', high, zero32), w.c(0xffffffff), wide.lo));
    }
    const fits = w.is('eq', wide.hi, w.signFill(wide.lo));
    const limit = w.select(w.is('ge', wide.hi, 0x80000000), w.c(0x80000000), w.c(0x7fffffff));
    return w.select(fits, wide.lo, limit);
  });
}

export const isNonZero = (w: Words, a: Pair): KValue => w.no(isZero(w, a));
