/**
 * Loops with a known number of iterations, as frontends and passes see them: the inputs and outputs of a `scan` node
 * by the part they play.
 */
import type { GraphBuilder } from './builder.js';
import type { Graph, Node, NodeOf, Value } from './types.js';

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
