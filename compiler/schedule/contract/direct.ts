/**
 * Direct contraction: each output element (or vector of neighbours) sums over k by itself. For depthwise convolutions
 * and other contractions with little reuse, where tiles would be mostly empty.
 */
import type { Target } from '../../kernel/target.js';
import type { KernelFunction, KValue, Lanes } from '../../kernel/types.js';
import { type Affine, linearize } from '../affine.js';
import type { Group } from '../group.js';
import type { Lowering } from '../lowering.js';
import { lowerMap } from '../map.js';
import type { Index } from '../tensors.js';
import { type Contraction, contractionOf, multiplyAdd } from './contraction.js';

export function lowerDirect(group: Group, target: Target): KernelFunction {
  const contraction = contractionOf(group);
  const { node } = contraction;
  return lowerMap(group, target, (lowering) => {
    lowering.define(node.outputs[0], (index, lanes) => sumOverK(lowering, contraction, index, lanes));
  });
}

function sumOverK(lowering: Lowering, contraction: Contraction, index: Index, lanes: Lanes): KValue {
  const { b } = lowering;
  const { accumulator, extents, k } = contraction;
  const wide = index.some((i) => i.mentionsLane()) ? lanes : 1;
  const place = contraction.place(index);
  const zero = b.zero(accumulator, wide);
  // One loop a kernel dim keeps divisions out of the loops.
  const nest = (d: number, at: Affine[], carried: readonly KValue[]): readonly KValue[] => {
    if (d < extents.length)
      return lowering.for(0, extents[d], 1, carried, (i, inner) => nest(d + 1, [...at, i], inner));
    const flat = linearize(at, extents);
    const x = contraction.lhs.element(lowering, place.batch, place.m, flat, wide);
    const y = contraction.rhs.element(lowering, place.batch, place.n, flat, wide);
    return [multiplyAdd(lowering, x, y, carried[0])];
  };
  const [sum] = k === 0 ? [zero] : nest(0, [], [zero]);
  return sum;
}
