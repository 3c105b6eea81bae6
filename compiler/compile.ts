/** From a model's graph to a plan for a target: the compiler's front door. */

import { resolvers } from './frontends/resolvers.js';
import { printGraph } from './graph/print.js';
import type { Graph } from './graph/types.js';
import { verifyGraph } from './graph/verify.js';
import type { Target } from './kernel/target.js';
import type { Bindings } from './passes/bindings.js';
import { runPasses } from './passes/pipeline.js';
import { firstStage, hasStages, type Stage } from './passes/stages.js';
import type { Plan, PlanOptions } from './plan.js';
import { under } from './schedule/numerics.js';
import { planGraph } from './schedule/plan.js';

export type { Numerics, PlanOptions } from './plan.js';

/**
 * Specialises the graph to concrete shapes, optimises, fuses, schedules and lowers it. Where data decides how it goes on
 * (`report.waits`), the plan ends there: sessions plan the rest when the data is there.
 * @throws TuttiError E_INPUT, E_SHAPE, E_UNSUPPORTED, naming the source node.
 */
export function plan(graph: Graph, target: Target, options: PlanOptions = {}): Plan {
  const steps = planSteps(graph, target, options);
  for (;;) {
    const { done, value } = steps.next();
    if (done) return value;
  }
}

/** `plan` that gives way to other work: `breathe` is called every few milliseconds of planning. */
export async function planPaced(
  graph: Graph,
  target: Target,
  options: PlanOptions,
  breathe: () => Promise<void>,
): Promise<Plan> {
  const steps = planSteps(graph, target, options);
  for (;;) {
    const { done, value } = steps.next();
    if (done) return value;
    await breathe();
  }
}

function* planSteps(graph: Graph, target: Target, options: PlanOptions = {}): Generator<void, Plan> {
  const times: Record<string, number> = {};
  const start = performance.now();
  const stage = hasStages(graph) ? soleOrFirst(graph, options) : undefined;
  const { dims, shapes, values, ...rest } = options;
  const optimised = yield* stage === undefined ? runPasses(graph, options) : runPasses(stage.graph, rest);
  times.passes = performance.now() - start;
  const allowed = under(options.numerics ?? 'precise', target);
  const report = { times, constantsFolded: optimised.constantsFolded };
  const planned = yield* planGraph(optimised.graph, allowed, { ...options, ...report });
  if (stage === undefined || stage.next.kind === 'done') return planned;
  const { source, what } = stage.next;
  return { ...planned, report: { ...planned.report, waits: { source, what } } };
}

/** What there is to plan before data is there. */
function soleOrFirst(graph: Graph, options: PlanOptions): Stage {
  options.dump?.('graph.source', () => printGraph(graph));
  verifyGraph(graph);
  return firstStage(graph, options, resolvers, false);
}

/** The first stage of a graph under these shapes and data; for graphs without data-dependent parts it is all there is. */
export const stageOf = (graph: Graph, bindings: Bindings): Stage => firstStage(graph, bindings, resolvers);
