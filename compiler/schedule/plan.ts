/** From an optimised graph to a plan: fuse, lower each group, place tensors in memory, order the dispatches. */
import { bytesOf } from '../dtype.js';
import { TuttiError } from '../error.js';
import { mapBodies } from '../graph/scan.js';
import type { ConstantData, Graph, Node, Value } from '../graph/types.js';
import { legalize } from '../kernel/legalize.js';
import { print } from '../kernel/print.js';
import type { Target } from '../kernel/target.js';
import type { KernelFunction } from '../kernel/types.js';
import { verify } from '../kernel/verify.js';
import type { Location, Plan, PlannedConstant, PlannedTensor, PlanStep, Pool } from '../plan.js';
import { sizeOf } from '../tensor.js';
import { planArena } from './arena.js';
import { lowerGroup } from './family.js';
import { type Group, memoryOf, nameOf, sourcesOf } from './group.js';
import { arrange, type Carried, type Loop, type Work } from './loop.js';
import type { Binding } from './lowered.js';
import { depthOf } from './lowering.js';
import { elementNotes, typeNotes } from './notes.js';
import { splitLargeWeights } from './split.js';
import { splitWideConcats } from './split_concat.js';

export interface PlanGraphOptions {
  readonly dump?: (stage: string, text: () => string) => void;
  readonly times: Record<string, number>;
  readonly constantsFolded: number;
}

/** What a group or a loop of the graph became. */
type Task = Dispatch | LoopTask;

interface Dispatch {
  readonly kind: 'dispatch';
  readonly kernel: number;
  readonly bindings: readonly Binding[];
  /** For each scalar parameter of the kernel, whose iteration number it is: loops around it, from the outermost. */
  readonly iterations: readonly number[];
  readonly group: Group;
}

interface LoopTask {
  readonly kind: 'loop';
  readonly loop: Loop;
  readonly body: readonly Task[];
}

const shapeOf = (value: Value) => value.type.shape as readonly number[];
const bytesOfValue = (value: Value): number => bytesOf(value.type.dtype, sizeOf(shapeOf(value)));

/** In steps of some milliseconds, for callers with other work to do between them. @throws TuttiError E_UNSUPPORTED, E_OUT_OF_MEMORY */
export function* planGraph(whole: Graph, target: Target, options: PlanGraphOptions): Generator<void, Plan> {
  const clock = stopwatch(options.times);
  const split = (graph: Graph): Graph => splitWideConcats(splitLargeWeights(graph, target), target);
  const graph = split(mapBodies(whole, split));
  const { work, constants } = arrange(graph, target);
  clock('fuse');
  const kernels = new KernelTable(target, options.dump);
  const tasks = yield* lowerAll(work, target, kernels);
  clock('lower');
  const memory = placeTensors(graph, constants, tasks, target);
  const steps = orderSteps(tasks, memory);
  clock('memory');
  const counted = [...countDispatches(tasks)];
  const total = (of: (dispatch: Dispatch) => number): number =>
    counted.reduce((sum, { dispatch, times }) => sum + times * of(dispatch), 0);
  return {
    target,
    kernels: kernels.kernels,
    steps,
    pools: memory.pools,
    constants: memory.constants,
    inputs: graph.inputs.map((value) => planned(value.name, value, memory, graph)),
    outputs: graph.outputs.map(({ name, value }) => planned(name, value, memory, graph)),
    report: {
      nodes: countNodes(graph.nodes),
      groups: countGroups(work),
      kernels: kernels.kernels.length,
      dispatches: total(() => 1),
      constantsFolded: options.constantsFolded,
      weightsBytes: memory.constants.reduce((sum, { location }) => sum + location.bytes, 0),
      arenaBytes: memory.pools.reduce((sum, pool) => sum + (pool.kind === 'constants' ? 0 : pool.bytes), 0),
      largestLiveBytes: memory.largestLiveBytes,
      bytesMoved: total(({ bindings }) => bindings.reduce((sum, binding) => sum + bytesOfBinding(binding), 0)),
      flops: graph.nodes.reduce((sum, node) => sum + flopsOf(node), 0),
      times: options.times,
      placement: counted.map(({ dispatch: { kernel, group }, times }) => ({
        kernel: kernels.kernels[kernel].name,
        family: group.family,
        sources: sourcesOf(group),
        notes: [...kernels.notes[kernel], ...elementNotes(group)],
        ...(times === 1 ? {} : { times }),
      })),
    },
  };
}

function stopwatch(times: Record<string, number>): (stage: string) => void {
  let last = performance.now();
  return (stage) => {
    const now = performance.now();
    times[stage] = now - last;
    last = now;
  };
}

// --- kernels -------------------------------------------------------------------------------------------------------

/** Distinct kernels by content; verified after scheduling and after legalisation. */
class KernelTable {
  readonly kernels: KernelFunction[] = [];
  /** By kernel: what was done about types. */
  readonly notes: (readonly string[])[] = [];
  readonly #target: Target;
  readonly #dump: PlanGraphOptions['dump'];
  readonly #known = new Map<string, number>();

  constructor(target: Target, dump: PlanGraphOptions['dump']) {
    this.#target = target;
    this.#dump = dump;
  }

  add(scheduled: KernelFunction): number {
    const content = print({ ...scheduled, sources: [] });
    const known = this.#known.get(content);
    if (known !== undefined) return known;
    verify(scheduled, { stage: 'scheduled', target: this.#target });
    const index = this.kernels.length;
    const legal = legalize(scheduled, this.#target);
    if (legal !== scheduled) verify(legal, { stage: 'legal', target: this.#target });
    const named = { ...legal, name: `${scheduled.name}_${index}` };
    this.#dump?.(`kernel.${String(index).padStart(3, '0')}.${scheduled.name}`, () => print(named));
    this.kernels.push(named);
    this.notes.push(legal === scheduled ? [] : typeNotes(scheduled, this.#target));
    this.#known.set(content, index);
    return index;
  }
}

function* lowerAll(work: readonly Work[], target: Target, kernels: KernelTable): Generator<void, Task[]> {
  const tasks: Task[] = [];
  for (const item of work) {
    if (item.kind === 'loop')
      tasks.push({ kind: 'loop', loop: item, body: yield* lowerAll(item.body, target, kernels) });
    else tasks.push(...lowerToDispatches(item.group, target, kernels));
    yield;
  }
  return tasks;
}

function lowerToDispatches(group: Group, target: Target, kernels: KernelTable): Dispatch[] {
  try {
    return lowerGroup(group, target).map(({ kernel, bindings }) => ({
      kind: 'dispatch',
      kernel: kernels.add(kernel),
      bindings,
      iterations: kernel.params.flatMap((param) => (param.kind === 'scalar' ? [depthOf(param)] : [])),
      group,
    }));
  } catch (error) {
    if (error instanceof TuttiError) throw error;
    const where = `${nameOf(group)} (${sourcesOf(group).join(', ')})`;
    throw new Error(`lowering ${where} failed: ${error instanceof Error ? error.message : String(error)}`, {
      cause: error,
    });
  }
}

/** Every dispatch of the plan once, and how many times it runs. */
function* countDispatches(tasks: readonly Task[], times = 1): Generator<{ dispatch: Dispatch; times: number }> {
  for (const task of tasks) {
    if (task.kind === 'loop') yield* countDispatches(task.body, times * task.loop.variable.trips);
    else yield { dispatch: task, times };
  }
}

const countGroups = (work: readonly Work[]): number =>
  work.reduce((sum, item) => sum + (item.kind === 'loop' ? countGroups(item.body) : 1), 0);
const countNodes = (nodes: readonly Node[]): number =>
  nodes.reduce((sum, node) => sum + 1 + (node.op === 'scan' ? countNodes(node.attrs.body.nodes) : 0), 0);

// --- memory --------------------------------------------------------------------------------------------------------

interface Memory {
  readonly pools: readonly Pool[];
  readonly constants: readonly PlannedConstant[];
  readonly largestLiveBytes: number;
  /** Where a binding lies; carried values have the places of their loops instead. */
  locate(binding: Binding): Location;
  find(value: Value): Location | undefined;
}

const isValue = (binding: Binding): binding is Value => !('kind' in binding);
const alignUp = (bytes: number, alignment: number): number => Math.ceil(bytes / alignment) * alignment;
const bytesOfBinding = (binding: Binding): number =>
  isValue(binding)
    ? bytesOfValue(binding)
    : binding.kind === 'temporary'
      ? binding.bytes
      : bytesOf(binding.data.dtype, sizeOf(binding.data.shape));

function placeTensors(
  graph: Graph,
  constantData: ReadonlyMap<number, ConstantData>,
  tasks: readonly Task[],
  target: Target,
): Memory {
  const { storageAlignment: alignment, bufferBytes, storageBindingBytes } = target.limits;
  const lives = new Map<Binding, { bytes: number; first: number; last: number }>();
  const constants = new Map<Binding, { name: string; data: ConstantData; bytes: number }>();
  const touch = (binding: Binding, first: number, last: number): void => {
    const bytes = bytesOfBinding(binding);
    if (bytes > storageBindingBytes) {
      throw new TuttiError('E_UNSUPPORTED', `a tensor is larger than the device's largest storage binding`, {
        subject: binding.name,
        expected: `at most ${storageBindingBytes} bytes`,
        found: `${bytes} bytes`,
        remedy: 'Run the model on another device, for instance --device cpu',
      });
    }
    const data = isValue(binding)
      ? constantData.get(binding.id)
      : binding.kind === 'constant'
        ? binding.data
        : undefined;
    if (data) {
      constants.set(binding, { name: binding.name, data, bytes });
      return;
    }
    const life = lives.get(binding);
    if (life) {
      life.first = Math.min(life.first, first);
      life.last = Math.max(life.last, last);
    } else lives.set(binding, { bytes, first, last });
  };
  const uses = [...usesOf(tasks)];
  const end = 1 + uses.reduce((most, { last }) => Math.max(most, last), -1);
  for (const input of graph.inputs) if (bytesOfValue(input) > 0) touch(input, 0, 0);
  for (const { binding, first, last } of uses) touch(binding, first, last);
  for (const { value } of graph.outputs)
    if (bytesOfValue(value) > 0 && !constantData.has(value.id)) touch(value, end, end);

  const pools: Pool[] = [];
  const locations = new Map<Binding, Location>();
  const planned: PlannedConstant[] = [];
  let current = -1;
  let used = 0;
  for (const [binding, { name, data, bytes }] of constants) {
    if (current < 0 || used + bytes > bufferBytes) {
      current = pools.push({ kind: 'constants', bytes: 0 }) - 1;
      used = 0;
    }
    const location = { pool: current, offset: used, bytes };
    used = alignUp(used + bytes, Math.max(16, alignment));
    pools[current] = { kind: 'constants', bytes: used };
    locations.set(binding, location);
    planned.push({ name, data, location });
  }
  const outer = new Set([...graph.inputs, ...graph.outputs.map(({ value }) => value)].map(({ id }) => id));
  const isOuter = (binding: Binding): boolean => isValue(binding) && outer.has(binding.id);
  const entries = [...lives.entries()].filter(([binding]) => !isOuter(binding));
  const arena = planArena(
    entries.map(([, life]) => life),
    Math.max(16, alignment),
    bufferBytes,
  );
  const firstArena = pools.length;
  for (const bytes of arena.pools) pools.push({ kind: 'arena', bytes });
  entries.forEach(([binding, { bytes }], i) => {
    const { pool, offset } = arena.offsets[i];
    locations.set(binding, { pool: firstArena + pool, offset, bytes });
  });
  let outerBytes = 0;
  for (const [binding, { bytes }] of lives) {
    if (!isOuter(binding)) continue;
    const pool = pools.push({ kind: 'tensor', bytes: alignUp(bytes, 16) }) - 1;
    locations.set(binding, { pool, offset: 0, bytes });
    outerBytes += bytes;
  }
  const byId = new Map(
    [...locations].flatMap(([binding, location]) => (isValue(binding) ? [[binding.id, location] as const] : [])),
  );
  return {
    pools,
    constants: planned,
    largestLiveBytes: arena.lowerBound + outerBytes,
    find: (value) => byId.get(value.id),
    locate: (binding) => (isValue(binding) ? byId.get(binding.id) : locations.get(binding)) as Location,
  };
}

function planned(name: string, value: Value, memory: Memory, graph: Graph): PlannedTensor {
  const base = { name, dtype: value.type.dtype, shape: shapeOf(value) };
  const constant = graph.constants.get(value.id);
  if (constant) return { ...base, constant };
  const location = memory.find(value);
  return location ? { ...base, location } : base;
}

/**
 * Which memory is needed when: positions count dispatches, those of a body once. What an iteration makes and uses up
 * is needed in between; what comes from outside of a loop, or goes there, is needed as long as the loop runs.
 */
function* usesOf(tasks: readonly Task[]): Generator<{ binding: Binding; first: number; last: number }> {
  interface Range {
    readonly first: number;
    last: number;
  }
  const levels = levelsOf(tasks);
  const places = placesOf(tasks);
  let position = 0;
  function* visit(inner: readonly Task[], loops: readonly Range[]): Generator<{ binding: Binding; range: Range }> {
    for (const task of inner) {
      if (task.kind === 'loop') {
        const range = { first: position, last: position };
        yield* visit(task.body, [...loops, range]);
        range.last = position - 1;
      } else {
        const here = { first: position, last: position };
        position++;
        for (const binding of task.bindings)
          for (const place of allPlaces(binding, places)) {
            const level = levels.get(isValue(place) ? place.id : place) ?? 0;
            yield { binding: place, range: loops[level] ?? here };
          }
      }
    }
  }
  for (const { binding, range } of [...visit(tasks, [])]) yield { binding, ...range };
}

/** By temporary or value id, how many loops are around the place where it comes from; 0 for what is not listed. */
function levelsOf(tasks: readonly Task[]): Map<number | Binding, number> {
  const levels = new Map<number | Binding, number>();
  const visit = (inner: readonly Task[], depth: number): void => {
    for (const task of inner) {
      if (task.kind === 'loop') {
        for (const output of task.loop.outputs) levels.set(output.id, depth);
        for (const { other } of task.loop.carried) if (other) levels.set(other, depth);
        visit(task.body, depth + 1);
        continue;
      }
      for (const binding of task.bindings) if (!isValue(binding)) levels.set(binding, depth);
      for (const value of task.group.writes) {
        const memory = memoryOf(task.group, value);
        // A slice of a stack lies in memory of the loop that makes the stack.
        if (memory?.id === value.id) levels.set(value.id, depth);
      }
    }
  };
  visit(tasks, 0);
  return levels;
}

interface Role {
  readonly loop: Loop;
  readonly carried: Carried;
  readonly isNext: boolean;
}

/** Carried values, before and after an iteration, by value id. */
function placesOf(tasks: readonly Task[]): Map<number, Role> {
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

/** All memory that a binding may stand for. */
function allPlaces(binding: Binding, roles: ReadonlyMap<number, Role>): readonly Binding[] {
  const role = isValue(binding) ? roles.get(binding.id) : undefined;
  if (!role) return [binding];
  const { initial, last, other } = role.carried;
  return [...(role.isNext ? [] : [initial]), last, ...(other ? [other] : [])].flatMap((place) =>
    allPlaces(place, roles),
  );
}

// --- order ---------------------------------------------------------------------------------------------------------

/** Which iterations of a loop are written down: the first, and of the later ones those of odd and of even number. */
type Phase = 'first' | 'odd' | 'even';

/**
 * Dispatches in order, with a barrier wherever one touches memory that another since the last barrier wrote, or writes
 * what it read, and before every iteration but the first.
 */
function orderSteps(tasks: readonly Task[], memory: Memory): PlanStep[] {
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

/** Where a carried value is: the last iteration leaves it in the loop's result, the one before in the other place. */
function placeOf({ loop, carried, isNext }: Role, phase: Phase): Binding {
  const { initial, last, other } = carried;
  if (phase === 'first' && !isNext) return initial;
  if (!other) return last;
  const iteration = phase === 'odd' ? 1 : 0;
  const maker = isNext ? iteration : 1 - iteration;
  return (loop.variable.trips - 1 - maker) % 2 === 0 ? last : other;
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

// --- counts --------------------------------------------------------------------------------------------------------

/** Two per multiply-add of contractions, one per element of everything else. */
function flopsOf(node: Node): number {
  const outputs = node.outputs.length === 0 ? 0 : sizeOf(shapeOf(node.outputs[0]));
  if (node.op === 'dot')
    return 2 * outputs * node.attrs.lhsContract.reduce((k, d) => k * shapeOf(node.inputs[0])[d], 1);
  if (node.op === 'conv') return 2 * outputs * sizeOf(shapeOf(node.inputs[1]).slice(1));
  if (node.op === 'scan')
    return node.attrs.trips * node.attrs.body.nodes.reduce((sum, inner) => sum + flopsOf(inner), 0);
  return 0;
}
