/** Operations and conversions as WGSL expressions, with what WGSL leaves open decided by functions of wgsl.ts. */
import {
  type CompareFn,
  isFloatScalar,
  isIntScalar,
  isMathFn,
  type KInst,
  type KType,
  type KValue,
} from '../../compiler/kernel/types.js';
import { unexpanded } from '../common/names.js';
import { compareOperators } from '../common/operators.js';
import type { Scope } from './scope.js';
import { isVector, literal, typeName, withScalar } from './wgsl.js';

export function unary(scope: Scope, inst: Extract<KInst, { op: 'unary' }>): string {
  const { fn, a } = inst;
  if (isMathFn(fn)) throw unexpanded(scope.kernel, 'webgpu', fn);
  const text = scope.guards.operands(inst).a ? scope.hidden(a) : scope.runtime(a);
  const { scalar } = a.type;
  switch (fn) {
    case 'neg':
      return scalar === 'u32' ? `(~${text}) + ${scope.one(a.type)}` : `-${text}`;
    case 'abs':
      return scalar === 'u32' ? text : `abs(${text})`;
    case 'not':
      return scalar === 'bool' ? `!${text}` : `~${text}`;
    case 'floor':
    case 'ceil':
    case 'round':
    case 'trunc':
      return isFloatScalar(scalar) ? `${fn}(${text})` : text;
    case 'sqrt':
      return `sqrt(${text})`;
    case 'popcount':
      return `countOneBits(${text})`;
    case 'clz':
      return `countLeadingZeros(${text})`;
    default:
      return fn satisfies never;
  }
}

export function binary(scope: Scope, inst: Extract<KInst, { op: 'binary' }>): string {
  const { fn, a, b } = inst;
  if (isMathFn(fn)) throw unexpanded(scope.kernel, 'webgpu', fn);
  const { scalar } = a.type;
  const float = isFloatScalar(scalar);
  const infix = (operator: string, divides = false): string => {
    const hide = scope.guards.operands(inst);
    const [left, right] = scope.operands(a, b, divides);
    return `${hide.a ? scope.hidden(a) : left} ${operator} ${hide.b ? scope.hidden(b) : right}`;
  };
  switch (fn) {
    case 'add':
      return infix('+');
    case 'sub':
      return infix('-');
    case 'mul':
      return infix('*');
    case 'div':
      return infix('/', true);
    case 'rem':
      if (float) return `${scope.use('fmod', a.type)}(${scope.value(a)}, ${scope.value(b)})`;
      return infix('%', true);
    case 'min':
    case 'max':
      return minMax(scope, fn, a, b);
    case 'and':
      return infix('&');
    case 'or':
      return infix('|');
    case 'xor':
      return infix(scalar === 'bool' ? '!=' : '^');
    case 'shl':
    case 'shr': {
      const amount = withScalar(b.type, 'u32');
      const constant = scope.constants.get(b);
      const known = constant !== undefined && Number(constant) >= 0 && Number(constant) < 32;
      const one = known ? `${Number(constant)}u` : undefined;
      const text =
        one !== undefined
          ? isVector(amount)
            ? `${typeName(amount)}(${one})`
            : one
          : b.type.scalar === 'u32'
            ? scope.runtime(b)
            : `${typeName(amount)}(${scope.runtime(b)})`;
      return `${scope.runtime(a)} ${fn === 'shl' ? '<<' : '>>'} ${text}`;
    }
    case 'mulhi':
      return `${scope.use('mulhi', a.type)}(${scope.value(a)}, ${scope.value(b)})`;
    default:
      return fn satisfies never;
  }
}

/** WGSL's own min and max may drop a NaN: test the bits, but not of a constant. */
function minMax(scope: Scope, fn: 'min' | 'max', a: KValue, b: KValue): string {
  const [left, right] = scope.operands(a, b);
  const { scalar } = a.type;
  if (scalar === 'bool') return `${left} ${fn === 'min' ? '&' : '|'} ${right}`;
  if (!isFloatScalar(scalar)) return `${fn}(${left}, ${right})`;
  const never = (value: KValue): boolean => {
    const constant = scope.constants.get(value);
    return constant !== undefined && !Number.isNaN(Number(constant));
  };
  if (never(a) && never(b)) return `${fn}(${left}, ${right})`;
  if (never(b)) return `select(${fn}(${left}, ${right}), ${left}, ${scope.use('is_nan', a.type)}(${left}))`;
  if (never(a)) return `select(${fn}(${left}, ${right}), ${right}, ${scope.use('is_nan', a.type)}(${right}))`;
  return `${scope.use(fn, a.type)}(${left}, ${right})`;
}

export function compare(scope: Scope, fn: CompareFn, a: KValue, b: KValue): string {
  const { scalar } = a.type;
  if (a === b && isFloatScalar(scalar) && (fn === 'ne' || fn === 'eq')) {
    const test = `${scope.use('is_nan', a.type)}(${scope.value(a)})`;
    return fn === 'ne' ? test : `!${test}`;
  }
  const [left, right] = scope.operands(a, b);
  if (scalar === 'bool' && fn !== 'eq' && fn !== 'ne') {
    const u = typeName(withScalar(a.type, 'u32'));
    return `${u}(${left}) ${compareOperators[fn]} ${u}(${right})`;
  }
  // Compilers turn `!=` into an ordered comparison, which is false with NaN.
  if (fn === 'ne' && isFloatScalar(scalar)) return `!(${left} == ${right})`;
  return `${left} ${compareOperators[fn]} ${right}`;
}

export function convert(scope: Scope, a: KValue, to: KType): string {
  const from = a.type.scalar;
  const text = scope.runtime(a);
  if (to.scalar === from) return text;
  if (to.scalar === 'bool') {
    const zero = literal(from, 0) as string;
    return `!(${text} == ${isVector(to) ? `${scope.type(a.type)}(${zero})` : zero})`;
  }
  if (isFloatScalar(from) && isIntScalar(to.scalar)) {
    return `${scope.use(to.scalar === 'i32' ? 'to_i32' : 'to_u32', a.type)}(${text})`;
  }
  if (to.scalar === 'f16' && from !== 'bool') {
    const f32 = withScalar(a.type, 'f32');
    // Integers that f32 rounds lie beyond f16's range, so rounding twice is harmless.
    return `${scope.use('round_f16', f32)}(${from === 'f32' ? text : `${typeName(f32)}(${text})`})`;
  }
  // Below 2^24 every integer is an f32; above, drivers round u32 as they like.
  const small = a.range !== undefined && a.range.max <= 2 ** 24;
  if (from === 'u32' && to.scalar === 'f32' && !small) return `${scope.use('u32_to_f32', a.type)}(${text})`;
  return `${scope.type(to)}(${text})`;
}
