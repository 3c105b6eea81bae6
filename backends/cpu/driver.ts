/**
 * The cpu driver: kernels compiled by the host's compiler, run by the add-on's thread pool.
 *
 * One device, `cpu`. A submission is one native call; the add-on's queue thread runs submissions in order, so a
 * dispatch is finished before the next starts and barriers cost nothing.
 */
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
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
  Kernel,
  KernelCode,
  Queue,
  Target,
} from '../backend.js';
import { isNativeAddon, loadNative } from '../native.js';
import type {
  NativeBuffer,
  NativeCommand,
  NativeCpu,
  NativeDevice,
  NativeKernel,
  NativeList,
  NativeRange,
} from './native.js';
import { compilerFlags, findCompiler, type HostCompiler, KernelLibrary } from './node.js';
import { describe } from './target.js';

const DEVICE_ID = 'cpu';

type Submission = Parameters<Queue['submit']>[0];

export class CpuDriver implements Driver {
  readonly name = 'cpu';
  #compiler: Promise<HostCompiler | { readonly reason: string }> | undefined;

  constructor(readonly options: DriverOptions) {}

  async probe(): Promise<{ readonly ok: true } | { readonly ok: false; readonly reason: string }> {
    const native = loadCpu();
    if ('reason' in native) return { ok: false, reason: native.reason };
    const compiler = await this.#findCompiler();
    return 'reason' in compiler ? { ok: false, reason: compiler.reason } : { ok: true };
  }

  async enumerate(): Promise<readonly DeviceInfo[]> {
    const native = loadCpu();
    const compiler = await this.#findCompiler();
    return 'reason' in native || 'reason' in compiler ? [] : [deviceInfo(native, compiler, this.#threads(native))];
  }

  async open(id: string): Promise<Device> {
    if (id !== DEVICE_ID) {
      throw new TuttiError('E_DEVICE_UNKNOWN', 'no such cpu device', { subject: id, expected: DEVICE_ID });
    }
    const native = loadCpu();
    if ('reason' in native) throw new TuttiError('E_DEVICE', native.reason, { subject: id });
    const compiler = await this.#findCompiler();
    if ('reason' in compiler) throw new TuttiError('E_DEVICE', compiler.reason, { subject: id });
    const threads = this.#threads(native);
    const info = deviceInfo(native, compiler, threads);
    const { cacheDirectory } = this.options;
    const folder =
      cacheDirectory === undefined ? await mkdtemp(join(tmpdir(), 'tutti-cpu-')) : join(cacheDirectory, 'cpu');
    const flags = compilerFlags(info.features, process.arch);
    const library = new KernelLibrary(folder, compiler, flags, `${info.name} ${info.features.join(' ')}`);
    return new CpuDevice(native, info, threads, library, cacheDirectory === undefined);
  }

  #findCompiler(): Promise<HostCompiler | { readonly reason: string }> {
    this.#compiler ??= findCompiler();
    return this.#compiler;
  }

  #threads(native: NativeCpu): number {
    const { threads } = this.options;
    if (threads !== undefined) return checkThreads(threads, 'threads');
    const chosen = process.env.TUTTI_THREADS;
    return chosen ? checkThreads(Number(chosen), 'TUTTI_THREADS') : native.info().cores;
  }
}

class CpuDevice implements Device {
  readonly target: Target;
  /** A CPU is not lost. */
  readonly lost = new Promise<DeviceLoss>(() => undefined);
  readonly queue: Queue = { submit: (work) => this.#submit(work) };
  readonly #native: NativeCpu;
  readonly #handle: NativeDevice;
  readonly #library: KernelLibrary;
  readonly #ownsFolder: boolean;
  readonly #loading = new Set<Promise<unknown>>();
  /** Those not released. They keep shared objects loaded, so closing must find them. */
  readonly #kernels = new Set<CpuKernel>();
  readonly #lists = new Set<CpuList>();
  #closed: Promise<void> | undefined;

  constructor(
    native: NativeCpu,
    readonly info: DeviceInfo,
    threads: number,
    library: KernelLibrary,
    ownsFolder: boolean,
  ) {
    this.target = describe(info);
    this.#native = native;
    this.#handle = native.open(threads, info.memoryBytes);
    this.#library = library;
    this.#ownsFolder = ownsFolder;
  }

  memory(): { readonly allocatedBytes: number; readonly totalBytes: number } {
    this.#assertOpen();
    return { allocatedBytes: this.#native.memory(this.#handle), totalBytes: this.info.memoryBytes };
  }

  async loadKernels(codes: readonly KernelCode[]): Promise<readonly Kernel[]> {
    this.#assertOpen();
    const loading = this.#load(codes);
    this.#loading.add(loading);
    try {
      return await loading;
    } finally {
      this.#loading.delete(loading);
    }
  }

  async #load(codes: readonly KernelCode[]): Promise<readonly Kernel[]> {
    const places = await this.#library.load(codes);
    const byPath = new Map<string, number[]>();
    for (const [i, { path }] of places.entries()) byPath.set(path, [...(byPath.get(path) ?? []), i]);
    const kernels: CpuKernel[] = [];
    await Promise.all(
      [...byPath].map(async ([path, indices]) => {
        const handles = await translated(() =>
          this.#native.load(
            path,
            indices.map((i) => places[i].entry),
          ),
        );
        indices.forEach((index, j) => {
          kernels[index] = new CpuKernel(this.#native, codes[index], handles[j], this.#kernels);
        });
      }),
    );
    return kernels;
  }

  allocate(bytes: number): DeviceBuffer {
    this.#assertOpen();
    try {
      return new CpuBuffer(this.#native, this.#native.allocate(this.#handle, bytes), bytes);
    } catch (error) {
      throw translate(error);
    }
  }

  async record(commands: readonly Command[]): Promise<CommandList> {
    this.#assertOpen();
    const native = commands.flatMap((command) => nativeCommand(command) ?? []);
    return new CpuList(this.#native, this.#native.record(native), this.#lists);
  }

  async #submit(work: Submission): Promise<Completion> {
    this.#assertOpen();
    const { signal } = work;
    signal?.throwIfAborted();
    const cancelled = signal && new Int32Array(1);
    const list = work.list === undefined ? undefined : CpuList.of(work.list).handle;
    const writes = (work.writes ?? []).map(({ to, data }) => ({ to: nativeRange(to), data }));
    const reads = (work.reads ?? []).map(({ from, into }) => ({ from: nativeRange(from), into }));
    const running = this.#native.submit(this.#handle, list, writes, reads, work.profile === true, cancelled);
    const settled = translated(() => running);
    const times = await (signal === undefined ? settled : unlessAborted(settled, signal, cancelled as Int32Array));
    return times === undefined ? {} : { dispatchMicroseconds: times };
  }

  close(): Promise<void> {
    this.#closed ??= this.#close();
    return this.#closed;
  }

  async #close(): Promise<void> {
    await Promise.allSettled(this.#loading);
    await this.#native.close(this.#handle);
    for (const list of this.#lists) list.release();
    for (const kernel of this.#kernels) kernel.release();
    if (this.#ownsFolder) await rm(this.#library.folder, { recursive: true, force: true });
  }

  #assertOpen(): void {
    if (this.#closed === undefined) return;
    throw new TuttiError('E_DEVICE_CLOSED', 'the device is closed', { subject: DEVICE_ID, remedy: 'Open it again.' });
  }
}

class CpuKernel implements Kernel {
  #handle: NativeKernel | undefined;

  constructor(
    readonly native: NativeCpu,
    readonly code: KernelCode,
    handle: NativeKernel,
    readonly owners: Set<CpuKernel>,
  ) {
    this.#handle = handle;
    owners.add(this);
  }

  static of(kernel: Kernel): CpuKernel {
    if (kernel instanceof CpuKernel) return kernel;
    throw new Error(`kernel ${kernel.name} belongs to another device`);
  }

  get name(): string {
    return this.code.name;
  }

  get handle(): NativeKernel {
    if (this.#handle === undefined) throw new Error(`kernel ${this.name} was released`);
    return this.#handle;
  }

  release(): void {
    if (this.#handle === undefined) return;
    this.native.releaseKernel(this.#handle);
    this.#handle = undefined;
    this.owners.delete(this);
  }
}

class CpuBuffer implements DeviceBuffer {
  #handle: NativeBuffer | undefined;

  constructor(
    readonly native: NativeCpu,
    handle: NativeBuffer,
    readonly bytes: number,
  ) {
    this.#handle = handle;
  }

  static of(buffer: DeviceBuffer): CpuBuffer {
    if (buffer instanceof CpuBuffer) return buffer;
    throw new Error('the buffer belongs to another device');
  }

  get handle(): NativeBuffer {
    if (this.#handle === undefined) throw new Error('the buffer was freed');
    return this.#handle;
  }

  free(): void {
    if (this.#handle === undefined) return;
    this.native.releaseBuffer(this.#handle);
    this.#handle = undefined;
  }
}

class CpuList implements CommandList {
  #handle: NativeList | undefined;

  constructor(
    readonly native: NativeCpu,
    handle: NativeList,
    readonly owners: Set<CpuList>,
  ) {
    this.#handle = handle;
    owners.add(this);
  }

  static of(list: CommandList): CpuList {
    if (list instanceof CpuList) return list;
    throw new Error('the command list belongs to another device');
  }

  get handle(): NativeList {
    if (this.#handle === undefined) throw new Error('the command list was released');
    return this.#handle;
  }

  release(): void {
    if (this.#handle === undefined) return;
    this.native.releaseList(this.#handle);
    this.#handle = undefined;
    this.owners.delete(this);
  }
}

const nativeRange = ({ buffer, offset, bytes }: BufferRange): NativeRange => ({
  buffer: CpuBuffer.of(buffer).handle,
  offset,
  bytes,
});

/** Undefined for barriers: commands run one after the other anyway. */
function nativeCommand(command: Command): NativeCommand | undefined {
  switch (command.kind) {
    case 'dispatch': {
      const { code, handle } = CpuKernel.of(command.kernel);
      if (command.bindings.length !== code.bindings.length) {
        throw new Error(`kernel ${code.name} takes ${code.bindings.length} buffers, not ${command.bindings.length}`);
      }
      const scalarBytes = command.scalars?.byteLength ?? 0;
      if (scalarBytes !== code.scalarBytes) {
        throw new Error(`kernel ${code.name} takes ${code.scalarBytes} bytes of scalars, not ${scalarBytes}`);
      }
      return {
        kind: 'dispatch',
        kernel: handle,
        grid: command.grid,
        bindings: command.bindings.map(nativeRange),
        scalars: command.scalars,
        scratchBytes: code.sharedBytes,
      };
    }
    case 'copy':
      return { kind: 'copy', from: nativeRange(command.from), to: nativeRange(command.to) };
    case 'fill':
      return { kind: 'fill', to: nativeRange(command.to), byte: command.byte };
    case 'barrier':
      return undefined;
    default:
      return command satisfies never;
  }
}

/** Rejects at once when aborted; the work is dropped if it has not begun, and not seen if it has. */
function unlessAborted<T>(work: Promise<T>, signal: AbortSignal, cancelled: Int32Array): Promise<T> {
  return new Promise((resolve, reject) => {
    const abort = () => {
      Atomics.store(cancelled, 0, 1);
      reject(signal.reason);
    };
    signal.addEventListener('abort', abort, { once: true });
    work.then(resolve, reject).finally(() => signal.removeEventListener('abort', abort));
  });
}

function loadCpu(): NativeCpu | { readonly reason: string } {
  const native = loadNative();
  if (!isNativeAddon(native)) return native;
  const cpu = native.cpu as NativeCpu;
  return cpu.unavailable === undefined ? cpu : { reason: cpu.unavailable };
}

function deviceInfo(native: NativeCpu, compiler: HostCompiler, threads: number): DeviceInfo {
  const facts = native.info();
  return {
    id: DEVICE_ID,
    backend: 'cpu',
    name: facts.model,
    driver: `${compiler.command.join(' ')}: ${compiler.version}`,
    virtual: false,
    software: false,
    memoryBytes: facts.memoryBytes,
    features: facts.features,
    limits: {
      cores: Math.min(threads, facts.cores),
      threads,
      l1dBytes: facts.l1dBytes,
      l2Bytes: facts.l2Bytes,
      l3Bytes: facts.l3Bytes,
    },
  };
}

function checkThreads(threads: number, subject: string): number {
  if (Number.isInteger(threads) && threads >= 1 && threads <= 1024) return threads;
  throw new TuttiError('E_USAGE', 'bad number of threads', {
    subject,
    expected: 'an integer from 1 to 1024',
    found: String(threads),
  });
}

async function translated<T>(work: () => Promise<T>): Promise<T> {
  try {
    return await work();
  } catch (error) {
    throw translate(error);
  }
}

/** The add-on's coded errors as ours; anything else is a bug and stays what it is. */
function translate(error: unknown): unknown {
  const code = (error as { code?: unknown }).code;
  if (error instanceof Error && typeof code === 'string' && code.startsWith('E_')) {
    return new TuttiError(code as ErrorCode, error.message, { cause: error });
  }
  return error;
}
