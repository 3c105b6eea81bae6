/** A run in stages: what later stages need stays on the device, what decides how to go on is read. */
import type { Command, Completion, Device, HostRead, HostWrite, Work } from '../backends/backend.js';
import { bytesOf } from '../compiler/dtype.js';
import { TuttiError } from '../compiler/error.js';
import { isList, leavesOf, mapLeaves, type Tree } from '../compiler/passes/mapped.js';
import type { Held, Stage, StageOutput } from '../compiler/passes/stages.js';
import { emptyTensor, type HostTensor, sizeOf, tensorFromBytes } from '../compiler/tensor.js';
import type { RunProfile } from './api.js';
import { record } from './executable.js';
import { resultMemory } from './host_memory.js';
import { type Resident, type Residents, words } from './residents.js';
import type { Lease } from './specialisations.js';
import type { StageTree, Step } from './stage_tree.js';
import { outcome, type Pending, type Steps } from './steps.js';
import { wireBytes } from './wire.js';

/** A tensor on the device. */
export interface OnDevice {
  readonly dtype: HostTensor['dtype'];
  readonly shape: readonly number[];
  readonly resident: Resident;
}
export type Placed = HostTensor | OnDevice;
export const isOnDevice = (tensor: Placed): tensor is OnDevice => 'resident' in tensor;

/** What a session lends to a run. */
export interface ChainContext {
  readonly device: Device;
  readonly residents: Residents;
  /** The executable of a stage. */
  lease(step: Step): Pending<Lease>;
  submit(work: Work): Pending<Completion>;
  /** Lets others have their turn. */
  turn(): Pending<void>;
  /** Told when nothing more will be submitted. */
  submitted(): void;
  /** Throws if the run must not go on. Asked between stages. */
  check(): void;
  readonly counts: { stages: number; demanded: number };
}

/** Where an output is to be; `into` is a tensor of the caller's there that it is to be written to. */
export type Wanted =
  | { readonly place: 'cpu'; readonly into?: HostTensor }
  | { readonly place: 'device'; readonly into?: OnDevice };

export interface ChainRun {
  readonly tree: StageTree;
  /** By name; those on the device belong to the caller. */
  readonly inputs: Readonly<Record<string, Placed>>;
  /** By name of the output. */
  readonly wanted: ReadonlyMap<string, Wanted>;
  /**
   * Tensors of the host among those may be written at any time. Otherwise, and where an output is made in another way, they
   * are left alone: the result is another tensor.
   */
  readonly direct: boolean;
  readonly signal?: AbortSignal;
  readonly profile?: (profile: RunProfile) => void;
}

/**
 * Runs stage after stage until the outputs are there. Results on the device are the caller's to release.
 * @throws TuttiError as `Executable.run`, and what `check` throws
 */
export function* runChain(context: ChainContext, run: ChainRun): Steps<Map<string, Tree<Placed>>> {
  const walk = new Walk(context, run);
  try {
    return yield* walk.toEnd();
  } finally {
    // Work that was given up may still run: the queue's order tells when it is over.
    if (run.signal?.aborted) yield* outcome(context.device.queue.submit({}).catch(() => undefined));
    walk.release();
  }
}

class Walk {
  readonly #context: ChainContext;
  readonly #run: ChainRun;
  readonly #values: Readonly<Record<string, HostTensor>>;
  /** What is there; residents in it are held. */
  readonly #tensors = new Map<Held, Placed>();
  /** Memory for results that are not there yet. */
  #taken: Resident[] = [];
  readonly #dispatches: RunProfile['dispatches'][number][] = [];

  constructor(context: ChainContext, run: ChainRun) {
    this.#context = context;
    this.#run = run;
    const onHost = Object.entries(run.inputs).filter((entry): entry is [string, HostTensor] => !isOnDevice(entry[1]));
    this.#values = Object.fromEntries(onHost);
  }

  release(): void {
    for (const tensor of this.#tensors.values()) if (isOnDevice(tensor)) tensor.resident.release();
    for (const resident of this.#taken) resident.release();
    this.#tensors.clear();
    this.#taken = [];
  }

  *toEnd(): Steps<Map<string, Tree<Placed>>> {
    const { tree, profile } = this.#run;
    const { counts, check, turn } = this.#context;
    let step = tree.first(this.#values);
    for (;;) {
      counts.stages++;
      const { stage } = step;
      if (stage.outputs.length > 0) yield* this.#execute(step);
      // Nothing was waited for: give others their turn.
      else yield* outcome(turn());
      if (stage.next.kind === 'done') {
        const outputs = yield* this.#collect(stage.next.outputs);
        profile?.({ dispatches: this.#dispatches });
        return outputs;
      }
      const { demanded, live } = stage.next;
      const answers = yield* this.#read(demanded);
      counts.demanded += demanded.length;
      this.#forget(live);
      check();
      step = tree.after(step, answers, this.#values);
    }
  }

  *#execute(step: Step): Steps<void> {
    const { stage } = step;
    const { residents, submit, submitted } = this.#context;
    const { signal, profile } = this.#run;
    const lease = yield* outcome(this.#context.lease(step));
    try {
      if (signal?.aborted) throw signal.reason;
      const { executable } = lease;
      const fill: { to: Resident; data: HostTensor }[] = [];
      const inputs = stage.inputs.map((held): HostTensor | Resident => {
        const tensor = this.#tensorOf(held);
        if (isOnDevice(tensor)) return tensor.resident;
        if (!this.#staysUseful(stage, held) || sizeOf(tensor.shape) === 0) return tensor;
        // Uploaded once, for this stage and those to come.
        const to = residents.take(bytesOf(tensor.dtype, sizeOf(tensor.shape)));
        fill.push({ to, data: tensor });
        this.#tensors.set(held, { dtype: tensor.dtype, shape: tensor.shape, resident: to });
        return to;
      });
      const goals = this.#goals(stage);
      const reads: number[] = [];
      const keep = new Map<number, Resident>();
      const into = new Map<number, HostTensor>();
      const made = new Map<Held, Placed>();
      stage.outputs.forEach((held, i) => {
        const goal = goals.get(held);
        if (goal === undefined) return;
        const { name, dtype, shape, constant, location } = executable.plan.outputs[i];
        if (goal.into !== undefined) checkFits(name, { dtype, shape }, goal.into);
        if (goal.place === 'cpu') {
          reads.push(i);
          if (goal.into !== undefined && this.#run.direct) into.set(i, goal.into);
        } else if (constant !== undefined || location === undefined) reads.push(i);
        else {
          const resident = goal.into?.resident.hold() ?? residents.take(location.bytes);
          this.#taken.push(resident);
          keep.set(i, resident);
          made.set(held, { dtype, shape, resident });
        }
      });
      const record = profile && ((own: RunProfile) => void this.#dispatches.push(...own.dispatches));
      const hand = (work: Work): Pending<Completion> => {
        const pending = submit(work);
        if (this.#isLast(stage, made)) submitted();
        return pending;
      };
      const request = { inputs, outputs: reads, keep, into, fill, signal, profile: record, submit: hand };
      const results = yield* executable.run(request);
      reads.forEach((i, k) => {
        made.set(stage.outputs[i], results[k]);
      });
      for (const [held, tensor] of made) this.#tensors.set(held, tensor);
      this.#taken = [];
    } finally {
      lease.release();
    }
  }

  /** Where each output of a stage is to go: nowhere if it is not listed. */
  #goals({ next, outputs }: Pick<Stage, 'next' | 'outputs'>): ReadonlyMap<Held, Wanted> {
    const goals = new Map<Held, Wanted>();
    if (next.kind === 'done') {
      for (const { name, held } of next.outputs) {
        const goal = this.#run.wanted.get(name);
        if (goal?.into !== undefined && (held === null || isList(held))) throw notOne(name, held);
        if (goal !== undefined) for (const leaf of leavesOf(held)) if (!goals.has(leaf)) goals.set(leaf, goal);
      }
      return goals;
    }
    for (const held of outputs) if (next.live.has(held)) goals.set(held, { place: 'device' });
    for (const held of next.demanded) goals.set(held, { place: 'cpu' });
    return goals;
  }

  /** Whether the outputs are where they are wanted when this stage is done; `made` is what it leaves on the device. */
  #isLast({ next }: Pick<Stage, 'next'>, made: ReadonlyMap<Held, Placed>): boolean {
    return (
      next.kind === 'done' &&
      next.outputs.every(({ name, held }) => {
        const goal = this.#run.wanted.get(name);
        if (goal === undefined) return true;
        return leavesOf(held).every((leaf) => {
          const tensor = made.get(leaf);
          if (goal.place === 'cpu') return leaf.kind === 'result' && tensor === undefined;
          return tensor !== undefined && (goal.into === undefined || sameMemory(tensor, goal.into));
        });
      })
    );
  }

  #staysUseful({ next }: Pick<Stage, 'next'>, held: Held): boolean {
    return next.kind === 'cut' && held.kind === 'input' && next.live.has(held);
  }

  #tensorOf(held: Held): Placed {
    if (held.kind === 'host') return held.data.load();
    const known = this.#tensors.get(held) ?? (held.kind === 'input' ? this.#run.inputs[held.name] : undefined);
    if (known === undefined) throw new Error(`${held.name} is not there`);
    return known;
  }

  /** On the host. */
  *#read(all: readonly Held[]): Steps<HostTensor[]> {
    const reads: HostRead[] = [];
    const tensors = all.map((held): HostTensor => {
      // An input that was uploaded is still on the host.
      const given = held.kind === 'input' ? this.#values[held.name] : undefined;
      const tensor = given ?? this.#tensorOf(held);
      if (!isOnDevice(tensor)) return tensor;
      return readInto(tensor, reads);
    });
    if (reads.length > 0) yield* outcome(this.#context.submit({ reads }));
    return tensors;
  }

  #forget(live: ReadonlySet<Held>): void {
    for (const [held, tensor] of this.#tensors) {
      if (live.has(held)) continue;
      if (isOnDevice(tensor)) tensor.resident.release();
      this.#tensors.delete(held);
    }
  }

  *#collect(all: readonly StageOutput[]): Steps<Map<string, Tree<Placed>>> {
    const { wanted } = this.#run;
    const reads: HostRead[] = [];
    const writes: HostWrite[] = [];
    const copies: Command[] = [];
    const outputs = new Map<string, Tree<Placed>>();
    for (const { name, held } of all) {
      const goal = wanted.get(name);
      if (goal === undefined) continue;
      if (goal.into !== undefined && (held === null || isList(held))) throw notOne(name, held);
      const place = (leaf: Held): Placed => {
        const tensor = this.#tensorOf(leaf);
        if (goal.into !== undefined) checkFits(name, tensor, goal.into);
        if (goal.place === 'device') return this.#onDevice(name, tensor, goal.into, writes, copies);
        if (isOnDevice(tensor)) return readInto(tensor, reads);
        // The caller may write into what it gets.
        return leaf.kind === 'result' ? tensor : ({ ...tensor, data: tensor.data.slice() } as HostTensor);
      };
      outputs.set(name, mapLeaves(held, place));
    }
    const { device, submit } = this.#context;
    if (copies.length > 0) {
      const list = yield* outcome(record(device, copies));
      try {
        yield* outcome(submit({ list }));
      } finally {
        list.release();
      }
    }
    if (reads.length + writes.length > 0) yield* outcome(submit({ reads, writes }));
    return outputs;
  }

  /** An output where the caller wants it on the device; most are there already. */
  #onDevice(
    name: string,
    tensor: Placed,
    into: OnDevice | undefined,
    writes: HostWrite[],
    copies: Command[],
  ): OnDevice {
    const { dtype, shape } = tensor;
    if (dtype === 'string') throw new TuttiError('E_INPUT', 'strings do not lie on a device', { subject: name });
    if (isOnDevice(tensor)) {
      if (into === undefined) return { ...tensor, resident: tensor.resident.hold() };
      const resident = into.resident.hold();
      if (into.resident.buffer !== tensor.resident.buffer) {
        copies.push({ kind: 'copy', from: words(tensor.resident.range()), to: words(resident.range()) });
      }
      return { dtype, shape, resident };
    }
    const data = wireBytes(tensor);
    const resident = into?.resident.hold() ?? this.#context.residents.take(data.byteLength);
    if (data.byteLength > 0) writes.push({ to: resident.range(), data });
    return { dtype, shape, resident };
  }
}

const sameMemory = (tensor: Placed, other: OnDevice): boolean =>
  isOnDevice(tensor) && tensor.resident.buffer === other.resident.buffer;

type Kind = Pick<HostTensor, 'dtype' | 'shape'>;

export const isLike = (a: Kind, b: Kind): boolean =>
  a.dtype === b.dtype && a.shape.length === b.shape.length && a.shape.every((dim, i) => dim === b.shape[i]);

/** @param name Of the output. */
function checkFits(name: string, found: Kind, into: Kind): void {
  if (isLike(found, into)) return;
  const text = ({ dtype, shape }: Kind): string => `${dtype}[${shape.join(', ')}]`;
  throw new TuttiError('E_INPUT', 'the tensor bound to an output is of another type', {
    subject: name,
    expected: text(found),
    found: text(into),
    remedy: 'Bind a tensor of the type and dims that are expected, or say where the output is to be: cpu or device.',
  });
}

const notOne = (name: string, held: null | readonly unknown[]): TuttiError =>
  new TuttiError('E_INPUT', 'a tensor is bound to an output that is not one tensor', {
    subject: name,
    found: held === null ? 'an optional that holds nothing' : `a list of ${held.length}`,
    remedy: 'Say where the output is to be: cpu or device.',
  });

/** A host tensor that the read will fill. */
export function readInto({ dtype, shape, resident }: OnDevice, reads: HostRead[]): HostTensor {
  if (dtype === 'string') throw new TuttiError('E_UNSUPPORTED', 'strings do not lie on a device');
  const bytes = bytesOf(dtype, sizeOf(shape));
  if (bytes === 0) return emptyTensor(dtype, shape);
  const into = resultMemory(bytes);
  reads.push({ from: { ...resident.range(), bytes }, into });
  return tensorFromBytes(dtype, shape, into);
}
