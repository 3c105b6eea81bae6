/** Runs graphs as a session does, on the Kernel IR interpreter as the device. */
import type { Graph } from '../../compiler/graph/types.js';
import type { Target } from '../../compiler/kernel/target.js';
import type { HostTensor } from '../../compiler/tensor.js';
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
