/** What `tutti inspect` finds out about a model: the document of `--json`, and what the HTML report shows. */
import type { PlanReport } from '../compiler/plan.js';

/** Of the model alone, and of its plan for a target. */
export interface Inspection {
  readonly model: string;
  readonly name: string;
  readonly numerics: string;
  readonly target: string;
  /** Sizes of named dims that nobody gave: the figures hold for these. */
  readonly assumed: Readonly<Record<string, number>>;
  readonly inputs: readonly ValueSummary[];
  readonly outputs: readonly ValueSummary[];
  readonly ops: Readonly<Record<string, number>>;
  readonly nodes: number;
  readonly groups: number;
  readonly kernels: number;
  readonly dispatches: number;
  readonly arenaBytes: number;
  readonly largestLiveBytes: number;
  readonly weightsBytes: number;
  readonly constantsFolded: number;
  readonly bytesMoved: number;
  readonly flops: number;
  readonly placement: PlanReport['placement'];
  /** Where the plan ends because data decides how to go on: the figures are of what comes before. */
  readonly waits?: PlanReport['waits'];
}

export interface ValueSummary {
  readonly name: string;
  readonly dtype: string;
  readonly shape: readonly (number | string)[];
}
