/**
 * Concatenations without copies: what is joined lies in the joined tensor's memory from the start.
 *
 * Where the parts of a concatenation are ranges of its result, the kernels that make them may write into the result's
 * memory at once, and the concatenation does nothing. That takes parts that a kernel writes whole, that begin where
 * bindings may and end where no kernel's last word reaches into the next part, and that no kernel is given together
 * with the whole: its bindings must not overlap. One part may be left that is not so; it is copied, or computed, by a
 * kernel of its own.
 */
import { bytesOf, isPacked } from '../dtype.js';
import type { Graph, Node, NodeOf, Value } from '../graph/types.js';
import type { Target } from '../kernel/target.js';
import { sizeOf } from '../tensor.js';
import type { Group } from './group.js';
import type { Work } from './loop.js';

/** Where a value lies that has no memory of its own. */
export interface PartOf {
  readonly whole: Value;
  /** Bytes. */
  readonly offset: number;
}

export interface Joined {
  readonly work: readonly Work[];
  /** By value id. The whole may be a part itself. */
  readonly parts: ReadonlyMap<number, PartOf>;
}

/** Kernels read and write whole words, and no more than this beyond their last element. */
const wordBytes = 16;

export function joinInPlace(work: readonly Work[], graph: Graph, target: Target): Joined {
  const joins = new Joins(work, graph, target);
  return { work: work.flatMap((item) => joins.visit(item)), parts: joins.parts };
}

const shapeOf = (value: Value) => value.type.shape as readonly number[];
const bytesOfValue = (value: Value): number => bytesOf(value.type.dtype, sizeOf(shapeOf(value)));

/** A part of a concatenation, and the value in memory that it is, if it is one. */
interface Part {
  readonly value: Value;
  readonly offset: number;
  readonly source: Value | undefined;
}

class Joins {
  readonly parts = new Map<number, PartOf>();
  readonly #alignment: number;
  /** Ids of values that groups outside of loops write and nothing but groups knows. */
  readonly #free = new Set<number>();
  /** By value id, the groups that are given it. */
  readonly #users = new Map<number, Set<Group>>();
  /** By value id, what lies in it. */
  readonly #members = new Map<number, Value[]>();
  #nextId: number;

  constructor(work: readonly Work[], graph: Graph, target: Target) {
    this.#alignment = Math.max(wordBytes, target.limits.storageAlignment);
    const groups = work.flatMap((item) => (item.kind === 'group' ? [item.group] : []));
    for (const group of groups) for (const { id } of group.writes) this.#free.add(id);
    for (const item of work) if (item.kind === 'loop') for (const { id } of valuesOf(item)) this.#free.delete(id);
    for (const { value } of graph.outputs) this.#free.delete(value.id);
    for (const group of groups) this.#note(group);
    let last = -1;
    for (const id of allIds(work, graph)) last = Math.max(last, id);
    this.#nextId = last + 1;
  }

  /** The work as it is, without the group if it only joins, or with one that makes the last part. */
  visit(item: Work): readonly Work[] {
    if (item.kind !== 'group') return [item];
    const { group } = item;
    const found = this.#partsOf(group);
    if (found === undefined) return [item];
    const [whole] = group.writes;
    const placed = found.filter((part) => this.#fits(part, whole, group, found));
    const left = found.filter((part) => !placed.includes(part));
    const bytes = (list: readonly Part[]): number => list.reduce((sum, { value }) => sum + bytesOfValue(value), 0);
    // What stays in memory as long as the whole must be worth it.
    if (placed.length === 0 || left.length > 1 || bytes(left) > bytes(placed)) return [item];
    const rest = left.map((part) => ({ part, group: this.#alone(part, group) }));
    const taken = new Set(placed.flatMap(({ source }) => this.#within(source as Value)).map(({ id }) => id));
    // It must not be given what lies beside the part that it writes, in the same memory, for another size.
    if (rest.some(({ part, group: own }) => !this.#aligned(part) || own.reads.some(({ id }) => taken.has(id))))
      return [item];
    for (const { source, offset } of placed) this.#put(source as Value, { whole, offset });
    return rest.map(({ part: { offset }, group: own }): Work => {
      this.#put(own.writes[0], { whole, offset });
      this.#note(own);
      return { kind: 'group', group: own };
    });
  }

  #note(group: Group): void {
    for (const { id } of [...group.reads, ...group.writes]) {
      const users = this.#users.get(id) ?? new Set();
      this.#users.set(id, users.add(group));
    }
  }

  #put(value: Value, place: PartOf): void {
    this.parts.set(value.id, place);
    this.#members.set(place.whole.id, [...(this.#members.get(place.whole.id) ?? []), value]);
  }

  /** The parts of a group that does nothing but join them, each a range of the result. */
  #partsOf({ family, nodes, writes }: Group): readonly Part[] | undefined {
    const [whole] = writes;
    const root = nodes.find((node): node is NodeOf<'concat'> => node.op === 'concat' && node.outputs[0] === whole);
    if (family !== 'map' || writes.length !== 1 || !root || !this.#free.has(whole.id)) return undefined;
    if (isPacked(whole.type.dtype) || sizeOf(shapeOf(whole).slice(0, root.attrs.axis)) !== 1) return undefined;
    const inputs = root.inputs.filter((input) => sizeOf(shapeOf(input)) > 0);
    let offset = 0;
    return inputs.map((value): Part => {
      const part = { value, offset, source: sourceOf(value, nodes) };
      offset += bytesOfValue(value);
      return part;
    });
  }

  #aligned = ({ value, offset }: Part): boolean =>
    offset % this.#alignment === 0 && bytesOfValue(value) % wordBytes === 0;

  #fits(part: Part, whole: Value, group: Group, all: readonly Part[]): boolean {
    const { source } = part;
    if (source === undefined || !this.#aligned(part)) return false;
    if (!this.#free.has(source.id) || this.parts.has(source.id) || source.type.dtype !== whole.type.dtype) return false;
    if (all.some((other) => other !== part && other.source === source) || usesOf(source, group) !== 1) return false;
    const given = this.#users.get(whole.id) as ReadonlySet<Group>;
    return this.#within(source).every(({ id }) =>
      [...(this.#users.get(id) ?? [])].every((user) => user === group || !given.has(user)),
    );
  }

  /** The value and all that lies in it. */
  #within(value: Value): readonly Value[] {
    return [value, ...(this.#members.get(value.id) ?? []).flatMap((member) => this.#within(member))];
  }

  /** A group that makes one part, under a name of its own: other groups may compute the same value for themselves. */
  #alone({ value }: Part, group: Group): Group {
    const needed = new Set<Node>();
    const need = ({ id }: Value): void => {
      const node = group.nodes.find(({ outputs }) => outputs.some((output) => output.id === id));
      if (node === undefined || needed.has(node)) return;
      needed.add(node);
      node.inputs.forEach(need);
    };
    need(value);
    const output: Value = { id: this.#nextId++, name: `${value.name}.part`, type: value.type };
    const { source } = group.nodes[group.nodes.length - 1];
    const copy: NodeOf<'reshape'> = {
      op: 'reshape',
      attrs: { shape: value.type.shape },
      inputs: [value],
      outputs: [output],
      source,
    };
    const nodes = [...group.nodes.filter((node) => needed.has(node)), copy];
    const read = new Set(nodes.flatMap(({ inputs }) => inputs.map(({ id }) => id)));
    return { ...group, nodes, reads: group.reads.filter(({ id }) => read.has(id)), writes: [output] };
  }
}

/** The value that another one is, but for its shape; undefined if the group computes it. */
function sourceOf(value: Value, nodes: readonly Node[]): Value | undefined {
  const node = nodes.find(({ outputs }) => outputs.includes(value));
  if (node === undefined) return value;
  return node.op === 'reshape' && usesOf(value, { nodes }) === 1 ? sourceOf(node.inputs[0], nodes) : undefined;
}

const usesOf = (value: Value, { nodes }: Pick<Group, 'nodes'>): number =>
  nodes.reduce((sum, { inputs }) => sum + inputs.filter((input) => input === value).length, 0);

function valuesOf(work: Work): readonly Value[] {
  if (work.kind === 'group') return [...work.group.reads, ...work.group.writes, ...homesOf(work.group)];
  const carried = work.carried.flatMap(({ initial, current, next, last }) => [initial, current, next, last]);
  return [...carried, ...work.outputs, ...work.nodes.flatMap(({ inputs }) => inputs), ...work.body.flatMap(valuesOf)];
}

const homesOf = ({ loop }: Group): readonly Value[] => [...(loop?.homes.values() ?? [])].map(({ memory }) => memory);

function* allIds(work: readonly Work[], graph: Graph): Generator<number> {
  for (const { id } of graph.inputs) yield id;
  for (const id of graph.constants.keys()) yield id;
  for (const item of work) {
    for (const { id } of valuesOf(item)) yield id;
    if (item.kind === 'group')
      for (const { inputs, outputs } of item.group.nodes) for (const { id } of [...inputs, ...outputs]) yield id;
    else yield* allIds(item.body, graph);
  }
}
