/** Reverse-mode differentiation of what a builder holds: cotangents flow from results to inputs, node by node. */
import { isFloat } from '../dtype.js';
import type { GraphBuilder } from './builder.js';
import { add } from './compose/index.js';
import { noDerivative } from './ops/common.js';
import { definitionOf } from './ops/index.js';
import type { Node, NodeOf, OpKind, Value } from './types.js';

/** A result and its cotangent, of the same type. */
export interface Seed {
  readonly value: Value;
  readonly cotangent: Value;
}

/**
 * For each of `inputs` the sum over all seeds of cotangent · ∂value/∂input, or null where no seed depends on it. Shapes
 * must be concrete. Composites without a rule of their own are differentiated by their decomposition.
 * @throws TuttiError E_UNSUPPORTED naming the source node of an op without a derivative.
 */
export function differentiate(
  b: GraphBuilder,
  seeds: readonly Seed[],
  inputs: readonly Value[],
): readonly (Value | null)[] {
  const cotangents = new Map<number, Value>();
  const accumulate = (value: Value, cotangent: Value): void => {
    const known = cotangents.get(value.id);
    cotangents.set(value.id, known === undefined ? cotangent : add(b, known, cotangent));
  };
  for (const { value, cotangent } of seeds) accumulate(value, cotangent);
  const nodes = between(
    b,
    seeds.map((seed) => seed.value),
    inputs,
  );
  for (const node of [...nodes].reverse()) {
    const own = node.outputs.map((output) => cotangents.get(output.id) ?? null);
    if (own.every((cotangent) => cotangent === null)) continue;
    b.source = node.source;
    transposed(b, node as NodeOf<OpKind>, own).forEach((cotangent, i) => {
      const input = node.inputs[i];
      if (cotangent !== null && isFloat(input.type.dtype)) accumulate(input, cotangent);
    });
  }
  return inputs.map((input) => cotangents.get(input.id) ?? null);
}

/** Nodes on the way from inputs to results, in topological order. */
export function between(b: GraphBuilder, results: readonly Value[], inputs: readonly Value[]): readonly Node[] {
  const stops = new Set(inputs.map((input) => input.id));
  /** Whether a node depends on an input; undefined while it is being looked at. */
  const depends = new Map<Node, boolean | undefined>();
  const order: Node[] = [];
  const stack = results.flatMap((value) => b.producerOf(value) ?? []);
  while (stack.length > 0) {
    const node = stack[stack.length - 1];
    if (depends.get(node) !== undefined) {
      stack.pop();
      continue;
    }
    const producers = node.inputs.filter((input) => !stops.has(input.id)).flatMap((input) => b.producerOf(input) ?? []);
    if (!depends.has(node)) {
      depends.set(node, undefined);
      stack.push(...producers.filter((producer) => !depends.has(producer)));
      continue;
    }
    const through = node.inputs.some((input) => stops.has(input.id)) || producers.some((p) => depends.get(p) === true);
    depends.set(node, through);
    if (through) order.push(node);
    stack.pop();
  }
  return order;
}

/** Cotangents of a node's inputs from those of its outputs. */
function transposed<K extends OpKind>(
  b: GraphBuilder,
  node: NodeOf<K>,
  cotangents: readonly (Value | null)[],
): readonly (Value | null)[] {
  const definition = definitionOf(node.op);
  if (definition.gradient) return definition.gradient(b, node, cotangents);
  if (definition.decompose) {
    const results = definition.decompose(b, node);
    const seeds = results.flatMap((value, i): Seed[] => {
      const cotangent = cotangents[i];
      return cotangent === null ? [] : [{ value, cotangent }];
    });
    return differentiate(b, seeds, node.inputs);
  }
  return noDerivative(node);
}
