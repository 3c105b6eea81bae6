/** Graph IR → ONNX model bytes (opset 21, later where an operator needs it). What ONNX cannot say is refused by name. */
import { plainName } from '../../../graph/dims.js';
import type { ConstantData, Graph, Node, NodeOf, OpKind, Value } from '../../../graph/types.js';
import { encode } from '../proto.js';
import { ExportContext, valueInfo } from './context.js';
import { conversions } from './conversions.js';
import type { Convert } from './convert.js';

/** ONNX's versioning table: which IR the release of an opset has. */
const irVersionOf = (opset: number): bigint => BigInt(Math.min(13, Math.max(10, opset - 12)));

/**
 * Writes the graph as an ONNX model.
 * @throws TuttiError E_UNSUPPORTED naming the node that ONNX has no operators for
 */
export function exportOnnx(graph: Graph): Uint8Array {
  const origins = new Map<string, { input: string; axis: number }>();
  for (const { name, type } of graph.inputs) {
    type.shape.forEach((dim, axis) => {
      const dimension = plainName(dim);
      if (dimension !== undefined && !origins.has(dimension)) origins.set(dimension, { input: name, axis });
    });
  }
  const context = new ExportContext(
    [...graph.inputs, ...graph.outputs].map(({ name }) => name),
    origins,
    writeGraph,
  );
  for (const input of graph.inputs) context.define(input, input.name);
  writeGraph(
    context,
    graph,
    graph.outputs.map(({ name }) => name),
  );
  return encode('ModelProto', {
    irVersion: irVersionOf(context.opset),
    producerName: 'tutti',
    opsetImport: [{ domain: '', version: BigInt(context.opset) }],
    graph: {
      name: graph.name,
      node: context.nodes,
      initializer: context.initializers,
      input: graph.inputs.map(({ name, type }) => valueInfo(name, type.dtype, type.shape)),
      output: graph.outputs.map(({ name, value: { type } }) => valueInfo(name, type.dtype, type.shape)),
    },
  });
}

function writeGraph(context: ExportContext, graph: Graph, outputs: readonly string[]): void {
  const used = [...graph.nodes.flatMap((node) => node.inputs), ...graph.outputs.map(({ value }) => value)];
  const values = new Map(used.map((value) => [value.id, value]));
  for (const [id, data] of graph.constants) {
    const value = values.get(id);
    if (value !== undefined) context.define(value, exportConstant(context, value, data));
  }
  for (const node of graph.nodes) exportNode(context, node);
  graph.outputs.forEach(({ value }, i) => {
    context.emit('Identity', [context.nameOf(value)], {}, 1, [outputs[i]]);
  });
}

const exportConstant = (context: ExportContext, value: Value, data: ConstantData): string =>
  context.constant(data.load(), context.fresh(value.name));

function exportNode<K extends OpKind>(context: ExportContext, node: Node & { readonly op: K }): void {
  context.begin(node);
  const convert = conversions[node.op] as Convert<OpKind>;
  const results = convert(
    context,
    node as unknown as NodeOf<OpKind>,
    node.inputs.map((input) => context.nameOf(input)),
  );
  const names = typeof results === 'string' ? [results] : results;
  node.outputs.forEach((output, i) => {
    context.define(output, names[i]);
  });
}
