/** Common subexpressions: equal ops on equal inputs are computed once. Dead nodes go with the rebuild. */
import type { Graph, Node, Value } from '../graph/types.js';
import { keep, rewrite } from './rewrite.js';

export function eliminate(graph: Graph): Graph {
  const known = new Map<string, readonly Value[]>();
  return rewrite(graph, (node, inputs, { b }) => {
    // Bodies of loops are not compared.
    if (node.op === 'scan') return undefined;
    const key = keyOf(node, inputs);
    const outputs = known.get(key) ?? keep(b, node, inputs);
    known.set(key, outputs);
    return outputs;
  });
}

const keyOf = (node: Node, inputs: readonly Value[]): string =>
  `${node.op}(${inputs.map((input) => input.id).join(',')})${JSON.stringify(node.attrs, (_, value) => (typeof value === 'bigint' ? `${value}n` : typeof value === 'number' ? (Object.is(value, -0) ? '-0' : String(value)) : value))}`;
