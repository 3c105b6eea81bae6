/** How far the conversion of a graph has come: the graph, the bodies that are being inlined, and what is in them. */
import type { NotConstant } from '../graph/host_values.js';
import type { Graph, Node, NodeOf } from '../graph/types.js';
import type { HostTensor } from '../tensor.js';
import type { Tree } from './mapped.js';
import type { BodyCall } from './source.js';
import type { Held, Leaf } from './stage.js';

/** A graph on its way: the model's, or a body that is being inlined. */
export interface Frame<L> {
  readonly graph: Graph;
  /** Index of the node to convert next. */
  readonly next: number;
  readonly values: ReadonlyMap<number, Tree<L>>;
  /** What was read for the conversion at hand, by the converter's names. */
  readonly answers: ReadonlyMap<string, HostTensor>;
  /** Of a body: the operator it belongs to. */
  readonly call?: {
    readonly node: NodeOf<'source_op'>;
    readonly saved: readonly Tree<L>[];
    readonly then: BodyCall['then'];
    readonly repeated?: boolean;
  };
}

export interface State {
  /** Innermost last. */
  readonly frames: readonly Frame<Held>[];
  /** What the host has read. */
  readonly known: ReadonlyMap<Held, HostTensor>;
  readonly stage: number;
}

/** A frame as it is worked on. */
export class Work implements Frame<Leaf> {
  readonly graph: Graph;
  next: number;
  readonly values: Map<number, Tree<Leaf>>;
  readonly answers: Map<string, HostTensor>;
  readonly call?: Frame<Leaf>['call'];

  constructor({ graph, next, values, answers, call }: Frame<Leaf>) {
    this.graph = graph;
    this.next = next;
    this.values = new Map(values);
    this.answers = new Map(answers);
    if (call !== undefined) this.call = call;
  }
}

/** What a conversion asks for, in the words of the model. */
export function describeMissing(
  { input, key, value }: NotConstant,
  { graph, next }: Work,
  node: Node | undefined,
): string {
  if (key !== undefined) return key;
  if (input < 0 || node?.op !== 'source_op' || node !== graph.nodes[next]) return value.name;
  const given = node.inputs[node.attrs.present.slice(0, input).filter(Boolean).length];
  return `input ${input} (${given?.name ?? value.name})`;
}
