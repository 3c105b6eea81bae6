/** Writes artifacts: the same model gives the same bytes. */
import { printGraph } from '../graph/print.js';
import {
  type ArtifactModel,
  blobPath,
  type Descriptor,
  encodeJson,
  encodeKernels,
  fileNames,
  kernelsPath,
  mediaTypes,
  type Provenance,
  pathAnnotation,
} from './layout.js';
import { keyOf, layoutSafetensors, type StoredTensor, storedBytes } from './safetensors.js';
import { type CreateHasher, createSha256, sha256 } from './sha256.js';
import { tarEnd, tarHeader, tarPadding } from './tar.js';

interface Blob {
  readonly digest: string;
  readonly size: number;
  chunks(): Iterable<Uint8Array>;
}

/**
 * The bytes of an artifact, in pieces. Weights are read twice, once for their digest, and never held all together.
 * @throws TuttiError E_EXTERNAL_DATA if a weight cannot be read, E_UNSUPPORTED beyond 8 GiB of weights
 */
export function* writeArtifact(model: ArtifactModel, create: CreateHasher = createSha256): Generator<Uint8Array> {
  const tensors = new Map<string, StoredTensor>();
  const graphText = printGraph(model.graph, {
    keyOf(data) {
      const bytes = storedBytes(data.load());
      const key = keyOf(data.dtype, data.shape, sha256(bytes, create));
      const { dtype, shape } = data;
      tensors.set(key, { key, dtype, shape, byteLength: bytes.byteLength, bytes: () => storedBytes(data.load()) });
      return key;
    },
  });
  const { graph, numerics, shapes, dims, sourceDigest, kernels = [] } = model;
  const provenance: Provenance = {
    formatVersion: 1,
    numerics,
    shapes,
    dims,
    ...(sourceDigest === undefined ? {} : { sourceDigest }),
  };
  const weights = weightsBlob([...tensors.values()], create);
  const text = bytesBlob(new TextEncoder().encode(graphText), create);
  const about = bytesBlob(encodeJson(provenance), create);
  const generated = kernels.map((entry) => ({
    path: kernelsPath(entry.target),
    blob: bytesBlob(encodeKernels(entry), create),
  }));
  const layers = [
    layer(mediaTypes.weights, fileNames.weights, weights),
    layer(mediaTypes.weightsConfig, fileNames.graph, text),
    layer(mediaTypes.document, fileNames.provenance, about),
    ...generated.map(({ path, blob }) => layer(mediaTypes.document, path, blob)),
  ];
  const config = bytesBlob(
    encodeJson({
      descriptor: { name: graph.name },
      config: { format: 'tutti' },
      modelfs: { type: 'layers', diffIds: layers.map(({ digest }) => digest) },
    }),
    create,
  );
  const manifest = bytesBlob(
    encodeJson({
      schemaVersion: 2,
      mediaType: mediaTypes.manifest,
      artifactType: mediaTypes.artifact,
      config: describe(mediaTypes.config, config),
      layers,
    }),
    create,
  );
  const index = encodeJson({
    schemaVersion: 2,
    mediaType: mediaTypes.index,
    manifests: [{ ...describe(mediaTypes.manifest, manifest), artifactType: mediaTypes.artifact }],
  });

  yield* entry('oci-layout', encodeJson({ imageLayoutVersion: '1.0.0' }));
  yield* entry('index.json', index);
  const blobs = new Map(
    [weights, text, about, ...generated.map(({ blob }) => blob), config, manifest].map((blob) => [blob.digest, blob]),
  );
  for (const [digest, blob] of [...blobs].sort(([a], [b]) => (a < b ? -1 : 1))) {
    yield tarHeader(blobPath(digest), blob.size);
    yield* blob.chunks();
    yield tarPadding(blob.size);
  }
  yield tarEnd();
}

function* entry(name: string, bytes: Uint8Array): Generator<Uint8Array> {
  yield tarHeader(name, bytes.byteLength);
  yield bytes;
  yield tarPadding(bytes.byteLength);
}

function weightsBlob(tensors: readonly StoredTensor[], create: CreateHasher): Blob {
  const { header, order, byteLength } = layoutSafetensors(tensors);
  function* chunks(): Generator<Uint8Array> {
    yield header;
    for (const tensor of order) yield tensor.bytes();
  }
  const hasher = create();
  for (const chunk of chunks()) hasher.update(chunk);
  return { digest: hasher.digest(), size: byteLength, chunks };
}

const bytesBlob = (bytes: Uint8Array, create: CreateHasher): Blob => ({
  digest: sha256(bytes, create),
  size: bytes.byteLength,
  chunks: () => [bytes],
});

const describe = (mediaType: string, { digest, size }: Blob): Descriptor => ({
  mediaType,
  digest: `sha256:${digest}`,
  size,
});

const layer = (mediaType: string, path: string, blob: Blob): Descriptor => ({
  ...describe(mediaType, blob),
  annotations: { [pathAnnotation]: path },
});
