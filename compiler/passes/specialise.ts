/**
 * Specialisation: a graph with symbolic dims becomes one with numbers. Shape arithmetic turns into constants, and
 * operators that waited for shapes or parameters are converted by the frontend they came from, which is handed in.
 */
import { TuttiError } from '../error.js';
import type { Graph } from '../graph/types.js';
import type { Bindings } from './bindings.js';
import type { SourceResolvers } from './source.js';
import { firstStage } from './stages.js';

export type { Bindings } from './bindings.js';
export type { SourceContext, SourceResolver, SourceResolvers } from './source.js';

/**
 * The graph under concrete input shapes, where it is one stage.
 * @throws TuttiError E_INPUT for unknown names, missing or conflicting sizes; E_SHAPE where shapes do not fit;
 *   E_UNSUPPORTED where a parameter of an operator depends on data: `firstStage` goes on from there.
 */
export function specialise(graph: Graph, bindings: Bindings, resolvers: SourceResolvers): Graph {
  const stage = firstStage(graph, bindings, resolvers, false);
  for (const name of stage.looked) bindings.onUse?.(name);
  if (stage.next.kind === 'done') return stage.graph;
  const { source, what } = stage.next;
  throw new TuttiError('E_UNSUPPORTED', `${what} must be a constant`, {
    subject: source,
    expected: 'a value that follows from constants and shapes',
    found: 'one that depends on the data of the model inputs',
    remedy: 'A session runs such models in stages',
  });
}
