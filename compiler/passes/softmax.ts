/** Finds the softmax that a model spells out, e^(x - max(x)) / Σe^(x - max(x)), and makes it one op. */
import type { GraphBuilder } from '../graph/builder.js';
import type { Graph, NodeOf, Value } from '../graph/types.js';
import { producer } from './recognise.js';
import { rewrite } from './rewrite.js';

export function recogniseSoftmax(graph: Graph): Graph {
  return rewrite(graph, (node, inputs, { b }) => {
    if (node.op !== 'div') return undefined;
    const found = match(b, inputs[0], inputs[1]);
    if (!found) return undefined;
    return b.op('softmax', [found.x], { axes: found.axes, log: false }, [node.outputs[0].name]);
  });
}

/** x and axes where `powers` are e^(x - max(x)) and `total` their sums along the same axes, broadcast. */
function match(
  b: GraphBuilder,
  powers: Value,
  total: Value,
): { readonly x: Value; readonly axes: readonly number[] } | undefined {
  const exponential = b.producerOf(powers);
  const sum = producer(b, total);
  if (exponential?.op !== 'exp' || sum?.op !== 'reduce' || sum.attrs.fn !== 'sum' || !sum.attrs.keep) return undefined;
  if (sum.inputs[0].id !== powers.id) return undefined;
  const shifted = b.producerOf(exponential.inputs[0]);
  if (shifted?.op !== 'sub') return undefined;
  const [x, shift] = shifted.inputs;
  const largest = producer(b, shift) as NodeOf<'reduce'> | undefined;
  if (largest?.op !== 'reduce' || largest.attrs.fn !== 'max' || !largest.attrs.keep) return undefined;
  const { axes } = sum.attrs;
  const alike = largest.inputs[0].id === x.id && sorted(largest.attrs.axes) === sorted(axes);
  return alike ? { x, axes } : undefined;
}

const sorted = (axes: readonly number[]): string => [...axes].sort((p, q) => p - q).join();
