/**
 * A plan made real on one device: kernels loaded, pools allocated, constants uploaded, commands recorded once. A run is
 * one submission: write the inputs, replay the list, read the outputs.
 */
import type {
  Backend,
  BufferRange,
  Command,
  CommandList,
  Completion,
  Device,
  DeviceBuffer,
  HostRead,
  HostWrite,
  Kernel,
  KernelCode,
  Work,
} from '../backends/backend.js';
import type { KernelFunction } from '../compiler/kernel/types.js';
import { flatSteps, type Location, type Plan, type PlannedTensor, type Pool, type Program } from '../compiler/plan.js';
import { bytesOfTensor, emptyTensor, type HostTensor, sizeOf, tensorFromBytes } from '../compiler/tensor.js';
import type { RunProfile } from './api.js';
import { commandsOf } from './commands.js';
import { type ConstantClaim, type ConstantRanges, type ConstantStore, outOfMemory } from './constants.js';
import { resultMemory } from './host_memory.js';
import { Pace } from './pace.js';
import { place, placementKey } from './placement.js';
import { Resident } from './residents.js';
import { outcome, type Pending, type Steps } from './steps.js';
import { wireBytes } from './wire.js';

/** Renders each kernel once, however many plans hold it. */
export class Renderer {
  readonly #codes = new WeakMap<KernelFunction, KernelCode>();
  readonly #backend: Backend;

  constructor(backend: Backend) {
    this.#backend = backend;
  }

  async render(plan: Plan): Promise<readonly KernelCode[]> {
    const pace = new Pace();
    const codes: KernelCode[] = [];
    for (const kernel of plan.kernels) {
      let code = this.#codes.get(kernel);
      if (code === undefined) {
        await pace.breathe();
        code = this.#backend.render(kernel, plan.target);
        this.#codes.set(kernel, code);
      }
      codes.push(code);
    }
    return codes;
  }
}

export interface ExecutableRun {
  /** In the order of `plan.inputs`; checked by the caller. */
  readonly inputs: readonly (HostTensor | Resident)[];
  /** Which outputs are wanted on the host, by position; default: all. */
  readonly outputs?: readonly number[];
  /** Where outputs go that stay on the device, by position. */
  readonly keep?: ReadonlyMap<number, Resident>;
  /** Tensors to write outputs of the host to, by position; they fit. Others get memory of their own. */
  readonly into?: ReadonlyMap<number, HostTensor>;
  /** Memory to fill before anything runs. */
  readonly fill?: readonly { readonly to: Resident; readonly data: HostTensor }[];
  readonly signal?: AbortSignal;
  readonly profile?: (profile: RunProfile) => void;
  /** Hands the work to the device. */
  submit(work: Work): Pending<Completion>;
}

/** A run that has nothing to wait for but the device: what to submit, and the outputs that are filled then. */
export interface ReadyRun {
  readonly work: Work;
  readonly results: readonly HostTensor[];
  /** To be called when the work is done. */
  done(): void;
}

/** Recorded combinations of tensors that stay on the device. */
const maximumVariants = 8;

interface Variant {
  /** Undefined where there is nothing to do. */
  list: Pending<CommandList | undefined>;
  /** Where inputs and outputs of the host are, by position. */
  readonly to: readonly (BufferRange | undefined)[];
  readonly from: readonly (BufferRange | undefined)[];
  /** Ids of the tensors. */
  readonly residents: ReadonlySet<number>;
  /** Submissions under way. */
  users: number;
}

export class Executable {
  readonly plan: Program;
  /** Milliseconds by stage. */
  readonly times: Readonly<Record<string, number>>;
  readonly #device: Device;
  readonly #kernels: readonly Kernel[];
  /** By pool; those of inputs and outputs when they are first needed. */
  readonly #buffers: (DeviceBuffer | undefined)[];
  readonly #constants: ConstantClaim;
  readonly #ranges: ConstantRanges;
  /** Positions of the outputs. */
  readonly #all: readonly number[];
  /** By output: it is an input, too. */
  readonly #given: readonly boolean[];
  /** Recorded commands by which tensors on the device take part; least recently used first. */
  readonly #variants = new Map<string, Variant>();
  /** Set when a run was given up while the device may still be at it. */
  #abandoned = false;
  #disposed: Promise<void> | undefined;

  private constructor(parts: {
    readonly plan: Program;
    readonly times: Readonly<Record<string, number>>;
    readonly device: Device;
    readonly kernels: readonly Kernel[];
    readonly buffers: (DeviceBuffer | undefined)[];
    readonly constants: ConstantClaim;
    readonly ranges: ConstantRanges;
  }) {
    this.plan = parts.plan;
    this.times = parts.times;
    this.#device = parts.device;
    this.#kernels = parts.kernels;
    this.#buffers = parts.buffers;
    this.#constants = parts.constants;
    this.#ranges = parts.ranges;
    const { inputs, outputs } = parts.plan;
    this.#all = outputs.map((_, i) => i);
    this.#given = outputs.map(({ location: own }) => inputs.some(({ location }) => location?.pool === own?.pool));
  }

  /** Bytes of the arena, and of inputs and outputs that have memory of their own. */
  get arenaBytes(): number {
    return this.#buffers.reduce((total, buffer) => total + (buffer?.bytes ?? 0), 0);
  }

  /**
   * @param name Of the model, for errors.
   * @param codes The plan's kernels, rendered.
   * @param apart Inputs and outputs are on the device mostly: no memory is taken for them before it is needed.
   * @throws TuttiError E_OUT_OF_MEMORY before anything is allocated, if the plan cannot fit; E_KERNEL, E_DEVICE_LOST
   */
  static async create(
    name: string,
    device: Device,
    plan: Program,
    codes: readonly KernelCode[],
    constants: ConstantStore,
    apart = false,
  ): Promise<Executable> {
    const times: Record<string, number> = {};
    let since = performance.now();
    const mark = (stage: string): void => {
      times[stage] = performance.now() - since;
      since = performance.now();
    };
    // In reverse order of making, should anything fail.
    const undo: (() => void)[] = [];
    try {
      const claim = await constants.claim(plan);
      undo.push(claim.release);
      const isOwn = ({ kind, bytes }: Pool): boolean =>
        bytes > 0 && (kind === 'arena' || (kind === 'tensor' && !apart));
      const arenaBytes = plan.pools.reduce((total, pool) => total + (isOwn(pool) ? pool.bytes : 0), 0);
      const { allocatedBytes, totalBytes } = device.memory();
      const [required, available] = [claim.missingBytes + arenaBytes, totalBytes - allocatedBytes];
      if (required > available) throw outOfMemory(name, required, available);
      mark('claim');
      const compiled = (): number => device.hostCompiler?.().milliseconds ?? 0;
      const before = compiled();
      const kernels = codes.length > 0 ? await device.loadKernels(codes) : [];
      if (compiled() > before) times.hostCompiler = compiled() - before;
      undo.push(() => releaseAll(kernels));
      mark('load');
      const buffers: (DeviceBuffer | undefined)[] = [];
      undo.push(() => freeAll(buffers));
      for (const pool of plan.pools) buffers.push(isOwn(pool) ? device.allocate(pool.bytes) : undefined);
      const ranges = await claim.upload();
      mark('upload');
      const executable = new Executable({ plan, times, device, kernels, buffers, constants: claim, ranges });
      if (!apart) await executable.#record('', [], none).list;
      mark('record');
      return executable;
    } catch (error) {
      for (const step of undo.reverse()) step();
      throw error;
    }
  }

  /** Outputs in the order asked for. Inputs must not be changed before the work is done. */
  *run(run: ExecutableRun): Steps<HostTensor[]> {
    const { inputs, keep = none, fill = [], signal, profile, submit } = run;
    const wanted = (run.outputs ?? this.#all).map((i) => this.plan.outputs[i]);
    const known = wanted.every(({ location }) => location === undefined);
    // What is asked for may be known already: then no device is needed.
    if (known && keep.size + fill.length === 0 && profile === undefined) return wanted.map(knownOutput);
    const variant = this.#variant(inputs, keep);
    variant.users++;
    try {
      const { results, reads, writes } = this.#transfers(variant, run);
      const filled = fill.map(({ to, data }): HostWrite => ({ to: to.range(), data: wireBytes(data) }));
      const list = yield* outcome(variant.list);
      const work = { list, writes: [...filled, ...writes], reads, profile: profile !== undefined };
      const { dispatchMicroseconds } = yield* outcome(submit(work));
      profile?.(this.#profileOf(dispatchMicroseconds));
      return results;
    } catch (error) {
      if (signal?.aborted) this.#abandoned = true;
      throw error;
    } finally {
      variant.users--;
    }
  }

  /** The same at its shortest. Undefined where something has to be waited for first. */
  ready(run: Pick<ExecutableRun, 'inputs' | 'outputs' | 'keep' | 'into'>): ReadyRun | undefined {
    const variant = this.#variant(run.inputs, run.keep ?? none);
    const { list } = variant;
    if (list instanceof Promise) return undefined;
    const { results, reads, writes } = this.#transfers(variant, run);
    variant.users++;
    return { work: { list, writes, reads }, results, done: () => void variant.users-- };
  }

  /** What goes to the device and comes from there. */
  #transfers(
    { to, from }: Variant,
    { inputs, outputs = this.#all, into }: Pick<ExecutableRun, 'inputs' | 'outputs' | 'into'>,
  ): { readonly results: HostTensor[]; readonly reads: HostRead[]; readonly writes: HostWrite[] } {
    const writes: HostWrite[] = [];
    inputs.forEach((input, i) => {
      const range = to[i];
      // What the range holds matters to the commands alone: each run brings its own inputs.
      if (range === undefined || input instanceof Resident) return;
      writes.push({ to: range, data: wireBytes(input), passing: true });
    });
    const reads: HostRead[] = [];
    const results = outputs.map((i) => this.#result(i, from[i], into?.get(i), reads));
    return { results, reads, writes };
  }

  /** A tensor that the read from the range will fill; without a range it is known. */
  #result(i: number, from: BufferRange | undefined, into: HostTensor | undefined, reads: HostRead[]): HostTensor {
    const planned = this.plan.outputs[i];
    const { name, dtype, shape } = planned;
    if (from === undefined) return knownOutput(planned);
    if (dtype === 'string') throw new Error(`output ${name}: strings do not lie on a device`);
    const bytes = into === undefined ? resultMemory(from.bytes) : bytesOfTensor(into);
    const range = bytes.byteLength === from.bytes ? from : { ...from, bytes: bytes.byteLength };
    // An input that is an output too has its data already.
    reads.push({ from: range, into: bytes, passing: !this.#given[i] });
    return into ?? tensorFromBytes(dtype, shape, bytes);
  }

  /** Lets go of what was recorded with memory that is no more. */
  forget(resident: number): void {
    for (const [key, { residents }] of this.#variants) if (residents.has(resident)) this.#drop(key);
  }

  /** Memory of the executable, taken when it is first needed. @throws TuttiError E_OUT_OF_MEMORY */
  #own({ pool, offset, bytes }: Location): BufferRange {
    const { kind, bytes: size } = this.plan.pools[pool];
    if (kind === 'constants') return this.#ranges.find({ pool, offset, bytes });
    this.#buffers[pool] ??= this.#device.allocate(size);
    return { buffer: this.#buffers[pool], offset, bytes };
  }

  /** The commands, recorded once for each combination of tensors. */
  #variant(inputs: ExecutableRun['inputs'], keep: ReadonlyMap<number, Resident>): Variant {
    const key = placementKey(this.plan, inputs, keep);
    const known = this.#variants.get(key);
    if (known === undefined) return this.#record(key, inputs, keep);
    if (this.#variants.size > 1) {
      this.#variants.delete(key);
      this.#variants.set(key, known);
    }
    return known;
  }

  #record(key: string, inputs: ExecutableRun['inputs'], keep: ReadonlyMap<number, Resident>): Variant {
    const { plan } = this;
    const placement = place(plan, (location) => this.#own(location), inputs, keep);
    const { before, after, residents, resolve } = placement;
    const barrier: readonly Command[] = before.length + after.length > 0 ? [{ kind: 'barrier' }] : [];
    const own = commandsOf(plan, this.#kernels, resolve);
    const commands = [...before, ...barrier, ...own, ...barrier, ...after];
    const works = commands.some(({ kind }) => kind !== 'barrier');
    const variant: Variant = {
      list: works ? record(this.#device, commands) : undefined,
      to: plan.inputs.map(({ location }, i) =>
        location === undefined || inputs[i] instanceof Resident ? undefined : resolve(location),
      ),
      from: plan.outputs.map(({ location }, i) =>
        location === undefined || keep.has(i) ? undefined : resolve(location),
      ),
      residents,
      users: 0,
    };
    if (variant.list instanceof Promise) {
      variant.list.then(
        (list) => {
          variant.list = list;
        },
        () => undefined,
      );
    }
    this.#variants.set(key, variant);
    for (const [old, { users, residents: held }] of this.#variants) {
      if (this.#variants.size <= maximumVariants) break;
      if (users === 0 && held.size > 0 && old !== key) this.#drop(old);
    }
    return variant;
  }

  #drop(key: string): void {
    const variant = this.#variants.get(key);
    if (variant === undefined) return;
    this.#variants.delete(key);
    if (!(variant.list instanceof Promise)) variant.list?.release();
    // What could not be recorded has nothing to give back.
    else {
      variant.list.then(
        (list) => list?.release(),
        () => undefined,
      );
    }
  }

  #profileOf(microseconds: Float64Array | undefined): RunProfile {
    const steps = [...flatSteps(this.plan.steps)].map(({ step }) => step);
    const dispatches = steps.filter((step) => step.kind === 'dispatch');
    return {
      dispatches: dispatches.map(({ kernel, sources }, i) => ({
        kernel: this.plan.kernels[kernel].name,
        sources,
        ...(microseconds === undefined ? {} : { microseconds: microseconds[i] }),
      })),
    };
  }

  /** Gives everything back. No run may be under way. */
  dispose(): Promise<void> {
    this.#disposed ??= this.#dispose();
    return this.#disposed;
  }

  async #dispose(): Promise<void> {
    // Work that was given up may still run: the queue's order tells when it is over.
    if (this.#abandoned) await this.#device.queue.submit({}).catch(() => undefined);
    try {
      for (const key of [...this.#variants.keys()]) this.#drop(key);
      freeAll(this.#buffers);
      releaseAll(this.#kernels);
    } finally {
      // Shared with others: the count must be right whatever became of the rest.
      this.#constants.release();
    }
  }
}

const none: ReadonlyMap<number, Resident> = new Map();

/** Recorded at once where the device can. */
export const record = (device: Device, commands: readonly Command[]): Pending<CommandList> =>
  device.recordSync?.(commands) ?? device.record(commands);

/** Constants are copied: the caller may write into what it gets. */
function knownOutput({ dtype, shape, constant }: PlannedTensor): HostTensor {
  if (constant === undefined) {
    if (sizeOf(shape) !== 0) throw new Error('an output with elements has neither a place nor a value');
    return emptyTensor(dtype, shape);
  }
  const { data } = constant.load();
  return { dtype, shape, data: data.slice() };
}

const releaseAll = (kernels: readonly Kernel[]): void => {
  for (const kernel of kernels) kernel.release();
};
const freeAll = (buffers: readonly (DeviceBuffer | undefined)[]): void => {
  for (const buffer of buffers) buffer?.free();
};
