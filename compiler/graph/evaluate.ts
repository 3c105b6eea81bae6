/**
 * Runs graphs on host tensors: slow and exact. The oracle that kernels are checked against, and the constant folder.
 */
import { TuttiError } from '../error.js';
import { dataLength, type HostTensor, sizeOf } from '../tensor.js';
import { describe } from './builder.js';
import { isConcrete, plainName, printShape, SymDim } from './dims.js';
import { definitionOf } from './ops/index.js';
import type { Graph, Node, NodeOf, OpKind, TensorType } from './types.js';

/**
 * Results of one node. Its result types are inferred anew from the tensors, so dims that are symbolic in the node but
 * follow from the inputs do not matter; symbolic attributes do.
 * @throws TuttiError E_SHAPE if the inputs do not fit or a shape is not known.
 */
export function evaluateNode(node: Node, inputs: readonly HostTensor[]): HostTensor[] {
  return evaluateOp(node as NodeOf<OpKind>, inputs);
}

function evaluateOp<K extends OpKind>(node: NodeOf<K>, inputs: readonly HostTensor[]): HostTensor[] {
  const definition = definitionOf(node.op);
  const { attrs, source } = node;
  requireConcrete(node);
  const types: TensorType[] = definition.infer({
    attrs,
    inputs,
    source,
    fail(message, expected, found, remedy): never {
      throw new TuttiError('E_SHAPE', message, { subject: describe(source), expected, found, remedy });
    },
  });
  const outputs = types.map(({ dtype, shape }) => {
    if (!isConcrete(shape)) {
      throw new TuttiError('E_SHAPE', `shape of a result of ${node.op} is not known`, {
        subject: describe(source),
        expected: 'numbers',
        found: printShape(shape),
        remedy: 'Bind the symbolic dims first.',
      });
    }
    return { dtype, shape };
  });
  return definition.evaluate({ attrs, inputs, outputs, source, run: runBody });
}

function runBody(body: Graph, inputs: readonly HostTensor[]): HostTensor[] {
  const results = evaluateGraph(body, new Map(body.inputs.map((input, i) => [input.name, inputs[i]])));
  return body.outputs.map(({ name }) => results.get(name) as HostTensor);
}

/** Attributes without names of dims in them. */
function requireConcrete({ op, attrs, source }: NodeOf<OpKind>): void {
  for (const [name, value] of Object.entries(attrs)) {
    if (value instanceof SymDim || (Array.isArray(value) && value.some((entry) => entry instanceof SymDim))) {
      throw new TuttiError('E_SHAPE', `attribute ${name} of ${op} is not known`, {
        subject: describe(source),
        found: String(value),
        remedy: 'Bind the symbolic dims first.',
      });
    }
  }
}

/**
 * Results by output name. `inputs` by input name. Every shape must be concrete.
 * @throws TuttiError E_INPUT for inputs that are missing or do not fit, E_SHAPE as `evaluateNode`.
 */
export function evaluateGraph(
  graph: Graph,
  inputs: ReadonlyMap<string, HostTensor> | Readonly<Record<string, HostTensor>>,
): Map<string, HostTensor> {
  const given = inputs instanceof Map ? inputs : new Map(Object.entries(inputs));
  const values = new Map<number, HostTensor>();
  const bound = new Map<string, number>();
  for (const input of graph.inputs) {
    const tensor = given.get(input.name);
    if (!tensor) throw new TuttiError('E_INPUT', 'input is missing', { subject: input.name });
    checkInput(input.name, input.type, tensor, bound);
    values.set(input.id, tensor);
  }
  const uses = countUses(graph);
  const tensorOf = (id: number): HostTensor => {
    const known = values.get(id) ?? graph.constants.get(id)?.load();
    if (!known) throw new TuttiError('E_IR', `value ${id} is used before it is defined`, { subject: graph.name });
    return known;
  };
  for (const node of graph.nodes) {
    const results = evaluateNode(
      node,
      node.inputs.map((value) => tensorOf(value.id)),
    );
    node.outputs.forEach((value, i) => {
      values.set(value.id, results[i]);
    });
    // Intermediate tensors are dropped after their last use.
    for (const { id } of node.inputs) {
      const left = (uses.get(id) ?? 0) - 1;
      uses.set(id, left);
      if (left === 0) values.delete(id);
    }
  }
  return new Map(graph.outputs.map(({ name, value }) => [name, tensorOf(value.id)]));
}

function countUses(graph: Graph): Map<number, number> {
  const uses = new Map<number, number>();
  const add = (id: number, count: number) => uses.set(id, (uses.get(id) ?? 0) + count);
  for (const node of graph.nodes) for (const { id } of node.inputs) add(id, 1);
  // Outputs and inputs that several outputs may name are never dropped.
  for (const { value } of graph.outputs) add(value.id, Number.POSITIVE_INFINITY);
  return uses;
}

function checkInput(name: string, type: TensorType, tensor: HostTensor, bound: Map<string, number>): void {
  const found = `${tensor.dtype}${printShape(tensor.shape)}`;
  const expected = `${type.dtype}${printShape(type.shape)}`;
  const fits =
    tensor.dtype === type.dtype &&
    tensor.shape.length === type.shape.length &&
    type.shape.every((dim, i) => {
      if (typeof dim === 'number') return dim === tensor.shape[i];
      const plain = plainName(dim);
      if (plain === undefined) return true;
      const known = bound.get(plain) ?? tensor.shape[i];
      bound.set(plain, known);
      return known === tensor.shape[i];
    });
  if (!fits) throw new TuttiError('E_INPUT', 'input does not fit', { subject: name, expected, found });
  const length = dataLength(tensor.dtype, sizeOf(tensor.shape));
  if (tensor.data.length !== length) {
    throw new TuttiError('E_INPUT', 'data of the input does not fit its shape', {
      subject: name,
      expected: `${length} elements`,
      found: `${tensor.data.length}`,
    });
  }
}
