/** Logits of raw scores: what the model does between the product of queries and keys and the softmax. */
import type { KValue } from '../../kernel/types.js';
import type { Affine } from '../affine.js';
import type { Lowering } from '../lowering.js';
import { type Attention, logitIndex, type Place } from './attention.js';

/**
 * The logit of a score, or of a vector of them. What the model does in 16 bits is done in the accumulators' type instead,
 * without roundings in between.
 */
export function logitOf(
  l: Lowering,
  attention: Attention,
  { batch, row, key }: Place & { readonly key: Affine },
  score: KValue,
): KValue {
  const { scores, softmax } = attention.pattern;
  const { lanes } = score.type;
  l.define(scores.outputs[0], () => score);
  const value = l.unrounded(softmax.inputs[0], logitIndex(attention, batch, row, key), lanes);
  return l.b.convert(l.widen(value, lanes), attention.accumulator);
}
