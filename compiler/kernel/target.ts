/** What a device can do, as data. The scheduler and the legaliser obey it; renderers and drivers never meet more. */
import type { MatrixUnit } from './engines.js';
import type { ByteType, KInst, ScalarType } from './types.js';

/** As the registry of backends names it. */
export type BackendName = string;

export type Feature =
  | 'fma' // fused multiply-add is as fast as a multiply
  | 'subgroups' // subgroup ops with the width in `subgroup`
  | 'timestamps'
  | 'warpgroups' // signals, tensor copies and products of warpgroups (`bulk.ts`)
  | 'fast_exp2' // `exp2` of f32 with `fast` is one instruction
  | 'fragments' // who holds which element of a tile is known (`fragmentPlace`)
  | 'async_copy' // copies from global to shared memory that do not pass through registers
  | 'vectors'; // wide vectors (lanes up to vectorLanes) map to SIMD registers

/** Types of the two operands of a `dot4`, in any order. */
export type ByteMix = 'i8·i8' | 'u8·u8' | 'i8·u8';
export const byteMix = (left: ByteType, right: ByteType): ByteMix =>
  left !== right ? 'i8·u8' : left === 'i8' ? 'i8·i8' : 'u8·u8';

export interface Limits {
  readonly workgroupInvocations: number;
  readonly workgroupSize: readonly [number, number, number];
  readonly workgroupCount: readonly [number, number, number];
  /** Bytes of shared memory of a workgroup (on a CPU: scratch of one task). */
  readonly sharedBytes: number;
  /** Storage buffers that one kernel may bind. */
  readonly storageBuffers: number;
  /** Largest byte range of one binding. */
  readonly storageBindingBytes: number;
  /** Largest single buffer. */
  readonly bufferBytes: number;
  /** Alignment of binding offsets, in bytes. */
  readonly storageAlignment: number;
  /** Bytes of scalar parameters. */
  readonly scalarBytes: number;
}

export interface CacheLevel {
  readonly bytes: number;
  readonly shared: boolean;
}

export interface Target {
  readonly backend: BackendName;
  /** Names the code generation variant, for instance 'x86-64-v4', 'sm_90a', 'spirv1.3'. Part of cache keys. */
  readonly arch: string;
  /** `simt`: a real GPU; `software-gpu`: a GPU API executed on a CPU; `cpu`: tasks on threads, one invocation each. */
  readonly style: 'simt' | 'software-gpu' | 'cpu';
  readonly limits: Limits;
  readonly features: ReadonlySet<Feature>;
  /** Types with native arithmetic. bool, i32, u32 and f32 always; the legaliser rewrites the rest. */
  readonly arithmetic: ReadonlySet<ScalarType>;
  /** Element types that memory may have. i32, u32 and f32 always; others are packed into u32 words. */
  readonly storage: ReadonlySet<ScalarType>;
  /** Largest `lanes` of a value. 4 on GPUs, up to 16 on CPUs. */
  readonly vectorLanes: 1 | 2 | 4 | 8 | 16;
  /** Vector registers of that width, for register tiles. */
  readonly vectorRegisters: number;
  /** Products of tiles that subgroups compute together (`engines.ts`); none if absent. */
  readonly matrixUnits?: readonly MatrixUnit[];
  /** The `dot4`s that are an instruction; the legaliser spells out the others. None if absent. */
  readonly byteDots?: ReadonlySet<ByteMix>;
  readonly subgroup: { readonly min: number; readonly max: number };
  readonly caches: readonly CacheLevel[];
  /** Set by `strict` numerics: floats of 16 bits are rounded after every op, not only where a kernel stores them. */
  readonly roundsEachOp?: true;
  /** Compute units that run workgroups at once: cores, SMs. */
  readonly parallelism: number;
  readonly rates: { readonly copyGBs: number; readonly gflops: number; readonly dispatchMicroseconds: number };
}

/** Whether a mathematical function need not be expanded: an f32 `exp2` that is allowed an error of 2^-22. */
export const isInstruction = (inst: KInst, { features }: Target): boolean =>
  inst.op === 'unary' &&
  inst.fn === 'exp2' &&
  inst.fast === true &&
  inst.a.type.scalar === 'f32' &&
  features.has('fast_exp2');
