/** The contract family: dot and conv. Chooses how a contraction is computed on a target. */
import type { Target } from '../../kernel/target.js';
import type { LoweredKernel } from '../lowered.js';
import type { Group } from '../group.js';
import { contractionOf } from './contraction.js';
import { lowerPacked } from './cpu.js';
import { lowerDirect } from './direct.js';
import { lowerRegisters } from './registers.js';

export function lowerContract(group: Group, target: Target): readonly LoweredKernel[] {
  if (isWorthTiling(group)) return [target.style === 'cpu' ? lowerPacked(group, target) : lowerRegisters(group, target)];
  return [{ kernel: lowerDirect(group, target), bindings: [...group.reads, ...group.writes] }];
}

/** Tiles pay where operands are reused: both m and n, or enough k to make up for the packing. */
function isWorthTiling(group: Group): boolean {
  const { m, n, k } = contractionOf(group);
  const reuse = Math.min(m, n);
  return reuse >= 4 && k >= 4;
}
