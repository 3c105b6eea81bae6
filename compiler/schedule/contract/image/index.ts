/** Convolutions of images that lie with their channels last: dense ones and those of every channel by itself. */
import type { NodeOf } from '../../../graph/types.js';
import type { Target } from '../../../kernel/target.js';
import type { Group } from '../../group.js';
import type { LoweredKernel } from '../../lowered.js';
import { lowerDense } from './dense.js';
import { lowerDepthwise } from './depthwise.js';
import { imageGeometryOf, isDepthwise } from './geometry.js';
import { lowerWinograd } from './winograd.js';

export { hasImageForm, imageShare } from './choice.js';
export { writesChannelsLast } from './geometry.js';
export { filtersMinimally } from './winograd.js';

export function lowerImage(group: Group, target: Target): readonly LoweredKernel[] {
  const geometry = imageGeometryOf(group.anchor as NodeOf<'conv'>);
  const kernel = isDepthwise(geometry) ? lowerDepthwise(group, target) : lowerDense(group, target);
  return kernel ? [kernel] : [];
}

/** The same where `filtersMinimally`. */
export function lowerFiltered(group: Group, target: Target): readonly LoweredKernel[] {
  const kernel = lowerWinograd(group, target);
  return kernel ? [kernel] : [];
}
