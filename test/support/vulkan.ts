/** Software Vulkan drivers that tests run on, and running one kernel on one. */
import { existsSync } from 'node:fs';
import type { Device, Driver } from '../../backends/backend.js';
import { vulkanBackend } from '../../backends/vulkan/index.js';
import type { KernelFunction } from '../../compiler/kernel/types.js';
import { withEnvironment } from './environment.js';

const candidates = [
  ['lavapipe', '/usr/share/vulkan/icd.d/lvp_icd.x86_64.json'],
  ['lavapipe', '/usr/share/vulkan/icd.d/lvp_icd.aarch64.json'],
  ['SwiftShader', '/usr/lib/chromium/vk_swiftshader_icd.json'],
] as const;

/** Installed software drivers by name, with their ICD files. */
export const softwareDrivers = candidates.filter(([, file]) => existsSync(file));

/** A driver for one ICD; `staging` makes every transfer go through staging buffers, as on a discrete GPU. */
export const driverFor = (icd: string, cacheDirectory?: string): Promise<Driver> =>
  withEnvironment({ TUTTI_VULKAN_ICD: icd }, () =>
    vulkanBackend.driver(cacheDirectory === undefined ? {} : { cacheDirectory }),
  );

export async function openFirst(
  icd: string,
  options: { staging?: boolean; cacheDirectory?: string } = {},
): Promise<Device> {
  const driver = await driverFor(icd, options.cacheDirectory);
  const [info] = await driver.enumerate();
  if (!info) throw new Error(`${icd} offers no device`);
  return withEnvironment({ TUTTI_VULKAN_STAGING: options.staging ? '1' : '0' }, () => driver.open(info.id));
}

/** Runs kernels, each with its own host buffers (one a buffer parameter), which are changed in place. */
export async function runKernels(
  device: Device,
  work: readonly { kernel: KernelFunction; data: readonly Uint8Array[]; scalars?: Uint8Array }[],
): Promise<void> {
  const kernels = await device.loadKernels(work.map(({ kernel }) => vulkanBackend.render(kernel, device.target)));
  for (const [i, { kernel, data, scalars }] of work.entries()) {
    const buffers = data.map((bytes) => device.allocate(bytes.length));
    const whole = buffers.map((buffer) => ({ buffer, offset: 0, bytes: buffer.bytes }));
    const list = await device.record([
      { kind: 'dispatch', kernel: kernels[i], grid: kernel.grid, bindings: whole, ...(scalars ? { scalars } : {}) },
    ]);
    await device.queue.submit({
      list,
      writes: whole.map((to, j) => ({ to, data: data[j] })),
      reads: whole.map((from, j) => ({ from, into: data[j] })),
    });
    list.release();
    kernels[i].release();
    for (const buffer of buffers) buffer.free();
  }
}
