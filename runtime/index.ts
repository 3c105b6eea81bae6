/** The runtime: devices, models, sessions, tensors. */
export * from './api.js';
export type { Binding } from './binding.js';
export { type DeviceHandle, devices, openDevice } from './device.js';
export { compile, Model } from './model.js';
export { Session } from './session.js';
export type { SessionModel } from './session_model.js';
export { Tensor, type TensorLocation } from './tensor.js';
