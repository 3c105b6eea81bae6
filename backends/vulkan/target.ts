/**
 * What a Vulkan device can do, from the facts that its driver reports, and targets of devices that are not here.
 *
 * Contractions on software drivers: what was measured (f32 SGEMM, two shared Zen 4 cores with 256-bit vectors, rates by
 * processor time because the machine was shared):
 *
 * - lavapipe (one invocation = one of 8 SIMD lanes; every value is a vector register): a register tile per invocation,
 *   no shared memory, no barrier. Inside a loop every load is itself a loop over the lanes with a condition for each
 *   component, at an address that all lanes share too: about 10 multiply-adds of a vector register for each component. So
 *   factors of A are read once a subgroup and handed round by shuffles with a constant lane (one instruction; a broadcast
 *   instead searches the first active lane and costs as much as a load), and tiles are tall: each column of B is loaded
 *   by every lane for itself. 384³: tile 24×8 47 GFLOP/s, 32×12 41, 16×8 37, 16×4 29, 8×8 26, 4×8 17, 1×8 5; 768³ 42.
 *   The multiply-adds of several steps of k stand sum by sum: step by step, each sum is spilled and fetched at each step
 *   (0.75 of the speed at 16×16). Unfused multiply and add of scalars; step 4 of k.
 *   A tile of 64 sums compiles in 0.1 s, of 128 in 0.3 s, of 256 in 0.7 s.
 *   Workgroup (8, 1, 1): one subgroup; 16 is 3 % and 32 about 30 % slower (registers of several subgroups at once).
 * - SwiftShader (4 lanes): the same form, workgroup (8, 1, 1); 512³ 8.8 GFLOP/s. There a broadcast is the cheaper op.
 * - lavapipe stops an invocation's loops after 65,535 iterations in all (see loops.ts): prefer more invocations with less each.
 * - Both: loops over private arrays with run-time indices spill to memory; keep tiles in carried values.
 */
import type { ByteMix, Feature, Target } from '../../compiler/kernel/target.js';
import type { ScalarType } from '../../compiler/kernel/types.js';
import type { DeviceInfo } from '../backend.js';
import { archOfMatrices, matricesOf } from './matrices.js';

/** Float controls that a renderer may ask for, by float width in bits. */
export interface FloatControls {
  /** Signed zeros, infinities and NaNs are kept. */
  readonly preserve: ReadonlySet<number>;
  /** Results round to nearest even. */
  readonly roundToEven: ReadonlySet<number>;
}

/** Products of four bytes, with the property that says whether they are an instruction. */
const byteDots: readonly (readonly [property: string, mix: ByteMix])[] = [
  ['integerDotProduct4x8BitPackedSignedAccelerated', 'i8·i8'],
  ['integerDotProduct4x8BitPackedUnsignedAccelerated', 'u8·u8'],
  ['integerDotProduct4x8BitPackedMixedSignednessAccelerated', 'i8·u8'],
];

/** Software drivers take them apart, into more than the multiplications of floats that they replace. */
const byteDotsOf = (features: ReadonlySet<string>): readonly ByteMix[] =>
  features.has('shaderIntegerDotProduct')
    ? byteDots.filter(([property]) => features.has(property)).map(([, mix]) => mix)
    : [];

/** `arch` is `spirv1.3`, then what float controls and dot products there are: `+preserve16+preserve32+rte16+i8·i8`. */
function archOf(features: ReadonlySet<string>): string {
  let arch = ['spirv1.3', ...byteDotsOf(features)].join('+');
  for (const width of [16, 32, 64]) if (features.has(`signedZeroInfNanPreserve${width}`)) arch += `+preserve${width}`;
  for (const width of [16, 32, 64]) if (features.has(`roundingModeRTE${width}`)) arch += `+rte${width}`;
  return arch;
}

/** Loop iterations of one invocation, over all its loops, after which the driver leaves them; undefined for no limit. */
export function loopLimitOf(target: Target): number | undefined {
  const part = target.arch.split('+').find((candidate) => candidate.startsWith('loops'));
  return part === undefined ? undefined : Number(part.slice('loops'.length));
}

/**
 * Whether a lane is handed to all as a shuffle: the driver's broadcast looks for the first active lane, to learn from it
 * which lane is meant, where a shuffle by a constant is one instruction.
 */
export const broadcastsByShuffle = (target: Target): boolean => target.arch.split('+').includes('shuffle');

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
  // Software drivers round twice and are given a slow emulation; GPUs fuse, in the time of a multiplication.
  if (!info.software) features.add('fma');
  if (has.has('subgroups')) features.add('subgroups');
  if (has.has('timestamps')) features.add('timestamps');

  const mixes = byteDotsOf(has);
  const lavapipe = info.software && info.name.includes('llvmpipe');
  const subgroup = limit('subgroupSize', 1);
  const matrices = matricesOf(info);
  return {
    backend: 'vulkan',
    arch: archOf(has) + (lavapipe ? '+loops65000+shuffle' : '') + archOfMatrices(matrices),
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
    ...(mixes.length === 0 ? {} : { byteDots: new Set(mixes) }),
    vectorLanes: 4,
    vectorRegisters: lavapipe ? 32 : 16,
    ...(matrices.length > 0 ? { matrixUnits: matrices.map(({ unit }) => unit) } : {}),
    subgroup: { min: limit('minSubgroupSize', subgroup), max: limit('maxSubgroupSize', subgroup) },
    caches: info.software
      ? [
          { bytes: 32 << 10, shared: false },
          { bytes: 1 << 20, shared: false },
        ]
      : [{ bytes: 4 << 20, shared: true }],
    parallelism: info.software ? limit('hostThreads', 2) : 32,
    rates: lavapipe
      ? { copyGBs: 8, gflops: 80, dispatchMicroseconds: 42 }
      : info.software
        ? { copyGBs: 4, gflops: 18, dispatchMicroseconds: 60 }
        : { copyGBs: 300, gflops: 5000, dispatchMicroseconds: 5 },
  };
}

/** `spirv`: what every Vulkan 1.1 device has. */
export function target(arch = 'spirv1.3'): Target | undefined {
  if (arch !== 'spirv' && arch !== 'spirv1.3') return undefined;
  const least = describe({
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
  return { ...least, features: new Set() };
}
