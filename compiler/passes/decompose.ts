/** Replaces composites that no family lowers as a whole by their decomposition. */
import { definitionOf } from '../graph/ops/index.js';
import type { Graph } from '../graph/types.js';
import { rewrite } from './rewrite.js';

export function decompose(graph: Graph): Graph {
  return rewrite(graph, (node, inputs, { b }) => {
    const definition = definitionOf(node.op);
    // Row composites have schedules of their own; what counts as a map has only its decomposition.
    if (!definition.decompose || definition.family !== 'map') return undefined;
    return definition.decompose(b, { ...node, inputs } as never);
  });
}
