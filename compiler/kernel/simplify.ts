/**
 * Removes what a kernel computes for nothing: unused values, carried values and results that nobody reads, control flow
 * without effect, stores to arrays that are never read, and then unused helpers, arrays, tiles, signals and maps. Parameters always stay:
 * they are the kernel's interface.
 */
import { engineTiles, isEngineInst } from './engines.js';
import type { HelperFunction, KArray, KBlock, KernelFunction, KInst, KMemory, KValue } from './types.js';
import { blocksOf, hasEffect, memoriesOf, operandsOf, resultsOf, visitKernel } from './walk.js';

/** An equal kernel without dead code. */
export function simplify(kernel: KernelFunction): KernelFunction {
  let current = kernel;
  for (;;) {
    const next = sweep(current);
    // A removed load may have been the last of an array, and with it the stores there are dead.
    if (next.unread === 0) return next.kernel;
    current = next.kernel;
  }
}

/** One round; `unread` is how many arrays are left that are only stored to. */
function sweep(kernel: KernelFunction): { readonly kernel: KernelFunction; readonly unread: number } {
  const read = new Set<KMemory>();
  visitKernel(kernel, (inst) => {
    if (inst.op !== 'store') for (const memory of memoriesOf(inst)) read.add(memory);
  });
  const matters = (inst: KInst): boolean =>
    hasEffect(inst) && !(inst.op === 'store' && inst.memory.kind === 'array' && !read.has(inst.memory));
  const body = removeDead(kernel.body, matters);
  const used = new Set<KMemory>();
  const arraysRead = new Set<KMemory>();
  const engines = new Set<unknown>();
  // Callers come after their callees, so helpers are taken from the last to the first.
  const called = new Set<HelperFunction>();
  const note = (block: KBlock): void => {
    for (const inst of block.instructions) {
      for (const memory of memoriesOf(inst)) {
        used.add(memory);
        if (inst.op !== 'store') arraysRead.add(memory);
      }
      if (isEngineInst(inst)) for (const tile of engineTiles(inst)) engines.add(tile);
      if ('signal' in inst) engines.add(inst.signal);
      if (inst.op === 'tensor_copy') engines.add(inst.map);
      if (inst.op === 'call') called.add(inst.callee);
      for (const inner of blocksOf(inst)) note(inner);
    }
  };
  note(body);
  for (const helper of [...kernel.helpers].reverse()) {
    if (called.has(helper)) note(helper.body);
  }
  const arrays: readonly KArray[] = kernel.arrays.filter((array) => used.has(array));
  return {
    kernel: {
      ...kernel,
      arrays,
      tiles: kernel.tiles.filter((tile) => engines.has(tile)),
      signals: kernel.signals.filter((signal) => engines.has(signal)),
      maps: kernel.maps.filter((map) => engines.has(map)),
      helpers: kernel.helpers.filter((helper) => called.has(helper)),
      body,
    },
    unread: arrays.filter((array) => !arraysRead.has(array)).length,
  };
}

/** The block with only the instructions that `matters` or that those need. */
function removeDead(block: KBlock, matters: (inst: KInst) => boolean): KBlock {
  const effects = new Map<KInst, boolean>();
  const acts = (inst: KInst): boolean => {
    let known = effects.get(inst);
    if (known === undefined) {
      known = matters(inst) || blocksOf(inst).some((inner) => inner.instructions.some(acts));
      effects.set(inst, known);
    }
    return known;
  };
  const live = new Set<KValue>(block.yields);
  const needed = (inst: KInst): boolean => acts(inst) || resultsOf(inst).some((value) => live.has(value));
  for (let before = -1; before !== live.size; ) {
    before = live.size;
    mark(block, needed, live);
  }
  return filter(block, needed, live);
}

/** Backwards over a block: adds to `live` what the needed instructions read. Carried values take several rounds. */
function mark(block: KBlock, needed: (inst: KInst) => boolean, live: Set<KValue>): void {
  for (let i = block.instructions.length - 1; i >= 0; i--) {
    const inst = block.instructions[i];
    if (!needed(inst)) continue;
    switch (inst.op) {
      case 'for':
      case 'loop':
        if (inst.op === 'loop') live.add(inst.condition);
        else live.add(inst.lower).add(inst.upper);
        for (const [k, { initial, inner, result }] of inst.carried.entries()) {
          if (live.has(inner) || live.has(result)) live.add(initial).add(inst.body.yields[k]);
        }
        mark(inst.body, needed, live);
        break;
      case 'if':
        live.add(inst.condition);
        for (const [k, result] of inst.results.entries()) {
          if (live.has(result)) live.add(inst.then.yields[k]).add(inst.else.yields[k]);
        }
        mark(inst.then, needed, live);
        mark(inst.else, needed, live);
        break;
      default:
        for (const operand of operandsOf(inst)) live.add(operand);
    }
  }
}

function filter(block: KBlock, needed: (inst: KInst) => boolean, live: ReadonlySet<KValue>): KBlock {
  const inner = (nested: KBlock, keep: (at: number) => boolean): KBlock => ({
    instructions: filter(nested, needed, live).instructions,
    yields: nested.yields.filter((_, at) => keep(at)),
  });
  const instructions = block.instructions.filter(needed).map((inst): KInst => {
    switch (inst.op) {
      case 'for':
      case 'loop': {
        const kept = inst.carried.map((item) => live.has(item.inner) || live.has(item.result));
        const carried = inst.carried.filter((_, at) => kept[at]);
        return { ...inst, carried, body: inner(inst.body, (at) => kept[at]) };
      }
      case 'if': {
        const kept = inst.results.map((result) => live.has(result));
        const [yes, no] = [inst.then, inst.else].map((arm) => inner(arm, (at) => kept[at]));
        return { ...inst, then: yes, else: no, results: inst.results.filter((_, at) => kept[at]) };
      }
      default:
        return inst;
    }
  });
  return { instructions, yields: block.yields };
}
