/**
 * Shows that barriers stand only in uniform control flow: where all invocations of a workgroup take the same path.
 * Uniform are constants, scalar parameters, workgroup ids and what is computed from them; what comes from local ids,
 * lanes, memory or subgroup ops is not.
 */
import type { Report } from './bounds.js';
import type { Carried, KBlock, KernelFunction, KInst, KOp, KValue } from './types.js';
import { blocksOf, operandsOf, resultsOf, visitInstructions } from './walk.js';

/** Calls `report` for every barrier that only some invocations may reach. */
export function checkUniformity(kernel: KernelFunction, report: Report): void {
  for (const barrier of divergent(kernel, 'barrier')) report(barrier, 'barrier in control flow that is not uniform');
}

/** The instructions `op` of the body that only some invocations of a workgroup may reach. */
export function divergent(kernel: KernelFunction, op: KOp): ReadonlySet<KInst> {
  const found = new Set<KInst>();
  let present = false;
  visitInstructions(kernel.body, (inst) => {
    present ||= inst.op === op;
  });
  const [x, y, z] = kernel.workgroup;
  if (!present || x * y * z === 1) return found;
  const varying = new Set<KValue>();
  // Loops feed values back: repeat until no value turns varying any more.
  for (let before = -1; before !== varying.size; ) {
    before = varying.size;
    spread(kernel.body, kernel, varying);
  }
  collect(kernel.body, op, false, varying, found);
  return found;
}

/** Whether the paths that invocations take through `inst` may differ. */
function diverges(inst: KInst, varying: ReadonlySet<KValue>): boolean {
  switch (inst.op) {
    case 'for':
      return varying.has(inst.lower) || varying.has(inst.upper);
    case 'loop':
    case 'if':
      return varying.has(inst.condition);
    default:
      return false;
  }
}

function spread(block: KBlock, kernel: KernelFunction, varying: Set<KValue>): void {
  for (const inst of block.instructions) {
    switch (inst.op) {
      case 'for':
      case 'loop': {
        spreadCarried(inst.carried, inst.body, diverges(inst, varying), varying);
        if (inst.op === 'for' && diverges(inst, varying)) varying.add(inst.index);
        spread(inst.body, kernel, varying);
        break;
      }
      case 'if': {
        spread(inst.then, kernel, varying);
        spread(inst.else, kernel, varying);
        const differs = diverges(inst, varying);
        for (const [i, result] of inst.results.entries()) {
          if (differs || varying.has(inst.then.yields[i]) || varying.has(inst.else.yields[i])) varying.add(result);
        }
        break;
      }
      default:
        if (isSource(inst, kernel) || operandsOf(inst).some((value) => varying.has(value))) {
          for (const result of resultsOf(inst)) varying.add(result);
        }
    }
  }
}

function spreadCarried(carried: readonly Carried[], body: KBlock, differs: boolean, varying: Set<KValue>): void {
  for (const [i, { initial, inner, result }] of carried.entries()) {
    if (varying.has(initial) || varying.has(body.yields[i])) {
      varying.add(inner);
      varying.add(result);
    }
    if (differs) varying.add(result);
  }
}

function isSource(inst: KInst, kernel: KernelFunction): boolean {
  switch (inst.op) {
    case 'builtin':
      if (inst.builtin === 'local_id') return kernel.workgroup[inst.dim] > 1;
      return inst.builtin === 'subgroup_lane';
    case 'load':
    case 'atomic':
    case 'atomic_compare_exchange':
    case 'subgroup':
      return true;
    default:
      return false;
  }
}

function collect(block: KBlock, op: KOp, divergent: boolean, varying: ReadonlySet<KValue>, found: Set<KInst>): void {
  for (const inst of block.instructions) {
    if (inst.op === op && divergent) found.add(inst);
    const inner = divergent || diverges(inst, varying);
    for (const body of blocksOf(inst)) collect(body, op, inner, varying, found);
  }
}
