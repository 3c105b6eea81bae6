/** Arithmetic of the Kernel IR: integers fold, keep their intervals and lose what does nothing. */
import { decideCompare, foldInteger, simplifiedBool, simplifiedInteger, wrapped } from '../folding.js';
import { binaryInterval, fitted, join, rangeOf, typeInterval } from '../intervals.js';
import { printType } from '../text.js';
import {
  type BinaryFn,
  type ByteType,
  type CompareFn,
  isIntScalar,
  type KType,
  type KValue,
  ktype,
  type Lanes,
  type MathBinaryFn,
  type Range,
  type ScalarType,
  sameType,
  scalarBits,
  type UnaryFn,
} from '../types.js';
import { Emission } from './emission.js';

export class ArithmeticBuilder extends Emission {
  unary(fn: UnaryFn, a: KValue, fast?: boolean): KValue {
    const constant = this.constantOf(a);
    if (fn === 'neg' && isIntScalar(a.type.scalar)) {
      if (constant !== undefined && typeof constant === 'number') return this.#integer(-constant, a.type);
      const range = rangeOf(a);
      return this.emit(
        { op: 'unary', fn, a },
        a.type,
        range && fitted({ min: -range.max, max: -range.min }, a.type.scalar),
      );
    }
    if (fn === 'not' && a.type.scalar === 'bool' && constant !== undefined) {
      return this.constant(!constant, 'bool', a.type.lanes);
    }
    if (fn === 'popcount' || fn === 'clz') {
      return this.emit({ op: 'unary', fn, a }, a.type, { min: 0, max: scalarBits[a.type.scalar] });
    }
    if (fn === 'abs' && a.range && a.range.min >= 0) return a;
    return this.emit(fast ? { op: 'unary', fn, a, fast } : { op: 'unary', fn, a }, a.type);
  }

  binary(fn: BinaryFn | MathBinaryFn, a: KValue, b: KValue, fast?: boolean): KValue {
    if (!sameType(a.type, b.type)) throw new Error(`${fn} of ${printType(a.type)} and ${printType(b.type)}`);
    if (isIntScalar(a.type.scalar)) return this.#integerBinary(fn as BinaryFn, a, b);
    if (a.type.scalar === 'bool') {
      const operand = simplifiedBool(fn, a, b, this.constantOf(a), this.constantOf(b));
      if (operand) return operand;
    }
    return this.emit(fast ? { op: 'binary', fn, a, b, fast } : { op: 'binary', fn, a, b }, a.type);
  }

  add(a: KValue, b: KValue): KValue {
    return this.binary('add', a, b);
  }
  sub(a: KValue, b: KValue): KValue {
    return this.binary('sub', a, b);
  }
  mul(a: KValue, b: KValue): KValue {
    return this.binary('mul', a, b);
  }
  div(a: KValue, b: KValue): KValue {
    return this.binary('div', a, b);
  }
  rem(a: KValue, b: KValue): KValue {
    return this.binary('rem', a, b);
  }
  min(a: KValue, b: KValue): KValue {
    return this.binary('min', a, b);
  }
  max(a: KValue, b: KValue): KValue {
    return this.binary('max', a, b);
  }
  and(a: KValue, b: KValue): KValue {
    return this.binary('and', a, b);
  }
  or(a: KValue, b: KValue): KValue {
    return this.binary('or', a, b);
  }
  fma(a: KValue, b: KValue, c: KValue): KValue {
    return this.emit({ op: 'fma', a, b, c }, a.type);
  }

  /** c + Σ of the products of four bytes of `a` and `b` (u32), in i32; `left` and `right` say which are signed. */
  dot4(a: KValue, b: KValue, c: KValue, left: ByteType, right: ByteType): KValue {
    return this.emit({ op: 'dot4', a, b, c, left, right }, c.type);
  }

  /** Integer helpers with a constant second operand of `a`'s type. */
  addc(a: KValue, c: number): KValue {
    return this.add(a, this.constant(c, a.type.scalar, a.type.lanes));
  }
  mulc(a: KValue, c: number): KValue {
    return this.mul(a, this.constant(c, a.type.scalar, a.type.lanes));
  }
  divc(a: KValue, c: number): KValue {
    return this.div(a, this.constant(c, a.type.scalar, a.type.lanes));
  }
  remc(a: KValue, c: number): KValue {
    return this.rem(a, this.constant(c, a.type.scalar, a.type.lanes));
  }

  compare(fn: CompareFn, a: KValue, b: KValue): KValue {
    if (!sameType(a.type, b.type)) throw new Error(`${fn} of ${printType(a.type)} and ${printType(b.type)}`);
    const type = ktype('bool', a.type.lanes);
    if (isIntScalar(a.type.scalar)) {
      const decided = decideCompare(fn, rangeOf(a), rangeOf(b));
      if (decided !== undefined) return this.constant(decided, 'bool', a.type.lanes);
    }
    return this.emit({ op: 'compare', fn, a, b }, type);
  }

  select(condition: KValue, a: KValue, b: KValue): KValue {
    const known = this.constantOf(condition);
    if (known !== undefined) return known ? a : b;
    if (a === b) return a;
    return this.emit({ op: 'select', condition, a, b }, a.type, join(rangeOf(a), rangeOf(b)));
  }

  convert(a: KValue, scalar: ScalarType): KValue {
    if (a.type.scalar === scalar) return a;
    const constant = this.constantOf(a);
    if (constant !== undefined && isIntScalar(a.type.scalar) && isIntScalar(scalar) && typeof constant === 'number') {
      const all = typeInterval(scalar);
      if (!all || (constant >= all.min && constant <= all.max)) {
        return this.constant(scalarBits[scalar] === 64 ? BigInt(constant) : constant, scalar, a.type.lanes);
      }
    }
    if (constant !== undefined && a.type.scalar !== 'bool' && (scalar === 'f32' || scalar === 'f64')) {
      const value = scalar === 'f32' ? Math.fround(Number(constant)) : Number(constant);
      if (value === Number(constant)) return this.constant(value, scalar, a.type.lanes);
    }
    const type = ktype(scalar, a.type.lanes);
    let range: Range | undefined;
    if (isIntScalar(scalar) && a.type.scalar === 'bool') range = { min: 0, max: 1 };
    else if (isIntScalar(scalar) && isIntScalar(a.type.scalar)) {
      const known = rangeOf(a);
      range = known && fitted(known, type.scalar);
    }
    return this.emit({ op: 'convert', a }, type, range);
  }

  bitcast(a: KValue, type: KType): KValue {
    return sameType(a.type, type) ? a : this.emit({ op: 'bitcast', a }, type);
  }
  splat(a: KValue, lanes: Lanes): KValue {
    if (lanes === 1) return a;
    const constant = this.constantOf(a);
    if (constant !== undefined) return this.constant(constant, a.type.scalar, lanes);
    return this.emit({ op: 'splat', a }, ktype(a.type.scalar, lanes), a.range);
  }
  extract(a: KValue, lane: number): KValue {
    return a.type.lanes === 1 ? a : this.emit({ op: 'extract', a, lane }, ktype(a.type.scalar), a.range);
  }
  build(elements: readonly KValue[]): KValue {
    const [first] = elements;
    if (elements.length === 1) return first;
    return this.emit({ op: 'build', elements }, ktype(first.type.scalar, elements.length as Lanes));
  }

  /** States that `a` lies in [min, max]; an enclosing condition must imply it. */
  assume(a: KValue, min: number, max: number): KValue {
    const range = rangeOf(a);
    if (range && range.min >= min && range.max <= max) return a;
    const tight = range ? { min: Math.max(min, range.min), max: Math.min(max, range.max) } : { min, max };
    return this.emit({ op: 'assume', a }, a.type, tight);
  }

  /** min(max(a, low), high) on integers. */
  clamp(a: KValue, low: number, high: number): KValue {
    const { scalar, lanes } = a.type;
    return this.min(this.max(a, this.constant(low, scalar, lanes)), this.constant(high, scalar, lanes));
  }

  #integerBinary(fn: BinaryFn, a: KValue, b: KValue): KValue {
    const { type } = a;
    const [x, y] = [this.constantOf(a), this.constantOf(b)];
    if (typeof x === 'number' && typeof y === 'number') {
      const folded = foldInteger(fn, x, y);
      if (folded !== undefined && Number.isSafeInteger(folded)) return this.#integer(folded, type);
    }
    const operand = simplifiedInteger(fn, a, b, x, y);
    if (operand === 0) return this.#integer(0, type);
    if (operand !== undefined) return operand;
    return this.emit({ op: 'binary', fn, a, b }, type, binaryInterval(fn, rangeOf(a), rangeOf(b), type.scalar));
  }

  /** An integer, wrapped into the type. */
  #integer(value: number, { scalar, lanes }: KType): KValue {
    return this.constant(wrapped(value, scalar), scalar, lanes);
  }
}
