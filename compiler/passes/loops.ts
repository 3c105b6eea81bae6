/**
 * Loops: bodies get what they can get from outside. Constants move in, where contractions can pack them; what all
 * iterations compute alike moves out; results and inputs that nobody needs go. A loop of few small iterations is
 * written out.
 */
import { GraphBuilder } from '../graph/builder.js';
import { broadcastTo, reverse as reversed } from '../graph/compose.js';
import { bodyInputs, partsOf, type ScanParts, scan, unroll } from '../graph/scan.js';
import type { ConstantData, Graph, Node, NodeOf, OpKind, Value } from '../graph/types.js';
import { isView } from '../schedule/group.js';
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
    const outside = new Map(this.#captured.map(({ value, formal }) => [formal.id, value]));
    const captured = new Set(outside.keys());
    const invariant = new Set<Node>();
    /** Values that follow from constants or captured values; of the latter, those that do need a captured one. */
    const known = new Set([...captured, ...this.#constants.keys()]);
    const varied = new Set(captured);
    for (const node of this.#nodes) {
      if (!node.inputs.every(({ id }) => known.has(id))) continue;
      invariant.add(node);
      const varies = node.inputs.some(({ id }) => varied.has(id));
      for (const { id } of node.outputs) {
        known.add(id);
        if (varies) varied.add(id);
      }
    }
    const moves = (node: Node): boolean =>
      invariant.has(node) && !isView(node.op) && node.outputs.some(({ id }) => varied.has(id));
    const moved = this.#nodes.filter(moves);
    if (moved.length === 0) return;
    const producers = producersOf(this.#nodes);
    const get = (value: Value): Value => {
      let mapped = outside.get(value.id);
      if (mapped) return mapped;
      const data = this.#constants.get(value.id);
      if (data) mapped = this.#b.constant(data, value.name);
      else {
        const node = producers.get(value.id) as Node;
        this.#copyOut(node, node.inputs.map(get), outside);
        mapped = outside.get(value.id) as Value;
      }
      outside.set(value.id, mapped);
      return mapped;
    };
    for (const node of moved)
      for (const output of node.outputs) this.#captured.push({ value: get(output), formal: output });
    const gone = new Set(moved);
    this.#nodes = this.#nodes.filter((node) => !gone.has(node));
  }

  #copyOut(node: Node, inputs: readonly Value[], outside: Map<number, Value>): void {
    const names = node.outputs.map(({ name }) => name);
    const types = node.outputs.map(({ type }) => type);
    const outputs = this.#b.node<OpKind>(node.op, inputs, node.attrs, types, names, node.source);
    node.outputs.forEach((output, i) => {
      outside.set(output.id, outputs[i]);
    });
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
