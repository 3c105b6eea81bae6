/** All backends, one line each. Each is loaded when it is first asked for. */
import type { Backend, BackendName } from './backend.js';

export const backends: Readonly<Partial<Record<BackendName, () => Promise<Backend>>>> = {
  cpu: async () => (await import('./cpu/index.js')).cpuBackend,
  cuda: async () => (await import('./cuda/index.js')).cudaBackend,
  metal: async () => (await import('./metal/index.js')).metalBackend,
  vulkan: async () => (await import('./vulkan/index.js')).vulkanBackend,
  webgpu: async () => (await import('./webgpu/index.js')).webgpuBackend,
};
