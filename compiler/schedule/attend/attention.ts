import type { Node, NodeOf } from '../../graph/types.js';
import { KernelBuilder } from '../../kernel/builder.js';
import type { KValue, Lanes, ScalarType } from '../../kernel/types.js';
import { sizeOf } from '../../tensor.js';
import { Affine, linearize } from '../affine.js';
import type { Contraction } from '../contract/contraction.js';
import { finish } from '../contract/finish.js';
import type { Group } from '../group.js';
import type { Lowering } from '../lowering.js';
import { type Index, shapeOf } from '../tensors.js';
import { attentionAt, contractionsOf, operandIndex, type Pattern, scoreAt, weightIndex } from './pattern.js';

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
  /** Batch and row of the second product, which are others where several batches are taken together. */
  placeOf(batch: Affine, row: Affine): Place;
}

/** Flat coordinates; at most one of row, key, d and w may mention the lane. */
export interface Place {
  readonly batch: Affine;
  readonly row: Affine;
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
    placeOf: (batch, row) => ({ batch, row }),
  };
}

/** Rows that a form with blocks of at least `least` runs over: those of one head, or all of a batch where a head has few. */
export const rowsFor = ({ inner, rows }: Attention, least: number): number => (inner >= least ? inner : rows);

/** Index into the logits and weights. */
export function logitIndex({ pattern, placeOf }: Attention, batch: Affine, row: Affine, key: Affine): Index {
  const place = placeOf(batch, row);
  return weightIndex(pattern, operandIndex(pattern, place.batch, place.row, key));
}

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
  { product, placeOf }: Attention,
  batch: Affine,
  key: Affine,
  w: Affine,
  lanes: Lanes,
): KValue {
  return product.rhs.element(l, placeOf(batch, Affine.constant(0)).batch, w, key, lanes);
}

/** The scores' batch of a batch of the product. */
export function scoreBatch(attention: Attention, batch: Affine): Affine {
  const first = Affine.constant(0);
  return scoreAt(attention.pattern, logitIndex(attention, batch, first, first)).batch;
}

/** Epilogue and store of a finished vector of the result. */
export function storeResult(
  l: Lowering,
  group: Group,
  { product, placeOf }: Attention,
  at: Place & { readonly w: Affine },
  value: KValue,
): void {
  const { batch, row } = placeOf(at.batch, at.row);
  finish(l, group, product, { batch, m: row, n: at.w }, value, value.type.lanes);
}
