/** What the renderer knows of a kernel before it writes a line: unrolled loops, private arrays in registers, inlining. */

import {
  type HelperFunction,
  isFloatScalar,
  type KArray,
  type KBlock,
  type KernelFunction,
  type KInst,
  type KMemory,
  type KValue,
} from '../../compiler/kernel/types.js';
import { blocksOf } from '../../compiler/kernel/walk.js';
import { fmodHelper } from '../common/fmod.js';
import { Survey as Facts } from '../common/survey.js';

type For = Extract<KInst, { op: 'for' }>;

/** Instructions that unrolling may make of one loop. */
const unrollBudget = 4096;
/** Instructions that all copies of an inlined helper may have together. */
const inlineBudget = 1024;
/** Elements of a private array that may live in registers. */
const registerElements = 256;

export interface Trips {
  readonly lower: number;
  readonly upper: number;
}

export class Survey {
  readonly #facts: Facts;
  /** Loops that are written out trip by trip. */
  readonly unrolled = new Map<KInst, Trips>();
  /** Private arrays whose every index is known while rendering. */
  readonly registerArrays: ReadonlySet<KArray>;
  /** Helpers that get a function of their own, callees first; the others are inlined. */
  readonly functions: readonly HelperFunction[];
  readonly #indices = new Set<KValue>();
  readonly #statics = new Map<KValue, boolean>();
  readonly #sizes = new Map<KBlock, number>();
  readonly #calls = new Map<HelperFunction, number>();
  readonly #remainders = new Map<'f32' | 'f64', HelperFunction>();

  constructor(kernel: KernelFunction) {
    const dynamic = new Set<KMemory>();
    this.#facts = Facts.of(kernel);
    this.#unroll(kernel.body);
    for (const helper of kernel.helpers) this.#unroll(helper.body);
    this.#visit(kernel.body, 1, dynamic);
    const functions = new Set<HelperFunction>();
    // Callers come first, so that all calls of a helper are known when it is judged.
    for (const helper of [...kernel.helpers].reverse()) {
      if (this.#isFunction(helper)) functions.add(helper);
      this.#visit(helper.body, functions.has(helper) ? 1 : (this.#calls.get(helper) ?? 0), dynamic);
    }
    const fmods = [...this.#remainders.values()];
    for (const { body } of fmods) {
      this.#facts.add(body);
      this.#unroll(body);
    }
    this.functions = [
      ...fmods.filter((helper) => this.#isFunction(helper)),
      ...kernel.helpers.filter((h) => functions.has(h)),
    ];
    this.registerArrays = new Set(
      kernel.arrays.filter(
        (array) => array.space === 'private' && array.length <= registerElements && !dynamic.has(array),
      ),
    );
  }

  /** The instruction that defines each value, except the values of loops and ifs. */
  get definitions(): ReadonlyMap<KValue, KInst> {
    return this.#facts.definitions;
  }

  #isFunction(helper: HelperFunction): boolean {
    const calls = this.#calls.get(helper) ?? 0;
    return calls > 1 && calls * this.#size(helper.body) > inlineBudget;
  }

  /** Which loops to unroll: inner ones first, as their copies make outer ones longer. */
  #unroll(block: KBlock): void {
    for (const inst of block.instructions) {
      for (const inner of blocksOf(inst)) this.#unroll(inner);
      const trips = inst.op === 'for' ? this.#trips(inst) : undefined;
      if (trips) this.unrolled.set(inst, trips);
    }
  }

  /** C's fmod for a float type; f16 goes through f32, which is exact. */
  remainder(scalar: 'f32' | 'f64'): HelperFunction {
    let helper = this.#remainders.get(scalar);
    if (!helper) this.#remainders.set(scalar, (helper = fmodHelper(scalar)));
    return helper;
  }

  #visit(block: KBlock, times: number, dynamic: Set<KMemory>): void {
    for (const inst of block.instructions) {
      switch (inst.op) {
        case 'for': {
          const trips = this.unrolled.get(inst);
          if (trips) this.#indices.add(inst.index);
          this.#visit(inst.body, trips ? times * tripCount(inst, trips) : times, dynamic);
          continue;
        }
        case 'call':
          this.#called(inst.callee, times);
          break;
        case 'binary': {
          const { scalar, lanes } = inst.result.type;
          if (inst.fn === 'rem' && isFloatScalar(scalar)) {
            this.#called(this.remainder(scalar === 'f64' ? 'f64' : 'f32'), times * lanes);
          }
          break;
        }
        case 'load':
        case 'store':
          if (!this.#isStatic(inst.index)) dynamic.add(inst.memory);
          break;
        default:
          break;
      }
      for (const inner of blocksOf(inst)) this.#visit(inner, times, dynamic);
    }
  }

  #called(helper: HelperFunction, times: number): void {
    this.#calls.set(helper, (this.#calls.get(helper) ?? 0) + times);
  }

  #trips(inst: For): Trips | undefined {
    if (!inst.unroll) return undefined;
    const [lower, upper] = [this.#constant(inst.lower), this.#constant(inst.upper)];
    if (lower === undefined || upper === undefined) return undefined;
    const trips = { lower, upper };
    return tripCount(inst, trips) * this.#size(inst.body) <= unrollBudget ? trips : undefined;
  }

  #constant(value: KValue): number | undefined {
    const inst = this.definitions.get(value);
    if (inst?.op === 'assume') return this.#constant(inst.a);
    const known = this.#facts.constants.get(value);
    return typeof known === 'number' ? known : undefined;
  }

  /** Instructions written for a block, copies of unrolled loops included. */
  #size(block: KBlock): number {
    let size = this.#sizes.get(block);
    if (size !== undefined) return size;
    size = 0;
    for (const inst of block.instructions) {
      size++;
      const trips = this.unrolled.get(inst);
      const copies = trips && inst.op === 'for' ? tripCount(inst, trips) : 1;
      for (const inner of blocksOf(inst)) size += copies * this.#size(inner);
    }
    this.#sizes.set(block, size);
    return size;
  }

  /** Whether the renderer will know the value as a number: see BodyRenderer's folding, which does the same. */
  #isStatic(value: KValue): boolean {
    if (this.#indices.has(value)) return true;
    let known = this.#statics.get(value);
    if (known === undefined) {
      const inst = this.definitions.get(value);
      switch (inst?.op) {
        case 'const':
          known = true;
          break;
        case 'assume':
          known = this.#isStatic(inst.a);
          break;
        case 'binary':
          known = foldable(value) && this.#isStatic(inst.a) && this.#isStatic(inst.b);
          break;
        default:
          known = false;
      }
      this.#statics.set(value, known);
    }
    return known;
  }
}

/** Integers that the renderer computes where it knows the operands. */
export const foldable = ({ type }: KValue): boolean =>
  type.lanes === 1 && (type.scalar === 'i32' || type.scalar === 'u32');

export const tripCount = (inst: For, { lower, upper }: Trips): number =>
  Math.max(0, Math.ceil((upper - lower) / inst.step));
