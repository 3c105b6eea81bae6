/**
 * Which operands of float arithmetic must be hidden from the compilers below WGSL.
 *
 * WGSL lets them reassociate, and they do: spirv-opt in SwiftShader and Mesa's algebraic pass turn (x - c) + c and
 * (a - b) + b into x and a, (x·c)·d into x·(c·d), x·a + y·a into (x + y)·a and x / c into x·(1/c). That breaks rounding
 * by magic numbers, error-free sums and Kernel IR's promise of IEEE arithmetic. The renderer hides an operand behind an
 * exclusive or with a zero that is known only at run time, but just where such a rule could apply, so that ordinary sums
 * of products and polynomials cost nothing. Contraction of a·b + c is not prevented: it would cost every inner loop.
 */
import { isFloatScalar, type KInst, type KValue } from '../../compiler/kernel/types.js';

/** A sum or product with more leaves than this counts as one leaf of the next. */
const MOST_LEAVES = 16;

export interface Hidden {
  readonly a: boolean;
  readonly b: boolean;
}
const nothing: Hidden = { a: false, b: false };

interface Factor {
  readonly value: KValue;
  readonly divides: boolean;
}

export class Guards {
  readonly #constants: ReadonlyMap<KValue, number | bigint>;
  /** What a value is the sum of, signs aside, as far as a compiler can see. */
  readonly #terms = new Map<KValue, readonly KValue[]>();
  readonly #factors = new Map<KValue, readonly Factor[]>();

  constructor(constants: ReadonlyMap<KValue, number | bigint>) {
    this.#constants = constants;
  }

  /** Whether a value is float arithmetic that could merge with what uses it. */
  composite(value: KValue): boolean {
    return this.#terms.has(value) || this.#factors.has(value);
  }

  /** The operands to hide; called once an instruction, in order. */
  operands(inst: Extract<KInst, { op: 'unary' | 'binary' }>): Hidden {
    if (!isFloatScalar(inst.a.type.scalar) || inst.fast) return nothing;
    if (inst.op === 'unary') return inst.fn === 'neg' ? this.#negation(inst.result, inst.a) : nothing;
    switch (inst.fn) {
      case 'add':
      case 'sub':
        return this.#sum(inst.result, inst.a, inst.b);
      case 'mul':
      case 'div':
        return this.#product(inst.result, inst.a, inst.b, inst.fn === 'div');
      default:
        return nothing;
    }
  }

  #negation(result: KValue, a: KValue): Hidden {
    // -(x - y) is not y - x where both are equal: the zero has another sign.
    const hide = this.#terms.has(a);
    if (!hide) this.#factors.set(result, this.#factorsOf(a, false));
    this.#terms.set(result, [a]);
    return { a: hide, b: false };
  }

  #sum(result: KValue, a: KValue, b: KValue): Hidden {
    const leaves = [...(this.#terms.get(a) ?? [a]), ...(this.#terms.get(b) ?? [b])];
    const constants = leaves.filter((leaf) => this.#constants.has(leaf)).length;
    const merges = constants > 1 || new Set(leaves).size < leaves.length;
    const factors = this.#factorsOf(a, false).map(({ value }) => value);
    const common = this.#factors.has(a) && this.#factorsOf(b, false).some(({ value }) => factors.includes(value));
    const hidden = {
      a: this.#isZero(a) || common || (merges && (this.#terms.has(a) || !this.#terms.has(b))),
      b: this.#isZero(b) || (merges && this.#terms.has(b)),
    };
    const seen = [...(hidden.a ? [a] : (this.#terms.get(a) ?? [a])), ...(hidden.b ? [b] : (this.#terms.get(b) ?? [b]))];
    this.#terms.set(result, seen.length > MOST_LEAVES ? [result] : seen);
    return hidden;
  }

  #product(result: KValue, a: KValue, b: KValue, divides: boolean): Hidden {
    const [left, right] = [this.#factorsOf(a, false), this.#factorsOf(b, divides)];
    const leaves = [...left, ...right];
    const constants = leaves.filter(({ value }) => this.#constants.has(value)).length;
    const cancels = leaves.some((x) => x.divides && leaves.some((y) => !y.divides && y.value === x.value));
    const merges = constants > 1 || cancels;
    const reciprocal = divides && this.#constants.has(b) && !isPowerOfTwo(Number(this.#constants.get(b)));
    const hidden = {
      a: this.#isZero(a) || (merges && (this.#factors.has(a) || !this.#factors.has(b))),
      b: this.#isZero(b) || reciprocal || (merges && this.#factors.has(b)),
    };
    const seen = [
      ...(hidden.a ? [{ value: a, divides: false }] : left),
      ...(hidden.b ? [{ value: b, divides }] : right),
    ];
    this.#factors.set(result, seen.length > MOST_LEAVES ? [{ value: result, divides: false }] : seen);
    return hidden;
  }

  #factorsOf(value: KValue, divides: boolean): readonly Factor[] {
    const factors = this.#factors.get(value) ?? [{ value, divides: false }];
    return divides ? factors.map((factor) => ({ value: factor.value, divides: !factor.divides })) : factors;
  }

  /** x + 0 and x · 0 are not x and 0 for every x. */
  #isZero(value: KValue): boolean {
    const constant = this.#constants.get(value);
    return constant !== undefined && Number(constant) === 0;
  }
}

/** Divisions by it are exact products. */
const isPowerOfTwo = (value: number): boolean =>
  Number.isFinite(value) &&
  value !== 0 &&
  Number.isInteger(Math.log2(Math.abs(value))) &&
  Math.abs(Math.log2(Math.abs(value))) < 126;
