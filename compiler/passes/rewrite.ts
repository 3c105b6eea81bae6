/** Rebuilding a graph node by node: what every pass does. */
import { GraphBuilder } from '../graph/builder.js';
import type { ConstantData, Graph, Node, OpKind, Value } from '../graph/types.js';

export interface RewriteContext {
  readonly b: GraphBuilder;
  readonly graph: Graph;
  /** Data of a value of the new graph if it is a constant. */
  constant(value: Value): ConstantData | undefined;
  /** The node of the new graph that makes a value, if any. */
  producer(value: Value): Node | undefined;
  /** Number of uses of a value of the *old* graph, results included. */
  uses(value: Value): number;
}

/**
 * Builds a new graph. `visit` gets each node with its inputs already mapped and returns the values that replace its
 * outputs, or undefined to keep it as it is. Unused constants and nodes without effect are dropped.
 */
export function rewrite(
  graph: Graph,
  visit: (node: Node, inputs: readonly Value[], context: RewriteContext) => readonly Value[] | undefined,
): Graph {
  const b = new GraphBuilder(graph.name);
  const mapped = new Map<number, Value>();
  const useCounts = countUses(graph);
  for (const [name, bounds] of graph.dims) b.dim(name, bounds);
  for (const input of graph.inputs) mapped.set(input.id, b.input(input.name, input.type.dtype, input.type.shape));
  const live = liveNodes(graph);
  // Equal data is one value: an artifact stores it once, whatever names it has.
  const constants = new Map<ConstantData, Value>();
  const mappedOf = (value: Value): Value => {
    let known = mapped.get(value.id);
    if (!known) {
      const data = graph.constants.get(value.id);
      if (!data) throw new Error(`${value.name} is used before it is defined`);
      known = constants.get(data) ?? b.constant(data, value.name);
      constants.set(data, known);
      mapped.set(value.id, known);
    }
    return known;
  };
  const context: RewriteContext = {
    b,
    graph,
    constant: (value) => b.constantOf(value),
    producer: (value) => b.producerOf(value),
    uses: (value) => useCounts.get(value.id) ?? 0,
  };
  for (const node of graph.nodes) {
    if (!live.has(node)) continue;
    b.source = node.source;
    const inputs = node.inputs.map(mappedOf);
    const outputs = visit(node, inputs, context) ?? keep(b, node, inputs);
    node.outputs.forEach((output, i) => {
      mapped.set(output.id, outputs[i]);
    });
  }
  for (const { name, value } of graph.outputs) b.output(name, mappedOf(value));
  return b.finish();
}

export function keep(b: GraphBuilder, node: Node, inputs: readonly Value[]): readonly Value[] {
  const names = node.outputs.map((output) => output.name);
  return b.node<OpKind>(
    node.op,
    inputs,
    node.attrs,
    node.outputs.map((output) => output.type),
    names,
    node.source,
  );
}

function countUses(graph: Graph): Map<number, number> {
  const counts = new Map<number, number>();
  const count = (value: Value) => counts.set(value.id, (counts.get(value.id) ?? 0) + 1);
  for (const node of graph.nodes) node.inputs.forEach(count);
  for (const { value } of graph.outputs) count(value);
  return counts;
}

function liveNodes(graph: Graph): Set<Node> {
  const wanted = new Set(graph.outputs.map(({ value }) => value.id));
  const live = new Set<Node>();
  for (const node of [...graph.nodes].reverse()) {
    if (!node.outputs.some((output) => wanted.has(output.id))) continue;
    live.add(node);
    for (const input of node.inputs) wanted.add(input.id);
  }
  return live;
}
