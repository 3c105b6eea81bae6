/**
 * Loops with a known number of iterations, as frontends and passes see them: the inputs and outputs of a `scan` node
 * by the part they play.
 */
import { emptyTensor } from '../tensor.js';
import type { GraphBuilder } from './builder.js';
import { slice1, squeeze, stack } from './compose/index.js';
import type { Graph, Node, NodeOf, OpKind, Value } from './types.js';

/** What a loop is made of. */
export interface ScanParts {
  /**
   * One iteration; all shapes are numbers. Inputs: the iteration number (i64 scalar) if `iteration`, the carried
   * values, one slice of each scanned array, the captured values. Outputs: the next carried values (types as their
   * inputs), then the slices to stack. It sees nothing but its inputs and constants of its own.
   */
  readonly body: Graph;
  /** Number of iterations. */
  readonly trips: number;
  /** Whether the body's first input is the iteration number. */
  readonly iteration: boolean;
  /** Values before the first iteration. */
  readonly carried: readonly Value[];
  /** Arrays [trips, …slice] walked along the first axis, from its end if `reverse`. */
  readonly scanned: readonly { readonly array: Value; readonly reverse: boolean }[];
  /** Values that all iterations see. */
  readonly captured: readonly Value[];
  /** One entry a stacked result; `reverse`: filled from its end. */
  readonly stacked: readonly { readonly reverse: boolean }[];
}

export interface ScanResults {
  /** After the last iteration. */
  readonly carried: readonly Value[];
  /** [trips, …slice] each. */
  readonly stacked: readonly Value[];
}

/** Adds a loop. `names` name the results. @throws TuttiError E_SHAPE if body and values do not fit */
export function scan(b: GraphBuilder, parts: ScanParts, names: readonly string[] = []): ScanResults {
  const { body, trips, iteration, carried, scanned, captured, stacked } = parts;
  const outputs = b.op(
    'scan',
    [...carried, ...scanned.map(({ array }) => array), ...captured],
    {
      body,
      trips,
      carried: carried.length,
      iteration,
      scanned: scanned.map(({ reverse }) => reverse),
      stacked: stacked.map(({ reverse }) => reverse),
    },
    names,
  );
  return { carried: outputs.slice(0, carried.length), stacked: outputs.slice(carried.length) };
}

/** The parts of a `scan` node whose inputs may have been replaced by `inputs`. */
export function partsOf(node: NodeOf<'scan'>, inputs: readonly Value[] = node.inputs): ScanParts {
  const { body, trips, carried, iteration, scanned, stacked } = node.attrs;
  const first = carried + scanned.length;
  return {
    body,
    trips,
    iteration,
    carried: inputs.slice(0, carried),
    scanned: scanned.map((reverse, i) => ({ array: inputs[carried + i], reverse })),
    captured: inputs.slice(first),
    stacked: stacked.map((reverse) => ({ reverse })),
  };
}

/** The inputs of a body by the part they play. */
export interface BodyInputs {
  readonly iteration: Value | undefined;
  readonly carried: readonly Value[];
  readonly slices: readonly Value[];
  readonly captured: readonly Value[];
}

export function bodyInputs({ body, iteration, carried, scanned }: ScanParts): BodyInputs {
  const [number, formal] = iteration ? [body.inputs[0], body.inputs.slice(1)] : [undefined, body.inputs];
  const first = carried.length + scanned.length;
  return {
    iteration: number,
    carried: formal.slice(0, carried.length),
    slices: formal.slice(carried.length, first),
    captured: formal.slice(first),
  };
}

/** The graph with the bodies of its loops, and the bodies in those, replaced innermost first. */
export function mapBodies(graph: Graph, map: (body: Graph) => Graph): Graph {
  if (!graph.nodes.some((node) => node.op === 'scan')) return graph;
  const nodes = graph.nodes.map((node): Node => {
    if (node.op !== 'scan') return node;
    const body = map(mapBodies(node.attrs.body, map));
    return { ...node, attrs: { ...node.attrs, body } };
  });
  return { ...graph, nodes };
}

/** Adds the nodes of a graph to another one, its inputs being `inputs`; returns its outputs. */
export function inline(b: GraphBuilder, graph: Graph, inputs: readonly Value[]): readonly Value[] {
  const mapped = new Map(graph.inputs.map((input, i) => [input.id, inputs[i]]));
  const get = (value: Value): Value => {
    const known = mapped.get(value.id);
    if (known) return known;
    const data = graph.constants.get(value.id);
    if (!data) throw new Error(`${value.name} is used before it is defined`);
    const constant = b.constant(data, value.name);
    mapped.set(value.id, constant);
    return constant;
  };
  for (const node of graph.nodes) {
    const names = node.outputs.map(({ name }) => name);
    const types = node.outputs.map(({ type }) => type);
    const outputs = b.node<OpKind>(node.op, node.inputs.map(get), node.attrs, types, names, node.source);
    node.outputs.forEach((output, i) => {
      mapped.set(output.id, outputs[i]);
    });
  }
  return graph.outputs.map(({ value }) => get(value));
}

/** The loop with every iteration written out. */
export function unroll(b: GraphBuilder, parts: ScanParts): ScanResults {
  const { body, trips, iteration, scanned, captured, stacked } = parts;
  let carried = parts.carried;
  const stacks = stacked.map(() => new Array<Value>(trips));
  for (let t = 0; t < trips; t++) {
    const at = (reverse: boolean) => (reverse ? trips - 1 - t : t);
    const number = { dtype: 'i64', shape: [], data: BigInt64Array.of(BigInt(t)) } as const;
    const slices = scanned.map(({ array, reverse }) => squeeze(b, slice1(b, array, 0, at(reverse), 1), [0]));
    const inputs = [...(iteration ? [b.constant(number)] : []), ...carried, ...slices, ...captured];
    const results = inline(b, body, inputs);
    carried = results.slice(0, carried.length);
    stacked.forEach(({ reverse }, i) => {
      stacks[i][at(reverse)] = results[carried.length + i];
    });
  }
  const empty = (i: number): Value => {
    const { dtype, shape } = body.outputs[carried.length + i].value.type;
    return b.constant(emptyTensor(dtype, [0, ...(shape as readonly number[])]));
  };
  return { carried, stacked: stacks.map((slices, i) => (trips === 0 ? empty(i) : stack(b, slices, 0))) };
}
