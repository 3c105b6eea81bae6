/**
 * Operations and conversions as MSL expressions.
 *
 * Integer arithmetic that may wrap is done unsigned, as MSL is C++; where ranges prove that it does not it stays signed,
 * because that lets compilers follow addresses. Half-precision division and square root go through float, which makes
 * them exact (24 >= 2 * 11 + 2) whatever the device offers for half.
 */
import {
  type BinaryFn,
  type CompareFn,
  isFloatScalar,
  isIntScalar,
  isMathFn,
  isSignedScalar,
  type KType,
  type KValue,
  scalarBits,
} from '../../compiler/kernel/types.js';
import { contractedOperands, oneSidedMinMax, staysInside } from '../common/c_family.js';
import { unexpanded } from '../common/names.js';
import { compareOperators } from '../common/operators.js';
import { choose } from './library.js';
import { literal, perLane, typeName, withScalar, wrappingType } from './msl.js';
import { fmodName, type Inst, type Scope } from './scope.js';

const roundings = { floor: 'floor', ceil: 'ceil', trunc: 'trunc', round: 'rint' } as const;

export function unary(scope: Scope, inst: Inst<'unary'>): string {
  const { fn } = inst;
  if (isMathFn(fn)) throw unexpanded(scope.kernel, 'metal', fn);
  const { type } = inst.result;
  const float = isFloatScalar(type.scalar);
  const a = scope.value(inst.a);
  switch (fn) {
    case 'neg':
      return float ? `-${a}` : negated(scope, inst.a);
    case 'abs':
      if (float) return `fabs(${a})`;
      if (!isSignedScalar(type.scalar)) return a;
      return choose(type, type.lanes, `${a} < ${literal(type, 0)}`, negated(scope, inst.a), a);
    case 'not':
      return type.scalar === 'bool' ? `!${a}` : `${typeName(type)}(~${a})`;
    case 'floor':
    case 'ceil':
    case 'trunc':
    case 'round':
      if (!float) throw scope.unexpected(`${fn} on ${type.scalar}`);
      return `${roundings[fn]}(${a})`;
    case 'sqrt':
      if (!float) throw scope.unexpected(`${fn} on ${type.scalar}`);
      return throughFloat(type, [a], ([x]) => `precise::sqrt(${x})`);
    case 'popcount':
    case 'clz':
      return `${fn}(${a})`;
    default:
      return fn satisfies never;
  }
}

/** 0 - a, wrapping. */
const negated = (scope: Scope, a: KValue): string =>
  `${typeName(a.type)}(${literal(wrappingType(a.type), 0)} - ${scope.wrapping(a)})`;

/** An f32 computation on values of a float type, rounded to it once. */
function throughFloat(type: KType, operands: readonly string[], text: (operands: readonly string[]) => string): string {
  if (type.scalar === 'f32') return text(operands);
  const float = typeName(withScalar(type, 'f32'));
  return `${typeName(type)}(${text(operands.map((operand) => `${float}(${operand})`))})`;
}

const boolOperators: Partial<Record<BinaryFn, string>> = { and: '&', or: '|', xor: '^', min: '&', max: '|' };

export function binary(scope: Scope, inst: Inst<'binary'>): string {
  const { fn, result } = inst;
  if (isMathFn(fn)) throw unexpanded(scope.kernel, 'metal', fn);
  const { scalar } = result.type;
  if (scalar === 'bool') {
    const operator = boolOperators[fn as BinaryFn];
    if (operator === undefined) throw scope.unexpected(`${fn} on bool`);
    return `${scope.value(inst.a)} ${operator} ${scope.value(inst.b)}`;
  }
  return isFloatScalar(scalar)
    ? floatBinary(scope, inst, fn as BinaryFn)
    : integerBinary(scope, fn as BinaryFn, inst.a, inst.b, result);
}

function floatBinary(scope: Scope, inst: Inst<'binary'>, fn: BinaryFn): string {
  const { a, b, result } = inst;
  const { type } = result;
  const [x, y] = [scope.value(a), scope.value(b)];
  switch (fn) {
    case 'add':
    case 'sub':
      return contracted(scope, inst) ?? `${x} ${fn === 'add' ? '+' : '-'} ${y}`;
    case 'mul':
      if (inst.fast) scope.fastProducts.set(result, inst);
      return `${x} * ${y}`;
    case 'div':
      return throughFloat(type, [x, y], ([p, q]) => `${p} / ${q}`);
    case 'rem':
      // fmod of two halves is a half, so going through float is exact.
      scope.usesFmod = true;
      return perLane(type, (c) =>
        throughFloat({ scalar: type.scalar, lanes: 1 }, [x + c, y + c], ([p, q]) => `${fmodName}(${p}, ${q})`),
      );
    case 'min':
    case 'max': {
      const against = oneSidedMinMax(scope.floatConstants, fn, a, b);
      if (!against) return `${scope.use(fn, type)}(${x}, ${y})`;
      const [value, constant] = [scope.value(against.value), scope.value(against.constant)];
      return choose(type, type.lanes, `${value} ${against.comparison} ${constant}`, constant, value);
    }
    case 'and':
    case 'or':
    case 'xor':
    case 'shl':
    case 'shr':
    case 'mulhi':
      throw scope.unexpected(`${fn} on ${type.scalar}`);
    default:
      return fn satisfies never;
  }
}

/** a * b + c with one rounding, where both ops are `fast` and the product has no other use. */
function contracted(scope: Scope, inst: Inst<'binary'>): string | undefined {
  const operands = contractedOperands(inst, scope.uses, scope.fastProducts, (value) => scope.value(value));
  return operands && `fma(${operands.join(', ')})`;
}

function integerBinary(scope: Scope, fn: BinaryFn, a: KValue, b: KValue, result: KValue): string {
  const { type } = result;
  const t = typeName(type);
  const narrow = type.lanes === 1 && scalarBits[type.scalar] < 32;
  const [x, y] = [scope.value(a), scope.value(b)];
  /** An expression of the operands' own type; C++ computes narrow scalars in int. */
  const own = (text: string): string => (narrow ? `${t}(${text})` : text);
  const wrapping = (operator: string): string =>
    isSignedScalar(type.scalar) || narrow
      ? `${t}(${scope.wrapping(a)} ${operator} ${scope.wrapping(b)})`
      : `${x} ${operator} ${y}`;
  switch (fn) {
    case 'add':
    case 'sub':
    case 'mul': {
      const operator = { add: '+', sub: '-', mul: '*' }[fn];
      return staysInside(fn, a, b, result) ? own(`${x} ${operator} ${y}`) : wrapping(operator);
    }
    case 'div':
      return own(`${x} / ${y}`);
    case 'rem':
      return own(`${x} % ${y}`);
    case 'min':
    case 'max':
      if (scalarBits[type.scalar] < 64) return `${fn}(${x}, ${y})`;
      return choose(type, type.lanes, `${x} ${fn === 'min' ? '<' : '>'} ${y}`, x, y);
    case 'and':
      return own(`${x} & ${y}`);
    case 'or':
      return own(`${x} | ${y}`);
    case 'xor':
      return own(`${x} ^ ${y}`);
    case 'shl':
      return wrapping('<<');
    case 'shr':
      return own(`${x} >> ${y}`);
    case 'mulhi':
      return `mulhi(${x}, ${y})`;
    default:
      return fn satisfies never;
  }
}

export function fma(scope: Scope, inst: Inst<'fma'>): string {
  return `fma(${scope.value(inst.a)}, ${scope.value(inst.b)}, ${scope.value(inst.c)})`;
}

const boolCompare: Readonly<Record<CompareFn, (a: string, b: string) => string>> = {
  eq: (a, b) => `!(${a} ^ ${b})`,
  ne: (a, b) => `${a} ^ ${b}`,
  lt: (a, b) => `!${a} & ${b}`,
  le: (a, b) => `!${a} | ${b}`,
  gt: (a, b) => `${a} & !${b}`,
  ge: (a, b) => `${a} | !${b}`,
};

export function compare(scope: Scope, { fn, a, b }: Inst<'compare'>): string {
  const [x, y] = [scope.value(a), scope.value(b)];
  return a.type.scalar === 'bool' ? boolCompare[fn](x, y) : `${x} ${compareOperators[fn]} ${y}`;
}

export function select(scope: Scope, { condition, a, b, result }: Inst<'select'>): string {
  const [c, x, y] = [scope.value(condition), scope.value(a), scope.value(b)];
  return choose(result.type, condition.type.lanes, c, x, y);
}

export function convert(scope: Scope, { a, result: { type } }: Inst<'convert'>): string {
  const from = a.type;
  const text = scope.value(a);
  const t = typeName(type);
  if (type.scalar === from.scalar) return text;
  if (type.scalar === 'bool') return `${text} != ${literal(from, 0)}`;
  if (from.scalar === 'bool') return choose(type, type.lanes, text, literal(type, 1), literal(type, 0));
  const float = typeName(withScalar(type, 'f32'));
  if (isIntScalar(type.scalar)) {
    if (isIntScalar(from.scalar)) return `${t}(${text})`;
    return `${scope.use('to', type)}(${from.scalar === 'f16' ? `${float}(${text})` : text})`;
  }
  const wide = isIntScalar(from.scalar) && scalarBits[from.scalar] === 64;
  const single = wide ? `${scope.use('to_float', from)}(${text})` : text;
  if (type.scalar === 'f32') return wide ? single : `${float}(${text})`;
  // Integers that f32 rounds lie beyond f16's range, so rounding twice is harmless.
  return `${t}(${wide || from.scalar === 'f32' ? single : `${float}(${text})`})`;
}

export function bitcast(scope: Scope, { a, result }: Inst<'bitcast'>): string {
  if (a.type.scalar === 'bool' || result.type.scalar === 'bool') throw scope.unexpected('bitcast of bool');
  return `as_type<${typeName(result.type)}>(${scope.value(a)})`;
}
