/** An open Vulkan device: what differs from other devices of the add-on. */
import { TuttiError } from '../../compiler/error.js';
import type { Command, CommandList, DeviceInfo, KernelCode } from '../backend.js';
import { closedInOrder } from '../common/exit.js';
import { GpuDevice, type NativeGpu } from '../common/gpu_device.js';
import type { NativeDevice } from '../common/resources.js';
import { describe } from './target.js';

export class VulkanDevice extends GpuDevice {
  constructor(native: NativeGpu, device: NativeDevice, info: DeviceInfo) {
    super(native, device, info, describe(info), { name: 'SPIR-V', form: 'words' });
  }

  /** Leaves its handle to another object, which closes the device. Nothing may be on it. */
  abdicate(): void {
    closedInOrder(this);
  }

  protected override check(code: KernelCode): void {
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
}
