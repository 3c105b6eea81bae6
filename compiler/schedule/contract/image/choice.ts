/** Which convolutions have channels-last forms on a CPU, and what they gain by them. */
import type { NodeOf } from '../../../graph/types.js';
import type { Target } from '../../../kernel/target.js';
import { sizeOf } from '../../../tensor.js';
import type { Group } from '../../group.js';
import { scalarOf, shapeOf } from '../../tensors.js';
import { lanesFor } from '../tiling.js';
import { imageGeometryOf, isDepthwise, readsChannelsLast, tapsOf, writesChannelsLast } from './geometry.js';

/** Channels from which on vectors of them are worth their while. */
const fewestChannels = 8;

export function hasImageForm(group: Group, target: Target): boolean {
  const { anchor } = group;
  if (target.style !== 'cpu' || anchor?.op !== 'conv') return false;
  if ([...anchor.inputs, ...anchor.outputs].some((value) => value.type.dtype !== 'f32')) return false;
  if (anchor.attrs.inputDilation.some((step) => step !== 1)) return false;
  if (!holdsWeights(group, anchor)) return false;
  const geometry = imageGeometryOf(anchor);
  if (geometry.sides.length === 0 || sizeOf(shapeOf(anchor.outputs[0])) === 0) return false;
  return isDepthwise(geometry)
    ? geometry.groups >= fewestChannels
    : geometry.groups === 1 && geometry.outputs >= fewestChannels;
}

/** Whether the weights are a constant that nothing else of the group reads. */
function holdsWeights(group: Group, { inputs: [, weights] }: NodeOf<'conv'>): boolean {
  if (!group.constants.has(weights.id) || !group.reads.includes(weights) || scalarOf(weights) !== 'f32') return false;
  return group.nodes.every((node) => node === group.anchor || !node.inputs.includes(weights));
}

/** Shares of the multiply rate: of dense convolutions, and of those of every channel by itself where turned round. */
const shares = { dense: 0.85, short: 0.7, turned: 0.5 };
/** Products of a sum from which on it does not count how its result is stored. */
const longSum = 256;

/** Share of the multiply rate that the form reaches where `hasImageForm`. */
export function imageShare(group: Group, target: Target): number {
  const node = group.anchor as NodeOf<'conv'>;
  const geometry = imageGeometryOf(node);
  if (writesChannelsLast(group)) return shares.dense;
  if (isDepthwise(geometry)) return shares.turned;
  const isLong = tapsOf(geometry) * geometry.channels >= longSum || readsChannelsLast(node, group.nodes);
  // Lanes run along channels, of which there may be few where the result's neighbours are others.
  const lanes = lanesFor({ accumulator: 'f32' }, target);
  const used = geometry.outputs / (Math.ceil(geometry.outputs / lanes) * lanes);
  return used * (isLong ? shares.dense : shares.short);
}

/** Multiply-adds that are done faster with channels last; less than 0 where they would be done slower. */
export function channelsLastGain(group: Group, target: Target): number {
  const { anchor } = group;
  if (anchor?.op !== 'conv') return 0;
  const work = shapeOf(anchor.outputs[0]).reduce((all, extent) => all * extent, 1);
  const taps = shapeOf(anchor.inputs[1])
    .slice(1)
    .reduce((all, extent) => all * extent, 1);
  if (!hasImageForm(group, target)) return -4 * work * taps;
  return isDepthwise(imageGeometryOf(anchor)) ? 4 * work * taps : work * taps;
}
