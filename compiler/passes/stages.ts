/**
 * Specialisation in stages. Where an operator needs the content of a tensor that only the device can tell (a condition,
 * a count that decides a shape), the graph is cut: one stage ends with that tensor as an output, the host reads it, and
 * the next stage goes on at the same operator with the content as a constant. Everything else stays on the device.
 *
 * A stage is a concrete graph and says what it takes and gives in terms of `Held` tensors, which outlive stages. The
 * state between two stages is immutable: a stage may be resumed any number of times, with different answers.
 */
import { isInt } from '../dtype.js';
import { TuttiError } from '../error.js';
import { isGraph } from '../graph/attributes.js';
import { describe } from '../graph/builder.js';
import { type Dim, isConcrete, SymDim, substituteDim } from '../graph/dims.js';
import { HostBuilder, NotConstant } from '../graph/host_values.js';
import type { ConstantData, Graph, Node, NodeOf, OpKind, TensorType, Value } from '../graph/types.js';
import { type HostTensor, sizeOf } from '../tensor.js';
import { type Bindings, bindDims } from './bindings.js';
import { namesIn } from './containers.js';
import { describeMissing, type Frame, type State, Work } from './frames.js';
import { neededFrom } from './liveness.js';
import { isList, leavesOf, type Mapped, mapLeaves, type Tree } from './mapped.js';
import { renumbered } from './renumber.js';
import { isCall, type Resolved, type SourceContext, type SourceResolvers } from './source.js';
import { type Held, isHeld, type Leaf, type Stage, type StageEnd, type StageOutput } from './stage.js';

export type { Held, Stage, StageEnd, StageOutput } from './stage.js';

/** Integer results up to this size are folded to constants right away: they are indices and shapes. */
const maximumFolded = 2 ** 16;
/** Host integers up to this size are carried along by the host: they may be wanted as parameters. */
const maximumFed = 64;
/** A loop that has emitted this many source nodes goes on in another stage: its iterations are one program there. */
const longStage = 2048;

interface Program {
  readonly name: string;
  readonly resolvers: SourceResolvers;
  /** Sizes of named dims; bodies have none. */
  readonly sizes: ReadonlyMap<string, Dim>;
  /** Whether what the host computes may enter as inputs. */
  readonly feeds: boolean;
}

/**
 * The first stage of a graph under concrete input shapes; for most graphs it is the only one.
 * @param feeds Whether what the host computes may enter as further inputs; otherwise it is constant.
 * @throws TuttiError E_INPUT for unknown names, missing or conflicting sizes; E_SHAPE where shapes do not fit.
 */
export function firstStage(graph: Graph, bindings: Bindings, resolvers: SourceResolvers, feeds = true): Stage {
  const sizes = bindDims(graph, bindings);
  const values = new Map<number, Tree<Held>>();
  for (const input of graph.inputs) {
    const { id, type } = input;
    const held = (name: string): Held => {
      const shape = bindings.shapes?.[name] ?? type.shape.map((dim) => substituteDim(dim, sizes));
      return { kind: 'input', name, type: { dtype: type.dtype, shape } };
    };
    values.set(id, mapLeaves(namesIn(input, bindings.lengths ?? {}), held));
  }
  const program: Program = { name: graph.name, resolvers, sizes, feeds };
  const frame: Frame<Held> = { graph, next: 0, values, answers: new Map() };
  return new StageBuilder(program, { frames: [frame], known: new Map(), stage: 0 }, bindings.values).run();
}

class StageBuilder {
  readonly #program: Program;
  readonly #state: State;
  readonly #values: NonNullable<Bindings['values']>;
  readonly #b: HostBuilder;
  readonly #frames: Work[];
  readonly #looked = new Set<string>();
  /** Values of this stage for what is held, and back. */
  readonly #valueOf = new Map<Held, Value>();
  readonly #origin = new Map<number, Held>();
  readonly #constants = new Map<ConstantData, Value>();
  readonly #inputs: { readonly value: Value; readonly held: Held }[] = [];
  readonly #outputs: Held[] = [];
  #emitted = 0;

  constructor(program: Program, state: State, values: Bindings['values'] = {}) {
    this.#program = program;
    this.#state = state;
    this.#values = values;
    this.#b = new HostBuilder(program.name);
    this.#frames = state.frames.map((frame) => new Work(frame));
    // The signature of the model stays whole where one stage is all there is.
    if (state.stage === 0) for (const held of state.frames[0].values.values()) this.#uses(held);
  }

  run(): Stage {
    try {
      for (;;) {
        const frame = this.#frames[this.#frames.length - 1];
        const node = frame.graph.nodes[frame.next];
        if (node !== undefined) this.#settle(frame, node, this.#convert(frame, node));
        else if (frame.call === undefined) return this.#finish(frame);
        else if (frame.call.repeated && this.#emitted > longStage) return this.#cut(undefined);
        else {
          const { node: caller, saved, then } = frame.call;
          const results = frame.graph.outputs.map(({ value }) => this.#lookUp(frame, value));
          const resolved = this.#attempt(frame, caller, (context) => then(context, results, saved));
          this.#frames.pop();
          this.#settle(this.#frames[this.#frames.length - 1], caller, resolved);
        }
      }
    } catch (error) {
      if (error instanceof NotConstant) return this.#cut(error);
      throw error;
    }
  }

  // --- conversion ------------------------------------------------------------------------------------------------

  #convert(frame: Work, node: Node): Resolved {
    if (node.op === 'source_op') {
      const { domain } = node.attrs;
      const resolver = this.#program.resolvers.get(domain);
      if (resolver !== undefined) return this.#attempt(frame, node, resolver);
      throw new TuttiError('E_UNSUPPORTED', `operators of domain "${domain}" are not supported`, {
        subject: describe(node.source),
      });
    }
    this.#b.source = node.source;
    const given = node.inputs.map((value) => this.#lookUp(frame, value) as Value);
    const inputs = node.outputs.some(isString) ? given.map((x) => this.#read(x)) : given;
    const attrs = substitute(node.attrs, this.#program.sizes) as typeof node.attrs;
    return this.#b.op<OpKind>(node.op, inputs, attrs, [], node.source);
  }

  /** Looks at the host's own data, and at the data of the model's inputs, only if nothing else will do. */
  #attempt(frame: Work, node: NodeOf<'source_op'>, convert: (context: SourceContext) => Resolved): Resolved {
    // What follows on a body has what it saved; the inputs of the operator are not kept for it.
    const given = frame.call?.node === node ? [] : node.inputs.map((value) => this.#lookUp(frame, value));
    const all = given.map((value) => mapLeaves(value, (leaf) => (isString(leaf) ? this.#seen(leaf) : leaf)));
    let next = 0;
    const inputs = node.attrs.present.map((present) => (present ? all[next++] : undefined));
    const context: SourceContext = {
      b: this.#b,
      node,
      inputs: all.length === 0 ? [] : inputs,
      captured: all.slice(next),
      stage: this.#state.stage,
      feed: (data) => this.#use({ kind: 'host', name: 'fed', data: loaded(data), fed: this.#program.feeds }),
      use: (saved) => this.#uses(saved),
      concrete: (body, formal) => this.#concrete(body, formal),
    };
    this.#b.answers = frame.answers;
    this.#b.source = node.source;
    for (const sight of ['constants', 'fed'] as const) {
      try {
        return this.#b.seeing(sight, () => convert(context));
      } catch (error) {
        if (!(error instanceof NotConstant) || error.key !== undefined) throw error;
      }
    }
    return this.#b.seeing('inputs', () => convert(context));
  }

  #settle(frame: Work, node: Node, resolved: Resolved): void {
    this.#emitted++;
    if (isCall(resolved)) {
      const { body, inputs, saved, then, repeated } = resolved;
      if (node.op !== 'source_op') throw new Error(`${node.op} has no body`);
      const values = new Map(body.inputs.map((input, i) => [input.id, inputs[i]]));
      this.#frames.push(
        new Work({ graph: body, next: 0, values, answers: new Map(), call: { node, saved, then, repeated } }),
      );
      return;
    }
    node.outputs.forEach((output, i) => {
      frame.values.set(
        output.id,
        mapLeaves(resolved[i], (leaf) => {
          const folded = this.#fold(leaf);
          this.#b.label(folded, output.name);
          return folded;
        }),
      );
    });
    frame.next++;
    frame.answers.clear();
  }

  /** Small integer and bool results that follow from constants are constants. */
  #fold(value: Value): Value {
    const { dtype, shape, unknown } = value.type;
    if (unknown || this.#b.constantOf(value) !== undefined || !(isInt(dtype) || dtype === 'bool')) return value;
    if (!isConcrete(shape) || sizeOf(shape) > maximumFolded) return value;
    // One number for many elements is better seen as what it is.
    if (this.#b.producerOf(value)?.op === 'broadcast' && sizeOf(shape) > maximumFed) return value;
    const tensor = this.#b.tensorOf(value);
    return tensor === undefined ? value : this.#b.constant(tensor);
  }

  #concrete(body: Graph, given: readonly (Mapped | TensorType)[]): Graph | undefined {
    const values = new Map<number, Tree<Held>>();
    let inputs = 0;
    const input = (type: TensorType): Held => ({ kind: 'input', name: `in.${inputs++}`, type });
    body.inputs.forEach((formal, i) => {
      const entry = given[i];
      if (entry !== null && 'shape' in entry) values.set(formal.id, input(entry));
      else {
        const hold = (value: Value): Held => {
          const data = this.#b.constantOf(value);
          return data === undefined ? input(value.type) : { kind: 'host', name: value.name, data, fed: false };
        };
        values.set(formal.id, mapLeaves(entry, hold));
      }
    });
    const frame: Frame<Held> = { graph: body, next: 0, values, answers: new Map() };
    const program = { ...this.#program, feeds: false };
    const stage = new StageBuilder(program, { frames: [frame], known: new Map(), stage: 0 }).run();
    const whole = stage.next.kind === 'done' && stage.next.outputs.every(({ held }) => held !== null && !isList(held));
    return whole ? stage.graph : undefined;
  }

  // --- values ----------------------------------------------------------------------------------------------------

  #lookUp(frame: Work, value: Value): Mapped {
    const known = frame.values.get(value.id);
    if (known !== undefined) {
      const used = this.#uses(known);
      frame.values.set(value.id, used);
      return used;
    }
    const data = frame.graph.constants.get(value.id);
    if (data === undefined) throw new Error(`value ${value.name} is used before it is defined`);
    const constant = this.#constant(data, value.name);
    frame.values.set(value.id, constant);
    return constant;
  }

  /** A value that strings are made of: they are the host's, and so is all that is done with them. */
  #read(value: Value): Value {
    const seen = this.#seen(value);
    if (this.#b.constantOf(seen) === undefined) throw new NotConstant(value, -1);
    return seen;
  }

  /** What is in a value, if it is known; else itself. */
  #seen(value: Value): Value {
    if (this.#b.constantOf(value) !== undefined) return value;
    const tensor = this.#b.seeing('inputs', () => this.#b.tensorOf(value));
    return tensor === undefined ? value : this.#b.constant(tensor);
  }

  #uses(tree: Tree<Leaf>): Mapped {
    return mapLeaves(tree, (leaf) => (isHeld(leaf) ? this.#use(leaf) : leaf));
  }

  #constant(data: ConstantData, name: string): Value {
    const known = this.#constants.get(data);
    if (known !== undefined) return known;
    const constant = this.#b.constant(data, name);
    this.#b.label(constant, name);
    this.#constants.set(data, constant);
    return constant;
  }

  /** The value of this stage for something held. */
  #use(held: Held): Value {
    const made = this.#valueOf.get(held);
    if (made !== undefined) return made;
    const value = this.#enter(held);
    this.#valueOf.set(held, value);
    if (this.#b.constantOf(value) === undefined) this.#origin.set(value.id, held);
    return value;
  }

  #enter(held: Held): Value {
    const read = this.#state.known.get(held);
    if (read !== undefined) return this.#constant(loaded(read), held.name);
    if (held.kind === 'host' && !held.fed) return this.#constant(held.data, held.name);
    const { dtype, shape } = held.kind === 'host' ? held.data : held.type;
    const name = this.#state.stage === 0 && held.kind === 'input' ? held.name : `in.${this.#inputs.length}`;
    const value = this.#b.input(name, dtype, shape);
    this.#inputs.push({ value, held });
    if (held.kind === 'host') this.#b.provide(value, held.data.load(), 'fed');
    else if (held.kind === 'input') {
      const data = this.#values[held.name];
      if (data !== undefined) this.#b.provide(value, data, 'inputs', () => this.#looked.add(held.name));
    }
    return value;
  }

  // --- ends ------------------------------------------------------------------------------------------------------

  #finish(frame: Work): Stage {
    const outputs = frame.graph.outputs.map(({ name, value }): StageOutput => {
      const tree = this.#lookUp(frame, value);
      let index = 0;
      const held = mapLeaves(tree, (leaf): Held => {
        const origin = this.#origin.get(leaf.id);
        if (this.#state.stage > 0) {
          const data = this.#b.constantOf(leaf);
          if (data !== undefined) return { kind: 'host', name, data, fed: false };
          if (origin !== undefined) return origin;
        }
        return this.#give(Array.isArray(tree) ? `${name}.${index++}` : name, isString(leaf) ? this.#read(leaf) : leaf);
      });
      return { name, held };
    });
    return this.#stage({ kind: 'done', outputs });
  }

  #give(name: string, value: Value): Held {
    this.#b.output(name, value);
    const held: Held = { kind: 'result', name, type: value.type };
    this.#outputs.push(held);
    return held;
  }

  /** Ends the stage before the conversion at hand, or before the results of a body are looked at. */
  #cut(missing: NotConstant | undefined): Stage {
    const top = this.#frames[this.#frames.length - 1];
    const node: Node | undefined = top.graph.nodes[top.next] ?? top.call?.node;
    // Results that are strings of an input are no node's.
    const source = node === undefined ? this.#program.name : describe(node.source);
    if (missing !== undefined && this.#b.constantOf(missing.value) !== undefined) {
      throw new TuttiError('E_UNSUPPORTED', `the content of ${missing.value.name} is of no use`, { subject: source });
    }
    const what = missing === undefined ? 'nothing: the loop is long' : describeMissing(missing, top, node);
    const held = new Map<number, Held>();
    const settled = new Map<Held, Held>();
    const hold = (leaf: Leaf): Held => {
      if (isHeld(leaf)) return this.#settled(leaf, settled);
      const origin = this.#origin.get(leaf.id);
      if (origin !== undefined) return this.#settled(origin, settled);
      const known = held.get(leaf.id) ?? this.#host(leaf) ?? this.#give(`out.${this.#outputs.length}`, leaf);
      held.set(leaf.id, known);
      return known;
    };
    const demanded = missing === undefined ? [] : [hold(missing.value)];
    const frames = this.#frames.map((frame, depth): Frame<Held> => {
      const { graph, next, values, answers, call } = frame;
      // An operator whose body is under way has its inputs there.
      const needed = neededFrom(graph, depth === this.#frames.length - 1 ? next : next + 1);
      const kept = new Map<number, Tree<Held>>();
      for (const [id, tree] of values) if (needed.has(id)) kept.set(id, mapLeaves(tree, hold));
      const saved = call?.saved.map((tree) => mapLeaves(tree, hold)) ?? [];
      return { graph, next, values: kept, answers: new Map(answers), ...(call && { call: { ...call, saved } }) };
    });
    const live = new Set<Held>();
    for (const { values, call } of frames) {
      for (const tree of [...values.values(), ...(call?.saved ?? [])])
        for (const leaf of leavesOf(tree)) live.add(leaf);
    }
    const program = this.#program;
    const stage = this.#state.stage + 1;
    const resume = (given: readonly HostTensor[], values?: Bindings['values']): Stage => {
      const known = new Map(demanded.map((leaf, i) => [leaf, given[i]]));
      const all = [...frames];
      const last = all[all.length - 1];
      if (missing?.key !== undefined) {
        all[all.length - 1] = { ...last, answers: new Map([...last.answers, [missing.key, given[0]]]) };
      }
      return new StageBuilder(program, { frames: all, known, stage }, values).run();
    };
    return this.#stage({ kind: 'cut', demanded, source, what, live, resume });
  }

  /** What the host has read meanwhile is the host's from now on. */
  #settled(held: Held, settled: Map<Held, Held>): Held {
    const read = this.#state.known.get(held);
    if (read === undefined) return held;
    const host = settled.get(held) ?? ({ kind: 'host', name: held.name, data: loaded(read), fed: false } as const);
    settled.set(held, host);
    return host;
  }

  /** Constants stay constants; small integers that follow from what the host fed are fed again. */
  #host(value: Value): Held | undefined {
    const data = this.#b.constantOf(value);
    const { name, type } = value;
    if (data !== undefined) return { kind: 'host', name, data, fed: false };
    if (!(isInt(type.dtype) || type.dtype === 'bool') || sizeOf(type.shape as number[]) > maximumFed) return undefined;
    const tensor = this.#b.seeing('fed', () => this.#b.tensorOf(value));
    return tensor && { kind: 'host', name, data: loaded(tensor), fed: true };
  }

  #stage(next: StageEnd): Stage {
    const whole = this.#b.finish();
    const used = new Set<number>();
    for (const node of whole.nodes) for (const { id } of node.inputs) used.add(id);
    for (const { value } of whole.outputs) used.add(value.id);
    const keep = this.#state.stage === 0 && next.kind === 'done';
    // Strings never reach a device: they were looked at.
    const takes = ({ id, type }: Value) => type.dtype !== 'string' && (keep || used.has(id));
    const inputs = this.#inputs.filter(({ value }) => takes(value));
    const graph = { ...whole, inputs: inputs.map(({ value }) => value) };
    return {
      graph: this.#state.stage === 0 ? graph : renumbered(graph),
      inputs: inputs.map(({ held }) => held),
      outputs: this.#outputs,
      looked: this.#looked,
      next,
    };
  }
}

const isString = ({ type }: Value): boolean => type.dtype === 'string';

/** Whether a graph is planned in stages: operators wait for shapes or data, or strings are to be looked at. */
export const hasStages = ({ nodes, inputs }: Graph): boolean =>
  inputs.some(isString) || nodes.some(({ op, outputs }) => op === 'source_op' || outputs.some(isString));

const loaded = (tensor: HostTensor): ConstantData => ({ dtype: tensor.dtype, shape: tensor.shape, load: () => tensor });

/** Attributes with all dims replaced. Bodies of loops are concrete already. */
function substitute(value: unknown, sizes: ReadonlyMap<string, Dim>): unknown {
  if (isGraph(value)) return value;
  if (value instanceof SymDim) return substituteDim(value, sizes);
  if (Array.isArray(value)) return value.map((element) => substitute(element, sizes));
  if (typeof value !== 'object' || value === null || ArrayBuffer.isView(value)) return value;
  return Object.fromEntries(Object.entries(value).map(([key, entry]) => [key, substitute(entry, sizes)]));
}
