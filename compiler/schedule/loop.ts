/**
 * Loops in a plan: the body of a `scan` is cut into groups of its own, which run once an iteration.
 *
 * No data is copied for the loop's sake. A slice of a scanned array is a place in the array that depends on the number
 * of the iteration, and so is a slice of a stack (`Home`). A carried value goes to and fro between two places, one of
 * which is that of the loop's result, or stays in one place where nothing reads the old value any more once the new
 * one is written.
 *
 * Bodies are graphs with values of their own; here they get ids that are unique in the whole plan, and captured values
 * become the values themselves. What cannot share a place is copied by a node that is added for it: initial values
 * that a kernel would be given twice, results that are no more than an input.
 */
import { bytesOf } from '../dtype.js';
import { bodyInputs, partsOf } from '../graph/scan.js';
import type { ConstantData, Graph, Node, NodeOf, TensorType, Value } from '../graph/types.js';
import type { Target } from '../kernel/target.js';
import { sizeOf } from '../tensor.js';
import { fuse } from './fuse.js';
import { type Group, type Home, type LoopVariable, memoryOf } from './group.js';
import { assignLayouts } from './layout.js';
import type { Temporary } from './lowered.js';

/** A value that an iteration hands to the next. */
export interface Carried {
  /** Before the first iteration: a value outside of the loop. */
  readonly initial: Value;
  /** In the body: before and after the iteration. */
  readonly current: Value;
  readonly next: Value;
  /** The result of the loop: where the last iteration leaves the value. */
  readonly last: Value;
  /** The other of two places; without it there is one place. */
  readonly other: Temporary | undefined;
}

export interface Loop {
  readonly kind: 'loop';
  readonly variable: LoopVariable;
  /** The groups and loops of an iteration, in order. */
  readonly body: readonly Work[];
  readonly carried: readonly Carried[];
  /** Results of the loop. */
  readonly outputs: readonly Value[];
  readonly nodes: readonly Node[];
}

export type Work = { readonly kind: 'group'; readonly group: Group } | Loop;

export interface Arrangement {
  readonly work: readonly Work[];
  /** Data of all constants, those of bodies included, by value id. */
  readonly constants: ReadonlyMap<number, ConstantData>;
}

const shapeOf = (value: Value) => value.type.shape as readonly number[];

/** Fuses the graph and the bodies of its loops. Every loop has at least one iteration. */
export function arrange(graph: Graph, target: Target): Arrangement {
  const arranger = new Arranger(graph, target);
  return { work: arranger.work(graph, 0), constants: arranger.constants };
}

class Arranger {
  readonly constants: Map<number, ConstantData>;
  readonly #target: Target;
  readonly #homes = new Map<number, Home>();
  readonly #numbers = new Map<number, LoopVariable>();
  #nextId: number;

  constructor(graph: Graph, target: Target) {
    this.constants = new Map(graph.constants);
    this.#target = target;
    const values = [...graph.inputs, ...graph.nodes.flatMap((node) => [...node.inputs, ...node.outputs])];
    this.#nextId =
      1 + [...values, ...graph.outputs.map(({ value }) => value)].reduce((m, { id }) => Math.max(m, id), -1);
  }

  /** `depth`: number of loops around the graph. */
  work(graph: Graph, depth: number): Work[] {
    if (depth === 0 && !graph.nodes.some((node) => node.op === 'scan')) {
      return assignLayouts(fuse(graph, this.#target), graph, this.#target)
        .filter(hasElements)
        .map((group) => ({ kind: 'group', group }));
    }
    const nodes = graph.nodes.flatMap((node) => (node.op === 'scan' ? this.#withOwnInitials(node) : [node]));
    const loop = { homes: this.#homes, numbers: this.#numbers };
    return fuse({ ...graph, nodes, constants: this.constants }, this.#target)
      .filter(hasElements)
      .map((group): Work => {
        if (group.anchor?.op === 'scan') return this.#loop(group.anchor, depth);
        return { kind: 'group', group: { ...group, loop } };
      });
  }

  #fresh(name: string, type: TensorType): Value {
    return { id: this.#nextId++, name, type };
  }

  /** A node that copies the value. */
  #copy(value: Value, source: Node['source']): NodeOf<'reshape'> {
    const outputs = [this.#fresh(`${value.name}.copy`, value.type)];
    return { op: 'reshape', attrs: { shape: value.type.shape }, inputs: [value], outputs, source };
  }

  /**
   * The loop with initial values that are whole tensors and that no other input is: a kernel may be given both, and
   * what it is given must not overlap.
   */
  #withOwnInitials(node: NodeOf<'scan'>): Node[] {
    const { carried } = node.attrs;
    const taken = new Set(node.inputs.slice(carried).map(({ id }) => id));
    const copies: Node[] = [];
    const inputs = node.inputs.map((value, i) => {
      if (i >= carried) return value;
      if (!taken.has(value.id) && !this.#homes.has(value.id) && !this.#numbers.has(value.id)) {
        taken.add(value.id);
        return value;
      }
      const copy = this.#copy(value, node.source);
      copies.push(copy);
      return copy.outputs[0];
    });
    return [...copies, { ...node, inputs }];
  }

  #loop(node: NodeOf<'scan'>, depth: number): Loop {
    const { trips, scanned, stacked, body } = node.attrs;
    const variable: LoopVariable = { depth, trips };
    const parts = partsOf(node);
    const formal = bodyInputs(parts);
    const mapped = new Map<number, Value>();
    const own = (value: Value): Value => {
      const fresh = this.#fresh(`${node.outputs[0]?.name}/${value.name}`, value.type);
      mapped.set(value.id, fresh);
      return fresh;
    };
    if (formal.iteration) this.#numbers.set(own(formal.iteration).id, variable);
    const current = formal.carried.map(own);
    formal.slices.forEach((slice, i) => {
      this.#homes.set(own(slice).id, this.#sliceOf(parts.scanned[i].array, variable, scanned[i]));
    });
    formal.captured.forEach((value, i) => {
      mapped.set(value.id, parts.captured[i]);
    });
    for (const [id, data] of body.constants) {
      const values = body.nodes.flatMap(({ inputs }) => inputs).concat(body.outputs.map(({ value }) => value));
      const value = values.find((candidate) => candidate.id === id);
      if (value) this.constants.set(own(value).id, data);
    }
    const get = (value: Value): Value => mapped.get(value.id) as Value;
    const nodes: Node[] = body.nodes.map(
      (inner) => ({ ...inner, inputs: inner.inputs.map(get), outputs: inner.outputs.map(own) }) as Node,
    );
    const results = this.#ownResults(
      nodes,
      body.outputs.map(({ value }) => get(value)),
      current.length,
      node.source,
    );
    stacked.forEach((reverse, i) => {
      const at = current.length + i;
      this.#homes.set(results[at].id, this.#sliceOf(node.outputs[at], variable, reverse));
    });
    const graph: Graph = {
      name: body.name,
      inputs: [...mapped.values()],
      outputs: results.map((value, i) => ({ name: String(i), value })),
      nodes,
      constants: this.constants,
      dims: new Map(),
    };
    const inner = this.work(graph, depth + 1);
    const carried = current.map((value, i): Carried => {
      const [initial, next, last] = [parts.carried[i], results[i], node.outputs[i]];
      const bytes = bytesOf(value.type.dtype, sizeOf(shapeOf(value)));
      const other: Temporary | undefined = staysInPlace(inner, value, next)
        ? undefined
        : { kind: 'temporary', name: `${last.name}.other`, bytes };
      return { initial, current: value, next, last, other };
    });
    return { kind: 'loop', variable, body: inner, carried, outputs: node.outputs, nodes };
  }

  /**
   * The results of a body with a value of its own for each, made by a node of the body: results that are inputs, or
   * two of which are one value, are copied. A stack that is a loop's last carried value is copied too: its place goes
   * to and fro.
   */
  #ownResults(nodes: Node[], results: readonly Value[], carried: number, source: Node['source']): Value[] {
    const producers = new Map<number, Node>();
    for (const node of nodes) for (const output of node.outputs) producers.set(output.id, node);
    const taken = new Set<number>();
    return results.map((value, i) => {
      const producer = producers.get(value.id);
      const wanders =
        i >= carried && producer?.op === 'scan' && producer.outputs.indexOf(value) < producer.attrs.carried;
      if (producer && !taken.has(value.id) && !wanders) {
        taken.add(value.id);
        return value;
      }
      const copy = this.#copy(value, source);
      nodes.push(copy);
      return copy.outputs[0];
    });
  }

  /** Where the slice of an array lies that an iteration takes. */
  #sliceOf(array: Value, variable: LoopVariable, reverse: boolean): Home {
    const outer = this.#homes.get(array.id) ?? { memory: array, terms: [], constant: 0 };
    const size = sizeOf(shapeOf(array).slice(1));
    const term = { variable, stride: reverse ? -size : size };
    const constant = outer.constant + (reverse ? (variable.trips - 1) * size : 0);
    return { memory: outer.memory, terms: [...outer.terms, term], constant };
  }
}

const hasElements = (group: Group): boolean => group.writes.some((value) => sizeOf(shapeOf(value)) > 0);

/** True if every reader of the old value runs before the one that writes the new one. */
function staysInPlace(body: readonly Work[], current: Value, next: Value): boolean {
  const readers = body.flatMap((work, i) => (reads(work, current) ? [i] : []));
  const writer = body.findIndex((work) => writes(work, next));
  return writer >= 0 && readers.every((reader) => reader < writer);
}

function reads(work: Work, value: Value): boolean {
  if (work.kind === 'group') return work.group.reads.some((read) => memoryOf(work.group, read)?.id === value.id);
  return work.carried.some(({ initial }) => initial.id === value.id) || work.body.some((inner) => reads(inner, value));
}

const writes = (work: Work, value: Value): boolean =>
  (work.kind === 'group' ? work.group.writes : work.outputs).some((written) => written.id === value.id);
