/**
 * Finds attention in a graph of primitives: product(softmax(f(scores)), values) where the scores are a product of
 * queries and keys, f is elementwise, and nobody else wants what is in between.
 *
 * Nothing is rewritten: f stays the nodes that the model has (scales, masks, caps, casts), and where each operand's
 * element lies is traced through the views with symbolic indices. So heads may be split and joined, keys transposed,
 * and query heads grouped in any way that index arithmetic can see through.
 */
import { isFloat, isMiniFloat } from '../../dtype.js';
import { definitionOf } from '../../graph/ops/index.js';
import type { Node, NodeOf, Value } from '../../graph/types.js';
import { KernelBuilder } from '../../kernel/builder.js';
import type { KValue } from '../../kernel/types.js';
import { sizeOf } from '../../tensor.js';
import { Affine, delinearize, linearize } from '../affine.js';
import { type Contraction, contractionOf, transposed } from '../contract/contraction.js';
import { type Group, resultPath } from '../group.js';
import { accumulatorOf } from '../reduce.js';
import { type Index, scalarOf, shapeOf } from '../tensors.js';

/** What recognition asks about a graph. */
export interface Neighbours {
  producer(value: Value): Node | undefined;
  consumers(value: Value): readonly Node[];
  isResult(value: Value): boolean;
}

export interface Pattern {
  /** Queries times keys. */
  readonly scores: NodeOf<'dot'>;
  readonly softmax: NodeOf<'softmax'>;
  /** Weights times values: the anchor of the group. */
  readonly product: NodeOf<'dot'>;
  /** All nodes but `product`, in topological order. */
  readonly inner: readonly Node[];
  /** Those between the scores and the softmax. */
  readonly logits: readonly Node[];
  /** Views from the scores to the softmax, and from the softmax to the product, in order. */
  readonly toSoftmax: readonly Node[];
  readonly toProduct: readonly Node[];
  /** Which operand of `scores` has the queries, and which one of `product` the weights. */
  readonly queries: 0 | 1;
  readonly weights: 0 | 1;
}

/** Nodes that may lie between two products. */
const mostInner = 48;

/** Of a float type that kernels compute in. */
const isComputed = ({ type: { dtype } }: Value): boolean => isFloat(dtype) && !isMiniFloat(dtype);

/** The attention whose last product is `product`, if it is one. */
export function attentionAt(product: Node, graph: Neighbours): Pattern | undefined {
  if (product.op !== 'dot' || !isComputed(product.outputs[0])) return undefined;
  for (const weights of [0, 1] as const) {
    const found = fromWeights(product, weights, graph);
    if (found) return found;
  }
  return undefined;
}

function fromWeights(product: NodeOf<'dot'>, weights: 0 | 1, graph: Neighbours): Pattern | undefined {
  const after: Node[] = [];
  let value = product.inputs[weights];
  let consumer: Node = product;
  for (;;) {
    const node = graph.producer(value);
    if (!node || !isOnlyFor(node, [consumer], graph) || after.length > mostInner) return undefined;
    if (node.op === 'softmax') {
      return node.attrs.log || node.attrs.axes.length !== 1 || !isComputed(node.outputs[0])
        ? undefined
        : fromSoftmax(node, after, product, weights, graph);
    }
    const moves = node.op === 'reshape' || node.op === 'transpose';
    if (!moves && !(node.op === 'cast' && isComputed(node.outputs[0]))) return undefined;
    after.unshift(node);
    consumer = node;
    [value] = node.inputs;
  }
}

/** Whether all that wants results of the node are `consumers`. */
const isOnlyFor = (node: Node, consumers: readonly Node[], graph: Neighbours): boolean =>
  node.outputs.every(
    (output) => !graph.isResult(output) && graph.consumers(output).every((consumer) => consumers.includes(consumer)),
  );

function fromSoftmax(
  softmax: NodeOf<'softmax'>,
  after: readonly Node[],
  product: NodeOf<'dot'>,
  weights: 0 | 1,
  graph: Neighbours,
): Pattern | undefined {
  const [logits] = softmax.inputs;
  const { nodes, products } = ancestors(logits, graph);
  for (const scores of products) {
    if (sizeOf(shapeOf(scores.outputs[0])) !== sizeOf(shapeOf(logits))) continue;
    const before = between(scores, nodes);
    const inner = [scores, ...before, softmax, ...after];
    if (inner.length > mostInner) continue;
    if (!inner.every((node) => isOnlyFor(node, [...inner, product], graph))) continue;
    const toSoftmax = before.length === 0 && logits === scores.outputs[0] ? [] : resultPath(scores, before, logits);
    if (!toSoftmax) continue;
    const toProduct = after.filter((node) => node.op !== 'cast');
    const partial = { scores, softmax, product, inner, logits: before, toSoftmax, toProduct, weights };
    for (const queries of [0, 1] as const) if (fits({ ...partial, queries })) return { ...partial, queries };
  }
  return undefined;
}

/** What the logits are elementwise computed from, in topological order, and the products at the ends. */
function ancestors(logits: Value, graph: Neighbours): { nodes: readonly Node[]; products: NodeOf<'dot'>[] } {
  const nodes: Node[] = [];
  const products: NodeOf<'dot'>[] = [];
  const seen = new Set<Node>();
  const visit = (value: Value): void => {
    const node = graph.producer(value);
    if (!node || seen.has(node) || seen.size > 4 * mostInner) return;
    seen.add(node);
    if (node.op === 'dot') {
      if (isComputed(node.outputs[0])) products.push(node);
    } else if (node.op === 'reshape' || node.op === 'transpose' || definitionOf(node.op).scalar) {
      node.inputs.forEach(visit);
      nodes.push(node);
    }
  };
  visit(logits);
  return { nodes, products };
}

/** Nodes that depend on `start`. */
function between(start: Node, nodes: readonly Node[]): readonly Node[] {
  const reached = new Set(start.outputs.map(({ id }) => id));
  return nodes.filter((node) => {
    if (!node.inputs.some(({ id }) => reached.has(id))) return false;
    for (const { id } of node.outputs) reached.add(id);
    return true;
  });
}

// --- places ------------------------------------------------------------------------------------------------------------

/**
 * Attention in flat coordinates: out[batch, row, w] = Σ_key softmax_key(logit[batch, row, key]) · v[batch, key, w] with
 * raw scores Σ_d q[…, d] · k[batch, key, d].
 */
export interface Contractions {
  /** m: rows, n: columns of values, k: keys. */
  readonly product: Contraction;
  /** m: rows in an order of their own, n: keys, k: depth. */
  readonly scores: Contraction;
}

/** @param group Of the attention, or of nothing where only shapes matter. */
export function contractionsOf(pattern: Pattern, group: Pick<Group, 'nodes'>): Contractions {
  const of = (node: Node, turn: boolean): Contraction => {
    const contraction = contractionOf({ ...group, anchor: node } as Group);
    return turn ? transposed(contraction) : contraction;
  };
  return { product: of(pattern.product, pattern.weights === 1), scores: of(pattern.scores, pattern.queries === 1) };
}

/** Index into the softmax's input and output of a weight. */
export function weightIndex(pattern: Pattern, at: Index): Index {
  return undo(pattern.toProduct, at);
}

/** Index into the product's operand that has the weights. */
export function operandIndex({ product, weights }: Pattern, batch: Affine, row: Affine, key: Affine): Index {
  const operand = contractionOf({ anchor: product, nodes: [] } as unknown as Group)[weights === 0 ? 'lhs' : 'rhs'];
  return operand.index(batch, row, key);
}

/** Where a logit's raw score lies: flat batch, row and key of the product of queries and keys. */
export function scoreAt(pattern: Pattern, logit: Index): { batch: Affine; row: Affine; key: Affine } {
  const { scores, queries, toSoftmax } = pattern;
  const at = undo(toSoftmax, logit);
  const [lhs, rhs] = scores.inputs.map((input) => shapeOf(input).length);
  const { lhsBatch, lhsContract, rhsContract } = scores.attrs;
  const batches = lhsBatch.length;
  const lefts = lhs - batches - lhsContract.length;
  const rights = rhs - batches - rhsContract.length;
  const shape = shapeOf(scores.outputs[0]);
  const flat = (from: number, count: number) =>
    linearize(at.slice(from, from + count), shape.slice(from, from + count));
  const [left, right] = [flat(batches, lefts), flat(batches + lefts, rights)];
  return { batch: flat(0, batches), row: queries === 0 ? left : right, key: queries === 0 ? right : left };
}

/** The index before views, from the one after them. */
export function undo(views: readonly Node[], index: Index): Index {
  return [...views].reverse().reduce((at, node): Index => {
    if (node.op === 'transpose') {
      const source: Affine[] = [];
      node.attrs.permutation.forEach((from, i) => {
        source[from] = at[i];
      });
      return source;
    }
    return delinearize(linearize(at, shapeOf(node.outputs[0])), shapeOf(node.inputs[0]));
  }, index);
}

/** Whether each key is one softmax place and one key of the scores, and keys are the same for all rows of a batch. */
function fits(pattern: Pattern): boolean {
  const { scores, product } = contractionsOf(pattern, { nodes: [] });
  const accumulators = [scores, product].map(({ accumulator }) => accumulator);
  const softmaxed = accumulatorOf(scalarOf(pattern.softmax.inputs[0]));
  if (accumulators.some((accumulator) => accumulator !== softmaxed)) return false;
  if (product.k !== scores.n || Math.min(product.batch, product.m, product.n, product.k, scores.k) < 1) return false;
  const b = new KernelBuilder();
  const symbol = (dim: 0 | 1 | 2, extent: number): KValue => b.builtin('local_id', dim, extent);
  const [batchId, rowId, keyId] = [symbol(0, product.batch), symbol(1, product.m), symbol(2, product.k)];
  const [batch, row, key] = [batchId, rowId, keyId].map((value) => Affine.of(value, b));
  const index = weightIndex(pattern, operandIndex(pattern, batch, row, key));
  const [axis] = pattern.softmax.attrs.axes;
  if (index[axis].key !== key.key) return false;
  if (index.some((at, d) => d !== axis && !key.isConstant && mentions(at, keyId))) return false;
  const place = scoreAt(pattern, index);
  return (
    place.key.key === key.key &&
    (row.isConstant || !mentions(place.batch, rowId)) &&
    (key.isConstant || (!mentions(place.batch, keyId) && !mentions(place.row, keyId)))
  );
}

export const mentions = (a: Affine, value: KValue): boolean =>
  a.terms.some(({ atom }) =>
    atom.kind === 'value' ? atom.value === value : atom.kind !== 'lane' && mentions(atom.a, value),
  );
