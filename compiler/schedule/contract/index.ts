/** The contract family: dot and conv. Chooses how a contraction is computed on a target. */
import type { Target } from '../../kernel/target.js';
import type { LoweredKernel } from '../lowered.js';
import type { Group } from '../group.js';
import { shapeOf } from '../lowering.js';
import { contractionOf } from './contraction.js';
import { lowerPacked, streams } from './cpu.js';
import { lowerDirect } from './direct.js';
import { lowerRegisters } from './registers.js';
import { lowerStaged } from './staged.js';

export function lowerContract(group: Group, target: Target): readonly LoweredKernel[] {
  const staged = target.style === 'cpu' && !isPointwise(group) ? lowerStaged(group, target) : undefined;
  if (staged) return [staged];
  if (isWorthTiling(group, target)) return target.style === 'cpu' ? [lowerPacked(group, target)] : lowerRegisters(group, target);
  return [{ kernel: lowerDirect(group, target), bindings: [...group.reads, ...group.writes] }];
}

/** A matrix product as it is: 1×1, stride 1, no padding. */
function isPointwise({ anchor }: Group): boolean {
  if (anchor?.op !== 'conv') return false;
  const { strides, inputDilation, padLow, padHigh } = anchor.attrs;
  return shapeOf(anchor.inputs[1]).slice(2).every((extent) => extent === 1)
    && [...strides, ...inputDilation].every((step) => step === 1) && [...padLow, ...padHigh].every((pad) => Number(pad) === 0);
}

/** Tiles pay where operands are reused, or where they stream through without being packed. */
function isWorthTiling(group: Group, target: Target): boolean {
  const { m, n, k } = contractionOf(group);
  if (k < 4) return false;
  if (Math.min(m, n) >= 4) return true;
  return target.style === 'cpu' ? streams(group, target) : group.anchor?.op === 'conv' && !isPointwise(group) && n >= 4;
}
