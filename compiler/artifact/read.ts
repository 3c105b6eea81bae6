/**
 * Reads artifacts from where nobody vouches for them. Every blob is compared with its digest before it is looked at;
 * every size, offset, shape and count is checked before anything is allocated for it; text is parsed and verified.
 * Whatever is wrong is an E_ARTIFACT.
 */
import { TuttiError } from '../error.js';
import { parseGraph } from '../graph/parse.js';
import type { ConstantData, Graph } from '../graph/types.js';
import { damaged } from './failure.js';
import {
  type ArtifactModel,
  blobPath,
  decodeKernels,
  fileNames,
  kernelsPrefix,
  mediaTypes,
  type Provenance,
  pathAnnotation,
} from './layout.js';
import { readSafetensors } from './safetensors.js';
import { type CreateHasher, createSha256, sha256 } from './sha256.js';
import { isTar, readTar, type TarEntry } from './tar.js';

/** Documents are small; only weights are large. */
const maxDocumentBytes = 1 << 20;
const maxGraphBytes = 256 << 20;
const maxKernelsBytes = 256 << 20;
const maxLayers = 1000;

/** True for what may be an artifact: an archive. */
export const isArtifact = isTar;

/** The model; its weights are views of `bytes`. @throws TuttiError E_ARTIFACT */
export function readArtifact(bytes: Uint8Array, create: CreateHasher = createSha256): ArtifactModel {
  const archive = new Archive(bytes, create);
  const layout = record(archive.document('oci-layout'), 'oci-layout');
  expect('oci-layout', 'imageLayoutVersion', layout.imageLayoutVersion, '1.0.0');
  const manifest = readManifest(archive);
  const layers = list(manifest.layers, 'layers');
  if (layers.length > maxLayers)
    throw damaged('too many layers', 'manifest', `at most ${maxLayers}`, `${layers.length}`);
  const byPath = new Map(layers.map((entry) => [pathOf(entry), entry]));
  const layer = (path: string, mediaType: string, limit: number): Uint8Array => {
    const descriptor = byPath.get(path);
    if (descriptor === undefined) throw damaged('a layer is missing', path);
    return archive.blob(descriptor, mediaType, limit);
  };
  const provenance = readProvenance(layer(fileNames.provenance, mediaTypes.document, maxDocumentBytes));
  const weights = readSafetensors(layer(fileNames.weights, mediaTypes.weights, Number.MAX_SAFE_INTEGER));
  const graph = readGraph(layer(fileNames.graph, mediaTypes.weightsConfig, maxGraphBytes), weights);
  const kernels = [...byPath]
    .filter(([path]) => path.startsWith(kernelsPrefix))
    .map(([path, descriptor]) => {
      const document = parseJson(archive.blob(descriptor, mediaTypes.document, maxKernelsBytes), path);
      const decoded = decodeKernels(document);
      if (!decoded) throw damaged('not a list of kernels', path);
      return decoded;
    });
  return { graph, ...provenance, ...(kernels.length > 0 ? { kernels } : {}) };
}

class Archive {
  readonly #bytes: Uint8Array;
  readonly #create: CreateHasher;
  readonly #entries: ReadonlyMap<string, TarEntry>;

  constructor(bytes: Uint8Array, create: CreateHasher) {
    this.#bytes = bytes;
    this.#create = create;
    this.#entries = readTar(bytes);
  }

  #file(name: string, limit: number): Uint8Array {
    const entry = this.#entries.get(name);
    if (entry === undefined) throw damaged('a file of the artifact is missing', name);
    if (entry.size > limit) throw damaged('a file is too large', name, `at most ${limit} bytes`, `${entry.size}`);
    return this.#bytes.subarray(entry.offset, entry.offset + entry.size);
  }

  document(name: string): unknown {
    return parseJson(this.#file(name, maxDocumentBytes), name);
  }

  /** Checked against its descriptor. */
  blob(descriptor: unknown, mediaType: string, limit: number): Uint8Array {
    const { mediaType: found, digest, size } = record(descriptor, 'descriptor');
    expect('descriptor', 'mediaType', found, mediaType);
    const match = typeof digest === 'string' ? /^sha256:([0-9a-f]{64})$/.exec(digest) : null;
    if (!match) throw damaged('bad digest', 'descriptor', 'sha256:…', String(digest));
    const bytes = this.#file(blobPath(match[1]), limit);
    if (bytes.byteLength !== size) throw damaged('size of a blob', match[1], `${size} bytes`, `${bytes.byteLength}`);
    const actual = sha256(bytes, this.#create);
    if (actual !== match[1]) throw damaged('content does not match its digest', blobPath(match[1]), match[1], actual);
    return bytes;
  }
}

function readManifest(archive: Archive): Readonly<Record<string, unknown>> {
  const index = record(archive.document('index.json'), 'index.json');
  expect('index.json', 'schemaVersion', index.schemaVersion, 2);
  const manifests = list(index.manifests, 'manifests');
  if (manifests.length !== 1) throw damaged('number of models', 'index.json', '1', `${manifests.length}`);
  const manifest = record(
    parseJson(archive.blob(manifests[0], mediaTypes.manifest, maxDocumentBytes), 'manifest'),
    'manifest',
  );
  expect('manifest', 'schemaVersion', manifest.schemaVersion, 2);
  expect('manifest', 'artifactType', manifest.artifactType, mediaTypes.artifact);
  archive.blob(manifest.config, mediaTypes.config, maxDocumentBytes);
  return manifest;
}

function pathOf(descriptor: unknown): string {
  const { annotations } = record(descriptor, 'layer');
  const path = annotations === undefined ? undefined : record(annotations, 'annotations')[pathAnnotation];
  return typeof path === 'string' ? path : '';
}

function readProvenance(bytes: Uint8Array): Omit<Provenance, 'formatVersion'> {
  const subject = fileNames.provenance;
  const { formatVersion, numerics, shapes, dims, sourceDigest } = record(parseJson(bytes, subject), subject);
  expect(subject, 'formatVersion', formatVersion, 1);
  if (numerics !== 'fast' && numerics !== 'precise' && numerics !== 'strict') {
    throw damaged('bad numerics', subject, 'fast, precise or strict', String(numerics));
  }
  const count = (value: unknown): number => {
    if (!Number.isSafeInteger(value) || (value as number) < 0) throw damaged('bad size', subject, 'an integer from 0');
    return value as number;
  };
  const named = <T>(value: unknown, what: string, read: (entry: unknown) => T): Readonly<Record<string, T>> =>
    Object.fromEntries(Object.entries(record(value, what)).map(([name, entry]) => [name, read(entry)]));
  if (sourceDigest !== undefined && typeof sourceDigest !== 'string') throw damaged('bad source digest', subject);
  return {
    numerics,
    shapes: named(shapes, 'shapes', (shape) => list(shape, 'shape').map(count)),
    dims: named(dims, 'dims', count),
    ...(sourceDigest === undefined ? {} : { sourceDigest }),
  };
}

function readGraph(bytes: Uint8Array, weights: ReadonlyMap<string, ConstantData>): Graph {
  const text = decodeText(bytes, fileNames.graph);
  try {
    return parseGraph(text, (key) => weights.get(key));
  } catch (cause) {
    if (!(cause instanceof TuttiError)) throw cause;
    throw new TuttiError('E_ARTIFACT', `the graph is not valid: ${cause.message}`, { subject: fileNames.graph, cause });
  }
}

// --- checked access to JSON ------------------------------------------------------------------------------------------

function decodeText(bytes: Uint8Array, subject: string): string {
  try {
    return new TextDecoder('utf-8', { fatal: true }).decode(bytes);
  } catch {
    throw damaged('not UTF-8 text', subject);
  }
}

function parseJson(bytes: Uint8Array, subject: string): unknown {
  try {
    return JSON.parse(decodeText(bytes, subject));
  } catch (error) {
    if (error instanceof TuttiError) throw error;
    throw damaged('not JSON', subject);
  }
}

function record(value: unknown, subject: string): Readonly<Record<string, unknown>> {
  if (typeof value === 'object' && value !== null && !Array.isArray(value)) return value as Record<string, unknown>;
  throw damaged('not an object', subject);
}

function list(value: unknown, subject: string): readonly unknown[] {
  if (Array.isArray(value)) return value;
  throw damaged('not a list', subject);
}

function expect(subject: string, field: string, found: unknown, expected: unknown): void {
  if (found !== expected) throw damaged(`bad ${field}`, subject, String(expected), String(found));
}
