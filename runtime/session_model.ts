/**
 * What a session needs to know of a model. Its graph may still lie in a file: where the program for a device is stored,
 * it is never read.
 */
import type { Numerics } from '../compiler/compile.js';
import { TuttiError } from '../compiler/error.js';
import { type Dim, dimNames, plainName, substituteDim } from '../compiler/graph/dims.js';
import type { DimBounds, Graph, TensorType as GraphType } from '../compiler/graph/types.js';
import type { CompileOptions, ModelInfo, ValueInfo } from './api.js';
import { typeOfDType } from './tensor.js';

/** A graph without what it computes. */
export type GraphSignature = Pick<Graph, 'name' | 'inputs' | 'outputs' | 'dims'>;

/** Where a model was read from, for caches. */
export interface ModelOrigin {
  /** Equal for equal content, data in other files included. May read all of it. */
  readonly digest: () => string;
  readonly file?: ModelFile;
}

/** How a model was read from a file. */
export interface ModelFile {
  readonly path: string;
  /** Of the file and of those that it names, before they were read. */
  readonly stamps: readonly FileStamp[];
  /** What the caller said when it was read, which may have decided how. */
  readonly asked: StatedOptions;
  /** What held then, with what the file says. */
  readonly stated: StatedOptions;
}
export type StatedOptions = Pick<CompileOptions, 'numerics' | 'shapes' | 'dims'>;

/** What the system says of a file: another `state` whenever it has changed. */
export interface FileStamp {
  readonly path: string;
  readonly state: string;
  /** It was not changed so lately that the next change could leave the same state. */
  readonly settled: boolean;
}

export abstract class SessionModel implements ModelInfo {
  readonly signature: GraphSignature;
  readonly numerics: Numerics;
  /** Shapes and sizes given when the model was compiled; sessions may give more. */
  readonly shapes: Readonly<Record<string, readonly number[]>>;
  readonly sizes: Readonly<Record<string, number>>;
  readonly inputs: readonly ValueInfo[];
  readonly outputs: readonly ValueInfo[];
  readonly dims: ReadonlyMap<string, DimBounds>;
  readonly dump: CompileOptions['dump'];

  constructor(signature: GraphSignature, options: CompileOptions) {
    this.signature = signature;
    this.numerics = checkNumerics(options.numerics ?? 'precise');
    this.shapes = options.shapes ?? {};
    this.sizes = options.dims ?? {};
    this.dump = options.dump;
    const bindings = bindDims(signature, this.shapes, this.sizes);
    const given = new Map(Object.entries(this.shapes));
    const info = (name: string, { dtype, shape, unknown, container }: GraphType): ValueInfo => ({
      name,
      type: typeOfDType(dtype),
      dtype,
      shape: (given.get(name) ?? shape.map((dim) => substituteDim(dim, bindings))).map((dim) =>
        typeof dim === 'number' ? dim : String(dim),
      ),
      ...(unknown ? { unknown } : {}),
      ...(container ? { container } : {}),
    });
    this.inputs = signature.inputs.map(({ name, type }) => info(name, type));
    this.outputs = signature.outputs.map(({ name, value }) => info(name, value.type));
    this.dims = freeDims(signature, bindings);
  }

  abstract readonly nodes: number;
  abstract readonly weightsBytes: number;
  /** Operators wait for shapes or data: what is to be computed shows when inputs are there. */
  abstract readonly waits: boolean;
  /** Undefined where there is none that could be found again. */
  abstract readonly origin: ModelOrigin | undefined;

  /** What it computes. @throws TuttiError as `compile` */
  abstract load(): Promise<Graph>;

  /** The same model with more shapes and sizes fixed. @throws TuttiError E_INPUT */
  abstract with(options: StatedOptions): SessionModel;

  protected merged(options: StatedOptions): CompileOptions {
    const { numerics = this.numerics, shapes = {}, dims = {} } = options;
    return { numerics, shapes: { ...this.shapes, ...shapes }, dims: { ...this.sizes, ...dims }, dump: this.dump };
  }

  /** The shape of each input, if all of them are known. */
  staticShapes(): Readonly<Record<string, readonly number[]>> | undefined {
    const shapes: Record<string, readonly number[]> = {};
    for (const { name, shape, unknown } of this.inputs) {
      if (!shape.every((dim) => typeof dim === 'number') || (unknown && this.shapes[name] === undefined))
        return undefined;
      shapes[name] = shape;
    }
    return shapes;
  }

  get name(): string {
    return this.signature.name;
  }
}

export function checkNumerics(numerics: Numerics): Numerics {
  if (numerics === 'fast' || numerics === 'precise') return numerics;
  if (numerics === 'strict') {
    throw new TuttiError('E_UNSUPPORTED', 'equal bits on every device cannot be promised yet', {
      subject: 'numerics strict',
      remedy: "Use 'precise': each op within the tolerance of its f64 reference.",
    });
  }
  throw new TuttiError('E_USAGE', 'no such numerics profile', {
    subject: 'numerics',
    expected: 'fast, precise or strict',
    found: String(numerics),
  });
}

/**
 * Sizes of the named dims that shapes and sizes fix.
 * @throws TuttiError E_INPUT naming what contradicts what
 */
export function bindDims(
  graph: GraphSignature,
  shapes: Readonly<Record<string, readonly number[]>>,
  sizes: Readonly<Record<string, number>>,
): ReadonlyMap<string, number> {
  const bindings = new Map<string, number>();
  const origin = new Map<string, string>();
  const bind = (name: string, size: number, from: string): void => {
    const known = bindings.get(name);
    if (known !== undefined && known !== size) {
      throw new TuttiError('E_INPUT', `named dim '${name}' has two sizes`, {
        subject: from,
        expected: `${known} (from ${origin.get(name)})`,
        found: String(size),
        remedy: `All inputs that name '${name}' must agree.`,
      });
    }
    const bounds = graph.dims.get(name);
    if (!Number.isSafeInteger(size) || size < (bounds?.min ?? 0) || size > (bounds?.max ?? 2 ** 31 - 1)) {
      throw new TuttiError('E_INPUT', `size of named dim '${name}' is out of its bounds`, {
        subject: from,
        expected: `an integer from ${bounds?.min ?? 0} to ${bounds?.max ?? 2 ** 31 - 1}`,
        found: String(size),
      });
    }
    bindings.set(name, size);
    origin.set(name, from);
  };
  const names = namesOf(graph);
  for (const [name, size] of Object.entries(sizes)) {
    if (!names.has(name)) {
      throw new TuttiError('E_INPUT', 'the model has no such named dim', {
        subject: name,
        expected: names.size > 0 ? `one of ${[...names].join(', ')}` : 'none: all shapes are static',
      });
    }
    bind(name, size, `dim ${name}`);
  }
  const inputs = new Map(graph.inputs.map((value) => [value.name, value]));
  for (const [name, shape] of Object.entries(shapes)) {
    const input = inputs.get(name);
    if (input === undefined) {
      throw new TuttiError('E_INPUT', 'the model has no such input', {
        subject: name,
        expected: `one of ${[...inputs.keys()].join(', ')}`,
      });
    }
    matchShape(name, input.type, shape, bind);
  }
  // Dims that are expressions can be checked when all names in them are bound.
  for (const [name, shape] of Object.entries(shapes)) {
    const declared = inputs.get(name)?.type.shape ?? [];
    for (const [axis, dim] of declared.entries()) {
      const known = substituteDim(dim, bindings);
      if (typeof known === 'number' && known !== shape[axis]) throw wrongDim(name, declared, shape, axis, known);
    }
  }
  return bindings;
}

function matchShape(
  name: string,
  { shape: declared, unknown }: GraphType,
  shape: readonly number[],
  bind: (name: string, size: number, from: string) => void,
): void {
  if (unknown) return;
  if (declared.length !== shape.length) {
    throw new TuttiError('E_INPUT', 'input has the wrong rank', {
      subject: name,
      expected: `${declared.length} dims, shape [${declared.join(', ')}]`,
      found: `${shape.length} dims, shape [${shape.join(', ')}]`,
      remedy: 'Reshape the tensor to the rank that the model declares.',
    });
  }
  for (const [axis, dim] of declared.entries()) {
    if (typeof dim === 'number' && dim !== shape[axis]) throw wrongDim(name, declared, shape, axis, dim);
    const named = plainName(dim);
    if (named !== undefined) bind(named, shape[axis], `input ${name}, axis ${axis}`);
  }
}

const wrongDim = (
  name: string,
  declared: readonly Dim[],
  shape: readonly number[],
  axis: number,
  expected: number,
): TuttiError =>
  new TuttiError('E_INPUT', `input has the wrong size in axis ${axis}`, {
    subject: name,
    expected: `${expected} in shape [${declared.join(', ')}]`,
    found: `${shape[axis]} in shape [${shape.join(', ')}]`,
    remedy: 'Resize, crop or pad the data to the shape that the model declares.',
  });

function namesOf(graph: GraphSignature): Set<string> {
  const names = new Set(graph.dims.keys());
  for (const { type } of graph.inputs) {
    for (const dim of type.shape) for (const name of dimNames(dim)) names.add(name);
  }
  return names;
}

function freeDims(graph: GraphSignature, bindings: ReadonlyMap<string, number>): ReadonlyMap<string, DimBounds> {
  const free = new Map<string, DimBounds>();
  for (const name of namesOf(graph)) {
    if (!bindings.has(name)) free.set(name, graph.dims.get(name) ?? { min: 0, max: 2 ** 31 - 1 });
  }
  return free;
}
