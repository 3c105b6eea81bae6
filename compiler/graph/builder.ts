/** Builds graphs: each op is type-checked as it is added. Also the base of the public `tutti/builder`. */
import type { DType } from '../dtype.js';
import { TuttiError } from '../error.js';
import type { HostTensor } from '../tensor.js';
import type { Dim } from './dims.js';
import { definitionOf } from './ops/index.js';
import type {
  ConstantData,
  Container,
  DimBounds,
  Graph,
  GraphOutput,
  Node,
  OpAttrs,
  OpKind,
  SourceRef,
  TensorType,
  Value,
} from './types.js';

export class GraphBuilder {
  readonly #name: string;
  readonly #inputs: Value[] = [];
  readonly #outputs: GraphOutput[] = [];
  readonly #nodes: Node[] = [];
  readonly #constants = new Map<number, ConstantData>();
  readonly #producers = new Map<number, Node>();
  readonly #dims = new Map<string, DimBounds>();
  readonly #names = new Set<string>();
  #nextId = 0;
  /** Source given to ops that name none. */
  source: SourceRef = { node: 'graph' };

  constructor(name = 'graph') {
    this.#name = name;
  }

  /** Declares a named dim; undeclared dims in input shapes have bounds [0, 2^31 - 1]. */
  dim(name: string, bounds: DimBounds): void {
    this.#dims.set(name, bounds);
  }

  /** An input; `unknown` if not even its rank is known before the graph is specialised. */
  input(name: string, dtype: DType, shape: readonly Dim[], unknown?: true, container?: Container): Value {
    const value = this.value({ dtype, shape, ...(unknown && { unknown }), ...(container && { container }) }, name);
    this.#inputs.push(value);
    return value;
  }

  constant(data: HostTensor | ConstantData, name?: string): Value {
    const lazy: ConstantData = 'load' in data ? data : { dtype: data.dtype, shape: data.shape, load: () => data };
    const value = this.value({ dtype: lazy.dtype, shape: lazy.shape }, name);
    this.#constants.set(value.id, lazy);
    return value;
  }

  /** The data of a constant made here, or undefined. */
  constantOf(value: Value): ConstantData | undefined {
    return this.#constants.get(value.id);
  }

  /** The node that makes a value here, or undefined for inputs and constants. */
  producerOf(value: Value): Node | undefined {
    return this.#producers.get(value.id);
  }

  /** Adds a node and returns its outputs. `names` name the outputs. @throws TuttiError E_SHAPE, E_MODEL_INVALID */
  op<K extends OpKind>(
    kind: K,
    inputs: readonly Value[],
    attrs: OpAttrs[K],
    names: readonly string[] = [],
    source: SourceRef = this.source,
  ): readonly Value[] {
    const definition = definitionOf(kind);
    const types = definition.infer({
      attrs,
      inputs: inputs.map((value) => value.type),
      source,
      fail(message, expected, found, remedy): never {
        throw new TuttiError('E_SHAPE', message, { subject: describe(source), expected, found, remedy });
      },
    });
    return this.node(kind, inputs, attrs, types, names, source);
  }

  /** Adds a node whose result types are given (source ops; rebuilding a graph whose types are known). */
  node<K extends OpKind>(
    kind: K,
    inputs: readonly Value[],
    attrs: OpAttrs[K],
    types: readonly TensorType[],
    names: readonly string[] = [],
    source: SourceRef = this.source,
  ): readonly Value[] {
    const outputs = types.map((type, i) => this.value(type, names[i]));
    const node = { op: kind, attrs, inputs, outputs, source } as unknown as Node;
    this.#nodes.push(node);
    for (const output of outputs) this.#producers.set(output.id, node);
    return outputs;
  }

  output(name: string, value: Value): void {
    this.#outputs.push({ name, value });
  }

  finish(): Graph {
    return {
      name: this.#name,
      inputs: this.#inputs,
      outputs: this.#outputs,
      nodes: this.#nodes,
      constants: this.#constants,
      dims: this.#dims,
    };
  }

  /** A fresh value; taken names get a suffix. */
  value(type: TensorType, name?: string): Value {
    const id = this.#nextId++;
    let unique = name ?? `v${id}`;
    for (let n = 1; this.#names.has(unique); n++) unique = `${name ?? `v${id}`}.${n}`;
    this.#names.add(unique);
    return { id, name: unique, type };
  }
}

export const describe = (source: SourceRef): string =>
  source.op === undefined || source.node.includes(source.op) ? source.node : `${source.node} (${source.op})`;
