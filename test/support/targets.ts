/** Targets for tests that need no device: one of each style, with everything native. */
import type { Target } from '../../compiler/kernel/target.js';
import { scalarTypes } from '../../compiler/kernel/types.js';

const base: Target = {
  backend: 'cpu',
  arch: 'test',
  style: 'cpu',
  limits: {
    workgroupInvocations: 1,
    workgroupSize: [1, 1, 1],
    workgroupCount: [2 ** 31 - 1, 65535, 65535],
    sharedBytes: 1 << 20,
    storageBuffers: 64,
    storageBindingBytes: 2 ** 31 - 1,
    bufferBytes: 2 ** 31 - 1,
    storageAlignment: 64,
    scalarBytes: 128,
  },
  features: new Set(['fma', 'vectors']),
  arithmetic: new Set(scalarTypes),
  storage: new Set(scalarTypes),
  vectorLanes: 8,
  vectorRegisters: 16,
  subgroup: { min: 1, max: 1 },
  caches: [
    { bytes: 32 << 10, shared: false },
    { bytes: 1 << 20, shared: false },
  ],
  parallelism: 2,
  rates: { copyGBs: 20, gflops: 200, dispatchMicroseconds: 5 },
};

const gpuLimits = {
  ...base.limits,
  workgroupInvocations: 256,
  workgroupSize: [256, 256, 64],
  workgroupCount: [65535, 65535, 65535],
  sharedBytes: 32 << 10,
  storageBuffers: 12,
  storageAlignment: 256,
} as const;

export const testTargets: Readonly<Record<'cpu' | 'simt' | 'software', Target>> = {
  cpu: base,
  simt: {
    ...base,
    backend: 'vulkan',
    style: 'simt',
    limits: gpuLimits,
    vectorLanes: 4,
    features: new Set(['fma']),
    parallelism: 16,
    subgroup: { min: 32, max: 32 },
  },
  software: {
    ...base,
    backend: 'vulkan',
    style: 'software-gpu',
    limits: gpuLimits,
    vectorLanes: 4,
    features: new Set(),
  },
};

/** What every GPU has: 32-bit types, and nothing else. */
export const minimumTarget: Target = {
  ...testTargets.software,
  backend: 'webgpu',
  arithmetic: new Set(['bool', 'i32', 'u32', 'f32']),
  storage: new Set(['i32', 'u32', 'f32']),
};
