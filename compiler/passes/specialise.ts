/**
 * Specialisation: a graph with symbolic dims becomes one with numbers. Shape arithmetic turns into constants, and
 * operators that waited for shapes or parameters are converted by the frontend they came from, which is handed in.
 */
import { isInt } from '../dtype.js';
import { TuttiError } from '../error.js';
import { describe } from '../graph/builder.js';
import { type Dim, isConcrete, plainName, printShape, SymDim, substituteDim } from '../graph/dims.js';
import { HostBuilder, NotConstant } from '../graph/host_values.js';
import type { Graph, Node, NodeOf, OpKind, Value } from '../graph/types.js';
import { type HostTensor, sizeOf } from '../tensor.js';

export interface Bindings {
  /** Sizes of named dims. */
  readonly dims?: Readonly<Record<string, number>>;
  /** Concrete shapes by input name; they bind the named dims that occur in them. */
  readonly shapes?: Readonly<Record<string, readonly number[]>>;
  /**
   * Data of inputs, for operators whose parameters (axes, target shapes) come in as inputs. Only what no operator can
   * do without is looked at; the specialised graph then holds for these data alone. The input stays declared.
   */
  readonly values?: Readonly<Record<string, HostTensor>>;
  /** Told the name of each input whose data was looked at: it belongs into the key of a cache. */
  readonly onUse?: (input: string) => void;
}

export interface SourceContext {
  readonly b: HostBuilder;
  readonly node: NodeOf<'source_op'>;
  /** Inputs of the source operator, in place; absent optional ones are undefined. Dims are numbers. */
  readonly inputs: readonly (Value | undefined)[];
}
/** Converts a source operator whose shapes are known. Throws NotConstant if content is needed that depends on data. */
export type SourceResolver = (context: SourceContext) => readonly Value[];
/** By domain of the source operator (ONNX's own is ''). */
export type SourceResolvers = ReadonlyMap<string, SourceResolver>;

/** Integer results up to this size are folded to constants right away: they are indices and shapes. */
const maximumFolded = 2 ** 16;

/**
 * The graph under concrete input shapes.
 * @throws TuttiError E_INPUT for unknown names, missing or conflicting sizes; E_SHAPE where shapes do not fit;
 *   E_UNSUPPORTED where a parameter of an operator depends on data.
 */
export function specialise(graph: Graph, bindings: Bindings, resolvers: SourceResolvers): Graph {
  const sizes = bindDims(graph, bindings);
  const b = new HostBuilder(graph.name);
  const mapped = new Map<number, Value>();
  const mappedValue = (value: Value): Value => {
    const known = mapped.get(value.id);
    if (known !== undefined) return known;
    const data = graph.constants.get(value.id);
    if (data === undefined) throw new Error(`value ${value.name} is used before it is defined`);
    const constant = b.constant(data, value.name);
    b.label(constant, value.name);
    mapped.set(value.id, constant);
    return constant;
  };
  for (const input of graph.inputs) {
    const shape = bindings.shapes?.[input.name] ?? input.type.shape.map((dim) => substituteDim(dim, sizes));
    const value = b.input(input.name, input.type.dtype, shape);
    mapped.set(input.id, value);
    const data = bindings.values?.[input.name];
    if (data !== undefined) b.provide(value, data, () => bindings.onUse?.(input.name));
  }
  for (const node of graph.nodes) {
    const inputs = node.inputs.map(mappedValue);
    const outputs = node.op === 'source_op' ? resolve(b, node, inputs, resolvers) : rebuild(b, node, inputs, sizes);
    node.outputs.forEach((output, i) => {
      const folded = fold(b, outputs[i]);
      b.label(folded, output.name);
      mapped.set(output.id, folded);
    });
  }
  for (const { name, value } of graph.outputs) b.output(name, mappedValue(value));
  return b.finish();
}

/** Named dims and their sizes, from both kinds of bindings, checked against each other and their bounds. */
function bindDims(graph: Graph, { dims = {}, shapes = {} }: Bindings): ReadonlyMap<string, Dim> {
  const sizes = new Map<string, number>();
  const origins = new Map<string, string>();
  // A dim that was bound when the model was imported is still declared, though no shape names it any more.
  const inShapes = graph.inputs.flatMap(({ type }) => type.shape.flatMap((dim) => plainName(dim) ?? []));
  const names = new Set([...inShapes, ...graph.dims.keys()]);
  const bind = (name: string, size: number, origin: string): void => {
    const before = sizes.get(name);
    if (before !== undefined && before !== size) {
      throw new TuttiError('E_INPUT', `dim ${name} has two sizes`, {
        subject: origin,
        expected: `${before} (${origins.get(name)})`,
        found: String(size),
      });
    }
    const { min, max } = graph.dims.get(name) ?? { min: 0, max: 2 ** 31 - 1 };
    if (!Number.isSafeInteger(size) || size < min || size > max) {
      throw new TuttiError('E_INPUT', `size of dim ${name} is out of range`, {
        subject: origin,
        expected: `${min} to ${max}`,
        found: String(size),
      });
    }
    sizes.set(name, size);
    origins.set(name, origin);
  };
  for (const [name, size] of Object.entries(dims)) {
    if (!names.has(name)) {
      throw new TuttiError('E_INPUT', `the model has no dim ${name}`, {
        subject: `dim ${name}`,
        expected: names.size === 0 ? 'no dims: all shapes are fixed' : `one of ${[...names].join(', ')}`,
      });
    }
    bind(name, size, `dim ${name}`);
  }
  for (const [name, shape] of Object.entries(shapes)) {
    const input = graph.inputs.find((candidate) => candidate.name === name);
    if (input === undefined) {
      const known = graph.inputs.map((candidate) => candidate.name);
      throw new TuttiError('E_INPUT', `the model has no input ${name}`, { expected: `one of ${known.join(', ')}` });
    }
    bindShape(input, shape, bind);
  }
  for (const { name: input, type } of graph.inputs) {
    const unbound = type.unknown
      ? shapes[input] === undefined
        ? 'its rank'
        : undefined
      : type.shape.map(plainName).find((name) => name !== undefined && !sizes.has(name));
    if (unbound !== undefined) {
      throw new TuttiError('E_INPUT', `the shape of input ${input} is not known: ${unbound}`, {
        subject: input,
        found: type.unknown ? undefined : printShape(type.shape),
        remedy: type.unknown ? `Give --shape ${input}=…` : `Give --dim ${unbound}=… or --shape ${input}=…`,
      });
    }
  }
  return sizes;
}

function bindShape(
  input: Value,
  shape: readonly number[],
  bind: (name: string, size: number, origin: string) => void,
): void {
  const { type } = input;
  if (type.unknown) {
    if (shape.every((dim) => Number.isSafeInteger(dim) && dim >= 0)) return;
    throw new TuttiError('E_INPUT', 'invalid shape', { subject: input.name, found: `[${shape.join(', ')}]` });
  }
  if (shape.length !== type.shape.length) {
    throw new TuttiError('E_INPUT', 'wrong rank of an input', {
      subject: input.name,
      expected: printShape(type.shape),
      found: `[${shape.join(', ')}]`,
    });
  }
  shape.forEach((size, axis) => {
    const dim = type.shape[axis];
    const name = plainName(dim);
    if (name !== undefined) bind(name, size, `input ${input.name}, dim ${axis}`);
    else if (size !== dim) {
      throw new TuttiError('E_INPUT', `wrong size of dim ${axis} of input ${input.name}`, {
        subject: input.name,
        expected: String(dim),
        found: String(size),
      });
    }
  });
}

function rebuild(
  b: HostBuilder,
  node: Exclude<Node, NodeOf<'source_op'>>,
  inputs: readonly Value[],
  sizes: ReadonlyMap<string, Dim>,
): readonly Value[] {
  b.source = node.source;
  // The body of a loop is concrete already.
  const attrs = node.op === 'scan' ? node.attrs : (substitute(node.attrs, sizes) as typeof node.attrs);
  return b.op<OpKind>(node.op, inputs, attrs, [], node.source);
}

/** Attributes with all dims replaced. */
function substitute(value: unknown, sizes: ReadonlyMap<string, Dim>): unknown {
  if (value instanceof SymDim) return substituteDim(value, sizes);
  if (Array.isArray(value)) return value.map((element) => substitute(element, sizes));
  if (typeof value !== 'object' || value === null || ArrayBuffer.isView(value)) return value;
  return Object.fromEntries(Object.entries(value).map(([key, entry]) => [key, substitute(entry, sizes)]));
}

function resolve(
  b: HostBuilder,
  node: NodeOf<'source_op'>,
  inputs: readonly Value[],
  resolvers: SourceResolvers,
): readonly Value[] {
  const subject = describe(node.source);
  const resolver = resolvers.get(node.attrs.domain);
  if (resolver === undefined) {
    throw new TuttiError('E_UNSUPPORTED', `operators of domain "${node.attrs.domain}" are not supported`, { subject });
  }
  let next = 0;
  const placed = node.attrs.present.map((present) => (present ? inputs[next++] : undefined));
  const convert = (): readonly Value[] => resolver({ b, node, inputs: placed });
  try {
    try {
      return convert();
    } catch (error) {
      if (!(error instanceof NotConstant)) throw error;
      return b.withInputs(convert);
    }
  } catch (error) {
    if (!(error instanceof NotConstant)) throw error;
    const given = node.inputs[node.attrs.present.slice(0, error.input).filter(Boolean).length];
    throw new TuttiError(
      'E_UNSUPPORTED',
      `input ${error.input} (${given?.name ?? error.value.name}) must be a constant`,
      {
        subject,
        expected: 'a value that follows from constants and shapes',
        found: 'one that depends on the data of the model inputs',
      },
    );
  }
}

/** Small integer and bool results that follow from constants are constants. */
function fold(b: HostBuilder, value: Value): Value {
  const { dtype, shape, unknown } = value.type;
  if (unknown || b.constantOf(value) !== undefined || !(isInt(dtype) || dtype === 'bool')) return value;
  if (!isConcrete(shape) || sizeOf(shape) > maximumFolded) return value;
  const tensor = b.tensorOf(value);
  return tensor === undefined ? value : b.constant(tensor);
}
