/**
 * Attention as schedules see it: extents, operands in flat coordinates, logits of raw scores, and where results go.
 *
 * Rows are the queries that share keys: those of one head, or of all query heads of one key head. Schedules take them as
 * `outer` × `inner`: inner ones are consecutive in the innermost dim, outer ones are done one after the other.
 */
import type { DType } from '../../dtype.js';
import { definitionOf } from '../../graph/ops/index.js';
import type { Node, NodeOf, OpKind, Value } from '../../graph/types.js';
import { KernelBuilder } from '../../kernel/builder.js';
import type { KValue, Lanes, ScalarType } from '../../kernel/types.js';
import { sizeOf } from '../../tensor.js';
import { Affine, linearize } from '../affine.js';
import type { Contraction } from '../contract/contraction.js';
import { finish } from '../contract/registers.js';
import type { Group } from '../group.js';
import type { Lowering } from '../lowering.js';
import { type Index, scalarOf, shapeOf } from '../tensors.js';
import { attentionAt, contractionsOf, operandIndex, type Pattern, scoreAt, undo, weightIndex } from './pattern.js';

export interface Attention {
  readonly pattern: Pattern;
  readonly batch: number;
  readonly rows: number;
  /** The innermost dim of the rows. */
  readonly inner: number;
  readonly keys: number;
  /** Summed over in a score. */
  readonly depth: number;
  /** Of the values. */
  readonly width: number;
  /** Of scores, softmax and results. */
  readonly accumulator: ScalarType;
  readonly product: Contraction;
  readonly scores: Contraction;
}

/** The attention that a group of its family computes. */
export function attentionOf(group: Group): Attention {
  const producers = new Map<number, Node>();
  for (const node of group.nodes) for (const { id } of node.outputs) producers.set(id, node);
  const pattern = attentionAt(group.anchor as NodeOf<'dot'>, {
    producer: ({ id }) => producers.get(id),
    consumers: ({ id }) => group.nodes.filter(({ inputs }) => inputs.some((input) => input.id === id)),
    isResult: ({ id }) => group.writes.some((value) => value.id === id),
  });
  if (!pattern) throw new Error('the group is no attention');
  return describe(pattern, group);
}

/** The attention of a pattern that is in no group yet: for decisions by its extents. */
export const extentsOf = (pattern: Pattern): Attention => describe(pattern, { nodes: [] });

function describe(pattern: Pattern, group: Pick<Group, 'nodes'>): Attention {
  const { product, scores } = contractionsOf(pattern, group);
  const operand = pattern.product.inputs[pattern.weights];
  const { lhsBatch, rhsBatch, lhsContract, rhsContract } = pattern.product.attrs;
  const bound = pattern.weights === 0 ? [...lhsBatch, ...lhsContract] : [...rhsBatch, ...rhsContract];
  const rowShape = shapeOf(operand).filter((_, d) => !bound.includes(d));
  return {
    pattern,
    batch: product.batch,
    rows: sizeOf(rowShape),
    inner: [...rowShape].reverse().find((extent) => extent > 1) ?? 1,
    keys: product.k,
    depth: scores.k,
    width: product.n,
    accumulator: product.accumulator,
    product,
    scores,
  };
}

/** Rows that a form with blocks of at least `least` runs over: those of one head, or all of a batch where a head has few. */
export const rowsFor = ({ inner, rows }: Attention, least: number): number => (inner >= least ? inner : rows);

/** Index into the logits and weights. */
export const logitIndex = ({ pattern }: Attention, batch: Affine, row: Affine, key: Affine): Index =>
  weightIndex(pattern, operandIndex(pattern, batch, row, key));

/** Whether queries and keys are multiplied in the batches and rows of the second product. */
export function keepsRows(attention: Attention): boolean {
  const b = new KernelBuilder();
  const symbol = (dim: 0 | 1, extent: number): Affine => Affine.of(b.builtin('local_id', dim, extent), b);
  const [batch, row] = [symbol(0, attention.batch), symbol(1, attention.rows)];
  const place = scoreAt(attention.pattern, logitIndex(attention, batch, row, Affine.constant(0)));
  return place.batch.key === batch.key && place.row.key === row.key && attention.scores.batch === attention.batch;
}

/** An element of the queries, in the accumulators' type. */
export function queryAt(
  l: Lowering,
  attention: Attention,
  batch: Affine,
  row: Affine,
  d: Affine,
  lanes: Lanes,
): KValue {
  const place = scoreAt(attention.pattern, logitIndex(attention, batch, row, Affine.constant(0)));
  return attention.scores.lhs.element(l, place.batch, place.row, d, lanes);
}

/** Flat coordinates; at most one of row, key, d and w may mention the lane. */
export interface Place {
  readonly batch: Affine;
  readonly row: Affine;
}

/** Whether the elements of a query are neighbours in memory. */
export function areRowsContiguous(attention: Attention, batch: Affine, row: Affine): boolean {
  const place = scoreAt(attention.pattern, logitIndex(attention, batch, row.atLane(0), Affine.constant(0)));
  const { index, value } = attention.scores.lhs;
  const address = linearize(index(place.batch, place.row, Affine.lane(2)), shapeOf(value));
  return address.laneCoefficient() === 1;
}

export function keyAt(l: Lowering, attention: Attention, batch: Affine, key: Affine, d: Affine, lanes: Lanes): KValue {
  return attention.scores.rhs.element(l, scoreBatch(attention, batch), key, d, lanes);
}

export function valueAt(
  l: Lowering,
  { product }: Attention,
  batch: Affine,
  key: Affine,
  w: Affine,
  lanes: Lanes,
): KValue {
  return product.rhs.element(l, batch, w, key, lanes);
}

/** The scores' batch of a batch of the product. */
export function scoreBatch(attention: Attention, batch: Affine): Affine {
  const first = Affine.constant(0);
  return scoreAt(attention.pattern, logitIndex(attention, batch, first, first)).batch;
}

/**
 * The logit of a raw score: what the model does between the product of queries and keys and the softmax. Where that is
 * in 16 bits, it is done in the accumulators' type instead, without roundings in between.
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

/** Epilogue and store of a finished vector of the result. */
export function storeResult(
  l: Lowering,
  group: Group,
  { product }: Attention,
  { batch, row, w }: Place & { readonly w: Affine },
  value: KValue,
): void {
  finish(l, group, product, { batch, m: row, n: w }, value, value.type.lanes);
}
