/** From a model's graph to a plan for a target: the compiler's front door. */
import type { Graph } from './graph/types.js';
import type { Target } from './kernel/target.js';
import { runPasses } from './passes/pipeline.js';
import { planGraph } from './schedule/plan.js';
import type { Plan } from './plan.js';

export type Numerics = 'fast' | 'precise' | 'strict';

export interface PlanOptions {
  readonly numerics?: Numerics;
  /** Concrete sizes of named dims. */
  readonly dims?: Readonly<Record<string, number>>;
  /** Concrete shapes of inputs; they bind the named dims too. */
  readonly shapes?: Readonly<Record<string, readonly number[]>>;
  /** Called with the printed IR after each pass and stage (`--dump-ir`). */
  readonly dump?: (stage: string, text: () => string) => void;
}

/**
 * Specialises the graph to concrete shapes, optimises, fuses, schedules and lowers it.
 * @throws TuttiError E_INPUT, E_SHAPE, E_UNSUPPORTED, naming the source node.
 */
export function plan(graph: Graph, target: Target, options: PlanOptions = {}): Plan {
  const times: Record<string, number> = {};
  const start = performance.now();
  const optimised = runPasses(graph, options);
  times.passes = performance.now() - start;
  return planGraph(optimised.graph, target, { ...options, times, constantsFolded: optimised.constantsFolded });
}
