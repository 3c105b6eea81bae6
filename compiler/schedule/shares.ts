/** How work is shared out to the tasks of a CPU. */
import type { Target } from '../kernel/target.js';
import type { Lanes } from '../kernel/types.js';
import { Affine } from './affine.js';
import type { Lowering } from './lowering.js';

/** Elements of one task: enough to make up for the hand-over to a thread. */
const taskElements = 8192;
/** Tasks for each core, so that all end together. */
const tasksPerCore = 4;

/** Into how many tasks `units` that cannot be divided are shared, of so many elements in all. */
export const taskCount = (target: Target, units: number, elements: number): number =>
  Math.max(1, Math.min(units, target.parallelism * tasksPerCore, Math.floor(elements / taskElements)));

/** [from, to) of a task's equal share of `count`. */
export function shareOf(lowering: Lowering, task: Affine, tasks: number, count: number): [Affine, Affine] {
  if (tasks === 1) return [Affine.constant(0), Affine.constant(count)];
  const share = Math.ceil(count / tasks);
  const { b } = lowering;
  const limit = (a: Affine) => Affine.of(b.min(a.emit(b), b.constant(count)), b);
  return [limit(task.scale(share)), limit(task.add(1).scale(share))];
}

/** The task whose share ends with the last of `count`; those after it have none. */
export const lastTask = (tasks: number, count: number): number =>
  count === 0 ? 0 : Math.ceil(count / Math.ceil(count / tasks)) - 1;

/** The widest vector of at most so many elements. */
export const widestWithin = (limit: number): Lanes => ([16, 8, 4, 2] as const).find((lanes) => lanes <= limit) ?? 1;
