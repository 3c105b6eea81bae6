/** What a WebGPU device can do, as data: from its limits and features, or the defaults that every adapter offers. */

import type { Feature, Target } from '../../compiler/kernel/target.js';
import type { ScalarType } from '../../compiler/kernel/types.js';
import type { DeviceInfo } from '../backend.js';

/** Default limits of the WebGPU specification (section "Limits"): what code compiled ahead of time may assume. */
export const defaultLimits: Readonly<Record<string, number>> = {
  maxStorageBuffersPerShaderStage: 8,
  maxStorageBufferBindingSize: 134_217_728,
  maxBufferSize: 268_435_456,
  maxUniformBufferBindingSize: 65_536,
  minStorageBufferOffsetAlignment: 256,
  minUniformBufferOffsetAlignment: 256,
  maxComputeInvocationsPerWorkgroup: 256,
  maxComputeWorkgroupSizeX: 256,
  maxComputeWorkgroupSizeY: 256,
  maxComputeWorkgroupSizeZ: 64,
  maxComputeWorkgroupsPerDimension: 65_535,
  maxComputeWorkgroupStorageSize: 16_384,
};

interface Facts {
  readonly limits: Readonly<Record<string, number>>;
  readonly features: ReadonlySet<string>;
  readonly software: boolean;
}

/** Target of an open adapter. Throws nothing, does no I/O. */
export const describeWebGpu = (info: DeviceInfo): Target =>
  targetOf({ limits: info.limits, features: new Set(info.features), software: info.software });

/** `wgsl`, optionally with `+f16`: the specification's default limits on an unknown GPU. */
export function webGpuTarget(arch: string): Target | undefined {
  const [base, ...options] = arch.split('+');
  if (base !== 'wgsl' || options.some((option) => option !== 'f16')) return undefined;
  return targetOf({
    limits: defaultLimits,
    features: new Set(options.length > 0 ? ['shader-f16'] : []),
    software: false,
  });
}

function targetOf({ limits, features, software }: Facts): Target {
  const limit = (name: string): number => limits[name] ?? defaultLimits[name] ?? 0;
  const f16 = features.has('shader-f16');
  const subgroup = { min: limits.subgroupMinSize ?? 0, max: limits.subgroupMaxSize ?? 0 };
  // WGSL cannot ask for a width, so subgroup ops need a device that has only one.
  const subgroups = features.has('subgroups') && subgroup.min > 0 && subgroup.min === subgroup.max;
  const enabled = new Set<Feature>();
  if (subgroups) enabled.add('subgroups');
  if (features.has('timestamp-query')) enabled.add('timestamps');
  const arithmetic = new Set<ScalarType>(['bool', 'i32', 'u32', 'f32']);
  if (f16) arithmetic.add('f16');
  const count = limit('maxComputeWorkgroupsPerDimension');
  return {
    backend: 'webgpu',
    arch: `wgsl${f16 ? '+f16' : ''}${subgroups ? `+subgroups${subgroup.min}` : ''}`,
    style: software ? 'software-gpu' : 'simt',
    limits: {
      workgroupInvocations: limit('maxComputeInvocationsPerWorkgroup'),
      workgroupSize: [
        limit('maxComputeWorkgroupSizeX'),
        limit('maxComputeWorkgroupSizeY'),
        limit('maxComputeWorkgroupSizeZ'),
      ],
      workgroupCount: [count, count, count],
      sharedBytes: limit('maxComputeWorkgroupStorageSize'),
      storageBuffers: limit('maxStorageBuffersPerShaderStage'),
      storageBindingBytes: limit('maxStorageBufferBindingSize'),
      bufferBytes: limit('maxBufferSize'),
      storageAlignment: limit('minStorageBufferOffsetAlignment'),
      scalarBytes: limit('maxUniformBufferBindingSize'),
    },
    features: enabled,
    arithmetic,
    storage: new Set<ScalarType>(['i32', 'u32', 'f32']),
    vectorLanes: 4,
    vectorRegisters: software ? 16 : 64,
    subgroup: subgroups ? subgroup : { min: 1, max: 1 },
    caches: software
      ? [
          { bytes: 32 << 10, shared: false },
          { bytes: 512 << 10, shared: false },
          { bytes: 16 << 20, shared: true },
        ]
      : [
          { bytes: 64 << 10, shared: false },
          { bytes: 4 << 20, shared: true },
        ],
    parallelism: limits.parallelism ?? (software ? 4 : 32),
    rates: software
      ? { copyGBs: 3, gflops: 1.5, dispatchMicroseconds: 60 }
      : { copyGBs: 200, gflops: 4_000, dispatchMicroseconds: 10 },
  };
}
