/** What groups and loops became: dispatches, and which memory the carried values of loops mean in which iteration. */
import { bytesOf } from '../dtype.js';
import type { Value } from '../graph/types.js';
import { sizeOf } from '../tensor.js';
import type { Group } from './group.js';
import type { Carried, Loop } from './loop.js';
import type { Binding } from './lowered.js';

/** What a group or a loop of the graph became. */
export type Task = Dispatch | LoopTask;

export interface Dispatch {
  readonly kind: 'dispatch';
  readonly kernel: number;
  readonly bindings: readonly Binding[];
  /** For each scalar parameter of the kernel, whose iteration number it is: loops around it, from the outermost. */
  readonly iterations: readonly number[];
  readonly group: Group;
}

export interface LoopTask {
  readonly kind: 'loop';
  readonly loop: Loop;
  readonly body: readonly Task[];
}

export const shapeOf = (value: Value) => value.type.shape as readonly number[];
export const bytesOfValue = (value: Value): number => bytesOf(value.type.dtype, sizeOf(shapeOf(value)));

export const isValue = (binding: Binding): binding is Value => !('kind' in binding);
export const bytesOfBinding = (binding: Binding): number =>
  isValue(binding)
    ? bytesOfValue(binding)
    : binding.kind === 'temporary'
      ? binding.bytes
      : bytesOf(binding.data.dtype, sizeOf(binding.data.shape));

/** Every dispatch of the plan once, and how many times it runs. */
export function* countDispatches(tasks: readonly Task[], times = 1): Generator<{ dispatch: Dispatch; times: number }> {
  for (const task of tasks) {
    if (task.kind === 'loop') yield* countDispatches(task.body, times * task.loop.variable.trips);
    else yield { dispatch: task, times };
  }
}

// --- carried values --------------------------------------------------------------------------------------------------

export interface Role {
  readonly loop: Loop;
  readonly carried: Carried;
  readonly isNext: boolean;
}

/** Carried values, before and after an iteration, by value id. */
export function placesOf(tasks: readonly Task[]): Map<number, Role> {
  const roles = new Map<number, Role>();
  const visit = (inner: readonly Task[]): void => {
    for (const task of inner) {
      if (task.kind !== 'loop') continue;
      for (const carried of task.loop.carried) {
        roles.set(carried.current.id, { loop: task.loop, carried, isNext: false });
        roles.set(carried.next.id, { loop: task.loop, carried, isNext: true });
      }
      visit(task.body);
    }
  };
  visit(tasks);
  return roles;
}

/** Which iterations of a loop are written down: the first, and of the later ones those of odd and of even number. */
export type Phase = 'first' | 'odd' | 'even';

/** Where a carried value is: the last iteration leaves it in the loop's result, the one before in the other place. */
export function placeOf({ loop, carried, isNext }: Role, phase: Phase): Binding {
  const { initial, last, other } = carried;
  if (phase === 'first' && !isNext) return initial;
  if (!other) return last;
  const iteration = phase === 'odd' ? 1 : 0;
  const maker = isNext ? iteration : 1 - iteration;
  return (loop.variable.trips - 1 - maker) % 2 === 0 ? last : other;
}
