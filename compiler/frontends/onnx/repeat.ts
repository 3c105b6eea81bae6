/** Loops as one op of the graph: where the number of iterations is known and shapes stay as they are. */
import { shapeEquals } from '../../graph/dims.js';
import { type ScanResults, scan } from '../../graph/scan.js';
import type { Graph, TensorType, Value } from '../../graph/types.js';
import { isList, type Mapped } from '../../passes/mapped.js';
import type { SourceContext } from '../../passes/source.js';

/** A body whose inputs are: the number of the iteration and a condition (if `counted`), carried…, slices…, captured… */
export interface Repetition {
  readonly body: Graph;
  readonly trips: number;
  /** As in Loop: then the first result is whether to go on. */
  readonly counted: boolean;
  readonly carried: readonly Mapped[];
  /** Arrays that are walked along their first axis. */
  readonly scanned: readonly { readonly array: Value; readonly reverse: boolean }[];
  readonly captured: readonly Mapped[];
  readonly stacked: readonly { readonly reverse: boolean }[];
}

/** More iterations than this do not go into one list of commands. */
const maximumTrips = 4096;
const counterType: TensorType = { dtype: 'i64', shape: [] };

/** Adds the loop; undefined where an iteration depends on data, changes a shape or may be the last one. */
export function repeat(c: SourceContext, loop: Repetition): ScanResults | undefined {
  const { trips, counted, scanned, stacked } = loop;
  if (!(trips >= 1 && trips <= maximumTrips) || !loop.carried.every(isTensor)) return undefined;
  const carried = loop.carried as readonly Value[];
  const slices = scanned.map(
    ({ array }): TensorType => ({ dtype: array.type.dtype, shape: array.type.shape.slice(1) }),
  );
  const goesOn = c.b.constant({ dtype: 'bool', shape: [], data: Uint8Array.of(1) });
  const whole = c.concrete(loop.body, [
    ...(counted ? [counterType, goesOn] : []),
    ...carried.map(({ type }) => type),
    ...slices,
    ...loop.captured,
  ]);
  if (whole === undefined || (counted && !isTrue(whole, whole.outputs[0].value))) return undefined;
  const outputs = counted ? whole.outputs.slice(1) : whole.outputs;
  const fits = carried.every(({ type }, i) => sameType(type, outputs[i].value.type));
  if (!fits || outputs.some(({ value }) => value.type.dtype === 'string')) return undefined;
  // Constants among the captured values are in the body already; what it does not use need not go in.
  const used = usedIn(whole);
  const captured = (loop.captured.filter(isTensor) as Value[]).filter((value) => c.b.constantOf(value) === undefined);
  const first = counted ? 1 : 0;
  const own = whole.inputs.length - captured.length;
  if (own !== first + carried.length + slices.length) return undefined;
  const iteration = counted && used.has(whole.inputs[0].id);
  const taken = captured.filter((_, i) => used.has(whole.inputs[own + i].id));
  const body: Graph = {
    ...whole,
    inputs: [
      ...whole.inputs.slice(iteration ? 0 : first, own),
      ...whole.inputs.slice(own).filter(({ id }) => used.has(id)),
    ],
    outputs,
  };
  return scan(c.b, { body, trips, iteration, carried, scanned, captured: taken, stacked });
}

const isTensor = (mapped: Mapped): boolean => mapped !== null && !isList(mapped);

const sameType = (a: TensorType, b: TensorType): boolean => a.dtype === b.dtype && shapeEquals(a.shape, b.shape);

const isTrue = (graph: Graph, value: Value): boolean => {
  const data = graph.constants.get(value.id)?.load().data;
  return data !== undefined && data.length === 1 && Number(data[0]) !== 0;
};

function usedIn(graph: Graph): ReadonlySet<number> {
  const used = new Set(graph.outputs.map(({ value }) => value.id));
  for (const node of graph.nodes) for (const { id } of node.inputs) used.add(id);
  return used;
}
