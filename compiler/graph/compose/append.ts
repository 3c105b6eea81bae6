/** How ops are added to a graph: axes counted from the end, one result, mistakes by name. */
import { TuttiError } from '../../error.js';
import { describe, type GraphBuilder } from '../builder.js';
import type { OpAttrs, Value } from '../types.js';

export type Literal = number | bigint | boolean;

type SingleResult = Exclude<keyof OpAttrs, 'top_k' | 'normalize' | 'source_op'>;

/** Adds a node of one result. */
export function one<K extends SingleResult>(
  b: GraphBuilder,
  kind: K,
  inputs: readonly Value[],
  attrs: OpAttrs[K],
): Value {
  return b.op(kind, inputs, attrs)[0];
}

/** A non-negative axis. @throws TuttiError E_SHAPE */
export function axisOf(b: GraphBuilder, axis: number, rank: number): number {
  const at = axis < 0 ? axis + rank : axis;
  if (!Number.isInteger(at) || at < 0 || at >= rank)
    fail(b, 'axis out of range', `${-rank} to ${rank - 1}`, String(axis));
  return at;
}

export const axesOf = (b: GraphBuilder, axes: readonly number[], rank: number): number[] =>
  axes.map((axis) => axisOf(b, axis, rank));

export function fail(b: GraphBuilder, message: string, expected: string, found: string): never {
  throw new TuttiError('E_SHAPE', message, { subject: describe(b.source), expected, found });
}
