/** Movement ops: elements change places, never values. */
import type { OpDefinition } from '../definition.js';
import { addDims, type Dim, printShape, productOf } from '../dims.js';
import type { OpAttrs } from '../types.js';
import { agree, checkAxes, checkAxis, checkLength, checkShape, define, printType, sameDType } from './common.js';
import {
  broadcastGradient,
  concatGradient,
  padGradient,
  reshapeGradient,
  sliceGradient,
  transposeGradient,
} from './gradients/structure.js';
import * as reference from './reference/movement.js';

const reshape = define<'reshape'>({
  kind: 'reshape',
  summary: 'The same elements in row-major order under another shape',
  arity: 1,
  family: 'map',
  infer(context) {
    const {
      attrs: { shape },
      inputs: [x],
    } = context;
    checkShape(context, shape);
    const [before, after] = [productOf(x.shape), productOf(shape)];
    if (typeof before === 'number' && typeof after === 'number' && before !== after) {
      context.fail(
        `cannot reshape ${printShape(x.shape)} to ${printShape(shape)}`,
        `${before} elements`,
        `${after} elements`,
      );
    }
    return [{ dtype: x.dtype, shape }];
  },
  evaluate: ({ inputs: [x], outputs: [{ shape }] }) => [{ ...x, shape }],
  gradient: reshapeGradient,
});

const transpose = define<'transpose'>({
  kind: 'transpose',
  summary: 'Output axis i is input axis permutation[i]',
  arity: 1,
  family: 'map',
  infer(context) {
    const {
      attrs: { permutation },
      inputs: [x],
    } = context;
    checkLength(context, permutation, x.shape.length, 'axes in the permutation');
    checkAxes(context, permutation, x.shape.length, 'axes of the permutation');
    return [{ dtype: x.dtype, shape: permutation.map((axis) => x.shape[axis]) }];
  },
  evaluate: ({ attrs, inputs: [x] }) => [reference.transpose(x, attrs.permutation)],
  gradient: transposeGradient,
});

const broadcast = define<'broadcast'>({
  kind: 'broadcast',
  summary: 'Repeats axes of size 1; shapes are aligned at the right',
  arity: 1,
  family: 'map',
  infer(context) {
    const {
      attrs: { shape },
      inputs: [x],
    } = context;
    checkShape(context, shape);
    const offset = shape.length - x.shape.length;
    if (offset < 0)
      context.fail(`cannot broadcast ${printShape(x.shape)} to a lower rank`, undefined, printShape(shape));
    const result = shape.map((dim, i) => {
      const from = i < offset ? 1 : x.shape[i - offset];
      if (from === 1) return dim;
      if (typeof from === 'number' && typeof dim === 'number' && from !== dim) {
        context.fail(`cannot broadcast ${printShape(x.shape)} to ${printShape(shape)}`, `1 or ${dim}`, `${from}`);
      }
      return typeof from === 'number' ? from : dim;
    });
    return [{ dtype: x.dtype, shape: result }];
  },
  evaluate: ({ inputs: [x], outputs: [{ shape }] }) => [reference.broadcast(x, shape)],
  gradient: broadcastGradient,
});

const slice = define<'slice'>({
  kind: 'slice',
  summary: 'out[i] = x[start + i·step] along every axis; steps may be negative',
  arity: 1,
  family: 'map',
  infer(context) {
    const {
      attrs: { starts, sizes, steps },
      inputs: [x],
    } = context;
    for (const [name, list] of Object.entries({ starts, sizes, steps }))
      checkLength(context, list, x.shape.length, name);
    checkShape(context, sizes, 'sizes of slice');
    x.shape.forEach((dim, axis) => {
      const [start, size, step] = [starts[axis], sizes[axis], steps[axis]];
      if (!Number.isSafeInteger(step) || step === 0)
        context.fail('invalid step of slice', 'an integer but 0', String(step));
      if (typeof start !== 'number' || size === 0) return;
      const inside = (at: Dim) => typeof at !== 'number' || (at >= 0 && (typeof dim !== 'number' || at < dim));
      if (!Number.isSafeInteger(start)) context.fail('invalid start of slice', 'an integer', String(start));
      const last = typeof size === 'number' ? start + (size - 1) * step : start;
      if (!inside(start) || !inside(last)) {
        context.fail(`slice leaves axis ${axis}`, `indices in [0, ${String(dim)})`, `${start} to ${last}`);
      }
    });
    return [{ dtype: x.dtype, shape: sizes }];
  },
  evaluate: ({ attrs, inputs: [x], outputs: [{ shape }] }) => [
    reference.slice(x, concrete(attrs.starts), shape, attrs.steps),
  ],
  gradient: sliceGradient,
});

const pad = define<'pad'>({
  kind: 'pad',
  summary: 'Adds elements before and after each axis: a value, the edge, a reflection or the other end',
  arity: [1, 2],
  family: 'map',
  infer(context) {
    const {
      attrs: { low, high, mode },
      inputs: [x, value],
    } = context;
    checkLength(context, low, x.shape.length, 'low pads');
    checkLength(context, high, x.shape.length, 'high pads');
    checkShape(context, low, 'pads');
    checkShape(context, high, 'pads');
    if (mode === 'constant') {
      if (value === undefined) context.fail('pad of mode constant needs a value as its second input');
      if (value.dtype !== x.dtype || value.shape.length > 0) {
        context.fail('wrong type of the pad value', `${x.dtype}[]`, printType(value));
      }
    } else {
      if (value !== undefined) context.fail(`pad of mode ${mode} takes no value`, '1 input', '2');
      x.shape.forEach((dim, axis) => {
        const padded = (p: Dim) => typeof p === 'number' && p > 0;
        if (dim === 0 && (padded(low[axis]) || padded(high[axis]))) {
          context.fail(`pad of mode ${mode} of axis ${axis}, which is empty`);
        }
      });
    }
    return [{ dtype: x.dtype, shape: x.shape.map((dim, i) => addDims(addDims(dim, low[i]), high[i])) }];
  },
  evaluate: ({ attrs, inputs: [x, value], outputs: [{ shape }] }) => [
    reference.pad(x, value, concrete(attrs.low), shape, attrs.mode),
  ],
  gradient: padGradient,
});

const concat = define<'concat'>({
  kind: 'concat',
  summary: 'Inputs one after the other along an axis',
  arity: [1, Infinity],
  family: 'map',
  infer(context) {
    const {
      attrs: { axis },
      inputs,
    } = context;
    const dtype = sameDType(context);
    const [first, ...rest] = inputs;
    checkAxis(context, axis, first.shape.length);
    let shape = first.shape;
    for (const { shape: other } of rest) {
      checkLength(context, other, shape.length, 'dims of an input of concat');
      shape = shape.map((dim, i) => (i === axis ? addDims(dim, other[i]) : agree(context, dim, other[i], `dims ${i}`)));
    }
    return [{ dtype, shape }];
  },
  evaluate: ({ attrs, inputs, outputs: [{ shape }] }) => [reference.concat(inputs, shape, attrs.axis)],
  gradient: concatGradient,
});

/** Shapes are concrete when a node is evaluated. */
const concrete = (dims: readonly Dim[]): readonly number[] => dims.map(Number);

type Movement = 'reshape' | 'transpose' | 'broadcast' | 'slice' | 'pad' | 'concat';
export const movement = { reshape, transpose, broadcast, slice, pad, concat } satisfies {
  readonly [K in Movement & keyof OpAttrs]: OpDefinition<K>;
};
