/**
 * Checks that a kernel is well formed: scoping, types, ranges and bounds (`bounds.ts`), uniform barriers
 * (`uniformity.ts`), and the limits of its target. Producers call it in tests and, per stage, in the compiler; what
 * fails here is a bug of ours, reported as a TuttiError E_IR that names kernel and instruction.
 */
import { TuttiError } from '../error.js';
import { checkBounds } from './bounds.js';
import { isEngineInst } from './engines.js';
import { printInstruction, printType } from './print.js';
import { integerBounds } from './semantics.js';
import { byteMix, isInstruction, type Target } from './target.js';
import {
  type Carried,
  type HelperFunction,
  isFloatScalar,
  isIntScalar,
  isMathFn,
  type KBlock,
  type KernelFunction,
  type KInst,
  type KMemory,
  type KType,
  type KValue,
  ktype,
  type ScalarType,
  sameType,
  scalarBits,
} from './types.js';
import { checkUniformity } from './uniformity.js';
import { mapProblem, signalProblem } from './verify_bulk.js';
import { engineProblem, tileProblem } from './verify_engines.js';
import { bodyValuesOf, operandsOf, resultsOf } from './walk.js';

export interface VerifyOptions {
  /** `scheduled`: every op may occur. `legal`: only what renderers of `target` accept. */
  readonly stage: 'scheduled' | 'legal';
  readonly target?: Target;
}

/** Throws TuttiError E_IR if `kernel` breaks a rule of the IR, of the stage or of the target. */
export function verify(kernel: KernelFunction, options: VerifyOptions): void {
  new Verifier(kernel, options).run();
}

class Verifier {
  readonly #kernel: KernelFunction;
  readonly #legal: boolean;
  readonly #target: Target | undefined;
  readonly #byId = new Map<number, KValue>();
  readonly #visible = new Set<KValue>();
  readonly #memories: ReadonlySet<KMemory>;
  readonly #helpers = new Set<HelperFunction>();
  #inHelper = false;

  constructor(kernel: KernelFunction, { stage, target }: VerifyOptions) {
    this.#kernel = kernel;
    this.#legal = stage === 'legal';
    this.#target = target;
    this.#memories = new Set<KMemory>([...kernel.params.filter((param) => param.kind === 'buffer'), ...kernel.arrays]);
  }

  run(): void {
    this.#declarations();
    if (this.#target) this.#limits(this.#target);
    this.#inHelper = true;
    for (const helper of this.#kernel.helpers) this.#helper(helper);
    this.#inHelper = false;
    this.#block(this.#kernel.body, []);
    const report = (inst: KInst, message: string): never => this.#fail(message, inst);
    checkBounds(this.#kernel, report);
    checkUniformity(this.#kernel, report);
  }

  #fail(message: string, inst?: KInst): never {
    const where = inst === undefined ? '' : ` in '${printInstruction(inst)}'`;
    throw new TuttiError('E_IR', `${message}${where}`, { subject: `kernel ${this.#kernel.name}` });
  }

  #require(condition: boolean, message: string, inst?: KInst): asserts condition {
    if (!condition) this.#fail(message, inst);
  }

  // --- Declarations and limits ---

  #declarations(): void {
    const { grid, workgroup, params, arrays, tiles, signals, maps, helpers, subgroupSize } = this.#kernel;
    const positive = (x: number): boolean => Number.isSafeInteger(x) && x > 0;
    this.#require(grid.length === 3 && grid.every(positive), `grid ${grid} is not three positive counts`);
    this.#require(
      workgroup.length === 3 && workgroup.every(positive),
      `workgroup ${workgroup} is not three positive counts`,
    );
    if (subgroupSize !== undefined) {
      this.#require(
        positive(subgroupSize) && (subgroupSize & (subgroupSize - 1)) === 0,
        `subgroup size ${subgroupSize}`,
      );
    }
    const names = new Set<string>();
    for (const { name } of [...params, ...arrays, ...tiles, ...signals, ...maps]) {
      this.#require(!names.has(name), `two parameters, arrays, tiles, signals or maps are called ${name}`);
      names.add(name);
    }
    const helperNames = new Set(helpers.map(({ name }) => name));
    this.#require(helperNames.size === helpers.length, 'two helpers have one name');
    for (const memory of this.#memories) {
      this.#require(positive(memory.length), `length ${memory.length} of ${memory.name} is not a positive count`);
    }
    for (const param of params) {
      if (param.kind !== 'scalar' || param.range === undefined) continue;
      const { name, scalar, range } = param;
      const sane = isIntScalar(scalar) && range.min <= range.max && range.min >= -(2 ** 31) && range.max < 2 ** 32;
      this.#require(sane, `range [${range.min}, ${range.max}] of ${name} is not an interval of ${scalar}`);
    }
    const problems = [
      ...tiles.map(tileProblem),
      ...signals.map(signalProblem),
      ...maps.map((map) => mapProblem(map, this.#kernel)),
    ];
    for (const problem of problems) if (problem) this.#fail(problem);
  }

  #limits(target: Target): void {
    const { limits } = target;
    const { grid, workgroup, params, arrays, subgroupSize } = this.#kernel;
    const bytes = ({ scalar, length }: KMemory): number => (scalarBits[scalar] / 8) * length;
    const atMost = (found: number, limit: number, what: string): void => {
      this.#require(found <= limit, `${what} is ${found}, ${target.backend} allows ${limit}`);
    };
    for (const dim of [0, 1, 2] as const) {
      atMost(grid[dim], limits.workgroupCount[dim], `grid in dimension ${dim}`);
      atMost(workgroup[dim], limits.workgroupSize[dim], `workgroup in dimension ${dim}`);
    }
    atMost(workgroup[0] * workgroup[1] * workgroup[2], limits.workgroupInvocations, 'workgroup');
    const buffers = params.filter((param) => param.kind === 'buffer');
    atMost(buffers.length, limits.storageBuffers, 'number of buffers');
    for (const buffer of buffers) atMost(bytes(buffer), limits.storageBindingBytes, `bytes of ${buffer.name}`);
    atMost((params.length - buffers.length) * 4, limits.scalarBytes, 'bytes of scalar parameters');
    const shared = arrays.filter(({ space }) => space === 'shared').reduce((sum, array) => sum + bytes(array), 0);
    atMost(shared, limits.sharedBytes, 'bytes of shared memory');
    if (subgroupSize !== undefined) {
      this.#require(target.features.has('subgroups'), `${target.backend} has no subgroups`);
      const { min, max } = target.subgroup;
      this.#require(
        subgroupSize >= min && subgroupSize <= max,
        `subgroup size ${subgroupSize} is not in [${min}, ${max}]`,
      );
    }
    if (!this.#legal) return;
    for (const memory of this.#memories) {
      this.#require(
        target.storage.has(memory.scalar),
        `${target.backend} has no storage of ${memory.scalar} (${memory.name})`,
      );
    }
  }

  // --- Scopes ---

  #helper(helper: HelperFunction): void {
    for (const param of helper.params) {
      this.#define(param);
      // Nothing ties a parameter's range to the arguments of the calls.
      this.#require(param.range === undefined, `parameter %${param.id} of helper ${helper.name} claims a range`);
    }
    this.#block(helper.body, [helper.result]);
    for (const param of helper.params) this.#visible.delete(param);
    this.#helpers.add(helper);
  }

  #define(value: KValue, inst?: KInst): void {
    const other = this.#byId.get(value.id);
    this.#require(other === undefined, `%${value.id} is defined twice`, inst);
    this.#byId.set(value.id, value);
    this.#visible.add(value);
    const { scalar, lanes } = value.type;
    this.#require([1, 2, 4, 8, 16].includes(lanes), `%${value.id} has ${lanes} lanes`, inst);
    if (value.range !== undefined) {
      const { min, max } = value.range;
      this.#require(isIntScalar(scalar), `%${value.id} is no integer but has a range`, inst);
      const [low, high] = integerBounds(scalar);
      const sane = Number.isInteger(min) && Number.isInteger(max) && min <= max && min >= low && max <= high;
      this.#require(sane, `range [${min}, ${max}] of %${value.id} is not an interval of ${scalar}`, inst);
    }
    if (!this.#legal || !this.#target) return;
    const { arithmetic, storage, vectorLanes, backend } = this.#target;
    const known = scalar === 'bool' || arithmetic.has(scalar) || storage.has(scalar);
    this.#require(known, `${backend} has no values of ${scalar}`, inst);
    this.#require(lanes <= vectorLanes, `${backend} has no vectors of ${lanes}`, inst);
  }

  #use(value: KValue | undefined, inst?: KInst): asserts value is KValue {
    this.#require(value !== undefined, 'an operand is missing', inst);
    this.#require(this.#visible.has(value), `%${value.id} is not defined here`, inst);
  }

  /** `types`: those that the block must yield. */
  #block(block: KBlock, types: readonly KType[], inst?: KInst): void {
    const defined: KValue[] = [];
    for (const inner of block.instructions) {
      this.#instruction(inner);
      defined.push(...resultsOf(inner));
    }
    this.#require(
      block.yields.length === types.length,
      `a block yields ${block.yields.length} values where ${types.length} are expected`,
      inst,
    );
    for (const [i, value] of block.yields.entries()) {
      this.#use(value, inst);
      this.#same(value.type, types[i], 'a yielded value', inst);
    }
    // A do-while's condition is the one value read after its block.
    if (inst?.op === 'loop') {
      this.#use(inst.condition, inst);
      this.#same(inst.condition.type, ktype('bool'), 'the condition', inst);
    }
    for (const value of defined) this.#visible.delete(value);
  }

  // --- Instructions ---

  #instruction(inst: KInst): void {
    for (const operand of operandsOf(inst)) this.#use(operand, inst);
    this.#types(inst);
    const inner = bodyValuesOf(inst);
    for (const value of inner) this.#define(value, inst);
    switch (inst.op) {
      case 'for':
      case 'loop':
        this.#block(
          inst.body,
          inst.carried.map((item) => item.inner.type),
          inst,
        );
        break;
      case 'if':
        for (const block of [inst.then, inst.else])
          this.#block(
            block,
            inst.results.map(({ type }) => type),
            inst,
          );
        break;
      default:
        break;
    }
    for (const value of inner) this.#visible.delete(value);
    for (const value of resultsOf(inst)) this.#define(value, inst);
  }

  #same(found: KType, expected: KType, what: string, inst?: KInst): void {
    this.#require(sameType(found, expected), `${what} is ${printType(found)}, expected ${printType(expected)}`, inst);
  }

  #scalarIn(scalar: ScalarType, accepts: (scalar: ScalarType) => boolean, inst: KInst): void {
    this.#require(accepts(scalar), `the op has no meaning on ${scalar}`, inst);
  }

  /** Computing on a type that the target only stores is not legal. */
  #computes(scalar: ScalarType, inst: KInst): void {
    if (!this.#legal || !this.#target || scalar === 'bool') return;
    this.#require(this.#target.arithmetic.has(scalar), `${this.#target.backend} has no arithmetic on ${scalar}`, inst);
  }

  #types(inst: KInst): void {
    if (isEngineInst(inst)) {
      this.#require(!this.#inHelper, 'a helper is not pure', inst);
      const problem = engineProblem(inst, this.#kernel, this.#memories, this.#target);
      if (problem) this.#fail(problem, inst);
      return;
    }
    switch (inst.op) {
      case 'const':
        this.#constant(inst);
        return;
      case 'scalar':
        this.#require(!this.#inHelper, 'a helper reads a parameter of the kernel', inst);
        this.#require(this.#kernel.params.includes(inst.param), `${inst.param.name} is not declared`, inst);
        this.#same(inst.result.type, ktype(inst.param.scalar), 'the result', inst);
        return;
      case 'builtin':
        this.#require(!this.#inHelper, 'a helper depends on the invocation', inst);
        this.#require(inst.dim === 0 || inst.dim === 1 || inst.dim === 2, 'dimension is not 0, 1 or 2', inst);
        if (inst.builtin.startsWith('subgroup'))
          this.#require(this.#kernel.subgroupSize !== undefined, 'subgroupSize is not set', inst);
        this.#require(inst.result.type.lanes === 1, 'a builtin is a scalar', inst);
        this.#scalarIn(inst.result.type.scalar, (s) => s === 'i32' || s === 'u32', inst);
        return;
      case 'unary':
        this.#scalarIn(inst.a.type.scalar, unaryAccepts(inst.fn), inst);
        this.#require(
          !this.#legal || !isMathFn(inst.fn) || (this.#target !== undefined && isInstruction(inst, this.#target)),
          `${inst.fn} must have been expanded`,
          inst,
        );
        this.#computes(inst.a.type.scalar, inst);
        this.#same(inst.result.type, inst.a.type, 'the result', inst);
        return;
      case 'binary':
        this.#scalarIn(inst.a.type.scalar, binaryAccepts(inst.fn), inst);
        this.#require(!this.#legal || !isMathFn(inst.fn), `${inst.fn} must have been expanded`, inst);
        this.#computes(inst.a.type.scalar, inst);
        this.#same(inst.b.type, inst.a.type, 'the second operand', inst);
        this.#same(inst.result.type, inst.a.type, 'the result', inst);
        return;
      case 'fma':
        this.#scalarIn(inst.a.type.scalar, isFloatScalar, inst);
        this.#computes(inst.a.type.scalar, inst);
        for (const value of [inst.b, inst.c, inst.result])
          this.#same(value.type, inst.a.type, 'an operand or the result', inst);
        return;
      case 'dot4': {
        const { lanes } = inst.a.type;
        for (const value of [inst.a, inst.b]) this.#same(value.type, ktype('u32', lanes), 'four bytes', inst);
        for (const value of [inst.c, inst.result]) this.#same(value.type, ktype('i32', lanes), 'the sum', inst);
        this.#require(
          !this.#legal || this.#target?.byteDots?.has(byteMix(inst.left, inst.right)) === true,
          'the target has no such dot4',
          inst,
        );
        return;
      }
      case 'compare':
        this.#require(
          inst.a.type.scalar !== 'bool' || inst.fn === 'eq' || inst.fn === 'ne',
          `${inst.fn} has no meaning on bool`,
          inst,
        );
        this.#computes(inst.a.type.scalar, inst);
        this.#same(inst.b.type, inst.a.type, 'the second operand', inst);
        this.#same(inst.result.type, ktype('bool', inst.a.type.lanes), 'the result', inst);
        return;
      case 'select': {
        const { scalar, lanes } = inst.condition.type;
        this.#require(scalar === 'bool', 'the condition is no bool', inst);
        this.#require(lanes === 1 || lanes === inst.a.type.lanes, 'the condition has the wrong lanes', inst);
        this.#same(inst.b.type, inst.a.type, 'the second value', inst);
        this.#same(inst.result.type, inst.a.type, 'the result', inst);
        return;
      }
      case 'convert':
        this.#require(inst.result.type.lanes === inst.a.type.lanes, 'a conversion keeps the lanes', inst);
        return;
      case 'bitcast': {
        const bits = (type: KType): number => scalarBits[type.scalar] * type.lanes;
        this.#require(inst.a.type.scalar !== 'bool' && inst.result.type.scalar !== 'bool', 'a bool has no bits', inst);
        this.#require(bits(inst.a.type) === bits(inst.result.type), 'a bitcast keeps the bits', inst);
        return;
      }
      case 'splat':
        this.#same(inst.a.type, ktype(inst.result.type.scalar), 'the operand', inst);
        return;
      case 'extract': {
        const inRange = Number.isInteger(inst.lane) && inst.lane >= 0 && inst.lane < inst.a.type.lanes;
        this.#require(inRange, `lane ${inst.lane} of ${inst.a.type.lanes}`, inst);
        this.#same(inst.result.type, ktype(inst.a.type.scalar), 'the result', inst);
        return;
      }
      case 'build':
        this.#require(inst.elements.length === inst.result.type.lanes, 'as many elements as lanes', inst);
        for (const element of inst.elements)
          this.#same(element.type, ktype(inst.result.type.scalar), 'an element', inst);
        return;
      case 'assume':
        this.#require(inst.result.range !== undefined, 'an assumption states a range', inst);
        this.#same(inst.result.type, inst.a.type, 'the result', inst);
        return;
      case 'load':
      case 'store':
      case 'atomic':
      case 'atomic_compare_exchange':
        this.#access(inst);
        return;
      case 'subgroup':
        this.#require(!this.#inHelper, 'a helper is not pure', inst);
        this.#require(this.#kernel.subgroupSize !== undefined, 'subgroupSize is not set', inst);
        this.#require(
          Number.isInteger(inst.delta) && inst.delta >= 0 && inst.delta < this.#kernel.subgroupSize!,
          'delta is not within the subgroup',
          inst,
        );
        this.#scalarIn(inst.a.type.scalar, (s) => s !== 'bool', inst);
        this.#computes(inst.a.type.scalar, inst);
        this.#same(inst.result.type, inst.a.type, 'the result', inst);
        return;
      case 'call':
        this.#call(inst);
        return;
      case 'for':
        this.#require(Number.isSafeInteger(inst.step) && inst.step > 0, `step ${inst.step} is not positive`, inst);
        this.#require(
          inst.index.type.lanes === 1 && isIntScalar(inst.index.type.scalar),
          'the index is no integer',
          inst,
        );
        this.#same(inst.lower.type, inst.index.type, 'the lower bound', inst);
        this.#same(inst.upper.type, inst.index.type, 'the upper bound', inst);
        this.#carried(inst.carried, inst);
        return;
      case 'loop':
        this.#carried(inst.carried, inst);
        return;
      case 'if':
        this.#same(inst.condition.type, ktype('bool'), 'the condition', inst);
        return;
      case 'barrier':
        this.#require(!this.#inHelper, 'a helper is not pure', inst);
        return;
      default:
        inst satisfies never;
    }
  }

  #constant(inst: KInst & { op: 'const' }): void {
    const { scalar } = inst.result.type;
    const { value } = inst;
    if (scalar === 'bool') {
      this.#require(value === 0 || value === 1, `${value} is no bool`, inst);
      return;
    }
    if (isFloatScalar(scalar)) {
      this.#require(typeof value === 'number', 'a float constant is a number', inst);
      return;
    }
    const exact = typeof value === 'bigint' || Number.isSafeInteger(value);
    this.#require(exact, `${value} is no exact integer`, inst);
    const bits = BigInt(scalarBits[scalar]);
    const wide = BigInt(value);
    const fits = scalar.startsWith('u')
      ? wide === BigInt.asUintN(Number(bits), wide)
      : wide === BigInt.asIntN(Number(bits), wide);
    this.#require(fits, `${value} is out of the range of ${scalar}`, inst);
  }

  #access(inst: KInst & { op: 'load' | 'store' | 'atomic' | 'atomic_compare_exchange' }): void {
    const { memory } = inst;
    this.#require(!this.#inHelper, 'a helper is not pure', inst);
    this.#require(this.#memories.has(memory), `${memory.name} is not declared`, inst);
    this.#require(inst.index.type.lanes === 1 && isIntScalar(inst.index.type.scalar), 'the index is no integer', inst);
    const access = memory.kind === 'buffer' ? memory.access : 'readwrite';
    switch (inst.op) {
      case 'load':
        this.#require(access !== 'write', `${memory.name} is only written`, inst);
        this.#require(inst.result.type.scalar === memory.scalar, `${memory.name} holds ${memory.scalar}`, inst);
        return;
      case 'store':
        this.#require(access !== 'read', `${memory.name} is only read`, inst);
        this.#require(inst.value.type.scalar === memory.scalar, `${memory.name} holds ${memory.scalar}`, inst);
        return;
      case 'atomic':
      case 'atomic_compare_exchange': {
        this.#require(access === 'readwrite', `${memory.name} is not read and written`, inst);
        const isPrivate = memory.kind === 'array' && memory.space === 'private';
        this.#require(!isPrivate, 'private memory has no atomics', inst);
        this.#scalarIn(memory.scalar, (s) => s === 'i32' || s === 'u32', inst);
        const values = inst.op === 'atomic' ? [inst.value, inst.result] : [inst.value, inst.result, inst.expected];
        for (const value of values) this.#same(value.type, ktype(memory.scalar), 'an operand or the result', inst);
        return;
      }
      default:
        inst satisfies never;
    }
  }

  #call(inst: KInst & { op: 'call' }): void {
    const { callee, args } = inst;
    this.#require(this.#helpers.has(callee), `helper ${callee.name} is not defined before`, inst);
    this.#require(args.length === callee.params.length, `${callee.name} takes ${callee.params.length} arguments`, inst);
    for (const [i, arg] of args.entries()) this.#same(arg.type, callee.params[i].type, `argument ${i}`, inst);
    this.#same(inst.result.type, callee.result, 'the result', inst);
  }

  #carried(carried: readonly Carried[], inst: KInst): void {
    for (const { initial, inner, result } of carried) {
      this.#same(inner.type, initial.type, 'the carried value', inst);
      this.#same(result.type, initial.type, 'the result', inst);
    }
  }
}

const isNumeric = (scalar: ScalarType): boolean => scalar !== 'bool';

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
