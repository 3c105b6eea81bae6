/** The cpu backend: C for the host's compiler, run on a thread pool. */
import type { Backend } from '../backend.js';
import { CpuDriver } from './driver.js';
import { renderKernel } from './render.js';
import { describe, targetOf } from './target.js';

export const cpuBackend: Backend = {
  name: 'cpu',
  describe,
  target: targetOf,
  render: renderKernel,
  driver: async (options) => new CpuDriver(options),
};
