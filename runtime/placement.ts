/**
 * Where the inputs and outputs of one run are: in memory of the executable, or in that of tensors which are on the device
 * already. Those take the place of the executable's own where they can; where two would be one, a copy keeps them apart.
 */
import type { BufferRange, Command } from '../backends/backend.js';
import type { Location, Program } from '../compiler/plan.js';
import type { HostTensor } from '../compiler/tensor.js';
import { Resident, words } from './residents.js';

export interface Placement {
  /** Ids of the tensors that take part. */
  readonly residents: ReadonlySet<number>;
  /** Copies before and after the commands of the plan. */
  readonly before: readonly Command[];
  readonly after: readonly Command[];
  resolve(location: Location): BufferRange;
}

/**
 * Equal for runs that have the same tensors in the same places: their commands are the same. Empty where all memory is the
 * executable's own.
 */
export function placementKey(
  plan: Program,
  inputs: readonly (HostTensor | Resident)[],
  keep: ReadonlyMap<number, Resident>,
): string {
  let key = '';
  for (let i = 0; i < inputs.length; i++) {
    const input = inputs[i];
    if (input instanceof Resident && plan.inputs[i].location !== undefined) key += `${i}=${input.id};`;
  }
  for (const [i, { id }] of keep) key += `${i}>${id};`;
  return key;
}

/**
 * @param own The executable's own memory for a location.
 * @param keep Where outputs go that stay on the device, by position.
 */
export function place(
  plan: Program,
  own: (location: Location) => BufferRange,
  inputs: readonly (HostTensor | Resident)[],
  keep: ReadonlyMap<number, Resident>,
): Placement {
  /** By pool. */
  const places = new Map<number, Resident>();
  const residents = new Set<number>();
  const before: Command[] = [];
  const after: Command[] = [];
  const resolve = (location: Location): BufferRange => {
    const resident = places.get(location.pool);
    if (resident === undefined) return own(location);
    return { buffer: resident.buffer, offset: location.offset, bytes: location.bytes };
  };
  /** Other memory holds more than the tensor. */
  const isAlone = ({ pool }: Location): boolean => plan.pools[pool].kind === 'tensor';
  // Memory that is written must not be read as another tensor, and kernels may not bind one range twice.
  const standing = new Set<number>();
  const written = new Set([...keep.values()].map(({ id }) => id));
  plan.inputs.forEach(({ location }, i) => {
    const input = inputs[i];
    if (location === undefined || !(input instanceof Resident)) return;
    const copied = !isAlone(location) || standing.has(input.id) || written.has(input.id);
    if (copied) before.push({ kind: 'copy', from: words(input.range()), to: words(own(location)) });
    else places.set(location.pool, input);
    standing.add(input.id);
    residents.add(input.id);
  });
  const inputPools = new Set(plan.inputs.map(({ location }) => location?.pool));
  const filled = new Set<number>();
  for (const [i, resident] of keep) {
    const { location } = plan.outputs[i];
    if (location === undefined) continue;
    const shared = places.has(location.pool) || inputPools.has(location.pool) || filled.has(resident.id);
    const copied = shared || !isAlone(location);
    if (copied) after.push({ kind: 'copy', from: words(resolve(location)), to: words(resident.range()) });
    else places.set(location.pool, resident);
    filled.add(resident.id);
    residents.add(resident.id);
  }
  return { residents, before, after, resolve };
}
