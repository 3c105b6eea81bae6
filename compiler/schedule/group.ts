/** What fusion hands to scheduling: the nodes that become one kernel. */
import type { FamilyName } from '../graph/definition.js';
import type { ConstantData, Node, Value } from '../graph/types.js';
import { type Affine, delinearize, linearize } from './affine.js';
import { resultPath } from './fuse.js';

export interface Group {
  readonly family: FamilyName;
  /** The node that decides the kernel's form; a map group has none. */
  readonly anchor?: Node;
  /** In topological order, the anchor included. Views may be in several groups. */
  readonly nodes: readonly Node[];
  /** Values that the kernel reads from memory, each once. */
  readonly reads: readonly Value[];
  /** Values that the kernel writes to memory. */
  readonly writes: readonly Value[];
  /** Data of all constants of the graph. */
  readonly constants: ReadonlyMap<number, ConstantData>;
  /** Data of constants of one element that are built into the code. */
  readonly scalars: ReadonlyMap<number, ConstantData>;
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
  const path = resultPath(group.anchor, group.nodes.filter((n) => n !== group.anchor), group.writes[0]) ?? [];
  return path.reduce((at, node) => {
    if (node.op === 'transpose') return node.attrs.permutation.map((from) => at[from]);
    const [from, to] = [node.inputs[0].type.shape, node.outputs[0].type.shape] as (readonly number[])[];
    return delinearize(linearize(at, from), to);
  }, index);
}
