/** What the rest of a graph needs. */
import type { Graph } from '../graph/types.js';

/** By graph: for each value, the index of the last node that uses it; outputs are used after all nodes. */
const lastUses = new WeakMap<Graph, ReadonlyMap<number, number>>();

function lastUsesOf(graph: Graph): ReadonlyMap<number, number> {
  const known = lastUses.get(graph);
  if (known !== undefined) return known;
  const uses = new Map<number, number>();
  graph.nodes.forEach((node, at) => {
    for (const { id } of node.inputs) uses.set(id, at);
  });
  for (const { value } of graph.outputs) uses.set(value.id, graph.nodes.length);
  lastUses.set(graph, uses);
  return uses;
}

/** Ids of the values that the node at `next` or anything after it uses, outputs included. */
export function neededFrom(graph: Graph, next: number): { has(id: number): boolean } {
  const uses = lastUsesOf(graph);
  return { has: (id) => (uses.get(id) ?? -1) >= next };
}
