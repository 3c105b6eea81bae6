/** What a numerics profile lets of a target's matrix units: products that round operands need `fast`. */
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

/** The target with the units that the profile allows. */
export function under(numerics: Numerics, target: Target): Target {
  if (!target.matrixUnits) return target;
  return { ...target, matrixUnits: target.matrixUnits.filter((unit) => allows(numerics, unit)) };
}
