/** Places in memory for everything that dispatches bind: constants side by side, the rest by lifetimes. */
import { TuttiError } from '../error.js';
import type { ConstantData, Graph, Value } from '../graph/types.js';
import type { Target } from '../kernel/target.js';
import type { Location, PlannedConstant, PlannedTensor, Pool } from '../plan.js';
import { planArena } from './arena.js';
import { memoryOf } from './group.js';
import type { PartOf } from './joins.js';
import type { Binding } from './lowered.js';
import { bytesOfBinding, bytesOfValue, isValue, placesOf, type Role, shapeOf, type Task } from './tasks.js';

const alignUp = (bytes: number, alignment: number): number => Math.ceil(bytes / alignment) * alignment;

export interface Memory {
  readonly pools: readonly Pool[];
  readonly constants: readonly PlannedConstant[];
  readonly largestLiveBytes: number;
  /** Where a binding lies; carried values have the places of their loops instead. */
  locate(binding: Binding): Location;
  find(value: Value): Location | undefined;
}

export function placeTensors(
  graph: Graph,
  constantData: ReadonlyMap<number, ConstantData>,
  tasks: readonly Task[],
  target: Target,
  parts: ReadonlyMap<number, PartOf> = new Map(),
): Memory {
  const { storageAlignment: alignment, bufferBytes, storageBindingBytes } = target.limits;
  const lives = new Map<Binding, { bytes: number; first: number; last: number }>();
  const constants = new Map<Binding, { name: string; data: ConstantData; bytes: number }>();
  const members = new Map<Value, PartOf>();
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
    const part = isValue(binding) ? parts.get(binding.id) : undefined;
    if (part) {
      members.set(binding as Value, part);
      touch(part.whole, first, last);
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
  const locationOf = (value: Value): Location => {
    const part = parts.get(value.id);
    if (part === undefined) return locations.get(value) as Location;
    const { pool, offset } = locationOf(part.whole);
    return { pool, offset: offset + part.offset, bytes: bytesOfValue(value) };
  };
  for (const value of members.keys()) locations.set(value, locationOf(value));
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

export function planned(name: string, value: Value, memory: Memory, graph: Graph): PlannedTensor {
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

/** All memory that a binding may stand for. */
function allPlaces(binding: Binding, roles: ReadonlyMap<number, Role>): readonly Binding[] {
  const role = isValue(binding) ? roles.get(binding.id) : undefined;
  if (!role) return [binding];
  const { initial, last, other } = role.carried;
  return [...(role.isNext ? [] : [initial]), last, ...(other ? [other] : [])].flatMap((place) =>
    allPlaces(place, roles),
  );
}
