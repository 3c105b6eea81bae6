/**
 * Contractions of dequantised integers: the scales are pulled out of the operands and multiply the result instead.
 *
 * (s·q) ∗ (t·w) = (s·t)·(q ∗ w) with q and w integers held in f32. Sums of products of small integers are exact in f32
 * up to 2^24, in any order, so devices agree, and nothing is multiplied per operand element. Scales whose products may
 * leave the range of f32 stay where they are: integers may be large enough to bring the result back into it.
 */

import { isInt } from '../dtype.js';
import type { GraphBuilder } from '../graph/builder.js';
import { broadcastTo, mul, reshape } from '../graph/compose/index.js';
import { elementsOf } from '../graph/ops/reference/data.js';
import type { Graph, Node, NodeOf, Value } from '../graph/types.js';
import { rewrite } from './rewrite.js';

export function pullScales(graph: Graph): Graph {
  return rewrite(graph, (node, inputs, { b }) => {
    if ((node.op !== 'conv' && node.op !== 'dot') || node.attrs.dtype !== 'f32') return undefined;
    const [left, right] = inputs.map((input) => matchScaled(b, input));
    if (!left || !right) return undefined;
    const scales = [resultScale(b, node, 0, left.scale), resultScale(b, node, 1, right.scale)];
    if (!scales[0] || !scales[1]) return undefined;
    const [product] = b.op(node.op, [left.integers, right.integers], node.attrs as never);
    const scale = mul(b, scales[0], scales[1]);
    return [mul(b, product, broadcastTo(b, scale, product.type.shape))];
  });
}

interface Scaled {
  /** f32 with integral values. */
  readonly integers: Value;
  /** Before it was broadcast. */
  readonly scale: Value;
}

/** integers · scale, where the scale is a constant and the integers were cast from an integer type. */
function matchScaled(b: GraphBuilder, value: Value): Scaled | undefined {
  const node = b.producerOf(value);
  if (node?.op !== 'mul') return undefined;
  for (const [integers, factor] of [node.inputs, [...node.inputs].reverse()]) {
    const cast = b.producerOf(integers);
    if (cast?.op !== 'cast' || !isInt(cast.inputs[0].type.dtype)) continue;
    const scale = constantSource(b, factor);
    if (scale && isOrdinary(b, scale)) return { integers, scale };
  }
  return undefined;
}

/** Whether all scales are numbers of which two can be multiplied without overflow, and without loss at the other end. */
function isOrdinary(b: GraphBuilder, scale: Value): boolean {
  const data = b.constantOf(scale);
  if (!data) return isOrdinary(b, (b.producerOf(scale) as Node).inputs[0]);
  return [...elementsOf(data.load())].every((x) => {
    const size = Math.abs(Number(x));
    return size === 0 || (size > 2 ** -60 && size < 2 ** 60);
  });
}

/** The constant that a value is broadcast from. */
function constantSource(b: GraphBuilder, value: Value): Value | undefined {
  if (b.constantOf(value)) return value;
  const node = b.producerOf(value);
  if (node?.op === 'broadcast') return constantSource(b, node.inputs[0]);
  // A reshape keeps scalars and per-channel scales what they are, in the form that is broadcast.
  return node?.op === 'reshape' && constantSource(b, node.inputs[0]) ? value : undefined;
}

/** The operand's scale in the form in which it multiplies the result; undefined if it varies along what is summed. */
function resultScale(
  b: GraphBuilder,
  node: NodeOf<'conv'> | NodeOf<'dot'>,
  which: 0 | 1,
  scale: Value,
): Value | undefined {
  const rank = node.inputs[which].type.shape.length;
  const shape = scale.type.shape as readonly number[];
  const varying = shape.map((dim, d) => (dim === 1 ? -1 : d + rank - shape.length)).filter((d) => d >= 0);
  if (varying.length === 0) return reshape(b, scale, []);
  const [axis] = varying;
  const count = shape[axis - (rank - shape.length)];
  const resultRank = node.outputs[0].type.shape.length;
  const along = (position: number) =>
    reshape(
      b,
      scale,
      Array.from({ length: resultRank }, (_, d) => (d === position ? count : 1)),
    );
  if (varying.length > 1) return undefined;
  if (node.op === 'conv') return which === 1 && axis === 0 ? along(1) : undefined;
  const { lhsBatch, rhsBatch, lhsContract, rhsContract } = node.attrs;
  const [batch, contract] = which === 0 ? [lhsBatch, lhsContract] : [rhsBatch, rhsContract];
  if (contract.includes(axis) || batch.includes(axis)) return undefined;
  const free = Array.from({ length: rank }, (_, d) => d).filter((d) => !batch.includes(d) && !contract.includes(d));
  const lhsFree = node.inputs[0].type.shape.length - lhsBatch.length - lhsContract.length;
  return along(lhsBatch.length + (which === 0 ? 0 : lhsFree) + free.indexOf(axis));
}
