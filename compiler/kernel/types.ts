/**
 * Kernel IR: what one kernel does.
 *
 * Structured SSA. A kernel is a grid of workgroups; every invocation of a workgroup runs `body`.
 * All shapes are concrete (dynamic models are specialised before lowering), so grids and bounds are numbers.
 * Values are identified by object; `id` is unique within a kernel (helpers included) and only used for printing.
 * The interpreter (`interpreter.ts`) is the definition of what each op means; renderers are checked against it.
 *
 * Semantics that renderers must keep:
 * - Integer `add sub mul neg shl` wrap modulo 2^bits. `div` truncates toward zero and `rem` has the sign of the
 *   dividend; the divisor is never 0 and MIN/-1 never occurs (the producer guards). Shift amounts are in [0, bits).
 *   `shr` is arithmetic for signed and logical for unsigned types.
 * - Float arithmetic is IEEE round-to-nearest-even in the type of the operands, never contracted; `fma` is fused.
 *   A float op with `fast` may be contracted or reassociated. Float `rem` is C's fmod.
 * - `min`/`max` on floats return NaN if either operand is NaN. `round` is to nearest, ties to even.
 * - `compare` is false with NaN, except `ne`, which is true.
 * - `convert`: int→int wraps; int→float rounds to nearest even; float→float rounds to nearest even (overflow gives
 *   Inf); float→int truncates, saturates at the type's range, NaN gives 0; anything→bool is `!= 0`; bool→x is 0 or 1.
 * - `dot4` takes each u32 of `a` and `b` as four bytes, signed or not as `left` and `right` say: its lane is
 *   c + Σ aᵢ·bᵢ, wrapping modulo 2^32.
 * - `load`/`store` with `lanes > 1` touch consecutive elements `index … index+lanes-1`; `aligned` promises that
 *   `index` is a multiple of the lanes. Bool tensors are memory of `u8` holding 0 or 1.
 * - Matrix tiles and asynchronous copies have their semantics in `engines.ts`.
 * - Parameters of one dispatch never overlap in memory. Invocations of one dispatch never race: no two write one
 *   element, none reads what another writes, except through atomics or across a `barrier` of their workgroup.
 */

import type { EngineInst, KSignal, KTensorMap, KTile } from './engines.js';

export const scalarTypes = [
  'bool',
  'i8',
  'u8',
  'i16',
  'u16',
  'i32',
  'u32',
  'i64',
  'u64',
  'f16',
  'bf16',
  'f32',
  'f64',
] as const;
export type ScalarType = (typeof scalarTypes)[number];

export type Lanes = 1 | 2 | 4 | 8 | 16;
export interface KType {
  readonly scalar: ScalarType;
  readonly lanes: Lanes;
}

/** Inclusive integer interval. Absent means: the whole range of the type. */
export interface Range {
  readonly min: number;
  readonly max: number;
}

export interface KValue {
  readonly id: number;
  readonly type: KType;
  readonly range?: Range;
}

/**
 * `abs neg sign`, rounding and roots are exact; the others are expanded by `expandMath` before rendering, but for `exp2`
 * with `fast` where the target has it: within 2^-22, and 0 below the smallest normal number.
 */
export type ExactUnaryFn = 'neg' | 'abs' | 'not' | 'floor' | 'ceil' | 'round' | 'trunc' | 'sqrt' | 'popcount' | 'clz';
export const mathFns = [
  'exp',
  'exp2',
  'log',
  'log2',
  'sin',
  'cos',
  'tan',
  'asin',
  'acos',
  'atan',
  'sinh',
  'cosh',
  'asinh',
  'acosh',
  'atanh',
  'tanh',
  'erf',
] as const;
export type MathFn = (typeof mathFns)[number];
export type UnaryFn = ExactUnaryFn | MathFn;
/** `not` is logical on bool and bitwise on integers; so are `and or xor`. `mulhi` is the high half of the product (u32, i32). */
export type BinaryFn =
  | 'add'
  | 'sub'
  | 'mul'
  | 'div'
  | 'rem'
  | 'min'
  | 'max'
  | 'and'
  | 'or'
  | 'xor'
  | 'shl'
  | 'shr'
  | 'mulhi';
/** Expanded by `expandMath` like the `MathFn`s. */
export type MathBinaryFn = 'pow' | 'atan2';
export type CompareFn = 'eq' | 'ne' | 'lt' | 'le' | 'gt' | 'ge';
/** How the four bytes of a word count. */
export type ByteType = Extract<ScalarType, 'i8' | 'u8'>;
export type AtomicFn = 'add' | 'min' | 'max' | 'and' | 'or' | 'xor' | 'exchange';
/** `broadcast` gives everyone the value of lane `delta`, which must be active; a shuffle's lane is relative to one's own. */
export type SubgroupFn = 'add' | 'min' | 'max' | 'broadcast' | 'broadcast_first' | 'shuffle_xor' | 'shuffle_down';
export type Builtin = 'workgroup_id' | 'local_id' | 'subgroup_lane' | 'subgroup_size';

/** A buffer parameter: global memory bound per dispatch. `length` is its number of elements. */
export interface KBuffer {
  readonly kind: 'buffer';
  readonly name: string;
  readonly scalar: ScalarType;
  readonly length: number;
  readonly access: 'read' | 'write' | 'readwrite';
}
/** A scalar parameter (u32, i32 or f32), passed per dispatch: push constant, uniform or argument. */
export interface KScalar {
  readonly kind: 'scalar';
  readonly name: string;
  readonly scalar: 'u32' | 'i32' | 'f32';
  /** Of an integer: what every dispatch promises to pass. */
  readonly range?: Range;
}
export type KParam = KBuffer | KScalar;

/** An array of a workgroup (`shared`) or of one invocation (`private`). Contents are undefined at start. */
export interface KArray {
  readonly kind: 'array';
  readonly name: string;
  readonly space: 'shared' | 'private';
  readonly scalar: ScalarType;
  readonly length: number;
}
export type KMemory = KBuffer | KArray;

export interface Carried {
  readonly initial: KValue;
  /** The value inside the body; the body's `yields[i]` is its next value. */
  readonly inner: KValue;
  readonly result: KValue;
}

export type KInst =
  | { readonly op: 'const'; readonly result: KValue; readonly value: number | bigint }
  | { readonly op: 'scalar'; readonly result: KValue; readonly param: KScalar }
  | { readonly op: 'builtin'; readonly result: KValue; readonly builtin: Builtin; readonly dim: 0 | 1 | 2 }
  | { readonly op: 'unary'; readonly result: KValue; readonly fn: UnaryFn; readonly a: KValue; readonly fast?: boolean }
  | {
      readonly op: 'binary';
      readonly result: KValue;
      readonly fn: BinaryFn | MathBinaryFn;
      readonly a: KValue;
      readonly b: KValue;
      readonly fast?: boolean;
    }
  | { readonly op: 'fma'; readonly result: KValue; readonly a: KValue; readonly b: KValue; readonly c: KValue }
  /** `a` and `b` are u32, `c` and the result i32. */
  | {
      readonly op: 'dot4';
      readonly result: KValue;
      readonly a: KValue;
      readonly b: KValue;
      readonly c: KValue;
      readonly left: ByteType;
      readonly right: ByteType;
    }
  | { readonly op: 'compare'; readonly result: KValue; readonly fn: CompareFn; readonly a: KValue; readonly b: KValue }
  | {
      readonly op: 'select';
      readonly result: KValue;
      readonly condition: KValue;
      readonly a: KValue;
      readonly b: KValue;
    }
  | { readonly op: 'convert'; readonly result: KValue; readonly a: KValue }
  /** Same total bits; `lanes` may change (u32x2 ↔ u64 is not used; u32 ↔ f32, u16x2 ↔ u32, … are). */
  | { readonly op: 'bitcast'; readonly result: KValue; readonly a: KValue }
  | { readonly op: 'splat'; readonly result: KValue; readonly a: KValue }
  | { readonly op: 'extract'; readonly result: KValue; readonly a: KValue; readonly lane: number }
  | { readonly op: 'build'; readonly result: KValue; readonly elements: readonly KValue[] }
  /** A fact the enclosing conditions imply: `a` lies in `result.range`. Costs nothing. */
  | { readonly op: 'assume'; readonly result: KValue; readonly a: KValue }
  | {
      readonly op: 'load';
      readonly result: KValue;
      readonly memory: KMemory;
      readonly index: KValue;
      readonly aligned: boolean;
    }
  | {
      readonly op: 'store';
      readonly memory: KMemory;
      readonly index: KValue;
      readonly value: KValue;
      readonly aligned: boolean;
    }
  /** `result` is the old value. Element types i32 and u32 (and what the target's features add). */
  | {
      readonly op: 'atomic';
      readonly result: KValue;
      readonly fn: AtomicFn;
      readonly memory: KMemory;
      readonly index: KValue;
      readonly value: KValue;
    }
  | {
      readonly op: 'atomic_compare_exchange';
      readonly result: KValue;
      readonly memory: KMemory;
      readonly index: KValue;
      readonly expected: KValue;
      readonly value: KValue;
    }
  | {
      readonly op: 'subgroup';
      readonly result: KValue;
      readonly fn: SubgroupFn;
      readonly a: KValue;
      readonly delta: number;
    }
  | { readonly op: 'call'; readonly result: KValue; readonly callee: HelperFunction; readonly args: readonly KValue[] }
  /** `index` runs from `lower` while `< upper` by `step` (> 0). */
  | {
      readonly op: 'for';
      readonly index: KValue;
      readonly lower: KValue;
      readonly upper: KValue;
      readonly step: number;
      readonly carried: readonly Carried[];
      readonly body: KBlock;
      readonly unroll?: boolean;
    }
  /** Runs `body` at least once, again while the body's `condition` (a bool computed in it) is true. */
  | {
      readonly op: 'loop';
      readonly carried: readonly Carried[];
      readonly body: KBlock;
      readonly condition: KValue;
    }
  | {
      readonly op: 'if';
      readonly condition: KValue;
      readonly then: KBlock;
      readonly else: KBlock;
      readonly results: readonly KValue[];
    }
  /** Execution and memory barrier of the workgroup (shared and global memory). Only in uniform control flow. */
  | { readonly op: 'barrier' }
  /** Matrix tiles and asynchronous copies, which only some targets have: see `engines.ts`. */
  | EngineInst;

export type KOp = KInst['op'];

export interface KBlock {
  readonly instructions: readonly KInst[];
  /** Values handed to the enclosing `for`/`loop` (next carried) or `if` (results); empty at top level. */
  readonly yields: readonly KValue[];
}

/** A pure scalar or vector function; no memory access, no barriers, no recursion. */
export interface HelperFunction {
  readonly name: string;
  readonly params: readonly KValue[];
  readonly result: KType;
  /** `body.yields` has the one result. */
  readonly body: KBlock;
}

export interface KernelFunction {
  readonly name: string;
  /** Names of the source nodes computed here, for errors, profiles and generated code's comments. */
  readonly sources: readonly string[];
  /** Workgroups in x, y, z; each within the target's limit. */
  readonly grid: readonly [number, number, number];
  /** Invocations of a workgroup in x, y, z. */
  readonly workgroup: readonly [number, number, number];
  readonly params: readonly KParam[];
  readonly arrays: readonly KArray[];
  /** Matrices that subgroups hold. */
  readonly tiles: readonly KTile[];
  /** Barriers that count arrivals and bytes, and descriptions of tensors in the buffers: see `bulk.ts`. */
  readonly signals: readonly KSignal[];
  readonly maps: readonly KTensorMap[];
  /** In order of definition: a helper calls only helpers before it. */
  readonly helpers: readonly HelperFunction[];
  readonly body: KBlock;
  /**
   * Set when subgroup or tile ops are used: the exact width they assume. Invocations belong to subgroups in linear order
   * (x fastest): invocation i is in subgroup i / subgroupSize.
   */
  readonly subgroupSize?: number;
}

export const scalarBits: Readonly<Record<ScalarType, number>> = {
  bool: 8,
  i8: 8,
  u8: 8,
  i16: 16,
  u16: 16,
  i32: 32,
  u32: 32,
  i64: 64,
  u64: 64,
  f16: 16,
  bf16: 16,
  f32: 32,
  f64: 64,
};
export const isFloatScalar = (scalar: ScalarType): boolean =>
  scalar === 'f16' || scalar === 'bf16' || scalar === 'f32' || scalar === 'f64';
export const isIntScalar = (scalar: ScalarType): boolean => scalar !== 'bool' && !isFloatScalar(scalar);
export const isSignedScalar = (scalar: ScalarType): boolean => scalar.startsWith('i') || isFloatScalar(scalar);
export const ktype = (scalar: ScalarType, lanes: Lanes = 1): KType => ({ scalar, lanes });
export const sameType = (a: KType, b: KType): boolean => a.scalar === b.scalar && a.lanes === b.lanes;
export const isMathFn = (fn: string): fn is MathFn | MathBinaryFn => expanded.has(fn);

/** Whether a value may count elements of a memory: one integer. */
export const isIndex = ({ type }: KValue): boolean => type.lanes === 1 && isIntScalar(type.scalar);

const expanded: ReadonlySet<string> = new Set<MathFn | MathBinaryFn>([...mathFns, 'pow', 'atan2']);
