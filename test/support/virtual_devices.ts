/** Lets `devices()` find the virtual devices where they are built and nothing else is asked for: call it before. */
import { existsSync } from 'node:fs';
import { join } from 'node:path';
import { repository } from './data.js';

export function useVirtualDevices(): void {
  for (const [variable, file] of [
    ['TUTTI_CUDA_LIBRARY', 'libcuda.so.1'],
    ['TUTTI_METAL_LIBRARY', 'libmetal.so'],
  ]) {
    const path = join(repository, 'build', 'virtual', file);
    if (process.env[variable] === undefined && existsSync(path)) process.env[variable] = path;
  }
}
