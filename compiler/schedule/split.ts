/**
 * Splits contractions whose constant operand is larger than a device can bind: the weights are cut along their free
 * dim, each part has a contraction of its own, and the results are written side by side.
 */
import { bytesOf } from '../dtype.js';
import type { GraphBuilder } from '../graph/builder.js';
import { concat, slice1 } from '../graph/compose/index.js';
import type { Graph, NodeOf, Value } from '../graph/types.js';
import type { Target } from '../kernel/target.js';
import { foldConstants } from '../passes/fold.js';
import { rewrite } from '../passes/rewrite.js';
import { sizeOf } from '../tensor.js';

/** Rows that tiles of packed weights have at most. */
const widestTile = 128;

export function splitLargeWeights(graph: Graph, target: Target): Graph {
  const limit = target.limits.storageBindingBytes;
  const isLarge = (value: Value) => bytesOf(value.type.dtype, sizeOf(value.type.shape as readonly number[])) > limit;
  const candidates = graph.nodes.some(
    (node) =>
      (node.op === 'dot' || node.op === 'conv') &&
      node.inputs.some((input) => graph.constants.has(input.id) && isLarge(input)),
  );
  if (!candidates) return graph;
  const split = rewrite(graph, (node, inputs, { b, constant }) => {
    if (node.op !== 'dot' && node.op !== 'conv') return undefined;
    const which = inputs.findIndex((input) => constant(input) !== undefined && isLarge(input));
    if (which < 0) return undefined;
    const place =
      node.op === 'dot'
        ? freeAxis(node, which)
        : which === 1 && node.attrs.groups === 1
          ? { axis: 0, result: 1 }
          : undefined;
    return place && [cut(b, node, inputs, which, place, limit)];
  });
  return foldConstants(split).graph;
}

/** A free axis of the operand and where it is in the result. */
function freeAxis(node: NodeOf<'dot'>, which: number): { axis: number; result: number } | undefined {
  const { lhsBatch, rhsBatch, lhsContract, rhsContract } = node.attrs;
  const free = (value: Value, used: readonly number[]) =>
    value.type.shape.map((_, d) => d).filter((d) => !used.includes(d));
  const lhsFree = free(node.inputs[0], [...lhsBatch, ...lhsContract]);
  const rhsFree = free(node.inputs[1], [...rhsBatch, ...rhsContract]);
  const [axis] = which === 0 ? lhsFree : rhsFree;
  if (axis === undefined) return undefined;
  return { axis, result: lhsBatch.length + (which === 0 ? 0 : lhsFree.length) };
}

function cut(
  b: GraphBuilder,
  node: NodeOf<'dot'> | NodeOf<'conv'>,
  inputs: readonly Value[],
  which: number,
  { axis, result }: { axis: number; result: number },
  limit: number,
): Value {
  const weights = inputs[which];
  const shape = weights.type.shape as readonly number[];
  const row = bytesOf(weights.type.dtype, sizeOf(shape) / shape[axis]);
  // Packing rounds the rows of a part up to whole tiles.
  const most = Math.floor(limit / row);
  const step = Math.max(1, most - Math.min(widestTile, most >> 1));
  const parts: Value[] = [];
  for (let start = 0; start < shape[axis]; start += step) {
    const part = slice1(b, weights, axis, start, Math.min(step, shape[axis] - start));
    const operands = inputs.map((input, i) => (i === which ? part : input));
    parts.push(b.op(node.op, operands, node.attrs as never)[0]);
  }
  return concat(b, parts, result);
}
