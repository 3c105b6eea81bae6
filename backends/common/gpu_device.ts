/** An open GPU of the native add-on: kernels go in as text or words, and the process may exit without closing it. */
import { TuttiError } from '../../compiler/error.js';
import type { DeviceInfo, KernelCode, Target, TensorMapCode } from '../backend.js';
import { AddonDevice } from './addon.js';
import { abandonAtExit, closedInOrder } from './exit.js';
import type { NativeDevice, NativeDriver, NativeHandle } from './resources.js';

export interface NativeFacts {
  /** Without the backend's name. */
  readonly id: string;
  readonly name: string;
  readonly driver: string;
  readonly software: boolean;
  readonly memoryBytes: number;
  readonly features: readonly string[];
  readonly limits: Readonly<Record<string, number>>;
}

interface NativeKernelSource {
  readonly name: string;
  readonly entry: string;
  readonly text?: string;
  readonly words?: Uint32Array;
  readonly workgroup: readonly number[];
  readonly bindings: number;
  readonly scalarBytes: number;
  /** 0: any. */
  readonly subgroupSize: number;
  readonly dynamicShared: number;
  /** One after another, each as binding, offset, bytes of an element, rank, dims, strides, box. */
  readonly tensorMaps: readonly number[];
}

const numbersOf = ({ binding, offset, elementBytes, dims, strides, box }: TensorMapCode): readonly number[] => [
  ...[binding, offset, elementBytes, dims.length],
  ...dims,
  ...strides,
  ...box,
];

/** `addon.cuda` and the like: see native/common/driver.cc. `library` is a path, or empty for the system's driver. */
export interface NativeGpu extends NativeDriver {
  /** Empty, or the reason why not. */
  probe(library: string): Promise<string>;
  enumerate(library: string): Promise<readonly NativeFacts[]>;
  /** `cache`: a folder for compiled kernels, or empty. `staging`: as if the host did not see the device's memory. */
  open(library: string, id: string, cache: string, staging: boolean): Promise<NativeDevice>;
  loadKernels(device: NativeDevice, sources: readonly NativeKernelSource[]): Promise<NativeHandle[]>;
  /** Waits for what runs on the device, though not for ever, and drops the rest. */
  abandon(device: NativeDevice): void;
}

/** In what a backend hands over kernels. */
export interface KernelLanguage {
  readonly name: string;
  readonly form: 'text' | 'words';
}

export class GpuDevice extends AddonDevice<NativeGpu> {
  readonly #language: KernelLanguage;

  constructor(native: NativeGpu, device: NativeDevice, info: DeviceInfo, target: Target, language: KernelLanguage) {
    super(native, device, info, target);
    this.#language = language;
    abandonAtExit(this);
  }

  /** Throws E_KERNEL where the device cannot run what the code asks for. */
  protected check(_code: KernelCode): void {}

  protected compile(codes: readonly KernelCode[]): Promise<readonly NativeHandle[]> {
    const { name: language, form } = this.#language;
    const sources = codes.map((code): NativeKernelSource => {
      const { name, entry, workgroup, bindings, scalarBytes, subgroupSize = 0 } = code;
      const { dynamicSharedBytes: dynamicShared = 0, tensorMaps = [] } = code;
      const content = code[form];
      if (content === undefined) throw new TuttiError('E_KERNEL', `no ${language}`, { subject: `kernel ${name}` });
      this.check(code);
      const needs = { bindings: bindings.length, scalarBytes, subgroupSize, dynamicShared };
      return { name, entry, [form]: content, workgroup, ...needs, tensorMaps: tensorMaps.flatMap(numbersOf) };
    });
    return this.native.loadKernels(this.handle, sources);
  }

  protected override async closed(): Promise<void> {
    closedInOrder(this);
  }

  abandon(): void {
    this.native.abandon(this.handle);
  }
}
