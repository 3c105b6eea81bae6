/**
 * What a WebGPU device can do, as data: from its limits and features, or the defaults that every adapter offers.
 *
 * What is fast where WebGPU runs on a CPU (style `software-gpu`; Dawn on SwiftShader 5, two shared Zen 5 cores, best of
 * 12 to 15 runs, 2026-11):
 * - Barriers ruin everything: a sum over each of 1,024 rows of 1,024 takes 3 ms with one invocation a row, 9 ms with
 *   16 invocations a row, shared memory and barriers, and 33 ms with 64. So: no shared memory, no cooperation.
 * - SGEMM 256³, vec4 accumulators and vec4 loads of B straight from global memory, GFLOP/s: tile 1×4 0.9, 4×4 1.2,
 *   4×8 1.9, 4×16 1.7, 8×4 1.6, 8×8 2.1 to 2.8, 16×8 2.6. Workgroups of 4 to 64 invocations are alike as long as they
 *   are a multiple of the subgroup (4); one of a single invocation costs a factor of four. Unrolling k by 1, 4 or 8 is
 *   alike, by 16 worse; loading A as vec4 along k or as scalars is alike.
 * - Elementwise work: vec4 doubles the speed of scalars (1.7 against 0.8 GB/s of traffic), four vec4 an invocation give
 *   2.3; workgroups of 64 beat 16. Copies by the queue run at 25 GB/s: never copy with a kernel.
 * - A dispatch costs 16 to 20 µs, a submission with its wait 60 to 120 µs, the first run of a kernel 15 to 40 ms.
 * - WGSL's bounds checks cost 10 to 25 %; in Node they are off (see node.ts).
 * - Loads gather lane by lane, at an address that all lanes share too; a subgroup that reads together and hands round by
 *   subgroupBroadcast makes 512³ twice as fast (6 to 7 GFLOP/s with tiles of 64 sums). Loads by atomics are no better.
 */

import type { ByteMix, Feature, Target } from '../../compiler/kernel/target.js';
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

/** WGSL's language feature for products of four bytes: in `DeviceInfo.features` of devices that have it. */
export const byteDotFeature = 'packed_4x8_integer_dot_product';

interface Facts {
  readonly limits: Readonly<Record<string, number>>;
  readonly features: ReadonlySet<string>;
  readonly software: boolean;
}

/** Target of an open adapter. Throws nothing, does no I/O. */
export const describeWebGpu = (info: DeviceInfo): Target =>
  targetOf({ limits: info.limits, features: new Set(info.features), software: info.software });

/** `wgsl`, optionally with `+f16` and `+dot` (products of bytes): the specification's default limits on an unknown GPU. */
export function webGpuTarget(arch = 'wgsl'): Target | undefined {
  const [base, ...options] = arch.split('+');
  if (base !== 'wgsl' || options.some((option) => option !== 'f16' && option !== 'dot')) return undefined;
  return targetOf({
    limits: defaultLimits,
    features: new Set(options.map((option) => (option === 'f16' ? 'shader-f16' : byteDotFeature))),
    software: false,
  });
}

function targetOf({ limits, features, software }: Facts): Target {
  const limit = (name: string): number => limits[name] ?? defaultLimits[name] ?? 0;
  const f16 = features.has('shader-f16');
  const dots = features.has(byteDotFeature) && !software;
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
    arch: `wgsl${f16 ? '+f16' : ''}${dots ? '+dot' : ''}${subgroups ? `+subgroups${subgroup.min}` : ''}`,
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
    // Software takes them apart, into more than the multiplications of floats that they replace.
    ...(dots ? { byteDots: new Set<ByteMix>(['i8·i8', 'u8·u8']) } : {}),
    arithmetic,
    storage: new Set<ScalarType>(['i32', 'u32', 'f32']),
    vectorLanes: 4,
    vectorRegisters: software ? 32 : 64,
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
      ? { copyGBs: 2.3, gflops: 14, dispatchMicroseconds: 18 }
      : { copyGBs: 200, gflops: 4_000, dispatchMicroseconds: 10 },
  };
}
