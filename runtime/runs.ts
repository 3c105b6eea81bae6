/**
 * Runs of a session, with promises or in the calling thread: what they are given is checked, they go through the stages
 * of the model, and what is under way is known.
 */
import type { Completion, Device, Queue } from '../backends/backend.js';
import { TuttiError } from '../compiler/error.js';
import type { Lengths } from '../compiler/passes/containers.js';
import { mapLeaves, type Tree } from '../compiler/passes/mapped.js';
import { bytesOfTensor, type HostTensor } from '../compiler/tensor.js';
import { abortError } from './abort.js';
import type { Feeds, RunOptions, Value } from './api.js';
import { type ChainContext, isOnDevice, type Placed, runChain } from './chain.js';
import { type CheckedFeeds, checkFeeds } from './feeds.js';
import { Lane, type LaneScene, type ShortRun } from './lane.js';
import { areApart, OutputPlaces, type WantedOutputs } from './outputs.js';
import { nextTurn } from './pace.js';
import type { Shapes } from './programs.js';
import type { Resident } from './residents.js';
import type { SessionModel } from './session_model.js';
import type { Lease } from './specialisations.js';
import type { StageTree, Step } from './stage_tree.js';
import { atOnce, outcome, type Pending, type Steps, whenDone } from './steps.js';
import { Tensor } from './tensor.js';

/** What a session lends to its runs. */
export interface Scene extends LaneScene {
  readonly model: SessionModel;
  outputNames(): readonly string[];
}

/** Runs of one kind have a lane of their own: that of the last one which has any. */
interface RunKind {
  lane?: Lane;
}

/** Runs to outputs that are fixed. */
export interface BoundKind extends RunKind {
  readonly wanted: WantedOutputs;
}

type Results = ReadonlyMap<string, Tree<Placed>>;

interface CheckedRun extends Pick<RunOptions, 'signal' | 'profile'> {
  readonly checked: CheckedFeeds;
  readonly wanted: WantedOutputs;
  /** Host tensors that outputs go to may be written at any time. */
  readonly direct: boolean;
}

/** How a run gets at what is compiled, and at the device. */
interface Way extends Pick<ChainContext, 'submit' | 'turn' | 'submitted'> {
  tree(key: string, shapes: Shapes, lengths: Lengths): Pending<StageTree>;
  lease(step: Step, shapes: Shapes): Pending<Lease>;
}

const startOn = ({ queue }: Device, work: Parameters<Queue['submit']>[0]): Pending<Completion> =>
  queue.start === undefined ? queue.submit(work) : queue.start(work);

const notReady = (subject: string, message: string): TuttiError =>
  new TuttiError('E_NOT_READY', message, { subject, remedy: 'Await session.run with these inputs first.' });

export class Runs {
  /** Stages that were run, and tensors that the host has read in between. */
  readonly counts = { stages: 0, demanded: 0 };
  readonly #scene: Scene;
  readonly #places: OutputPlaces;
  readonly #unbound: RunKind = {};
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
    this.#places = new OutputPlaces(scene.device, scene.outputNames);
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

  /** For runs to these outputs, over and over. @throws TuttiError E_INPUT */
  bind(outputs: RunOptions['outputs']): BoundKind {
    return { wanted: this.#places.wanted(outputs) };
  }

  /** See `Session.run`. */
  async run(feeds: Feeds, options: RunOptions, bound?: BoundKind): Promise<Record<string, Value>> {
    const { start } = this.#scene.device.queue;
    const wanted = bound?.wanted ?? this.#places.wanted(options.outputs);
    const short = start && this.#shortRun(feeds, wanted, options, bound);
    if (start === undefined || short === undefined) {
      const run = this.#check(feeds, wanted, options);
      return this.#named(wanted, await this.#start(run, bound));
    }
    try {
      const pending = start(short.work);
      if (pending instanceof Promise) {
        short.hold();
        await this.#track(pending, undefined);
      }
      return short.outputs();
    } finally {
      short.release();
    }
  }

  /** See `Session.runSync`. */
  runSync(feeds: Feeds, options: RunOptions, bound?: BoundKind): Record<string, Value> {
    const { submitSync } = this.#scene.device.queue;
    const wanted = bound?.wanted ?? this.#places.wanted(options.outputs);
    const short = submitSync && this.#shortRun(feeds, wanted, options, bound);
    if (submitSync === undefined || short === undefined) {
      const run = this.#check(feeds, wanted, options);
      return this.#named(wanted, this.#runHere(run, bound));
    }
    try {
      submitSync(short.work);
      return short.outputs();
    } finally {
      short.release();
    }
  }

  /** A run that is like one before, if it is. */
  #shortRun(
    feeds: Feeds,
    wanted: WantedOutputs,
    { signal, profile }: RunOptions,
    { lane }: RunKind = this.#unbound,
  ): ShortRun | undefined {
    if (lane === undefined || signal !== undefined || profile !== undefined) return undefined;
    this.checkUsable();
    if (this.#unsubmitted > 0) return undefined;
    const run = lane.enter(this.#scene, feeds, wanted);
    if (run !== undefined) this.counts.stages++;
    return run;
  }

  #check(feeds: Feeds, wanted: WantedOutputs, { signal, profile }: RunOptions): CheckedRun {
    this.checkUsable();
    if (signal?.aborted) throw abortError(signal);
    const { model, device, programs } = this.#scene;
    const checked = checkFeeds(model, feeds, device, (key) => programs.has(key));
    // What was given up may still write when nobody knows any more.
    const direct = signal === undefined && areApart(wanted, Object.values(checked.tensors));
    return { checked, wanted, direct, signal, profile };
  }

  /** With promises. Work that has nothing to wait for is submitted when this returns. */
  #start(run: CheckedRun, kind?: RunKind): Promise<Results> {
    const { device, programs } = this.#scene;
    const { signal } = run;
    this.#unsubmitted++;
    let counted = true;
    const submitted = (): void => {
      if (counted) this.#unsubmitted--;
      counted = false;
    };
    const steps = this.#steps(run, kind, {
      tree: (...shapes) => programs.tree(...shapes),
      lease: (step, shapes) => programs.lease(step, shapes),
      submit: (work) => startOn(device, signal === undefined ? work : { ...work, signal }),
      turn: nextTurn,
      submitted,
    });
    return this.#track(whenDone(steps).finally(submitted), signal);
  }

  /** In the calling thread. */
  #runHere(run: CheckedRun, kind?: RunKind): Results {
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
    const steps = this.#steps(run, kind, {
      tree: (key) => compiled(programs.knownTree(key)),
      lease: (step) => compiled(programs.leaseReady(step)),
      submit: submitSync,
      turn: () => undefined,
      submitted: () => undefined,
    });
    return atOnce(steps);
  }

  /** A run, whichever way the device is reached. */
  *#steps(run: CheckedRun, kind: RunKind = this.#unbound, way: Way): Steps<Results> {
    const { checked, wanted, direct, signal, profile } = run;
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
      const results = yield* runChain(context, { tree: stages, inputs: tensors, wanted, direct, signal, profile });
      if (stages.only !== undefined && !(kind.lane?.key === key && kind.lane.gives(wanted))) {
        kind.lane = Lane.of(stages.only, checked, wanted);
      }
      return results;
    } finally {
      for (const resident of held) resident.release();
    }
  }

  #named(wanted: WantedOutputs, results: Results): Record<string, Value> {
    const named: Record<string, Value> = {};
    for (const [name, goal] of wanted) {
      const result = results.get(name) ?? null;
      const { tensor, into } = goal;
      if (tensor === undefined || into === undefined) named[name] = this.#valueOf(result, wanted);
      else {
        // What was bound is one tensor, and of the same type.
        deliver(result as Placed, into);
        named[name] = tensor;
      }
    }
    return named;
  }

  #valueOf(result: Tree<Placed>, wanted: WantedOutputs): Value {
    return mapLeaves(result, (placed) => {
      if (isOnDevice(placed)) return this.#scene.tensors.wrap(placed);
      // An output may be the same tensor as one that went to memory of the caller's.
      const taken = [...wanted.values()].some(({ place, into }) => place === 'cpu' && into?.data === placed.data);
      return Tensor.fromHost(taken ? ({ ...placed, data: placed.data.slice() } as HostTensor) : placed);
    });
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

/** Sees to it that the result is where it was wanted. */
function deliver(result: Placed, into: Placed): void {
  // The caller has the tensor already: this share in its memory is one too many.
  if (isOnDevice(result)) result.resident.release();
  else if (!isOnDevice(into) && result.data !== into.data) bytesOfTensor(into).set(bytesOfTensor(result));
}
