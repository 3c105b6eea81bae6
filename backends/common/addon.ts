/**
 * An open device of the native add-on, whatever API stands behind it.
 *
 * The add-on's drivers share one binary interface: handles are opaque, commands are flat arrays (encoder.ts), host data
 * is triples of buffer, offset and bytes. A backend adds how it compiles kernels, and what else is special of it.
 */
import { TuttiError } from '../../compiler/error.js';
import type {
  Command,
  CommandList,
  Completion,
  Device,
  DeviceBuffer,
  DeviceInfo,
  DeviceLoss,
  Kernel,
  KernelCode,
  Queue,
  Target,
  Work,
} from '../backend.js';
import { checkAllocation, checkTransfer, outOfMemory } from './checks.js';
import { CommandEncoder } from './encoder.js';
import { closedError, foreignError, fromNative, translated } from './errors.js';
import {
  AddonBuffer,
  AddonKernel,
  AddonList,
  type NativeDevice,
  type NativeDriver,
  type NativeHandle,
  type NativeTransfer,
  type ResourceOwner,
} from './resources.js';

/** Milliseconds that short work may keep the event loop from turning. */
const maximumStay = 4;

export abstract class AddonDevice<Native extends NativeDriver = NativeDriver> implements Device, ResourceOwner {
  readonly native: Native;
  readonly info: DeviceInfo;
  readonly target: Target;
  readonly lost: Promise<DeviceLoss>;
  readonly queue: Queue;
  readonly recordSync?: (commands: readonly Command[]) => CommandList;
  readonly closers = new Set<{ release(): void }>();
  protected readonly handle: NativeDevice;
  readonly #loading = new Set<Promise<unknown>>();
  /** When the first of the work was done in the calling thread since the event loop has turned. */
  #here: number | undefined;
  #reportLoss: (loss: DeviceLoss) => void = () => undefined;
  #closing: Promise<void> | undefined;

  constructor(native: Native, handle: NativeDevice, info: DeviceInfo, target: Target) {
    this.native = native;
    this.handle = handle;
    this.info = info;
    this.target = target;
    const start: Queue['start'] = (work) => this.#start(work);
    const submit: Queue['submit'] = async (work) => start(work);
    this.queue = { start, submit };
    if (native.submitSync !== undefined) {
      this.queue = { start, submit, submitSync: (work) => this.#submitSync(work) };
      this.recordSync = (commands) => this.#recordSync(commands);
    }
    this.lost = new Promise((resolve) => {
      this.#reportLoss = resolve;
    });
  }

  /** One handle a kernel, in order. Rejects with E_KERNEL, or with an error of the add-on. */
  protected abstract compile(codes: readonly KernelCode[]): Promise<readonly NativeHandle[]>;

  /** After the device has closed: what the backend holds besides. */
  protected async closed(): Promise<void> {}

  memory(): { readonly allocatedBytes: number; readonly totalBytes: number } {
    return { allocatedBytes: this.native.memory(this.handle), totalBytes: this.info.memoryBytes };
  }

  allocate(bytes: number): DeviceBuffer {
    this.#mustBeOpen();
    const { bufferBytes } = this.target.limits;
    checkAllocation(bytes, this.memory(), bufferBytes, this.info.id);
    try {
      return new AddonBuffer(this, this.native.allocate(this.handle, bytes), bytes);
    } catch (cause) {
      const error = this.#noted(cause);
      if (!(error instanceof TuttiError && error.code === 'E_OUT_OF_MEMORY')) throw error;
      throw outOfMemory(bytes, this.memory(), bufferBytes, this.info.id, cause);
    }
  }

  async loadKernels(codes: readonly KernelCode[]): Promise<readonly Kernel[]> {
    this.#mustBeOpen();
    const loading = this.#guarded(() => this.compile(codes));
    this.#loading.add(loading);
    try {
      return (await loading).map((handle, i) => new AddonKernel(this, handle, codes[i]));
    } finally {
      this.#loading.delete(loading);
    }
  }

  async record(commands: readonly Command[]): Promise<CommandList> {
    return new AddonList(this, await this.#guarded(() => this.#record(commands)));
  }

  #recordSync(commands: readonly Command[]): CommandList {
    try {
      return new AddonList(this, this.#record(commands) as NativeHandle);
    } catch (error) {
      throw this.#noted(error);
    }
  }

  #record(commands: readonly Command[]): Promise<NativeHandle> | NativeHandle {
    this.#mustBeOpen();
    const { numbers, handles, scalars } = new CommandEncoder(this, this.target.limits).encode(commands);
    return this.native.record(this.handle, numbers, handles, scalars);
  }

  #start(work: Parameters<Queue['submit']>[0]): Completion | Promise<Completion> {
    const { signal, profile = false } = work;
    this.#mustBeOpen();
    signal?.throwIfAborted();
    const [list, writes, reads] = this.#encode(work);
    const aborted = signal ? new Int32Array(1) : null;
    try {
      const pending = this.native.submit(this.handle, list, writes, reads, profile, aborted, this.#mayStay());
      if (!(pending instanceof Promise)) {
        this.#stayed();
        return completionOf(pending);
      }
      const noted = pending.then(completionOf, (error) => {
        throw this.#noted(error);
      });
      return signal && aborted ? abortable(noted, signal, aborted) : noted;
    } catch (error) {
      throw this.#noted(error);
    }
  }

  /** Whoever awaits one short piece of work after the other would never let the event loop turn. */
  #mayStay(): boolean {
    return this.#here === undefined || performance.now() - this.#here < maximumStay;
  }

  #stayed(): void {
    if (this.#here !== undefined) return;
    this.#here = performance.now();
    setImmediate(() => {
      this.#here = undefined;
    });
  }

  #submitSync(work: Work): Completion {
    this.#mustBeOpen();
    const [list, writes, reads] = this.#encode(work);
    try {
      return completionOf(this.native.submitSync?.(this.handle, list, writes, reads, work.profile ?? false));
    } catch (error) {
      throw this.#noted(error);
    }
  }

  /** Checks the work. @throws TuttiError E_USAGE */
  #encode({ list, writes = [], reads = [] }: Work) {
    if (list !== undefined && !(list instanceof AddonList)) throw foreignError('command list');
    const handle = list === undefined ? null : list.handleFor(this, 'command list');
    const incoming: NativeTransfer[] = [];
    for (const { to, data, passing = false } of writes) {
      checkTransfer(to, data, 'write');
      const buffer = AddonBuffer.handle(to.buffer, this);
      if (data.byteLength > 0) incoming.push(buffer, to.offset, data, passing);
    }
    const outgoing: NativeTransfer[] = [];
    for (const { from, into, passing = false } of reads) {
      checkTransfer(from, into, 'read');
      const buffer = AddonBuffer.handle(from.buffer, this);
      if (into.byteLength > 0) outgoing.push(buffer, from.offset, into, passing);
    }
    return [handle, incoming, outgoing] as const;
  }

  close(): Promise<void> {
    this.#closing ??= this.#close();
    return this.#closing;
  }

  async #close(): Promise<void> {
    await Promise.allSettled(this.#loading);
    await translated(this.info.id, () => this.native.close(this.handle));
    for (const resource of [...this.closers]) resource.release();
    await this.closed();
  }

  #mustBeOpen(): void {
    if (this.#closing) throw closedError(this.info.id);
  }

  async #guarded<T>(work: () => T | Promise<T>): Promise<T> {
    try {
      return await work();
    } catch (error) {
      throw this.#noted(error);
    }
  }

  /** The error as ours; the loss of the device is told to those who wait for it. */
  #noted(cause: unknown): unknown {
    const error = fromNative(cause, this.info.id);
    if (error instanceof TuttiError && error.code === 'E_DEVICE_LOST') this.#reportLoss({ reason: error.message });
    return error;
  }
}

const completionOf = (times: Float64Array | undefined): Completion =>
  times !== undefined && times.length > 0 ? { dispatchMicroseconds: times } : done;
const done: Completion = {};

/** Rejects at once when `signal` aborts; `flag` tells the add-on, which then drops the work or does not report it. */
function abortable<T>(pending: Promise<T>, signal: AbortSignal, flag: Int32Array): Promise<T> {
  return new Promise((resolve, reject) => {
    const abort = (): void => {
      Atomics.store(flag, 0, 1);
      reject(signal.reason);
    };
    signal.addEventListener('abort', abort, { once: true });
    pending.then(resolve, reject).finally(() => signal.removeEventListener('abort', abort));
  });
}
