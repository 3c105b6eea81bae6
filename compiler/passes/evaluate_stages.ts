/** Runs a model's graph on host tensors, stage by stage: what sessions do on a device, without one. */
import { evaluateGraph } from '../graph/evaluate.js';
import type { Graph } from '../graph/types.js';
import type { HostTensor } from '../tensor.js';
import { flattenInputs } from './containers.js';
import { mapLeaves, type Tree } from './mapped.js';
import type { SourceResolvers } from './source.js';
import { firstStage, type Held } from './stages.js';

export interface StagedResult {
  readonly outputs: ReadonlyMap<string, Tree<HostTensor>>;
  /** How many stages were run. */
  readonly stages: number;
  /** The concrete graphs, in order. */
  readonly graphs: readonly Graph[];
}

/**
 * @param evaluate Runs a concrete graph; by default the reference evaluation.
 * @throws TuttiError as `firstStage` and `evaluateGraph`
 */
export function evaluateStages(
  graph: Graph,
  given: Readonly<Record<string, Tree<HostTensor>>>,
  resolvers: SourceResolvers,
  evaluate: typeof evaluateGraph = evaluateGraph,
): StagedResult {
  const { tensors: inputs, lengths } = flattenInputs(graph, given);
  const shapes = Object.fromEntries(Object.entries(inputs).map(([name, { shape }]) => [name, shape]));
  const graphs: Graph[] = [];
  const results = new Map<Held, HostTensor>();
  const tensorOf = (held: Held): HostTensor => {
    if (held.kind === 'host') return held.data.load();
    const tensor = held.kind === 'input' ? inputs[held.name] : results.get(held);
    if (tensor === undefined) throw new Error(`${held.name} is not there`);
    return tensor;
  };
  let stage = firstStage(graph, { shapes, lengths, values: inputs }, resolvers);
  for (;;) {
    const { graph: concrete, inputs: taken, outputs, next } = stage;
    graphs.push(concrete);
    const feeds = new Map(concrete.inputs.map(({ name }, i) => [name, tensorOf(taken[i])]));
    const values = evaluate(concrete, feeds);
    concrete.outputs.forEach(({ name }, i) => {
      results.set(outputs[i], values.get(name) as HostTensor);
    });
    if (next.kind === 'done') {
      const named = next.outputs.map(({ name, held }) => [name, mapLeaves(held, tensorOf)] as const);
      return { outputs: new Map(named), stages: graphs.length, graphs };
    }
    const answers = next.demanded.map(tensorOf);
    for (const held of results.keys()) if (!next.live.has(held)) results.delete(held);
    stage = next.resume(answers, inputs);
  }
}
