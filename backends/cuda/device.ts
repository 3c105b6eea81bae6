/** An open CUDA device: what differs from other devices of the add-on. */
import { TuttiError } from '../../compiler/error.js';
import type { DeviceInfo, KernelCode } from '../backend.js';
import { AddonDevice } from '../common/addon.js';
import { abandonAtExit, closedInOrder } from '../common/exit.js';
import type { NativeDevice, NativeDriver, NativeHandle } from '../common/resources.js';
import { describe } from './target.js';

export interface NativeFacts {
  /** `GPU-<uuid>`. */
  readonly id: string;
  readonly name: string;
  /** PCI address as `0000:01:00.0`. */
  readonly pci: string;
  readonly driver: string;
  readonly memoryBytes: number;
  readonly features: readonly string[];
  /** Among them `computeCapability` × 10 and `cudaVersion` (1000 × major + 10 × minor). */
  readonly limits: Readonly<Record<string, number>>;
}

interface NativeKernelSource {
  readonly name: string;
  readonly entry: string;
  readonly text: string;
  readonly workgroup: readonly number[];
  readonly bindings: number;
  readonly scalarBytes: number;
}

/** `addon.cuda`: see native/cuda/cuda.cc. `library` is a path, or empty for the system's driver. */
export interface NativeCuda extends NativeDriver {
  probe(library: string): Promise<string>;
  enumerate(library: string): Promise<readonly NativeFacts[]>;
  open(library: string, id: string): Promise<NativeDevice>;
  loadKernels(device: NativeDevice, sources: readonly NativeKernelSource[]): Promise<NativeHandle[]>;
  abandon(device: NativeDevice): void;
}

export class CudaDevice extends AddonDevice<NativeCuda> {
  constructor(native: NativeCuda, device: NativeDevice, info: DeviceInfo) {
    super(native, device, info, describe(info));
    abandonAtExit(this);
  }

  protected compile(codes: readonly KernelCode[]): Promise<readonly NativeHandle[]> {
    const sources = codes.map(({ name, entry, text, workgroup, bindings, scalarBytes }): NativeKernelSource => {
      if (text === undefined) throw new TuttiError('E_KERNEL', 'no PTX', { subject: `kernel ${name}` });
      return { name, entry, text, workgroup, bindings: bindings.length, scalarBytes };
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
