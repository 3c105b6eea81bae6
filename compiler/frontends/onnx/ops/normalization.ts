/** Normalisations: batch, instance, layer, group, RMS, Lp, local response, mean and variance. */
import {
  add,
  binary,
  binaryC,
  cast,
  div,
  mean,
  mul,
  reduce,
  reshape,
  scalar,
  select3,
  square,
  sub,
  unary,
  wide,
} from '../../../graph/compose/index.js';
import { type Dim, floorDivDims } from '../../../graph/dims.js';
import type { Value } from '../../../graph/types.js';
import type { Conversion, ConvertContext } from '../context.js';
import { dtypeOf } from '../tensors.js';
import { channelwise } from './contraction.js';

const from = (start: number, rank: number): number[] => Array.from({ length: rank - start }, (_, i) => start + i);

/** y = (x - mean) / sqrt(var + epsilon) · scale + bias, as x · a + b with a and b per channel. */
function batchNorm(c: ConvertContext): readonly (Value | undefined)[] {
  const x = c.input(0);
  c.ranked(0, 2, Infinity);
  const { dtype } = x.type;
  if (c.opset < 9 && !c.flag('spatial', true)) c.unsupported('batch normalisation per place (spatial = 0)');
  const training = c.opset >= 14 ? c.flag('training_mode') : c.opset < 7 && !c.flag('is_test', true) && c.wants(1);
  if (c.opset < 14 && (training || c.wants(1))) c.unsupported('batch normalisation in training mode before opset 14');
  const epsilon = c.float('epsilon', 1e-5);
  if (!training) return [affineNorm(c, x, c.input(3), c.input(4), epsilon)];
  const axes = x.type.shape.flatMap((_, i) => (i === 1 ? [] : [i]));
  const inner = cast(c.b, x, c.dtype(3));
  const average = mean(c.b, inner, axes);
  const centred = sub(c.b, inner, channelwise(c, average, c.rank(0)));
  const variance = mean(c.b, square(c.b, centred), axes);
  const momentum = c.float('momentum', 0.9);
  const running = (old: Value, now: Value): Value =>
    add(c.b, binaryC(c.b, 'mul', old, momentum), binaryC(c.b, 'mul', now, 1 - momentum));
  const y = cast(c.b, affineNorm(c, inner, average, variance, epsilon), dtype);
  return [y, running(c.input(3), average), running(c.input(4), variance)];
}

function affineNorm(c: ConvertContext, x: Value, average: Value, variance: Value, epsilon: number): Value {
  const inner = average.type.dtype;
  const factor = mul(c.b, cast(c.b, c.input(1), inner), unary(c.b, 'rsqrt', binaryC(c.b, 'add', variance, epsilon)));
  const offset = sub(c.b, cast(c.b, c.input(2), inner), mul(c.b, average, factor));
  const rank = x.type.shape.length;
  const result = add(c.b, mul(c.b, cast(c.b, x, inner), channelwise(c, factor, rank)), channelwise(c, offset, rank));
  return cast(c.b, result, x.type.dtype);
}

function instanceNorm(c: ConvertContext): Value {
  const rank = c.ranked(0, 2, Infinity).length;
  const normal = normalized(c, c.input(0), from(2, rank), c.float('epsilon', 1e-5));
  const scaled = mul(c.b, normal, channelwise(c, c.input(1), rank));
  return add(c.b, scaled, channelwise(c, c.input(2), rank));
}

const normalized = (c: ConvertContext, x: Value, axes: readonly number[], epsilon: number, center = true): Value =>
  c.op('normalize', [x], { axes, epsilon, center, statistics: false });

function layerNorm(c: ConvertContext): readonly (Value | undefined)[] {
  const rank = c.rank(0);
  const axes = from(c.axis(c.int('axis', -1), rank), rank);
  const statistics = c.wants(1) || c.wants(2);
  const stash = dtypeOf(c.int('stash_type', 1), c.operator.source.node);
  // Scale and bias have the type of x; some exporters give wider ones, which is then the result's.
  const dtype = c.dtype(1);
  const attrs = { axes, epsilon: c.float('epsilon', 1e-5), center: true, statistics };
  const [normal, average, deviation] = c.b.op('normalize', [cast(c.b, c.input(0), dtype)], attrs);
  const scaled = mul(c.b, normal, c.input(1));
  const y = c.has(2) ? add(c.b, scaled, cast(c.b, c.input(2), dtype)) : scaled;
  return statistics ? [y, cast(c.b, average, stash), cast(c.b, deviation, stash)] : [y];
}

function rmsNorm(c: ConvertContext): Value {
  const rank = c.rank(0);
  const axes = from(c.axis(c.int('axis', -1), rank), rank);
  const normal = normalized(c, c.input(0), axes, c.float('epsilon', 1e-5), false);
  // Scale may be of another type, which is then the result's.
  return mul(c.b, cast(c.b, normal, c.dtype(1)), c.input(1));
}

/** Before opset 21 scale and bias are per group, since then per channel. */
function groupNorm(c: ConvertContext): Value {
  const [n, channels, ...rest] = c.ranked(0, 2, Infinity);
  const groups = c.int('num_groups');
  const each = floorDivDims(channels, groups);
  const grouped = reshape(c.b, c.input(0), [n, groups, each, ...rest]);
  const normal = normalized(c, grouped, from(2, c.rank(0) + 1), c.float('epsilon', 1e-5));
  const ones = rest.map(() => 1);
  const perGroup = c.opset < 21;
  const places: readonly Dim[] = [1, groups, perGroup ? 1 : each, ...ones];
  const factor = (i: number): Value => cast(c.b, reshape(c.b, c.input(i), places), c.dtype(0));
  return reshape(c.b, add(c.b, mul(c.b, normal, factor(1)), factor(2)), c.shape(0));
}

/** x / ‖x‖ along an axis; 0 where the norm is 0. */
function lpNorm(c: ConvertContext): Value {
  const axes = [c.axis(c.int('axis', -1), c.rank(0))];
  const p = c.int('p', 2);
  if (p !== 1 && p !== 2) c.fail('invalid p', '1 or 2', String(p));
  return wide(c.b, c.input(0), (x) => {
    const size =
      p === 1
        ? reduce(c.b, 'sum', unary(c.b, 'abs', x), axes, true)
        : unary(c.b, 'sqrt', reduce(c.b, 'sum', square(c.b, x), axes, true));
    const zero = scalar(c.b, 0, x.type.dtype);
    return select3(c.b, binary(c.b, 'eq', size, zero), zero, div(c.b, x, size));
  });
}

/** x / (bias + alpha/size · Σ x²)^beta over `size` neighbouring channels. */
function localResponse(c: ConvertContext): Value {
  const size = c.int('size');
  const rank = c.rank(0);
  const along = (value: number, other: number): number[] =>
    Array.from({ length: rank }, (_, i) => (i === 1 ? value : other));
  return wide(c.b, c.input(0), (x) => {
    const sum = c.op('reduce_window', [square(c.b, x)], {
      fn: 'sum',
      window: along(size, 1),
      strides: along(1, 1),
      dilations: along(1, 1),
      padLow: along(Math.floor((size - 1) / 2), 0),
      padHigh: along(Math.ceil((size - 1) / 2), 0),
    });
    const scaled = binaryC(c.b, 'mul', sum, c.float('alpha', 1e-4) / size);
    const base = binaryC(c.b, 'add', scaled, c.float('bias', 1));
    return div(c.b, x, binaryC(c.b, 'pow', base, c.float('beta', 0.75)));
  });
}

export const normalizations: readonly Conversion[] = [
  { op: 'BatchNormalization', since: 1, convert: batchNorm },
  { op: 'InstanceNormalization', since: 1, convert: instanceNorm },
  { op: 'LayerNormalization', since: 1, convert: layerNorm },
  { op: 'RMSNormalization', since: 23, convert: rmsNorm },
  { op: 'GroupNormalization', since: 18, convert: groupNorm },
  { op: 'LpNormalization', since: 1, convert: lpNorm },
  { op: 'LRN', since: 1, convert: localResponse },
  {
    op: 'MeanVarianceNormalization',
    since: 9,
    // ONNX divides by deviation + 1e-9, which differs only where the deviation is 0, and so is x - mean.
    convert: (c) => normalized(c, c.input(0), c.axes(c.ints('axes') ?? [0, 2, 3], c.rank(0)), 1e-18),
  },
];
