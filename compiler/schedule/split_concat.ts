/** Splits concatenations of more tensors than a kernel can bind into a tree: what a loop has stacked may be many. */
import type { GraphBuilder } from '../graph/builder.js';
import type { Graph, Value } from '../graph/types.js';
import type { Target } from '../kernel/target.js';
import { rewrite } from '../passes/rewrite.js';

export function splitWideConcats(graph: Graph, target: Target): Graph {
  // One binding is the result; one stays free for what is fused with it.
  const most = Math.max(2, target.limits.storageBuffers - 2);
  if (!graph.nodes.some((node) => node.op === 'concat' && node.inputs.length > most)) return graph;
  return rewrite(graph, (node, inputs, { b }) => {
    if (node.op !== 'concat' || inputs.length <= most) return undefined;
    return [joined(b, inputs, node.attrs.axis, most)];
  });
}

function joined(b: GraphBuilder, values: readonly Value[], axis: number, most: number): Value {
  if (values.length === 1) return values[0];
  const parts: Value[] = [];
  for (let i = 0; i < values.length; i += most) {
    const part = values.slice(i, i + most);
    parts.push(part.length === 1 ? part[0] : b.op('concat', part, { axis })[0]);
  }
  return joined(b, parts, axis, most);
}
