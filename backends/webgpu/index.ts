/** The WebGPU backend: the same code in Node (Dawn) and in a browser. */
import type { Backend } from '../backend.js';
import { webGpuDriver } from './driver.js';
import { renderWgsl } from './render.js';
import { describeWebGpu, webGpuTarget } from './target.js';

export const webgpuBackend: Backend = {
  name: 'webgpu',
  describe: describeWebGpu,
  target: webGpuTarget,
  render: renderWgsl,
  driver: webGpuDriver,
};
