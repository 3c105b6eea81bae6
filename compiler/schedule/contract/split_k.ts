/**
 * Split-K: contractions whose results are too few to keep a device busy while their sums are long (decoding a token,
 * gradients of weights, late layers of convolution nets). One kernel, in any form, computes partial sums of slices of k
 * into temporary memory; a second one adds them up and has the epilogue.
 *
 * Partial sums are added in the order of their slices, by one invocation each: results do not depend on timing.
 */
import type { DType } from '../../dtype.js';
import { bytesOf } from '../../dtype.js';
import type { Node } from '../../graph/types.js';
import type { Target } from '../../kernel/target.js';
import { type KValue, type Lanes, scalarBits } from '../../kernel/types.js';
import { sizeOf } from '../../tensor.js';
import { Affine } from '../affine.js';
import { bindingsOf, type Group, type Slices } from '../group.js';
import type { Binding, LoweredKernel, Temporary } from '../lowered.js';
import type { Lowering } from '../lowering.js';
import { lowerMap } from '../map.js';
import { type Index, range, shapeOf } from '../tensors.js';
import { type Contraction, contractionOf, multiplyAdd } from './contraction.js';
import { trimmed } from './copy.js';
import type { Schedule } from './index.js';
import { vector } from './tiling.js';

/** Devices with fewer units are filled by a handful of tiles, and a second kernel costs them more than idle units. */
const leastParallelism = 8;
/** Workgroups for each unit with which a device is full, even of larger tiles than those of the form that has so many. */
const crowded = 4;
/** Steps of k that a slice is worth. */
const leastSteps = 32;
/** Powers of two, and what fills the device once. */
const counts = [2, 4, 8, 16, 32, 64, 128, 256];
/** Candidates that are handed on; to choose among them by measuring. */
const handedOn = 3;
/** Share of the time that a split must save to be taken: launches cost more where kernels are short. */
const worthwhile = 0.15;
/** Times that differ by less are on one level. */
const level = 1.05;
/** Partial sums that an invocation has on the way at once, and how long they take, in microseconds. */
const [loadsAtOnce, roundTrip] = [8, 0.4];

/** Forms of the sums of a group's slices. */
export type FormsOf = (sliced: Group) => readonly Schedule[];

/** Ways to split the group; none where the best whole form has workgroups enough. Costs are on that form's scale. */
export function splitSchedules(group: Group, target: Target, best: Schedule, formsOf: FormsOf): readonly Schedule[] {
  const { parallelism } = target;
  const { workgroups } = best;
  if (workgroups === undefined || workgroups >= crowded * parallelism || parallelism < leastParallelism) return [];
  const contraction = contractionOf(group);
  const whole = timeOf(best, contraction, target);
  const found: Schedule[] = [];
  // Times fall with the count and then rise.
  let rising = 0;
  for (const cut of cutsOf(contraction, parallelism / Math.max(1, workgroups))) {
    const joining = joinTime(contraction, cut, target);
    if (joining > whole) break;
    const timed = splitInto(group, target, cut, formsOf).map((form) => {
      const time = timeOf(form, contraction, target) + joining;
      return { ...form, cost: (best.cost * time) / (whole * (1 - worthwhile)) };
    });
    if (timed.length === 0) break;
    const next = timed.reduce((least, form) => (form.cost < least.cost ? form : least));
    rising = found.every(({ cost }) => next.cost < cost * level) ? 0 : rising + 1;
    found.push(next);
    if (rising > 1) break;
  }
  return found.sort((p, q) => p.cost - q.cost).slice(0, handedOn);
}

/** All forms with slices of that length; costs are those of the partial sums alone. */
export function splitInto(group: Group, target: Target, cut: Cut, formsOf: FormsOf): readonly Schedule[] {
  const { limits } = target;
  const contraction = contractionOf(group);
  const sliced = slicedGroup(group, contraction, cut);
  if (bytesOfPartials(sliced.slices) > limits.storageBindingBytes) return [];
  // Who adds the sums up may need the operands too.
  if (restOf(contraction, cut) > 0 && group.reads.length + group.writes.length >= limits.storageBuffers) return [];
  return formsOf(sliced).map((form) => ({
    ...form,
    name: `${cut.count} slices, ${form.name}`,
    lower: () => lowerSplit(group, target, sliced, form),
  }));
}

// --- Choice ----------------------------------------------------------------------------------------------------------

export type Cut = Pick<Slices, 'count' | 'length'>;

/** Slices of about each count, from what fills a good part of the device on. @param filling Slices that fill it. */
function cutsOf({ k, extents }: Contraction, filling: number): readonly Cut[] {
  const [, ...inner] = extents;
  const wanted = [...counts.filter((count) => count >= filling / 4), Math.max(2, Math.floor(filling))];
  const cuts = wanted.map((count) => cutInto(k, sizeOf(inner), count));
  const byCount = new Map(cuts.map((cut) => [cut.count, cut]));
  return [...byCount.values()]
    .filter(({ count, length }) => count > 1 && length >= leastSteps)
    .sort((p, q) => p.count - q.count);
}

/** Slices of whole stages, vectors, channels, as far as k has them; else some steps are left over. */
function cutInto(k: number, inner: number, wanted: number): Cut {
  const near = range(Math.floor(wanted * 1.5) - Math.ceil(wanted * 0.75) + 1)
    .map((i) => i + Math.ceil(wanted * 0.75))
    .sort((p, q) => Math.abs(p - wanted) - Math.abs(q - wanted));
  for (const grain of [64 * inner, 16 * inner, vector * inner, inner, 1]) {
    const count = near.find((count) => k % (count * grain) === 0);
    if (count !== undefined) return { count, length: k / count };
  }
  const grain = inner > 1 ? inner : k % vector === 0 ? vector : 1;
  const length = Math.floor(k / wanted / grain) * grain || Math.floor(k / wanted);
  return { count: wanted, length };
}

const restOf = ({ k }: Contraction, { count, length }: Cut): number => k - count * length;

/** Microseconds: multiplying, or reading what is multiplied, which idle units do not help with. */
function timeOf({ cost, workgroups = 1 }: Schedule, contraction: Contraction, { rates, parallelism }: Target): number {
  const { node } = contraction;
  const bytes = [contraction.lhs.value, contraction.rhs.value, node.outputs[0]].reduce(
    (sum, { type: { dtype, shape } }) => sum + bytesOf(dtype, sizeOf(shape as readonly number[])),
    0,
  );
  return Math.max(cost, bytes / (rates.copyGBs * 1e3 * Math.min(1, Math.max(1, workgroups) / parallelism)));
}

/** Microseconds for writing the partial sums and adding them up. */
function joinTime(contraction: Contraction, cut: Cut, { rates }: Target): number {
  const { batch, m, n, accumulator } = contraction;
  const bytes = (2 * cut.count * batch * m * n * scalarBits[accumulator]) / 8;
  const trips = Math.ceil((cut.count + 2 * restOf(contraction, cut)) / loadsAtOnce);
  return rates.dispatchMicroseconds + bytes / (rates.copyGBs * 1e3) + trips * roundTrip;
}

// --- Kernels ---------------------------------------------------------------------------------------------------------

const bytesOfPartials = ({ partials: { type } }: Slices): number =>
  bytesOf(type.dtype, sizeOf(type.shape as readonly number[]));

/** What the anchor's sums need of the group, slice by slice. */
function slicedGroup(group: Group, contraction: Contraction, cut: Cut): Group & { readonly slices: Slices } {
  const anchor = group.anchor as Node;
  const [result] = anchor.outputs;
  const nodes = before(group, anchor);
  const used = new Set(nodes.flatMap(({ inputs }) => inputs.map(({ id }) => id)));
  const partials = {
    id: -1 - result.id,
    name: `${result.name}.slices`,
    type: { dtype: contraction.accumulator as DType, shape: [cut.count, ...shapeOf(result)] },
  };
  return {
    ...group,
    nodes,
    reads: group.reads.filter(({ id }) => used.has(id)),
    writes: [partials],
    sides: [],
    // Steps that are left over are read where they are: another form of the same constant would take its memory again.
    constants: restOf(contraction, cut) > 0 ? new Map() : group.constants,
    slices: { ...cut, partials },
  };
}

/** The node and what of the group it is computed from. */
function before({ nodes }: Group, last: Node): readonly Node[] {
  const wanted = new Set([last]);
  for (const node of [...nodes].reverse()) {
    if (!wanted.has(node)) continue;
    for (const input of node.inputs) {
      const producer = nodes.find(({ outputs }) => outputs.includes(input));
      if (producer) wanted.add(producer);
    }
  }
  return nodes.filter((node) => wanted.has(node));
}

function lowerSplit(
  group: Group,
  target: Target,
  sliced: Group & { readonly slices: Slices },
  form: Schedule,
): readonly LoweredKernel[] {
  const { partials } = sliced.slices;
  const memory: Temporary = { kind: 'temporary', name: partials.name, bytes: bytesOfPartials(sliced.slices) };
  const own = (binding: Binding): Binding => (binding === partials ? memory : binding);
  const parts = form.lower();
  if (parts.length === 0) return [];
  return [
    ...parts.map(({ kernel, bindings }) => ({
      kernel: { ...kernel, name: `${kernel.name}_part` },
      bindings: bindings.map(own),
    })),
    lowerJoin(group, target, sliced.slices, own),
  ];
}

/** The sums of all slices, and of the steps that are left over, with the group's epilogue. */
function lowerJoin(group: Group, target: Target, slices: Slices, own: (binding: Binding) => Binding): LoweredKernel {
  const contraction = contractionOf(group);
  const [result] = contraction.node.outputs;
  const joined: Group = { ...group, reads: [slices.partials, ...group.reads] };
  const kernel = lowerMap(joined, target, (lowering) =>
    lowering.define(result, (index, lanes) => {
      const wide = index.some((i) => i.mentionsLane()) ? lanes : 1;
      return addRest(lowering, contraction, slices, index, wide, addSlices(lowering, slices, index, wide));
    }),
  );
  return trimmed({ ...kernel, name: `${kernel.name}_join` }, bindingsOf(joined).map(own));
}

/** First to last; several are loaded before the first of them is added. */
function addSlices(lowering: Lowering, { count, partials }: Slices, index: Index, lanes: Lanes): KValue {
  const { b } = lowering;
  const add = (sum: KValue | undefined, from: Affine, some: number): KValue =>
    range(some)
      .map((i) => lowering.vector(partials, [from.add(i), ...index], lanes))
      .reduce((total, part) => (total === undefined ? part : b.add(total, part)), sum) as KValue;
  const first = add(undefined, Affine.constant(0), Math.min(count, loadsAtOnce));
  const trips = Math.ceil(count / loadsAtOnce) - 1;
  if (trips <= 0) return first;
  const whole = Math.floor(count / loadsAtOnce);
  const [sum] = lowering.for(1, whole, 1, [first], (trip, [total]) => [
    add(total, trip.scale(loadsAtOnce), loadsAtOnce),
  ]);
  const left = count - whole * loadsAtOnce;
  return left === 0 ? sum : add(sum, Affine.constant(whole * loadsAtOnce), left);
}

function addRest(
  lowering: Lowering,
  contraction: Contraction,
  { count, length }: Slices,
  index: Index,
  lanes: Lanes,
  sum: KValue,
): KValue {
  const { lhs, rhs, k } = contraction;
  const { batch, m, n } = contraction.place(index);
  const [total] = lowering.for(count * length, k, 1, [sum], (step, [carried]) => {
    const x = lhs.element(lowering, batch, m, step, lanes);
    const y = rhs.element(lowering, batch, n, step, lanes);
    return [multiplyAdd(lowering, x, y, carried)];
  });
  return total;
}
