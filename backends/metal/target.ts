/**
 * What a Metal device can do, from the GPU families it reports, and targets of devices that are not here.
 *
 * The numbers are those of Apple's published feature-set tables. `DeviceInfo.features` has the families in lower case
 * (`apple7`, `mac2`, `metal3`, …), `timestamps`, and `bfloat` where the system compiles MSL 3.1; `DeviceInfo.limits` what
 * the device answers by the names of Metal's properties. None of this has run on a real device yet; rates are estimates
 * from clocks and widths.
 */
import type { MatrixUnit, TileScalar } from '../../compiler/kernel/engines.js';
import type { Feature, Target } from '../../compiler/kernel/target.js';
import type { ScalarType } from '../../compiler/kernel/types.js';
import type { DeviceInfo } from '../backend.js';

/** Lanes of a SIMD-group of every Apple GPU. Of other GPUs in Macs they vary. */
export const simdWidth = 32;

/** Rows and columns of a simdgroup matrix. */
export const matrixSide = 8;

const unit = (operand: TileScalar): MatrixUnit => ({
  m: matrixSide,
  n: matrixSide,
  k: matrixSide,
  a: operand,
  b: operand,
  accumulator: 'f32',
});
const matrixUnits = (bfloat: boolean): readonly MatrixUnit[] =>
  (bfloat ? (['f16', 'bf16', 'f32'] as const) : (['f16', 'f32'] as const)).map(unit);

interface Family {
  readonly name: string;
  /** GPU cores of a middling device: Metal does not tell. */
  readonly cores: number;
  readonly copyGBs: number;
}

/** Families with SIMD-group reductions and matrices, in ascending order: A14 and M1, M2, A17 and M3, M4 and later. */
const appleFamilies: readonly Family[] = [
  { name: 'apple7', cores: 8, copyGBs: 60 },
  { name: 'apple8', cores: 10, copyGBs: 90 },
  { name: 'apple9', cores: 10, copyGBs: 90 },
  { name: 'apple10', cores: 10, copyGBs: 110 },
];
/** Every GPU that Metal 3 runs on in a Mac. */
const leastFamily: Family = { name: 'mac2', cores: 8, copyGBs: 60 };

const numbers: readonly ScalarType[] = ['i8', 'u8', 'i16', 'u16', 'i32', 'u32', 'i64', 'u64', 'f16', 'f32'];
/** Lanes of f32 multiply-adds of one core, and its clock. */
const lanesOfCore = 128;
const gigahertz = 1.3;

export function describe(info: DeviceInfo): Target {
  const limit = (name: string, otherwise: number): number => info.limits[name] ?? otherwise;
  const family = appleFamilies.findLast(({ name }) => info.features.includes(name));
  const { name, cores, copyGBs } = family ?? leastFamily;
  const features = new Set<Feature>(['fma']);
  if (family) features.add('subgroups');
  if (info.features.includes('timestamps')) features.add('timestamps');
  const bytes = limit('maxBufferLength', 2 ** 28);
  // So that the position of every invocation in the grid has 32 bits.
  const count = 2 ** 22 - 1;
  return {
    backend: 'metal',
    arch: name,
    style: 'simt',
    limits: {
      workgroupInvocations: 1024,
      workgroupSize: [
        limit('maxThreadsPerThreadgroupWidth', 1024),
        limit('maxThreadsPerThreadgroupHeight', 1024),
        limit('maxThreadsPerThreadgroupDepth', 1024),
      ],
      workgroupCount: [count, count, count],
      sharedBytes: limit('maxThreadgroupMemoryLength', 32 << 10),
      // Of the 31 entries of the buffer argument table, one is for the scalars.
      storageBuffers: 30,
      storageBindingBytes: bytes,
      bufferBytes: bytes,
      storageAlignment: 256,
      // As setBytes takes.
      scalarBytes: 4096,
    },
    features,
    // There is no f64. bf16 is left to the legaliser, which computes it in f32 over u16 memory.
    arithmetic: new Set<ScalarType>(['bool', ...numbers]),
    storage: new Set<ScalarType>(['bool', ...numbers]),
    vectorLanes: 4,
    vectorRegisters: 16,
    ...(family ? { matrixUnits: matrixUnits(info.features.includes('bfloat')) } : {}),
    subgroup: family ? { min: simdWidth, max: simdWidth } : { min: 1, max: 1 },
    caches: [
      { bytes: 8 << 10, shared: false },
      { bytes: 8 << 20, shared: true },
    ],
    parallelism: limit('cores', cores),
    rates: {
      copyGBs,
      gflops: 2 * limit('cores', cores) * lanesOfCore * gigahertz,
      dispatchMicroseconds: 5,
    },
  };
}

/** `apple7` to `apple10`, or `mac2`: a device of that family of middling size. */
export function target(name = 'apple7'): Target | undefined {
  if (name !== leastFamily.name && !appleFamilies.some((family) => family.name === name)) return undefined;
  return describe({
    id: 'metal:none',
    backend: 'metal',
    name: `any device of ${name}`,
    driver: 'none',
    virtual: false,
    software: false,
    memoryBytes: 2 ** 33,
    features: [name, 'bfloat'],
    limits: { maxBufferLength: 2 ** 32 },
  });
}
