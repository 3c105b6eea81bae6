/**
 * Runs of a session, with promises or in the calling thread: what they are given is checked, they go through the stages
 * of the model, and what is under way is known.
 */
import type { Completion, Device, Queue, Work } from '../backends/backend.js';
import { TuttiError } from '../compiler/error.js';
import type { Lengths } from '../compiler/passes/containers.js';
import { mapLeaves, type Tree } from '../compiler/passes/mapped.js';
import type { HostTensor } from '../compiler/tensor.js';
import { abortError } from './abort.js';
import type { Feeds, RunOptions, Value } from './api.js';
import type { BoundRun } from './binding.js';
import { type ChainContext, isOnDevice, type Placed, runChain } from './chain.js';
import type { DeviceTensors } from './device_tensors.js';
import { type CheckedFeeds, checkFeeds } from './feeds.js';
import { Lane } from './lane.js';
import { wantedOutputs } from './outputs.js';
import { nextTurn } from './pace.js';
import type { Programs, Shapes } from './programs.js';
import type { Resident, Residents } from './residents.js';
import type { SessionModel } from './session_model.js';
import type { Lease } from './specialisations.js';
import type { StageTree, Step } from './stage_tree.js';
import { atOnce, outcome, type Pending, type Steps, whenDone } from './steps.js';
import { Tensor } from './tensor.js';

/** What a session lends to its runs. */
export interface Scene {
  readonly model: SessionModel;
  readonly device: Device;
  readonly programs: Programs;
  readonly residents: Residents;
  readonly tensors: DeviceTensors;
  outputNames(): readonly string[];
}

type Results = ReadonlyMap<string, Tree<Placed>>;

interface CheckedRun extends Omit<BoundRun, 'feeds'> {
  readonly checked: CheckedFeeds;
}

/** How a run gets at what is compiled, and at the device. */
interface Way extends Pick<ChainContext, 'submit' | 'turn' | 'submitted'> {
  tree(key: string, shapes: Shapes, lengths: Lengths): Pending<StageTree>;
  lease(step: Step, shapes: Shapes): Pending<Lease>;
}

interface ShortWay {
  readonly work: Work;
  /** Once the work is done. */
  outputs(): Record<string, Tensor>;
  release(): void;
}

const startOn = ({ queue }: Device, work: Parameters<Queue['submit']>[0]): Pending<Completion> =>
  queue.start === undefined ? queue.submit(work) : queue.start(work);

const notReady = (subject: string, message: string): TuttiError =>
  new TuttiError('E_NOT_READY', message, { subject, remedy: 'Await session.run with these inputs first.' });

export class Runs {
  /** Stages that were run, and tensors that the host has read in between. */
  readonly counts = { stages: 0, demanded: 0 };
  readonly #scene: Scene;
  /** Of the last run that has one. */
  #lane: Lane | undefined;
  /** Runs under way, those given up by their callers included. */
  readonly #active = new Set<Promise<unknown>>();
  /** How many of them have something left to submit. */
  #unsubmitted = 0;
  /** Rejects the runs under way, should the device be lost. */
  readonly #pending = new Set<(error: TuttiError) => void>();
  #lost: TuttiError | undefined;
  #ended = false;

  constructor(scene: Scene) {
    this.#scene = scene;
    // One reaction for the life of the session: one for each run would pile up on this promise.
    scene.device.lost.then(
      ({ reason }) => this.#lose(reason),
      () => undefined,
    );
  }

  get isLost(): boolean {
    return this.#lost !== undefined;
  }

  /** Later runs are refused; resolves when those under way are over. */
  async end(): Promise<void> {
    this.#ended = true;
    await Promise.allSettled(this.#active);
  }

  /** @throws TuttiError E_DEVICE_LOST, E_DEVICE_CLOSED */
  checkUsable(): void {
    if (this.#lost !== undefined) throw this.#lost;
    if (this.#ended)
      throw new TuttiError('E_DEVICE_CLOSED', 'the session is closed', { subject: this.#scene.model.name });
  }

  /** See `Session.run`. */
  async run(feeds: Feeds, options: RunOptions): Promise<Record<string, Value>> {
    const { start } = this.#scene.device.queue;
    const short = start && this.#shortWay(feeds, options);
    if (start === undefined || short === undefined) {
      const { run, wanted } = this.#prepare(feeds, options);
      return this.#named(wanted, await this.#start(run));
    }
    try {
      const pending = start(short.work);
      if (pending instanceof Promise) await this.#track(pending, undefined);
      return short.outputs();
    } finally {
      short.release();
    }
  }

  /** See `Session.runSync`. */
  runSync(feeds: Feeds, options: RunOptions): Record<string, Value> {
    const { submitSync } = this.#scene.device.queue;
    const short = submitSync && this.#shortWay(feeds, options);
    if (submitSync === undefined || short === undefined) {
      const { run, wanted } = this.#prepare(feeds, options);
      return this.#named(wanted, this.#runHere(run));
    }
    try {
      submitSync(short.work);
      return short.outputs();
    } finally {
      short.release();
    }
  }

  /** What gives each output as a tensor. */
  async runBound(bound: BoundRun): Promise<(name: string) => Value> {
    return this.#values(await this.#start(this.#check(bound)));
  }

  runBoundSync(bound: BoundRun): (name: string) => Value {
    return this.#values(this.#runHere(this.#check(bound)));
  }

  /** What to submit for a run that is like one before, if it is. */
  #shortWay(feeds: Feeds, { outputs, signal, profile }: RunOptions): ShortWay | undefined {
    const lane = this.#lane;
    if (lane === undefined || outputs !== undefined || signal !== undefined || profile !== undefined) return undefined;
    this.checkUsable();
    if (this.#unsubmitted > 0) return undefined;
    const inputs = lane.match(feeds);
    const lease = inputs && this.#scene.programs.leaseWhole(lane.program);
    if (lease === undefined) return undefined;
    const plain = lease.executable.plain(inputs as readonly HostTensor[]);
    if (plain === undefined) {
      lease.release();
      return undefined;
    }
    this.counts.stages++;
    const named = (): Record<string, Tensor> => {
      const tensors: Record<string, Tensor> = {};
      for (const [name, index] of lane.outputs) tensors[name] = Tensor.fromHost(plain.results[index]);
      return tensors;
    };
    return { work: plain.work, outputs: named, release: lease.release };
  }

  #prepare(feeds: Feeds, { outputs, signal, profile }: RunOptions): { run: CheckedRun; wanted: BoundRun['wanted'] } {
    const wanted = wantedOutputs(outputs, this.#scene.outputNames());
    return { run: this.#check({ feeds, wanted, signal, profile }), wanted };
  }

  #check(bound: BoundRun): CheckedRun {
    this.checkUsable();
    if (bound.signal?.aborted) throw abortError(bound.signal);
    const { model, device, programs } = this.#scene;
    const checked = checkFeeds(model, bound.feeds, device, (key) => programs.has(key));
    return { ...bound, checked };
  }

  /** With promises. Work that has nothing to wait for is submitted when this returns. */
  #start(run: CheckedRun): Promise<Results> {
    const { device, programs } = this.#scene;
    const { signal } = run;
    this.#unsubmitted++;
    let counted = true;
    const submitted = (): void => {
      if (counted) this.#unsubmitted--;
      counted = false;
    };
    const steps = this.#steps(run, {
      tree: (...shapes) => programs.tree(...shapes),
      lease: (step, shapes) => programs.lease(step, shapes),
      submit: (work) => startOn(device, signal === undefined ? work : { ...work, signal }),
      turn: nextTurn,
      submitted,
    });
    return this.#track(whenDone(steps).finally(submitted), signal);
  }

  /** In the calling thread. */
  #runHere(run: CheckedRun): Results {
    const { device, programs } = this.#scene;
    const { submitSync } = device.queue;
    if (submitSync === undefined) {
      throw new TuttiError('E_UNSUPPORTED', 'the device does not run in the calling thread', {
        subject: device.info.id,
        remedy: 'Use run, or the device cpu.',
      });
    }
    if (this.#unsubmitted > 0)
      throw notReady(this.#scene.model.name, 'a run that was started before is not submitted yet');
    const compiled = <T>(there: T | undefined): T => {
      if (there !== undefined) return there;
      throw notReady(this.#scene.model.name, 'not compiled yet for inputs of these shapes');
    };
    const steps = this.#steps(run, {
      tree: (key) => compiled(programs.knownTree(key)),
      lease: (step) => compiled(programs.leaseReady(step)),
      submit: submitSync,
      turn: () => undefined,
      submitted: () => undefined,
    });
    return atOnce(steps);
  }

  /** A run, whichever way the device is reached. */
  *#steps({ checked, wanted, signal, profile }: CheckedRun, way: Way): Steps<Results> {
    const { tensors, lengths, shapes, key } = checked;
    // What the caller disposes meanwhile is still needed.
    const held: Resident[] = [];
    for (const tensor of Object.values(tensors)) if (isOnDevice(tensor)) held.push(tensor.resident.hold());
    const context: ChainContext = {
      device: this.#scene.device,
      residents: this.#scene.residents,
      counts: this.counts,
      lease: (step) => way.lease(step, shapes),
      submit: way.submit,
      turn: way.turn,
      submitted: way.submitted,
      check: () => {
        if (signal?.aborted) throw abortError(signal);
        this.checkUsable();
      },
    };
    try {
      const stages = yield* outcome(way.tree(key, shapes, lengths));
      const results = yield* runChain(context, { tree: stages, inputs: tensors, wanted, signal, profile });
      if (stages.only !== undefined && this.#lane?.key !== key) {
        this.#lane = Lane.of(stages.only, checked, this.#scene.outputNames());
      }
      return results;
    } finally {
      for (const resident of held) resident.release();
    }
  }

  #named(wanted: BoundRun['wanted'], results: Results): Record<string, Value> {
    const value = this.#values(results);
    const named: Record<string, Value> = {};
    for (const name of wanted.keys()) named[name] = value(name);
    return named;
  }

  #values(results: Results): (name: string) => Value {
    return (name) => this.#valueOf(results.get(name) ?? null);
  }

  #valueOf(result: Tree<Placed>): Value {
    return mapLeaves(result, (placed) =>
      isOnDevice(placed) ? this.#scene.tensors.wrap(placed) : Tensor.fromHost(placed),
    );
  }

  /** Counts the work as under way; it fails at once when the device is lost or the signal fires. */
  #track<T>(work: Promise<T>, signal: AbortSignal | undefined): Promise<T> {
    this.#active.add(work);
    const done = (): void => void this.#active.delete(work);
    work.then(done, done);
    return this.#untilLostOrAborted(work, signal);
  }

  #lose(reason: string): void {
    this.#lost = new TuttiError('E_DEVICE_LOST', 'the device was lost', {
      subject: this.#scene.device.info.id,
      found: reason,
      remedy: 'Create the session anew; if it happens again, look at the driver and the power of the device.',
    });
    for (const reject of this.#pending) reject(this.#lost);
    this.#pending.clear();
  }

  /** Settles as `work` does, or rejects as soon as the device is lost or the signal fires. */
  #untilLostOrAborted<T>(work: Promise<T>, signal: AbortSignal | undefined): Promise<T> {
    return new Promise((resolve, reject) => {
      const onAbort = (): void => finish(() => reject(abortError(signal as AbortSignal)));
      const onLost = (error: TuttiError): void => finish(() => reject(error));
      const finish = (settle: () => void): void => {
        this.#pending.delete(onLost);
        signal?.removeEventListener('abort', onAbort);
        settle();
      };
      this.#pending.add(onLost);
      signal?.addEventListener('abort', onAbort, { once: true });
      work.then(
        (value) => finish(() => resolve(value)),
        (error) => finish(() => reject(signal?.aborted ? abortError(signal) : (this.#lost ?? error))),
      );
    });
  }
}
