/** What renderers ask of a kernel before they write code for it: one walk, plain facts. */
import type { KBlock, KernelFunction, KInst, KMemory, KValue } from '../../compiler/kernel/types.js';
import { blocksOf, operandsOf } from '../../compiler/kernel/walk.js';

/** How a memory is accessed: the lanes of its loads and stores. */
export interface Accesses {
  readonly loads: Set<number>;
  readonly stores: Set<number>;
  /** Lanes of the accesses that may be one instruction: those aligned to their lanes; 1 for the others. */
  readonly widths: Set<number>;
  /** Some access of several lanes is not aligned to them. */
  unaligned: boolean;
  atomic: boolean;
}

export class Survey {
  readonly accesses = new Map<KMemory, Accesses>();
  /** The instruction that defines each value, except the values of loops and ifs. */
  readonly definitions = new Map<KValue, KInst>();
  readonly constants = new Map<KValue, number | bigint>();
  barriers = false;

  /** Helpers, in order, then the body; `also` sees every instruction on the way. */
  static of(kernel: KernelFunction, also?: (inst: KInst) => void): Survey {
    const survey = new Survey();
    for (const { body } of [...kernel.helpers, kernel]) survey.add(body, also);
    return survey;
  }

  /** Hot: kernels of ten thousand instructions are rendered in milliseconds. */
  add(block: KBlock, also?: (inst: KInst) => void): void {
    for (const inst of block.instructions) {
      also?.(inst);
      switch (inst.op) {
        case 'for':
        case 'loop':
          this.add(inst.body, also);
          break;
        case 'if':
          this.add(inst.then, also);
          this.add(inst.else, also);
          break;
        case 'barrier':
          this.barriers = true;
          break;
        case 'store':
          this.#access(inst);
          break;
        case 'load':
        case 'atomic':
        case 'atomic_compare_exchange':
          this.#access(inst);
          this.definitions.set(inst.result, inst);
          break;
        case 'const':
          this.constants.set(inst.result, inst.value);
          this.definitions.set(inst.result, inst);
          break;
        default:
          if ('result' in inst) this.definitions.set(inst.result, inst);
      }
    }
  }

  /** What is noted of a memory, to be added to. */
  accessesOf(memory: KMemory): Accesses {
    let known = this.accesses.get(memory);
    if (!known) {
      known = { loads: new Set(), stores: new Set(), widths: new Set(), unaligned: false, atomic: false };
      this.accesses.set(memory, known);
    }
    return known;
  }

  #access(inst: Extract<KInst, { memory: KMemory }>): void {
    const known = this.accessesOf(inst.memory);
    if (inst.op === 'load' || inst.op === 'store') {
      const { lanes } = inst.op === 'load' ? inst.result.type : inst.value.type;
      (inst.op === 'load' ? known.loads : known.stores).add(lanes);
      known.widths.add(inst.aligned ? lanes : 1);
      if (lanes > 1 && !inst.aligned) known.unaligned = true;
    } else {
      known.widths.add(1);
      known.atomic = true;
    }
  }
}

/** How often each value of the kernel is read. */
export function countUses(kernel: KernelFunction): ReadonlyMap<KValue, number> {
  const uses = new Map<KValue, number>();
  const use = (value: KValue) => void uses.set(value, (uses.get(value) ?? 0) + 1);
  const visit = (block: KBlock): void => {
    for (const inst of block.instructions) {
      operandsOf(inst).forEach(use);
      if (inst.op === 'loop') use(inst.condition);
      blocksOf(inst).forEach(visit);
    }
    block.yields.forEach(use);
  };
  for (const { body } of [...kernel.helpers, kernel]) visit(body);
  return uses;
}

/** Instructions of a block and the blocks within. */
export function countInstructions(block: KBlock): number {
  let count = block.instructions.length;
  for (const inst of block.instructions) for (const inner of blocksOf(inst)) count += countInstructions(inner);
  return count;
}
