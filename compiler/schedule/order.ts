/** The order of dispatches: steps of a plan with the barriers they need, loops with the versions of their bodies. */
import type { Location, PlanStep } from '../plan.js';
import { memoryOf, sourcesOf } from './group.js';
import type { Loop } from './loop.js';
import type { Binding } from './lowered.js';
import type { Memory } from './memory.js';
import { isValue, type LoopTask, type Phase, placeOf, placesOf, type Task } from './tasks.js';

/**
 * Dispatches in order, with a barrier wherever one touches memory that another since the last barrier wrote, or writes
 * what it read, and before every iteration but the first.
 */
export function orderSteps(tasks: readonly Task[], memory: Memory): PlanStep[] {
  const roles = placesOf(tasks);
  const pending = new Pending();
  const phases = new Map<Loop, Phase>();
  const place = (binding: Binding): Location => {
    const role = isValue(binding) ? roles.get(binding.id) : undefined;
    return role ? place(placeOf(role, phases.get(role.loop) as Phase)) : memory.locate(binding);
  };
  const order = (inner: readonly Task[]): PlanStep[] => inner.flatMap(step);
  const step = (task: Task): PlanStep[] => {
    if (task.kind === 'loop') return [loopStep(task)];
    const { kernel, bindings, iterations, group } = task;
    const written = new Set<Binding>(group.writes.flatMap((value) => memoryOf(group, value) ?? []));
    const located = bindings.map((binding) => ({
      location: place(binding),
      writes: !isValue(binding) ? binding.kind === 'temporary' : written.has(binding),
    }));
    const barrier: PlanStep[] = pending.conflicts(located) ? [{ kind: 'barrier' }] : [];
    if (barrier.length > 0) pending.clear();
    pending.add(located);
    const dispatch: PlanStep = {
      kind: 'dispatch',
      kernel,
      bindings: located.map(({ location }) => location),
      sources: sourcesOf(group),
      ...(iterations.length > 0 ? { iterations } : {}),
    };
    return [...barrier, dispatch];
  };
  const loopStep = ({ loop, body }: LoopTask): PlanStep => {
    const { trips } = loop.variable;
    const wanders = loop.carried.some(({ other }) => other !== undefined);
    const later: readonly Phase[] = trips === 1 ? [] : trips === 2 || !wanders ? ['odd'] : ['odd', 'even'];
    phases.set(loop, 'first');
    const first = order(body);
    const ends = [pending.copy()];
    const rest = later.map((phase): PlanStep[] => {
      phases.set(loop, phase);
      pending.clear();
      const steps: PlanStep[] = [{ kind: 'barrier' }, ...order(body)];
      ends.push(pending.copy());
      return steps;
    });
    phases.delete(loop);
    pending.clear();
    for (const end of later.length > 0 ? ends.slice(1) : ends) pending.add(end);
    return { kind: 'loop', trips, first, rest };
  };
  return order(tasks);
}

interface Access {
  readonly location: Location;
  readonly writes: boolean;
}

/** What dispatches since the last barrier touch. */
class Pending {
  #accesses: Access[] = [];

  conflicts(own: readonly Access[]): boolean {
    return own.some((a) => this.#accesses.some((b) => (a.writes || b.writes) && overlaps(a.location, b.location)));
  }

  add(accesses: readonly Access[]): void {
    this.#accesses.push(...accesses);
  }

  clear(): void {
    this.#accesses = [];
  }

  copy(): readonly Access[] {
    return this.#accesses.slice();
  }
}

const overlaps = (a: Location, b: Location): boolean =>
  a.pool === b.pool && a.offset < b.offset + b.bytes && b.offset < a.offset + a.bytes;
