/** The shape of the add-on's `cpu` object (native/cpu/cpu.cc). Handles are opaque. */

export interface NativeCpuInfo {
  readonly model: string;
  readonly architecture: string;
  readonly cores: number;
  readonly memoryBytes: number;
  readonly l1dBytes: number;
  readonly l2Bytes: number;
  readonly l3Bytes: number;
  readonly features: readonly string[];
}

declare const brand: unique symbol;
interface Opaque<Name extends string> {
  readonly [brand]: Name;
}
export type NativeDevice = Opaque<'device'>;
export type NativeBuffer = Opaque<'buffer'>;
export type NativeKernel = Opaque<'kernel'>;
export type NativeList = Opaque<'list'>;

export interface NativeRange {
  readonly buffer: NativeBuffer;
  readonly offset: number;
  readonly bytes: number;
}

export type NativeCommand =
  | {
      readonly kind: 'dispatch';
      readonly kernel: NativeKernel;
      readonly grid: readonly [number, number, number];
      readonly bindings: readonly NativeRange[];
      readonly scalars?: Uint8Array;
      readonly scratchBytes: number;
    }
  | { readonly kind: 'copy'; readonly from: NativeRange; readonly to: NativeRange }
  | { readonly kind: 'fill'; readonly to: NativeRange; readonly byte: number };

export interface NativeCpu {
  /** Set instead of everything else where the driver is not built for the platform. */
  readonly unavailable?: string;
  info(): NativeCpuInfo;
  open(threads: number, memoryBytes: number): NativeDevice;
  /** Bytes allocated. */
  memory(device: NativeDevice): number;
  /** Throws an error with `code` E_OUT_OF_MEMORY. */
  allocate(device: NativeDevice, bytes: number): NativeBuffer;
  /** One handle an entry, each of which keeps the shared object loaded. */
  load(path: string, entries: readonly string[]): Promise<readonly NativeKernel[]>;
  record(commands: readonly NativeCommand[]): NativeList;
  /** `cancelled[0]` not 0: the result is no longer wanted. */
  submit(
    device: NativeDevice,
    list: NativeList | undefined,
    writes: readonly { readonly to: NativeRange; readonly data: Uint8Array }[],
    reads: readonly { readonly from: NativeRange; readonly into: Uint8Array }[],
    profile: boolean,
    cancelled: Int32Array | undefined,
  ): Promise<Float64Array | undefined>;
  close(device: NativeDevice): Promise<void>;
  releaseBuffer(buffer: NativeBuffer): void;
  releaseKernel(kernel: NativeKernel): void;
  releaseList(list: NativeList): void;
}
