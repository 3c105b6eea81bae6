/** Artifacts: `.tutti` files, which are OCI archives of a model's graph and weights. */
export type { ArtifactKernels, ArtifactModel, Provenance } from './layout.js';
export { isArtifact, readArtifact } from './read.js';
export { type CreateHasher, createSha256, type Hasher, sha256 } from './sha256.js';
export { writeArtifact } from './write.js';
