/** Serialised values of any ONNX type: a tensor, a sequence of tensors, or an optional that holds one of these or nothing. */
import { TuttiError } from '../../error.js';
import type { Tree } from '../../passes/mapped.js';
import type { HostTensor } from '../../tensor.js';
import { decode, type OptionalProto, type SequenceProto, type TypeProto } from './proto.js';
import { tensorOf } from './tensors.js';

/**
 * Reads a TensorProto, SequenceProto or OptionalProto, as the type says which.
 * @throws TuttiError E_MODEL_FORMAT, E_MODEL_INVALID, E_UNSUPPORTED for sequences of sequences, maps and sparse tensors
 */
export function readValue(type: TypeProto | undefined, bytes: Uint8Array, subject: string): Tree<HostTensor> {
  if (type?.sequenceType) return sequence(decode('SequenceProto', bytes), subject);
  if (type?.optionalType) return optional(decode('OptionalProto', bytes), subject);
  if (type?.mapType || type?.sparseTensorType) return refuse(subject);
  return tensorOf(decode('TensorProto', bytes), subject);
}

function sequence(proto: SequenceProto, subject: string): readonly HostTensor[] {
  const { sparseTensorValues, sequenceValues, mapValues, optionalValues } = proto;
  if ([sparseTensorValues, sequenceValues, mapValues, optionalValues].some(({ length }) => length > 0)) refuse(subject);
  return proto.tensorValues.map((tensor, i) => tensorOf(tensor, `${subject}.${i}`));
}

function optional(proto: OptionalProto, subject: string): Tree<HostTensor> {
  if (proto.tensorValue) return tensorOf(proto.tensorValue, subject);
  if (proto.sequenceValue) return sequence(proto.sequenceValue, subject);
  return proto.sparseTensorValue || proto.mapValue || proto.optionalValue ? refuse(subject) : null;
}

function refuse(subject: string): never {
  throw new TuttiError('E_UNSUPPORTED', 'a value of this type cannot be read', {
    subject,
    expected: 'tensors, sequences of tensors, optionals of these',
  });
}
