/** From an optimised graph to a plan: fuse, lower each group, place tensors in memory, order the dispatches. */
import { TuttiError } from '../error.js';
import { mapBodies } from '../graph/scan.js';
import type { Graph, Node } from '../graph/types.js';
import { legalize } from '../kernel/legalize.js';
import { print } from '../kernel/print.js';
import type { Target } from '../kernel/target.js';
import type { KernelFunction } from '../kernel/types.js';
import { verify } from '../kernel/verify.js';
import type { Plan } from '../plan.js';
import { sizeOf } from '../tensor.js';
import { Alike } from './alike.js';
import { lowerGroup } from './family.js';
import type { Prefer } from './forms.js';
import { type Group, nameOf, sourcesOf } from './group.js';
import { joinInPlace } from './joins.js';
import { arrange, type Work } from './loop.js';
import { depthOf } from './lowering.js';
import { placeTensors, planned } from './memory.js';
import { elementNotes, typeNotes } from './notes.js';
import { orderSteps } from './order.js';
import { splitLargeWeights } from './split.js';
import { splitWideConcats } from './split_concat.js';
import { bytesOfBinding, countDispatches, type Dispatch, shapeOf, type Task } from './tasks.js';

export interface PlanGraphOptions {
  readonly dump?: (stage: string, text: () => string) => void;
  readonly prefer?: Prefer;
  readonly visit?: (group: Group) => void;
  readonly times: Record<string, number>;
  readonly constantsFolded: number;
}

/** In steps of some milliseconds, for callers with other work to do between them. @throws TuttiError E_UNSUPPORTED, E_OUT_OF_MEMORY */
export function* planGraph(whole: Graph, target: Target, options: PlanGraphOptions): Generator<void, Plan> {
  const clock = stopwatch(options.times);
  const split = (graph: Graph): Graph => splitWideConcats(splitLargeWeights(graph, target), target);
  const graph = split(mapBodies(whole, split));
  const { work: arranged, constants } = arrange(graph, target);
  const { work, parts } = joinInPlace(arranged, graph, target);
  clock('fuse');
  const kernels = new KernelTable(target, options.dump);
  const { prefer, visit } = options;
  const lowering: Lowering = { target, kernels, alike: new Alike(target), prefer, visit };
  const tasks = yield* lowerAll(work, lowering);
  clock('lower');
  const memory = placeTensors(graph, constants, tasks, target, parts);
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
export class KernelTable {
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

/** What lowering a group needs besides the group. */
interface Lowering {
  readonly target: Target;
  readonly kernels: KernelTable;
  readonly alike: Alike;
  readonly prefer: Prefer | undefined;
  readonly visit: ((group: Group) => void) | undefined;
}

function* lowerAll(work: readonly Work[], lowering: Lowering): Generator<void, Task[]> {
  const tasks: Task[] = [];
  for (const item of work) {
    if (item.kind === 'loop') tasks.push({ kind: 'loop', loop: item, body: yield* lowerAll(item.body, lowering) });
    else {
      const { group } = item;
      lowering.visit?.(group);
      tasks.push(...lowering.alike.lowered(group, () => lowerToDispatches(group, lowering)));
    }
    yield;
  }
  return tasks;
}

function lowerToDispatches(group: Group, { target, kernels, prefer }: Lowering): Dispatch[] {
  try {
    return lowerGroup(group, target, prefer).map(({ kernel, bindings }) => ({
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

const countGroups = (work: readonly Work[]): number =>
  work.reduce((sum, item) => sum + (item.kind === 'loop' ? countGroups(item.body) : 1), 0);
const countNodes = (nodes: readonly Node[]): number =>
  nodes.reduce((sum, node) => sum + 1 + (node.op === 'scan' ? countNodes(node.attrs.body.nodes) : 0), 0);

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
