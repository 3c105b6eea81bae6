/**
 * The whole of what a backend is: a description of devices, a renderer and a driver.
 *
 * Everything above this file is the same for every device; everything below differs. A backend is one folder in
 * `backends/`, one in `native/` if it has a native driver, and one line in `node.ts`.
 */
import type { BackendName, Target } from '../compiler/kernel/target.js';
import type { KernelFunction } from '../compiler/kernel/types.js';

export type { BackendName, Target };

export interface Backend {
  readonly name: BackendName;
  /** Data from data: what the scheduler may assume about a device. Throws nothing, does no I/O. */
  describe(info: DeviceInfo): Target;
  /**
   * Target of a device that need not be here, from a name such as `spirv` or `sm_90a`; undefined if unknown. Without a
   * name: what kernels are made for where nobody says more.
   */
  target(arch?: string): Target | undefined;
  /** Pure, synchronous, no I/O. The kernel is legal for the target. */
  render(kernel: KernelFunction, target: Target): KernelCode;
  /** Opens the driver. Never rejects because of missing hardware: that is `probe`'s answer. */
  driver(options: DriverOptions): Promise<Driver>;
}

export interface DriverOptions {
  /** Folder for compiled kernels and pipelines, or undefined for no disk cache. */
  readonly cacheDirectory?: string;
  /** CPU threads; default: all cores. */
  readonly threads?: number;
  /** A WebGPU device the caller owns. */
  readonly gpuDevice?: unknown;
  /** Where a driver says what it leaves out or works around; default: nowhere. */
  readonly log?: Log;
}

/** `message` is asked for only where somebody listens. */
export type Log = (level: 'info' | 'debug', message: () => string) => void;

export interface DeviceInfo {
  /** Stable: `cpu`, `vulkan:<uuid>`, `webgpu:<adapter>`, `cuda:GPU-<uuid>`, `metal:<registryID>`. */
  readonly id: string;
  readonly backend: BackendName;
  readonly name: string;
  /** Driver name and version in words. */
  readonly driver: string;
  /** True for the virtual devices of the test suite. */
  readonly virtual: boolean;
  /** True where a GPU API is executed on a CPU (lavapipe, SwiftShader). */
  readonly software: boolean;
  readonly memoryBytes: number;
  readonly features: readonly string[];
  readonly limits: Readonly<Record<string, number>>;
}

export interface KernelCode {
  readonly name: string;
  /** C, WGSL, PTX or MSL source; SPIR-V has `words`. */
  readonly text?: string;
  readonly words?: Uint32Array;
  readonly entry: string;
  readonly workgroup: readonly [number, number, number];
  /** Buffer parameters in binding order. */
  readonly bindings: readonly ('read' | 'write' | 'readwrite')[];
  /** Bytes of scalar parameters, 4 each in order. */
  readonly scalarBytes: number;
  readonly sharedBytes: number;
  /** Shared memory that every launch must give; the rest is declared in the code. */
  readonly dynamicSharedBytes?: number;
  /** Descriptions of tensors in bound buffers, which the driver passes after the scalars. */
  readonly tensorMaps?: readonly TensorMapCode[];
  readonly subgroupSize?: number;
}

/** A tensor that the device copies boxes of, 128-byte swizzled, with zeros beyond its ends. Innermost dimension first. */
export interface TensorMapCode {
  /** Number of the buffer, and bytes from where it is bound. */
  readonly binding: number;
  readonly offset: number;
  readonly elementBytes: number;
  readonly dims: readonly number[];
  /** Bytes, of the dimensions after the innermost. */
  readonly strides: readonly number[];
  readonly box: readonly number[];
}

export interface Driver {
  readonly name: BackendName;
  /** Reasons are for the reader: "libvulkan.so.1 not found: install the Vulkan loader (Debian: libvulkan1)". */
  probe(): Promise<{ readonly ok: true } | { readonly ok: false; readonly reason: string }>;
  enumerate(): Promise<readonly DeviceInfo[]>;
  /** Rejects with TuttiError E_DEVICE_UNKNOWN or E_DEVICE. */
  open(id: string): Promise<Device>;
}

/** Work of a compiler that is a program of its own. */
export interface HostCompilerWork {
  readonly kernels: number;
  /** During which one was running. */
  readonly milliseconds: number;
}

export interface DeviceLoss {
  readonly reason: string;
}

/**
 * An open device. What returns promises works off the event loop's thread, but for what is done before another thread
 * would take it up.
 */
export interface Device {
  readonly info: DeviceInfo;
  readonly target: Target;
  /** Resolves when the device is lost (never for a device that is closed in order). */
  readonly lost: Promise<DeviceLoss>;
  /** Bytes in buffers now, and how many may be. */
  memory(): { readonly allocatedBytes: number; readonly totalBytes: number };
  /** What the compiler of the host has done for it so far, where there is one: results that were found on disk do not count. */
  hostCompiler?(): HostCompilerWork;
  /** Compiles; the results keep the order. Rejects with TuttiError E_KERNEL naming the kernel and the compiler's words. */
  loadKernels(codes: readonly KernelCode[]): Promise<readonly Kernel[]>;
  /** Zero-filled. Throws TuttiError E_OUT_OF_MEMORY with both numbers. */
  allocate(bytes: number): DeviceBuffer;
  /** Recording is a plain call sequence; nothing runs before `submit`. */
  record(commands: readonly Command[]): Promise<CommandList>;
  /** Only where recording takes no time worth another thread. */
  recordSync?(commands: readonly Command[]): CommandList;
  readonly queue: Queue;
  /** Waits for work in flight, then frees everything. Later calls throw E_DEVICE_CLOSED. */
  close(): Promise<void>;
}

export interface Kernel {
  readonly name: string;
  release(): void;
}

export interface DeviceBuffer {
  readonly bytes: number;
  free(): void;
}

export interface BufferRange {
  readonly buffer: DeviceBuffer;
  readonly offset: number;
  readonly bytes: number;
}

export type Command =
  | {
      readonly kind: 'dispatch';
      readonly kernel: Kernel;
      readonly grid: readonly [number, number, number];
      readonly bindings: readonly BufferRange[];
      readonly scalars?: Uint8Array;
    }
  | { readonly kind: 'copy'; readonly from: BufferRange; readonly to: BufferRange }
  | { readonly kind: 'fill'; readonly to: BufferRange; readonly byte: number }
  /** All commands before are finished, their writes visible, before any command after starts. */
  | { readonly kind: 'barrier' };

/** Replayable; holds its kernels and buffers alive. At most one submission of a list is in flight (the queue orders them). */
export interface CommandList {
  release(): void;
}

export interface HostWrite {
  readonly to: BufferRange;
  readonly data: Uint8Array;
  /** What the range holds afterwards does not matter: the list may read `data` where it lies. */
  readonly passing?: boolean;
}
export interface HostRead {
  readonly from: BufferRange;
  readonly into: Uint8Array;
  /** What the range held before and holds afterwards does not matter: the list may write to `into`. */
  readonly passing?: boolean;
}

export interface Work {
  readonly list?: CommandList;
  readonly writes?: readonly HostWrite[];
  readonly reads?: readonly HostRead[];
  /** Ask for the time of each dispatch, in order of the list. */
  readonly profile?: boolean;
}

/** In order: submissions execute one after the other. Each call is one call into native code. */
export interface Queue {
  /**
   * Writes, runs the list (if given), reads. `data` must not change and `into` must not be read before the promise
   * settles. Aborting rejects with the signal's reason at once; work already on the device finishes unseen. Work that is
   * done sooner than another thread would take it up may be done in the calling one.
   */
  submit(work: Work & { readonly signal?: AbortSignal }): Promise<Completion>;
  /** The same; where the work is done on return, or refused, there is no promise. */
  start?(work: Work & { readonly signal?: AbortSignal }): Completion | Promise<Completion>;
  /** Only where the calling thread can do the work: after all that was submitted before, and done on return. */
  submitSync?(work: Work): Completion;
}

export interface Completion {
  /** Microseconds of each dispatch, if asked for and possible. */
  readonly dispatchMicroseconds?: Float64Array;
}
