/** What `verify` demands of an instruction: the types of operands and results, and where and on what it may stand. */
import { isEngineInst } from '../engines.js';
import { byteMix, isInstruction, type Target } from '../target.js';
import { printType } from '../text.js';
import {
  type Carried,
  type HelperFunction,
  isFloatScalar,
  isIndex,
  isIntScalar,
  isMathFn,
  type KernelFunction,
  type KInst,
  type KMemory,
  type KType,
  type KValue,
  ktype,
  type ScalarType,
  sameType,
  scalarBits,
} from '../types.js';
import { engineProblem } from './engines.js';

/** Where an instruction stands. */
export interface Context {
  readonly kernel: KernelFunction;
  readonly memories: ReadonlySet<KMemory>;
  readonly target: Target | undefined;
  /** Only what renderers of the target accept. */
  readonly legal: boolean;
  /** Helpers that are defined before. */
  readonly helpers: ReadonlySet<HelperFunction>;
  readonly inHelper: boolean;
}

type Problem = string | undefined;

/** Why an instruction is wrong by itself, or undefined; its operands are visible, its blocks are not looked into. */
export function instructionProblem(inst: KInst, context: Context): Problem {
  const { kernel, target, legal, inHelper } = context;
  if (isEngineInst(inst)) {
    return inHelper ? impure : engineProblem(inst, kernel, context.memories, target);
  }
  switch (inst.op) {
    case 'const':
      return constantProblem(inst);
    case 'scalar':
      if (inHelper) return 'a helper reads a parameter of the kernel';
      if (!kernel.params.includes(inst.param)) return `${inst.param.name} is not declared`;
      return differs(inst.result.type, ktype(inst.param.scalar), 'the result');
    case 'builtin':
      if (inHelper) return 'a helper depends on the invocation';
      if (inst.dim !== 0 && inst.dim !== 1 && inst.dim !== 2) return 'dimension is not 0, 1 or 2';
      if (inst.builtin.startsWith('subgroup') && kernel.subgroupSize === undefined) return 'subgroupSize is not set';
      if (inst.result.type.lanes !== 1) return 'a builtin is a scalar';
      return refuses(inst.result.type.scalar, isWord);
    case 'unary': {
      const { scalar } = inst.a.type;
      const isExpanded = !legal || !isMathFn(inst.fn) || (target !== undefined && isInstruction(inst, target));
      return (
        refuses(scalar, unaryAccepts(inst.fn)) ??
        (isExpanded ? undefined : `${inst.fn} must have been expanded`) ??
        lacksArithmetic(scalar, context) ??
        differs(inst.result.type, inst.a.type, 'the result')
      );
    }
    case 'binary': {
      const { scalar } = inst.a.type;
      return (
        refuses(scalar, binaryAccepts(inst.fn)) ??
        (legal && isMathFn(inst.fn) ? `${inst.fn} must have been expanded` : undefined) ??
        lacksArithmetic(scalar, context) ??
        differs(inst.b.type, inst.a.type, 'the second operand') ??
        differs(inst.result.type, inst.a.type, 'the result')
      );
    }
    case 'fma': {
      const { type } = inst.a;
      return (
        refuses(type.scalar, isFloatScalar) ??
        lacksArithmetic(type.scalar, context) ??
        anyDiffers([inst.b, inst.c, inst.result], type, 'an operand or the result')
      );
    }
    case 'dot4': {
      const { lanes } = inst.a.type;
      const isThere = !legal || target?.byteDots?.has(byteMix(inst.left, inst.right)) === true;
      return (
        anyDiffers([inst.a, inst.b], ktype('u32', lanes), 'four bytes') ??
        anyDiffers([inst.c, inst.result], ktype('i32', lanes), 'the sum') ??
        (isThere ? undefined : 'the target has no such dot4')
      );
    }
    case 'compare': {
      const { scalar, lanes } = inst.a.type;
      if (scalar === 'bool' && inst.fn !== 'eq' && inst.fn !== 'ne') return `${inst.fn} has no meaning on bool`;
      return (
        lacksArithmetic(scalar, context) ??
        differs(inst.b.type, inst.a.type, 'the second operand') ??
        differs(inst.result.type, ktype('bool', lanes), 'the result')
      );
    }
    case 'select': {
      const { scalar, lanes } = inst.condition.type;
      if (scalar !== 'bool') return 'the condition is no bool';
      if (lanes !== 1 && lanes !== inst.a.type.lanes) return 'the condition has the wrong lanes';
      return (
        differs(inst.b.type, inst.a.type, 'the second value') ?? differs(inst.result.type, inst.a.type, 'the result')
      );
    }
    case 'convert':
      return inst.result.type.lanes === inst.a.type.lanes ? undefined : 'a conversion keeps the lanes';
    case 'bitcast': {
      const bits = (type: KType): number => scalarBits[type.scalar] * type.lanes;
      if (inst.a.type.scalar === 'bool' || inst.result.type.scalar === 'bool') return 'a bool has no bits';
      return bits(inst.a.type) === bits(inst.result.type) ? undefined : 'a bitcast keeps the bits';
    }
    case 'splat':
      return differs(inst.a.type, ktype(inst.result.type.scalar), 'the operand');
    case 'extract': {
      const { lane, a } = inst;
      if (!(Number.isInteger(lane) && lane >= 0 && lane < a.type.lanes)) return `lane ${lane} of ${a.type.lanes}`;
      return differs(inst.result.type, ktype(a.type.scalar), 'the result');
    }
    case 'build':
      if (inst.elements.length !== inst.result.type.lanes) return 'as many elements as lanes';
      return anyDiffers(inst.elements, ktype(inst.result.type.scalar), 'an element');
    case 'assume':
      if (inst.result.range === undefined) return 'an assumption states a range';
      return differs(inst.result.type, inst.a.type, 'the result');
    case 'load':
    case 'store':
    case 'atomic':
    case 'atomic_compare_exchange':
      return accessProblem(inst, context);
    case 'subgroup': {
      const { delta, a } = inst;
      if (inHelper) return impure;
      if (kernel.subgroupSize === undefined) return 'subgroupSize is not set';
      if (!(Number.isInteger(delta) && delta >= 0 && delta < kernel.subgroupSize)) {
        return 'delta is not within the subgroup';
      }
      return (
        refuses(a.type.scalar, isNumeric) ??
        lacksArithmetic(a.type.scalar, context) ??
        differs(inst.result.type, a.type, 'the result')
      );
    }
    case 'call':
      return callProblem(inst, context);
    case 'for': {
      const { step, index, lower, upper } = inst;
      if (!Number.isSafeInteger(step) || step <= 0) return `step ${step} is not positive`;
      if (!isIndex(index)) return 'the index is no integer';
      return (
        differs(lower.type, index.type, 'the lower bound') ??
        differs(upper.type, index.type, 'the upper bound') ??
        carriedProblem(inst.carried)
      );
    }
    case 'loop':
      return carriedProblem(inst.carried);
    case 'if':
      return differs(inst.condition.type, ktype('bool'), 'the condition');
    case 'barrier':
      return inHelper ? impure : undefined;
    default:
      return inst satisfies never;
  }
}

const impure = 'a helper is not pure';

/** Why a type is not the expected one, or undefined. */
export const differs = (found: KType, expected: KType, what: string): Problem =>
  sameType(found, expected) ? undefined : `${what} is ${printType(found)}, expected ${printType(expected)}`;

function anyDiffers(values: readonly KValue[], expected: KType, what: string): Problem {
  for (const { type } of values) {
    const problem = differs(type, expected, what);
    if (problem !== undefined) return problem;
  }
  return undefined;
}

const refuses = (scalar: ScalarType, accepts: (scalar: ScalarType) => boolean): Problem =>
  accepts(scalar) ? undefined : `the op has no meaning on ${scalar}`;

/** Computing on a type that the target only stores is not legal. */
function lacksArithmetic(scalar: ScalarType, { legal, target }: Context): Problem {
  if (!legal || !target || scalar === 'bool' || target.arithmetic.has(scalar)) return undefined;
  return `${target.backend} has no arithmetic on ${scalar}`;
}

const isNumeric = (scalar: ScalarType): boolean => scalar !== 'bool';
const isWord = (scalar: ScalarType): boolean => scalar === 'i32' || scalar === 'u32';

function constantProblem({ value, result }: KInst & { op: 'const' }): Problem {
  const { scalar } = result.type;
  if (scalar === 'bool') return value === 0 || value === 1 ? undefined : `${value} is no bool`;
  if (isFloatScalar(scalar)) return typeof value === 'number' ? undefined : 'a float constant is a number';
  if (typeof value !== 'bigint' && !Number.isSafeInteger(value)) return `${value} is no exact integer`;
  const wide = BigInt(value);
  const asType = scalar.startsWith('u') ? BigInt.asUintN : BigInt.asIntN;
  return wide === asType(scalarBits[scalar], wide) ? undefined : `${value} is out of the range of ${scalar}`;
}

function accessProblem(
  inst: KInst & { op: 'load' | 'store' | 'atomic' | 'atomic_compare_exchange' },
  { memories, inHelper }: Context,
): Problem {
  const { memory } = inst;
  if (inHelper) return impure;
  if (!memories.has(memory)) return `${memory.name} is not declared`;
  if (!isIndex(inst.index)) return 'the index is no integer';
  const access = memory.kind === 'buffer' ? memory.access : 'readwrite';
  switch (inst.op) {
    case 'load':
      if (access === 'write') return `${memory.name} is only written`;
      return inst.result.type.scalar === memory.scalar ? undefined : `${memory.name} holds ${memory.scalar}`;
    case 'store':
      if (access === 'read') return `${memory.name} is only read`;
      return inst.value.type.scalar === memory.scalar ? undefined : `${memory.name} holds ${memory.scalar}`;
    case 'atomic':
    case 'atomic_compare_exchange': {
      if (access !== 'readwrite') return `${memory.name} is not read and written`;
      if (memory.kind === 'array' && memory.space === 'private') return 'private memory has no atomics';
      const values = inst.op === 'atomic' ? [inst.value, inst.result] : [inst.value, inst.result, inst.expected];
      return refuses(memory.scalar, isWord) ?? anyDiffers(values, ktype(memory.scalar), 'an operand or the result');
    }
    default:
      return inst satisfies never;
  }
}

function callProblem({ callee, args, result }: KInst & { op: 'call' }, { helpers }: Context): Problem {
  if (!helpers.has(callee)) return `helper ${callee.name} is not defined before`;
  if (args.length !== callee.params.length) return `${callee.name} takes ${callee.params.length} arguments`;
  for (const [i, { type }] of args.entries()) {
    const problem = differs(type, callee.params[i].type, `argument ${i}`);
    if (problem !== undefined) return problem;
  }
  return differs(result.type, callee.result, 'the result');
}

function carriedProblem(carried: readonly Carried[]): Problem {
  for (const { initial, inner, result } of carried) {
    const problem =
      differs(inner.type, initial.type, 'the carried value') ?? differs(result.type, initial.type, 'the result');
    if (problem !== undefined) return problem;
  }
  return undefined;
}

function unaryAccepts(fn: (KInst & { op: 'unary' })['fn']): (scalar: ScalarType) => boolean {
  switch (fn) {
    case 'neg':
    case 'abs':
      return isNumeric;
    case 'not':
      return (scalar) => !isFloatScalar(scalar);
    case 'popcount':
    case 'clz':
      return isIntScalar;
    default:
      return isFloatScalar;
  }
}

function binaryAccepts(fn: (KInst & { op: 'binary' })['fn']): (scalar: ScalarType) => boolean {
  switch (fn) {
    case 'add':
    case 'sub':
    case 'mul':
    case 'div':
    case 'rem':
    case 'min':
    case 'max':
      return isNumeric;
    case 'and':
    case 'or':
    case 'xor':
      return (scalar) => !isFloatScalar(scalar);
    case 'shl':
    case 'shr':
      return isIntScalar;
    case 'mulhi':
      return (scalar) => scalar === 'i32' || scalar === 'u32';
    case 'pow':
    case 'atan2':
      return isFloatScalar;
    default:
      return fn satisfies never;
  }
}
