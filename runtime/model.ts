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
import { bytesOf } from '../compiler/dtype.js';
import { TuttiError } from '../compiler/error.js';
import { withBodies } from '../compiler/graph/bodies.js';
import type { Graph } from '../compiler/graph/types.js';
import { hasStages } from '../compiler/passes/stages.js';
import { sizeOf } from '../compiler/tensor.js';
import type { CompileOptions, ModelSource } from './api.js';
import { canonical } from './canonical.js';
import { isNode } from './environment.js';
import type { OpenFile } from './node.js';
import { type FileStamp, type ModelOrigin, SessionModel, type StatedOptions } from './session_model.js';

/** A graph with what was said about its shapes and numerics. Immutable; any number of sessions may use it. */
export class Model extends SessionModel {
  readonly graph: Graph;
  readonly origin: ModelOrigin | undefined;
  #sourceDigest: string | (() => string) | undefined;

  /**
   * @param sourceDigest Of what the graph was read from; a function is only called when the digest is asked for.
   * @param origin Of the graph just as it is, but for bounds of its dims.
   */
  constructor(
    graph: Graph,
    options: CompileOptions = {},
    sourceDigest?: string | (() => string),
    origin?: ModelOrigin,
  ) {
    super(graph, options);
    this.graph = graph;
    this.#sourceDigest = sourceDigest;
    this.origin = origin;
  }

  async load(): Promise<Graph> {
    return this.graph;
  }

  override with(options: StatedOptions): Model {
    return new Model(this.graph, this.merged(options), this.#sourceDigest, this.origin);
  }

  /** SHA-256 of the file or bytes it came from, if it came from any. */
  get sourceDigest(): string | undefined {
    if (typeof this.#sourceDigest === 'function') this.#sourceDigest = this.#sourceDigest();
    return this.#sourceDigest;
  }

  get waits(): boolean {
    return hasStages(this.graph) || this.graph.inputs.some(({ type }) => type.container !== undefined);
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
  const { createHasher, externalFiles, mapFile, openLarge, pathOf, readFile, stampOf } = await import('./node.js');
  const path = pathOf(source);
  // Before anything is read: what is written later has another stamp.
  const stamps = [stampOf(path)];
  const readExternal = externalFiles(path, (stamp) => stamps.push(stamp));
  const artifact = path.endsWith('.tutti');
  const large = artifact ? undefined : openLarge(path);
  if (large !== undefined && !isArtifact(headOf(large))) {
    const { importOnnx, readOutline } = await import('../compiler/frontends/onnx/index.js');
    const { bytes, leftOut } = readOutline(large);
    const { shapes, dims } = options;
    const graph = importOnnx(bytes, { readExternal, leftOut, shapes, dims });
    const digest = once(() => digestOf(large, createHasher));
    return new Model(graph, options, digest, originOf(digest, options, options, { path, stamps }));
  }
  const bytes = await (artifact ? mapFile(path) : readFile(path));
  return fromBytes(bytes, options, {
    artifact,
    readExternal,
    createHasher,
    path,
    stamps,
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
  readonly path: string;
  /** Of the file, and of those that it names once they were opened. */
  readonly stamps: readonly FileStamp[];
}

async function fromBytes(bytes: Uint8Array, options: CompileOptions, file?: FileContext): Promise<Model> {
  const digest = once(() => sha256(bytes, file?.createHasher));
  if (file?.artifact || isArtifact(bytes)) {
    const stored = readArtifact(bytes, file?.createHasher);
    const merged: CompileOptions = {
      ...options,
      numerics: options.numerics ?? stored.numerics,
      shapes: { ...stored.shapes, ...options.shapes },
      dims: { ...stored.dims, ...options.dims },
    };
    return new Model(stored.graph, merged, stored.sourceDigest, originOf(digest, options, merged, file));
  }
  const { importOnnx } = await import('../compiler/frontends/onnx/index.js');
  const graph = importOnnx(bytes, { readExternal: file?.readExternal, shapes: options.shapes, dims: options.dims });
  return new Model(graph, options, digest, originOf(digest, options, options, file));
}

/**
 * @param digest Of the bytes of the model itself.
 * @param asked What the caller said, which may have decided how it was read.
 * @param stated What holds now.
 */
function originOf(
  digest: () => string,
  asked: StatedOptions,
  stated: StatedOptions,
  file: Pick<FileContext, 'path' | 'stamps'> | undefined,
): ModelOrigin {
  const { shapes, dims } = asked;
  // Data in other files may be large: that they are the same files tells enough.
  const others = (): readonly string[] => (file?.stamps ?? []).slice(1).map(({ path, state }) => `${path} ${state}`);
  const whole = (): string => [digest(), canonical({ shapes, dims }), ...others()].join('\n');
  if (file === undefined) return { digest: whole };
  const pick = ({ numerics, shapes, dims }: StatedOptions): StatedOptions => ({ numerics, shapes, dims });
  return { digest: whole, file: { path: file.path, stamps: file.stamps, asked: pick(asked), stated: pick(stated) } };
}

function once<T>(make: () => T): () => T {
  let made: { readonly value: T } | undefined;
  return () => {
    made ??= { value: make() };
    return made.value;
  };
}
