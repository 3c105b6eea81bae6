/**
 * The cpu driver: one device, `cpu`.
 *
 * Kernels are compiled by the host's compiler and run by the add-on's thread pool. A submission is one native call; the
 * add-on runs submissions in order, on its queue's thread or, if asked to or they are short, on the caller's, so a
 * dispatch is finished before the next starts and barriers cost nothing.
 */
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { TuttiError } from '../../compiler/error.js';
import type { Device, DeviceInfo, Driver, DriverOptions, HostCompilerWork, KernelCode } from '../backend.js';
import { AddonDevice } from '../common/addon.js';
import type { NativeDevice, NativeDriver, NativeHandle } from '../common/resources.js';
import { isNativeAddon, loadNative } from '../native.js';
import { compilerFlags, findCompiler, type HostCompiler, KernelLibrary } from './node.js';
import { describe } from './target.js';

interface NativeFacts {
  readonly model: string;
  readonly architecture: string;
  readonly cores: number;
  readonly memoryBytes: number;
  readonly l1dBytes: number;
  readonly l2Bytes: number;
  readonly l3Bytes: number;
  readonly features: readonly string[];
}

interface NativeKernelSource {
  readonly entry: string;
  /** By binding: whether the kernel may write there. */
  readonly writes: readonly boolean[];
  readonly scalarBytes: number;
  /** Of one thread: shared arrays and large private ones. */
  readonly scratchBytes: number;
}

/** `addon.cpu`: see native/cpu/cpu.cc. */
interface NativeCpu extends NativeDriver {
  /** Set instead of everything else where the driver is not built for the platform. */
  readonly unavailable?: string;
  info(): NativeFacts;
  open(threads: number, memoryBytes: number): NativeDevice;
  /** Kernels of one shared object, each of which keeps it loaded. */
  load(path: string, sources: readonly NativeKernelSource[]): Promise<readonly NativeHandle[]>;
}

const DEVICE_ID = 'cpu';

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
    this.#compiler ??= findCompiler(this.options.cacheDirectory);
    return this.#compiler;
  }

  #threads(native: NativeCpu): number {
    const { threads } = this.options;
    if (threads !== undefined) return checkThreads(threads, 'threads');
    const chosen = process.env.TUTTI_THREADS;
    return chosen ? checkThreads(Number(chosen), 'TUTTI_THREADS') : native.info().cores;
  }
}

class CpuDevice extends AddonDevice<NativeCpu> {
  readonly #library: KernelLibrary;
  readonly #ownsFolder: boolean;

  constructor(native: NativeCpu, info: DeviceInfo, threads: number, library: KernelLibrary, ownsFolder: boolean) {
    super(native, native.open(threads, info.memoryBytes), info, describe(info));
    this.#library = library;
    this.#ownsFolder = ownsFolder;
  }

  hostCompiler(): HostCompilerWork {
    return this.#library.work;
  }

  protected async compile(codes: readonly KernelCode[]): Promise<readonly NativeHandle[]> {
    const places = await this.#library.load(codes);
    const byPath = new Map<string, number[]>();
    for (const [i, { path }] of places.entries()) byPath.set(path, [...(byPath.get(path) ?? []), i]);
    const handles: NativeHandle[] = [];
    await Promise.all(
      [...byPath].map(async ([path, indices]) => {
        const sources = indices.map((i): NativeKernelSource => {
          const { bindings, scalarBytes, sharedBytes } = codes[i];
          const writes = bindings.map((access) => access !== 'read');
          return { entry: places[i].entry, writes, scalarBytes, scratchBytes: sharedBytes };
        });
        const loaded = await this.native.load(path, sources);
        indices.forEach((index, j) => {
          handles[index] = loaded[j];
        });
      }),
    );
    return handles;
  }

  protected override async closed(): Promise<void> {
    if (this.#ownsFolder) await rm(this.#library.folder, { recursive: true, force: true });
  }
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
