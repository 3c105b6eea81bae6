/** Runs a graph group by group through the Kernel IR interpreter: what the scheduler means, without a device. */
import { evaluateNode } from '../../compiler/graph/host_values.js';
import type { Graph, Value } from '../../compiler/graph/types.js';
import { interpret } from '../../compiler/kernel/interpreter.js';
import type { Target } from '../../compiler/kernel/target.js';
import type { KernelFunction } from '../../compiler/kernel/types.js';
import { verify } from '../../compiler/kernel/verify.js';
import { lowerGroup } from '../../compiler/schedule/family.js';
import { fuse } from '../../compiler/schedule/fuse.js';
import { assignLayouts } from '../../compiler/schedule/layout.js';
import type { Binding } from '../../compiler/schedule/lowered.js';
import { bytesOfTensor, emptyTensor, type HostTensor, tensorFromBytes } from '../../compiler/tensor.js';

export interface GroupRun {
  readonly outputs: ReadonlyMap<string, HostTensor>;
  readonly kernels: readonly KernelFunction[];
}

/** `transform` stands between scheduling and execution (legalisation); `lower` chooses another form than the best. */
export function runGroups(
  graph: Graph,
  target: Target,
  inputs: Readonly<Record<string, HostTensor>>,
  transform: (kernel: KernelFunction) => KernelFunction = (kernel) => kernel,
  lower: typeof lowerGroup = lowerGroup,
): GroupRun {
  const tensors = new Map<number, HostTensor>();
  for (const input of graph.inputs) tensors.set(input.id, padded(inputs[input.name]));
  for (const [id, data] of graph.constants) tensors.set(id, padded(data.load()));
  const kernels: KernelFunction[] = [];
  const memories = new Map<Binding, Uint8Array>();
  const tensorOf = (value: Value): HostTensor => {
    let tensor = tensors.get(value.id);
    if (!tensor) {
      tensor = padded(emptyTensor(value.type.dtype, value.type.shape as readonly number[]));
      tensors.set(value.id, tensor);
    }
    return tensor;
  };
  const memoryOf = (binding: Binding): Uint8Array => {
    if (!('kind' in binding)) return wholeWords(tensorOf(binding));
    const known =
      memories.get(binding) ??
      (binding.kind === 'temporary' ? new Uint8Array(binding.bytes) : wholeWords(padded(binding.data.load())));
    memories.set(binding, known);
    return known;
  };
  for (const group of assignLayouts(fuse(graph, target), graph, target)) {
    for (const { kernel, bindings } of lower(group, target)) {
      verify(kernel, { stage: 'scheduled', target });
      const run = transform(kernel);
      kernels.push(run);
      interpret(run, bindings.map(memoryOf), [], { checkRaces: true, checkBounds: true });
    }
  }
  return { outputs: new Map(graph.outputs.map(({ name, value }) => [name, tensorOf(value)])), kernels };
}

/** A copy whose memory is a multiple of four bytes long, as bindings are. */
function padded(tensor: HostTensor): HostTensor {
  if (tensor.dtype === 'string') return tensor;
  const bytes = bytesOfTensor(tensor);
  const memory = new Uint8Array(Math.ceil(bytes.length / 4) * 4);
  memory.set(bytes);
  return tensorFromBytes(tensor.dtype, tensor.shape, memory);
}

const wholeWords = ({ data }: HostTensor): Uint8Array => new Uint8Array((data as Uint8Array).buffer);

/** The graph by the reference evaluator. */
export function runReference(
  graph: Graph,
  inputs: Readonly<Record<string, HostTensor>>,
): ReadonlyMap<string, HostTensor> {
  const tensors = new Map<number, HostTensor>();
  for (const input of graph.inputs) tensors.set(input.id, inputs[input.name]);
  for (const [id, data] of graph.constants) tensors.set(id, data.load());
  for (const node of graph.nodes) {
    const results = evaluateNode(
      node,
      node.inputs.map((input) => tensors.get(input.id) as HostTensor),
    );
    node.outputs.forEach((output, i) => {
      tensors.set(output.id, results[i]);
    });
  }
  return new Map(graph.outputs.map(({ name, value }) => [name, tensors.get(value.id) as HostTensor]));
}
