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

export abstract class AddonDevice<Native extends NativeDriver = NativeDriver> implements Device, ResourceOwner {
  readonly native: Native;
  readonly info: DeviceInfo;
  readonly target: Target;
  readonly lost: Promise<DeviceLoss>;
  readonly queue: Queue = { submit: (work) => this.#submit(work) };
  readonly closers = new Set<{ release(): void }>();
  protected readonly handle: NativeDevice;
  readonly #loading = new Set<Promise<unknown>>();
  #reportLoss: (loss: DeviceLoss) => void = () => undefined;
  #closing: Promise<void> | undefined;

  constructor(native: Native, handle: NativeDevice, info: DeviceInfo, target: Target) {
    this.native = native;
    this.handle = handle;
    this.info = info;
    this.target = target;
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
    this.#mustBeOpen();
    const { numbers, handles, scalars } = new CommandEncoder(this, this.target.limits).encode(commands);
    const list = await this.#guarded(() => this.native.record(this.handle, numbers, handles, scalars));
    return new AddonList(this, list);
  }

  async #submit({ list, writes = [], reads = [], signal, profile = false }: Parameters<Queue['submit']>[0]) {
    this.#mustBeOpen();
    signal?.throwIfAborted();
    if (list !== undefined && !(list instanceof AddonList)) throw foreignError('command list');
    const handle = list === undefined ? null : list.handleFor(this, 'command list');
    for (const { to, data } of writes) checkTransfer(to, data, 'write');
    for (const { from, into } of reads) checkTransfer(from, into, 'read');
    const incoming = writes.flatMap(({ to, data }) => this.#transfer(to.buffer, to.offset, data));
    const outgoing = reads.flatMap(({ from, into }) => this.#transfer(from.buffer, from.offset, into));
    const aborted = signal ? new Int32Array(1) : null;
    const pending = this.#guarded(() => this.native.submit(this.handle, handle, incoming, outgoing, profile, aborted));
    const times = await (signal && aborted ? abortable(pending, signal, aborted) : pending);
    const completion: Completion = times && times.length > 0 ? { dispatchMicroseconds: times } : {};
    return completion;
  }

  #transfer(buffer: DeviceBuffer, offset: number, data: Uint8Array): readonly NativeTransfer[] {
    const handle = AddonBuffer.handle(buffer, this);
    return data.byteLength === 0 ? [] : [handle, offset, data];
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
