/**
 * Branches that must stay branches. gcc 12 makes masked loads of what a loop reads under conditions, one for neighbours
 * whose conditions differ; where what is compared is narrower than what is loaded, it takes some lanes for others and
 * gives 0 for them. An empty assembly statement keeps a branch from being converted.
 */
import { type KBlock, type KernelFunction, type KValue, scalarBits } from '../../compiler/kernel/types.js';
import { blocksOf, type Definition, definitionsOf } from '../../compiler/kernel/walk.js';
import type { Inst } from './scope.js';

export const keptBranch = '__asm__ volatile("");';

export class Branches {
  readonly #kernel: KernelFunction;
  #definitions: ReadonlyMap<KValue, Definition> | undefined;
  readonly #narrowest = new Map<KValue, number>();

  constructor(kernel: KernelFunction) {
    this.#kernel = kernel;
  }

  mustStay(inst: Inst<'if'>): boolean {
    const widest = Math.max(widestLoad(inst.then), widestLoad(inst.else));
    // Nothing is narrower than a byte.
    return widest > 8 && this.#bitsBehind(inst.condition) < widest;
  }

  /** Bits of the narrowest number that a value is computed from: compilers narrow what they can. */
  #bitsBehind(value: KValue): number {
    const known = this.#narrowest.get(value);
    if (known !== undefined) return known;
    const bits = this.#find(value);
    this.#narrowest.set(value, bits);
    return bits;
  }

  #find(value: KValue): number {
    this.#definitions ??= definitionsOf(this.#kernel);
    const inst = this.#definitions.get(value)?.inst;
    const own = scalarBits[value.type.scalar];
    const least = (...operands: readonly KValue[]): number =>
      Math.min(
        value.type.scalar === 'bool' ? Number.POSITIVE_INFINITY : own,
        ...operands.map((operand) => this.#bitsBehind(operand)),
      );
    switch (inst?.op) {
      case 'const':
        return Number.POSITIVE_INFINITY;
      case 'unary':
      case 'convert':
        return least(inst.a);
      case 'compare':
      case 'binary':
        return least(inst.a, inst.b);
      case 'select':
        return least(inst.condition, inst.a, inst.b);
      default:
        return own;
    }
  }
}

/** Bits of the widest element that the block loads by itself. */
const widestLoad = (block: KBlock): number =>
  block.instructions.reduce((widest, inst) => {
    const own = inst.op === 'load' && inst.result.type.lanes === 1 ? scalarBits[inst.memory.scalar] : 0;
    return Math.max(widest, own, ...blocksOf(inst).map(widestLoad));
  }, 0);
