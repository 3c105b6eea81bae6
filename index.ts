/** Tutti: a model goes in once and runs on any hardware. */
export { TuttiError } from './compiler/error.js';
export type {
  CompileOptions,
  DeviceInfo,
  DeviceList,
  DevicesOptions,
  Feeds,
  ModelInfo,
  ModelSource,
  Numerics,
  RunOptions,
  RunProfile,
  SessionMemory,
  SessionOptions,
  SessionReport,
  TensorData,
  TensorType,
  ValueInfo,
} from './runtime/index.js';
export { compile, devices, Model, Session, Tensor } from './runtime/index.js';
