/** Weights of a convolution with their taps outermost: [tap][tile of outputs][channel][output of the tile]. */

import type { ConstantData, NodeOf } from '../../../graph/types.js';
import type { Group } from '../../group.js';
import type { DerivedConstant } from '../../lowered.js';
import { shapeOf } from '../../tensors.js';
import { packConstant } from '../packing.js';

/** @param width Outputs of a tile; those beyond the last one are zeros */
export function weightsByTap(group: Group, node: NodeOf<'conv'>, width: number): DerivedConstant {
  const [, weights] = node.inputs;
  const [outputs, channels, ...kernel] = shapeOf(weights);
  const taps = kernel.reduce((all, extent) => all * extent, 1);
  return packConstant(
    weights,
    group.constants.get(weights.id) as ConstantData,
    { batches: taps, rows: outputs, k: channels, width },
    { batch: 1, row: channels * taps, k: taps, offset: 0 },
  );
}
