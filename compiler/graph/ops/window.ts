/** Windows sliding over a tensor: their geometry, and pooling. */
import type { InferContext, OpDefinition } from '../definition.js';
import { addDims, type Dim, floorDivDims, mulDims, subDims } from '../dims.js';
import type { OpKind, Window } from '../types.js';
import { checkDType, checkInteger, checkLength, define, type Fail } from './common.js';
import * as reference from './reference/window.js';

export function checkWindow(context: Fail, window: Window, rank: number): void {
  checkLength(context, window.strides, rank, 'strides');
  checkLength(context, window.padLow, rank, 'low pads');
  checkLength(context, window.padHigh, rank, 'high pads');
  checkLength(context, window.dilations, rank, 'dilations');
  for (const stride of window.strides) checkInteger(context, stride, 1, 'stride');
  for (const dilation of window.dilations) checkInteger(context, dilation, 1, 'dilation');
  for (const pad of [...window.padLow, ...window.padHigh]) {
    if (typeof pad === 'number' && !Number.isSafeInteger(pad)) context.fail('invalid pad', 'an integer', String(pad));
  }
}

/** Number of places of a window: floor((in + pads - extent) / stride) + 1, 0 if it does not fit. */
function places(size: Dim, low: Dim, high: Dim, kernel: Dim, dilation: number, stride: number): Dim {
  const extent = addDims(mulDims(subDims(kernel, 1), dilation), 1);
  const count = addDims(floorDivDims(subDims(addDims(addDims(size, low), high), extent), stride), 1);
  return typeof count === 'number' ? Math.max(0, count) : count;
}

/** Spatial dims of a convolution's result. */
export const convolvedDims = (
  attrs: Window & { readonly inputDilation: readonly number[] },
  spatial: readonly Dim[],
  kernel: readonly Dim[],
): Dim[] =>
  spatial.map((dim, i) => {
    const dilated = dim === 0 ? 0 : addDims(mulDims(subDims(dim, 1), attrs.inputDilation[i]), 1);
    return places(dilated, attrs.padLow[i], attrs.padHigh[i], kernel[i], attrs.dilations[i], attrs.strides[i]);
  });

function pooledDims(context: InferContext<'reduce_window' | 'window_argmax'>): Dim[] {
  const {
    attrs,
    inputs: [x],
  } = context;
  checkWindow(context, attrs, x.shape.length);
  checkLength(context, attrs.window, x.shape.length, 'window dims');
  for (const size of attrs.window) checkInteger(context, size, 1, 'window dim');
  return x.shape.map((dim, i) =>
    places(dim, attrs.padLow[i], attrs.padHigh[i], attrs.window[i], attrs.dilations[i], attrs.strides[i]),
  );
}

const reduceWindow = define<'reduce_window'>({
  kind: 'reduce_window',
  summary: 'Sum, product or extreme of each window; padding does not take part',
  arity: 1,
  family: 'window',
  infer(context) {
    const [x] = context.inputs;
    checkDType(context, x.dtype, 'numeric', 'the input of reduce_window');
    return [{ dtype: x.dtype, shape: pooledDims(context) }];
  },
  evaluate: ({ attrs, inputs: [x], outputs: [{ shape }] }) => [reference.reduceWindow(x, shape, attrs)],
});

const windowArgmax = define<'window_argmax'>({
  kind: 'window_argmax',
  summary: "i64 row-major index into x of each window's first maximum; NaN is the maximum, -1 if all is padding",
  arity: 1,
  family: 'window',
  infer(context) {
    checkDType(context, context.inputs[0].dtype, 'numeric', 'the input of window_argmax');
    return [{ dtype: 'i64', shape: pooledDims(context) }];
  },
  evaluate: ({ attrs, inputs: [x], outputs: [{ shape }] }) => [reference.windowArgmax(x, shape, attrs)],
});

export const window = { reduce_window: reduceWindow, window_argmax: windowArgmax } satisfies {
  readonly [K in ('reduce_window' | 'window_argmax') & OpKind]: OpDefinition<K>;
};
