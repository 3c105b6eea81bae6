/**
 * Fusion: cuts a graph of primitives into groups, each of which becomes one kernel.
 *
 * Nodes are visited from the results backwards. A node joins the group of its consumers when they are all in one
 * group and that group's family can compute it on the way: this can never make a cycle. Views are free and go into
 * every group that reads them. What does not join starts a group of its own and is written to memory.
 */
import { isPacked } from '../dtype.js';
import { TuttiError } from '../error.js';
import { describe } from '../graph/builder.js';
import type { FamilyName } from '../graph/definition.js';
import { shapeEquals } from '../graph/dims.js';
import { definitionOf } from '../graph/ops/index.js';
import type { ConstantData, Graph, Node, OpKind, Value } from '../graph/types.js';
import type { Target } from '../kernel/target.js';
import { isMathFn } from '../kernel/types.js';
import { sizeOf } from '../tensor.js';
import { attends } from './attend/index.js';
import { attentionAt, type Pattern } from './attend/pattern.js';
import { chainOf, multipliesBytes } from './contract/narrow.js';
import { type Group, isView, resultPath } from './group.js';

interface Draft {
  readonly output: Value;
  family: FamilyName;
  anchor?: Node;
  readonly nodes: Set<Node>;
  /** Nodes that feed the anchor; they are computed as often as the anchor reads them. */
  readonly prologue: Set<Node>;
  /** Nodes whose element is computed wherever the result's element of the same index is. */
  readonly aligned: Set<Node>;
  /** Of attention: what logits are computed with. */
  readonly logits: Set<Node>;
  /** Values of aligned nodes that are results of the graph by themselves. */
  readonly sides: Value[];
}

const slow: readonly OpKind[] = ['sqrt', 'rsqrt', 'recip', 'div', 'rem'];
/** Whether computing an op again costs more than reading its result. */
const isCostly = (op: OpKind): boolean => isMathFn(op) || slow.includes(op);
/** Families whose results may be worked on before they are written. */
const withEpilogue: ReadonlySet<FamilyName> = new Set<FamilyName>(['rows', 'contract', 'attend', 'window']);

const elements = (value: Value): number => sizeOf(value.type.shape as readonly number[]);

export function fuse(graph: Graph, target: Target): Group[] {
  return new Fusion(graph, target).run();
}

/** Whether element i… of the result comes from elements i… of the operands. */
const keepsPlaces = ({ op, inputs, outputs }: Node): boolean =>
  definitionOf(op).scalar !== undefined ||
  (op === 'reshape' && shapeEquals(inputs[0].type.shape, outputs[0].type.shape));

class Fusion {
  readonly #graph: Graph;
  readonly #target: Target;
  readonly #consumers = new Map<number, Node[]>();
  readonly #producers = new Map<number, Node>();
  readonly #results: ReadonlySet<number>;
  readonly #position = new Map<Node, number>();
  readonly #groups = new Map<Node, Draft[]>();
  readonly #drafts: Draft[] = [];
  readonly #scalars = new Map<number, ConstantData>();
  /** By the last product. */
  readonly #attentions = new Map<Node, Pattern>();

  constructor(graph: Graph, target: Target) {
    this.#graph = graph;
    this.#target = target;
    this.#results = new Set(graph.outputs.map((output) => output.value.id));
    graph.nodes.forEach((node, i) => {
      this.#position.set(node, i);
      for (const output of node.outputs) this.#producers.set(output.id, node);
      for (const input of new Set(node.inputs)) {
        const known = this.#consumers.get(input.id);
        if (known) known.push(node);
        else this.#consumers.set(input.id, [node]);
      }
    });
    for (const [id, constant] of graph.constants) if (sizeOf(constant.shape) === 1) this.#scalars.set(id, constant);
    this.#findAttentions();
  }

  run(): Group[] {
    for (const node of [...this.#graph.nodes].reverse()) this.#place(node);
    const last = (draft: Draft) => Math.max(...[...draft.nodes].map((n) => this.#position.get(n) as number));
    return this.#drafts
      .map((draft) => ({ draft, at: last(draft) }))
      .sort((p, q) => p.at - q.at)
      .map(({ draft }) => this.#finish(draft));
  }

  #findAttentions(): void {
    const graph = {
      producer: ({ id }: Value) => this.#producers.get(id),
      consumers: ({ id }: Value) => this.#consumers.get(id) ?? [],
      isResult: ({ id }: Value) => this.#results.has(id),
    };
    for (const node of this.#graph.nodes) {
      const pattern = attentionAt(node, graph);
      if (!pattern || !attends(pattern, this.#target)) continue;
      const buffers = this.#reads(new Set([node, ...pattern.inner])).length + 1;
      if (buffers <= this.#target.limits.storageBuffers) this.#attentions.set(node, pattern);
    }
  }

  #place(node: Node): void {
    if (this.#groups.has(node)) return; // inside of an attention
    const consumers = [...new Set(node.outputs.flatMap((output) => this.#consumers.get(output.id) ?? []))];
    const isResult = node.outputs.some((output) => this.#results.has(output.id));
    if (!isResult && consumers.every((consumer) => !this.#groups.has(consumer))) return; // dead
    const drafts = [...new Set(consumers.flatMap((consumer) => this.#groups.get(consumer) ?? []))];
    if (!isResult && node.outputs.length === 1) {
      const joins = (draft: Draft) => this.#admits(draft, node, consumers);
      if (isView(node.op) || this.#widensBytes(node) ? drafts.every(joins) : drafts.length === 1 && joins(drafts[0])) {
        for (const draft of drafts) this.#join(draft, node, consumers);
        this.#groups.set(node, drafts);
        return;
      }
    }
    if (isResult && drafts.length === 1 && this.#admitsSide(drafts[0], node, consumers)) {
      const [draft] = drafts;
      this.#join(draft, node, consumers);
      draft.sides.push(node.outputs[0]);
      this.#groups.set(node, drafts);
      return;
    }
    this.#groups.set(node, [this.#begin(node)]);
  }

  #begin(node: Node): Draft {
    const family = this.#familyOf(node);
    if (family === 'host') {
      throw new TuttiError(
        'E_UNSUPPORTED',
        `${node.op === 'source_op' ? node.attrs.name : node.op} depends on data that is known only at run time`,
        {
          subject: describe(node.source),
          remedy: 'Give the model concrete shapes with --shape or --dim, or constant parameters',
        },
      );
    }
    const anchor = family === 'map' ? undefined : node;
    const draft: Draft = {
      output: node.outputs[0],
      family,
      anchor,
      nodes: new Set([node]),
      prologue: new Set(),
      aligned: new Set(keepsPlaces(node) ? [node] : []),
      logits: new Set(),
      sides: [],
    };
    this.#joinAttention(draft, node);
    this.#drafts.push(draft);
    return draft;
  }

  #join(draft: Draft, node: Node, consumers: readonly Node[]): void {
    const family = this.#familyOf(node);
    if (family !== 'map') {
      draft.family = family;
      draft.anchor = node;
      this.#joinAttention(draft, node);
    } else if (this.#feedsAnchor(draft, consumers)) draft.prologue.add(node);
    if (family === 'map' && consumers.some((consumer) => draft.logits.has(consumer))) draft.logits.add(node);
    if (keepsPlaces(node) && !draft.prologue.has(node) && consumers.some((consumer) => draft.aligned.has(consumer)))
      draft.aligned.add(node);
    draft.nodes.add(node);
  }

  #familyOf(node: Node): FamilyName {
    return this.#attentions.has(node) ? 'attend' : definitionOf(node.op).family;
  }

  /** With the last product of an attention come all nodes before it. */
  #joinAttention(draft: Draft, product: Node): void {
    const pattern = this.#attentions.get(product);
    for (const node of pattern?.inner ?? []) {
      draft.nodes.add(node);
      draft.prologue.add(node);
      this.#groups.set(node, [draft]);
    }
    for (const node of pattern?.logits ?? []) draft.logits.add(node);
  }

  /**
   * A result that is computed on the way to another one is written by the same kernel, also where a row is made of it
   * (the sum that is normalised).
   */
  #admitsSide(draft: Draft, node: Node, consumers: readonly Node[]): boolean {
    const [value] = node.outputs;
    return (
      node.outputs.length === 1 &&
      // Results that are written by whole bytes go alone.
      !isPacked(value.type.dtype) &&
      !isPacked(draft.output.type.dtype) &&
      keepsPlaces(node) &&
      (draft.family === 'map' || withEpilogue.has(draft.family)) &&
      (this.#feedsAnchor(draft, consumers)
        ? draft.family === 'rows'
        : consumers.some((consumer) => draft.aligned.has(consumer))) &&
      shapeEquals(value.type.shape, draft.output.type.shape) &&
      this.#bindings(draft, node) + 1 <= this.#target.limits.storageBuffers
    );
  }

  #feedsAnchor(draft: Draft, consumers: readonly Node[]): boolean {
    return consumers.some((consumer) => consumer === draft.anchor || draft.prologue.has(consumer));
  }

  #admits(draft: Draft, node: Node, consumers: readonly Node[]): boolean {
    if (this.#bindings(draft, node) > this.#target.limits.storageBuffers) return false;
    const family = this.#familyOf(node);
    if (family !== 'map') {
      return (
        withEpilogue.has(family) &&
        !isPacked(draft.output.type.dtype) &&
        draft.anchor === undefined &&
        resultPath(node, this.#ordered(draft), draft.output) !== undefined
      );
    }
    if (node.op === 'concat') return false; // its parts are written in place instead
    if (this.#producers.get(draft.output.id)?.op === 'concat' && this.#endsAnchor(node)) return false;
    if (this.#feedsAnchor(draft, consumers)) return this.#admitsPrologue(draft, node, consumers);
    const growth = elements(draft.output) / Math.max(1, elements(node.outputs[0]));
    return isView(node.op) || growth < 4 || elements(node.outputs[0]) === 1 || !isCostly(node.op);
  }

  /**
   * Whether the node is the end of what a family with an epilogue computes, and nothing else is made of that: it is
   * better done where the operand is made than where results are joined.
   */
  #endsAnchor(node: Node): boolean {
    if (!keepsPlaces(node)) return false;
    const own = new Set([node]);
    // The set grows while it is walked.
    for (const { inputs } of own) {
      for (const { id } of inputs) {
        const producer = this.#producers.get(id);
        const alone = this.#consumers.get(id)?.every((consumer) => own.has(consumer)) && !this.#results.has(id);
        if (producer === undefined || !alone) continue;
        if (withEpilogue.has(this.#familyOf(producer))) return true;
        if (keepsPlaces(producer)) own.add(producer);
      }
    }
    return false;
  }

  #admitsPrologue(draft: Draft, node: Node, consumers: readonly Node[]): boolean {
    if (isView(node.op)) return draft.family !== 'special' && draft.family !== 'loop';
    if (draft.family === 'contract') return this.#widensBytes(node);
    // Masks are computed where the scores are.
    if (draft.family === 'attend')
      return !isCostly(node.op) && consumers.every((consumer) => draft.logits.has(consumer));
    return draft.family === 'rows' && node.op !== 'gather_nd' && node.op !== 'gather_elements';
  }

  /** Whether the node only widens integers of 8 bits, which the target multiplies as they are: every reader does so. */
  #widensBytes({ outputs: [value] }: Node): boolean {
    if (!multipliesBytes(this.#target)) return false;
    const unseen = (from: Value): Node | undefined =>
      this.#results.has(from.id) ? undefined : this.#producers.get(from.id);
    const chain = chainOf(value, unseen, this.#scalars);
    return chain !== undefined && chain.source !== value;
  }

  /** Storage buffers of the draft's kernel if `node` joined it. */
  #bindings(draft: Draft, node: Node): number {
    const nodes = new Set([...draft.nodes, node, ...(this.#attentions.get(node)?.inner ?? [])]);
    return this.#reads(nodes).length + (draft.anchor ?? node).outputs.length + draft.sides.length;
  }

  #reads(nodes: ReadonlySet<Node>): Value[] {
    const produced = new Set([...nodes].flatMap((n) => n.outputs.map((output) => output.id)));
    const reads = new Map<number, Value>();
    for (const node of nodes) {
      for (const input of node.inputs) {
        if (!produced.has(input.id) && !this.#scalars.has(input.id) && elements(input) > 0) reads.set(input.id, input);
      }
    }
    return [...reads.values()];
  }

  #ordered(draft: Draft): Node[] {
    return [...draft.nodes].sort((p, q) => (this.#position.get(p) as number) - (this.#position.get(q) as number));
  }

  #finish(draft: Draft): Group {
    const nodes = this.#ordered(draft);
    const results = draft.anchor?.outputs.includes(draft.output)
      ? draft.anchor.outputs.filter((output) => this.#results.has(output.id) || this.#consumers.has(output.id))
      : [draft.output];
    return {
      family: draft.family,
      anchor: draft.anchor,
      nodes,
      reads: this.#reads(draft.nodes),
      writes: [...results, ...draft.sides],
      sides: draft.sides,
      constants: this.#graph.constants,
      scalars: this.#scalars,
    };
  }
}
