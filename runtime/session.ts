/** Sessions: a model on a device, ready to run at any shapes that the model allows. */
import type { Completion, Device, DeviceInfo, Queue, Work } from '../backends/backend.js';
import { type CreateHasher, createSha256 } from '../compiler/artifact/sha256.js';
import type { Numerics } from '../compiler/compile.js';
import { TuttiError } from '../compiler/error.js';
import type { Graph } from '../compiler/graph/types.js';
import type { Lengths } from '../compiler/passes/containers.js';
import { mapLeaves, type Tree } from '../compiler/passes/mapped.js';
import type { HostTensor } from '../compiler/tensor.js';
import { abortError } from './abort.js';
import type {
  BindingOptions,
  Feeds,
  ModelSource,
  RunOptions,
  SessionMemory,
  SessionOptions,
  SessionReport,
  Value,
  ValueInfo,
} from './api.js';
import { Binding, type BoundRun } from './binding.js';
import { Builder, compiler, type Job } from './builder.js';
import { type ChainContext, isOnDevice, type Placed, runChain } from './chain.js';
import { type DeviceHandle, openDevice } from './device.js';
import { DeviceTensors } from './device_tensors.js';
import { isNode } from './environment.js';
import type { Executable } from './executable.js';
import { type CheckedFeeds, checkFeeds, keyOf } from './feeds.js';
import { Lane } from './lane.js';
import { wantedOutputs } from './outputs.js';
import { nextTurn } from './pace.js';
import type { ProgramKey } from './program_cache.js';
import { type Resident, Residents } from './residents.js';
import { checkNumerics, SessionModel } from './session_model.js';
import { type Lease, Specialisations } from './specialisations.js';
import { StageKeys } from './stage_keys.js';
import { StageTree, type Step, type TreeStage, wholeStage } from './stage_tree.js';
import { atOnce, outcome, type Pending, type Steps, whenDone } from './steps.js';
import { openModel } from './stored_model.js';
import { Tensor, type TensorData, type TensorType, typeOfDType } from './tensor.js';

const defaultCacheSize = 8;

/** Executables of stages that are kept for each specialisation. */
const stagesPerSpecialisation = 16;

type Shapes = Readonly<Record<string, readonly number[]>>;
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

export class Session {
  /** With the shapes and sizes that the session fixes. */
  readonly model: SessionModel;
  readonly numerics: Numerics;
  readonly #handle: DeviceHandle;
  readonly #builder: Builder;
  readonly #residents: Residents;
  readonly #deviceTensors: DeviceTensors;
  readonly #keys: StageKeys;
  /** Operators of the model wait for shapes or data. */
  readonly #waits: boolean;
  /** Inputs are sequences or optionals. */
  readonly #holds: boolean;
  /** By shapes, least recently used first. */
  readonly #trees = new Map<string, StageTree>();
  readonly #cacheSize: number;
  /** Of the last run that has one. */
  #lane: Lane | undefined;
  /** Executables of whole models, and of stages of models that are run in several. */
  readonly #wholes: Specialisations;
  readonly #parts: Specialisations;
  readonly #counts = { stages: 0, demanded: 0 };
  #outputs: readonly ValueInfo[];
  /** Runs under way, those given up by their callers included. */
  readonly #active = new Set<Promise<unknown>>();
  /** How many of them have something left to submit. */
  #unsubmitted = 0;
  /** Rejects the runs under way, should the device be lost. */
  readonly #pending = new Set<(error: TuttiError) => void>();
  #lost: TuttiError | undefined;
  #closed: Promise<void> | undefined;

  private constructor(
    model: SessionModel,
    numerics: Numerics,
    handle: DeviceHandle,
    options: SessionOptions,
    createHasher: CreateHasher,
    tuned: ReadonlyMap<string, string>,
  ) {
    this.model = model;
    this.numerics = numerics;
    this.#outputs = model.outputs;
    this.#handle = handle;
    const makeRoom = async (): Promise<boolean> => {
      const freed = await Promise.all([this.#wholes.evictIdle(), this.#parts.evictIdle()]);
      return this.#residents.trim() || freed.includes(true);
    };
    const dump = options.dump ?? model.dump;
    this.#builder = new Builder(model.name, numerics, handle, dump, createHasher, makeRoom, tuned);
    this.#residents = new Residents(handle.device, (id) => {
      for (const executable of this.#executables()) executable.forget(id);
    });
    this.#deviceTensors = new DeviceTensors(handle.device, this.#residents);
    this.#keys = new StageKeys(createHasher);
    this.#holds = model.inputs.some(({ container }) => container !== undefined);
    this.#waits = model.waits;
    this.#cacheSize = options.cacheSize ?? defaultCacheSize;
    this.#wholes = new Specialisations(this.#cacheSize);
    this.#parts = new Specialisations(this.#cacheSize * stagesPerSpecialisation);
    // One reaction for the life of the session: one for each run would pile up on this promise.
    handle.device.lost.then(
      ({ reason }) => this.#lose(reason),
      () => undefined,
    );
  }

  /**
   * Opens a device and, where all shapes are known, compiles for it at once; otherwise the first run with new shapes
   * does.
   * @throws TuttiError E_DEVICE_UNKNOWN, E_DEVICE, E_INPUT, E_SHAPE, E_UNSUPPORTED, E_OUT_OF_MEMORY, E_KERNEL, and
   * those of `compile` if a path, bytes or a graph is given
   */
  static async create(source: SessionModel | ModelSource, options: SessionOptions = {}): Promise<Session> {
    const { cacheSize = defaultCacheSize } = options;
    if (!Number.isInteger(cacheSize) || cacheSize < 1) {
      throw new TuttiError('E_USAGE', 'bad size of the cache of specialisations', {
        subject: 'cacheSize',
        expected: 'an integer from 1',
        found: String(cacheSize),
      });
    }
    if (options.numerics !== undefined) checkNumerics(options.numerics);
    const base = source instanceof SessionModel ? source : await openModel(source, options);
    const numerics = options.numerics ?? base.numerics;
    const model = base.with({ numerics, shapes: options.shapes, dims: options.dims });
    const handle = await openDevice(options.device);
    const hasher = isNode() ? (await import('./node.js')).createHasher : createSha256;
    let session: Session;
    try {
      session = new Session(model, numerics, handle, options, hasher, await tunedOn(handle, options.tuning));
    } catch (error) {
      await handle.release();
      throw error;
    }
    try {
      const shapes = model.staticShapes();
      if (shapes !== undefined) await session.#specialise(shapes);
    } catch (error) {
      await session.close();
      throw error;
    }
    return session;
  }

  get device(): DeviceInfo {
    return this.#handle.device.info;
  }

  get inputs(): readonly ValueInfo[] {
    return this.model.inputs;
  }

  /** As the plan has them, where all shapes are known: types that the model leaves open are decided then. */
  get outputs(): readonly ValueInfo[] {
    return this.#outputs;
  }

  get inputNames(): readonly string[] {
    return this.inputs.map(({ name }) => name);
  }

  get outputNames(): readonly string[] {
    return this.outputs.map(({ name }) => name);
  }

  /**
   * Runs the model once. Typed arrays are read in place: they must not change before the promise settles. Runs may
   * overlap; those of one shape execute in the order of their calls. Tensors on the device go in without a copy to the
   * host, and come out so where `outputs` says. Outputs that are sequences or optionals are lists or null: say so in `V`.
   * @throws TuttiError E_INPUT, E_ABORTED, E_DEVICE_LOST, E_DEVICE_CLOSED, and at new shapes those of `create`
   */
  async run<V extends Value = Tensor>(feeds: Feeds, options: RunOptions = {}): Promise<Record<string, V>> {
    const { start } = this.#handle.device.queue;
    const short = start && this.#shortWay(feeds, options);
    if (start !== undefined && short !== undefined) {
      try {
        const pending = start(short.work);
        if (pending instanceof Promise) await this.#track(pending, undefined);
        return short.outputs() as Record<string, V>;
      } finally {
        short.release();
      }
    }
    const { run, wanted } = this.#prepare(feeds, options);
    return this.#named<V>(wanted, await this.#start(run));
  }

  /**
   * The same in the calling thread, without promises: for models that are run sooner than a promise is kept. Only on
   * devices that run there (`cpu`), and only what is compiled already: for static shapes by `create`, for others by the
   * first `run`. It comes after runs that were started before, and waits for those; it refuses with E_NOT_READY where one
   * of them has something left to submit, which takes the event loop.
   * @throws TuttiError E_INPUT, E_ABORTED (a signal that has fired already), E_DEVICE_CLOSED; E_UNSUPPORTED on a device
   * that cannot; E_NOT_READY where `run` has to be awaited first
   */
  runSync<V extends Value = Tensor>(feeds: Feeds, options: RunOptions = {}): Record<string, V> {
    const { submitSync } = this.#handle.device.queue;
    const short = submitSync && this.#shortWay(feeds, options);
    if (submitSync !== undefined && short !== undefined) {
      try {
        submitSync(short.work);
        return short.outputs() as Record<string, V>;
      } finally {
        short.release();
      }
    }
    const { run, wanted } = this.#prepare(feeds, options);
    return this.#named<V>(wanted, this.#runHere(run));
  }

  /**
   * Fixes inputs and outputs on the device once, for many runs: nothing is checked, copied to or from the host, or
   * allocated in between. Tensors may be bound as input and output at once: a state is then updated in place.
   * @throws TuttiError E_INPUT
   */
  async bind(options: BindingOptions): Promise<Binding> {
    this.#checkUsable();
    return Binding.create(options, {
      inputs: this.inputs,
      outputNames: this.outputNames,
      tensors: this.#deviceTensors,
      run: async (bound) => this.#values(await this.#start(this.#check(bound))),
      runSync: (bound) => this.#values(this.#runHere(this.#check(bound))),
    });
  }

  /**
   * A tensor in the device's memory, with the data given or zeros. It is the caller's to dispose.
   * @throws TuttiError E_INPUT, E_OUT_OF_MEMORY
   */
  async tensor(type: TensorType, dims: readonly number[], data?: TensorData): Promise<Tensor> {
    this.#checkUsable();
    return this.#deviceTensors.create(type, dims, data);
  }

  /** What to submit for a run that is like one before, if it is. */
  #shortWay(feeds: Feeds, { outputs, signal, profile }: RunOptions): ShortWay | undefined {
    const lane = this.#lane;
    if (lane === undefined || outputs !== undefined || signal !== undefined || profile !== undefined) return undefined;
    this.#checkUsable();
    if (this.#unsubmitted > 0) return undefined;
    const inputs = lane.match(feeds);
    const lease = inputs && this.#wholes.leaseReady(lane.program);
    if (lease === undefined) return undefined;
    const plain = lease.executable.plain(inputs as readonly HostTensor[]);
    if (plain === undefined) {
      lease.release();
      return undefined;
    }
    this.#counts.stages++;
    const named = (): Record<string, Tensor> => {
      const tensors: Record<string, Tensor> = {};
      for (const [name, index] of lane.outputs) tensors[name] = Tensor.fromHost(plain.results[index]);
      return tensors;
    };
    return { work: plain.work, outputs: named, release: lease.release };
  }

  #prepare(feeds: Feeds, { outputs, signal, profile }: RunOptions): { run: CheckedRun; wanted: BoundRun['wanted'] } {
    const wanted = wantedOutputs(outputs, this.outputNames);
    return { run: this.#check({ feeds, wanted, signal, profile }), wanted };
  }

  #check(bound: BoundRun): CheckedRun {
    this.#checkUsable();
    if (bound.signal?.aborted) throw abortError(bound.signal);
    const checked = checkFeeds(this.model, bound.feeds, this.#handle.device, (key) => this.#trees.has(key));
    return { ...bound, checked };
  }

  /** With promises. Work that has nothing to wait for is submitted when this returns. */
  #start(run: CheckedRun): Promise<Results> {
    const { device } = this.#handle;
    const { signal } = run;
    this.#unsubmitted++;
    let counted = true;
    const submitted = (): void => {
      if (counted) this.#unsubmitted--;
      counted = false;
    };
    const steps = this.#steps(run, {
      tree: (...shapes) => this.#tree(...shapes),
      lease: (step, shapes) => this.#lease(step, shapes),
      submit: (work) => startOn(device, signal === undefined ? work : { ...work, signal }),
      turn: nextTurn,
      submitted,
    });
    return this.#track(whenDone(steps).finally(submitted), signal);
  }

  /** In the calling thread. */
  #runHere(run: CheckedRun): Results {
    const { queue } = this.#handle.device;
    const { submitSync } = queue;
    if (submitSync === undefined) {
      throw new TuttiError('E_UNSUPPORTED', 'the device does not run in the calling thread', {
        subject: this.device.id,
        remedy: 'Use run, or the device cpu.',
      });
    }
    if (this.#unsubmitted > 0) throw notReady(this.model.name, 'a run that was started before is not submitted yet');
    const compiled = <T>(there: T | undefined): T => {
      if (there !== undefined) return there;
      throw notReady(this.model.name, 'not compiled yet for inputs of these shapes');
    };
    const steps = this.#steps(run, {
      tree: (key) => compiled(this.#knownTree(key)),
      lease: (step) => compiled(this.#cacheOf(step).leaseReady(step.key)),
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
      device: this.#handle.device,
      residents: this.#residents,
      counts: this.#counts,
      lease: (step) => way.lease(step, shapes),
      submit: way.submit,
      turn: way.turn,
      submitted: way.submitted,
      check: () => {
        if (signal?.aborted) throw abortError(signal);
        this.#checkUsable();
      },
    };
    try {
      const stages = yield* outcome(way.tree(key, shapes, lengths));
      const results = yield* runChain(context, { tree: stages, inputs: tensors, wanted, signal, profile });
      if (stages.only !== undefined && this.#lane?.key !== key) {
        this.#lane = Lane.of(stages.only, checked, this.outputNames);
      }
      return results;
    } finally {
      for (const resident of held) resident.release();
    }
  }

  #named<V extends Value>(wanted: BoundRun['wanted'], results: Results): Record<string, V> {
    const value = this.#values(results);
    const named: Record<string, Value> = {};
    for (const name of wanted.keys()) named[name] = value(name);
    return named as Record<string, V>;
  }

  #values(results: Results): (name: string) => Value {
    return (name) => this.#valueOf(results.get(name) ?? null);
  }

  #valueOf(result: Tree<Placed>): Value {
    return mapLeaves(result, (placed) =>
      isOnDevice(placed) ? this.#deviceTensors.wrap(placed) : Tensor.fromHost(placed),
    );
  }

  #executables(): readonly Executable[] {
    return [...this.#wholes.ready, ...this.#parts.ready];
  }

  /** What was compiled, and how long it took. */
  report(): SessionReport {
    const executables = this.#executables();
    return {
      model: this.model.name,
      device: this.device,
      numerics: this.numerics,
      specialisations: executables.flatMap((executable) => this.#builder.reportOf(executable)),
      stages: { run: this.#counts.stages, planned: executables.length, valuesRead: this.#counts.demanded },
    };
  }

  get memory(): SessionMemory {
    const { allocatedBytes, totalBytes } = this.#handle.device.memory();
    const executables = this.#executables();
    return {
      constantBytes: this.#builder.constantBytes,
      arenaBytes: executables.reduce((total, { arenaBytes }) => total + arenaBytes, 0),
      residentBytes: this.#residents.bytes,
      deviceBytes: allocatedBytes,
      deviceTotalBytes: totalBytes,
    };
  }

  /**
   * Waits for runs under way, then gives everything back. Later runs reject with E_DEVICE_CLOSED, and so does a run that
   * is between two stages: a loop whose condition never fails would not end otherwise.
   */
  close(): Promise<void> {
    this.#closed ??= (async () => {
      try {
        // A device that is lost never finishes what it has begun, and has nothing to give back.
        const lost = this.#handle.device.lost.catch(() => undefined);
        await Promise.race([lost, Promise.allSettled(this.#active)]);
        const closing = Promise.all([this.#wholes.close(), this.#parts.close()]);
        await Promise.race([
          lost,
          closing.catch((error) => {
            if (this.#lost === undefined) throw error;
          }),
        ]);
        if (this.#lost === undefined) this.#residents.close();
      } finally {
        await this.#builder.settled();
        await this.#handle.release();
      }
    })();
    return this.#closed;
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close();
  }

  // --- compiling -------------------------------------------------------------------------------------------------

  async #specialise(shapes: Shapes): Promise<void> {
    const key = keyOf(this.model, shapes);
    const step = (await this.#tree(key, shapes)).first({});
    if (!step.whole) {
      // Where data decides, there is nothing to compile before there are inputs to look at.
      this.#trees.delete(key);
      return;
    }
    const lease = await this.#lease(step, shapes);
    this.#outputs = lease.executable.plan.outputs.map(
      ({ name, dtype, shape }): ValueInfo => ({ name, type: typeOfDType(dtype), dtype, shape }),
    );
    lease.release();
  }

  #knownTree(key: string): StageTree | undefined {
    const known = this.#trees.get(key);
    if (known !== undefined) {
      this.#trees.delete(key);
      this.#trees.set(key, known);
    }
    return known;
  }

  /** The stages of the model at these shapes. */
  #tree(key: string, given: Shapes, lengths: Lengths = {}): Pending<StageTree> {
    return this.#knownTree(key) ?? this.#makeTree(key, given, lengths);
  }

  async #makeTree(key: string, given: Shapes, lengths: Lengths): Promise<StageTree> {
    const { signature, sizes } = this.model;
    const shapes = { ...this.model.shapes, ...given };
    let build: (values: Readonly<Record<string, HostTensor>>) => TreeStage;
    if (this.#waits && !this.#isStored(given)) {
      const [{ stageOf }, graph] = await Promise.all([compiler(), this.model.load()]);
      build = (values) => stageOf(graph, { shapes, lengths, dims: sizes, values });
    } else {
      const stage = wholeStage(signature);
      build = () => stage;
    }
    const tree = new StageTree(build, ({ graph }) => (graph === undefined ? key : this.#keys.of(graph)));
    for (const old of this.#trees.keys()) {
      if (this.#trees.size < this.#cacheSize) break;
      this.#trees.delete(old);
    }
    this.#trees.set(key, tree);
    return tree;
  }

  #cacheOf({ whole }: Step): Specialisations {
    return whole ? this.#wholes : this.#parts;
  }

  #lease(step: Step, shapes: Shapes): Pending<Lease> {
    const { stage, key, whole } = step;
    const stored = (): void => void this.#describe();
    return this.#cacheOf(step).lease(key, async () => {
      // What was decided by data is another program next time.
      const identity = whole && stage.looked.size === 0 ? this.#identityOf(shapes) : undefined;
      return this.#builder.build({ ...this.#jobOf(stage.graph, shapes), identity, stored, apart: !whole });
    });
  }

  /** What to plan: the graph of a stage, or the model's own at these shapes. */
  #jobOf(stage: Graph | undefined, shapes: Shapes): Pick<Job, 'graph' | 'bindings' | 'shapes'> {
    if (stage !== undefined) return { graph: async () => stage, shapes };
    const bindings = { shapes: { ...this.model.shapes, ...shapes }, dims: this.model.sizes };
    return { graph: () => this.model.load(), bindings, shapes };
  }

  /** All that the program for these shapes follows from, but for the device and numerics. */
  #identityOf(shapes: Shapes): ProgramKey | undefined {
    const { origin, signature, sizes } = this.model;
    if (origin === undefined || this.#holds) return undefined;
    const dims = new Map([...signature.dims].map(([name, { min, max }]) => [name, [min, max]]));
    return { model: origin.digest(), bounds: dims, shapes: { ...this.model.shapes, ...shapes }, sizes };
  }

  #isStored(shapes: Shapes): boolean {
    const identity = this.#identityOf(shapes);
    return identity !== undefined && this.#builder.knows(identity);
  }

  /** Notes what the model is, so that the next process need not read it. */
  async #describe(): Promise<void> {
    const { origin, signature, nodes, weightsBytes, waits } = this.model;
    if (origin?.file === undefined) return;
    const { descriptions } = await import('./node.js');
    const digest = origin.digest();
    const { stated } = origin.file;
    descriptions().store(origin.file, { signature, nodes, weightsBytes, waits, digest, stated });
  }

  // --- running ---------------------------------------------------------------------------------------------------

  /** Counts the work as under way; it fails at once when the device is lost or the signal fires. */
  #track<T>(work: Promise<T>, signal: AbortSignal | undefined): Promise<T> {
    this.#active.add(work);
    const done = (): void => void this.#active.delete(work);
    work.then(done, done);
    return this.#untilLostOrAborted(work, signal);
  }

  #checkUsable(): void {
    if (this.#lost !== undefined) throw this.#lost;
    if (this.#closed !== undefined) {
      throw new TuttiError('E_DEVICE_CLOSED', 'the session is closed', { subject: this.model.name });
    }
  }

  #lose(reason: string): void {
    this.#lost = new TuttiError('E_DEVICE_LOST', 'the device was lost', {
      subject: this.device.id,
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

/** Measured forms for a device: from the file given, else from the cache's if the device keeps anything there. */
async function tunedOn(
  { device, programs }: DeviceHandle,
  file: SessionOptions['tuning'],
): Promise<ReadonlyMap<string, string>> {
  if (!isNode() || file === false || (file === undefined && programs === undefined)) return new Map();
  const [{ readTuning }, { chosenOn }] = await Promise.all([import('./node.js'), import('./tuning.js')]);
  return chosenOn(readTuning(file), device.info);
}
