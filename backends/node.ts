/** Backends that need Node, best first: one line each. Browsers get an empty module instead of this one. */
import type { Backend } from './backend.js';

export const nodeBackends: Readonly<Record<string, () => Promise<Backend>>> = {
  cuda: async () => (await import('./cuda/index.js')).cudaBackend,
  metal: async () => (await import('./metal/index.js')).metalBackend,
  vulkan: async () => (await import('./vulkan/index.js')).vulkanBackend,
  cpu: async () => (await import('./cpu/index.js')).cpuBackend,
};
