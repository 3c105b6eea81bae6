/**
 * A graph builder that knows what is in values at compile time: the dims in a small integer tensor even where they are
 * symbolic (shape arithmetic), and the data of whatever follows from constants alone. Shape arithmetic is thereby
 * settled while a graph is built, and the nodes it leaves behind are dropped when the graph is finished.
 */
import { isInt } from '../dtype.js';
import { type HostTensor, sizeOf } from '../tensor.js';
import { GraphBuilder } from './builder.js';
import { boundsOf, type Dim, isConcrete, isSymbolic } from './dims.js';
import { evaluateNode } from './evaluate.js';
import { integersOf, tensorOfIntegers } from './host_tensors.js';
import { relaxed, symbolicRule } from './symbolic_content.js';
import type { DimBounds, Graph, Node, OpAttrs, OpKind, SourceRef, TensorType, Value } from './types.js';

/** Integer tensors up to this size are looked into for dims. */
const maximumContent = 1024;
/** Larger results are not computed while a graph is built. */
const maximumElements = 2 ** 20;
/** Elements of the data that host arithmetic may start from: parameters of operators are small. */
const maximumParameter = 64;

/** Thrown where a converter needs the content of a value that is not known at compile time. */
export class NotConstant extends Error {
  readonly value: Value;
  /** Which input of the source operator it is; -1 for a value that the converter made itself. */
  readonly input: number;
  /** The name under which the converter asks for a value that it made itself. */
  readonly key?: string;

  constructor(value: Value, input: number, key?: string) {
    super(`the content of ${value.name} is not known`);
    this.value = value;
    this.input = input;
    if (key !== undefined) this.key = key;
  }
}

export { evaluateNode };

/**
 * How far one may look for the content of a value: at constants only, also at values that the host feeds whatever they
 * are (they follow from nothing that a user gave), or also at the data of the model's inputs.
 */
type Sight = 'constants' | 'fed' | 'inputs';

/** What was found out under one sight. Undefined: it is not known. */
interface Knowledge {
  readonly tensors: Map<number, HostTensor | undefined>;
  readonly contents: Map<number, readonly Dim[] | undefined>;
}

interface Provided {
  readonly data: HostTensor;
  /** What was built must not change with the user's arrays. */
  copy?: HostTensor;
  readonly sight: Exclude<Sight, 'constants'>;
  readonly use: () => void;
}

function lookAt(provided: Provided): HostTensor {
  provided.use();
  const { data } = provided;
  provided.copy ??= { ...data, data: data.data.slice() } as HostTensor;
  return provided.copy;
}

const nothing = (): Knowledge => ({ tensors: new Map(), contents: new Map() });

export class HostBuilder extends GraphBuilder {
  readonly #knowledge: Readonly<Record<Sight, Knowledge>> = {
    constants: nothing(),
    fed: nothing(),
    inputs: nothing(),
  };
  readonly #bounds = new Map<string, DimBounds>();
  readonly #labels = new Map<number, string>();
  readonly #provided = new Map<number, Provided>();
  /** Answers to `read`, by name. */
  answers: ReadonlyMap<string, HostTensor> = new Map();
  #sight: Sight = 'constants';

  override dim(name: string, bounds: DimBounds): void {
    super.dim(name, bounds);
    this.#bounds.set(name, bounds);
  }

  override node<K extends OpKind>(
    kind: K,
    inputs: readonly Value[],
    attrs: OpAttrs[K],
    types: readonly TensorType[],
    names: readonly string[] = [],
    source: SourceRef = this.source,
  ): readonly Value[] {
    const outputs = super.node(kind, inputs, attrs, types, names, source);
    this.#remember({ op: kind, attrs, inputs, outputs, source } as unknown as Node);
    return outputs;
  }

  #remember(node: Node): void {
    // Eagerly, so that long chains need no deep recursion.
    const content = this.seeing('constants', () => this.#symbolic(node));
    if (content !== undefined) this.#knowledge.constants.contents.set(node.outputs[0].id, content);
  }

  /**
   * What is in an input, for those who look that far; `use` is called when it has been looked at. Data of the model's
   * inputs (`inputs`) is the user's; `fed` data is the host's own and the same in every run that comes here.
   */
  provide(input: Value, data: HostTensor, sight: Provided['sight'], use: () => void = () => undefined): void {
    this.#provided.set(input.id, { data, sight, use });
    for (const { tensors, contents } of [this.#knowledge.fed, this.#knowledge.inputs]) {
      for (const memo of [tensors, contents]) for (const [id, known] of memo) if (known === undefined) memo.delete(id);
    }
  }

  /**
   * Runs `body` with provided data taken as known: what is built then holds for these data only. Nothing that was found
   * out this way outlives the call, so that no op is computed on the host because somebody looked at its inputs.
   */
  seeing<T>(sight: Sight, body: () => T): T {
    const before = this.#sight;
    this.#sight = sight;
    try {
      return body();
    } finally {
      this.#sight = before;
    }
  }

  /** The name that the value gets in the finished graph; the first label stays. */
  label(value: Value, name: string): void {
    if (!this.#labels.has(value.id)) this.#labels.set(value.id, name);
  }

  /** Interval of a dim under the declared bounds. Also sees that x/2 is at most x. */
  boundsOf(dim: Dim): DimBounds {
    const { min, max } = boundsOf(dim, this.#bounds);
    if (!isSymbolic(dim) || !dim.terms.some(({ atoms }) => atoms.some(({ fn }) => fn === 'floordiv')))
      return { min, max };
    return {
      min: Math.max(min, Math.ceil(relaxed(dim, 'min', this.#bounds))),
      max: Math.min(max, Math.floor(relaxed(dim, 'max', this.#bounds))),
    };
  }

  /** Elements of a small integer or bool tensor, row-major, symbolic where need be; undefined if not known. */
  contentOf(value: Value): readonly Dim[] | undefined {
    const settled = this.#knowledge.constants.contents.get(value.id);
    if (settled !== undefined) return settled;
    const { contents } = this.#knowledge[this.#sight];
    if (contents.has(value.id)) return contents.get(value.id);
    const { dtype, shape } = value.type;
    if (!isInt(dtype) && dtype !== 'bool') return undefined;
    if (!isConcrete(shape) || sizeOf(shape) > maximumContent) return undefined;
    const tensor = this.tensorOf(value);
    const content = tensor === undefined ? undefined : integersOf(tensor);
    contents.set(value.id, content);
    return content;
  }

  /** The data of a value that follows from what may be looked at; undefined if it does not. */
  tensorOf(value: Value): HostTensor | undefined {
    const provided = this.#visible(value);
    // What is asked for itself may be of any type and size.
    if (provided !== undefined) {
      return lookAt(provided);
    }
    const { tensors } = this.#knowledge[this.#sight];
    const stack: Value[] = [value];
    while (stack.length > 0) {
      const top = stack[stack.length - 1];
      if (!tensors.has(top.id)) {
        const leaf = this.#leaf(top);
        if (leaf === 'node') {
          const node = this.producerOf(top) as Node;
          const hopeless = node.inputs.some(({ id }) => tensors.has(id) && tensors.get(id) === undefined);
          const next = hopeless ? undefined : node.inputs.find(({ id }) => !tensors.has(id));
          if (next !== undefined) {
            stack.push(next);
            continue;
          }
          this.#evaluate(node, tensors);
        } else tensors.set(top.id, leaf);
      }
      stack.pop();
    }
    return tensors.get(value.id);
  }

  #visible(value: Value): Provided | undefined {
    const provided = this.#provided.get(value.id);
    return provided?.sight === this.#sight || this.#sight === 'inputs' ? provided : undefined;
  }

  /**
   * The data of a value that the device computes, for which the host has been asked under this name; it takes part in
   * no host arithmetic. Throws NotConstant with the name where the answer is not there yet: the conversion is then run
   * again once it is.
   */
  read(value: Value, key: string): HostTensor {
    const known = this.seeing('constants', () => this.tensorOf(value)) ?? this.answers.get(key);
    if (known !== undefined) return known;
    throw new NotConstant(value, -1, key);
  }

  /**
   * What can be told without looking at inputs of the value's node: the tensor, undefined for unknown, 'node' if they
   * decide. Arithmetic starts from small integers.
   */
  #leaf(value: Value): HostTensor | undefined | 'node' {
    const constant = this.constantOf(value);
    if (constant !== undefined) return constant.load();
    const { dtype, shape, unknown } = value.type;
    const provided = this.#visible(value);
    if (provided !== undefined) {
      if (!(isInt(dtype) || dtype === 'bool') || sizeOf(provided.data.shape) > maximumParameter) return undefined;
      return lookAt(provided);
    }
    const node = this.producerOf(value);
    if (node === undefined || unknown || node.op === 'source_op' || !isConcrete(shape)) return undefined;
    const content = this.#knowledge.constants.contents.get(value.id);
    if (content !== undefined && isConcrete(content)) return tensorOfIntegers(dtype, shape, content);
    if (content !== undefined || node.op === 'shape_of') return undefined;
    const pure = this.#knowledge.constants.tensors.get(value.id);
    if (pure !== undefined) return pure;
    const most = this.#sight === 'constants' ? maximumElements : maximumContent;
    const produced = node.outputs.map((output) => output.type.shape);
    return produced.every((s) => isConcrete(s) && sizeOf(s) <= most) ? 'node' : undefined;
  }

  #evaluate(node: Node, tensors: Knowledge['tensors']): void {
    const inputs = node.inputs.map((input) => tensors.get(input.id));
    const known = inputs.every((tensor): tensor is HostTensor => tensor !== undefined);
    const results = known ? evaluateNode(node, inputs) : [];
    node.outputs.forEach((output, i) => {
      tensors.set(output.id, results[i]);
    });
  }

  #symbolic(node: Node): readonly Dim[] | undefined {
    const [output] = node.outputs;
    if (output === undefined || output.type.unknown) return undefined;
    if (node.op === 'shape_of') return node.inputs[0].type.shape.slice(node.attrs.start, node.attrs.end);
    const { dtype, shape } = output.type;
    if (!isInt(dtype) && dtype !== 'bool') return undefined;
    if (node.inputs.length === 0 || !isConcrete(shape) || sizeOf(shape) > maximumContent) return undefined;
    // Only where something symbolic flows in: the rest is computed if and when it is asked for.
    if (!node.inputs.some((input) => this.#knowledge.constants.contents.get(input.id)?.some(isSymbolic) ?? false))
      return undefined;
    const contents = node.inputs.map((input) => this.contentOf(input));
    if (!contents.every((content): content is readonly Dim[] => content !== undefined)) return undefined;
    return symbolicRule(node, contents, (dim) => this.boundsOf(dim));
  }

  /** The graph without the nodes and constants that no output needs, its values named by their labels. */
  override finish(): Graph {
    const whole = super.finish();
    const live = new Set(whole.outputs.map((output) => output.value.id));
    const nodes: Node[] = [];
    for (let i = whole.nodes.length - 1; i >= 0; i--) {
      const node = whole.nodes[i];
      if (!node.outputs.some((output) => live.has(output.id))) continue;
      for (const input of node.inputs) live.add(input.id);
      nodes.push(node);
    }
    nodes.reverse();
    const names = new Set([...whole.inputs.map((input) => input.name), ...this.#labels.values()]);
    const taken = new Set<string>();
    const renamed = new Map<number, Value>();
    const rename = (value: Value): Value => {
      const known = renamed.get(value.id);
      if (known !== undefined) return known;
      const label = this.#labels.get(value.id);
      const wanted = label ?? value.name;
      let name = wanted;
      const free = (text: string): boolean => !taken.has(text) && (text === label || !names.has(text));
      for (let n = 1; !free(name); n++) name = `${wanted}.${n}`;
      taken.add(name);
      const result = name === value.name ? value : { ...value, name };
      renamed.set(value.id, result);
      return result;
    };
    for (const input of whole.inputs) {
      renamed.set(input.id, input);
      taken.add(input.name);
    }
    return {
      ...whole,
      nodes: nodes.map(
        (node) => ({ ...node, inputs: node.inputs.map(rename), outputs: node.outputs.map(rename) }) as Node,
      ),
      outputs: whole.outputs.map(({ name, value }) => ({ name, value: rename(value) })),
      constants: new Map([...whole.constants].filter(([id]) => live.has(id))),
    };
  }
}
