/** From an optimised graph to a plan: fuse, lower each group, place tensors in memory, order the dispatches. */
import { bytesOf } from '../dtype.js';
import { TuttiError } from '../error.js';
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
import { fuse } from './fuse.js';
import { type Group, nameOf, sourcesOf } from './group.js';
import type { Binding, LoweredKernel } from './lowered.js';
import { typeNotes } from './notes.js';
import { splitLargeWeights } from './split.js';

export interface PlanGraphOptions {
  readonly dump?: (stage: string, text: () => string) => void;
  readonly times: Record<string, number>;
  readonly constantsFolded: number;
}

interface Dispatch {
  readonly kernel: number;
  readonly bindings: readonly Binding[];
  readonly group: Group;
}

const shapeOf = (value: Value) => value.type.shape as readonly number[];
const bytesOfValue = (value: Value): number => bytesOf(value.type.dtype, sizeOf(shapeOf(value)));

/** In steps of some milliseconds, for callers with other work to do between them. @throws TuttiError E_UNSUPPORTED, E_OUT_OF_MEMORY */
export function* planGraph(whole: Graph, target: Target, options: PlanGraphOptions): Generator<void, Plan> {
  const clock = stopwatch(options.times);
  const graph = splitLargeWeights(whole, target);
  const groups = fuse(graph, target).filter((group) => group.writes.some((value) => sizeOf(shapeOf(value)) > 0));
  clock('fuse');
  const kernels = new KernelTable(target, options.dump);
  const dispatches: Dispatch[] = [];
  for (const group of groups) {
    dispatches.push(...lowerToDispatches(group, target, kernels));
    yield;
  }
  clock('lower');
  const memory = placeTensors(graph, dispatches, target);
  const steps = orderSteps(dispatches, memory);
  clock('memory');
  return {
    target,
    kernels: kernels.kernels,
    steps,
    pools: memory.pools,
    constants: memory.constants,
    inputs: graph.inputs.map((value) => planned(value.name, value, memory, graph)),
    outputs: graph.outputs.map(({ name, value }) => planned(name, value, memory, graph)),
    report: {
      nodes: graph.nodes.length,
      groups: groups.length,
      kernels: kernels.kernels.length,
      dispatches: dispatches.length,
      constantsFolded: options.constantsFolded,
      weightsBytes: memory.constants.reduce((sum, { location }) => sum + location.bytes, 0),
      arenaBytes: memory.pools.reduce((sum, pool) => sum + (pool.kind === 'arena' ? pool.bytes : 0), 0),
      largestLiveBytes: memory.largestLiveBytes,
      bytesMoved: dispatches.reduce(
        (sum, { bindings }) => sum + bindings.reduce((s, binding) => s + memory.locate(binding).bytes, 0),
        0,
      ),
      flops: graph.nodes.reduce((sum, node) => sum + flopsOf(node), 0),
      times: options.times,
      placement: dispatches.map(({ kernel, group }) => ({
        kernel: kernels.kernels[kernel].name,
        family: group.family,
        sources: sourcesOf(group),
        notes: kernels.notes[kernel],
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

function lowerToDispatches(group: Group, target: Target, kernels: KernelTable): Dispatch[] {
  let lowered: readonly LoweredKernel[];
  try {
    lowered = lowerGroup(group, target);
    return lowered.map(({ kernel, bindings }) => ({ kernel: kernels.add(kernel), bindings, group }));
  } catch (error) {
    if (error instanceof TuttiError) throw error;
    const where = `${nameOf(group)} (${sourcesOf(group).join(', ')})`;
    throw new Error(`lowering ${where} failed: ${error instanceof Error ? error.message : String(error)}`, {
      cause: error,
    });
  }
}

// --- memory --------------------------------------------------------------------------------------------------------

interface Memory {
  readonly pools: readonly Pool[];
  readonly constants: readonly PlannedConstant[];
  readonly largestLiveBytes: number;
  /** Where a binding lies. */
  locate(binding: Binding): Location;
  find(value: Value): Location | undefined;
}

const isValue = (binding: Binding): binding is Value => !('kind' in binding);
const alignUp = (bytes: number, alignment: number): number => Math.ceil(bytes / alignment) * alignment;

function placeTensors(graph: Graph, dispatches: readonly Dispatch[], target: Target): Memory {
  const { storageAlignment: alignment, bufferBytes, storageBindingBytes } = target.limits;
  const lives = new Map<Binding, { bytes: number; first: number; last: number }>();
  const constants = new Map<Binding, { name: string; data: ConstantData; bytes: number }>();
  const end = dispatches.length;
  const touch = (binding: Binding, at: number): void => {
    const bytes = isValue(binding)
      ? bytesOfValue(binding)
      : binding.kind === 'temporary'
        ? binding.bytes
        : bytesOf(binding.data.dtype, sizeOf(binding.data.shape));
    if (bytes > storageBindingBytes) {
      throw new TuttiError('E_UNSUPPORTED', `a tensor is larger than the device's largest storage binding`, {
        subject: binding.name,
        expected: `at most ${storageBindingBytes} bytes`,
        found: `${bytes} bytes`,
        remedy: 'Run the model on another device, for instance --device cpu',
      });
    }
    const data = isValue(binding)
      ? graph.constants.get(binding.id)
      : binding.kind === 'constant'
        ? binding.data
        : undefined;
    if (data) {
      constants.set(binding, { name: binding.name, data, bytes });
      return;
    }
    const life = lives.get(binding);
    if (life) life.last = Math.max(life.last, at);
    else lives.set(binding, { bytes, first: at, last: at });
  };
  for (const input of graph.inputs) if (bytesOfValue(input) > 0) touch(input, 0);
  dispatches.forEach(({ bindings }, at) => {
    for (const binding of bindings) touch(binding, at);
  });
  for (const { value } of graph.outputs)
    if (bytesOfValue(value) > 0 && !graph.constants.has(value.id)) touch(value, end);

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
  const entries = [...lives.entries()];
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
  const byId = new Map(
    [...locations].flatMap(([binding, location]) => (isValue(binding) ? [[binding.id, location] as const] : [])),
  );
  return {
    pools,
    constants: planned,
    largestLiveBytes: arena.lowerBound,
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

// --- order ---------------------------------------------------------------------------------------------------------

/** Dispatches in order, with a barrier wherever one touches memory that another since the last barrier wrote, or writes what it read. */
function orderSteps(dispatches: readonly Dispatch[], memory: Memory): PlanStep[] {
  const steps: PlanStep[] = [];
  let reads: Location[] = [];
  let writes: Location[] = [];
  const overlaps = (a: Location, b: Location) =>
    a.pool === b.pool && a.offset < b.offset + b.bytes && b.offset < a.offset + a.bytes;
  for (const { kernel, bindings, group } of dispatches) {
    const written = new Set<Binding>(group.writes);
    const located = bindings.map((binding) => ({
      location: memory.locate(binding),
      writes: !isValue(binding) ? binding.kind === 'temporary' : written.has(binding),
    }));
    const conflict = located.some(
      (own) =>
        writes.some((other) => overlaps(own.location, other)) ||
        (own.writes && reads.some((other) => overlaps(own.location, other))),
    );
    if (conflict) {
      steps.push({ kind: 'barrier' });
      reads = [];
      writes = [];
    }
    for (const own of located) (own.writes ? writes : reads).push(own.location);
    steps.push({
      kind: 'dispatch',
      kernel,
      bindings: located.map(({ location }) => location),
      sources: sourcesOf(group),
    });
  }
  return steps;
}

// --- counts --------------------------------------------------------------------------------------------------------

/** Two per multiply-add of contractions, one per element of everything else. */
function flopsOf(node: Node): number {
  const outputs = sizeOf(shapeOf(node.outputs[0]));
  if (node.op === 'dot')
    return 2 * outputs * node.attrs.lhsContract.reduce((k, d) => k * shapeOf(node.inputs[0])[d], 1);
  if (node.op === 'conv') return 2 * outputs * sizeOf(shapeOf(node.inputs[1]).slice(1));
  return 0;
}
