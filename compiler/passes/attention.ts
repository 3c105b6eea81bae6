/**
 * Scales of queries and keys are pulled out of the products that a softmax is taken of: (c·q)·(d·k) = c·d·(q·k). The
 * scores are scaled where they are computed, and neither operand has to be written scaled before. Scores of 16 bits
 * are f32 until they are scaled, since the bare products might overflow.
 */
import type { GraphBuilder } from '../graph/builder.js';
import { binaryC, cast } from '../graph/compose/index.js';
import { definitionOf } from '../graph/ops/index.js';
import type { Graph, Node, Value } from '../graph/types.js';
import { splat } from './recognise.js';
import { rewrite } from './rewrite.js';

export function pullAttentionScales(graph: Graph): Graph {
  const scores = scoresOf(graph);
  if (scores.size === 0) return graph;
  return rewrite(graph, (node, inputs, { b }) => {
    if (node.op !== 'dot' || !scores.has(node)) return undefined;
    const [left, right] = inputs.map((input) => unscaled(b, input));
    if (left.scale === 1 && right.scale === 1) return undefined;
    const { dtype } = node.attrs;
    const wide = dtype === 'f64' ? dtype : 'f32';
    const [product] = b.op('dot', [left.value, right.value], { ...node.attrs, dtype: wide });
    return [cast(b, binaryC(b, 'mul', product, left.scale * right.scale), dtype)];
  });
}

/** Products of floats that a softmax is elementwise computed from, and nothing else is. */
function scoresOf(graph: Graph): ReadonlySet<Node> {
  const producers = new Map<number, Node>();
  const uses = new Map<number, number>();
  const use = ({ id }: Value): void => void uses.set(id, (uses.get(id) ?? 0) + 1);
  for (const node of graph.nodes) {
    for (const { id } of node.outputs) producers.set(id, node);
    new Set(node.inputs).forEach(use);
  }
  for (const { value } of graph.outputs) use(value);
  const found = new Set<Node>();
  const visit = (value: Value): void => {
    const node = producers.get(value.id);
    if (!node || uses.get(value.id) !== 1) return;
    if (node.op === 'dot') {
      if (isScalable(node)) found.add(node);
    } else if (node.op === 'reshape' || node.op === 'transpose' || definitionOf(node.op).scalar)
      node.inputs.forEach(visit);
  };
  for (const node of graph.nodes) if (node.op === 'softmax') visit(node.inputs[0]);
  return found;
}

const floats: ReadonlySet<string> = new Set(['f16', 'bf16', 'f32', 'f64']);
const isScalable = ({ inputs, outputs }: Node): boolean =>
  [...inputs, ...outputs].every(({ type }) => floats.has(type.dtype) && type.dtype === outputs[0].type.dtype);

/** A value as another one times a number, seen through movement. */
function unscaled(b: GraphBuilder, value: Value): { readonly value: Value; readonly scale: number } {
  const node = b.producerOf(value);
  const as = { value, scale: 1 };
  if (node?.op === 'mul') {
    for (const [x, factor] of [node.inputs, [...node.inputs].reverse()]) {
      const scale = splat(b, factor);
      if (scale !== undefined) return scaledBy(unscaled(b, x), scale, as);
    }
  }
  if (node?.op === 'div') {
    const divisor = splat(b, node.inputs[1]);
    if (divisor !== undefined) return scaledBy(unscaled(b, node.inputs[0]), 1 / divisor, as);
  }
  if (node?.op === 'reshape' || node?.op === 'transpose' || node?.op === 'broadcast') {
    const inner = unscaled(b, node.inputs[0]);
    if (inner.scale === 1) return as;
    const [moved] = b.op(node.op, [inner.value], node.attrs as never);
    return { value: moved, scale: inner.scale };
  }
  return as;
}

/** A number that is no ordinary one stays where it is. */
const scaledBy = (
  inner: { readonly value: Value; readonly scale: number },
  factor: number,
  otherwise: { readonly value: Value; readonly scale: number },
) => {
  const scale = inner.scale * factor;
  const ordinary = Number.isFinite(scale) && Math.abs(scale) > 1e-30 && Math.abs(scale) < 1e30;
  return ordinary ? { value: inner.value, scale } : otherwise;
};
