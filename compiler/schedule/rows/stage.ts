/** Memory of a task for a value of every element of the rows that it works on, where a cache holds them. */
import type { Target } from '../../kernel/target.js';
import { type Lanes, type ScalarType, scalarBits } from '../../kernel/types.js';
import { type Affine, linearize } from '../affine.js';
import type { Lowering } from '../lowering.js';
import type { Index } from '../tensors.js';
import type { Row, Space, Stage } from './row.js';

/** Of `rowLanes` rows at once, which lie side by side in the stage too. */
export function stagesOf(lowering: Lowering, target: Target, space: Space, rowLanes: Lanes): NonNullable<Row['stage']> {
  const stages = new Map<ScalarType, Stage>();
  return (scalar) => {
    if (space.length * rowLanes * (scalarBits[scalar] / 8) > stageBytes(target)) return undefined;
    const known = stages.get(scalar) ?? makeStage(lowering, space, scalar, rowLanes);
    stages.set(scalar, known);
    return known;
  };
}

/** Half of the cache of a core, and of a task's scratch. */
const stageBytes = (target: Target): number =>
  Math.min(target.limits.sharedBytes, target.caches.findLast(({ shared }) => !shared)?.bytes ?? 0) / 2;

function makeStage(lowering: Lowering, space: Space, scalar: ScalarType, rowLanes: Lanes): Stage {
  const { b } = lowering;
  const memory = b.array(`row_${scalar}`, 'private', scalar, space.length * rowLanes);
  const placeOf = (index: Index): Affine => {
    const place = space.axes.map((d) => index[d]);
    return linearize(place, space.axesShape).atLane(0).scale(rowLanes);
  };
  const isAligned = (place: Affine, lanes: Lanes): boolean => lanes > 1 && place.divisor() % lanes === 0;
  return {
    keep(index, value) {
      const place = placeOf(index);
      b.store(memory, place.emit(b), value, isAligned(place, value.type.lanes));
    },
    kept(index, lanes) {
      const place = placeOf(index);
      return b.load(memory, place.emit(b), lanes, isAligned(place, lanes));
    },
  };
}
