/**
 * Unary, binary and ternary operations as C.
 *
 * Integer arithmetic that may wrap is done unsigned; where ranges prove that it does not, it stays signed, because that
 * lets the C compiler follow addresses through loops and vectorise them.
 */
import { rangeOf } from '../../compiler/kernel/builder.js';
import {
  type BinaryFn,
  type CompareFn,
  isFloatScalar,
  isMathFn,
  isSignedScalar,
  type KType,
  type KValue,
  type Lanes,
  type ScalarType,
  scalarBits,
} from '../../compiler/kernel/types.js';
import { contractedOperands, oneSidedMinMax, paren, staysInside } from '../common/c_family.js';
import { unexpanded } from '../common/names.js';
import { compareOperators } from '../common/operators.js';
import * as maths from './prelude/arithmetic.js';
import * as halves from './prelude/halves.js';
import { type CScalar, heldAs, isHalf, type MaskBits, unsignedOf } from './prelude/types.js';
import * as vectors from './prelude/vectors.js';
import type { Inst, Scope } from './scope.js';

export function unary(scope: Scope, inst: Inst<'unary'>): void {
  const { fn } = inst;
  if (isMathFn(fn)) throw unexpanded(scope.kernel, 'cpu', fn);
  const { scalar, lanes } = inst.result.type;
  const a = scope.c(inst.a);
  const { maskBits } = scope.ref(inst.a);
  if (scalar === 'bool') {
    if (fn !== 'not') throw scope.unexpected(`${fn} on bool`);
    scope.let(inst.result, lanes === 1 ? `!${a}` : `~${a}`, maskBits);
    return;
  }
  const held = heldAs(scalar);
  const type = scope.prelude.type(held, lanes);
  const unsigned = scope.prelude.type(unsignedOf(held), lanes);
  const float = held === 'f32' || held === 'f64';
  switch (fn) {
    case 'neg':
      scope.let(inst.result, float ? `-${paren(a)}` : `(${type})(0 - (${unsigned})${a})`);
      return;
    case 'abs':
      if (float) {
        if (lanes === 1) scope.let(inst.result, `__builtin_fabs${held === 'f32' ? 'f' : ''}(${a})`);
        else
          scope.let(
            inst.result,
            `(${type})((${unsigned})${a} & ${held === 'f32' ? '0x7fffffffu' : '0x7fffffffffffffffu'})`,
          );
      } else if (!isSignedScalar(scalar)) scope.alias(inst.result, a);
      else if (lanes === 1) scope.let(inst.result, `${a} < 0 ? (${type})(0 - (${unsigned})${a}) : ${a}`);
      else
        scope.let(
          inst.result,
          `${vectors.select(scope.prelude, held, lanes)}(${a} < 0, (${type})(0 - (${unsigned})${a}), ${a})`,
        );
      return;
    case 'not':
      scope.let(inst.result, `(${type})~${a}`);
      return;
    case 'floor':
    case 'ceil':
    case 'round':
    case 'trunc':
    case 'sqrt': {
      if (!float) throw scope.unexpected(`${fn} on ${scalar}`);
      const value = `${maths.unary(scope.prelude, fn, held, lanes)}(${a})`;
      scope.let(inst.result, fn === 'sqrt' ? scope.rounded(value, scalar, lanes) : value);
      return;
    }
    case 'popcount':
    case 'clz': {
      const callee = maths.bitCount(scope.prelude, fn, held);
      scope.let(
        inst.result,
        `${lanes === 1 ? callee : vectors.lanewise(scope.prelude, callee, held, [held], lanes)}(${a})`,
      );
      return;
    }
    default:
      fn satisfies never;
  }
}

export function binary(scope: Scope, inst: Inst<'binary'>): void {
  const { fn, a, b, result } = inst;
  if (isMathFn(fn)) throw unexpanded(scope.kernel, 'cpu', fn);
  const { scalar } = result.type;
  if (scalar === 'bool') boolBinary(scope, inst, fn as BinaryFn);
  else if (isFloatScalar(scalar)) floatBinary(scope, inst, fn as BinaryFn, scalar as 'f16' | 'bf16' | 'f32' | 'f64');
  else scope.let(result, integerBinary(scope, fn as BinaryFn, a, b, result));
}

function boolBinary(scope: Scope, inst: Inst<'binary'>, fn: BinaryFn): void {
  const operators: Partial<Record<BinaryFn, string>> = { and: '&', or: '|', xor: '^', min: '&', max: '|' };
  const operator = operators[fn];
  if (operator === undefined) throw scope.unexpected(`${fn} on bool`);
  const { maskBits } = scope.ref(inst.a);
  const text = `${scope.c(inst.a)} ${operator} ${scope.as(inst.b, maskBits)}`;
  scope.let(inst.result, text, maskBits);
}

function floatBinary(scope: Scope, inst: Inst<'binary'>, fn: BinaryFn, scalar: 'f16' | 'bf16' | 'f32' | 'f64'): void {
  const { a, b, result } = inst;
  const { lanes } = result.type;
  const held = heldAs(scalar) as 'f32' | 'f64';
  const [x, y] = [scope.c(a), scope.c(b)];
  switch (fn) {
    case 'add':
    case 'sub':
      scope.let(
        result,
        contracted(scope, inst) ?? scope.rounded(`${x} ${fn === 'add' ? '+' : '-'} ${y}`, scalar, lanes),
      );
      return;
    case 'mul':
    case 'div': {
      const operator = fn === 'mul' ? '*' : '/';
      if (scalar === 'bf16') {
        const callee = halves.halfThroughDouble(scope.prelude, scalar, fn, operator);
        scope.let(
          result,
          `${lanes === 1 ? callee : vectors.lanewise(scope.prelude, callee, 'f32', ['f32', 'f32'], lanes)}(${x}, ${y})`,
        );
        return;
      }
      if (fn === 'mul' && inst.fast) scope.fastProducts.set(result, inst);
      scope.let(result, scope.rounded(`${x} ${operator} ${y}`, scalar, lanes));
      return;
    }
    case 'rem': {
      const callee = held === 'f32' ? '__builtin_fmodf' : '__builtin_fmod';
      scope.let(
        result,
        `${lanes === 1 ? callee : vectors.lanewise(scope.prelude, callee, held, [held, held], lanes)}(${x}, ${y})`,
      );
      return;
    }
    case 'min':
    case 'max':
      scope.let(result, floatMinMax(scope, fn, held, lanes, a, b));
      return;
    case 'and':
    case 'or':
    case 'xor':
    case 'shl':
    case 'shr':
    case 'mulhi':
      throw scope.unexpected(`${fn} on ${scalar}`);
    default:
      fn satisfies never;
  }
}

function floatMinMax(scope: Scope, fn: 'min' | 'max', held: 'f32' | 'f64', lanes: Lanes, a: KValue, b: KValue): string {
  const against = oneSidedMinMax(scope.floatConstants, fn, a, b);
  if (!against) return `${maths.minMax(scope.prelude, fn, held, lanes)}(${scope.c(a)}, ${scope.c(b)})`;
  const [x, c] = [scope.c(against.value), scope.c(against.constant)];
  const comparison = `${x} ${against.comparison} ${c}`;
  if (lanes === 1) return `${comparison} ? ${c} : ${x}`;
  // Ties are between equal bits, or zeros of which the constant is to win.
  if (against.comparison === '<' || against.comparison === '>')
    return `${vectors.beyond(scope.prelude, fn, held, lanes)}(${c}, ${x})`;
  return `${vectors.select(scope.prelude, held, lanes)}(${comparison}, ${c}, ${x})`;
}

/** a * b + c with one rounding, where both ops are `fast`, the product has no other use and the CPU fuses. */
function contracted(scope: Scope, inst: Inst<'binary'>): string | undefined {
  const { scalar, lanes } = inst.result.type;
  if (!scope.target.features.has('fma') || (scalar !== 'f32' && scalar !== 'f64')) return undefined;
  const operands = contractedOperands(inst, scope.uses, scope.fastProducts, (value) => scope.c(value));
  return operands && `${maths.fma(scope.prelude, scalar, lanes)}(${operands.join(', ')})`;
}

function integerBinary(scope: Scope, fn: BinaryFn, a: KValue, b: KValue, result: KValue): string {
  const { scalar, lanes } = result.type;
  const held = heldAs(scalar as Exclude<ScalarType, 'bool'>);
  const type = scope.prelude.type(held, lanes);
  // C computes what is narrower than int in int: go through a type whose wrapping is defined.
  const wide = lanes === 1 && scalarBits[scalar] < 32 ? 'u32' : unsignedOf(held);
  const unsigned = scope.prelude.type(wide, lanes);
  const [x, y] = [scope.c(a), scope.c(b)];
  switch (fn) {
    case 'add':
    case 'sub':
    case 'mul': {
      const operator = { add: '+', sub: '-', mul: '*' }[fn];
      if (lanes === 1 && isSignedScalar(scalar) && staysInside(fn, a, b, result)) {
        return scalarBits[scalar] < 32 ? `(${type})(${x} ${operator} ${y})` : `${x} ${operator} ${y}`;
      }
      return `(${type})((${unsigned})${x} ${operator} (${unsigned})${y})`;
    }
    case 'div':
    case 'rem': {
      const operator = fn === 'div' ? '/' : '%';
      const positive = (value: KValue) => (rangeOf(value)?.min ?? -1) >= 0;
      if (isSignedScalar(scalar) && positive(a) && positive(b))
        return `(${type})((${unsigned})${x} ${operator} (${unsigned})${y})`;
      return `(${type})(${x} ${operator} ${y})`;
    }
    case 'min':
    case 'max':
      return `${maths.minMax(scope.prelude, fn, held, lanes)}(${x}, ${y})`;
    case 'and':
      return `(${type})(${x} & ${y})`;
    case 'or':
      return `(${type})(${x} | ${y})`;
    case 'xor':
      return `(${type})(${x} ^ ${y})`;
    case 'shl':
      return `(${type})((${unsigned})${x} << ${lanes === 1 ? y : `(${unsigned})${y}`})`;
    case 'shr':
      return `(${type})(${x} >> ${y})`;
    case 'mulhi': {
      const callee = maths.mulHigh(scope.prelude, held);
      return `${lanes === 1 ? callee : vectors.lanewise(scope.prelude, callee, held, [held, held], lanes)}(${x}, ${y})`;
    }
    default:
      return fn satisfies never;
  }
}

export function fma(scope: Scope, type: KType, a: string, b: string, c: string): string {
  const { scalar, lanes } = type;
  if (scalar === 'f32' || scalar === 'f64') return `${maths.fma(scope.prelude, scalar, lanes)}(${a}, ${b}, ${c})`;
  if (!isHalf(scalar)) throw scope.unexpected(`fma on ${scalar}`);
  const callee = halves.halfFma(scope.prelude, scalar);
  return `${lanes === 1 ? callee : vectors.lanewise(scope.prelude, callee, 'f32', ['f32', 'f32', 'f32'], lanes)}(${a}, ${b}, ${c})`;
}

export function compare(scope: Scope, inst: Inst<'compare'>): void {
  const { scalar, lanes } = inst.a.type;
  if (scalar === 'bool' && lanes > 1) {
    const { maskBits } = scope.ref(inst.a);
    scope.let(inst.result, boolCompare[inst.fn](scope.c(inst.a), scope.as(inst.b, maskBits)), maskBits);
    return;
  }
  const operator = compareOperators[inst.fn];
  if (lanes > 1) scope.comparisons.set(inst.result, inst);
  const bits = scalar === 'bool' ? 32 : (scalarBits[heldAs(scalar)] as MaskBits);
  scope.let(inst.result, `${scope.c(inst.a)} ${operator} ${scope.c(inst.b)}`, bits);
}

export function select(scope: Scope, inst: Inst<'select'>): void {
  const { scalar, lanes } = inst.result.type;
  if (scalar === 'bool' && lanes > 1) {
    const { maskBits } = scope.ref(inst.a);
    const [a, b] = [scope.c(inst.a), scope.as(inst.b, maskBits)];
    if (inst.condition.type.lanes === 1) scope.let(inst.result, `${scope.c(inst.condition)} ? ${a} : ${b}`, maskBits);
    else {
      const mask = scope.as(inst.condition, maskBits);
      scope.let(inst.result, `${mask} & ${a} | ~${mask} & ${b}`, maskBits);
    }
    return;
  }
  const [a, b] = [scope.c(inst.a), scope.c(inst.b)];
  if (inst.condition.type.lanes === 1) {
    scope.let(inst.result, `${scope.c(inst.condition)} ? ${a} : ${b}`);
    return;
  }
  const held = heldAs(scalar as Exclude<ScalarType, 'bool'>);
  const test = scope.comparisons.get(inst.condition);
  const compared = test && heldAs(test.a.type.scalar as Exclude<ScalarType, 'bool'>);
  if (test && compared && scalarBits[compared] === scalarBits[held]) {
    scope.let(inst.result, chosen(scope, inst, test, compared, held));
    return;
  }
  const mask = scope.as(inst.condition, scalarBits[held] as MaskBits);
  scope.let(inst.result, `${vectors.select(scope.prelude, held, lanes)}(${mask}, ${a}, ${b})`);
}

/** A choice by a comparison, in one step with it. */
function chosen(
  scope: Scope,
  { a, b, result }: Inst<'select'>,
  test: Inst<'compare'>,
  compared: CScalar,
  held: CScalar,
): string {
  const { lanes } = result.type;
  // x < y ? y : x is what the maximum of machines is.
  if (isFloatScalar(held) && (test.fn === 'lt' || test.fn === 'gt')) {
    const [straight, crossed] = [test.a === a && test.b === b, test.a === b && test.b === a];
    if (straight || crossed) {
      const fn = (test.fn === 'lt') === straight ? 'min' : 'max';
      return `${vectors.beyond(scope.prelude, fn, held, lanes)}(${scope.c(a)}, ${scope.c(b)})`;
    }
  }
  const operands = [test.a, test.b, a, b].map((value) => scope.c(value));
  return `${vectors.where(scope.prelude, test.fn, compared, held, lanes)}(${operands.join(', ')})`;
}

const boolCompare: Readonly<Record<CompareFn, (a: string, b: string) => string>> = {
  eq: (a, b) => `~(${a} ^ ${b})`,
  ne: (a, b) => `${a} ^ ${b}`,
  lt: (a, b) => `~${a} & ${b}`,
  le: (a, b) => `~${a} | ${b}`,
  gt: (a, b) => `${a} & ~${b}`,
  ge: (a, b) => `${a} | ~${b}`,
};
