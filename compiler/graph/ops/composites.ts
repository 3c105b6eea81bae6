/** Composites: kept whole because a graph reads better and may be lowered better; each has a meaning in other ops. */
import type { OpDefinition } from '../definition.js';
import type { OpKind } from '../types.js';
import { agree, checkAxes, checkDType, checkLength, checkShape, define } from './common.js';
import { decomposeNormalize, decomposeResize, decomposeSoftmax } from './decompositions.js';
import { softmaxGradient } from './gradients/composites.js';
import * as reference from './reference/composites.js';

const softmax = define<'softmax'>({
  kind: 'softmax',
  summary: 'exp(x - max) / sum over axes, or its logarithm',
  arity: 1,
  family: 'rows',
  infer(context) {
    const {
      attrs: { axes },
      inputs: [x],
    } = context;
    checkDType(context, x.dtype, 'float', 'the input of softmax');
    checkAxes(context, axes, x.shape.length);
    return [x];
  },
  evaluate: ({ attrs, inputs: [x] }) => [reference.softmax(x, attrs.axes, attrs.log)],
  decompose: decomposeSoftmax,
  gradient: softmaxGradient,
});

const normalize = define<'normalize'>({
  kind: 'normalize',
  summary:
    '(x - mean)·rsqrt(var + epsilon) over axes in f32 or wider; without `center` the mean is taken as 0 (RMS norm); ' +
    '`statistics` also gives mean and reciprocal deviation, in f32 or wider',
  arity: 1,
  family: 'rows',
  infer(context) {
    const {
      attrs: { axes, epsilon, statistics },
      inputs: [x],
    } = context;
    checkDType(context, x.dtype, 'float', 'the input of normalize');
    checkAxes(context, axes, x.shape.length);
    if (!(epsilon >= 0 && epsilon < Infinity))
      context.fail('invalid epsilon', 'a number of at least 0', String(epsilon));
    if (!statistics) return [x];
    const row = {
      dtype: x.dtype === 'f64' ? ('f64' as const) : ('f32' as const),
      shape: x.shape.map((dim, i) => (axes.includes(i) ? 1 : dim)),
    };
    return [x, row, row];
  },
  evaluate: ({ attrs, inputs: [x] }) => reference.normalize(x, attrs),
  decompose: decomposeNormalize,
});

const resize = define<'resize'>({
  kind: 'resize',
  summary: 'Interpolation to another size, as ONNX Resize does it',
  arity: 1,
  family: 'map',
  infer(context) {
    const {
      attrs,
      inputs: [x],
    } = context;
    const rank = x.shape.length;
    checkDType(context, x.dtype, attrs.mode === 'nearest' ? 'any' : 'numeric', 'the input of resize');
    checkLength(context, attrs.shape, rank, 'output dims of resize');
    checkLength(context, attrs.scales, rank, 'scales of resize');
    checkShape(context, attrs.shape);
    for (const scale of attrs.scales) {
      if (scale !== null && !(scale > 0 && scale < Infinity))
        context.fail('invalid scale', 'a number above 0', String(scale));
    }
    if (attrs.roi !== null) checkLength(context, attrs.roi, 2 * rank, 'entries of the region of interest');
    else if (attrs.coordinates === 'tf_crop_and_resize') context.fail('tf_crop_and_resize needs a region of interest');
    x.shape.forEach((dim, i) => {
      if (dim === 0) agree(context, attrs.shape[i], 0, 'output dim and empty input dim');
    });
    return [{ dtype: x.dtype, shape: attrs.shape }];
  },
  evaluate: ({ attrs, inputs: [x], outputs: [{ shape }] }) => [reference.resize(x, shape, attrs)],
  decompose: decomposeResize,
});

export const composites = { softmax, normalize, resize } satisfies {
  readonly [K in ('softmax' | 'normalize' | 'resize') & OpKind]: OpDefinition<K>;
};
