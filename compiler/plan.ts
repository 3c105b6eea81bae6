/**
 * A plan: one model at concrete shapes, lowered for one target. Pure data; the runtime renders the kernels, allocates
 * the pools, uploads the constants and records the steps once.
 */
import type { DType } from './dtype.js';
import type { ConstantData } from './graph/types.js';
import type { Target } from './kernel/target.js';
import type { KernelFunction } from './kernel/types.js';
import type { Prefer } from './schedule/forms.js';
import type { Group } from './schedule/group.js';
import type { HostTensor } from './tensor.js';

export type Numerics = 'fast' | 'precise' | 'strict';

export interface PlanOptions {
  readonly numerics?: Numerics;
  /** Concrete sizes of named dims. */
  readonly dims?: Readonly<Record<string, number>>;
  /** Concrete shapes of inputs; they bind the named dims too. */
  readonly shapes?: Readonly<Record<string, readonly number[]>>;
  /** Data of inputs that set shapes or parameters of operators (the `shape` of a Reshape); only what no operator can do without is looked at. */
  readonly values?: Readonly<Record<string, HostTensor>>;
  /** Puts the forms of a group in order, best first; default: by estimated cost. */
  readonly prefer?: Prefer;
  /** Told each group before it is lowered. `prefer` is not asked again for groups that are alike. */
  readonly visit?: (group: Group) => void;
  /** Called with the printed IR after each pass and stage (`--dump-ir`). */
  readonly dump?: (stage: string, text: () => string) => void;
}

/** Where a tensor lies: a range of one of the plan's pools (byte offsets obey the target's storage alignment). */
export interface Location {
  readonly pool: number;
  readonly offset: number;
  /** Bytes of the tensor, not padded. */
  readonly bytes: number;
}

/**
 * A device buffer of the plan. `constants` keep their contents and may be shared between plans of one model on one
 * device; an `arena` holds intermediates, its ranges reused over time; a `tensor` is an input or an output, for which
 * memory that is there already can be taken.
 */
export interface Pool {
  readonly kind: 'constants' | 'arena' | 'tensor';
  /** Already padded to a multiple of 16 past the last tensor. */
  readonly bytes: number;
}

export interface PlannedConstant {
  readonly name: string;
  readonly data: ConstantData;
  readonly location: Location;
}

export interface PlannedTensor {
  readonly name: string;
  readonly dtype: DType;
  readonly shape: readonly number[];
  /** Undefined for outputs that are constants (`constant`) and for tensors without elements. */
  readonly location?: Location;
  /** An output known at compile time (or of strings): no device is asked. */
  readonly constant?: ConstantData;
}

export type PlanStep =
  | {
      readonly kind: 'dispatch';
      /** Index into `kernels`. */
      readonly kernel: number;
      /** In the order of the kernel's buffer parameters. */
      readonly bindings: readonly Location[];
      readonly sources: readonly string[];
      /** What the kernel's scalar parameters (i32) are: numbers of iterations, by the loops around, outermost first. */
      readonly iterations?: readonly number[];
    }
  /** Iteration 0 runs `first`, iteration t runs `rest[(t - 1) mod length]`; they differ in bindings only. */
  | {
      readonly kind: 'loop';
      readonly trips: number;
      readonly first: readonly PlanStep[];
      readonly rest: readonly (readonly PlanStep[])[];
    }
  | { readonly kind: 'copy'; readonly from: Location; readonly to: Location }
  | { readonly kind: 'fill'; readonly to: Location; readonly byte: number }
  /** What came before must be finished before what comes after starts. */
  | { readonly kind: 'barrier' };

export interface PlanReport {
  /** Set where the plan is the first of several stages: the source node that needs data, and which. */
  readonly waits?: { readonly source: string; readonly what: string };
  readonly nodes: number;
  readonly groups: number;
  readonly kernels: number;
  readonly dispatches: number;
  readonly constantsFolded: number;
  readonly weightsBytes: number;
  readonly arenaBytes: number;
  /** Largest sum of bytes of tensors alive at one step: the lower bound of the arena. */
  readonly largestLiveBytes: number;
  /** Bytes read and written by all dispatches, each tensor once per use. */
  readonly bytesMoved: number;
  /** Multiply-adds and other arithmetic of contractions, counted from the graph: 2 per multiply-add. */
  readonly flops: number;
  /** Milliseconds by stage. */
  readonly times: Readonly<Record<string, number>>;
  /** One entry a dispatch step: its kernel, family, source nodes, and what was done about types (emulated, packed). */
  readonly placement: readonly {
    readonly kernel: string;
    readonly family: string;
    readonly sources: readonly string[];
    readonly notes: readonly string[];
    /** How often it runs, if it is in a loop. */
    readonly times?: number;
  }[];
}

export interface Plan {
  readonly target: Target;
  /** Distinct by content. Legal for the target. */
  readonly kernels: readonly KernelFunction[];
  readonly steps: readonly PlanStep[];
  readonly pools: readonly Pool[];
  readonly constants: readonly PlannedConstant[];
  readonly inputs: readonly PlannedTensor[];
  readonly outputs: readonly PlannedTensor[];
  readonly report: PlanReport;
}

/** What running needs of a plan: not the bodies of its kernels, once those are rendered. Can be stored. */
export interface Program extends Omit<Plan, 'target' | 'kernels'> {
  readonly kernels: readonly Pick<KernelFunction, 'name' | 'grid'>[];
}

/** A step that a command list knows: loops are written out. */
export type FlatStep = Exclude<PlanStep, { readonly kind: 'loop' }>;

/** The steps in the order in which they run, with the numbers of the iterations around each, outermost first. */
export function* flatSteps(
  steps: readonly PlanStep[],
  iterations: readonly number[] = [],
): Generator<{ readonly step: FlatStep; readonly iterations: readonly number[] }> {
  for (const step of steps) {
    if (step.kind !== 'loop') {
      yield { step, iterations };
      continue;
    }
    const { trips, first, rest } = step;
    for (let t = 0; t < trips; t++) yield* flatSteps(t === 0 ? first : rest[(t - 1) % rest.length], [...iterations, t]);
  }
}
