/** The metal driver: Apple's GPUs, and others in Macs. Not yet run on a real device. */
import type { Driver, DriverOptions } from '../backend.js';
import { GpuDevice } from '../common/gpu_device.js';
import { type GpuApi, GpuDriver } from '../common/gpu_driver.js';
import { describe } from './target.js';

const api: GpuApi = {
  name: 'metal',
  label: 'Metal',
  library: 'TUTTI_METAL_LIBRARY',
  staging: 'TUTTI_METAL_STAGING',
  open: (native, device, info) => new GpuDevice(native, device, info, describe(info), { name: 'MSL', form: 'text' }),
};

export async function openDriver(options: DriverOptions): Promise<Driver> {
  return new GpuDriver(api, options);
}
