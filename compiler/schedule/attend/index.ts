/**
 * The attend family: softmax(scores)·values without the matrix of scores. Chooses the form by the number of queries and
 * the kind of device.
 */
import type { Target } from '../../kernel/target.js';
import type { Group } from '../group.js';
import type { LoweredKernel } from '../lowered.js';
import { accumulatorOf } from '../reduce.js';
import { scalarOf, shapeOf } from '../tensors.js';
import { attentionOf } from './attention.js';
import { lowerBlocks } from './blocks.js';
import type { Pattern } from './pattern.js';
import { isStream, lowerStreams } from './streams.js';

export function lowerAttend(group: Group, target: Target): readonly LoweredKernel[] {
  const attention = attentionOf(group);
  return isStream(attention, target) ? lowerStreams(group, target, attention) : [lowerBlocks(group, target, attention)];
}

/** Whether the target has a form for an attention that is better than its products by themselves. */
export function attends({ product, softmax }: Pattern, target: Target): boolean {
  const [scalar, accumulator] = [scalarOf(product.outputs[0]), accumulatorOf(scalarOf(softmax.inputs[0]))];
  return (
    target.style === 'cpu' &&
    target.arithmetic.has(accumulator) &&
    shapeOf(product.outputs[0]).length > 0 &&
    scalar !== 'bool'
  );
}
