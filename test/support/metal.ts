/** The Metal devices that tests run on: the virtual one where it is built, and a real one on a Mac. */
import type { Device, Driver, DriverOptions } from '../../backends/backend.js';
import { metalBackend } from '../../backends/metal/index.js';
import { LibraryDevices, type OpenOptions } from './library_devices.js';

const metal = new LibraryDevices(metalBackend, 'TUTTI_METAL_LIBRARY', 'libmetal.so');

export const metalDriver = (library: string, options?: DriverOptions): Promise<Driver> =>
  metal.driver(library, options);
export const openMetal = (library: string, options?: OpenOptions): Promise<Device> => metal.open(library, options);
export const metalDevices = () => metal.found();
