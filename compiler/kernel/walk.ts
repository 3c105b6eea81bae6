/** Generic traversal and rewriting of Kernel IR: every other pass asks here what an instruction reads and defines. */
import type { BulkMap } from './bulk.js';
import { engineMemories, engineOperands, isEngineInst, mapEngine } from './engines.js';
import type { Carried, HelperFunction, KBlock, KernelFunction, KInst, KMemory, KValue } from './types.js';

/** Values that `inst` reads where it stands. What its blocks read, their yields and a loop's condition are not among them. */
export function operandsOf(inst: KInst): readonly KValue[] {
  if (isEngineInst(inst)) return engineOperands(inst);
  switch (inst.op) {
    case 'const':
    case 'scalar':
    case 'builtin':
    case 'barrier':
      return [];
    case 'unary':
    case 'convert':
    case 'bitcast':
    case 'splat':
    case 'extract':
    case 'assume':
    case 'subgroup':
      return [inst.a];
    case 'binary':
    case 'compare':
      return [inst.a, inst.b];
    case 'fma':
    case 'dot4':
      return [inst.a, inst.b, inst.c];
    case 'select':
      return [inst.condition, inst.a, inst.b];
    case 'build':
      return inst.elements;
    case 'load':
      return [inst.index];
    case 'store':
    case 'atomic':
      return [inst.index, inst.value];
    case 'atomic_compare_exchange':
      return [inst.index, inst.expected, inst.value];
    case 'call':
      return inst.args;
    case 'for':
      return [inst.lower, inst.upper, ...inst.carried.map(({ initial }) => initial)];
    case 'loop':
      return inst.carried.map(({ initial }) => initial);
    case 'if':
      return [inst.condition];
    default:
      return inst satisfies never;
  }
}

/** Values that `inst` defines for the instructions after it. */
export function resultsOf(inst: KInst): readonly KValue[] {
  switch (inst.op) {
    case 'for':
    case 'loop':
      return inst.carried.map(({ result }) => result);
    case 'if':
      return inst.results;
    default:
      return 'result' in inst ? [inst.result] : [];
  }
}

/** Values that `inst` defines for its body only: a loop's index and the carried values inside. */
export function bodyValuesOf(inst: KInst): readonly KValue[] {
  switch (inst.op) {
    case 'for':
      return [inst.index, ...inst.carried.map(({ inner }) => inner)];
    case 'loop':
      return inst.carried.map(({ inner }) => inner);
    default:
      return [];
  }
}

export function blocksOf(inst: KInst): readonly KBlock[] {
  switch (inst.op) {
    case 'for':
    case 'loop':
      return [inst.body];
    case 'if':
      return [inst.then, inst.else];
    default:
      return [];
  }
}

/** The memories that `inst` touches. */
export function memoriesOf(inst: KInst): readonly KMemory[] {
  if (isEngineInst(inst)) return engineMemories(inst);
  return 'memory' in inst ? [inst.memory] : [];
}

/** Whether `inst` itself (not its blocks) does more than define its results. */
export function hasEffect(inst: KInst): boolean {
  if (isEngineInst(inst)) return true;
  switch (inst.op) {
    case 'store':
    case 'atomic':
    case 'atomic_compare_exchange':
    case 'barrier':
      return true;
    // A subgroup op has no effect, but moving or removing it is left alone only where its result is used.
    default:
      return false;
  }
}

/** Calls `visitor` for every instruction of the block and the blocks within, in program order, outer before inner. */
export function visitInstructions(block: KBlock, visitor: (inst: KInst, depth: number) => void, depth = 0): void {
  for (const inst of block.instructions) {
    visitor(inst, depth);
    for (const inner of blocksOf(inst)) visitInstructions(inner, visitor, depth + 1);
  }
}

/** `visitInstructions` over the helpers, in order, and the body. */
export function visitKernel(kernel: KernelFunction, visitor: (inst: KInst, depth: number) => void): void {
  for (const helper of kernel.helpers) visitInstructions(helper.body, visitor);
  visitInstructions(kernel.body, visitor);
}

/** Where a value comes from. */
export interface Definition {
  readonly inst: KInst;
  /** Which of the instruction's results or inner values. */
  readonly role: 'result' | 'inner' | 'index';
  readonly position: number;
}

/** The definition of every value but the parameters of helpers. */
export function definitionsOf(kernel: KernelFunction): ReadonlyMap<KValue, Definition> {
  const definitions = new Map<KValue, Definition>();
  visitKernel(kernel, (inst) => {
    for (const [position, value] of resultsOf(inst).entries()) {
      definitions.set(value, { inst, role: 'result', position });
    }
    for (const [at, value] of bodyValuesOf(inst).entries()) {
      const index = inst.op === 'for' && at === 0;
      const position = inst.op === 'for' ? at - 1 : at;
      definitions.set(value, { inst, role: index ? 'index' : 'inner', position });
    }
  });
  return definitions;
}

export interface InstructionMap extends BulkMap {
  /** Replaces a value where it is read. */
  readonly use: (value: KValue) => KValue;
  /** Replaces a value where it is defined. Default: unchanged. */
  readonly define?: (value: KValue) => KValue;
  /** Replaces a nested block; responsible for the values in it. Default: unchanged. */
  readonly block?: (block: KBlock) => KBlock;
  readonly helper?: (helper: HelperFunction) => HelperFunction;
}

const same = <T>(x: T): T => x;

/** `inst` with its values, memory, helper and blocks replaced. */
export function mapInstruction(inst: KInst, map: InstructionMap): KInst {
  const { use, define = same, block = same, memory = same, helper = same } = map;
  // Order: what is read before what is defined, outer before inner, so that a map may build itself on the way.
  const carry = (carried: readonly Carried[]): readonly Carried[] => {
    const initials = carried.map(({ initial }) => use(initial));
    return carried.map(({ inner, result }, i) => ({
      initial: initials[i],
      inner: define(inner),
      result: define(result),
    }));
  };
  if (isEngineInst(inst)) return mapEngine(inst, map);
  switch (inst.op) {
    case 'const':
    case 'scalar':
    case 'builtin':
      return { ...inst, result: define(inst.result) };
    case 'unary':
    case 'convert':
    case 'bitcast':
    case 'splat':
    case 'extract':
    case 'assume':
    case 'subgroup':
      return { ...inst, a: use(inst.a), result: define(inst.result) };
    case 'binary':
    case 'compare':
      return { ...inst, a: use(inst.a), b: use(inst.b), result: define(inst.result) };
    case 'fma':
    case 'dot4':
      return { ...inst, a: use(inst.a), b: use(inst.b), c: use(inst.c), result: define(inst.result) };
    case 'select':
      return {
        ...inst,
        condition: use(inst.condition),
        a: use(inst.a),
        b: use(inst.b),
        result: define(inst.result),
      };
    case 'build':
      return { ...inst, elements: inst.elements.map(use), result: define(inst.result) };
    case 'load':
      return { ...inst, memory: memory(inst.memory), index: use(inst.index), result: define(inst.result) };
    case 'store':
      return { ...inst, memory: memory(inst.memory), index: use(inst.index), value: use(inst.value) };
    case 'atomic':
      return {
        ...inst,
        memory: memory(inst.memory),
        index: use(inst.index),
        value: use(inst.value),
        result: define(inst.result),
      };
    case 'atomic_compare_exchange':
      return {
        ...inst,
        memory: memory(inst.memory),
        index: use(inst.index),
        expected: use(inst.expected),
        value: use(inst.value),
        result: define(inst.result),
      };
    case 'call':
      return { ...inst, callee: helper(inst.callee), args: inst.args.map(use), result: define(inst.result) };
    case 'for': {
      const [lower, upper] = [use(inst.lower), use(inst.upper)];
      const carried = carry(inst.carried);
      return { ...inst, lower, upper, index: define(inst.index), carried, body: block(inst.body) };
    }
    case 'loop': {
      const carried = carry(inst.carried);
      const body = block(inst.body);
      return { ...inst, carried, body, condition: use(inst.condition) };
    }
    case 'if': {
      const condition = use(inst.condition);
      const [yes, no] = [block(inst.then), block(inst.else)];
      return { ...inst, condition, then: yes, else: no, results: inst.results.map(define) };
    }
    case 'barrier':
      return inst;
    default:
      return inst satisfies never;
  }
}

/**
 * Rewrites a block from its leaves: every instruction, its own blocks rewritten already, becomes the instructions that
 * `rewrite` returns. `rewrite` may call `replace` to have later reads of a value read another one.
 */
export function rewriteBlock(
  block: KBlock,
  rewrite: (inst: KInst, replace: (from: KValue, to: KValue) => void) => readonly KInst[],
): KBlock {
  const replaced = new Map<KValue, KValue>();
  const replace = (from: KValue, to: KValue): void => {
    replaced.set(from, to);
  };
  const use = (value: KValue): KValue => {
    let current = value;
    for (let next = replaced.get(current); next !== undefined; next = replaced.get(current)) current = next;
    return current;
  };
  const visit = (inner: KBlock): KBlock => {
    const instructions: KInst[] = [];
    for (const inst of inner.instructions)
      instructions.push(...rewrite(mapInstruction(inst, { use, block: visit }), replace));
    return { instructions, yields: inner.yields.map(use) };
  };
  return visit(block);
}
