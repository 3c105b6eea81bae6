/** Runs graphs on the Kernel IR interpreter: as a session does, or from the plan of a graph as it is. */
import type { Graph } from '../../compiler/graph/types.js';
import { interpret } from '../../compiler/kernel/interpreter.js';
import type { Target } from '../../compiler/kernel/target.js';
import { flatSteps, type Location, type Plan } from '../../compiler/plan.js';
import { planGraph } from '../../compiler/schedule/plan.js';
import { bytesOfTensor, emptyTensor, type HostTensor, tensorFromBytes } from '../../compiler/tensor.js';
import { Session } from '../../runtime/session.js';
import { Tensor } from '../../runtime/tensor.js';
import { interpreterDevice } from './interpreter_device.js';

/**
 * Results by name. The interpreter checks races and bounds, and the device refuses dispatches that depend on one
 * another without a barrier between them.
 */
export async function runInterpreted(
  target: Target,
  graph: Graph,
  inputs: Readonly<Record<string, HostTensor>>,
): Promise<Record<string, HostTensor>> {
  const device = interpreterDevice({ target, interpret: { checkRaces: true, checkBounds: true } });
  await using session = await Session.create(graph, { device });
  const given = Object.fromEntries(Object.entries(inputs).map(([name, tensor]) => [name, Tensor.fromHost(tensor)]));
  const results = await session.run(given);
  return Object.fromEntries(Object.entries(results).map(([name, tensor]) => [name, tensor.toHost()]));
}

/** The plan of a concrete graph that no pass has seen. */
export function planOf(graph: Graph, target: Target): Plan {
  const steps = planGraph(graph, target, { times: {}, constantsFolded: 0 });
  for (;;) {
    const { done, value } = steps.next();
    if (done) return value;
  }
}

/**
 * Runs the plan of a graph that no pass has seen. Memory starts as ones in all bits; of two dispatches without a
 * barrier between, none may touch what the other one writes.
 */
export function runPlanned(
  graph: Graph,
  target: Target,
  inputs: Readonly<Record<string, HostTensor>>,
): ReadonlyMap<string, HostTensor> {
  const plan = planOf(graph, target);
  const pools = plan.pools.map(({ bytes }) => new Uint8Array(bytes).fill(0xff));
  const at = ({ pool, offset, bytes }: Location): Uint8Array =>
    pools[pool].subarray(offset, offset + Math.ceil(bytes / 4) * 4);
  for (const { data, location } of plan.constants) at(location).set(bytesOfTensor(data.load()));
  for (const { name, location } of plan.inputs) if (location) at(location).set(bytesOfTensor(inputs[name]));
  let open: { location: Location; writes: boolean }[] = [];
  for (const { step, iterations } of flatSteps(plan.steps)) {
    if (step.kind === 'barrier') open = [];
    if (step.kind !== 'dispatch') continue;
    const kernel = plan.kernels[step.kernel];
    const buffers = kernel.params.filter((param) => param.kind === 'buffer');
    const touched = step.bindings.map((location, i) => ({ location, writes: buffers[i].access !== 'read' }));
    const clash = (own: (typeof touched)[number], other: (typeof touched)[number]): boolean =>
      (own.writes || other.writes) &&
      own.location.pool === other.location.pool &&
      own.location.offset < other.location.offset + other.location.bytes &&
      other.location.offset < own.location.offset + own.location.bytes;
    touched.forEach((own, i) => {
      if ([...open, ...touched.slice(0, i)].some((other) => clash(own, other)))
        throw new Error(`${kernel.name} needs a barrier, or is bound twice to one place`);
    });
    open.push(...touched);
    const scalars = (step.iterations ?? []).map((depth) => iterations[depth]);
    interpret(kernel, step.bindings.map(at), scalars, { checkRaces: true, checkBounds: true });
  }
  return new Map(
    plan.outputs.map(({ name, dtype, shape, location, constant }) => {
      if (constant) return [name, constant.load()];
      if (!location || dtype === 'string') return [name, emptyTensor(dtype, shape)];
      return [name, tensorFromBytes(dtype, shape, at(location).slice())];
    }),
  );
}
