/**
 * The attend family: softmax(scores)·values without the matrix of scores. Chooses the form by the number of queries and
 * the kind of device.
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

interface Form {
  readonly name: string;
  lower(group: Group): readonly LoweredKernel[];
}

/** The form of an attention on a target; none where its products are better by themselves. */
function formFor(attention: Attention, target: Target): Form | undefined {
  if (!target.arithmetic.has(attention.accumulator)) return undefined;
  switch (target.style) {
    case 'cpu':
      return isStream(attention, target)
        ? { name: 'streams', lower: (group) => lowerStreams(group, target, attention) }
        : { name: 'blocks', lower: (group) => [lowerBlocks(group, target, attention)] };
    case 'simt':
      if (isDecode(attention, target))
        return { name: 'decode', lower: (group) => lowerDecode(group, target, attention) };
      return fitsShared(attention, target)
        ? { name: 'shared', lower: (group) => [lowerShared(group, target, attention)] }
        : undefined;
    case 'software-gpu':
      // Barriers are slow there; products have forms without.
      return undefined;
    default:
      return target.style satisfies never;
  }
}

export function lowerAttend(group: Group, target: Target): readonly LoweredKernel[] {
  const form = formFor(attentionOf(group), target);
  if (!form) throw new Error(`no form of attention for ${target.backend}`);
  return form.lower(group);
}

/** Whether the target has a form for an attention that is better than its products by themselves. */
export const attends = (pattern: Pattern, target: Target): boolean => formFor(extentsOf(pattern), target) !== undefined;
