/**
 * Running sums along rows on CPUs: vectors are scanned in registers, doubling the distance, and take what came before
 * from the last lane of the vector before (Hillis and Steele 1986).
 */
import type { ReduceFn } from '../../graph/types.js';
import type { Target } from '../../kernel/target.js';
import type { KernelFunction, KValue, Lanes, ScalarType } from '../../kernel/types.js';
import { Affine, delinearize } from '../affine.js';
import type { Lowering } from '../lowering.js';
import { combine, identity } from '../reduce.js';
import { shareOf, taskCount, widestWithin } from '../shares.js';
import { type Index, range } from '../tensors.js';
import { type Element, elementIndex, type Space } from './row.js';

export interface Scan {
  readonly fn: ReduceFn;
  readonly scalar: ScalarType;
  readonly exclusive: boolean;
  readonly reverse: boolean;
  readonly element: Element;
  /** Takes the results of `lanes` places of a row. */
  readonly store: (index: Index, lanes: Lanes, value: KValue) => void;
}

export function lowerScan(lowering: Lowering, target: Target, space: Space, scan: Scan): KernelFunction {
  const { b } = lowering;
  const { length } = space;
  const lanes = widestWithin(Math.min(target.vectorLanes, length));
  const vectors = Math.floor(length / lanes);
  const tasks = taskCount(target, space.rows, space.rows * length);
  const neutral = b.constant(identity(scan.fn, scan.scalar), scan.scalar);
  const grid = lowering.workgroups(tasks, (task) => {
    const [from, to] = shareOf(lowering, task, tasks, space.rows);
    lowering.for(from.emit(b), to.emit(b), 1, [], (row) => {
      const index = delinearize(row, space.rowShape);
      /** Scans the `width` places from `place` on, in the direction of the scan; returns the total so far. */
      const step = (place: Affine, width: Lanes, before: KValue): KValue => {
        const first = scan.reverse ? place.scale(-1).add(length - width) : place;
        const at = elementIndex(space, index, first.add(Affine.lane(width)));
        const element = lowering.widen(scan.element(at, width), width);
        const { inclusive, exclusive, total } = scanVector(lowering, scan, element, before, neutral);
        scan.store(at, width, scan.exclusive ? exclusive : inclusive);
        return total;
      };
      const [reached] = lowering.for(0, vectors, 1, [neutral], (i, [before]) => [step(i.scale(lanes), lanes, before)]);
      if (vectors * lanes < length)
        lowering.for(vectors * lanes, length, 1, [reached], (i, [before]) => [step(i, 1, before)]);
    });
  });
  return lowering.finish(grid, [1, 1, 1]);
}

function scanVector(
  { b }: Lowering,
  { fn, reverse }: Scan,
  element: KValue,
  before: KValue,
  neutral: KValue,
): { readonly inclusive: KValue; readonly exclusive: KValue; readonly total: KValue } {
  const { lanes } = element.type;
  /** Lanes moved by `distance` in the direction of the scan; `fill` comes in. */
  const moved = (v: KValue, distance: number, fill: KValue): KValue =>
    b.build(
      range(lanes).map((lane) => {
        const source = reverse ? lane + distance : lane - distance;
        return source < 0 || source >= lanes ? fill : b.extract(v, source);
      }),
    );
  let sum = element;
  for (let distance = 1; distance < lanes; distance *= 2) sum = combine(b, fn, moved(sum, distance, neutral), sum);
  const inclusive = combine(b, fn, b.splat(before, lanes), sum);
  const total = b.extract(inclusive, reverse ? 0 : lanes - 1);
  return { inclusive, exclusive: moved(inclusive, 1, before), total };
}
