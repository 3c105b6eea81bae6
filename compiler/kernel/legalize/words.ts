/**
 * Unsigned arithmetic on one or more 32-bit words: what 64-bit integers and software floats are made of.
 *
 * A pair is kept as its two words; it becomes a u32x2 value where it has to be one (arguments, memory, merges), and
 * the builder of such a value remembers its words, so that taking it apart again costs nothing.
 */
import type { KernelBuilder } from '../builder.js';
import { type CompareFn, type KType, type KValue, ktype } from '../types.js';

/** A 64-bit quantity. */
export interface Pair {
  readonly lo: KValue;
  readonly hi: KValue;
}

export const pairType: KType = ktype('u32', 2);

export class Words {
  readonly #packed = new Map<KValue, Pair>();

  constructor(readonly b: KernelBuilder) {}

  // --- one word ----------------------------------------------------------------------------------------------------

  c(value: number): KValue {
    return this.b.constant(value >>> 0, 'u32');
  }
  #fold(a: KValue, b: KValue, fn: (x: number, y: number) => number): KValue | undefined {
    const [x, y] = [this.b.constantOf(a), this.b.constantOf(b)];
    return x === undefined || y === undefined ? undefined : this.c(fn(Number(x), Number(y)));
  }
  add(a: KValue, b: KValue): KValue {
    return this.b.add(a, b);
  }
  sub(a: KValue, b: KValue): KValue {
    return this.b.sub(a, b);
  }
  mul(a: KValue, b: KValue): KValue {
    return this.#fold(a, b, Math.imul) ?? this.b.mul(a, b);
  }
  mulhi(a: KValue, b: KValue): KValue {
    return this.b.binary('mulhi', a, b);
  }
  and(a: KValue, b: KValue | number): KValue {
    const other = typeof b === 'number' ? this.c(b) : b;
    if (this.b.constantOf(other) === 0xffffffff) return a;
    return this.#fold(a, other, (x, y) => x & y) ?? this.b.and(a, other);
  }
  or(a: KValue, b: KValue | number): KValue {
    const other = typeof b === 'number' ? this.c(b) : b;
    return this.#fold(a, other, (x, y) => x | y) ?? this.b.or(a, other);
  }
  xor(a: KValue, b: KValue | number): KValue {
    const other = typeof b === 'number' ? this.c(b) : b;
    return this.#fold(a, other, (x, y) => x ^ y) ?? this.b.binary('xor', a, other);
  }
  not(a: KValue): KValue {
    const constant = this.b.constantOf(a);
    return constant === undefined ? this.b.unary('not', a) : this.c(~Number(constant));
  }
  /** Shift amounts are in 0 … 31. */
  shl(a: KValue, n: KValue | number): KValue {
    const by = typeof n === 'number' ? this.c(n) : n;
    return this.#fold(a, by, (x, y) => x << y) ?? this.b.binary('shl', a, by);
  }
  shr(a: KValue, n: KValue | number): KValue {
    const by = typeof n === 'number' ? this.c(n) : n;
    return this.#fold(a, by, (x, y) => x >>> y) ?? this.b.binary('shr', a, by);
  }
  clz(a: KValue): KValue {
    return this.b.unary('clz', a);
  }
  is(fn: CompareFn, a: KValue, b: KValue | number): KValue {
    return this.b.compare(fn, a, typeof b === 'number' ? this.c(b) : b);
  }
  /** All ones where the top bit is set, else zero. */
  signFill(a: KValue): KValue {
    const constant = this.b.constantOf(a);
    if (constant !== undefined) return this.c(Number(constant) >> 31);
    return this.unsigned(this.b.binary('shr', this.signed(a), this.b.constant(31, 'i32')));
  }
  select(condition: KValue, a: KValue, b: KValue): KValue {
    return this.b.select(condition, a, b);
  }
  bit(condition: KValue): KValue {
    return this.b.convert(condition, 'u32');
  }
  both(a: KValue, b: KValue): KValue {
    return this.b.and(a, b);
  }
  either(a: KValue, b: KValue): KValue {
    return this.b.or(a, b);
  }
  no(a: KValue): KValue {
    return this.b.unary('not', a);
  }
  signed(a: KValue): KValue {
    return this.b.bitcast(a, ktype('i32', a.type.lanes));
  }
  unsigned(a: KValue): KValue {
    const constant = a.type.scalar === 'i32' ? this.b.constantOf(a) : undefined;
    if (constant !== undefined && a.type.lanes === 1) return this.c(Number(constant));
    return this.b.bitcast(a, ktype('u32', a.type.lanes));
  }

  // --- pairs -------------------------------------------------------------------------------------------------------

  pack(pair: Pair): KValue {
    const value = this.b.build([pair.lo, pair.hi]);
    this.#packed.set(value, pair);
    return value;
  }
  unpack(value: KValue): Pair {
    return this.#packed.get(value) ?? { lo: this.b.extract(value, 0), hi: this.b.extract(value, 1) };
  }
  constant64(value: bigint): Pair {
    return { lo: this.c(Number(value & 0xffffffffn)), hi: this.c(Number((value >> 32n) & 0xffffffffn)) };
  }
  get zero64(): Pair {
    return { lo: this.c(0), hi: this.c(0) };
  }
  add64(a: Pair, b: Pair): Pair {
    const lo = this.add(a.lo, b.lo);
    return { lo, hi: this.add(this.add(a.hi, b.hi), this.bit(this.is('lt', lo, a.lo))) };
  }
  sub64(a: Pair, b: Pair): Pair {
    const borrow = this.bit(this.is('lt', a.lo, b.lo));
    return { lo: this.sub(a.lo, b.lo), hi: this.sub(this.sub(a.hi, b.hi), borrow) };
  }
  neg64(a: Pair): Pair {
    return this.sub64(this.zero64, a);
  }
  mul64(a: Pair, b: Pair): Pair {
    const cross = this.add(this.mul(a.lo, b.hi), this.mul(a.hi, b.lo));
    return { lo: this.mul(a.lo, b.lo), hi: this.add(this.mulhi(a.lo, b.lo), cross) };
  }
  each64(fn: (a: KValue, b: KValue) => KValue, a: Pair, b: Pair): Pair {
    return { lo: fn(a.lo, b.lo), hi: fn(a.hi, b.hi) };
  }
  and64(a: Pair, b: Pair): Pair {
    return this.each64((x, y) => this.and(x, y), a, b);
  }
  or64(a: Pair, b: Pair): Pair {
    return this.each64((x, y) => this.or(x, y), a, b);
  }
  xor64(a: Pair, b: Pair): Pair {
    return this.each64((x, y) => this.xor(x, y), a, b);
  }
  not64(a: Pair): Pair {
    return { lo: this.not(a.lo), hi: this.not(a.hi) };
  }
  select64(condition: KValue, a: Pair, b: Pair): Pair {
    return this.each64((x, y) => this.select(condition, x, y), a, b);
  }
  isZero64(a: Pair): KValue {
    return this.is('eq', this.or(a.lo, a.hi), 0);
  }
  eq64(a: Pair, b: Pair): KValue {
    return this.isZero64(this.xor64(a, b));
  }
  /** Unsigned a < b. */
  lt64(a: Pair, b: Pair): KValue {
    const high = this.is('lt', a.hi, b.hi);
    return this.either(high, this.both(this.is('eq', a.hi, b.hi), this.is('lt', a.lo, b.lo)));
  }
  signedLt64(a: Pair, b: Pair): KValue {
    return this.lt64(this.#biased(a), this.#biased(b));
  }
  #biased(a: Pair): Pair {
    return { lo: a.lo, hi: this.xor(a.hi, 0x80000000) };
  }
  clz64(a: Pair): KValue {
    const low = this.add(this.clz(a.lo), this.c(32));
    return this.select(this.is('eq', a.hi, 0), low, this.clz(a.hi));
  }

  /** Shifts by n in 0 … 63. */
  shl64(a: Pair, n: KValue | number): Pair {
    if (typeof n === 'number') {
      if (n === 0) return a;
      if (n >= 32) return { lo: this.c(0), hi: this.shl(a.lo, n - 32) };
      return { lo: this.shl(a.lo, n), hi: this.or(this.shl(a.hi, n), this.shr(a.lo, 32 - n)) };
    }
    const constant = this.b.constantOf(n);
    if (constant !== undefined) return this.shl64(a, Number(constant));
    const bits = this.and(n, 31);
    const far = this.is('ge', n, 32);
    const low = this.shl(a.lo, bits);
    return {
      lo: this.select(far, this.c(0), low),
      hi: this.select(far, low, this.funnel(a.hi, a.lo, bits)),
    };
  }
  shr64(a: Pair, n: KValue | number, fill: KValue = this.c(0)): Pair {
    if (typeof n === 'number') {
      if (n === 0) return a;
      if (n === 32) return { lo: a.hi, hi: fill };
      const high = (from: KValue, by: number) => this.or(this.shr(from, by), this.shl(fill, 32 - by));
      if (n > 32) return { lo: high(a.hi, n - 32), hi: fill };
      return { lo: this.or(this.shr(a.lo, n), this.shl(a.hi, 32 - n)), hi: high(a.hi, n) };
    }
    const constant = this.b.constantOf(n);
    if (constant !== undefined) return this.shr64(a, Number(constant), fill);
    const bits = this.and(n, 31);
    const far = this.is('ge', n, 32);
    const high = this.funnelRight(fill, a.hi, bits);
    return {
      lo: this.select(far, high, this.funnelRight(a.hi, a.lo, bits)),
      hi: this.select(far, fill, high),
    };
  }
  /** The high word of (high:low) << n, n in 0 … 31. */
  funnel(high: KValue, low: KValue, n: KValue): KValue {
    return this.or(this.shl(high, n), this.shr(this.shr(low, 1), this.xor(n, 31)));
  }
  /** The low word of (high:low) >> n, n in 0 … 31. */
  funnelRight(high: KValue, low: KValue, n: KValue): KValue {
    return this.or(this.shr(low, n), this.shl(this.shl(high, 1), this.xor(n, 31)));
  }
  /** a >> n for any n, with the lost bits or-ed into the lowest one. */
  shrJam64(a: Pair, n: KValue): Pair {
    const by = this.select(this.is('gt', n, 63), this.c(63), n);
    const out = this.shr64(a, by);
    const lost = this.no(this.eq64(this.shl64(out, by), a));
    return { lo: this.or(out.lo, this.bit(lost)), hi: out.hi };
  }

  // --- many words, most significant first --------------------------------------------------------------------------

  /** The whole product of two pairs, four words. */
  product64(a: Pair, b: Pair): readonly [KValue, KValue, KValue, KValue] {
    const columns: KValue[][] = [[], [], [], []];
    const [x, y] = [
      [a.lo, a.hi],
      [b.lo, b.hi],
    ];
    for (const i of [0, 1]) {
      for (const j of [0, 1]) {
        columns[i + j].push(this.mul(x[i], y[j]));
        columns[i + j + 1].push(this.mulhi(x[i], y[j]));
      }
    }
    const words = columns.map((terms, column) => {
      let sum = terms[0];
      for (const term of terms.slice(1)) {
        sum = this.add(sum, term);
        if (column < 3) columns[column + 1].push(this.bit(this.is('lt', sum, term)));
      }
      return sum;
    });
    return [words[3], words[2], words[1], words[0]];
  }
  addWords(a: readonly KValue[], b: readonly KValue[]): readonly KValue[] {
    const out: KValue[] = [];
    let carry: KValue | undefined;
    for (let i = a.length - 1; i >= 0; i--) {
      const sum = this.add(a[i], b[i]);
      const full = carry ? this.add(sum, carry) : sum;
      const overflow = this.bit(this.is('lt', sum, a[i]));
      carry = carry ? this.or(overflow, this.bit(this.is('lt', full, sum))) : overflow;
      out.unshift(full);
    }
    return out;
  }
  negWords(a: readonly KValue[]): readonly KValue[] {
    const one = a.map((_, i) => this.c(i === a.length - 1 ? 1 : 0));
    return this.addWords(
      a.map((word) => this.not(word)),
      one,
    );
  }
  isZeroWords(a: readonly KValue[]): KValue {
    return this.is(
      'eq',
      a.reduce((x, y) => this.or(x, y)),
      0,
    );
  }
  /** a << n, n below 32 · the number of words (a power of two). */
  shlWords(a: readonly KValue[], n: KValue): readonly KValue[] {
    const zero = this.c(0);
    let words = [...a];
    for (let step = 1; step < a.length; step *= 2) {
      const taken = this.is('ne', this.and(n, 32 * step), 0);
      words = words.map((word, i) => this.select(taken, words[i + step] ?? zero, word));
    }
    const bits = this.and(n, 31);
    return words.map((word, i) => this.funnel(word, words[i + 1] ?? zero, bits));
  }
  /** a >> n with the lost bits or-ed into the lowest, for any n. */
  shrJamWords(a: readonly KValue[], n: KValue): readonly KValue[] {
    const zero = this.c(0);
    const limit = 32 * a.length - 1;
    const by = this.select(this.is('gt', n, limit), this.c(limit), n);
    let words = [...a];
    let lost = zero;
    for (let step = 1; step < a.length; step *= 2) {
      const taken = this.is('ne', this.and(by, 32 * step), 0);
      const dropped = words.slice(a.length - step).reduce((x, y) => this.or(x, y));
      lost = this.or(lost, this.select(taken, dropped, zero));
      words = words.map((word, i) => this.select(taken, words[i - step] ?? zero, word));
    }
    const bits = this.and(by, 31);
    const last = words[words.length - 1];
    lost = this.or(lost, this.sub(last, this.shl(this.shr(last, bits), bits)));
    const out = words.map((word, i) => this.funnelRight(words[i - 1] ?? zero, word, bits));
    out[out.length - 1] = this.or(out[out.length - 1], this.bit(this.is('ne', lost, 0)));
    return out;
  }
  clzWords(a: readonly KValue[]): KValue {
    let count = this.c(32 * a.length);
    for (let i = a.length - 1; i >= 0; i--) {
      count = this.select(this.is('ne', a[i], 0), this.add(this.clz(a[i]), this.c(32 * i)), count);
    }
    return count;
  }
}
