/**
 * What an NVIDIA device can do, from its compute capability and its driver, and targets of devices that are not here.
 *
 * The numbers are NVIDIA's published ones (CUDA C++ Programming Guide, table of compute capabilities). None of this has
 * run on a real card yet; rates are estimates from clocks and widths.
 */
import type { MatrixUnit, TileScalar } from '../../compiler/kernel/engines.js';
import type { ByteMix, Feature, Target } from '../../compiler/kernel/target.js';
import type { DeviceInfo } from '../backend.js';

export interface Arch {
  /** As PTX writes it: `sm_75`, `sm_90a`. */
  readonly name: string;
  /** Compute capability × 10. */
  readonly sm: number;
  /** Least `.version` of PTX that knows the target and what we use of it. */
  readonly ptx: readonly [major: number, minor: number];
}

/** In order of preference for a capability: the last that device and driver know. */
export const archs: readonly Arch[] = [
  { name: 'sm_75', sm: 75, ptx: [6, 5] },
  { name: 'sm_80', sm: 80, ptx: [7, 0] },
  { name: 'sm_86', sm: 86, ptx: [7, 1] },
  { name: 'sm_87', sm: 87, ptx: [7, 4] },
  { name: 'sm_89', sm: 89, ptx: [7, 8] },
  { name: 'sm_90', sm: 90, ptx: [7, 8] },
  { name: 'sm_90a', sm: 90, ptx: [8, 0] },
  { name: 'sm_100', sm: 100, ptx: [8, 6] },
  { name: 'sm_103', sm: 103, ptx: [8, 8] },
  { name: 'sm_120', sm: 120, ptx: [8, 7] },
  { name: 'sm_121', sm: 121, ptx: [8, 8] },
];
const leastArch = archs[0];

/** PTX that a driver compiles, by its CUDA version (1000 × major + 10 × minor, as cuDriverGetVersion says). */
const ptxOfDriver: readonly (readonly [cuda: number, ptx: readonly [number, number]])[] = [
  [10000, [6, 3]],
  [10010, [6, 4]],
  [10020, [6, 5]],
  [11000, [7, 0]],
  [11010, [7, 1]],
  [11020, [7, 2]],
  [11030, [7, 3]],
  [11040, [7, 4]],
  [11050, [7, 5]],
  [11060, [7, 6]],
  [11070, [7, 7]],
  [11080, [7, 8]],
  [12000, [8, 0]],
  [12010, [8, 1]],
  [12020, [8, 2]],
  [12030, [8, 3]],
  [12040, [8, 4]],
  [12050, [8, 5]],
  [12070, [8, 6]],
  [12080, [8, 7]],
  [12090, [8, 8]],
  [13000, [9, 0]],
];

const atLeast = (a: readonly [number, number], b: readonly [number, number]): boolean =>
  a[0] > b[0] || (a[0] === b[0] && a[1] >= b[1]);

/** Undefined for drivers before CUDA 10.0. */
export function ptxVersionOf(cudaVersion: number): readonly [number, number] | undefined {
  return ptxOfDriver.findLast(([cuda]) => cuda <= cudaVersion)?.[1];
}

/** The best architecture for a device (compute capability × 10) and its driver; undefined if there is none. */
export function archFor(sm: number, cudaVersion: number): Arch | undefined {
  const ptx = ptxVersionOf(cudaVersion);
  if (ptx === undefined) return undefined;
  return archs.findLast((arch) => {
    if (!atLeast(ptx, arch.ptx)) return false;
    // Code for `sm_90a` runs on 9.0 only; other code runs on all later devices.
    return arch.name.endsWith('a') ? arch.sm === sm : arch.sm <= sm;
  });
}

export const archNamed = (name: string): Arch | undefined => archs.find((arch) => arch.name === name);

/** Lanes that multiply and add f32 in one cycle of one multiprocessor. */
const lanesOf = (sm: number): number => (sm === 75 || sm === 80 ? 64 : 128);

/** Products of f16 by mma.sync for one of f32, from published peak rates; of bytes twice, of tf32 half as many. */
function halfSpeedOf(sm: number): number {
  if (sm === 80) return 16;
  return sm > 80 && sm < 90 ? 4 : 8;
}

/** Tiles of 16×16 by 32 bytes of k: two instructions of mma.sync each on sm_80 and later. */
function matrixUnitsOf(sm: number): readonly MatrixUnit[] {
  const half = halfSpeedOf(sm);
  const unit = (k: number, a: TileScalar, b: TileScalar, accumulator: TileScalar, speed: number): MatrixUnit => ({
    ...{ m: 16, n: 16, k },
    ...{ a, b, accumulator, speed },
  });
  const bytes = ['i8', 'u8'] as const;
  return [
    unit(16, 'f16', 'f16', 'f32', half),
    ...bytes.flatMap((a) => bytes.map((b) => unit(32, a, b, 'i32', 2 * half))),
    ...(sm >= 80 ? [unit(16, 'bf16', 'bf16', 'f32', half), unit(8, 'tf32', 'tf32', 'f32', half / 2)] : []),
  ];
}

function featuresOf({ name, sm }: Arch): ReadonlySet<Feature> {
  const features = new Set<Feature>(['fma', 'subgroups', 'fragments', 'fast_exp2', 'timestamps']);
  if (sm >= 80) features.add('async_copy');
  if (name === 'sm_90a') features.add('warpgroups');
  return features;
}

/** Bytes of shared memory that a workgroup can have where the launch asks for them. */
function mostShared(sm: number): number {
  if (sm < 80) return 64 << 10;
  if (sm === 80 || sm === 87) return 163 << 10;
  return sm >= 90 && sm < 120 ? 227 << 10 : 99 << 10;
}

export function describe(info: DeviceInfo): Target {
  const limit = (name: string, otherwise: number): number => info.limits[name] ?? otherwise;
  const sm = limit('computeCapability', leastArch.sm);
  const arch = archFor(sm, limit('cudaVersion', 13000)) ?? leastArch;
  const processors = limit('multiprocessors', 32);
  const clockGHz = limit('clockKHz', 1_500_000) / 1e6;
  const memoryGBs = (limit('memoryClockKHz', 7_000_000) * 2 * limit('memoryBusBits', 256)) / 8 / 1e6;
  return {
    backend: 'cuda',
    arch: arch.name,
    style: 'simt',
    limits: {
      workgroupInvocations: limit('maxThreadsPerBlock', 1024),
      workgroupSize: [limit('maxBlockX', 1024), limit('maxBlockY', 1024), limit('maxBlockZ', 64)],
      workgroupCount: [limit('maxGridX', 2 ** 31 - 1), limit('maxGridY', 65_535), limit('maxGridZ', 65_535)],
      sharedBytes: limit('sharedBytesOptIn', mostShared(arch.sm)),
      // A kernel's parameters have 4 KiB: 64 pointers and the scalars fit well.
      storageBuffers: 64,
      storageBindingBytes: info.memoryBytes,
      bufferBytes: info.memoryBytes,
      storageAlignment: 256,
      scalarBytes: 1024,
    },
    features: featuresOf(arch),
    matrixUnits: matrixUnitsOf(arch.sm),
    arithmetic: new Set(['bool', 'i8', 'u8', 'i16', 'u16', 'i32', 'u32', 'i64', 'u64', 'f16', 'f32', 'f64']),
    // bf16 is left to the legaliser, which computes it in f32 over u16 memory.
    storage: new Set(['bool', 'i8', 'u8', 'i16', 'u16', 'i32', 'u32', 'i64', 'u64', 'f16', 'f32', 'f64']),
    byteDots: new Set<ByteMix>(['i8·i8', 'u8·u8', 'i8·u8']),
    vectorLanes: 4,
    vectorRegisters: 16,
    subgroup: { min: 32, max: 32 },
    caches: [
      { bytes: 128 << 10, shared: false },
      { bytes: limit('cacheBytes', 4 << 20), shared: true },
    ],
    parallelism: processors,
    rates: {
      copyGBs: Math.max(1, memoryGBs),
      gflops: Math.max(1, 2 * processors * lanesOf(sm) * clockGHz),
      dispatchMicroseconds: 2.5,
    },
  };
}

/** `sm_75`, `sm_80`, `sm_90a`, …: a device of that architecture of middling size. */
export function target(name = 'sm_80'): Target | undefined {
  const arch = archNamed(name);
  if (!arch) return undefined;
  const described = describe({
    id: 'cuda:none',
    backend: 'cuda',
    name: `any device of ${name}`,
    driver: 'none',
    virtual: false,
    software: false,
    memoryBytes: 2 ** 34,
    features: [],
    limits: { computeCapability: arch.sm },
  });
  return { ...described, arch: name };
}
