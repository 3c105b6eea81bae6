/** How close arenas come to the least that they can be, for every reference model and light topology. */
import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { join, resolve } from 'node:path';
import { findTarget } from '../cli/compile.js';
import { plan } from '../compiler/compile.js';
import { decode, importOnnx, tensorOf } from '../compiler/frontends/onnx/index.js';
import { resolvers } from '../compiler/frontends/resolvers.js';
import type { Graph } from '../compiler/graph/types.js';
import { evaluateStages } from '../compiler/passes/evaluate_stages.js';
import type { Plan } from '../compiler/plan.js';
import type { HostTensor } from '../compiler/tensor.js';
import { type LightName, lightGraph, lightModels } from './light.js';

/** An arena may be so much larger than the largest sum of bytes alive at once. */
export const arenaSlack = 1.1;

export const arenaTargets = ['cpu:x86-64-v4', 'vulkan:spirv1.3'] as const;

export interface ArenaFacts {
  /** Without inputs and outputs, which have memory of their own. */
  readonly arenaBytes: number;
  /** Largest sum of bytes of these tensors that are alive at one step. */
  readonly liveBytes: number;
}

export interface ArenaModel {
  readonly name: string;
  /** The concrete graphs that run, one after the other; most models are one. */
  graphs(): readonly { readonly graph: Graph; readonly shapes?: Readonly<Record<string, readonly number[]>> }[];
}

/** @param models folder of the reference models @param onnx folder that holds `light` */
export function arenaModels(models: string, onnx: string): readonly ArenaModel[] {
  const reference = existsSync(models)
    ? readdirSync(models).filter((name) => existsSync(join(models, name, 'model.onnx')))
    : [];
  const light = existsSync(join(onnx, 'light')) ? lightModels : [];
  return [
    ...reference.sort().map((name) => ({ name, graphs: () => referenceGraphs(join(models, name)) })),
    ...light.map((name: LightName) => ({ name, graphs: () => [{ graph: lightGraph(resolve(onnx), name) }] })),
  ];
}

/** With the inputs that come with the model; its named dims as small as they may be where there are none. */
function referenceGraphs(folder: string): ReturnType<ArenaModel['graphs']> {
  const graph = importOnnx(readFileSync(join(folder, 'model.onnx')));
  const inputs: Record<string, HostTensor> = {};
  for (const [k, { name }] of graph.inputs.entries()) {
    const sample = join(folder, 'test_data_set_0', `input_${k}.pb`);
    if (existsSync(sample)) inputs[name] = tensorOf(decode('TensorProto', readFileSync(sample)), name);
  }
  // What operators wait for is known only by running them.
  if (graph.nodes.some(({ op }) => op === 'source_op'))
    return evaluateStages(graph, inputs, resolvers).graphs.map((stage) => ({ graph: stage }));
  const given = Object.fromEntries(Object.entries(inputs).map(([name, { shape }]) => [name, shape]));
  const shapes = Object.fromEntries(
    graph.inputs.map(({ name, type }) => [
      name,
      given[name] ??
        type.shape.map((dim) => (typeof dim === 'number' ? dim : Math.max(1, graph.dims.get(String(dim))?.min ?? 1))),
    ]),
  );
  return [{ graph, shapes }];
}

/** Of the stage with the largest arena for its live tensors. */
export async function arenaFacts(model: ArenaModel, targetName: string): Promise<ArenaFacts> {
  const { target } = await findTarget(targetName);
  const facts = model.graphs().map(({ graph, shapes }) => factsOf(plan(graph, target, shapes && { shapes })));
  return facts.reduce((worst, one) => (excess(one) > excess(worst) ? one : worst));
}

function factsOf({ pools, inputs, outputs, report }: Plan): ArenaFacts {
  // An input may be an output as it is.
  const outer = new Map(
    [...inputs, ...outputs].flatMap(({ location }) =>
      location === undefined ? [] : [[location.pool, location.bytes]],
    ),
  );
  const outerBytes = [...outer.values()].reduce((sum, bytes) => sum + bytes, 0);
  const arenaBytes = pools.reduce((sum, { kind, bytes }) => sum + (kind === 'arena' ? bytes : 0), 0);
  return { arenaBytes, liveBytes: report.largestLiveBytes - outerBytes };
}

const excess = ({ arenaBytes, liveBytes }: ArenaFacts): number => arenaBytes / Math.max(1, liveBytes);

export const arenaFaults = (what: string, facts: ArenaFacts): string[] =>
  facts.arenaBytes <= arenaSlack * facts.liveBytes
    ? []
    : [`${what}: an arena of ${facts.arenaBytes} bytes where ${facts.liveBytes} are alive at most`];
