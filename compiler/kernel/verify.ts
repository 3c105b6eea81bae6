/**
 * Checks that a kernel is well formed: scoping here; declarations, limits and types in `verify/`; ranges and bounds
 * (`bounds.ts`), uniform barriers (`uniformity.ts`). Producers call it in tests and, per stage, in the compiler; what
 * fails here is a bug of ours, reported as a TuttiError E_IR that names kernel and instruction.
 */
import { TuttiError } from '../error.js';
import { checkBounds } from './bounds.js';
import { printInstruction } from './print.js';
import { integerBounds } from './semantics.js';
import type { Target } from './target.js';
import {
  type HelperFunction,
  isIntScalar,
  type KBlock,
  type KernelFunction,
  type KInst,
  type KMemory,
  type KType,
  type KValue,
  ktype,
} from './types.js';
import { checkUniformity } from './uniformity.js';
import { declarationProblem, limitProblem } from './verify/declarations.js';
import { type Context, differs, instructionProblem } from './verify/instructions.js';
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
  #context: Context;

  constructor(kernel: KernelFunction, { stage, target }: VerifyOptions) {
    this.#kernel = kernel;
    this.#legal = stage === 'legal';
    this.#target = target;
    this.#memories = new Set<KMemory>([...kernel.params.filter((param) => param.kind === 'buffer'), ...kernel.arrays]);
    this.#context = {
      kernel,
      memories: this.#memories,
      target,
      legal: this.#legal,
      helpers: this.#helpers,
      inHelper: true,
    };
  }

  run(): void {
    this.#refuse(declarationProblem(this.#kernel, this.#memories));
    if (this.#target) this.#storable(this.#target);
    for (const helper of this.#kernel.helpers) this.#helper(helper);
    this.#context = { ...this.#context, inHelper: false };
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

  #refuse(problem: string | undefined, inst?: KInst): void {
    if (problem !== undefined) this.#fail(problem, inst);
  }

  #storable(target: Target): void {
    this.#refuse(limitProblem(this.#kernel, target));
    if (!this.#legal) return;
    for (const { name, scalar } of this.#memories) {
      this.#require(target.storage.has(scalar), `${target.backend} has no storage of ${scalar} (${name})`);
    }
  }

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
      this.#refuse(differs(value.type, types[i], 'a yielded value'), inst);
    }
    // A do-while's condition is the one value read after its block.
    if (inst?.op === 'loop') {
      this.#use(inst.condition, inst);
      this.#refuse(differs(inst.condition.type, ktype('bool'), 'the condition'), inst);
    }
    for (const value of defined) this.#visible.delete(value);
  }

  #instruction(inst: KInst): void {
    for (const operand of operandsOf(inst)) this.#use(operand, inst);
    this.#refuse(instructionProblem(inst, this.#context), inst);
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
}
