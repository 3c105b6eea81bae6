/** What the shape rules of all ops share: arity, agreement of dims, checks of axes, shapes and element types. */
import { type DType, isFloat, isInt } from '../../dtype.js';
import { TuttiError } from '../../error.js';
import { describe } from '../builder.js';
import type { InferContext, OpDefinition } from '../definition.js';
import { type Dim, isConcrete, printShape } from '../dims.js';
import type { OpKind, SourceRef, TensorType } from '../types.js';

/** The part of a context that checks need. */
export type Fail = Pick<InferContext<OpKind>, 'fail'>;

/** Completes a definition: its `infer` first checks the number of inputs and that their types are known. */
export function define<K extends OpKind>(definition: OpDefinition<K>): OpDefinition<K> {
  const { kind, arity, infer } = definition;
  const [least, most] = typeof arity === 'number' ? [arity, arity] : arity;
  const expected =
    least === most ? `${least} input(s)` : most === Infinity ? `${least} or more inputs` : `${least} to ${most} inputs`;
  return {
    ...definition,
    infer(context) {
      const { inputs } = context;
      if (inputs.length < least || inputs.length > most) {
        context.fail(`wrong number of inputs of ${kind}`, expected, `${inputs.length}`);
      }
      if (kind !== 'source_op' && inputs.some((type) => type.unknown)) {
        context.fail(
          `an input of ${kind} has a shape that is not known yet`,
          undefined,
          undefined,
          'Give the shapes of the model inputs so that the graph can be specialised.',
        );
      }
      return infer(context);
    },
  };
}

export const printType = (type: TensorType): string => `${type.dtype}${printShape(type.shape)}`;

/**
 * The dim that two dims must both be. Two different numbers are an error; a number wins over an expression, and of two
 * different expressions the first is taken: they may turn out equal.
 */
export function agree(context: Fail, a: Dim, b: Dim, what: string): Dim {
  if (typeof a === 'number' && typeof b === 'number') {
    if (a !== b) context.fail(`${what} differ`, String(a), String(b));
    return a;
  }
  return typeof b === 'number' ? b : a;
}

/** `agree` over whole shapes. */
export function agreeShapes(context: Fail, a: readonly Dim[], b: readonly Dim[], what: string): Dim[] {
  if (a.length !== b.length) context.fail(`${what} differ in rank`, printShape(a), printShape(b));
  return a.map((dim, i) => {
    const other = b[i];
    if (typeof dim === 'number' && typeof other === 'number' && dim !== other) {
      context.fail(`${what} differ`, printShape(a), printShape(b));
    }
    return typeof other === 'number' ? other : dim;
  });
}

/** Checks that dims are non-negative integers where they are numbers. */
export function checkShape(context: Fail, shape: readonly Dim[], what = 'shape'): void {
  for (const dim of shape) {
    if (typeof dim === 'number' && (!Number.isSafeInteger(dim) || dim < 0)) {
      context.fail(`invalid ${what}`, 'dims that are integers of at least 0', printShape(shape));
    }
  }
  if (isConcrete(shape) && !Number.isSafeInteger(shape.reduce((product, dim) => product * dim, 1))) {
    context.fail(`${what} ${printShape(shape)} has too many elements`);
  }
}

export function checkAxis(context: Fail, axis: number, rank: number, what = 'axis'): void {
  if (!Number.isInteger(axis) || axis < 0 || axis >= rank) {
    context.fail(`${what} out of range`, rank === 0 ? 'no axis of a scalar' : `0 to ${rank - 1}`, String(axis));
  }
}

/** An op, or a form of one, that cannot be differentiated. @throws TuttiError E_UNSUPPORTED naming the source node */
export function noDerivative(node: { readonly op: string; readonly source: SourceRef }, form = node.op): never {
  throw new TuttiError('E_UNSUPPORTED', `${form} has no derivative yet`, { subject: describe(node.source) });
}

/** Distinct and in range. */
export function checkAxes(context: Fail, axes: readonly number[], rank: number, what = 'axes'): void {
  for (const axis of axes) checkAxis(context, axis, rank, what);
  if (new Set(axes).size !== axes.length) context.fail(`${what} repeat`, 'distinct axes', `[${axes.join(', ')}]`);
}

/** One entry a dim. */
export function checkLength(context: Fail, list: readonly unknown[], length: number, what: string): void {
  if (list.length !== length) context.fail(`wrong number of ${what}`, String(length), String(list.length));
}

export function checkInteger(context: Fail, value: number, least: number, what: string): void {
  if (!Number.isSafeInteger(value) || value < least) {
    context.fail(`invalid ${what}`, `an integer of at least ${least}`, String(value));
  }
}

export type DTypeClass = 'float' | 'int' | 'numeric' | 'integral' | 'ordered' | 'index' | 'bool' | 'any';
const classes: Readonly<Record<DTypeClass, { readonly text: string; has(dtype: DType): boolean }>> = {
  float: { text: 'a float type', has: isFloat },
  int: { text: 'an integer type', has: isInt },
  numeric: { text: 'a float or integer type', has: (d) => isFloat(d) || isInt(d) },
  integral: { text: 'bool or an integer type', has: (d) => d === 'bool' || isInt(d) },
  ordered: { text: 'bool, a float or an integer type', has: (d) => d !== 'string' },
  index: { text: 'i32 or i64', has: (d) => d === 'i32' || d === 'i64' },
  bool: { text: 'bool', has: (d) => d === 'bool' },
  any: { text: 'any type', has: () => true },
};
export const inClass = (dtype: DType, name: DTypeClass): boolean => classes[name].has(dtype);

export function checkDType(context: Fail, dtype: DType, name: DTypeClass, what: string): void {
  if (!classes[name].has(dtype)) context.fail(`wrong element type of ${what}`, classes[name].text, dtype);
}

/** All inputs from `from` on are of one element type. */
export function sameDType(context: Fail & { readonly inputs: readonly TensorType[] }, from = 0): DType {
  const [first, ...rest] = context.inputs.slice(from);
  for (const other of rest) {
    if (other.dtype !== first.dtype) context.fail('inputs differ in element type', first.dtype, other.dtype);
  }
  return first.dtype;
}
