/**
 * Finds normalisations that a model spells out: (x - mean(x)) / sqrt(mean((x - mean(x))²) + ε), in the forms that
 * exporters write, and makes them the composite `normalize`, which one kernel computes.
 */
import type { GraphBuilder } from '../graph/builder.js';
import { firstElement } from '../graph/ops/reference/data.js';
import type { Graph, Node, NodeOf, Value } from '../graph/types.js';
import { sizeOf } from '../tensor.js';
import { rewrite } from './rewrite.js';

export function recognise(graph: Graph): Graph {
  return rewrite(graph, (node, inputs, { b }) => {
    if (node.op !== 'div' && node.op !== 'mul') return undefined;
    const found = matchNormalize(b, node.op, inputs);
    if (!found) return undefined;
    const attrs = { axes: found.axes, epsilon: found.epsilon, center: true, statistics: false };
    return b.op('normalize', [found.x], attrs, [node.outputs[0].name]);
  });
}

interface Match {
  readonly x: Value;
  readonly axes: readonly number[];
  readonly epsilon: number;
}

function matchNormalize(b: GraphBuilder, op: 'div' | 'mul', [left, right]: readonly Value[]): Match | undefined {
  // d / sqrt(v + ε), d · rsqrt(v + ε) or d · (1 / sqrt(v + ε))
  const deviation = producer(b, right);
  const root = op === 'div' ? deviation : reciprocalOf(b, deviation);
  if (!root || (op === 'div' ? root.op !== 'sqrt' : root.op !== 'sqrt' && root.op !== 'rsqrt')) return undefined;
  const sum = producer(b, root.inputs[0]);
  if (sum?.op !== 'add') return undefined;
  for (const [variance, added] of [
    [sum.inputs[0], sum.inputs[1]],
    [sum.inputs[1], sum.inputs[0]],
  ]) {
    const epsilon = splat(b, added);
    const mean = epsilon === undefined ? undefined : matchMean(b, variance);
    if (!mean || epsilon === undefined) continue;
    const squared = squareOf(b, mean.x);
    const center = producer(b, left);
    if (!squared || squared.id !== left.id || center?.op !== 'sub') continue;
    const [x, average] = center.inputs;
    const inner = matchMean(b, average);
    if (inner?.x.id !== x.id || String(inner.axes) !== String(mean.axes) || x.type.dtype === 'f64') continue;
    return { x, axes: mean.axes, epsilon };
  }
  return undefined;
}

/** The node that makes a value, seen through broadcasts and reshapes that only put ones in. */
export function producer(b: GraphBuilder, value: Value): Node | undefined {
  const node = b.producerOf(value);
  if (node?.op === 'broadcast') return producer(b, node.inputs[0]);
  return node;
}

function reciprocalOf(b: GraphBuilder, node: Node | undefined): Node | undefined {
  if (node?.op === 'rsqrt') return node;
  if (node?.op === 'recip') return producer(b, node.inputs[0]);
  if (node?.op === 'div' && splat(b, node.inputs[0]) === 1) return producer(b, node.inputs[1]);
  return undefined;
}

/** x and axes of sum(x, axes, kept)/n, seen through broadcasts. */
function matchMean(b: GraphBuilder, value: Value): { x: Value; axes: readonly number[] } | undefined {
  const scaled = producer(b, value);
  if (scaled?.op !== 'div' && scaled?.op !== 'mul') return undefined;
  const sum = producer(b, scaled.inputs[0]) as NodeOf<'reduce'> | undefined;
  const factor = splat(b, scaled.inputs[1]);
  if (sum?.op !== 'reduce' || sum.attrs.fn !== 'sum' || !sum.attrs.keep || factor === undefined) return undefined;
  const [x] = sum.inputs;
  const count = sum.attrs.axes.reduce((n, axis) => n * Number(x.type.shape[axis]), 1);
  const expected = scaled.op === 'div' ? count : Math.fround(1 / count);
  return Math.fround(factor) === Math.fround(expected) ? { x, axes: sum.attrs.axes } : undefined;
}

/** d if the value is d·d or d². */
function squareOf(b: GraphBuilder, value: Value): Value | undefined {
  const node = b.producerOf(value);
  if (node?.op === 'mul' && node.inputs[0].id === node.inputs[1].id) return node.inputs[0];
  if (node?.op === 'pow' && splat(b, node.inputs[1]) === 2) return node.inputs[0];
  return undefined;
}

/** The number that all elements of a constant are, if it has one element (seen through broadcasts). */
export function splat(b: GraphBuilder, value: Value): number | undefined {
  const node = b.producerOf(value);
  if (node?.op === 'broadcast' || node?.op === 'reshape') return splat(b, node.inputs[0]);
  const data = b.constantOf(value);
  return data && sizeOf(data.shape) === 1 ? Number(firstElement(data.load())) : undefined;
}
