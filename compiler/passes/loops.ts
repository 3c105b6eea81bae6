/**
 * Loops: bodies get what they can get from outside. Constants move in, where contractions can pack them; what all
 * iterations compute alike moves out, and so do contractions of what is known of all iterations beforehand; results and inputs that nobody needs go. A loop of few small iterations is
 * written out.
 */
import { bytesOf } from '../dtype.js';
import { GraphBuilder } from '../graph/builder.js';
import { broadcastTo, reverse as reversed, transpose } from '../graph/compose/index.js';
import { bodyInputs, partsOf, type ScanParts, scan, unroll } from '../graph/scan.js';
import type { ConstantData, Graph, Node, NodeOf, OpKind, Value } from '../graph/types.js';
import { isView } from '../schedule/group.js';
import { sizeOf } from '../tensor.js';
import { rewrite } from './rewrite.js';

/** Nodes that a loop may have become when all its iterations are written out. */
const unrolledNodes = 64;

export function loops(graph: Graph): Graph {
  if (!graph.nodes.some((node) => node.op === 'scan')) return graph;
  return rewrite(graph, (node, inputs, { b, uses }) => {
    if (node.op !== 'scan') return undefined;
    const wanted = node.outputs.map((output) => uses(output) > 0);
    return new LoopRewrite(b, node, inputs, wanted).run();
  });
}

/** A loop under change. Values of the body are those of the body it came with. */
class LoopRewrite {
  readonly #b: GraphBuilder;
  readonly #node: NodeOf<'scan'>;
  readonly #parts: ScanParts;
  readonly #iteration: Value | undefined;
  #carried: { initial: Value; formal: Value; next: Value; result: number }[];
  #scanned: { array: Value; reverse: boolean; formal: Value }[];
  #captured: { value: Value; formal: Value }[];
  #stacked: { value: Value; reverse: boolean; result: number }[];
  #nodes: readonly Node[];
  readonly #constants: Map<number, ConstantData>;
  /** Of the loop, as far as they are known. */
  readonly #results: Value[] = [];

  constructor(b: GraphBuilder, node: NodeOf<'scan'>, inputs: readonly Value[], wanted: readonly boolean[]) {
    this.#b = b;
    this.#node = node;
    const parts = partsOf(node, inputs);
    this.#parts = parts;
    const { body } = parts;
    const formal = bodyInputs(parts);
    const count = parts.carried.length;
    this.#iteration = formal.iteration;
    this.#carried = parts.carried.map((initial, i) => ({
      initial,
      formal: formal.carried[i],
      next: body.outputs[i].value,
      result: i,
    }));
    this.#scanned = parts.scanned.map((scanned, i) => ({ ...scanned, formal: formal.slices[i] }));
    this.#captured = parts.captured.map((value, i) => ({ value, formal: formal.captured[i] }));
    this.#stacked = parts.stacked
      .map(({ reverse }, i) => ({ value: body.outputs[count + i].value, reverse, result: count + i }))
      .filter(({ result }) => wanted[result]);
    this.#nodes = body.nodes;
    this.#constants = new Map(body.constants);
    this.#dropUnneeded(wanted);
  }

  run(): readonly Value[] {
    this.#sinkConstants();
    for (;;) {
      const before = this.#carried.length + this.#stacked.length;
      this.#hoist();
      this.#liftContractions();
      this.#settle();
      if (this.#carried.length + this.#stacked.length === before) break;
    }
    if (this.#carried.length + this.#stacked.length > 0) this.#emit();
    // Nobody asks for results that are not there.
    return this.#node.outputs.map((_, i) => this.#results[i]);
  }

  /** Carried values that no wanted result depends on. */
  #dropUnneeded(wanted: readonly boolean[]): void {
    const producers = producersOf(this.#nodes);
    const byFormal = new Map(this.#carried.map((carried) => [carried.formal.id, carried]));
    const needed = new Set<Value>();
    const queue = [
      ...this.#stacked.map(({ value }) => value),
      ...this.#carried.filter(({ result }) => wanted[result]).map(({ next }) => next),
    ];
    const seen = new Set<number>();
    for (let value = queue.pop(); value; value = queue.pop()) {
      if (seen.has(value.id)) continue;
      seen.add(value.id);
      const carried = byFormal.get(value.id);
      if (carried) {
        needed.add(carried.formal);
        queue.push(carried.next);
      }
      queue.push(...(producers.get(value.id)?.inputs ?? []));
    }
    this.#carried = this.#carried.filter(({ formal, result }) => wanted[result] || needed.has(formal));
  }

  #sinkConstants(): void {
    this.#captured = this.#captured.filter(({ value, formal }) => {
      const data = this.#b.constantOf(value);
      if (data) this.#constants.set(formal.id, data);
      return !data;
    });
  }

  /** Moves nodes out of the body that depend on captured values alone. Views are free where they are. */
  #hoist(): void {
    const outside = new Outside(this.#b, this.#nodes, this.#captured, this.#constants);
    const moved = this.#nodes.filter((node) => !isView(node.op) && outside.varies(node));
    for (const node of moved)
      for (const output of node.outputs) this.#captured.push({ value: outside.get(output), formal: output });
    this.#nodes = this.#nodes.filter((node) => !moved.includes(node));
  }

  /**
   * Contractions of slices with what all iterations share, or with other slices, become one contraction over whole
   * arrays, whose results the loop walks along: many rows use a matrix then, not one row at a time.
   */
  #liftContractions(): void {
    const outside = new Outside(this.#b, this.#nodes, this.#captured, this.#constants);
    const producers = producersOf(this.#nodes);
    /** The array whose slices the value is, if no more than views and conversions are in between. */
    const arrayOf = (value: Value): { array: Value; reverse: boolean } | undefined => {
      const walked = this.#scanned.find(({ formal }) => formal.id === value.id);
      if (walked) return walked;
      const node = producers.get(value.id);
      if (node?.op !== 'reshape' && node?.op !== 'transpose' && node?.op !== 'cast') return undefined;
      const from = arrayOf(node.inputs[0]);
      return from && { array: overTrips(this.#b, node, from.array), reverse: from.reverse };
    };
    const { trips } = this.#parts;
    for (const node of this.#nodes) {
      if (node.op !== 'dot' || !isWorthLifting(node, trips)) continue;
      const sides = node.inputs.map((input) => (outside.has(input) ? undefined : arrayOf(input)));
      const [lhs, rhs] = sides;
      const shared = node.inputs.map((input) => (outside.has(input) ? outside.get(input) : undefined));
      if (!(lhs ?? shared[0]) || !(rhs ?? shared[1]) || (!lhs && !rhs)) continue;
      if (lhs && rhs && lhs.reverse !== rhs.reverse) continue;
      const operands = sides.map((side, k) => side?.array ?? (shared[k] as Value));
      const array = liftedDot(this.#b, node, operands as [Value, Value], [lhs !== undefined, rhs !== undefined]);
      this.#scanned.push({ array, reverse: (lhs ?? rhs)?.reverse as boolean, formal: node.outputs[0] });
      this.#nodes = this.#nodes.filter((other) => other !== node);
    }
  }

  /** Finds results that no loop is needed for. */
  #settle(): void {
    this.#carried = this.#carried.filter(({ initial, formal, next, result }) => {
      if (next.id !== formal.id) return true;
      // Never changed: all iterations see the initial value.
      this.#results[result] = initial;
      this.#captured.push({ value: initial, formal });
      return false;
    });
    this.#sinkConstants();
    const { trips } = this.#parts;
    this.#stacked = this.#stacked.filter(({ value, reverse, result }) => {
      const same = this.#captured.find(({ formal }) => formal.id === value.id);
      const walked = this.#scanned.find(({ formal }) => formal.id === value.id);
      if (same) {
        this.#results[result] = broadcastTo(this.#b, same.value, [trips, ...same.value.type.shape]);
      } else if (walked) {
        this.#results[result] = walked.reverse === reverse ? walked.array : reversed(this.#b, walked.array, 0);
      }
      return !same && !walked;
    });
  }

  #emit(): void {
    const parts = this.#assemble();
    const { nodes } = parts.body;
    const few = parts.trips * nodes.length <= unrolledNodes && !nodes.some((node) => node.op === 'scan');
    const small = parts.trips <= 1 || few;
    const { carried, stacked } = (small ? unroll : scan)(this.#b, parts);
    this.#carried.forEach(({ result }, i) => {
      this.#results[result] = carried[i];
    });
    this.#stacked.forEach(({ result }, i) => {
      this.#results[result] = stacked[i];
    });
  }

  /** The loop with what is left, bodies inside of the body rewritten too. */
  #assemble(): ScanParts {
    const outputs = [...this.#carried.map(({ next }) => next), ...this.#stacked.map(({ value }) => value)];
    const live = liveValues(this.#nodes, outputs);
    const used = <T extends { readonly formal: Value }>(list: readonly T[]): T[] =>
      list.filter(({ formal }) => live.has(formal.id));
    const scanned = used(this.#scanned);
    const captured = merged(used(this.#captured));
    const { trips, body } = this.#parts;
    const iteration = this.#iteration && live.has(this.#iteration.id) ? this.#iteration : undefined;
    const formals = [
      ...(iteration ? [[iteration]] : []),
      ...this.#carried.map(({ formal }) => [formal]),
      ...scanned.map(({ formal }) => [formal]),
      ...captured.map(({ formals: all }) => all),
    ];
    const b = new GraphBuilder(body.name);
    const mapped = new Map<number, Value>();
    for (const all of formals) {
      const { name, type } = all[0];
      const input = b.input(name, type.dtype, type.shape);
      for (const { id } of all) mapped.set(id, input);
    }
    const get = (value: Value): Value => {
      let found = mapped.get(value.id);
      if (!found) mapped.set(value.id, (found = b.constant(this.#constants.get(value.id) as ConstantData, value.name)));
      return found;
    };
    for (const node of this.#nodes) {
      if (!node.outputs.some(({ id }) => live.has(id))) continue;
      const [names, types] = [node.outputs.map(({ name }) => name), node.outputs.map(({ type }) => type)];
      const made = b.node<OpKind>(node.op, node.inputs.map(get), node.attrs, types, names, node.source);
      node.outputs.forEach(({ id }, i) => {
        mapped.set(id, made[i]);
      });
    }
    outputs.forEach((value, i) => {
      b.output(String(i), get(value));
    });
    return {
      body: loops(b.finish()),
      trips,
      iteration: iteration !== undefined,
      carried: this.#carried.map(({ initial }) => initial),
      scanned,
      captured: captured.map(({ value }) => value),
      stacked: this.#stacked,
    };
  }
}

/** What of a body can be computed outside of the loop: what follows from captured values and constants. */
class Outside {
  readonly #b: GraphBuilder;
  readonly #producers: ReadonlyMap<number, Node>;
  readonly #constants: ReadonlyMap<number, ConstantData>;
  /** Values outside, by those of the body. */
  readonly #mapped: Map<number, Value>;
  readonly #known: Set<number>;
  /** Those among them that do need a captured value. */
  readonly #varied: Set<number>;

  constructor(
    b: GraphBuilder,
    nodes: readonly Node[],
    captured: readonly { readonly value: Value; readonly formal: Value }[],
    constants: ReadonlyMap<number, ConstantData>,
  ) {
    this.#b = b;
    this.#producers = producersOf(nodes);
    this.#constants = constants;
    this.#mapped = new Map(captured.map(({ value, formal }) => [formal.id, value]));
    this.#varied = new Set(this.#mapped.keys());
    this.#known = new Set([...this.#varied, ...constants.keys()]);
    for (const { inputs, outputs } of nodes) {
      if (!inputs.every(({ id }) => this.#known.has(id))) continue;
      const varies = inputs.some(({ id }) => this.#varied.has(id));
      for (const { id } of outputs) {
        this.#known.add(id);
        if (varies) this.#varied.add(id);
      }
    }
  }

  has(value: Value): boolean {
    return this.#known.has(value.id);
  }

  /** Whether the node can be moved and is no constant. */
  varies({ outputs }: Node): boolean {
    return outputs.length > 0 && outputs.every(({ id }) => this.#varied.has(id));
  }

  /** The value outside; what makes it is copied there. */
  get(value: Value): Value {
    const known = this.#mapped.get(value.id);
    if (known) return known;
    const data = this.#constants.get(value.id);
    if (data) this.#mapped.set(value.id, this.#b.constant(data, value.name));
    else {
      const node = this.#producers.get(value.id) as Node;
      const inputs = node.inputs.map((input) => this.get(input));
      const names = node.outputs.map(({ name }) => name);
      const types = node.outputs.map(({ type }) => type);
      const outputs = this.#b.node<OpKind>(node.op, inputs, node.attrs, types, names, node.source);
      node.outputs.forEach((output, i) => {
        this.#mapped.set(output.id, outputs[i]);
      });
    }
    return this.#mapped.get(value.id) as Value;
  }
}

/** Bytes that the results of a contraction for all iterations may take. */
const liftedBytes = 64 << 20;

/** Sums, not outer products, of a size that can be kept. */
function isWorthLifting({ attrs, inputs: [lhs], outputs: [output] }: NodeOf<'dot'>, trips: number): boolean {
  const terms = attrs.lhsContract.reduce((count, axis) => count * Number(lhs.type.shape[axis]), 1);
  return (
    terms >= 2 && trips * bytesOf(output.type.dtype, sizeOf(output.type.shape as readonly number[])) <= liftedBytes
  );
}

/** A view or conversion of slices, for all of them: the iteration is the first axis. */
function overTrips(b: GraphBuilder, node: NodeOf<'reshape'> | NodeOf<'transpose'> | NodeOf<'cast'>, x: Value): Value {
  switch (node.op) {
    case 'reshape':
      return b.op('reshape', [x], { shape: [x.type.shape[0], ...node.attrs.shape] })[0];
    case 'transpose':
      return b.op('transpose', [x], { permutation: [0, ...node.attrs.permutation.map((axis) => axis + 1)] })[0];
    case 'cast':
      return b.op('cast', [x], node.attrs)[0];
    default:
      return node satisfies never;
  }
}

/** The contraction with operands that have the iteration as a further first axis where `stacked` says so. */
function liftedDot(
  b: GraphBuilder,
  { attrs, inputs }: NodeOf<'dot'>,
  operands: readonly [Value, Value],
  [left, right]: readonly [boolean, boolean],
): Value {
  const later = (axes: readonly number[], stacked: boolean): number[] =>
    axes.map((axis) => (stacked ? axis + 1 : axis));
  const together = left && right ? [0] : [];
  const lifted = {
    lhsBatch: [...together, ...later(attrs.lhsBatch, left)],
    rhsBatch: [...together, ...later(attrs.rhsBatch, right)],
    lhsContract: later(attrs.lhsContract, left),
    rhsContract: later(attrs.rhsContract, right),
    dtype: attrs.dtype,
  };
  const [product] = b.op('dot', operands, lifted);
  // The iteration is the first free axis of its operand, if it is no batch axis.
  const lhsFree = inputs[0].type.shape.length - attrs.lhsBatch.length - attrs.lhsContract.length;
  const at = together.length > 0 ? 0 : attrs.lhsBatch.length + (left ? 0 : lhsFree);
  const others = product.type.shape.map((_, axis) => axis).filter((axis) => axis !== at);
  return transpose(b, product, [at, ...others]);
}

function producersOf(nodes: readonly Node[]): Map<number, Node> {
  const producers = new Map<number, Node>();
  for (const node of nodes) for (const output of node.outputs) producers.set(output.id, node);
  return producers;
}

function liveValues(nodes: readonly Node[], outputs: readonly Value[]): Set<number> {
  const live = new Set(outputs.map(({ id }) => id));
  for (const node of [...nodes].reverse()) {
    if (!node.outputs.some(({ id }) => live.has(id))) continue;
    for (const { id } of node.inputs) live.add(id);
  }
  return live;
}

/** A value that is captured twice is one input. */
function merged(captured: readonly { value: Value; formal: Value }[]): { value: Value; formals: Value[] }[] {
  const byId = new Map<number, { value: Value; formals: Value[] }>();
  for (const { value, formal } of captured) {
    const known = byId.get(value.id);
    if (known) known.formals.push(formal);
    else byId.set(value.id, { value, formals: [formal] });
  }
  return [...byId.values()];
}
