/**
 * Memory layouts: images between convolutions lie in memory with their channels last, where the target's kernels are
 * faster so.
 *
 * A layout is a pair of transposes that cost nothing: the group that writes a value ends with one and writes the
 * transposed value, groups that read it begin with its inverse. Both are views like others, index arithmetic of the
 * kernels. Inputs and results of the graph stay as they are, so that the first and the last groups on the way change
 * the layout while they compute.
 *
 * Values that one kernel reads and writes element by element get the same layout, or its loads would be strided: they
 * are one component, and a component is turned as a whole if every convolution that touches it gains or does not care.
 */
import type { Graph, Node, NodeOf, TensorType, Value } from '../graph/types.js';
import type { Target } from '../kernel/target.js';
import { channelsLastGain } from './contract/image/choice.js';
import { type Group, resultPath } from './group.js';
import { range } from './tensors.js';

/** [N, C, …spatial] → [N, …spatial, C], and back. */
const toLast = (rank: number): number[] => [0, ...range(rank - 2).map((d) => d + 2), 1];
const toFirst = (rank: number): number[] => [0, rank - 1, ...range(rank - 2).map((d) => d + 1)];

export function assignLayouts(groups: readonly Group[], graph: Graph, target: Target): readonly Group[] {
  if (target.style !== 'cpu' || !groups.some(({ anchor }) => anchor?.op === 'conv')) return groups;
  const turned = chooseTurned(groups, graph, target);
  if (turned.size === 0) return groups;
  return new Turner(graph, turned).run(groups);
}

// --- which values ----------------------------------------------------------------------------------------------------

/** Ids of the values to be laid out with channels last. */
function chooseTurned(groups: readonly Group[], graph: Graph, target: Target): ReadonlySet<number> {
  const candidates = candidatesOf(groups, graph);
  const components = new Components([...candidates]);
  for (const group of groups) {
    const [output] = group.writes;
    const touched = group.reads.filter((value) => candidates.has(value.id) && !feedsConvolution(group, value));
    const linked = candidates.has(output.id) ? [output, ...touched] : touched;
    for (const value of linked.slice(1)) components.join(linked[0].id, value.id);
  }
  const votes = new Map<number, number>();
  const vote = ({ id }: Value, gain: number): void => {
    if (candidates.has(id)) votes.set(components.of(id), (votes.get(components.of(id)) ?? 0) + gain);
  };
  for (const group of groups) {
    if (group.anchor?.op !== 'conv') continue;
    const gain = channelsLastGain(group, target);
    vote(group.anchor.inputs[0], gain);
    vote(group.writes[0], gain);
  }
  return new Set([...candidates].filter((id) => (votes.get(components.of(id)) ?? 0) > 0));
}

/** Values between groups whose kernels work the same whatever way their elements lie. */
function candidatesOf(groups: readonly Group[], graph: Graph): Set<number> {
  const results = new Set(graph.outputs.map(({ value }) => value.id));
  const candidates = new Set<number>();
  for (const group of groups) {
    const [output] = group.writes;
    const isImage = output.type.dtype === 'f32' && output.type.shape.length >= 3;
    if (isImage && !results.has(output.id) && canWrite(group)) candidates.add(output.id);
  }
  for (const group of groups) {
    if (['special', 'loop', 'attend', 'host'].includes(group.family))
      for (const { id } of group.reads) candidates.delete(id);
  }
  return candidates;
}

/** Whether a transpose can be put behind what the group computes. */
function canWrite({ family, anchor, nodes, writes, sides }: Group): boolean {
  if (writes.length !== 1 || sides.length > 0) return false;
  if (family === 'map') return true;
  if (family === 'contract' ? anchor?.op !== 'conv' : family !== 'window') return false;
  // Reshapes on the way would make the epilogue's operands lie another way than the result.
  const path = resultPath(
    anchor as Node,
    nodes.filter((node) => node !== anchor),
    writes[0],
  );
  return path !== undefined && path.length === 0;
}

/** Whether the group reads the value as the image of its convolution, and nowhere else: in any layout. */
function feedsConvolution({ anchor, nodes }: Group, value: Value): boolean {
  if (anchor?.op !== 'conv' || anchor.inputs[0] !== value) return false;
  return nodes.every((node) => node === anchor || !node.inputs.includes(value));
}

/** Sets that are joined: each is known by one of its members. */
class Components {
  readonly #parents: Map<number, number>;

  constructor(members: readonly number[]) {
    this.#parents = new Map(members.map((id) => [id, id]));
  }

  of(member: number): number {
    const parent = this.#parents.get(member) as number;
    if (parent === member) return member;
    const root = this.of(parent);
    this.#parents.set(member, root);
    return root;
  }

  join(a: number, b: number): void {
    this.#parents.set(this.of(a), this.of(b));
  }
}

// --- turning ---------------------------------------------------------------------------------------------------------

class Turner {
  readonly #turned: ReadonlySet<number>;
  readonly #memories = new Map<number, Value>();
  #nextId: number;

  constructor(graph: Graph, turned: ReadonlySet<number>) {
    this.#turned = turned;
    const values = [...graph.inputs, ...graph.nodes.flatMap((node) => [...node.inputs, ...node.outputs])];
    this.#nextId = 1 + Math.max(...[...values, ...graph.outputs.map(({ value }) => value)].map(({ id }) => id));
  }

  run(groups: readonly Group[]): Group[] {
    return groups.map((group) => this.#written(this.#read(group)));
  }

  #fresh(name: string, type: TensorType): Value {
    return { id: this.#nextId++, name, type };
  }

  /** What lies in memory instead of a turned value. */
  #memory(value: Value): Value {
    const known = this.#memories.get(value.id);
    if (known) return known;
    const memory = this.#fresh(`${value.name}.last`, turnedType(value));
    this.#memories.set(value.id, memory);
    return memory;
  }

  /** The group with the inverse of a layout before each turned value that it reads. */
  #read(group: Group): Group {
    const turned = group.reads.filter(({ id }) => this.#turned.has(id));
    if (turned.length === 0) return group;
    const views = turned.map((value) => {
      const permutation = toFirst(value.type.shape.length);
      return transposeOf(this.#memory(value), value, permutation, (group.anchor ?? group.nodes[0]).source);
    });
    const reads = group.reads.map((value) => (this.#turned.has(value.id) ? this.#memory(value) : value));
    return { ...group, nodes: [...views, ...group.nodes], reads };
  }

  #written(group: Group): Group {
    const [output] = group.writes;
    if (!this.#turned.has(output.id)) return group;
    const memory = this.#memory(output);
    const root = group.nodes.find((node) => node.outputs.includes(output)) as Node;
    const permutation = toLast(output.type.shape.length);
    if (root.op === 'concat') return this.#concatenated(group, root, memory, permutation);
    return {
      ...group,
      nodes: [...group.nodes, transposeOf(output, memory, permutation, root.source)],
      writes: [memory],
    };
  }

  /** Parts are turned one by one, so that each is written by itself. */
  #concatenated(group: Group, root: NodeOf<'concat'>, memory: Value, permutation: readonly number[]): Group {
    const parts = root.inputs.map((input) => this.#fresh(`${input.name}.last`, turnedType(input)));
    const views = root.inputs.map((input, i) => transposeOf(input, parts[i], permutation, root.source));
    const attrs = { axis: permutation.indexOf(root.attrs.axis) };
    const concat: Node = { ...root, attrs, inputs: parts, outputs: [memory] };
    return { ...group, nodes: [...group.nodes.filter((node) => node !== root), ...views, concat], writes: [memory] };
  }
}

const turnedType = ({ type }: Value): TensorType => ({
  ...type,
  shape: toLast(type.shape.length).map((from) => type.shape[from]),
});

function transposeOf(
  x: Value,
  output: Value,
  permutation: readonly number[],
  source: Node['source'],
): NodeOf<'transpose'> {
  return { op: 'transpose', attrs: { permutation }, inputs: [x], outputs: [output], source };
}
