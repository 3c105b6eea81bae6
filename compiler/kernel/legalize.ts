/**
 * Rewrites a scheduled kernel for what a target can hold: only types with native arithmetic in values, only its
 * element types in memory, vectors within its lanes, mathematical functions expanded, dead code removed.
 */
import { Lowerer } from './legalize/lowerer.js';
import { isNative, type Storage, storageOf } from './legalize/storage.js';
import type { Target } from './target.js';
import { isMathFn, type HelperFunction, type KBlock, type KernelFunction, type KInst, type KType, type KValue, type ScalarType } from './types.js';
import { blocksOf, bodyValuesOf, hasEffect, operandsOf, resultsOf, visitKernel } from './walk.js';

/** The kernel for `target`; the same object if it is fit already. Throws TuttiError E_UNSUPPORTED for 64-bit atomics. */
export function legalize(kernel: KernelFunction, target: Target): KernelFunction {
  return removeDeadCode(isLegal(kernel, target) ? kernel : new Lowerer(kernel, target).run());
}

/**
 * How a tensor of element type `scalar` is bound on `target`: the element type of the buffer that kernels declare and
 * how many elements one of its elements holds (½ for 64-bit elements in u32 words). The bytes are those of the host.
 */
export const legalTypeStorage = (scalar: ScalarType, target: Target): Storage => storageOf(scalar, target);

function isLegal(kernel: KernelFunction, target: Target): boolean {
  const fits = ({ scalar, lanes }: KType): boolean => isNative(scalar, target) && lanes <= target.vectorLanes;
  const fitsMemory = (scalar: ScalarType): boolean => storageOf(scalar, target).scalar === scalar;
  let legal =
    kernel.params.every((param) => param.kind === 'scalar' || fitsMemory(param.scalar)) &&
    kernel.arrays.every(({ scalar }) => fitsMemory(scalar)) &&
    kernel.helpers.every(({ params, result }) => fits(result) && params.every(({ type }) => fits(type)));
  visitKernel(kernel, (inst) => {
    if (!legal) return;
    if ((inst.op === 'unary' || inst.op === 'binary') && isMathFn(inst.fn)) legal = false;
    else legal = [...resultsOf(inst), ...bodyValuesOf(inst)].every(({ type }) => fits(type));
  });
  return legal;
}

/** Removes instructions that neither do anything nor define a value that is read, and helpers that nobody calls. */
export function removeDeadCode(kernel: KernelFunction): KernelFunction {
  const helpers = new Set<HelperFunction>();
  const body = sweep(kernel.body, new Set(), helpers);
  // A helper calls only earlier ones: from the last to the first, every caller comes before what it calls.
  const kept: HelperFunction[] = [];
  const swept = new Map<HelperFunction, HelperFunction>();
  for (const helper of [...kernel.helpers].reverse()) {
    if (!helpers.has(helper)) continue;
    const block = sweep(helper.body, new Set(), helpers);
    const next = block === helper.body ? helper : { ...helper, body: block };
    if (next !== helper) swept.set(helper, next);
    kept.unshift(next);
  }
  if (body === kernel.body && swept.size === 0 && kept.length === kernel.helpers.length) return kernel;
  return relink({ ...kernel, helpers: kept, body }, kernel.helpers, swept);
}

/** Points calls at the helpers that replaced theirs. */
function relink(
  kernel: KernelFunction,
  before: readonly HelperFunction[],
  swept: ReadonlyMap<HelperFunction, HelperFunction>,
): KernelFunction {
  if (swept.size === 0) return kernel;
  const final = new Map<HelperFunction, HelperFunction>();
  const redirect = (block: KBlock): KBlock => {
    let changed = false;
    const instructions = block.instructions.map((inst) => {
      const next = redirectInstruction(inst);
      changed ||= next !== inst;
      return next;
    });
    return changed ? { ...block, instructions } : block;
  };
  const redirectInstruction = (inst: KInst): KInst => {
    switch (inst.op) {
      case 'call': {
        const callee = final.get(inst.callee) ?? inst.callee;
        return callee === inst.callee ? inst : { ...inst, callee };
      }
      case 'for':
      case 'loop': {
        const body = redirect(inst.body);
        return body === inst.body ? inst : { ...inst, body };
      }
      case 'if': {
        const [then, otherwise] = [redirect(inst.then), redirect(inst.else)];
        return then === inst.then && otherwise === inst.else ? inst : { ...inst, then, else: otherwise };
      }
      default:
        return inst;
    }
  };
  const helpers: HelperFunction[] = [];
  for (const original of before) {
    const current = swept.get(original) ?? original;
    if (!kernel.helpers.includes(current)) continue;
    const body = redirect(current.body);
    const next = body === current.body ? current : { ...current, body };
    if (next !== original) final.set(original, next);
    helpers.push(next);
  }
  return { ...kernel, helpers, body: redirect(kernel.body) };
}

const acts = (inst: KInst): boolean =>
  hasEffect(inst) || blocksOf(inst).some((block) => block.instructions.some(acts));

/** Backwards: what is used is known before its definition is met. */
function sweep(block: KBlock, used: Set<KValue>, helpers: Set<HelperFunction>): KBlock {
  for (const value of block.yields) used.add(value);
  const kept: KInst[] = [];
  let changed = false;
  for (let i = block.instructions.length - 1; i >= 0; i--) {
    const inst = block.instructions[i];
    if (!acts(inst) && !resultsOf(inst).some((value) => used.has(value))) {
      changed = true;
      continue;
    }
    for (const value of operandsOf(inst)) used.add(value);
    if (inst.op === 'call') helpers.add(inst.callee);
    const next = sweepInside(inst, used, helpers);
    changed ||= next !== inst;
    kept.push(next);
  }
  return changed ? { instructions: kept.reverse(), yields: block.yields } : block;
}

function sweepInside(inst: KInst, used: Set<KValue>, helpers: Set<HelperFunction>): KInst {
  switch (inst.op) {
    case 'loop':
    case 'for': {
      if (inst.op === 'loop') used.add(inst.condition);
      const body = sweep(inst.body, used, helpers);
      return body === inst.body ? inst : { ...inst, body };
    }
    case 'if': {
      const then = sweep(inst.then, used, helpers);
      const otherwise = sweep(inst.else, used, helpers);
      return then === inst.then && otherwise === inst.else ? inst : { ...inst, then, else: otherwise };
    }
    default:
      return inst;
  }
}
