/**
 * Shorthand for writing float formulas on the kernel builder: constants of the right type and width, bit patterns,
 * polynomials and unevaluated sums of two floats. Everything is branch-free.
 *
 * Tests for NaN, zero and infinity look at the bits: a device may be lax about NaN in comparisons and may flush
 * subnormals, but integers mean what they say everywhere.
 */
import type { KernelBuilder } from '../builder.js';
import { type CompareFn, type KValue, ktype, type Lanes } from '../types.js';
import type { Format, Pair } from './formats.js';

/** A value as the unevaluated sum of two floats; the first is the rounded sum. */
export interface Double {
  readonly high: KValue;
  readonly low: KValue;
}

/** What a target's arithmetic lets formulas leave out. */
export interface Dialect {
  /** Multiply-adds with one rounding are as fast as products. */
  readonly fused: boolean;
  /** NaN goes through arithmetic and comparisons as IEEE 754 says. */
  readonly propagatesNaN: boolean;
  /** Scaling by a power of two is a helper of its own, for which the target may have an instruction. */
  readonly scales: boolean;
}

/** For targets that promise nothing. */
export const portable: Dialect = { fused: false, propagatesNaN: false, scales: false };
/** For processors with IEEE arithmetic and fused multiply-adds. */
export const ieeeFused: Dialect = { fused: true, propagatesNaN: true, scales: true };

/** Name of the helper that scales, but for the type: what renderers look for. */
export const scaleHelper = 'tutti_scale_';

export class Calc {
  constructor(
    readonly b: KernelBuilder,
    readonly format: Format,
    readonly lanes: Lanes,
    readonly dialect: Dialect = portable,
  ) {}

  // --- constants ---------------------------------------------------------------------------------------------------

  c(value: number): KValue {
    return this.b.constant(value, this.format.scalar, this.lanes);
  }
  /** A constant of the integer type of the same width. */
  int(value: number | bigint): KValue {
    const { int } = this.format;
    return this.b.constant(int === 'i64' ? BigInt(value) : Number(value), int, this.lanes);
  }
  word(value: number): KValue {
    return this.b.constant(value, 'u32', this.lanes);
  }
  pair([high, low]: Pair): Double {
    return { high: this.c(high), low: this.c(low) };
  }

  // --- arithmetic --------------------------------------------------------------------------------------------------

  add(a: KValue, b: KValue): KValue {
    return this.b.add(a, b);
  }
  sub(a: KValue, b: KValue): KValue {
    return this.b.sub(a, b);
  }
  mul(a: KValue, b: KValue): KValue {
    return this.b.mul(a, b);
  }
  div(a: KValue, b: KValue): KValue {
    return this.b.div(a, b);
  }
  sqrt(a: KValue): KValue {
    return this.b.unary('sqrt', a);
  }
  is(fn: CompareFn, a: KValue, b: KValue): KValue {
    return this.b.compare(fn, a, b);
  }
  select(condition: KValue, a: KValue, b: KValue): KValue {
    return this.b.select(condition, a, b);
  }
  and(a: KValue, b: KValue): KValue {
    return this.b.and(a, b);
  }
  or(a: KValue, b: KValue): KValue {
    return this.b.or(a, b);
  }
  not(a: KValue): KValue {
    return this.b.unary('not', a);
  }

  /** a · b + c, rounded once or twice. */
  multiplyAdd(a: KValue, b: KValue, c: KValue): KValue {
    return this.dialect.fused ? this.b.fma(a, b, c) : this.add(this.mul(a, b), c);
  }

  /** Horner's scheme, lowest coefficient first. */
  polynomial(coefficients: readonly number[], x: KValue): KValue {
    let sum = this.c(coefficients[coefficients.length - 1]);
    for (let i = coefficients.length - 2; i >= 0; i--) sum = this.multiplyAdd(sum, x, this.c(coefficients[i]));
    return sum;
  }

  /** `result`, computed from `x` by arithmetic alone; `x` itself where that is NaN. */
  keepNaN(x: KValue, result: KValue): KValue {
    return this.dialect.propagatesNaN ? result : this.select(this.isNaN(x), x, result);
  }

  /** `x` brought into [low, high]; a NaN stays one. */
  cut(x: KValue, low: number, high: number): KValue {
    const floor = this.select(this.is('lt', x, this.c(low)), this.c(low), x);
    return this.select(this.is('gt', floor, this.c(high)), this.c(high), floor);
  }

  // --- bit patterns ------------------------------------------------------------------------------------------------

  bits(x: KValue): KValue {
    return this.b.bitcast(x, ktype(this.format.int, this.lanes));
  }
  float(bits: KValue): KValue {
    return this.b.bitcast(bits, ktype(this.format.scalar, this.lanes));
  }
  get signMask(): KValue {
    return this.int(this.format.int === 'i64' ? -(1n << 63n) : -2147483648);
  }
  get infinityBits(): bigint {
    return BigInt(2 * this.format.bias + 1) << BigInt(this.format.mantissa);
  }
  absBits(x: KValue): KValue {
    return this.and(this.bits(x), this.int((1n << (this.format.int === 'i64' ? 63n : 31n)) - 1n));
  }
  abs(x: KValue): KValue {
    return this.float(this.absBits(x));
  }
  signBit(x: KValue): KValue {
    return this.and(this.bits(x), this.signMask);
  }
  /** `magnitude` (positive) with the sign bit of `x`. */
  withSign(magnitude: KValue, x: KValue): KValue {
    return this.float(this.or(this.bits(magnitude), this.signBit(x)));
  }
  flipSign(x: KValue, signBit: KValue): KValue {
    return this.float(this.b.binary('xor', this.bits(x), signBit));
  }
  isNaN(x: KValue): KValue {
    return this.is('gt', this.absBits(x), this.int(this.infinityBits));
  }
  isInfinite(x: KValue): KValue {
    return this.is('eq', this.absBits(x), this.int(this.infinityBits));
  }
  isNegative(x: KValue): KValue {
    return this.is('lt', this.bits(x), this.int(0));
  }
  isZero(x: KValue): KValue {
    return this.is('eq', this.absBits(x), this.int(0));
  }
  get infinity(): KValue {
    return this.c(Number.POSITIVE_INFINITY);
  }
  get nan(): KValue {
    return this.c(Number.NaN);
  }

  // --- exponents ---------------------------------------------------------------------------------------------------

  /** 2^n for an integer n whose power is a normal number. */
  powerOfTwo(n: KValue): KValue {
    const biased = this.add(n, this.int(this.format.bias));
    return this.float(this.b.binary('shl', biased, this.int(this.format.mantissa)));
  }
  /** x · 2^n for an integral |n| < 2 · bias, rounding once; anything where n is NaN. */
  scale(x: KValue, n: KValue): KValue {
    const scaled = (significand: KValue, power: KValue): KValue => {
      const whole = this.toInt(power);
      const half = this.b.binary('shr', whole, this.int(1));
      return this.mul(this.mul(significand, this.powerOfTwo(half)), this.powerOfTwo(this.sub(whole, half)));
    };
    if (!this.dialect.scales) return scaled(x, n);
    const name = `${scaleHelper}${this.format.scalar}${this.lanes === 1 ? '' : `x${this.lanes}`}`;
    return this.b.call(name, [x, n], x.type, ([significand, power]) => scaled(significand, power));
  }
  /** x · 2^n where 2^n is a normal number. */
  scaleNormal(x: KValue, n: KValue): KValue {
    return this.dialect.scales ? this.scale(x, n) : this.mul(x, this.powerOfTwo(this.toInt(n)));
  }
  toInt(x: KValue): KValue {
    return this.b.convert(x, this.format.int);
  }
  fromInt(n: KValue): KValue {
    return this.b.convert(n, this.format.scalar);
  }

  // --- unevaluated sums --------------------------------------------------------------------------------------------

  /** a + b exactly, for |a| ≥ |b| or a = 0 (Dekker 1971). */
  fastSum(a: KValue, b: KValue): Double {
    const high = this.add(a, b);
    return { high, low: this.sub(b, this.sub(high, a)) };
  }
  /** a · b exactly but for underflow: each factor is halved at the bit level, so that nothing overflows. */
  product(a: KValue, b: KValue): Double {
    const [ah, al] = this.#halves(a);
    const [bh, bl] = this.#halves(b);
    const high = this.mul(a, b);
    const rest = this.add(this.add(this.sub(this.mul(ah, bh), high), this.mul(ah, bl)), this.mul(al, bh));
    return { high, low: this.add(rest, this.mul(al, bl)) };
  }
  #halves(a: KValue): readonly [KValue, KValue] {
    const high = this.float(this.and(this.bits(a), this.int(-(1n << BigInt(this.format.splitBits)))));
    return [high, this.sub(a, high)];
  }
  /** The product of two unevaluated sums, to about twice the precision. */
  doubleProduct(a: Double, b: Double): Double {
    const p = this.product(a.high, b.high);
    const cross = this.add(this.mul(a.high, b.low), this.mul(a.low, b.high));
    return this.fastSum(p.high, this.add(p.low, cross));
  }
}
