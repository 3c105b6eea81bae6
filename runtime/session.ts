/** Sessions: a model on a device, ready to run at any shapes that the model allows. */
import type { DeviceInfo } from '../backends/backend.js';
import { type CreateHasher, createSha256 } from '../compiler/artifact/sha256.js';
import type { Numerics } from '../compiler/compile.js';
import { TuttiError } from '../compiler/error.js';
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
import { Binding } from './binding.js';
import { Builder } from './builder.js';
import { type DeviceHandle, openDevice } from './device.js';
import { DeviceTensors } from './device_tensors.js';
import { isNode } from './environment.js';
import { Programs } from './programs.js';
import { Residents } from './residents.js';
import { Runs } from './runs.js';
import { checkNumerics, SessionModel } from './session_model.js';
import { openModel } from './stored_model.js';
import { type Tensor, type TensorData, type TensorType, typeOfDType } from './tensor.js';

const defaultCacheSize = 8;

export class Session {
  /** With the shapes and sizes that the session fixes. */
  readonly model: SessionModel;
  readonly numerics: Numerics;
  readonly #handle: DeviceHandle;
  readonly #builder: Builder;
  readonly #residents: Residents;
  readonly #deviceTensors: DeviceTensors;
  readonly #programs: Programs;
  readonly #runs: Runs;
  #outputs: readonly ValueInfo[];
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
      const freed = await this.#programs.evictIdle();
      return this.#residents.trim() || freed;
    };
    const dump = options.dump ?? model.dump;
    this.#builder = new Builder(model.name, numerics, handle, dump, createHasher, makeRoom, tuned);
    this.#residents = new Residents(handle.device, (id) => {
      for (const executable of this.#programs.executables) executable.forget(id);
    });
    this.#deviceTensors = new DeviceTensors(handle.device, this.#residents);
    this.#programs = new Programs(model, this.#builder, options.cacheSize ?? defaultCacheSize, createHasher);
    this.#runs = new Runs({
      model,
      device: handle.device,
      programs: this.#programs,
      residents: this.#residents,
      tensors: this.#deviceTensors,
      outputNames: () => this.outputNames,
    });
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
  run<V extends Value = Tensor>(feeds: Feeds, options: RunOptions = {}): Promise<Record<string, V>> {
    return this.#runs.run(feeds, options) as Promise<Record<string, V>>;
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
    return this.#runs.runSync(feeds, options) as Record<string, V>;
  }

  /**
   * Fixes inputs and outputs once, for many runs: with tensors on the device nothing is checked, copied to or from the host,
   * or allocated in between. Outputs may go to tensors of the host, too. Tensors may be bound as input and output at once: a
   * state is then updated in place.
   * @throws TuttiError E_INPUT
   */
  async bind(options: BindingOptions): Promise<Binding> {
    this.#runs.checkUsable();
    return Binding.create(options, {
      inputs: this.inputs,
      tensors: this.#deviceTensors,
      runs: this.#runs,
    });
  }

  /**
   * A tensor in the device's memory, with the data given or zeros. It is the caller's to dispose.
   * @throws TuttiError E_INPUT, E_OUT_OF_MEMORY
   */
  async tensor(type: TensorType, dims: readonly number[], data?: TensorData): Promise<Tensor> {
    this.#runs.checkUsable();
    return this.#deviceTensors.create(type, dims, data);
  }

  /** What was compiled, and how long it took. */
  report(): SessionReport {
    const { executables } = this.#programs;
    return {
      model: this.model.name,
      device: this.device,
      numerics: this.numerics,
      specialisations: executables.flatMap((executable) => this.#builder.reportOf(executable)),
      stages: { run: this.#runs.counts.stages, planned: executables.length, valuesRead: this.#runs.counts.demanded },
    };
  }

  get memory(): SessionMemory {
    const { allocatedBytes, totalBytes } = this.#handle.device.memory();
    const { executables } = this.#programs;
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
        await Promise.race([lost, this.#runs.end()]);
        const closing = this.#programs.close();
        await Promise.race([
          lost,
          closing.catch((error) => {
            if (!this.#runs.isLost) throw error;
          }),
        ]);
        if (!this.#runs.isLost) this.#residents.close();
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

  /** Compiles for these shapes, as far as that is possible without data. */
  async #specialise(shapes: Readonly<Record<string, readonly number[]>>): Promise<void> {
    const lease = await this.#programs.specialise(shapes);
    if (lease === undefined) return;
    this.#outputs = lease.executable.plan.outputs.map(
      ({ name, dtype, shape }): ValueInfo => ({ name, type: typeOfDType(dtype), dtype, shape }),
    );
    lease.release();
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
