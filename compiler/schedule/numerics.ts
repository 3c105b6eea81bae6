/**
 * What a numerics profile leaves of a target: products that round operands need `fast`; neither fused sums nor chains in
 * f32 of what the model computes in 16 bits are `strict`, because what is fused differs from device to device.
 */
import type { MatrixUnit } from '../kernel/engines.js';
import type { Target } from '../kernel/target.js';
import type { Numerics } from '../plan.js';

function allows(numerics: Numerics, { a, accumulator }: MatrixUnit): boolean {
  switch (numerics) {
    case 'fast':
      return true;
    case 'precise':
      return a !== 'tf32';
    // In which order floats are summed, a unit does not tell; integers are exact in any.
    case 'strict':
      return accumulator === 'i32';
    default:
      return numerics satisfies never;
  }
}

/** The target with what the profile allows: strict sums are rounded after each product, which some devices cannot fuse. */
export function under(numerics: Numerics, target: Target): Target {
  const features =
    numerics === 'strict' ? new Set([...target.features].filter((feature) => feature !== 'fma')) : target.features;
  const { matrixUnits } = target;
  if (
    numerics !== 'strict' &&
    features === target.features &&
    (matrixUnits ?? []).every((unit) => allows(numerics, unit))
  )
    return target;
  return {
    ...target,
    features,
    ...(numerics === 'strict' && { roundsEachOp: true }),
    ...(matrixUnits && { matrixUnits: matrixUnits.filter((unit) => allows(numerics, unit)) }),
  };
}
