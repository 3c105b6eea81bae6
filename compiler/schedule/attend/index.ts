/**
 * The attend family: softmax(scores)·values without the matrix of scores. Lists the forms that are legal on a target,
 * best first.
 */
import type { Target } from '../../kernel/target.js';
import type { Group } from '../group.js';
import type { LoweredKernel } from '../lowered.js';
import { type Attention, attentionOf, extentsOf } from './attention.js';
import { lowerBlocks } from './blocks.js';
import { isDecode, lowerDecode } from './decode.js';
import type { Pattern } from './pattern.js';
import { fitsShared, lowerShared } from './shared.js';
import { isStream, lowerStreams } from './streams.js';
import { lowerTiles, planTiles } from './tiles.js';
import { lowerWarpgroups, planWarpgroups } from './warpgroups.js';

export interface Form {
  readonly name: string;
  lower(): readonly LoweredKernel[];
}

/** Forms of an attention on a target, best first. */
export function forms(group: Group, target: Target): readonly Form[] {
  const attention = attentionOf(group);
  switch (target.style) {
    case 'cpu':
      return isStream(attention, target)
        ? [{ name: 'streams', lower: () => lowerStreams(group, target, attention) }]
        : [{ name: 'blocks', lower: () => [lowerBlocks(group, target, attention)] }];
    case 'simt':
      return onGpu(group, target, attention);
    case 'software-gpu':
      return [];
    default:
      return target.style satisfies never;
  }
}

function onGpu(group: Group, target: Target, attention: Attention): readonly Form[] {
  if (isDecode(attention, target)) return [{ name: 'decode', lower: () => lowerDecode(group, target, attention) }];
  const groups = planWarpgroups(group, target, attention);
  const warpgroups: Form[] = groups
    ? [{ name: 'warpgroups', lower: () => [lowerWarpgroups(group, target, attention, groups)] }]
    : [];
  const plan = planTiles(group, target, attention);
  const tiles: Form[] = plan ? [{ name: 'tiles', lower: () => [lowerTiles(group, target, attention, plan)] }] : [];
  return [...warpgroups, ...tiles, { name: 'shared', lower: () => [lowerShared(group, target, attention)] }];
}

export function lowerAttend(group: Group, target: Target): readonly LoweredKernel[] {
  const [form] = forms(group, target);
  if (!form) throw new Error(`no form of attention for ${target.backend}`);
  return form.lower();
}

/** Heads that scratch memory has room for, and code that is written out. */
const widestHead = 1024;

/** Whether the target has a form for an attention that is better than its products by themselves. */
export function attends(pattern: Pattern, target: Target): boolean {
  const attention = extentsOf(pattern);
  if (!target.arithmetic.has(attention.accumulator)) return false;
  switch (target.style) {
    case 'cpu':
      return Math.max(attention.depth, attention.width) <= widestHead;
    case 'simt':
      return isDecode(attention, target) || fitsShared(attention, target);
    case 'software-gpu':
      // Barriers are slow there; products have forms without.
      return false;
    default:
      return target.style satisfies never;
  }
}
