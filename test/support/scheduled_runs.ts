/** What the scheduler makes of graphs, as kernels to render or to run. */
import { evaluateNode } from '../../compiler/graph/host_values.js';
import { definitionOf } from '../../compiler/graph/ops/index.js';
import type { Graph, Value } from '../../compiler/graph/types.js';
import { interpret } from '../../compiler/kernel/interpreter.js';
import { legalize } from '../../compiler/kernel/legalize.js';
import { expandMath } from '../../compiler/kernel/math.js';
import type { Target } from '../../compiler/kernel/target.js';
import { type KernelFunction, scalarTypes } from '../../compiler/kernel/types.js';
import { decompose } from '../../compiler/passes/decompose.js';
import { lowerGroup } from '../../compiler/schedule/family.js';
import { fuse } from '../../compiler/schedule/fuse.js';
import type { Binding } from '../../compiler/schedule/lowered.js';
import { bytesOfTensor, emptyTensor, type HostTensor, sizeOf } from '../../compiler/tensor.js';
import { caseKinds, graphOf, inputsOf, randomCase } from './graph_cases.js';
import { seeded } from './kernel_data.js';
import { buffersOf, type Run } from './kernel_runs.js';

/** The kernel as a target takes it. */
export const legalized = (kernel: KernelFunction, target: Target): KernelFunction =>
  legalize(expandMath(kernel), target);

/** A graph of one node, some for every op that kernels compute, with values for its inputs. */
export interface NodeCase {
  readonly what: string;
  readonly graph: Graph;
  readonly inputs: ReadonlyMap<string, HostTensor>;
}

/** `count` cases of every op, without those that have empty tensors or types that no kernel holds. */
export function* randomNodes(count: number): Generator<NodeCase> {
  for (const kind of caseKinds) {
    const { family } = definitionOf(kind);
    if (family === 'host' || family === 'loop') continue;
    for (let seed = 1; seed <= count; seed++) {
      const node = randomCase(seeded(seed * 7919), kind);
      const graph = decompose(graphOf(node));
      const values = [...graph.inputs, ...graph.nodes.flatMap(({ outputs }) => outputs)];
      const held = (dtype: string): boolean => (scalarTypes as readonly string[]).includes(dtype);
      const computed = values.every(({ type }) => held(type.dtype) && sizeOf(type.shape as number[]) > 0);
      if (computed) yield { what: `${kind} ${seed}`, graph, inputs: inputsOf(node) };
    }
  }
}

export const kernelsOf = (graph: Graph, target: Target): KernelFunction[] =>
  fuse(graph, target).flatMap((group) => lowerGroup(group, target).map(({ kernel }) => legalized(kernel, target)));

/** Kernels that the scheduler makes of a graph, with the memory each meets. */
export function scheduledRuns(graph: Graph, inputs: ReadonlyMap<string, HostTensor>, target: Target): Run[] {
  const runs: Run[] = [];
  const padded = (bytes: Uint8Array): Uint8Array => {
    const memory = new Uint8Array(Math.ceil(bytes.length / 8) * 8);
    memory.set(bytes);
    return memory;
  };
  const tensors = new Map<Value, Uint8Array>();
  const memories = new Map<Binding, Uint8Array>();
  const evaluated = new Map<Value, HostTensor>();
  for (const input of graph.inputs) evaluated.set(input, inputs.get(input.name) as HostTensor);
  for (const [id, constant] of graph.constants) {
    for (const node of graph.nodes)
      for (const value of node.inputs) if (value.id === id) evaluated.set(value, constant.load());
  }
  for (const node of graph.nodes) {
    const results = evaluateNode(
      node,
      node.inputs.map((input) => evaluated.get(input) as HostTensor),
    );
    node.outputs.forEach((output, i) => void evaluated.set(output, results[i]));
  }
  const memoryOf = (binding: Binding): Uint8Array => {
    const known = 'kind' in binding ? memories.get(binding) : tensors.get(binding);
    if (known) return known;
    let memory: Uint8Array;
    if ('kind' in binding) {
      memory = binding.kind === 'temporary' ? new Uint8Array(binding.bytes) : bytesOfTensor(binding.data.load());
      memory = padded(memory);
      memories.set(binding, memory);
    } else {
      const given = evaluated.get(binding);
      const made = graph.nodes.some((node) => node.outputs.includes(binding));
      const source = given && !made ? given : emptyTensor(binding.type.dtype, binding.type.shape as readonly number[]);
      memory = padded(bytesOfTensor(source));
      tensors.set(binding, memory);
    }
    return memory;
  };
  for (const group of fuse(graph, target)) {
    for (const { kernel, bindings } of lowerGroup(group, target)) {
      const legal = legalized(kernel, target);
      const memory = bindings.map(memoryOf);
      const types = buffersOf(kernel).map(({ scalar }) => scalar);
      runs.push({ what: legal.name, kernel: legal, inputs: memory.map((bytes) => bytes.slice()), types });
      interpret(legal, memory);
    }
  }
  return runs;
}
