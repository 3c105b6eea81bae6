/** The Metal devices that tests run on: the virtual one where it is built, and a real one on a Mac. */
import type { Device, Driver } from '../../backends/backend.js';
import { metalBackend } from '../../backends/metal/index.js';
import { LibraryDevices } from './library_devices.js';

const metal = new LibraryDevices(metalBackend, 'TUTTI_METAL_LIBRARY', 'libmetal.so');

export const metalDriver = (library: string): Promise<Driver> => metal.driver(library);
export const openMetal = (library: string): Promise<Device> => metal.open(library);
export const metalDevices = () => metal.found();
