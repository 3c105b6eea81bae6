/** What an exported op may write: nodes, constants, dims as tensors. Names are of ONNX values. */
import type { DType } from '../../../dtype.js';
import { TuttiError } from '../../../error.js';
import { describe } from '../../../graph/builder.js';
import { type Dim, isConcrete, plainName, type SymDim } from '../../../graph/dims.js';
import type { Graph, Node, Value } from '../../../graph/types.js';
import type { HostTensor } from '../../../tensor.js';
import { attributeTypes, type MessageInit } from '../proto.js';
import { onnxTypeOf, protoOf } from '../tensors.js';

const baseOpset = 21;

type AttributeValue =
  | number
  | bigint
  | string
  | readonly bigint[]
  | readonly number[]
  | HostTensor
  | MessageInit<'GraphProto'>;

/** The opset in which a type came, where that is later than ours. */
const firstOpset: Partial<Readonly<Record<DType, number>>> = { f4e2m1: 23, f8e8m0: 24, i2: 25, u2: 25 };

/** Which input and axis a named dim can be read from. */
export type Origins = ReadonlyMap<string, { readonly input: string; readonly axis: number }>;

/** Writes constants, nodes and outputs of a graph under the given names; its inputs are defined. */
export type WriteGraph = (context: ExportContext, graph: Graph, outputs: readonly string[]) => void;

export class ExportContext {
  #nodes: MessageInit<'NodeProto'>[] = [];
  #initializers: MessageInit<'TensorProto'>[] = [];
  readonly #taken: Set<string>;
  #names = new Map<number, string>();
  readonly #origins: Origins;
  readonly #write: WriteGraph;
  #opset = baseOpset;
  #node: Node | undefined;

  constructor(taken: Iterable<string>, origins: Origins, write: WriteGraph) {
    this.#taken = new Set(taken);
    this.#origins = origins;
    this.#write = write;
  }

  get opset(): number {
    return this.#opset;
  }
  get nodes(): readonly MessageInit<'NodeProto'>[] {
    return this.#nodes;
  }
  get initializers(): readonly MessageInit<'TensorProto'>[] {
    return this.#initializers;
  }

  /** The ONNX operator needs this opset. */
  needs(opset: number): void {
    this.#opset = Math.max(this.#opset, opset);
  }

  begin(node: Node): void {
    this.#node = node;
  }

  fresh(base: string): string {
    let name = base;
    for (let n = 1; this.#taken.has(name); n++) name = `${base}_${n}`;
    this.#taken.add(name);
    return name;
  }

  define(value: Value, name: string): void {
    this.#names.set(value.id, name);
    this.needs(firstOpset[value.type.dtype] ?? baseOpset);
  }

  nameOf(value: Value): string {
    const name = this.#names.get(value.id);
    if (name === undefined) throw new Error(`value ${value.name} is used before it is defined`);
    return name;
  }

  constant(data: HostTensor, name = this.fresh('constant')): string {
    this.#initializers.push(protoOf(data, name));
    return name;
  }

  ints(values: readonly (number | bigint)[], dtype: 'i64' | 'i32' = 'i64'): string {
    const data = dtype === 'i64' ? BigInt64Array.from(values, BigInt) : Int32Array.from(values, Number);
    return this.constant({ dtype, shape: [values.length], data });
  }

  /** Adds an operator; returns the names of its outputs. Empty input names stand for absent inputs. */
  emit(
    op: string,
    inputs: readonly string[],
    attrs: Readonly<Record<string, AttributeValue | undefined>> = {},
    outputs = 1,
    names?: readonly string[],
  ): readonly string[] {
    const source = this.#node?.source.node ?? 'graph';
    const results = names ?? Array.from({ length: outputs }, () => this.fresh(`${source}.${op}`));
    const attribute = Object.entries(attrs).flatMap(([name, value]) =>
      value === undefined ? [] : [attributeOf(name, value)],
    );
    this.#nodes.push({
      opType: op,
      name: `${source}.${op}.${this.#nodes.length}`,
      input: inputs,
      output: results,
      attribute,
    });
    return results;
  }

  /** `emit` of an operator with one output. */
  one(op: string, inputs: readonly string[], attrs: Readonly<Record<string, AttributeValue | undefined>> = {}): string {
    return this.emit(op, inputs, attrs)[0];
  }

  /**
   * A body as a subgraph. `bound` are names of values around it, by input; the other inputs are inputs of the subgraph,
   * in the order of `formal` (indices of inputs).
   */
  subgraph(body: Graph, formal: readonly number[], bound: ReadonlyMap<number, string>): MessageInit<'GraphProto'> {
    const outer = { nodes: this.#nodes, initializers: this.#initializers, names: this.#names, node: this.#node };
    [this.#nodes, this.#initializers, this.#names] = [[], [], new Map<number, string>()];
    try {
      for (const [i, name] of bound) this.define(body.inputs[i], name);
      const input = formal.map((i) => {
        const { name, type } = body.inputs[i];
        this.define(body.inputs[i], this.fresh(name));
        return valueInfo(this.nameOf(body.inputs[i]), type.dtype, type.shape);
      });
      const output = body.outputs.map(({ name, value: { type } }) =>
        valueInfo(this.fresh(name), type.dtype, type.shape),
      );
      this.#write(
        this,
        body,
        output.map(({ name }) => name as string),
      );
      return { name: body.name, node: this.#nodes, initializer: this.#initializers, input, output };
    } finally {
      [this.#nodes, this.#initializers, this.#names] = [outer.nodes, outer.initializers, outer.names];
      this.#node = outer.node;
    }
  }

  /** An i64 vector of dims: a constant, or computed from the shapes of inputs. */
  dims(dims: readonly Dim[]): string {
    if (isConcrete(dims)) return this.ints(dims);
    if (dims.length === 1) return this.#dim(dims[0]);
    return this.one(
      'Concat',
      dims.map((dim) => this.#dim(dim)),
      { axis: 0n },
    );
  }

  #dim(dim: Dim): string {
    if (typeof dim === 'number') return this.ints([dim]);
    const terms = dim.terms.map(({ coefficient, atoms }) => {
      const factors = atoms.map((atom) => this.#atom(atom));
      const product = factors.reduce((a, b) => this.one('Mul', [a, b]));
      return coefficient === 1 ? product : this.one('Mul', [product, this.ints([coefficient])]);
    });
    const sum = terms.reduce((a, b) => this.one('Add', [a, b]));
    return dim.constant === 0 ? sum : this.one('Add', [sum, this.ints([dim.constant])]);
  }

  #atom(atom: SymDim['terms'][number]['atoms'][number]): string {
    if (atom.fn === 'name') {
      const origin = this.#origins.get(atom.name);
      if (origin === undefined) return this.unsupported(`dim ${atom.name} is no dim of an input`);
      return this.one('Shape', [origin.input], { start: BigInt(origin.axis), end: BigInt(origin.axis + 1) });
    }
    const [a, b] = [this.#dim(atom.a), this.#dim(atom.b)];
    switch (atom.fn) {
      case 'min':
        return this.one('Min', [a, b]);
      case 'max':
        return this.one('Max', [a, b]);
      case 'mod':
        return this.one('Mod', [a, b]);
      case 'floordiv':
        // (a - a mod b) / b, since Div truncates and Mod takes the sign of the divisor.
        return this.one('Div', [this.one('Sub', [a, this.one('Mod', [a, b])]), b]);
      default:
        return atom satisfies never;
    }
  }

  unsupported(reason: string): never {
    throw new TuttiError('E_UNSUPPORTED', `cannot be exported to ONNX: ${reason}`, {
      subject: this.#node === undefined ? undefined : describe(this.#node.source),
    });
  }
}

function attributeOf(name: string, value: AttributeValue): MessageInit<'AttributeProto'> {
  if (typeof value === 'bigint') return { name, type: attributeTypes.INT, i: value };
  if (typeof value === 'number') return { name, type: attributeTypes.FLOAT, f: value };
  if (typeof value === 'string') return { name, type: attributeTypes.STRING, s: new TextEncoder().encode(value) };
  if ('dtype' in value) return { name, type: attributeTypes.TENSOR, t: protoOf(value) };
  if (!Array.isArray(value)) return { name, type: attributeTypes.GRAPH, g: value as MessageInit<'GraphProto'> };
  if (value.every((element): element is bigint => typeof element === 'bigint'))
    return { name, type: attributeTypes.INTS, ints: value };
  return { name, type: attributeTypes.FLOATS, floats: value as readonly number[] };
}

/** Name and type of an input or output. */
export const valueInfo = (name: string, dtype: DType, shape: readonly Dim[]): MessageInit<'ValueInfoProto'> => ({
  name,
  type: {
    tensorType: {
      elemType: onnxTypeOf(dtype),
      shape: {
        dim: shape.map((dim) =>
          typeof dim === 'number' ? { dimValue: BigInt(dim) } : { dimParam: plainName(dim) ?? '' },
        ),
      },
    },
  },
});
