/** Logits of raw scores: what the model does between the product of queries and keys and the softmax. */
import type { DType } from '../../dtype.js';
import { definitionOf } from '../../graph/ops/index.js';
import type { Node, OpKind, Value } from '../../graph/types.js';
import type { KValue, Lanes } from '../../kernel/types.js';
import type { Affine } from '../affine.js';
import type { Lowering } from '../lowering.js';
import { type Index, scalarOf } from '../tensors.js';
import { type Attention, logitIndex, type Place } from './attention.js';
import { undo } from './pattern.js';

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
  const { scores, softmax, logits: chain } = attention.pattern;
  const { lanes } = score.type;
  if ([scores, ...chain].some(({ outputs }) => isNarrow(outputs[0])))
    return l.widen(
      new WideLogits(l, attention, score).value(softmax.inputs[0], logitIndex(attention, batch, row, key)),
      lanes,
    );
  l.define(scores.outputs[0], () => l.b.convert(score, scalarOf(scores.outputs[0], scores)));
  const [logits] = softmax.inputs;
  const value = l.value(logits, logitIndex(attention, batch, row, key), lanes);
  return l.b.convert(l.widen(value, lanes), attention.accumulator);
}

const isNarrow = ({ type: { dtype } }: Value): boolean => dtype === 'f16' || dtype === 'bf16';

/** Logits of one score, or of a vector of them, with floats of 16 bits as f32. */
class WideLogits {
  readonly #l: Lowering;
  readonly #producers = new Map<number, Node>();
  readonly #scores: Value;
  readonly #score: KValue;
  readonly #known = new Map<number, KValue>();

  constructor(l: Lowering, { pattern }: Attention, score: KValue) {
    this.#l = l;
    [this.#scores] = pattern.scores.outputs;
    this.#score = score;
    for (const node of pattern.logits) this.#producers.set(node.outputs[0].id, node);
  }

  value(value: Value, index: Index): KValue {
    if (value === this.#scores) return this.#score;
    const node = this.#producers.get(value.id);
    if (!node) {
      const element = this.#l.value(value, index, this.#score.type.lanes);
      return isNarrow(value) ? this.#l.b.convert(element, 'f32') : element;
    }
    const known = this.#known.get(value.id) ?? this.#computed(node, index);
    this.#known.set(value.id, known);
    return known;
  }

  #computed(node: Node, index: Index): KValue {
    if (node.op === 'reshape' || node.op === 'transpose') return this.value(node.inputs[0], undo([node], index));
    const wide = (value: Value): DType => (isNarrow(value) ? 'f32' : value.type.dtype);
    const [output] = node.outputs;
    const inputs = node.inputs.map(wide);
    if (node.op === 'cast' && inputs[0] === wide(output)) return this.value(node.inputs[0], index);
    const rule = definitionOf(node.op).scalar as ScalarRule;
    const args = node.inputs.map((input) => this.value(input, index));
    const lanes = Math.max(...args.map(({ type }) => type.lanes)) as Lanes;
    const attrs = (node.op === 'cast' ? { ...node.attrs, dtype: wide(output) } : node.attrs) as never;
    return rule(
      this.#l.b,
      args.map((arg) => this.#l.widen(arg, lanes)),
      { attrs, inputs, output: wide(output) },
    );
  }
}

type ScalarRule = NonNullable<ReturnType<typeof definitionOf<OpKind>>['scalar']>;
