/**
 * The vulkan driver: devices of the Vulkan loader, or of one ICD file. Cooperative matrices are left out where the
 * environment says so, and where a trial of a device fails.
 */
import { availableParallelism } from 'node:os';
import type { DeviceInfo, Driver, DriverOptions, Log } from '../backend.js';
import type { NativeGpu } from '../common/gpu_device.js';
import { type GpuApi, GpuDriver } from '../common/gpu_driver.js';
import type { NativeDevice } from '../common/resources.js';
import { VulkanDevice } from './device.js';
import { isMatrixFeature, withoutMatrices } from './matrices.js';
import { type Failure, failingUnits } from './trial.js';

/** What trials of this process found, by device and driver. */
const trials = new Map<string, Promise<readonly Failure[]>>();

/** The device for an open handle, with the matrices that it passes a trial of; `log` hears of the others. */
export async function openVulkan(
  native: NativeGpu,
  handle: NativeDevice,
  info: DeviceInfo,
  log: Log,
): Promise<VulkanDevice> {
  const device = new VulkanDevice(native, handle, info);
  if (device.target.matrixUnits === undefined) return device;
  const key = `${info.id} ${info.driver}`;
  const trial = trials.get(key) ?? failingUnits(device);
  trials.set(key, trial);
  const failures = await trial;
  if (failures.length === 0) return device;
  for (const { unit, reason } of failures) {
    const { a, b, m, n, k } = unit;
    log('info', () => `${info.id}: matrices of ${a} and ${b}, ${m}×${n}×${k}, are left out: ${reason}`);
  }
  device.abdicate();
  return new VulkanDevice(
    native,
    handle,
    withoutMatrices(
      info,
      failures.map(({ unit }) => unit),
    ),
  );
}

export const vulkanApi: GpuApi = {
  name: 'vulkan',
  label: 'Vulkan',
  library: 'TUTTI_VULKAN_ICD',
  staging: 'TUTTI_VULKAN_STAGING',
  // Software devices have no other parallelism.
  limits: { hostThreads: availableParallelism() },
  features: (found) =>
    process.env.TUTTI_VULKAN_COOPERATIVE_MATRIX === '0' ? found.filter((name) => !isMatrixFeature(name)) : found,
  open: openVulkan,
};

export async function openDriver(options: DriverOptions): Promise<Driver> {
  return new GpuDriver(vulkanApi, options);
}
