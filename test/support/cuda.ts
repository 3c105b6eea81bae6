/** The CUDA devices that tests run on: the virtual one where it is built, and a real one where there is. */
import type { Device, Driver } from '../../backends/backend.js';
import { cudaBackend } from '../../backends/cuda/index.js';
import { LibraryDevices, type OpenOptions } from './library_devices.js';

const cuda = new LibraryDevices(cudaBackend, 'TUTTI_CUDA_LIBRARY', 'libcuda.so.1');

export const { virtualLibrary } = cuda;
export const cudaDriver = (library: string): Promise<Driver> => cuda.driver(library);
export const openCuda = (library: string, options?: OpenOptions): Promise<Device> => cuda.open(library, options);
export const cudaDevices = () => cuda.found();
