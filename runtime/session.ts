/** Sessions: a model on a device, ready to run at any shapes that the model allows. */
import type { DeviceInfo } from '../backends/backend.js';
import { type CreateHasher, createSha256 } from '../compiler/artifact/index.js';
import type { Numerics } from '../compiler/compile.js';
import { TuttiError } from '../compiler/error.js';
import type { HostTensor } from '../compiler/tensor.js';
import type {
  Feeds,
  ModelSource,
  RunOptions,
  SessionMemory,
  SessionOptions,
  SessionReport,
  SpecialisationReport,
  ValueInfo,
} from './api.js';
import { ConstantStore } from './constants.js';
import { type DeviceHandle, openDevice } from './device.js';
import { isNode, log } from './environment.js';
import { Executable, Renderer } from './executable.js';
import { type CheckedFeeds, checkFeeds, keyOf } from './feeds.js';
import { checkNumerics, compile, Model } from './model.js';
import { nextTurn, Pace } from './pace.js';
import { Specialisations } from './specialisations.js';
import { Tensor, typeOfDType } from './tensor.js';

const defaultCacheSize = 8;

/** The compiler, loaded when there is something to compile: listing devices must not wait for it. */
let planner: Promise<typeof import('../compiler/compile.js')> | undefined;

export class Session {
  /** With the shapes and sizes that the session fixes. */
  readonly model: Model;
  readonly numerics: Numerics;
  readonly #handle: DeviceHandle;
  readonly #dump: SessionOptions['dump'];
  readonly #constants: ConstantStore;
  readonly #renderer: Renderer;
  /** Operators of the model wait for shapes or parameters. */
  readonly #waits: boolean;
  readonly #parameterNames = new Map<string, ReadonlySet<string>>();
  readonly #specialisations: Specialisations;
  readonly #reports = new WeakMap<Executable, SpecialisationReport>();
  #outputs: readonly ValueInfo[];
  /** Runs under way, those given up by their callers included. */
  readonly #active = new Set<Promise<unknown>>();
  /** Rejects the runs under way, should the device be lost. */
  readonly #pending = new Set<(error: TuttiError) => void>();
  #lost: TuttiError | undefined;
  #closed: Promise<void> | undefined;

  private constructor(
    model: Model,
    numerics: Numerics,
    handle: DeviceHandle,
    options: SessionOptions,
    createHasher: CreateHasher,
  ) {
    this.model = model;
    this.numerics = numerics;
    this.#outputs = model.outputs;
    this.#handle = handle;
    this.#dump = options.dump ?? model.dump;
    this.#constants = new ConstantStore(handle.device, createHasher);
    this.#renderer = new Renderer(handle.backend);
    this.#waits = model.graph.nodes.some((node) => node.op === 'source_op');
    this.#specialisations = new Specialisations(options.cacheSize ?? defaultCacheSize);
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
  static async create(source: Model | ModelSource, options: SessionOptions = {}): Promise<Session> {
    const { cacheSize = defaultCacheSize } = options;
    if (!Number.isInteger(cacheSize) || cacheSize < 1) {
      throw new TuttiError('E_USAGE', 'bad size of the cache of specialisations', {
        subject: 'cacheSize',
        expected: 'an integer from 1',
        found: String(cacheSize),
      });
    }
    if (options.numerics !== undefined) checkNumerics(options.numerics);
    const base = source instanceof Model ? source : await compile(source, options);
    const numerics = options.numerics ?? base.numerics;
    const model = base.with({ numerics, shapes: options.shapes, dims: options.dims });
    const handle = await openDevice(options.device);
    const createHasher = isNode() ? (await import('./node.js')).createHasher : createSha256;
    const session = new Session(model, numerics, handle, options, createHasher);
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
   * overlap; those of one shape execute in the order of their calls.
   * @throws TuttiError E_INPUT, E_ABORTED, E_DEVICE_LOST, E_DEVICE_CLOSED, and at new shapes those of `create`
   */
  async run(feeds: Feeds, options: RunOptions = {}): Promise<Record<string, Tensor>> {
    this.#checkUsable();
    const { signal } = options;
    if (signal?.aborted) throw abortError(signal);
    const wanted = this.#wantedOutputs(options.outputs);
    const checked = checkFeeds(this.model, feeds, (key) => this.#specialisations.has(key));
    const work = this.#runChecked(checked, wanted, options);
    this.#active.add(work);
    const done = (): void => void this.#active.delete(work);
    work.then(done, done);
    const results = await this.#untilLostOrAborted(work, signal);
    return Object.fromEntries(
      wanted.map((position, i) => [this.model.outputs[position].name, Tensor.fromHost(results[i])]),
    );
  }

  async #runChecked(
    { tensors, shapes, key }: CheckedFeeds,
    outputs: readonly number[],
    { signal, profile }: RunOptions,
  ): Promise<HostTensor[]> {
    const values = this.#waits ? await this.#parameters(key, tensors, shapes) : {};
    const lease = await this.#specialisations.lease(key + digestOf(values), () => this.#build(shapes, values));
    try {
      if (signal?.aborted) throw abortError(signal);
      return await lease.executable.run({ inputs: tensors, outputs, signal, profile });
    } finally {
      lease.release();
    }
  }

  /** What was compiled, and how long it took. */
  report(): SessionReport {
    const specialisations = this.#specialisations.ready.flatMap((executable) => {
      const report = this.#reports.get(executable);
      return report === undefined ? [] : [report];
    });
    return { model: this.model.name, device: this.device, numerics: this.numerics, specialisations };
  }

  get memory(): SessionMemory {
    const { allocatedBytes, totalBytes } = this.#handle.device.memory();
    return {
      constantBytes: this.#constants.bytes,
      arenaBytes: this.#specialisations.ready.reduce((total, { arenaBytes }) => total + arenaBytes, 0),
      deviceBytes: allocatedBytes,
      deviceTotalBytes: totalBytes,
    };
  }

  /** Waits for runs under way, then gives everything back. Later runs reject with E_DEVICE_CLOSED. */
  close(): Promise<void> {
    this.#closed ??= (async () => {
      try {
        // A device that is lost never finishes what it has begun, and has nothing to give back.
        const lost = this.#handle.device.lost.catch(() => undefined);
        await Promise.race([lost, Promise.allSettled(this.#active)]);
        await Promise.race([
          lost,
          this.#specialisations.close().catch((error) => {
            if (this.#lost === undefined) throw error;
          }),
        ]);
      } finally {
        await this.#handle.release();
      }
    })();
    return this.#closed;
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close();
  }

  // --- compiling -------------------------------------------------------------------------------------------------

  async #specialise(shapes: Readonly<Record<string, readonly number[]>>): Promise<void> {
    try {
      const lease = await this.#specialisations.lease(keyOf(this.model, shapes), () => this.#build(shapes));
      this.#outputs = lease.executable.plan.outputs.map(
        ({ name, dtype, shape }): ValueInfo => ({ name, type: typeOfDType(dtype), dtype, shape }),
      );
      lease.release();
    } catch (error) {
      // Where data of inputs decides shapes, there is nothing to compile before the first run.
      if (!this.#waits || !(error instanceof TuttiError) || error.code !== 'E_UNSUPPORTED') throw error;
    }
  }

  /** The inputs that are parameters of the model under these shapes, with their data: an executable is made for them. */
  async #parameters(
    key: string,
    tensors: readonly HostTensor[],
    shapes: Readonly<Record<string, readonly number[]>>,
  ): Promise<Readonly<Record<string, HostTensor>>> {
    const { graph } = this.model;
    planner ??= import('../compiler/compile.js');
    const { parameterInputs } = await planner;
    const values = Object.fromEntries(graph.inputs.map(({ name }, i) => [name, tensors[i]]));
    const options = { shapes: { ...this.model.shapes, ...shapes }, dims: this.model.sizes, values };
    const names = this.#parameterNames.get(key) ?? parameterInputs(graph, options);
    if (this.#parameterNames.size >= 64) this.#parameterNames.clear();
    this.#parameterNames.set(key, names);
    return Object.fromEntries([...names].map((name) => [name, values[name]]));
  }

  async #build(
    shapes: Readonly<Record<string, readonly number[]>>,
    values: Readonly<Record<string, HostTensor>> = {},
  ): Promise<Executable> {
    const start = performance.now();
    planner ??= import('../compiler/compile.js');
    const { planPaced } = await planner;
    await nextTurn();
    const planStart = performance.now();
    const { device } = this.#handle;
    const pace = new Pace();
    const options = {
      numerics: this.numerics,
      shapes: { ...this.model.shapes, ...shapes },
      dims: this.model.sizes,
      // Copies: what was compiled must not change with the caller's arrays.
      values: Object.fromEntries(
        Object.entries(values).map(([name, tensor]) => [name, { ...tensor, data: tensor.data.slice() }]),
      ),
      ...(this.#dump === undefined ? {} : { dump: this.#dump }),
    };
    const planned = await planPaced(this.model.graph, device.target, options, () => pace.breathe());
    const planTime = performance.now() - planStart;
    await nextTurn();
    const create = () => Executable.create(this.model.name, device, planned, this.#constants, this.#renderer);
    let executable: Executable;
    try {
      executable = await create();
    } catch (error) {
      const full = error instanceof TuttiError && error.code === 'E_OUT_OF_MEMORY';
      // Other shapes may hold memory that nobody needs now.
      if (!full || !(await this.#specialisations.evictIdle())) throw error;
      executable = await create();
    }
    const times = { plan: planTime, ...executable.times, total: performance.now() - start };
    log('info', () => `compiled ${this.model.name} for ${keyOf(this.model, shapes)} in ${times.total.toFixed(0)} ms`);
    this.#reports.set(executable, { shapes, plan: planned.report, times });
    return executable;
  }

  // --- running ---------------------------------------------------------------------------------------------------

  /** Positions of the outputs asked for. */
  #wantedOutputs(names: readonly string[] | undefined): readonly number[] {
    const present = this.outputNames;
    if (names === undefined) return present.map((_, i) => i);
    return [...new Set(names)].map((name) => {
      const position = present.indexOf(name);
      if (position >= 0) return position;
      throw new TuttiError('E_INPUT', 'the model has no such output', {
        subject: name,
        expected: `one of ${present.join(', ')}`,
      });
    });
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

/** Part of a key: equal data, equal text. Parameters are small. */
function digestOf(values: Readonly<Record<string, HostTensor>>): string {
  return Object.entries(values)
    .map(([name, tensor]) => `;${name}=${Array.from(tensor.data as ArrayLike<unknown>, String).join(' ')}`)
    .join('');
}

/** A reason of the caller's own is theirs to get back; the standard ones become E_ABORTED. */
function abortError(signal: AbortSignal): Error {
  const reason: unknown = signal.reason;
  const standard = reason instanceof DOMException && (reason.name === 'AbortError' || reason.name === 'TimeoutError');
  if (reason instanceof Error && !standard) return reason;
  const message = standard && reason.name === 'TimeoutError' ? 'the run took too long' : 'the run was aborted';
  return new TuttiError('E_ABORTED', message, { cause: reason });
}
