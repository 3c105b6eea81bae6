/** Buffers, kernels and command lists of the native add-on, and the binary interface that its drivers share. */
import type { CommandList, DeviceBuffer, Kernel, KernelCode } from '../backend.js';
import { foreignError, releasedError } from './errors.js';

export type NativeDevice = { readonly __device: never };
export type NativeHandle = { readonly __handle: never };
/** Buffer, offset, the host's bytes and whether they are `passing`, over and over. */
export type NativeTransfer = NativeHandle | number | Uint8Array | boolean;

/** What every driver of the add-on offers an open device; see native/common/commands.h. */
export interface NativeDriver {
  /** Bytes in buffers. */
  memory(device: NativeDevice): number;
  allocate(device: NativeDevice, bytes: number): NativeHandle;
  /** Drops a buffer, kernel or list; what still uses it keeps it alive. */
  release(handle: NativeHandle): void;
  /** Without a promise where the driver has `submitSync`. */
  record(
    device: NativeDevice,
    numbers: Float64Array,
    handles: readonly NativeHandle[],
    scalars: Uint8Array,
  ): Promise<NativeHandle> | NativeHandle;
  /**
   * `aborted[0]` not 0: nobody looks at the results any more. `here`: what is short may be done in the calling thread;
   * then there is no promise.
   */
  submit(
    device: NativeDevice,
    list: NativeHandle | null,
    writes: readonly NativeTransfer[],
    reads: readonly NativeTransfer[],
    profile: boolean,
    aborted: Int32Array | null,
    here: boolean,
  ): Promise<Float64Array | undefined> | Float64Array | undefined;
  /** Where the calling thread can do the work. */
  submitSync?(
    device: NativeDevice,
    list: NativeHandle | null,
    writes: readonly NativeTransfer[],
    reads: readonly NativeTransfer[],
    profile: boolean,
  ): Float64Array | undefined;
  /** Resolves when the work in flight has ended and everything is freed. */
  close(device: NativeDevice): Promise<void>;
}

/** The device, as its resources see it. */
export interface ResourceOwner {
  readonly native: NativeDriver;
  /** Kernels and lists not released: they keep code loaded, so closing must find them. */
  readonly closers: Set<{ release(): void }>;
}

/** A buffer, kernel or list: a native handle that is given back once, by its owner or when the device closes. */
abstract class Resource {
  readonly device: ResourceOwner;
  #handle: NativeHandle | undefined;

  constructor(device: ResourceOwner, handle: NativeHandle) {
    this.device = device;
    this.#handle = handle;
  }

  /** The handle, if it is there and `device`'s; `what` names it in the error. */
  handleFor(device: ResourceOwner, what: string): NativeHandle {
    if (this.device !== device) throw foreignError(what);
    if (this.#handle === undefined) throw releasedError(what);
    return this.#handle;
  }

  protected drop(): void {
    if (this.#handle === undefined) return;
    this.device.native.release(this.#handle);
    this.#handle = undefined;
  }
}

export class AddonBuffer extends Resource implements DeviceBuffer {
  readonly bytes: number;

  constructor(device: ResourceOwner, handle: NativeHandle, bytes: number) {
    super(device, handle);
    this.bytes = bytes;
  }

  static handle(buffer: DeviceBuffer, device: ResourceOwner): NativeHandle {
    if (!(buffer instanceof AddonBuffer)) throw foreignError('buffer');
    return buffer.handleFor(device, 'buffer');
  }

  free(): void {
    this.drop();
  }
}

export class AddonKernel extends Resource implements Kernel {
  readonly code: Pick<KernelCode, 'name' | 'bindings' | 'scalarBytes'>;

  constructor(device: ResourceOwner, handle: NativeHandle, { name, bindings, scalarBytes }: KernelCode) {
    super(device, handle);
    this.code = { name, bindings, scalarBytes };
    device.closers.add(this);
  }

  get name(): string {
    return this.code.name;
  }

  release(): void {
    this.device.closers.delete(this);
    this.drop();
  }
}

export class AddonList extends Resource implements CommandList {
  constructor(device: ResourceOwner, handle: NativeHandle) {
    super(device, handle);
    device.closers.add(this);
  }

  release(): void {
    this.device.closers.delete(this);
    this.drop();
  }
}
