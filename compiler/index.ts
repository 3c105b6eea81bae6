/** The compiler: pure functions from a model's graph to a plan for a target. Runs anywhere, needs no device. */
export { type ArtifactModel, isArtifact, readArtifact, writeArtifact } from './artifact/index.js';
export { type Numerics, type PlanOptions, plan } from './compile.js';
export { type DType, dtypes } from './dtype.js';
export { type ErrorCode, type ErrorDetails, TuttiError } from './error.js';
export { type ImportOptions, importOnnx } from './frontends/onnx/index.js';
export { parseGraph } from './graph/parse.js';
export { printGraph } from './graph/print.js';
export type { ConstantData, Graph, Value } from './graph/types.js';
export { verifyGraph } from './graph/verify.js';
export type { BackendName, Target } from './kernel/target.js';
export type { KernelFunction } from './kernel/types.js';
export type { Plan, PlanReport } from './plan.js';
export type { HostTensor } from './tensor.js';
