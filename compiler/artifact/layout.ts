/**
 * The documents of an artifact: an OCI image layout (image-spec 1.1) whose manifest follows the CNCF model
 * specification (model-spec, artifact type below).
 */
import type { Numerics } from '../compile.js';
import type { Graph } from '../graph/types.js';

export const mediaTypes = {
  index: 'application/vnd.oci.image.index.v1+json',
  manifest: 'application/vnd.oci.image.manifest.v1+json',
  artifact: 'application/vnd.cncf.model.manifest.v1+json',
  config: 'application/vnd.cncf.model.config.v1+json',
  weights: 'application/vnd.cncf.model.weight.v1.raw',
  weightsConfig: 'application/vnd.cncf.model.weight.config.v1.raw',
  document: 'application/vnd.cncf.model.doc.v1.raw',
} as const;

/** The annotation that gives a layer its file name. */
export const pathAnnotation = 'org.cncf.model.filepath';

export const fileNames = { graph: 'graph.tir', weights: 'weights.safetensors', provenance: 'provenance.json' } as const;

export interface Descriptor {
  readonly mediaType: string;
  readonly digest: string;
  readonly size: number;
  readonly annotations?: Readonly<Record<string, string>>;
}

/** Where the model comes from and how it is meant to be run. */
export interface Provenance {
  readonly formatVersion: 1;
  readonly numerics: Numerics;
  readonly shapes: Readonly<Record<string, readonly number[]>>;
  readonly dims: Readonly<Record<string, number>>;
  /** SHA-256 of the source model's file. */
  readonly sourceDigest?: string;
}

/**
 * Kernels of a target as they were generated, for people and tools to look at. They are never executed: what an
 * artifact means is its graph, and code from elsewhere is not run. Every machine renders its own, in milliseconds.
 */
export interface ArtifactKernels {
  /** `cpu:x86-64-v4`, `vulkan:spirv1.3` and so on. */
  readonly target: string;
  readonly kernels: readonly { readonly name: string; readonly text?: string; readonly words?: Uint32Array }[];
}

export const kernelsPath = (target: string): string => `kernels/${target.replaceAll(/[^\w.+-]+/g, '_')}.json`;
export const kernelsPrefix = 'kernels/';

/** What goes into an artifact and comes out of it. */
export interface ArtifactModel extends Omit<Provenance, 'formatVersion'> {
  readonly graph: Graph;
  readonly kernels?: readonly ArtifactKernels[];
}

export const blobPath = (digest: string): string => `blobs/sha256/${digest}`;

/** JSON with sorted keys: equal values give equal bytes. */
export const encodeJson = (value: unknown): Uint8Array =>
  new TextEncoder().encode(
    JSON.stringify(value, (_, entry: unknown) =>
      typeof entry === 'object' && entry !== null && !Array.isArray(entry)
        ? Object.fromEntries(Object.entries(entry).sort(([a], [b]) => (a < b ? -1 : 1)))
        : entry,
    ),
  );

const kernelsFormat = 1;

/** SPIR-V as base64 of its little-endian words. */
export function encodeKernels({ target, kernels }: ArtifactKernels): Uint8Array {
  const base64 = (words: Uint32Array): string => {
    let binary = '';
    for (const byte of new Uint8Array(words.buffer, words.byteOffset, words.byteLength))
      binary += String.fromCharCode(byte);
    return btoa(binary);
  };
  return encodeJson({
    format: kernelsFormat,
    target,
    kernels: kernels.map(({ name, text, words }) => ({
      name,
      ...(words ? { spirv: base64(words) } : { text: text ?? '' }),
    })),
  });
}

/** Undefined if the document is not one of ours. */
export function decodeKernels(document: unknown): ArtifactKernels | undefined {
  const { format, target, kernels } = (document ?? {}) as Record<string, unknown>;
  if (format !== kernelsFormat || typeof target !== 'string' || !Array.isArray(kernels)) return undefined;
  const decoded = kernels.flatMap((kernel: Record<string, unknown> | null): ArtifactKernels['kernels'] => {
    const { name, text, spirv } = kernel ?? {};
    if (typeof name !== 'string') return [];
    if (typeof text === 'string') return [{ name, text }];
    if (typeof spirv !== 'string' || !/^[A-Za-z0-9+/]*={0,2}$/.test(spirv) || spirv.length % 4 !== 0) return [];
    const bytes = Uint8Array.from(atob(spirv), (character) => character.charCodeAt(0));
    return bytes.length % 4 === 0 ? [{ name, words: new Uint32Array(bytes.buffer) }] : [];
  });
  return decoded.length === kernels.length ? { target, kernels: decoded } : undefined;
}
