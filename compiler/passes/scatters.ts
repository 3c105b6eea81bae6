/**
 * Scatters to places that are known when the graph is compiled: each element of the result is looked up, so that the
 * work grows with the result and not with the product of result and updates.
 */

import type { GraphBuilder } from '../graph/builder.js';
import { binary, broadcastTo, gather, reshape, select3 } from '../graph/compose/index.js';
import { integersOf } from '../graph/host_tensors.js';
import type { Graph, NodeOf, ScatterFn, Value } from '../graph/types.js';
import { sizeOf } from '../tensor.js';
import { rewrite } from './rewrite.js';

/** Larger tables of places would weigh more than they save. */
const maximumPlaces = 1 << 22;

export function scattersToGathers(graph: Graph): Graph {
  return rewrite(graph, (node, inputs, { b, constant }) => {
    if (node.op !== 'scatter_nd' && node.op !== 'scatter_elements') return undefined;
    const [x, indices, updates] = inputs;
    const data = constant(indices);
    if (!data || sizeOf(shapeOf(updates)) === 0) return undefined;
    const places = integersOf(data.load());
    if (!places) return undefined;
    const found = node.op === 'scatter_nd' ? rowsOf(node, places) : elementsOf(node, places);
    return found && lookedUp(b, x, updates, found, node.attrs.fn);
  });
}

const shapeOf = (value: Value) => value.type.shape as readonly number[];

/** For each row of the result, the row of the updates that goes there, or -1. */
interface Sources {
  readonly of: Int32Array;
  /** Whether several updates go to one row. */
  readonly repeats: boolean;
  /** Elements of a row. */
  readonly row: number;
}

function rowsOf({ inputs: [x, indices] }: NodeOf<'scatter_nd'>, places: readonly number[]): Sources | undefined {
  const shape = shapeOf(x);
  const depth = shapeOf(indices).at(-1) as number;
  const counted = shape.slice(0, depth);
  const flat = (at: number): number =>
    counted.reduce((sum, extent, d) => joined(sum, extent, places[at * depth + d]), 0);
  return sourcesOf(sizeOf(counted), sizeOf(shapeOf(indices).slice(0, -1)), sizeOf(shape.slice(depth)), flat);
}

function elementsOf(
  { inputs: [x, indices], attrs: { axis } }: NodeOf<'scatter_elements'>,
  places: readonly number[],
): Sources | undefined {
  const [shape, own] = [shapeOf(x), shapeOf(indices)];
  const flat = (at: number): number => {
    let [rest, index] = [at, 0];
    const position = new Array<number>(own.length);
    for (let d = own.length - 1; d >= 0; d--) {
      position[d] = d === axis ? places[at] : rest % own[d];
      rest = Math.floor(rest / own[d]);
    }
    for (let d = 0; d < own.length; d++) index = joined(index, shape[d], position[d]);
    return index;
  };
  return sourcesOf(sizeOf(shape), sizeOf(own), 1, flat);
}

/** Row-major index with one more dim; NaN if the place does not exist. */
const joined = (index: number, extent: number, place: number): number => {
  const at = place < 0 ? place + extent : place;
  return at >= 0 && at < extent ? index * extent + at : Number.NaN;
};

function sourcesOf(rows: number, updates: number, row: number, flat: (at: number) => number): Sources | undefined {
  if (rows > maximumPlaces || updates > maximumPlaces) return undefined;
  const of = new Int32Array(rows).fill(-1);
  let repeats = false;
  for (let at = 0; at < updates; at++) {
    const to = flat(at);
    if (Number.isNaN(to)) continue;
    repeats ||= of[to] >= 0;
    of[to] = at;
  }
  return { of, repeats, row };
}

function lookedUp(
  b: GraphBuilder,
  x: Value,
  updates: Value,
  { of, repeats, row }: Sources,
  fn: ScatterFn,
): readonly Value[] | undefined {
  // Sums over several updates need them all; of values that replace one another the last one stays.
  if (fn !== 'set' && (repeats || x.type.dtype === 'bool')) return undefined;
  const rows = of.length;
  const values = reshape(b, updates, [sizeOf(shapeOf(updates)) / row, row]);
  const before = reshape(b, x, [rows, row]);
  const taken = gather(
    b,
    values,
    b.constant({ dtype: 'i32', shape: [rows], data: of.map((at) => Math.max(at, 0)) }),
    0,
  );
  const after = fn === 'set' ? taken : binary(b, fn, before, taken);
  if (of.every((at) => at >= 0)) return [reshape(b, after, shapeOf(x))];
  const hit = b.constant({ dtype: 'bool', shape: [rows, 1], data: Uint8Array.from(of, (at) => (at >= 0 ? 1 : 0)) });
  return [reshape(b, select3(b, broadcastTo(b, hit, [rows, row]), after, before), shapeOf(x))];
}
