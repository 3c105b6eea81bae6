/** Models: from a file, bytes or a graph to something a session can run, save or describe. */
import {
  type ArtifactKernels,
  type ArtifactModel,
  type CreateHasher,
  isArtifact,
  readArtifact,
  sha256,
  writeArtifact,
} from '../compiler/artifact/index.js';
import type { Numerics } from '../compiler/compile.js';
import { bytesOf } from '../compiler/dtype.js';
import { TuttiError } from '../compiler/error.js';
import { withBodies } from '../compiler/graph/bodies.js';
import { type Dim, dimNames, plainName, substituteDim } from '../compiler/graph/dims.js';
import type { DimBounds, Graph, TensorType as GraphType } from '../compiler/graph/types.js';
import { sizeOf } from '../compiler/tensor.js';
import type { CompileOptions, ModelInfo, ModelSource, ValueInfo } from './api.js';
import { isNode } from './environment.js';
import type { OpenFile } from './node.js';
import { typeOfDType } from './tensor.js';

/** A graph with what was said about its shapes and numerics. Immutable; any number of sessions may use it. */
export class Model implements ModelInfo {
  readonly graph: Graph;
  readonly numerics: Numerics;
  /** Shapes and sizes given when the model was compiled; sessions may give more. */
  readonly shapes: Readonly<Record<string, readonly number[]>>;
  readonly sizes: Readonly<Record<string, number>>;
  readonly inputs: readonly ValueInfo[];
  readonly outputs: readonly ValueInfo[];
  readonly dims: ReadonlyMap<string, DimBounds>;
  readonly dump: CompileOptions['dump'];
  #sourceDigest: string | (() => string) | undefined;

  /** @param sourceDigest Of what the graph was read from; a function is only called when the digest is asked for. */
  constructor(graph: Graph, options: CompileOptions = {}, sourceDigest?: string | (() => string)) {
    this.graph = graph;
    this.numerics = checkNumerics(options.numerics ?? 'precise');
    this.shapes = options.shapes ?? {};
    this.sizes = options.dims ?? {};
    this.dump = options.dump;
    this.#sourceDigest = sourceDigest;
    const bindings = bindDims(graph, this.shapes, this.sizes);
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
    this.inputs = graph.inputs.map(({ name, type }) => info(name, type));
    this.outputs = graph.outputs.map(({ name, value }) => info(name, value.type));
    this.dims = freeDims(graph, bindings);
  }

  /** The same model with more shapes and sizes fixed. @throws TuttiError E_INPUT */
  with(options: Pick<CompileOptions, 'numerics' | 'shapes' | 'dims'>): Model {
    const { numerics = this.numerics, shapes = {}, dims = {} } = options;
    const merged = { numerics, shapes: { ...this.shapes, ...shapes }, dims: { ...this.sizes, ...dims } };
    return new Model(this.graph, { ...merged, dump: this.dump }, this.#sourceDigest);
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
    return this.graph.name;
  }

  /** SHA-256 of the file or bytes it came from, if it came from any. */
  get sourceDigest(): string | undefined {
    if (typeof this.#sourceDigest === 'function') this.#sourceDigest = this.#sourceDigest();
    return this.#sourceDigest;
  }

  get nodes(): number {
    return this.graph.nodes.length;
  }

  get weightsBytes(): number {
    let total = 0;
    for (const { constants } of withBodies(this.graph)) {
      for (const { dtype, shape } of constants.values()) total += bytesOf(dtype, sizeOf(shape));
    }
    return total;
  }

  /**
   * Writes a .tutti artifact: the graph and its weights. `kernels` ride along to be looked at; they are never run.
   * Browsers have no files: see `artifact`.
   * @throws TuttiError E_IO, E_EXTERNAL_DATA, E_UNSUPPORTED
   */
  async save(path: string | URL, options: { readonly kernels?: readonly ArtifactKernels[] } = {}): Promise<void> {
    if (!isNode()) {
      throw new TuttiError('E_UNSUPPORTED', 'there are no files to write here', {
        subject: String(path),
        remedy: 'Take the bytes: new Blob([...model.artifact()]).',
      });
    }
    const { createHasher, pathOf, writeFile } = await import('./node.js');
    await writeFile(pathOf(path), writeArtifact({ ...this.#artifact(), ...options }, createHasher));
  }

  /** The bytes of the artifact, in pieces. */
  artifact(): Iterable<Uint8Array> {
    return writeArtifact(this.#artifact());
  }

  #artifact(): ArtifactModel {
    const { graph, numerics, shapes, sizes, sourceDigest } = this;
    return { graph, numerics, shapes, dims: sizes, ...(sourceDigest === undefined ? {} : { sourceDigest }) };
  }
}

/**
 * Loads a model: an ONNX file (its external data only from inside its folder), a .tutti artifact, the bytes of one, or
 * a graph. Nothing is compiled for a device yet: that is `Session.create`.
 * @throws TuttiError E_IO, E_MODEL_FORMAT, E_MODEL_INVALID, E_EXTERNAL_DATA, E_UNSUPPORTED, E_ARTIFACT, E_INPUT
 */
export async function compile(source: ModelSource, options: CompileOptions = {}): Promise<Model> {
  if (typeof source === 'string' || source instanceof URL) {
    return isNode() ? fromFile(source, options) : fromAddress(source, options);
  }
  if (source instanceof Uint8Array) return fromBytes(source, options);
  if (source instanceof ArrayBuffer) return fromBytes(new Uint8Array(source), options);
  if (source instanceof Blob) return fromBytes(await bytesOfBlob(source), options);
  if (isGraph(source)) return new Model(source, options);
  throw new TuttiError('E_USAGE', 'not a model', { expected: 'a path, bytes or a graph', found: typeof source });
}

async function bytesOfBlob(blob: Blob): Promise<Uint8Array> {
  try {
    return new Uint8Array(await blob.arrayBuffer());
  } catch (cause) {
    const found = cause instanceof Error ? cause.message : String(cause);
    throw new TuttiError('E_IO', 'cannot be read', {
      subject: blob instanceof File ? blob.name : 'blob',
      found,
      cause,
    });
  }
}

const isGraph = (source: unknown): source is Graph =>
  typeof source === 'object' && source !== null && 'nodes' in source && 'constants' in source;

async function fromFile(source: string | URL, options: CompileOptions): Promise<Model> {
  const { createHasher, externalFiles, mapFile, openLarge, pathOf, readFile } = await import('./node.js');
  const path = pathOf(source);
  const artifact = path.endsWith('.tutti');
  const large = artifact ? undefined : openLarge(path);
  if (large !== undefined && !isArtifact(headOf(large))) {
    const { importOnnx, readOutline } = await import('../compiler/frontends/onnx/index.js');
    const { bytes, leftOut } = readOutline(large);
    const { shapes, dims } = options;
    const graph = importOnnx(bytes, { readExternal: externalFiles(path), leftOut, shapes, dims });
    return new Model(graph, options, () => digestOf(large, createHasher));
  }
  const bytes = await (artifact ? mapFile(path) : readFile(path));
  return fromBytes(bytes, options, {
    artifact,
    readExternal: externalFiles(path),
    createHasher,
  });
}

/** What tells an artifact. */
function headOf(file: OpenFile): Uint8Array {
  const head = new Uint8Array(Math.min(file.size, 1024));
  file.read(0, head);
  return head;
}

function digestOf(file: OpenFile, createHasher: CreateHasher): string {
  const hasher = createHasher();
  const piece = new Uint8Array(1 << 20);
  for (let at = 0; at < file.size; at += piece.length) {
    const part = piece.subarray(0, file.size - at);
    file.read(at, part);
    hasher.update(part);
  }
  return hasher.digest();
}

/** In a browser, models come over HTTP. */
async function fromAddress(address: string | URL, options: CompileOptions): Promise<Model> {
  const { fetchFile, withExternalFiles } = await import('./web.js');
  const bytes = await fetchFile(address);
  if (isArtifact(bytes)) return fromBytes(bytes, options);
  const { importOnnx } = await import('../compiler/frontends/onnx/index.js');
  const { shapes, dims } = options;
  const graph = await withExternalFiles(address, (readExternal) => importOnnx(bytes, { readExternal, shapes, dims }));
  return new Model(graph, options, () => sha256(bytes));
}

/** What only a file can tell. */
interface FileContext {
  /** It is named as one: then what does not look like an artifact is a damaged one. */
  readonly artifact: boolean;
  readonly readExternal: ReturnType<typeof import('./node.js')['externalFiles']>;
  readonly createHasher: CreateHasher;
}

async function fromBytes(bytes: Uint8Array, options: CompileOptions, file?: FileContext): Promise<Model> {
  if (file?.artifact || isArtifact(bytes)) {
    const stored = readArtifact(bytes, file?.createHasher);
    const merged: CompileOptions = {
      ...options,
      numerics: options.numerics ?? stored.numerics,
      shapes: { ...stored.shapes, ...options.shapes },
      dims: { ...stored.dims, ...options.dims },
    };
    return new Model(stored.graph, merged, stored.sourceDigest);
  }
  const { importOnnx } = await import('../compiler/frontends/onnx/index.js');
  const graph = importOnnx(bytes, { readExternal: file?.readExternal, shapes: options.shapes, dims: options.dims });
  return new Model(graph, options, () => sha256(bytes, file?.createHasher));
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
  graph: Graph,
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

function namesOf(graph: Graph): Set<string> {
  const names = new Set(graph.dims.keys());
  for (const { type } of graph.inputs) {
    for (const dim of type.shape) for (const name of dimNames(dim)) names.add(name);
  }
  return names;
}

function freeDims(graph: Graph, bindings: ReadonlyMap<string, number>): ReadonlyMap<string, DimBounds> {
  const free = new Map<string, DimBounds>();
  for (const name of namesOf(graph)) {
    if (!bindings.has(name)) free.set(name, graph.dims.get(name) ?? { min: 0, max: 2 ** 31 - 1 });
  }
  return free;
}
