/**
 * A plan made real on one device: kernels loaded, pools allocated, constants uploaded, commands recorded once. A run is
 * one submission: write the inputs, replay the list, read the outputs.
 */
import type {
  Backend,
  BufferRange,
  Command,
  CommandList,
  Device,
  DeviceBuffer,
  HostRead,
  HostWrite,
  Kernel,
  KernelCode,
} from '../backends/backend.js';
import type { KernelFunction } from '../compiler/kernel/types.js';
import type { Location, Plan, PlannedTensor } from '../compiler/plan.js';
import { bytesOfTensor, emptyTensor, type HostTensor, sizeOf, tensorFromBytes } from '../compiler/tensor.js';
import type { RunProfile } from './api.js';
import { type ConstantClaim, type ConstantStore, outOfMemory } from './constants.js';
import { Pace } from './pace.js';

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
  readonly inputs: readonly HostTensor[];
  /** Which outputs are wanted, by position; default: all. */
  readonly outputs?: readonly number[];
  readonly signal?: AbortSignal;
  readonly profile?: (profile: RunProfile) => void;
}

export class Executable {
  readonly plan: Plan;
  /** Milliseconds by stage. */
  readonly times: Readonly<Record<string, number>>;
  /** Bytes of the arena. */
  readonly arenaBytes: number;
  readonly #device: Device;
  readonly #kernels: readonly Kernel[];
  readonly #buffers: readonly DeviceBuffer[];
  readonly #constants: ConstantClaim;
  readonly #list: CommandList | undefined;
  readonly #inputs: readonly (BufferRange | undefined)[];
  readonly #outputs: readonly (BufferRange | undefined)[];
  /** Set when a run was given up while the device may still be at it. */
  #abandoned = false;
  #disposed: Promise<void> | undefined;

  private constructor(parts: {
    readonly plan: Plan;
    readonly times: Readonly<Record<string, number>>;
    readonly device: Device;
    readonly kernels: readonly Kernel[];
    readonly buffers: readonly DeviceBuffer[];
    readonly constants: ConstantClaim;
    readonly list: CommandList | undefined;
    readonly resolve: (location: Location) => BufferRange;
  }) {
    this.plan = parts.plan;
    this.times = parts.times;
    this.arenaBytes = parts.buffers.reduce((total, { bytes }) => total + bytes, 0);
    this.#device = parts.device;
    this.#kernels = parts.kernels;
    this.#buffers = parts.buffers;
    this.#constants = parts.constants;
    this.#list = parts.list;
    const rangeOf = ({ location }: PlannedTensor) => location && parts.resolve(location);
    this.#inputs = parts.plan.inputs.map(rangeOf);
    this.#outputs = parts.plan.outputs.map(rangeOf);
  }

  /**
   * @param name Of the model, for errors.
   * @throws TuttiError E_OUT_OF_MEMORY before anything is allocated, if the plan cannot fit; E_KERNEL, E_DEVICE_LOST
   */
  static async create(
    name: string,
    device: Device,
    plan: Plan,
    constants: ConstantStore,
    renderer: Renderer,
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
      const arenaBytes = plan.pools.reduce((total, { kind, bytes }) => total + (kind === 'arena' ? bytes : 0), 0);
      const { allocatedBytes, totalBytes } = device.memory();
      const [required, available] = [claim.missingBytes + arenaBytes, totalBytes - allocatedBytes];
      if (required > available) throw outOfMemory(name, required, available);
      mark('claim');
      const codes = await renderer.render(plan);
      mark('render');
      const kernels = codes.length > 0 ? await device.loadKernels(codes) : [];
      undo.push(() => releaseAll(kernels));
      mark('load');
      const buffers: DeviceBuffer[] = [];
      undo.push(() => freeAll(buffers));
      const byPool = plan.pools.map(({ kind, bytes }) => {
        if (kind !== 'arena' || bytes === 0) return undefined;
        const buffer = device.allocate(bytes);
        buffers.push(buffer);
        return buffer;
      });
      const ranges = await claim.upload();
      mark('upload');
      const resolve = (location: Location): BufferRange => {
        const buffer = byPool[location.pool];
        return buffer ? { buffer, offset: location.offset, bytes: location.bytes } : ranges.find(location);
      };
      const commands = commandsOf(plan, kernels, resolve);
      const list = commands.some(({ kind }) => kind !== 'barrier') ? await device.record(commands) : undefined;
      mark('record');
      return new Executable({ plan, times, device, kernels, buffers, constants: claim, list, resolve });
    } catch (error) {
      for (const step of undo.reverse()) step();
      throw error;
    }
  }

  /** Outputs in the order asked for. Inputs must not be changed before the promise settles. */
  async run({ inputs, outputs, signal, profile }: ExecutableRun): Promise<HostTensor[]> {
    const wanted = outputs ?? this.plan.outputs.map((_, i) => i);
    const writes = this.#inputs.flatMap((to, i): HostWrite[] =>
      to === undefined ? [] : [{ to, data: wireBytes(inputs[i]) }],
    );
    const reads: HostRead[] = [];
    const results = wanted.map((i): HostTensor => {
      const planned = this.plan.outputs[i];
      const from = this.#outputs[i];
      if (from === undefined) return knownOutput(planned);
      const into = new Uint8Array(from.bytes);
      reads.push({ from, into });
      if (planned.dtype === 'string') throw new Error(`output ${planned.name}: strings do not lie on a device`);
      return tensorFromBytes(planned.dtype, planned.shape, into);
    });
    // What is asked for may be known already: then no device is needed.
    if (reads.length === 0 && profile === undefined) return results;
    try {
      const { dispatchMicroseconds } = await this.#device.queue.submit({
        ...(this.#list === undefined ? {} : { list: this.#list }),
        writes,
        reads,
        ...(signal === undefined ? {} : { signal }),
        ...(profile === undefined ? {} : { profile: true }),
      });
      profile?.(this.#profileOf(dispatchMicroseconds));
    } catch (error) {
      if (signal?.aborted) this.#abandoned = true;
      throw error;
    }
    return results;
  }

  #profileOf(microseconds: Float64Array | undefined): RunProfile {
    const dispatches = this.plan.steps.filter((step) => step.kind === 'dispatch');
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
      this.#list?.release();
      freeAll(this.#buffers);
      releaseAll(this.#kernels);
    } finally {
      // Shared with others: the count must be right whatever became of the rest.
      this.#constants.release();
    }
  }
}

function commandsOf(plan: Plan, kernels: readonly Kernel[], resolve: (location: Location) => BufferRange): Command[] {
  return plan.steps.map((step): Command => {
    switch (step.kind) {
      case 'dispatch':
        return {
          kind: 'dispatch',
          kernel: kernels[step.kernel],
          grid: plan.kernels[step.kernel].grid,
          bindings: step.bindings.map(resolve),
        };
      case 'copy':
        return { kind: 'copy', from: resolve(step.from), to: resolve(step.to) };
      case 'fill':
        return { kind: 'fill', to: resolve(step.to), byte: step.byte };
      case 'barrier':
        return step;
      default:
        return step satisfies never;
    }
  });
}

/** Constants are copied: the caller may write into what it gets. */
function knownOutput({ dtype, shape, constant }: PlannedTensor): HostTensor {
  if (constant === undefined) {
    if (sizeOf(shape) !== 0) throw new Error('an output with elements has neither a place nor a value');
    return emptyTensor(dtype, shape);
  }
  const { data } = constant.load();
  return { dtype, shape, data: data.slice() };
}

/** Kernels rely on bools being 0 or 1. */
function wireBytes(tensor: HostTensor): Uint8Array {
  const bytes = bytesOfTensor(tensor);
  if (tensor.dtype !== 'bool' || bytes.every((value) => value <= 1)) return bytes;
  return bytes.map((value) => (value === 0 ? 0 : 1));
}

const releaseAll = (kernels: readonly Kernel[]): void => {
  for (const kernel of kernels) kernel.release();
};
const freeAll = (buffers: readonly DeviceBuffer[]): void => {
  for (const buffer of buffers) buffer.free();
};
