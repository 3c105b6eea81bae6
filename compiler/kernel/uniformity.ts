/**
 * Shows that barriers stand only where all invocations of a workgroup take the same path, and tile ops where those of
 * each subgroup do and have the same operands. Uniform are constants, scalar parameters, workgroup ids and what is
 * computed from them; what comes from local ids, lanes, memory or subgroup ops is not. Within a group of consecutive
 * invocations, local ids divided by a multiple of the group's size are uniform too.
 */
import type { Report } from './bounds.js';
import { warpgroup } from './bulk.js';
import { isEngineInst, subgroupsOf } from './engines.js';
import type { Carried, KBlock, KernelFunction, KInst, KOp, KValue } from './types.js';
import { blocksOf, type Definition, definitionsOf, operandsOf, resultsOf, visitInstructions } from './walk.js';

/** Calls `report` for every barrier and tile op that only some of the invocations it needs may reach. */
export function checkUniformity(kernel: KernelFunction, report: Report): void {
  for (const barrier of divergent(kernel, 'barrier')) report(barrier, 'barrier in control flow that is not uniform');
  const { subgroupSize } = kernel;
  if (subgroupSize === undefined) return;
  for (const subgroups of [1, warpgroup]) {
    const who = subgroups === 1 ? 'a subgroup' : 'a warpgroup';
    const collective = (inst: KInst): boolean => isEngineInst(inst) && subgroupsOf(inst) === subgroups;
    const { found, varying } = analyse(kernel, collective, subgroups * subgroupSize);
    for (const inst of found) report(inst, `${inst.op} in control flow that is not uniform in ${who}`);
    visitInstructions(kernel.body, (inst) => {
      if (collective(inst) && operandsOf(inst).some((value) => varying.has(value)))
        report(inst, `${inst.op} with an operand that is not uniform in ${who}`);
    });
  }
}

/** The instructions `op` of the body that only some of `group` consecutive invocations may reach, by default of a workgroup. */
export function divergent(kernel: KernelFunction, op: KOp, group?: number): ReadonlySet<KInst> {
  const [x, y, z] = kernel.workgroup;
  return analyse(kernel, (inst) => inst.op === op, group ?? x * y * z).found;
}

/** `group`: how many consecutive invocations, from a multiple of that many on, are to agree. */
interface Scope {
  readonly kernel: KernelFunction;
  readonly group: number;
  readonly definitions: ReadonlyMap<KValue, Definition>;
}

/** Values that may differ within a group, and the `wanted` instructions that not all of a group may reach. */
function analyse(
  kernel: KernelFunction,
  wanted: (inst: KInst) => boolean,
  group: number,
): { readonly found: ReadonlySet<KInst>; readonly varying: ReadonlySet<KValue> } {
  const found = new Set<KInst>();
  const varying = new Set<KValue>();
  let present = false;
  visitInstructions(kernel.body, (inst) => {
    present ||= wanted(inst);
  });
  if (!present || group === 1) return { found, varying };
  const [x, y, z] = kernel.workgroup;
  const scope: Scope = { kernel, group, definitions: group < x * y * z ? definitionsOf(kernel) : new Map() };
  // Loops feed values back: repeat until no value turns varying any more.
  for (let before = -1; before !== varying.size; ) {
    before = varying.size;
    spread(kernel.body, scope, varying);
  }
  collect(kernel.body, wanted, false, varying, found);
  return { found, varying };
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

function spread(block: KBlock, scope: Scope, varying: Set<KValue>): void {
  for (const inst of block.instructions) {
    switch (inst.op) {
      case 'for':
      case 'loop': {
        spreadCarried(inst.carried, inst.body, diverges(inst, varying), varying);
        if (inst.op === 'for' && diverges(inst, varying)) varying.add(inst.index);
        spread(inst.body, scope, varying);
        break;
      }
      case 'if': {
        spread(inst.then, scope, varying);
        spread(inst.else, scope, varying);
        const differs = diverges(inst, varying);
        for (const [i, result] of inst.results.entries()) {
          if (differs || varying.has(inst.then.yields[i]) || varying.has(inst.else.yields[i])) varying.add(result);
        }
        break;
      }
      default:
        if (isSource(inst, scope) || (operandsOf(inst).some((value) => varying.has(value)) && !isGroup(inst, scope))) {
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

function isSource(inst: KInst, { kernel, group }: Scope): boolean {
  switch (inst.op) {
    case 'builtin': {
      if (inst.builtin !== 'local_id') return inst.builtin === 'subgroup_lane';
      const [x, y] = kernel.workgroup;
      // Invocations are numbered with x fastest: rows of whole groups have one y each.
      return kernel.workgroup[inst.dim] > 1 && [1, x, x * y][inst.dim] % group !== 0;
    }
    case 'load':
    case 'atomic':
    case 'atomic_compare_exchange':
    case 'subgroup':
      return true;
    default:
      return false;
  }
}

/** Whether the value is the number of the group among others: the invocation's number by a multiple of the group's size. */
function isGroup(inst: KInst, { kernel, group, definitions }: Scope): boolean {
  if (inst.op !== 'binary' || inst.fn !== 'div' || kernel.workgroup[1] * kernel.workgroup[2] !== 1) return false;
  const divisor = definitions.get(inst.b)?.inst;
  let id = definitions.get(inst.a)?.inst;
  while (id?.op === 'assume') id = definitions.get(id.a)?.inst;
  const isId = id?.op === 'builtin' && id.builtin === 'local_id' && id.dim === 0;
  return isId && divisor?.op === 'const' && Number(divisor.value) % group === 0;
}

function collect(
  block: KBlock,
  wanted: (inst: KInst) => boolean,
  divergent: boolean,
  varying: ReadonlySet<KValue>,
  found: Set<KInst>,
): void {
  for (const inst of block.instructions) {
    if (divergent && wanted(inst)) found.add(inst);
    const inner = divergent || diverges(inst, varying);
    for (const body of blocksOf(inst)) collect(body, wanted, inner, varying, found);
  }
}
