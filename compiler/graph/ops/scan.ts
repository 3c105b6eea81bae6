/** Loops: bodies that run a number of times. */

import type { DType } from '../../dtype.js';
import { emptyTensor, type HostTensor } from '../../tensor.js';
import type { InferContext, OpDefinition } from '../definition.js';
import { isConcrete } from '../dims.js';
import type { OpKind, TensorType } from '../types.js';
import { agree, agreeShapes, checkInteger, checkLength, define, printType } from './common.js';
import * as reference from './reference/movement.js';

const scan = define<'scan'>({
  kind: 'scan',
  summary:
    'Runs a body `trips` times over the slices of arrays, with values carried from one iteration to the next, and ' +
    'stacks what each iteration gives',
  arity: [0, Infinity],
  family: 'loop',
  infer(context) {
    const {
      attrs: { body, trips, carried, iteration, scanned, stacked },
      inputs,
    } = context;
    checkInteger(context, trips, 0, 'number of iterations');
    checkInteger(context, carried, 0, 'number of carried values');
    const least = carried + scanned.length;
    if (inputs.length < least)
      context.fail('wrong number of inputs of scan', `at least ${least}`, String(inputs.length));
    checkLength(context, body.inputs, inputs.length + (iteration ? 1 : 0), 'inputs of the body');
    checkLength(context, body.outputs, carried + stacked.length, 'outputs of the body');
    const types = body.inputs.map((input) => input.type);
    const results = body.outputs.map((output) => output.value.type);
    if (iteration) sameTypes(context, types[0], { dtype: 'i64', shape: [] }, 'the iteration number');
    const formal = iteration ? types.slice(1) : types;
    inputs.forEach((input, i) => {
      if (i < carried || i >= least) sameTypes(context, formal[i], input, `input ${i} of the body`);
      else {
        const [count, ...slice] = input.shape;
        if (count === undefined) context.fail('a scanned array needs an axis to walk along', undefined, '[]');
        agree(context, trips, count, 'number of iterations and extent of a scanned array');
        sameTypes(context, formal[i], { dtype: input.dtype, shape: slice }, `slice ${i - carried} of the body`);
      }
    });
    for (let i = 0; i < carried; i++) sameTypes(context, results[i], formal[i], `carried value ${i} of the body`);
    return results.map(({ dtype, shape }, i) => {
      if (!isConcrete(shape)) context.fail('the body has a shape that is not known');
      return { dtype, shape: i < carried ? shape : [trips, ...shape] };
    });
  },
  evaluate({ attrs, inputs, outputs, run }) {
    const { body, trips, carried, iteration, scanned, stacked } = attrs;
    let values = inputs.slice(0, carried);
    const arrays = inputs.slice(carried, carried + scanned.length);
    const captured = inputs.slice(carried + scanned.length);
    const stacks = stacked.map((_, i) => ({ ...outputs[carried + i], slices: new Array<HostTensor>(trips) }));
    for (let t = 0; t < trips; t++) {
      const at = (reverse: boolean) => (reverse ? trips - 1 - t : t);
      const number = { dtype: 'i64', shape: [], data: BigInt64Array.of(BigInt(t)) } as const;
      const slices = arrays.map((array, i) => sliceAt(array, at(scanned[i])));
      const results = run(body, [...(iteration ? [number] : []), ...values, ...slices, ...captured]);
      values = results.slice(0, carried);
      stacks.forEach(({ slices: into }, i) => {
        into[at(stacked[i])] = results[carried + i];
      });
    }
    return [...values, ...stacks.map(({ dtype, shape, slices }) => stack(dtype, shape, slices))];
  },
});

function sliceAt(array: HostTensor, at: number): HostTensor {
  const [, ...shape] = array.shape;
  const starts = [at, ...shape.map(() => 0)];
  const steps = array.shape.map(() => 1);
  return { ...reference.slice(array, starts, [1, ...shape], steps), shape };
}

function stack(dtype: DType, shape: readonly number[], slices: readonly HostTensor[]): HostTensor {
  if (slices.length === 0) return emptyTensor(dtype, shape);
  const rows = slices.map((slice) => ({ ...slice, shape: [1, ...slice.shape] }));
  return reference.concat(rows, shape, 0);
}

function sameTypes(context: InferContext<'scan'>, actual: TensorType, expected: TensorType, what: string): void {
  if (actual.dtype !== expected.dtype)
    context.fail(`wrong element type of ${what}`, printType(expected), printType(actual));
  agreeShapes(context, expected.shape, actual.shape, `shapes of ${what}`);
}

export const loops = { scan } satisfies { readonly [K in 'scan' & OpKind]: OpDefinition<K> };
