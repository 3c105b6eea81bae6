/** Graphs within graphs: the bodies of loops and branches. */
import { isGraph } from './attributes.js';
import type { Graph, Node } from './types.js';

/** Graphs that are attributes of a node. */
export function bodiesOf(node: Node): readonly Graph[] {
  if (node.op === 'scan') return [node.attrs.body];
  return node.op === 'source_op' ? Object.values(node.attrs.attrs).filter(isGraph) : [];
}

/** The graph itself, then all graphs within it. */
export function* withBodies(graph: Graph): Generator<Graph> {
  yield graph;
  for (const node of graph.nodes) for (const body of bodiesOf(node)) yield* withBodies(body);
}
