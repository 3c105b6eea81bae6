/** How schedules speak of tensors: indices, concrete shapes, scalar types of elements. */
import { TuttiError } from '../error.js';
import { describe } from '../graph/builder.js';
import type { Node, Value } from '../graph/types.js';
import { type ScalarType, scalarTypes } from '../kernel/types.js';
import type { Affine } from './affine.js';

export type Index = readonly Affine[];

/** Concrete shape of a value; lowering happens after specialisation. */
export const shapeOf = (value: Value): readonly number[] => value.type.shape as readonly number[];

/** Kernel IR scalar of a tensor's elements. @throws TuttiError E_UNSUPPORTED for types kernels do not know. */
export function scalarOf(value: Value, node?: Node): ScalarType {
  const { dtype } = value.type;
  if ((scalarTypes as readonly string[]).includes(dtype)) return dtype as ScalarType;
  throw new TuttiError('E_UNSUPPORTED', `tensors of ${dtype} cannot be computed on a device yet`, {
    subject: node ? describe(node.source) : value.name,
    remedy: 'Cast the tensor to a wider type in the model',
  });
}

export const range = (count: number): number[] => Array.from({ length: count }, (_, i) => i);
