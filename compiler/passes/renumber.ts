/** Names by position, so that graphs that do the same read the same. */
import type { Graph, Node, Value } from '../graph/types.js';

/** Inputs become `in.0`, `in.1` …, values without a name of the model `t.0`, `t.1` …; the rest stays. */
export function renumbered(graph: Graph): Graph {
  const named = new Map<number, Value>();
  const taken = new Set(graph.nodes.flatMap((node) => node.outputs.map(({ name }) => name)));
  const fresh = (value: Value, prefix: string, at: number): number => {
    let index = at;
    while (taken.has(`${prefix}.${index}`)) index++;
    named.set(value.id, { ...value, name: `${prefix}.${index}` });
    return index + 1;
  };
  let inputs = 0;
  for (const input of graph.inputs) inputs = fresh(input, 'in', inputs);
  let made = 0;
  const nameOf = (value: Value): Value => {
    if (!named.has(value.id)) {
      if (/^v\d+$/.test(value.name)) made = fresh(value, 't', made);
      else named.set(value.id, value);
    }
    return named.get(value.id) as Value;
  };
  return {
    ...graph,
    inputs: graph.inputs.map(nameOf),
    nodes: graph.nodes.map(
      (node) => ({ ...node, inputs: node.inputs.map(nameOf), outputs: node.outputs.map(nameOf) }) as Node,
    ),
    outputs: graph.outputs.map(({ name, value }) => ({ name, value: nameOf(value) })),
  };
}
