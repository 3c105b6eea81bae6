/** What tile choices have in common. */
import type { Target } from '../../kernel/target.js';
import { type Lanes, type ScalarType, scalarBits } from '../../kernel/types.js';

/** Accumulators of a vector register; `vectorLanes` counts 32-bit elements. */
export const lanesFor = ({ accumulator }: { readonly accumulator: ScalarType }, target: Target): Lanes =>
  Math.min(16, Math.max(1, Math.floor((target.vectorLanes * 32) / scalarBits[accumulator]))) as Lanes;

/** Lanes of the vectors that GPUs load at once. */
export const vector = 4;
