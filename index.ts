/** Tutti: a model goes in once and runs on any hardware. */
export { TuttiError } from './compiler/error.js';
export type {
  Binding,
  BindingOptions,
  CompileOptions,
  DeviceInfo,
  DeviceList,
  DevicesOptions,
  Feeds,
  ModelInfo,
  ModelSource,
  Numerics,
  OutputPlace,
  RunOptions,
  RunProfile,
  SessionMemory,
  SessionOptions,
  SessionReport,
  TensorData,
  TensorLocation,
  TensorType,
  ValueInfo,
} from './runtime/index.js';
export { compile, devices, Model, Session, Tensor } from './runtime/index.js';
