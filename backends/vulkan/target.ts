/** What a Vulkan device can do, from the facts that its driver reports, and targets of devices that are not here. */
import type { Feature, Target } from '../../compiler/kernel/target.js';
import type { ScalarType } from '../../compiler/kernel/types.js';
import type { DeviceInfo } from '../backend.js';

/** Float controls that a renderer may ask for, by float width in bits. */
export interface FloatControls {
  /** Signed zeros, infinities and NaNs are kept. */
  readonly preserve: ReadonlySet<number>;
  /** Results round to nearest even. */
  readonly roundToEven: ReadonlySet<number>;
}

/** `arch` is `spirv1.3`, then what float controls there are: `+preserve16+preserve32+rte16`. */
function archOf(features: ReadonlySet<string>): string {
  let arch = 'spirv1.3';
  for (const width of [16, 32, 64]) if (features.has(`signedZeroInfNanPreserve${width}`)) arch += `+preserve${width}`;
  for (const width of [16, 32, 64]) if (features.has(`roundingModeRTE${width}`)) arch += `+rte${width}`;
  return arch;
}

export function floatControlsOf(target: Target): FloatControls {
  const parts = target.arch.split('+').slice(1);
  const widths = (prefix: string): ReadonlySet<number> =>
    new Set(parts.filter((part) => part.startsWith(prefix)).map((part) => Number(part.slice(prefix.length))));
  return { preserve: widths('preserve'), roundToEven: widths('rte') };
}

export function describe(info: DeviceInfo): Target {
  const has = new Set(info.features);
  const limit = (name: string, least: number): number => info.limits[name] ?? least;
  const arithmetic = new Set<ScalarType>(['bool', 'i32', 'u32', 'f32']);
  const storage = new Set<ScalarType>(['i32', 'u32', 'f32']);
  const add = (set: Set<ScalarType>, when: boolean, ...types: ScalarType[]): void => {
    if (when) for (const type of types) set.add(type);
  };
  add(arithmetic, has.has('shaderInt64'), 'i64', 'u64');
  add(storage, has.has('shaderInt64'), 'i64', 'u64');
  add(arithmetic, has.has('shaderFloat64'), 'f64');
  add(storage, has.has('shaderFloat64'), 'f64');
  add(arithmetic, has.has('shaderInt16'), 'i16', 'u16');
  add(arithmetic, has.has('shaderInt8'), 'i8', 'u8');
  add(arithmetic, has.has('shaderFloat16'), 'f16');
  // Elements of a type without arithmetic may still be loaded, converted and stored.
  add(storage, has.has('storageBuffer16BitAccess'), 'i16', 'u16', 'f16');
  add(storage, has.has('storageBuffer8BitAccess'), 'i8', 'u8', 'bool');

  const features = new Set<Feature>();
  if (has.has('subgroups')) features.add('subgroups');
  if (has.has('timestamps')) features.add('timestamps');

  const lavapipe = info.software && info.name.includes('llvmpipe');
  const subgroup = limit('subgroupSize', 1);
  return {
    backend: 'vulkan',
    arch: archOf(has),
    style: info.software ? 'software-gpu' : 'simt',
    limits: {
      workgroupInvocations: limit('maxComputeWorkGroupInvocations', 128),
      workgroupSize: [
        limit('maxComputeWorkGroupSizeX', 128),
        limit('maxComputeWorkGroupSizeY', 128),
        limit('maxComputeWorkGroupSizeZ', 64),
      ],
      workgroupCount: [
        limit('maxComputeWorkGroupCountX', 65535),
        limit('maxComputeWorkGroupCountY', 65535),
        limit('maxComputeWorkGroupCountZ', 65535),
      ],
      sharedBytes: limit('maxComputeSharedMemorySize', 16384),
      storageBuffers: limit('maxPerStageDescriptorStorageBuffers', 4),
      storageBindingBytes: limit('maxStorageBufferRange', 2 ** 27),
      bufferBytes: limit('maxMemoryAllocationSize', 2 ** 30),
      storageAlignment: limit('minStorageBufferOffsetAlignment', 256),
      scalarBytes: limit('maxPushConstantsSize', 128),
    },
    features,
    arithmetic,
    storage,
    vectorLanes: 4,
    vectorRegisters: lavapipe ? 32 : 16,
    subgroup: { min: limit('minSubgroupSize', subgroup), max: limit('maxSubgroupSize', subgroup) },
    caches: info.software
      ? [
          { bytes: 32 << 10, shared: false },
          { bytes: 1 << 20, shared: false },
        ]
      : [{ bytes: 4 << 20, shared: true }],
    parallelism: info.software ? limit('hostThreads', 2) : 32,
    rates: lavapipe
      ? { copyGBs: 8, gflops: 25, dispatchMicroseconds: 42 }
      : info.software
        ? { copyGBs: 4, gflops: 1.5, dispatchMicroseconds: 60 }
        : { copyGBs: 300, gflops: 5000, dispatchMicroseconds: 5 },
  };
}

/** `spirv`: what every Vulkan 1.1 device has. */
export function target(arch: string): Target | undefined {
  if (arch !== 'spirv' && arch !== 'spirv1.3') return undefined;
  return describe({
    id: 'vulkan:none',
    backend: 'vulkan',
    name: 'any Vulkan 1.1 device',
    driver: 'none',
    virtual: false,
    software: false,
    memoryBytes: 2 ** 30,
    features: [],
    limits: {},
  });
}
