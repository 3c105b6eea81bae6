/** What fusion hands to scheduling: the nodes that become one kernel. */
import type { FamilyName } from '../graph/definition.js';
import { definitionOf } from '../graph/ops/index.js';
import type { ConstantData, Node, Value } from '../graph/types.js';
import { type Affine, delinearize, linearize } from './affine.js';
import type { Binding } from './lowered.js';

/** The number of the iteration of a loop: a scalar parameter of every kernel that needs it. */
export interface LoopVariable {
  /** 0 for the outermost loop. */
  readonly depth: number;
  readonly trips: number;
}

/** Where a value lies that is one slice of another one: element e is element `constant + Σ stride·iteration + e`. */
export interface Home {
  readonly memory: Value;
  readonly terms: readonly { readonly variable: LoopVariable; readonly stride: number }[];
  readonly constant: number;
}

/** What is special about the values of a loop's body. */
export interface LoopScope {
  /** By value id: slices of scanned arrays, and of stacks. */
  readonly homes: ReadonlyMap<number, Home>;
  /** By value id: iteration numbers. They take no memory. */
  readonly numbers: ReadonlyMap<number, LoopVariable>;
}

/**
 * Equal slices of what a contraction sums over: slice s takes the steps [s·length, (s + 1)·length), and its sums are
 * element [s, …] of `partials`, in the accumulators' type. Steps after the last slice are left to who adds the sums up.
 */
export interface Slices {
  readonly count: number;
  readonly length: number;
  readonly partials: Value;
}

export interface Group {
  readonly family: FamilyName;
  /** The node that decides the kernel's form; a map group has none. */
  readonly anchor?: Node;
  /** In topological order, the anchor included. Views may be in several groups. */
  readonly nodes: readonly Node[];
  /** Values that the kernel reads from memory, each once. */
  readonly reads: readonly Value[];
  /** Values that the kernel writes to memory: the result, further results of the anchor, then `sides`. */
  readonly writes: readonly Value[];
  /** Values on the way to the result that are written too, each at the index of the result. */
  readonly sides: readonly Value[];
  /** Data of all constants of the graph. */
  readonly constants: ReadonlyMap<number, ConstantData>;
  /** Data of constants of one element that are built into the code. */
  readonly scalars: ReadonlyMap<number, ConstantData>;
  /** Set in the bodies of loops. */
  readonly loop?: LoopScope;
  /** Set where the anchor's sums are computed slice by slice: the group writes `partials` instead of the anchor's result. */
  readonly slices?: Slices;
}

/** The memory that holds a value; undefined for what takes none. */
export function memoryOf({ loop }: Group, value: Value): Value | undefined {
  if (loop?.numbers.has(value.id)) return undefined;
  return loop?.homes.get(value.id)?.memory ?? value;
}

/** What the buffers of the group's kernel are bound to, in order; several slices of an array are one binding. */
export function bindingsOf(group: Group): readonly Binding[] {
  const reads = new Map<number, Value>();
  for (const value of group.reads) {
    const memory = memoryOf(group, value);
    if (memory && !reads.has(memory.id)) reads.set(memory.id, memory);
  }
  return [...reads.values(), ...group.writes.map((value) => memoryOf(group, value) as Value)];
}

/** Name for a kernel: its family and main ops, a valid identifier. */
export function nameOf(group: Group): string {
  const main = group.anchor ? [group.anchor.op] : [];
  const others = group.nodes.filter((n) => n !== group.anchor && !isView(n.op)).map((n) => n.op);
  const parts = [group.family, ...main, ...others.slice(-3)];
  return parts.join('_').slice(0, 60);
}

/** Source nodes that the group computes, in order, each once. */
export const sourcesOf = (group: Group): readonly string[] => [...new Set(group.nodes.map((n) => n.source.node))];

/** Movement that costs nothing but index arithmetic. */
export const isView = (op: Node['op']): boolean =>
  op === 'reshape' || op === 'transpose' || op === 'broadcast' || op === 'slice' || op === 'iota';

/** Index of the written element that an element of the anchor's result ends up in. */
export function resultIndex(group: Group, index: readonly Affine[]): readonly Affine[] {
  if (!group.anchor) throw new Error('only groups with an anchor have a result path');
  const path =
    resultPath(
      group.anchor,
      group.nodes.filter((n) => n !== group.anchor),
      group.writes[0],
    ) ?? [];
  return path.reduce((at, node) => {
    if (node.op === 'transpose') return node.attrs.permutation.map((from) => at[from]);
    const [from, to] = [node.inputs[0].type.shape, node.outputs[0].type.shape] as (readonly number[])[];
    return delinearize(linearize(at, from), to);
  }, index);
}

/**
 * `nodes` in topological order. The views on the way from an anchor's result to the value that is written, or undefined unless every path between
 * them is elementwise or goes through the same reshapes and transposes: then anchor elements and written elements
 * correspond one to one.
 */
export function resultPath(anchor: Node, nodes: readonly Node[], output: Value): readonly Node[] | undefined {
  const paths = new Map<number, readonly Node[]>([[anchor.outputs[0].id, []]]);
  for (const node of nodes) {
    const touched = node.inputs
      .filter((input) => paths.has(input.id))
      .map((input) => paths.get(input.id) as readonly Node[]);
    if (touched.length === 0) continue;
    const [path] = touched;
    if (touched.some((other) => !samePath(other, path))) return undefined;
    if (node.op === 'reshape' || node.op === 'transpose') paths.set(node.outputs[0].id, [...path, node]);
    else if (definitionOf(node.op).scalar) paths.set(node.outputs[0].id, path);
    else return undefined;
  }
  return paths.get(output.id);
}

const samePath = (a: readonly Node[], b: readonly Node[]): boolean =>
  a.length === b.length &&
  a.every((node, i) => {
    const other = b[i];
    if (node === other) return true;
    if (node.op === 'reshape' && other.op === 'reshape') return String(node.attrs.shape) === String(other.attrs.shape);
    return (
      node.op === 'transpose' &&
      other.op === 'transpose' &&
      String(node.attrs.permutation) === String(other.attrs.permutation)
    );
  });
