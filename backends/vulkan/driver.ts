/** The vulkan driver: checks and words on this side, everything that touches the device in the native add-on. */
import { availableParallelism } from 'node:os';
import { join } from 'node:path';
import { type ErrorCode, TuttiError } from '../../compiler/error.js';
import type {
  BufferRange,
  Command,
  CommandList,
  Completion,
  Device,
  DeviceBuffer,
  DeviceInfo,
  DeviceLoss,
  Driver,
  DriverOptions,
  HostRead,
  HostWrite,
  Kernel,
  KernelCode,
  Queue,
  Target,
} from '../backend.js';
import { isNativeAddon, loadNative } from '../native.js';
import { describe } from './target.js';

/** Handles of the add-on; opaque here. */
type NativeDevice = { readonly __device: never };
type NativeHandle = { readonly __handle: never };

interface NativeFacts {
  readonly id: string;
  readonly name: string;
  readonly driver: string;
  readonly driverVersion: number;
  readonly software: boolean;
  readonly memoryBytes: number;
  readonly features: readonly string[];
  readonly limits: Readonly<Record<string, number>>;
}

interface NativeKernelSource {
  readonly name: string;
  readonly entry: string;
  readonly words: Uint32Array;
  readonly bindings: number;
  readonly scalarBytes: number;
  readonly subgroupSize: number;
}

/** `addon.vulkan`: see native/vulkan/vulkan.cc. */
interface NativeVulkan {
  probe(icd: string): Promise<string>;
  enumerate(icd: string): Promise<readonly NativeFacts[]>;
  open(icd: string, id: string, cacheFile: string, forceStaging: boolean): Promise<NativeDevice>;
  allocate(device: NativeDevice, bytes: number): NativeHandle;
  release(handle: NativeHandle): void;
  loadKernels(device: NativeDevice, sources: readonly NativeKernelSource[]): Promise<NativeHandle[]>;
  record(
    device: NativeDevice,
    numbers: Float64Array,
    handles: readonly NativeHandle[],
    scalars: Uint8Array,
  ): Promise<NativeHandle>;
  submit(
    device: NativeDevice,
    list: NativeHandle | null,
    writes: readonly (NativeHandle | number | Uint8Array)[],
    reads: readonly (NativeHandle | number | Uint8Array)[],
    profile: boolean,
    aborted: Int32Array | null,
  ): Promise<Float64Array | undefined>;
  memory(device: NativeDevice): number;
  close(device: NativeDevice): Promise<void>;
  abandon(device: NativeDevice): void;
}

export async function openDriver(options: DriverOptions): Promise<Driver> {
  return new VulkanDriver(options);
}

class VulkanDriver implements Driver {
  readonly name = 'vulkan';
  readonly #cacheDirectory: string | undefined;
  /** Read once, so that one driver speaks of the same devices for its whole life. */
  readonly #icd = process.env.TUTTI_VULKAN_ICD ?? '';

  constructor(options: DriverOptions) {
    this.#cacheDirectory = options.cacheDirectory;
  }

  async probe(): ReturnType<Driver['probe']> {
    const addon = loadNative();
    if (!isNativeAddon(addon)) return { ok: false, reason: addon.reason };
    const reason = await (addon.vulkan as NativeVulkan).probe(this.#icd);
    return reason === '' ? { ok: true } : { ok: false, reason };
  }

  async enumerate(): Promise<readonly DeviceInfo[]> {
    const probed = await this.probe();
    if (!probed.ok) return [];
    return (await this.#native().enumerate(this.#icd)).map(toInfo);
  }

  async open(id: string): Promise<Device> {
    const probed = await this.probe();
    if (!probed.ok) throw new TuttiError('E_DEVICE', probed.reason, { subject: id });
    const native = this.#native();
    return translated(async () => {
      const facts = await native.enumerate(this.#icd);
      const found = facts.find((candidate) => `vulkan:${candidate.id}` === id);
      if (!found) {
        throw new TuttiError('E_DEVICE_UNKNOWN', 'no such Vulkan device', {
          subject: id,
          expected:
            facts.length === 0 ? 'a device, but there is none' : facts.map((f) => `vulkan:${f.id}`).join(' or '),
          remedy: 'Run `tutti devices` for the list',
        });
      }
      const file =
        this.#cacheDirectory === undefined
          ? ''
          : join(this.#cacheDirectory, 'vulkan', `${found.id}-${found.driverVersion.toString(16)}.bin`);
      const staging = process.env.TUTTI_VULKAN_STAGING === '1';
      return new VulkanDevice(native, await native.open(this.#icd, found.id, file, staging), toInfo(found));
    });
  }

  #native(): NativeVulkan {
    const addon = loadNative();
    if (!isNativeAddon(addon)) throw new TuttiError('E_DEVICE', addon.reason, { subject: 'vulkan' });
    return addon.vulkan as NativeVulkan;
  }
}

function toInfo(facts: NativeFacts): DeviceInfo {
  return {
    id: `vulkan:${facts.id}`,
    backend: 'vulkan',
    name: facts.name,
    driver: facts.driver,
    virtual: false,
    software: facts.software,
    memoryBytes: facts.memoryBytes,
    features: facts.features,
    limits: { ...facts.limits, hostThreads: availableParallelism() },
  };
}

const nativeCodes: ReadonlySet<string> = new Set<ErrorCode>([
  'E_DEVICE',
  'E_DEVICE_UNKNOWN',
  'E_DEVICE_LOST',
  'E_DEVICE_CLOSED',
  'E_OUT_OF_MEMORY',
  'E_KERNEL',
]);

/** The add-on's errors carry our codes; anything else is a bug and passes unchanged. */
function toTuttiError(error: unknown): unknown {
  if (!(error instanceof Error) || error instanceof TuttiError) return error;
  const code = (error as Error & { code?: unknown }).code;
  if (typeof code !== 'string' || !nativeCodes.has(code)) return error;
  return new TuttiError(code as ErrorCode, error.message, { subject: 'vulkan', cause: error });
}

async function translated<T>(work: () => Promise<T>): Promise<T> {
  try {
    return await work();
  } catch (error) {
    throw toTuttiError(error);
  }
}

/** A buffer, kernel or list: a native handle that can be given back once. */
abstract class Held {
  readonly device: VulkanDevice;
  #handle: NativeHandle | undefined;

  constructor(device: VulkanDevice, handle: NativeHandle) {
    this.device = device;
    this.#handle = handle;
  }
  /** The handle, for `device`; throws if it was released or belongs to another device. */
  handleFor(device: VulkanDevice, what: string): NativeHandle {
    if (this.device !== device) throw new Error(`a ${what} of another device`);
    if (this.#handle === undefined) throw new Error(`the ${what} was released before this use`);
    return this.#handle;
  }
  protected drop(): void {
    if (this.#handle === undefined) return;
    this.device.native.release(this.#handle);
    this.#handle = undefined;
  }
}

class VulkanBuffer extends Held implements DeviceBuffer {
  readonly bytes: number;
  constructor(device: VulkanDevice, handle: NativeHandle, bytes: number) {
    super(device, handle);
    this.bytes = bytes;
  }
  free(): void {
    this.drop();
  }
}

class VulkanKernel extends Held implements Kernel {
  readonly name: string;
  readonly code: Pick<KernelCode, 'bindings' | 'scalarBytes'>;
  constructor(device: VulkanDevice, handle: NativeHandle, code: KernelCode) {
    super(device, handle);
    this.name = code.name;
    this.code = { bindings: code.bindings, scalarBytes: code.scalarBytes };
  }
  release(): void {
    this.drop();
  }
}

class VulkanList extends Held implements CommandList {
  release(): void {
    this.drop();
  }
}

const bufferOf = (range: BufferRange): VulkanBuffer => {
  if (!(range.buffer instanceof VulkanBuffer)) throw new Error('a buffer of another backend');
  return range.buffer;
};

/**
 * Devices to let go when the process exits without closing them: a driver that is torn down while its threads work
 * crashes (lavapipe does), and exit runs no finalizers.
 */
const openDevices = new Set<VulkanDevice>();
let watchingExit = false;
function closeAtExit(device: VulkanDevice): void {
  openDevices.add(device);
  if (watchingExit) return;
  watchingExit = true;
  process.once('exit', () => {
    for (const open of openDevices) open.abandon();
  });
}

class VulkanDevice implements Device {
  readonly native: NativeVulkan;
  readonly info: DeviceInfo;
  readonly target: Target;
  readonly lost: Promise<DeviceLoss>;
  readonly queue: Queue;
  readonly #device: NativeDevice;
  #reportLoss: (loss: DeviceLoss) => void = () => {};
  #closing: Promise<void> | undefined;

  constructor(native: NativeVulkan, device: NativeDevice, info: DeviceInfo) {
    this.native = native;
    this.#device = device;
    this.info = info;
    this.target = describe(info);
    this.lost = new Promise((resolve) => {
      this.#reportLoss = resolve;
    });
    this.queue = { submit: (work) => this.#submit(work) };
    closeAtExit(this);
  }

  memory(): { readonly allocatedBytes: number; readonly totalBytes: number } {
    return { allocatedBytes: this.native.memory(this.#device), totalBytes: this.info.memoryBytes };
  }

  allocate(bytes: number): DeviceBuffer {
    this.#mustBeOpen();
    if (!Number.isSafeInteger(bytes) || bytes < 0) throw new Error(`allocate(${bytes})`);
    const { allocatedBytes, totalBytes } = this.memory();
    const most = Math.min(totalBytes - allocatedBytes, this.target.limits.bufferBytes);
    const outOfMemory = (cause?: unknown): TuttiError =>
      new TuttiError('E_OUT_OF_MEMORY', `${bytes} bytes do not fit`, {
        subject: this.info.id,
        expected: `at most ${most} bytes (${allocatedBytes} of ${totalBytes} are in use, ${this.target.limits.bufferBytes} in one buffer)`,
        remedy: 'Use a smaller batch, a smaller model or another device',
        cause,
      });
    if (bytes > most) throw outOfMemory();
    try {
      return new VulkanBuffer(this, this.native.allocate(this.#device, bytes), bytes);
    } catch (error) {
      const mine = toTuttiError(error);
      this.#noteLoss(mine);
      throw mine instanceof TuttiError && mine.code === 'E_OUT_OF_MEMORY' ? outOfMemory(error) : mine;
    }
  }

  async loadKernels(codes: readonly KernelCode[]): Promise<readonly Kernel[]> {
    this.#mustBeOpen();
    const sources = codes.map((code): NativeKernelSource => {
      if (!code.words) throw new Error(`kernel ${code.name} has no SPIR-V`);
      this.#checkSubgroup(code);
      const { name, entry, words, scalarBytes } = code;
      return { name, entry, words, bindings: code.bindings.length, scalarBytes, subgroupSize: code.subgroupSize ?? 0 };
    });
    const handles = await this.#guarded(() => this.native.loadKernels(this.#device, sources));
    return handles.map((handle, i) => new VulkanKernel(this, handle, codes[i]));
  }

  #checkSubgroup(code: KernelCode): void {
    if (code.subgroupSize === undefined) return;
    const { min, max } = this.target.subgroup;
    const usual = this.info.limits.subgroupSize;
    const settable =
      this.info.features.includes('subgroupSizeControl') && code.subgroupSize >= min && code.subgroupSize <= max;
    if (code.subgroupSize === usual || settable) return;
    throw new TuttiError('E_KERNEL', 'the device does not run subgroups of the width that the kernel assumes', {
      subject: code.name,
      expected: String(code.subgroupSize),
      found: min === max ? String(usual) : `${min} to ${max}`,
      remedy: 'Compile for this device',
    });
  }

  async record(commands: readonly Command[]): Promise<CommandList> {
    this.#mustBeOpen();
    const encoded = new Encoder(this, this.target).encode(commands);
    const list = await this.#guarded(() =>
      this.native.record(this.#device, Float64Array.from(encoded.numbers), encoded.handles, encoded.scalars),
    );
    return new VulkanList(this, list);
  }

  async #submit(work: Parameters<Queue['submit']>[0]): Promise<Completion> {
    this.#mustBeOpen();
    const { list, writes = [], reads = [], signal, profile = false } = work;
    signal?.throwIfAborted();
    const flag = signal ? new Int32Array(1) : null;
    if (list && !(list instanceof VulkanList)) throw new Error('a list of another backend');
    const pending = this.#guarded(() =>
      this.native.submit(
        this.#device,
        list ? (list as VulkanList).handleFor(this, 'command list') : null,
        writes.flatMap((write: HostWrite) => this.#transfer(write.to, write.data)),
        reads.flatMap((read: HostRead) => this.#transfer(read.from, read.into)),
        profile,
        flag,
      ),
    );
    const times = await (signal && flag ? abortable(pending, signal, flag) : pending);
    return times && times.length > 0 ? { dispatchMicroseconds: times } : {};
  }

  #transfer(range: BufferRange, data: Uint8Array): readonly (NativeHandle | number | Uint8Array)[] {
    const handle = bufferOf(range).handleFor(this, 'buffer');
    if (data.byteLength !== range.bytes)
      throw new Error(`${data.byteLength} bytes of data for a range of ${range.bytes}`);
    checkRange(range);
    return data.byteLength === 0 ? [] : [handle, range.offset, data];
  }

  close(): Promise<void> {
    this.#closing ??= translated(() => this.native.close(this.#device)).finally(() => openDevices.delete(this));
    return this.#closing;
  }

  /** At exit only: blocks until what runs on the device has ended, and drops the rest. */
  abandon(): void {
    this.native.abandon(this.#device);
  }

  #mustBeOpen(): void {
    if (!this.#closing) return;
    throw new TuttiError('E_DEVICE_CLOSED', 'the device is closed', { subject: this.info.id });
  }

  async #guarded<T>(work: () => Promise<T>): Promise<T> {
    try {
      return await translated(work);
    } catch (error) {
      this.#noteLoss(error);
      throw error;
    }
  }
  #noteLoss(error: unknown): void {
    if (error instanceof TuttiError && error.code === 'E_DEVICE_LOST') this.#reportLoss({ reason: error.message });
  }
}

/** Rejects at once when `signal` aborts; `flag` tells the add-on that nobody looks at the results any more. */
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

function checkRange(range: BufferRange): void {
  const { offset, bytes } = range;
  if (
    !Number.isSafeInteger(offset) ||
    !Number.isSafeInteger(bytes) ||
    offset < 0 ||
    bytes < 0 ||
    offset + bytes > range.buffer.bytes
  ) {
    throw new Error(`range ${offset}+${bytes} of a buffer of ${range.buffer.bytes} bytes`);
  }
}

/** Commands as flat numbers, handles by index and scalars in one array: one native call, whatever their count. */
class Encoder {
  readonly #device: VulkanDevice;
  readonly #target: Target;
  readonly #numbers: number[] = [];
  readonly #handles: NativeHandle[] = [];
  readonly #indices = new Map<NativeHandle, number>();
  readonly #scalars: number[] = [];

  constructor(device: VulkanDevice, target: Target) {
    this.#device = device;
    this.#target = target;
  }

  encode(commands: readonly Command[]): {
    numbers: readonly number[];
    handles: readonly NativeHandle[];
    scalars: Uint8Array;
  } {
    for (const command of commands) this.#command(command);
    return { numbers: this.#numbers, handles: this.#handles, scalars: Uint8Array.from(this.#scalars) };
  }

  #command(command: Command): void {
    switch (command.kind) {
      case 'dispatch':
        this.#dispatch(command);
        return;
      case 'copy': {
        const { from, to } = command;
        if (from.bytes !== to.bytes) throw new Error(`copy of ${from.bytes} bytes to ${to.bytes}`);
        if (from.buffer === to.buffer && Math.abs(from.offset - to.offset) < from.bytes) {
          throw new Error('copy between ranges that overlap');
        }
        this.#numbers.push(1, ...this.#range(from), ...this.#range(to));
        return;
      }
      case 'fill':
        this.#numbers.push(2, ...this.#range(command.to), command.byte & 0xff);
        return;
      case 'barrier':
        this.#numbers.push(3);
        return;
      default:
        command satisfies never;
    }
  }

  #dispatch(command: Extract<Command, { kind: 'dispatch' }>): void {
    const { kernel, grid, bindings, scalars = new Uint8Array() } = command;
    if (!(kernel instanceof VulkanKernel)) throw new Error('a kernel of another backend');
    const { limits } = this.#target;
    const problem = (text: string): Error => new Error(`dispatch of ${kernel.name}: ${text}`);
    if (bindings.length !== kernel.code.bindings.length) {
      throw problem(`${bindings.length} bindings, the kernel has ${kernel.code.bindings.length}`);
    }
    if (scalars.byteLength !== kernel.code.scalarBytes) {
      throw problem(`${scalars.byteLength} bytes of scalars, the kernel has ${kernel.code.scalarBytes}`);
    }
    grid.forEach((groups, i) => {
      if (groups > limits.workgroupCount[i])
        throw problem(`grid ${grid.join('×')} is beyond ${limits.workgroupCount.join('×')}`);
    });
    this.#numbers.push(0, this.#handle(kernel.handleFor(this.#device, 'kernel')), ...grid, bindings.length);
    for (const binding of bindings) {
      if (binding.offset % limits.storageAlignment !== 0)
        throw problem(`offset ${binding.offset} is not aligned to ${limits.storageAlignment}`);
      if (binding.bytes > limits.storageBindingBytes)
        throw problem(`a binding of ${binding.bytes} bytes is beyond ${limits.storageBindingBytes}`);
      if (binding.bytes === 0) throw problem('a binding of 0 bytes');
      this.#numbers.push(...this.#range(binding));
    }
    this.#numbers.push(this.#scalars.length, scalars.byteLength);
    for (const byte of scalars) this.#scalars.push(byte);
  }

  #range(range: BufferRange): readonly [number, number, number] {
    checkRange(range);
    return [this.#handle(bufferOf(range).handleFor(this.#device, 'buffer')), range.offset, range.bytes];
  }

  #handle(handle: NativeHandle): number {
    let index = this.#indices.get(handle);
    if (index === undefined) {
      index = this.#handles.length;
      this.#indices.set(handle, index);
      this.#handles.push(handle);
    }
    return index;
  }
}
