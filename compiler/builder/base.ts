/** What the parts of the public builder share: inputs, constants, outputs, names of nodes. */
import type { DType } from '../dtype.js';
import { TuttiError } from '../error.js';
import { GraphBuilder } from '../graph/builder.js';
import * as compose from '../graph/compose/index.js';
import { type Dim, dimName, printShape, type SymDim } from '../graph/dims.js';
import { tensorOfNumbers } from '../graph/ops/reference/data.js';
import type { ConstantData, DimBounds, Graph, OpAttrs, OpKind, Value } from '../graph/types.js';
import { verifyGraph } from '../graph/verify.js';
import { dataLength, type HostData, type HostTensor, sizeOf } from '../tensor.js';

/** Dims by number or by name (`'batch'`); expressions come from the shapes of other values. */
export type ShapeLike = readonly (number | string | SymDim)[];
/** A value, or a number that takes the element type of the other operand. */
export type Operand = Value | number | bigint | boolean;
export type Axes = number | readonly number[];

const arrayTypes: readonly (readonly [abstract new (...args: never[]) => unknown, DType])[] = [
  [Float32Array, 'f32'],
  [Float64Array, 'f64'],
  [BigInt64Array, 'i64'],
  [BigUint64Array, 'u64'],
  [Int32Array, 'i32'],
  [Uint32Array, 'u32'],
  [Int16Array, 'i16'],
  [Uint16Array, 'u16'],
  [Int8Array, 'i8'],
  [Uint8Array, 'u8'],
];

export class BaseBuilder {
  /** The graph under construction, for ops that have no method here. */
  readonly graph: GraphBuilder;
  #prefix = '';
  readonly #counts = new Map<string, number>();
  readonly #outputs = new Set<string>();

  constructor(name = 'model') {
    this.graph = new GraphBuilder(name);
  }

  // --- inputs, constants, outputs --------------------------------------------------------------------------------

  /** Declares bounds of a named dim; without, it may be anything from 0 to 2^31 - 1. */
  dim(name: string, bounds: DimBounds): void {
    this.graph.dim(name, bounds);
  }

  /** An input: `g.input('image', 'f32', ['batch', 3, 224, 224])`. */
  input(name: string, dtype: DType, shape: ShapeLike): Value {
    return this.graph.input(name, dtype, dimsOf(shape));
  }

  /**
   * A constant: from a typed array (its type decides, or `dtype` for f16, bf16, bool and the like held in it), from
   * plain numbers (f32 unless `dtype` says otherwise) or from a tensor whose data may be loaded later.
   * @throws TuttiError E_SHAPE if data and shape do not fit
   */
  constant(data: HostTensor | ConstantData): Value;
  constant(data: HostData | readonly number[], shape?: readonly number[], dtype?: DType): Value;
  constant(
    data: HostTensor | ConstantData | HostData | readonly number[],
    shape?: readonly number[],
    dtype?: DType,
  ): Value {
    this.at('constant');
    if ('shape' in data) return this.graph.constant(data);
    const dims = shape ?? [data.length];
    // Plain numbers are one an element; packed types come as bytes or so.
    const expected = ArrayBuffer.isView(data) ? dataLength(dtype ?? 'u8', sizeOf(dims)) : sizeOf(dims);
    if (data.length !== expected) {
      throw new TuttiError('E_SHAPE', 'data of the constant does not fit its shape', {
        subject: this.graph.source.node,
        expected: `${sizeOf(dims)} elements for ${printShape(dims)}`,
        found: String(data.length),
      });
    }
    if (ArrayBuffer.isView(data)) {
      const own = arrayTypes.find(([array]) => data instanceof array)?.[1];
      return this.graph.constant({ dtype: dtype ?? own ?? 'u8', shape: dims, data });
    }
    const [first] = data;
    if (typeof first === 'string') return this.graph.constant({ dtype: 'string', shape: dims, data: data as string[] });
    const numbers = data as readonly number[];
    if (dtype === 'i64' || dtype === 'u64') return compose.tensor(this.graph, dtype, numbers, dims);
    return this.graph.constant(tensorOfNumbers(dtype ?? 'f32', dims, [...numbers]));
  }

  /** A constant without axes. */
  scalar(value: number | bigint | boolean, dtype: DType = 'f32'): Value {
    this.at('scalar');
    return compose.scalar(this.graph, value, dtype);
  }

  /** One value in every place of a shape. */
  full(shape: ShapeLike, value: number | bigint | boolean, dtype: DType = 'f32'): Value {
    this.at('full');
    return compose.full(this.graph, value, dtype, dimsOf(shape));
  }

  /** 0, 1, 2 … along an axis. */
  iota(shape: ShapeLike, axis = 0, dtype: DType = 'i64'): Value {
    this.at('iota');
    return compose.iota(this.graph, dtype, dimsOf(shape), axis);
  }

  output(name: string, value: Value): void {
    if (this.#outputs.has(name)) {
      throw new TuttiError('E_MODEL_INVALID', 'two outputs of one name', { subject: name });
    }
    this.#outputs.add(name);
    this.graph.output(name, value);
  }

  /** Any op of the IR, with its attributes as they are. */
  op<K extends OpKind>(kind: K, inputs: readonly Value[], attrs: OpAttrs[K]): readonly Value[] {
    this.at(kind);
    return this.graph.op(kind, inputs, attrs);
  }

  /** Puts a prefix before the names of all nodes that `body` makes: they show in errors, reports and profiles. */
  scope<T>(name: string, body: () => T): T {
    const outer = this.#prefix;
    this.#prefix = `${outer}${name}/`;
    try {
      return body();
    } finally {
      this.#prefix = outer;
    }
  }

  /** The finished graph, for `compile`. @throws TuttiError E_MODEL_INVALID if it has no outputs; E_IR */
  build(): Graph {
    if (this.#outputs.size === 0) {
      throw new TuttiError('E_MODEL_INVALID', 'the graph has no outputs', { remedy: 'Call output(name, value).' });
    }
    const graph = this.graph.finish();
    verifyGraph(graph);
    return graph;
  }

  // --- for the parts ---------------------------------------------------------------------------------------------

  /** Names the node that the next ops belong to. */
  protected at(op: string): GraphBuilder {
    const key = `${this.#prefix}${op}`;
    const count = this.#counts.get(key) ?? 0;
    this.#counts.set(key, count + 1);
    this.graph.source = { node: `${key}_${count}`, op };
    return this.graph;
  }

  /** Numbers become constants of the other operand's type. */
  protected pair(a: Operand, b: Operand): readonly [Value, Value] {
    if (typeof a === 'object') {
      return [a, typeof b === 'object' ? b : compose.scalar(this.graph, b, a.type.dtype)];
    }
    if (typeof b === 'object') return [compose.scalar(this.graph, a, b.type.dtype), b];
    throw new TuttiError('E_USAGE', 'one of the operands must be a value of the graph', {
      subject: this.graph.source.node,
      found: `${a} and ${b}`,
    });
  }

  protected fail(message: string, expected: string, found: string): never {
    throw new TuttiError('E_SHAPE', message, { subject: this.graph.source.node, expected, found });
  }
}

export const dimsOf = (shape: ShapeLike): Dim[] => shape.map((dim) => (typeof dim === 'string' ? dimName(dim) : dim));

/** The axes named, or all. */
export const axesOrAll = (x: Value, axes: Axes | undefined): readonly number[] =>
  axes === undefined ? x.type.shape.map((_, i) => i) : typeof axes === 'number' ? [axes] : axes;
