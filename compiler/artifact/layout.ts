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

/** What goes into an artifact and comes out of it. */
export interface ArtifactModel extends Omit<Provenance, 'formatVersion'> {
  readonly graph: Graph;
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
