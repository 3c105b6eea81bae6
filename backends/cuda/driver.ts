/** The cuda driver: NVIDIA devices through the driver API. Not yet run on a real card. */
import type { Driver, DriverOptions } from '../backend.js';
import { GpuDevice } from '../common/gpu_device.js';
import { type GpuApi, GpuDriver } from '../common/gpu_driver.js';
import { describe } from './target.js';

const api: GpuApi = {
  name: 'cuda',
  label: 'CUDA',
  library: 'TUTTI_CUDA_LIBRARY',
  open: (native, device, info) => new GpuDevice(native, device, info, describe(info), { name: 'PTX', form: 'text' }),
};

export async function openDriver(options: DriverOptions): Promise<Driver> {
  return new GpuDriver(api, options);
}
