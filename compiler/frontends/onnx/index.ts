/** The ONNX frontend: models in, models out, tensors of the ONNX test format. */
export { resolveOnnx, supportedOperators, supportedOpsets } from './convert.js';
export { exportOnnx } from './export/index.js';
export { type ImportOptions, importOnnx } from './import.js';
export { type ModelFile, readOutline } from './outline.js';
export { decode, encode, type ModelProto, type TensorProto } from './proto.js';
export { checkLocation, type ExternalFile, type ExternalReader, protoOf, tensorOf } from './tensors.js';
