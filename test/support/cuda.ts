/** The CUDA devices that tests run on: the virtual one where it is built, and a real one where there is. */
import { existsSync } from 'node:fs';
import { join } from 'node:path';
import type { Device, Driver } from '../../backends/backend.js';
import { cudaBackend } from '../../backends/cuda/index.js';
import { repository } from './data.js';

/** TUTTI_CUDA_LIBRARY, or what `npm run build:virtual` builds. */
export const virtualLibrary = process.env.TUTTI_CUDA_LIBRARY || join(repository, 'build', 'virtual', 'libcuda.so.1');

/** A driver of one library; empty for the system's. */
export async function cudaDriver(library: string): Promise<Driver> {
  const before = process.env.TUTTI_CUDA_LIBRARY;
  process.env.TUTTI_CUDA_LIBRARY = library;
  try {
    return await cudaBackend.driver({});
  } finally {
    if (before === undefined) delete process.env.TUTTI_CUDA_LIBRARY;
    else process.env.TUTTI_CUDA_LIBRARY = before;
  }
}

export async function openCuda(library: string): Promise<Device> {
  const driver = await cudaDriver(library);
  const [info] = await driver.enumerate();
  if (!info) throw new Error(`${library || 'the system'} offers no CUDA device`);
  return driver.open(info.id);
}

/** The system's first: once the stand-in is loaded, asking for the system's library by its name would give the stand-in. */
const candidates = [
  ['the first device of this machine', ''],
  ['the virtual device', existsSync(virtualLibrary) ? virtualLibrary : undefined],
] as const;

/** Names and libraries of what there is. */
export async function cudaDevices(): Promise<readonly (readonly [name: string, library: string])[]> {
  const found: (readonly [string, string])[] = [];
  for (const [name, library] of candidates) {
    if (library === undefined) continue;
    const probed = await (await cudaDriver(library)).probe();
    if (probed.ok) found.push([name, library]);
  }
  return found;
}
