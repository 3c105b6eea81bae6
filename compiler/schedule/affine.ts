/**
 * Index arithmetic: affine expressions over loop variables, with exact division and remainder by constants.
 *
 * Index maps of views compose by substitution: an element of a reshaped, transposed, sliced tensor is addressed by
 * one `Affine` that simplifies to the address in the original, or keeps the divisions that are really needed.
 * All atoms are non-negative integers with known ranges; divisors are positive constants.
 */
import type { KernelBuilder } from '../kernel/builder.js';
import { rangeOf } from '../kernel/builder.js';
import type { KValue, Range } from '../kernel/types.js';

export type Atom =
  | { readonly kind: 'value'; readonly value: KValue; readonly range: Range; readonly key: string }
  /** The lane of a vector: 0 … lanes-1. Only vector loads and `lanesOf` know what to do with it. */
  | { readonly kind: 'lane'; readonly range: Range; readonly key: string }
  | {
      readonly kind: 'div' | 'mod';
      readonly a: Affine;
      readonly c: number;
      readonly range: Range;
      readonly key: string;
    };

interface Term {
  readonly atom: Atom;
  readonly coefficient: number;
}

export class Affine {
  /** Sorted by key, coefficients not 0. */
  readonly terms: readonly Term[];
  readonly constant: number;
  readonly range: Range;
  readonly key: string;

  constructor(terms: readonly Term[], constant: number) {
    this.terms = terms;
    this.constant = constant;
    let [min, max] = [constant, constant];
    let key = String(constant);
    for (const { atom, coefficient } of terms) {
      min += coefficient * (coefficient > 0 ? atom.range.min : atom.range.max);
      max += coefficient * (coefficient > 0 ? atom.range.max : atom.range.min);
      key += `+${coefficient}*${atom.key}`;
    }
    this.range = { min, max };
    this.key = key;
  }

  static constant(value: number): Affine {
    return new Affine([], value);
  }

  /** A KIR integer (i32) as an index. */
  static of(value: KValue, builder: KernelBuilder): Affine {
    const known = builder.constantOf(value);
    if (known !== undefined) return Affine.constant(Number(known));
    const range = rangeOf(value);
    if (!range) throw new Error('an index needs a range');
    return new Affine([{ atom: { kind: 'value', value, range, key: `v${value.id}` }, coefficient: 1 }], 0);
  }

  static lane(lanes: number): Affine {
    if (lanes === 1) return Affine.constant(0);
    return new Affine([{ atom: { kind: 'lane', range: { min: 0, max: lanes - 1 }, key: 'lane' }, coefficient: 1 }], 0);
  }

  get isConstant(): boolean {
    return this.terms.length === 0;
  }

  add(other: Affine | number): Affine {
    if (typeof other === 'number') return other === 0 ? this : new Affine(this.terms, this.constant + other);
    if (other.terms.length === 0) return this.add(other.constant);
    if (this.terms.length === 0) return other.add(this.constant);
    return normalize([...this.terms, ...other.terms], this.constant + other.constant);
  }

  scale(factor: number): Affine {
    if (factor === 1) return this;
    if (factor === 0) return Affine.constant(0);
    return new Affine(
      this.terms.map((t) => ({ atom: t.atom, coefficient: t.coefficient * factor })),
      this.constant * factor,
    );
  }

  sub(other: Affine | number): Affine {
    return typeof other === 'number' ? this.add(-other) : this.add(other.scale(-1));
  }

  /** Quotient rounded down; the dividend must not be negative (its range says so) unless it divides exactly. */
  div(c: number): Affine {
    if (c === 1) return this;
    const whole = this.terms.filter((t) => t.coefficient % c === 0);
    const rest = this.terms.filter((t) => t.coefficient % c !== 0);
    const wholeConstant = Math.floor(this.constant / c);
    const quotient = new Affine(
      whole.map((t) => ({ atom: t.atom, coefficient: t.coefficient / c })),
      wholeConstant,
    );
    const remainder = new Affine(rest, this.constant - wholeConstant * c);
    if (remainder.range.min >= 0 && remainder.range.max < c) return quotient;
    if (remainder.range.min < 0) {
      if (this.range.min < 0) throw new Error('division of a negative index');
      return atomOf('div', this, c);
    }
    return quotient.add(divAtom(remainder, c));
  }

  /** Remainder in [0, c); the dividend must not be negative. */
  mod(c: number): Affine {
    if (c === 1) return Affine.constant(0);
    const rest = this.terms.filter((t) => t.coefficient % c !== 0);
    const remainder = new Affine(rest, this.constant - Math.floor(this.constant / c) * c);
    if (remainder.range.min >= 0 && remainder.range.max < c) return remainder;
    const dividend = remainder.range.min < 0 ? this : remainder;
    if (dividend.range.min < 0) throw new Error('remainder of a negative index');
    return modAtom(dividend, c);
  }

  /** The coefficient of the lane, 0 if it does not occur, undefined if it occurs inside a division. */
  laneCoefficient(): number | undefined {
    let coefficient = 0;
    for (const { atom, coefficient: k } of this.terms) {
      if (atom.kind === 'lane') coefficient = k;
      else if (atom.kind !== 'value' && atom.a.mentionsLane()) return undefined;
    }
    return coefficient;
  }

  mentionsLane(): boolean {
    return this.terms.some(
      ({ atom }) => atom.kind === 'lane' || ((atom.kind === 'div' || atom.kind === 'mod') && atom.a.mentionsLane()),
    );
  }

  /** The coefficient of a value, 0 if it does not occur, undefined if it occurs inside a division. */
  coefficientOf(value: KValue): number | undefined {
    if (this.divides(value)) return undefined;
    return this.terms.find(({ atom }) => atom.kind === 'value' && atom.value === value)?.coefficient ?? 0;
  }

  /** True if the value occurs inside a division or remainder. */
  divides(value: KValue): boolean {
    const mentions = (a: Affine): boolean =>
      a.terms.some(({ atom }) =>
        atom.kind === 'value' ? atom.value === value : atom.kind !== 'lane' && mentions(atom.a),
      );
    return this.terms.some(({ atom }) => (atom.kind === 'div' || atom.kind === 'mod') && mentions(atom.a));
  }

  /** With the lane fixed. */
  atLane(lane: number): Affine {
    if (!this.mentionsLane()) return this;
    return this.terms.reduce((total, { atom, coefficient }) => {
      if (atom.kind === 'value') return total.add(new Affine([{ atom, coefficient }], 0));
      if (atom.kind === 'lane') return total.add(lane * coefficient);
      const inner = atom.a.atLane(lane);
      return total.add((atom.kind === 'div' ? inner.div(atom.c) : inner.mod(atom.c)).scale(coefficient));
    }, Affine.constant(this.constant));
  }

  /** The largest known divisor of every value, given that lanes are left out; for alignment. */
  divisor(): number {
    let result = Math.abs(this.constant);
    for (const { atom, coefficient } of this.terms)
      if (atom.kind !== 'lane') result = gcd(result, Math.abs(coefficient));
    return result;
  }

  /** Emits the arithmetic; the lane must not occur. */
  emit(b: KernelBuilder): KValue {
    let total: KValue | undefined;
    // Positive terms first keeps intermediate values from going negative.
    const terms = [...this.terms].sort((p, q) => Math.sign(q.coefficient) - Math.sign(p.coefficient));
    for (const { atom, coefficient } of terms) {
      const product = b.mulc(emitAtom(atom, b), coefficient);
      total = total === undefined ? product : b.add(total, product);
    }
    if (total === undefined) return b.constant(this.constant);
    const value = b.addc(total, this.constant);
    // Terms may be correlated in ways an interval sum does not see; the affine form knows at least as much.
    return value;
  }
}

/** Row-major address of an index vector. */
export function linearize(index: readonly Affine[], shape: readonly number[]): Affine {
  let stride = 1;
  let total = Affine.constant(0);
  for (let d = shape.length - 1; d >= 0; d--) {
    if (shape[d] !== 1) total = total.add(index[d].scale(stride));
    stride *= shape[d];
  }
  return total;
}

/** Index vector of a row-major address in [0, size). */
export function delinearize(flat: Affine, shape: readonly number[]): Affine[] {
  const index: Affine[] = new Array<Affine>(shape.length);
  let stride = 1;
  let _rest = shape.reduce((p, d) => p * d, 1);
  const outermost = shape.findIndex((d) => d !== 1);
  for (let d = shape.length - 1; d >= 0; d--) {
    _rest /= shape[d];
    const quotient = shape[d] === 1 ? Affine.constant(0) : flat.div(stride);
    index[d] = shape[d] === 1 ? quotient : d === outermost ? quotient : quotient.mod(shape[d]);
    stride *= shape[d];
  }
  return index;
}

// --- internals -----------------------------------------------------------------------------------------------------

function emitAtom(atom: Atom, b: KernelBuilder): KValue {
  switch (atom.kind) {
    case 'value':
      return atom.value;
    case 'div':
      return b.divc(atom.a.emit(b), atom.c);
    case 'mod':
      return b.remc(atom.a.emit(b), atom.c);
    case 'lane':
      throw new Error('a lane has no scalar value');
    default:
      return atom satisfies never;
  }
}

const gcd = (a: number, b: number): number => (b === 0 ? a : gcd(b, a % b));

function atomOf(kind: 'div' | 'mod', a: Affine, c: number): Affine {
  const range =
    kind === 'div'
      ? { min: Math.floor(a.range.min / c), max: Math.floor(a.range.max / c) }
      : { min: 0, max: Math.min(c - 1, a.range.max) };
  return new Affine([{ atom: { kind, a, c, range, key: `${kind}(${a.key},${c})` }, coefficient: 1 }], 0);
}

/**
 * a = F·e + r with F dividing c and 0 ≤ r < F, if the terms allow such a split. Then a div c = e div (c/F) and
 * a mod c = F·(e mod (c/F)) + r: the way vector lanes and inner loop variables stay outside of divisions.
 */
function split(a: Affine, c: number): { factor: number; e: Affine; r: Affine } | undefined {
  for (const { coefficient } of a.terms) {
    const factor = gcd(c, Math.abs(coefficient));
    if (factor === 1) continue;
    const k = ((a.constant % factor) + factor) % factor;
    const r = new Affine(
      a.terms.filter((t) => t.coefficient % factor !== 0),
      k,
    );
    if (r.range.min < 0 || r.range.max >= factor) continue;
    const whole = a.terms.filter((t) => t.coefficient % factor === 0);
    const e = new Affine(
      whole.map((t) => ({ atom: t.atom, coefficient: t.coefficient / factor })),
      (a.constant - k) / factor,
    );
    if (e.range.min >= 0) return { factor, e, r };
  }
  return undefined;
}

/** `a` is not negative and not below c. */
function divAtom(a: Affine, c: number): Affine {
  const parts = split(a, c);
  if (parts) return parts.e.div(c / parts.factor);
  if (a.constant === 0 && a.terms.length === 1 && a.terms[0].coefficient === 1) {
    const { atom } = a.terms[0];
    if (atom.kind === 'div') return atom.a.div(atom.c * c);
    if (atom.kind === 'mod' && atom.c % c === 0) return atom.a.div(c).mod(atom.c / c);
  }
  return atomOf('div', a, c);
}

function modAtom(a: Affine, c: number): Affine {
  const parts = split(a, c);
  if (parts)
    return parts.e
      .mod(c / parts.factor)
      .scale(parts.factor)
      .add(parts.r);
  if (a.constant === 0 && a.terms.length === 1 && a.terms[0].coefficient === 1) {
    const { atom } = a.terms[0];
    if (atom.kind === 'mod' && atom.c % c === 0) return atom.a.mod(c);
  }
  return atomOf('mod', a, c);
}

function normalize(terms: readonly Term[], constant: number): Affine {
  const merged = new Map<string, Term>();
  for (const term of terms) {
    const known = merged.get(term.atom.key);
    merged.set(term.atom.key, known ? { atom: term.atom, coefficient: known.coefficient + term.coefficient } : term);
  }
  for (const [key, term] of merged) if (term.coefficient === 0) merged.delete(key);
  for (const { atom, coefficient } of merged.values()) {
    if (atom.kind !== 'mod') continue;
    // k·(a mod c) + k·c·(a div c) = k·a
    const quotient = atom.a.div(atom.c);
    if (quotient.constant === 0 && quotient.terms.length === 1 && quotient.terms[0].coefficient === 1) {
      const partner = merged.get(quotient.terms[0].atom.key);
      if (partner && partner.coefficient === coefficient * atom.c) {
        merged.delete(atom.key);
        merged.delete(partner.atom.key);
        return normalize(
          [...merged.values(), ...atom.a.scale(coefficient).terms],
          constant + atom.a.constant * coefficient,
        );
      }
    }
    // k·(a mod s) + k·s·((a div s) mod d) = k·(a mod s·d)
    for (const other of merged.values()) {
      if (other.atom.kind !== 'mod' || other.coefficient !== coefficient * atom.c) continue;
      if (other.atom.a.key === quotient.key) {
        merged.delete(atom.key);
        merged.delete(other.atom.key);
        const joined = atom.a.mod(atom.c * other.atom.c).scale(coefficient);
        return normalize([...merged.values(), ...joined.terms], constant + joined.constant);
      }
    }
  }
  const kept = [...merged.values()].sort((p, q) => (p.atom.key < q.atom.key ? -1 : 1));
  return new Affine(kept, constant);
}
