/** The contract family: dot and conv. Chooses how a contraction is computed on a target. */
import type { Target } from '../../kernel/target.js';
import type { Group } from '../group.js';
import type { LoweredKernel } from '../family.js';
import { lowerDirect } from './direct.js';

export function lowerContract(group: Group, target: Target): readonly LoweredKernel[] {
  return [{ kernel: lowerDirect(group, target), bindings: [...group.reads, ...group.writes] }];
}
