/** The vulkan driver: devices of the Vulkan loader, or of one ICD file. */
import { availableParallelism } from 'node:os';
import type { Driver, DriverOptions } from '../backend.js';
import { type GpuApi, GpuDriver } from '../common/gpu_driver.js';
import { VulkanDevice } from './device.js';

const api: GpuApi = {
  name: 'vulkan',
  label: 'Vulkan',
  library: 'TUTTI_VULKAN_ICD',
  staging: 'TUTTI_VULKAN_STAGING',
  // Software devices have no other parallelism.
  limits: { hostThreads: availableParallelism() },
  open: (native, device, info) => new VulkanDevice(native, device, info),
};

export async function openDriver(options: DriverOptions): Promise<Driver> {
  return new GpuDriver(api, options);
}
