/**
 * Constant folding. Small results are computed at once; large ones (weights) become lazy constants, computed when
 * their data is first wanted, so that compiling stays quick and nothing is held twice.
 */
import { bytesOf } from '../dtype.js';
import { evaluateNode } from '../graph/host_values.js';
import { definitionOf } from '../graph/ops/index.js';
import type { ConstantData, Graph, Node, Value } from '../graph/types.js';
import { type HostTensor, sizeOf } from '../tensor.js';
import { partsOfView } from './constant_views.js';
import { type RewriteContext, rewrite } from './rewrite.js';

const eagerBytes = 1 << 16;
/** Folding must not blow weights up: a broadcast of a constant is cheaper as index arithmetic. */
const growthLimit = 8;

export interface Folded {
  readonly graph: Graph;
  readonly count: number;
}

export function foldConstants(graph: Graph): Folded {
  let count = 0;
  const folded = rewrite(graph, (node, inputs, context) => {
    const spread = spreadConstant(node, inputs, context);
    if (spread) {
      count++;
      return spread;
    }
    const data = inputs.map((input) => constantData(input, context));
    if (data.includes(undefined) || !isWorthFolding(node, data as ConstantData[])) return undefined;
    count++;
    return node.outputs.map((output, i) =>
      context.b.constant(foldedOutput(node, data as ConstantData[], output, i), output.name),
    );
  });
  return { graph: folded, count };
}

const bytesOfType = (value: Value): number => bytesOf(value.type.dtype, sizeOf(value.type.shape as readonly number[]));
const bytesOfData = (data: ConstantData): number => bytesOf(data.dtype, sizeOf(data.shape));

/** Data of a constant, also behind a broadcast that was not folded. */
function constantData(value: Value, { b }: RewriteContext): ConstantData | undefined {
  const own = b.constantOf(value);
  if (own) return own;
  const node = b.producerOf(value);
  const source = node?.op === 'broadcast' ? b.constantOf(node.inputs[0]) : undefined;
  return node && source && foldedOutput(node, [source], value, 0);
}

/** An elementwise op of one constant that was broadcast is computed before that. */
function spreadConstant(node: Node, inputs: readonly Value[], { b }: RewriteContext): readonly Value[] | undefined {
  if (inputs.length !== 1 || b.constantOf(inputs[0])) return undefined;
  if (node.op !== 'cast' && !definitionOf(node.op).scalar) return undefined;
  const producer = b.producerOf(inputs[0]);
  if (producer?.op !== 'broadcast' || !b.constantOf(producer.inputs[0])) return undefined;
  const [result] = b.op(node.op, [producer.inputs[0]], node.attrs as never);
  const data = foldedOutput(
    { ...node, inputs: producer.inputs, outputs: [result] } as Node,
    [b.constantOf(producer.inputs[0]) as ConstantData],
    result,
    0,
  );
  return b.op('broadcast', [b.constant(data, result.name)], producer.attrs, [node.outputs[0].name]);
}

function isWorthFolding(node: Node, inputs: readonly ConstantData[]): boolean {
  if (node.op === 'source_op') return false;
  if (node.outputs.some((output) => output.type.dtype === 'string')) return true;
  const results = node.outputs.reduce((sum, output) => sum + bytesOfType(output), 0);
  const sources = inputs.reduce((sum, data) => sum + bytesOfData(data), 0);
  if (node.op === 'broadcast') return results <= sources;
  if (node.op === 'iota') return results <= 64;
  return results <= eagerBytes || (inputs.length > 0 && results <= sources * growthLimit);
}

function foldedOutput(node: Node, inputs: readonly ConstantData[], output: Value, index: number): ConstantData {
  const shape = output.type.shape as readonly number[];
  const origin = { node, inputs };
  const compute = (): HostTensor =>
    evaluateNode(
      node,
      inputs.map((data) => data.load()),
    )[index];
  if (node.outputs.reduce((sum, value) => sum + bytesOfType(value), 0) <= eagerBytes) {
    const tensor = compute();
    return { dtype: output.type.dtype, shape, load: () => tensor, origin };
  }
  const readPart = inputs.length === 1 ? partsOfView(node, inputs[0]) : undefined;
  return { dtype: output.type.dtype, shape, load: compute, origin, ...(readPart && { readPart }) };
}
