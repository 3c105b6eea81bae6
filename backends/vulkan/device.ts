/** An open Vulkan device: what differs from other devices of the add-on. */
import { TuttiError } from '../../compiler/error.js';
import type { Command, CommandList, DeviceInfo, KernelCode } from '../backend.js';
import { AddonDevice } from '../common/addon.js';
import type { NativeDevice, NativeDriver, NativeHandle } from '../common/resources.js';
import { describe } from './target.js';

export interface NativeFacts {
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
export interface NativeVulkan extends NativeDriver {
  probe(icd: string): Promise<string>;
  enumerate(icd: string): Promise<readonly NativeFacts[]>;
  open(icd: string, id: string, cacheFile: string, forceStaging: boolean): Promise<NativeDevice>;
  loadKernels(device: NativeDevice, sources: readonly NativeKernelSource[]): Promise<NativeHandle[]>;
  abandon(device: NativeDevice): void;
}

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

export class VulkanDevice extends AddonDevice<NativeVulkan> {
  constructor(native: NativeVulkan, device: NativeDevice, info: DeviceInfo) {
    super(native, device, info, describe(info));
    closeAtExit(this);
  }

  protected compile(codes: readonly KernelCode[]): Promise<readonly NativeHandle[]> {
    const sources = codes.map((code): NativeKernelSource => {
      if (!code.words) throw new TuttiError('E_KERNEL', 'no SPIR-V', { subject: `kernel ${code.name}` });
      this.#checkSubgroup(code);
      const { name, entry, words, scalarBytes } = code;
      return { name, entry, words, bindings: code.bindings.length, scalarBytes, subgroupSize: code.subgroupSize ?? 0 };
    });
    return this.native.loadKernels(this.handle, sources);
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

  /** A descriptor of no bytes is against the rules of Vulkan. */
  override async record(commands: readonly Command[]): Promise<CommandList> {
    for (const command of commands) {
      if (command.kind !== 'dispatch') continue;
      const empty = command.bindings.findIndex((binding) => binding.bytes === 0);
      if (empty < 0) continue;
      throw new TuttiError('E_USAGE', `buffer ${empty} is bound without any bytes`, {
        subject: `kernel ${command.kernel.name}`,
      });
    }
    return super.record(commands);
  }

  protected override async closed(): Promise<void> {
    openDevices.delete(this);
  }

  /** At exit only: blocks until what runs on the device has ended, and drops the rest. */
  abandon(): void {
    this.native.abandon(this.handle);
  }
}
