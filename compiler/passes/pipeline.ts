/** The graph passes, in order: reads as a table of contents. */
import { resolvers } from '../frontends/resolvers.js';
import { printGraph } from '../graph/print.js';
import { mapBodies } from '../graph/scan.js';
import type { Graph } from '../graph/types.js';
import { verifyGraph } from '../graph/verify.js';
import type { PlanOptions } from '../plan.js';
import { pullAttentionScales } from './attention.js';
import { decompose } from './decompose.js';
import { eliminate } from './eliminate.js';
import { foldConstants } from './fold.js';
import { loops } from './loops.js';
import { recognise } from './recognise.js';
import { pullScales } from './scales.js';
import { scattersToGathers } from './scatters.js';
import { simplify } from './simplify.js';
import { recogniseSoftmax } from './softmax.js';
import { specialise } from './specialise.js';
import { widen } from './widen.js';

interface PassContext {
  readonly options: PlanOptions;
  constantsFolded: number;
}

export interface Pass {
  readonly name: string;
  /** What holds afterwards. */
  readonly guarantees: string;
  run(graph: Graph, context: PassContext): Graph;
  /** The bodies of loops are as they should be already, or the pass looks into them by itself. */
  readonly wholeOnly?: true;
}

const fold = (graph: Graph, context: PassContext): Graph => {
  const folded = foldConstants(graph);
  context.constantsFolded += folded.count;
  return folded.graph;
};

const verified = (graph: Graph): Graph => {
  verifyGraph(graph);
  return graph;
};

export const pipeline: readonly Pass[] = [
  { name: 'verify', guarantees: 'the graph is well-formed', run: verified, wholeOnly: true },
  {
    name: 'specialise',
    guarantees: 'all shapes are numbers, no source ops are left',
    wholeOnly: true,
    run: (graph, { options }) =>
      specialise(graph, { dims: options.dims, shapes: options.shapes, values: options.values }, resolvers),
  },
  { name: 'pull scales', guarantees: 'contractions of quantised tensors sum integers', run: pullScales },
  { name: 'fold', guarantees: 'what depends on constants alone is a constant', run: fold },
  { name: 'scatters', guarantees: 'places that are known are looked up', run: scattersToGathers },
  {
    name: 'loops',
    guarantees: 'bodies compute nothing that all iterations share; every loop has two iterations or more',
    run: loops,
    wholeOnly: true,
  },
  { name: 'decompose', guarantees: 'every op has a lowering family', run: decompose },
  { name: 'share', guarantees: 'equal subexpressions are one value, as the patterns expect', run: eliminate },
  { name: 'recognise', guarantees: 'spelled-out normalisations are composites', run: recognise },
  { name: 'softmax', guarantees: 'spelled-out softmaxes are composites', run: recogniseSoftmax },
  { name: 'attention', guarantees: 'scores are scaled, not the operands of their products', run: pullAttentionScales },
  { name: 'simplify', guarantees: 'no op changes nothing', run: simplify },
  { name: 'widen', guarantees: 'elements of at most a byte are only moved and converted', run: widen },
  { name: 'fold again', guarantees: 'what the rewrites made constant is folded', run: fold },
  { name: 'loops again', guarantees: 'constants that appeared are in the bodies', run: loops, wholeOnly: true },
  { name: 'eliminate', guarantees: 'no two nodes compute the same, none is dead', run: eliminate },
];

/** Yields between passes. */
export function* runPasses(
  graph: Graph,
  options: PlanOptions,
): Generator<void, { graph: Graph; constantsFolded: number }> {
  const context: PassContext = { options, constantsFolded: 0 };
  let current = graph;
  for (const [i, pass] of pipeline.entries()) {
    const run = (graph: Graph): Graph => pass.run(graph, context);
    current = pass.wholeOnly ? run(current) : run(mapBodies(current, run));
    options.dump?.(`graph.${i}.${pass.name.replaceAll(' ', '-')}`, () => printGraph(current));
    yield;
  }
  return { graph: current, constantsFolded: context.constantsFolded };
}
