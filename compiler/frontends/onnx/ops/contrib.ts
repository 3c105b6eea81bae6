/** com.microsoft's fused operators of floats: activations, normalisations, products and convolutions. */
import {
  add,
  binaryC,
  cast,
  clamp,
  gather,
  gelu,
  hardSigmoid,
  leakyRelu,
  matmul,
  mul,
  reduce,
  reshape,
  sigmoid,
  slice1,
  sub,
  transpose,
  unary,
  wide,
} from '../../../graph/compose/index.js';
import { floorDivDims } from '../../../graph/dims.js';
import type { Value } from '../../../graph/types.js';
import type { Conversion, ConvertContext } from '../context.js';
import { channelsLast, channelwise, convolve, gemm } from './contraction.js';
import { contribAttentions } from './contrib_attention.js';
import { contribQuantization } from './contrib_quantization.js';

const domain = 'com.microsoft';

/** x · sigmoid(alpha · x). */
const quickGelu = (c: ConvertContext): Value => {
  const alpha = c.float('alpha', 1.702);
  return wide(c.b, c.input(0), (x) => mul(c.b, x, sigmoid(c.b, binaryC(c.b, 'mul', x, alpha))));
};

const biasedBy = (c: ConvertContext, i: number): Value => (c.has(i) ? add(c.b, c.input(0), c.input(i)) : c.input(0));

/** (x, skip, gamma, beta?, bias?): the sum is normalised over the last axis, and is a result of its own. */
function skipLayerNorm(c: ConvertContext, simplified: boolean): readonly (Value | undefined)[] {
  const [beta, bias] = simplified ? [undefined, c.inputs[3]] : [c.inputs[3], c.inputs[4]];
  const plain = add(c.b, c.input(0), c.input(1));
  const total = bias === undefined ? plain : add(c.b, plain, bias);
  const [y, average, deviation] = normalised(c, total, c.input(2), beta, { center: !simplified, epsilon: 1e-12 });
  return simplified ? [y, undefined, deviation, total] : [y, average, deviation, total];
}

function normalised(
  c: ConvertContext,
  x: Value,
  gamma: Value,
  beta: Value | undefined,
  { center, epsilon }: { readonly center: boolean; readonly epsilon: number },
): readonly (Value | undefined)[] {
  const statistics = c.wants(1) || c.wants(2);
  const attrs = { axes: [x.type.shape.length - 1], epsilon: c.float('epsilon', epsilon), center, statistics };
  const [normal, average, deviation] = c.b.op('normalize', [x], attrs);
  const scaled = mul(c.b, normal, gamma);
  return [beta === undefined ? scaled : add(c.b, scaled, beta), average, deviation];
}

/** RMS normalisation as ONNX Runtime's exporters wrote it before opset 23: in the domain of ai.onnx. */
function simplifiedLayerNorm(c: ConvertContext): readonly (Value | undefined)[] {
  const rank = c.rank(0);
  const first = c.axis(c.int('axis', -1), rank);
  const axes = Array.from({ length: rank - first }, (_, i) => first + i);
  const attrs = { axes, epsilon: c.float('epsilon', 1e-5), center: false, statistics: c.wants(1) };
  const [normal, , deviation] = c.b.op('normalize', [c.input(0)], attrs);
  return [mul(c.b, normal, c.input(1)), deviation];
}

/** The sum of word, position and segment embeddings, normalised; also how many places the mask keeps. */
function embedLayerNorm(c: ConvertContext): readonly (Value | undefined)[] {
  const [batch, length] = c.ranked(0, 2);
  const words = gather(c.b, c.input(2), c.input(0), 0);
  const positions = c.has(8)
    ? gather(c.b, c.input(3), c.input(8), 0)
    : reshape(c.b, slice1(c.b, c.input(3), 0, 0, length), [1, length, c.shape(3)[1]]);
  let total = add(c.b, words, positions);
  if (c.has(1) && c.has(4)) total = add(c.b, total, gather(c.b, c.input(4), c.input(1), 0));
  const attrs = { axes: [2], epsilon: c.float('epsilon', 1e-12), center: true, statistics: false };
  const normal = add(c.b, mul(c.b, c.op('normalize', [total], attrs), c.input(5)), c.input(6));
  const kept = c.has(7)
    ? reduce(c.b, 'sum', c.input(7), [1])
    : c.op('broadcast', [c.b.constant({ dtype: 'i32', shape: [], data: Int32Array.of(0) })], { shape: [batch] });
  return [normal, kept, total];
}

/** Groups of the channels of [N, …, C] (or [N, C, …]) with a scale and an offset per channel, then SiLU if asked. */
function groupNorm(c: ConvertContext, x = c.input(0)): Value {
  const y = channelsLast(c, x, c.flag('channels_last', true), (nchw) => {
    const [n, channels, ...rest] = nchw.type.shape;
    const rank = nchw.type.shape.length;
    const groups = c.int('groups');
    const grouped = reshape(c.b, nchw, [n, groups, floorDivDims(channels, groups), ...rest]);
    const axes = Array.from({ length: rank - 1 }, (_, i) => i + 2);
    const attrs = { axes, epsilon: c.float('epsilon', 1e-5), center: true, statistics: false };
    const normal = reshape(c.b, c.op('normalize', [grouped], attrs), nchw.type.shape);
    const factor = (i: number): Value => cast(c.b, channelwise(c, c.input(i), rank), x.type.dtype);
    return add(c.b, mul(c.b, normal, factor(1)), factor(2));
  });
  return c.int('activation', 0) === 1 ? wide(c.b, y, (v) => mul(c.b, v, sigmoid(c.b, v))) : y;
}

/** (x, gamma, beta, skip, bias?): the sum with what is skipped is a result of its own. */
function skipGroupNorm(c: ConvertContext): readonly Value[] {
  const skip = c.input(3);
  const [n, ...rest] = skip.type.shape;
  const shaped = skip.type.shape.length === 2 ? reshape(c.b, skip, [n, 1, 1, ...rest]) : skip;
  const plain = add(c.b, c.input(0), shaped);
  const total = c.has(4) ? add(c.b, plain, c.input(4)) : plain;
  return [groupNorm(c, total), total];
}

/** Transposed as told: of the last two axes, and of the batch (all but the last) with the row. */
function fusedMatMul(c: ConvertContext): Value {
  const operand = (i: number, last: string, batch: string): Value => {
    const x = c.input(i);
    const rank = x.type.shape.length;
    const order = Array.from({ length: rank }, (_, axis) => axis);
    // The first axis becomes the row's.
    if (c.flag(batch) && rank > 2) order.splice(rank - 2, 0, order.shift() as number);
    if (c.flag(last) && rank > 1) order.push(...order.splice(rank - 2, 1));
    return transpose(c.b, x, order);
  };
  const y = matmul(c.b, operand(0, 'transA', 'transBatchA'), operand(1, 'transB', 'transBatchB'));
  const alpha = c.float('alpha', 1);
  return alpha === 1 ? y : binaryC(c.b, 'mul', y, alpha);
}

/** An activation named by an attribute, with its parameters. */
function activated(c: ConvertContext, y: Value, name: string, numbers: readonly number[]): Value {
  const [first, second] = numbers;
  switch (name) {
    case '':
      return y;
    case 'Relu':
      return clamp(c.b, y, 0, null);
    case 'Tanh':
      return unary(c.b, 'tanh', y);
    case 'Sigmoid':
      return sigmoid(c.b, y);
    case 'LeakyRelu':
      return leakyRelu(c.b, y, first ?? 0.01);
    case 'Clip':
      return clamp(c.b, y, first ?? null, second ?? null);
    case 'HardSigmoid':
      return hardSigmoid(c.b, y, first ?? 0.2, second ?? 0.5);
    default:
      return c.unsupported(`the fused activation ${name}`);
  }
}

function fusedConv(c: ConvertContext): Value {
  let y = convolve(c, { x: c.input(0), w: c.input(1), dtype: c.dtype(0) });
  if (c.has(2)) y = add(c.b, y, channelwise(c, c.input(2), c.rank(0)));
  if (c.has(3)) y = add(c.b, y, c.input(3));
  return activated(c, y, c.string('activation', ''), c.floats('activation_params') ?? []);
}

function fusedGemm(c: ConvertContext): Value {
  const alpha = c.hasAttr('activation_alpha') ? [c.float('activation_alpha')] : [];
  const beta = c.hasAttr('activation_beta') ? [c.float('activation_beta')] : [];
  return activated(c, gemm(c), c.string('activation', ''), [...alpha, ...beta]);
}

/** Conv of [N, …, C] with weights [O, C/group, …kernel]. */
function nhwcConv(c: ConvertContext): Value {
  return channelsLast(c, c.input(0), true, (x) => {
    const y = convolve(c, { x, w: c.input(1), dtype: c.dtype(0) });
    return c.has(2) ? add(c.b, y, channelwise(c, c.input(2), c.rank(0))) : y;
  });
}

const fused = (op: string, convert: Conversion['convert']): Conversion => ({ domain, op, since: 1, convert });

export const contribs: readonly Conversion[] = [
  fused('Gelu', (c) => gelu(c.b, c.input(0))),
  fused('BiasGelu', (c) => gelu(c.b, biasedBy(c, 1))),
  fused('FastGelu', (c) => gelu(c.b, biasedBy(c, 1), 'tanh')),
  fused('QuickGelu', quickGelu),
  fused('BiasAdd', (c) => add(c.b, biasedBy(c, 1), c.input(2))),
  fused('BiasSplitGelu', (c) => {
    const x = biasedBy(c, 1);
    const half = floorDivDims(x.type.shape[2], 2);
    return mul(c.b, slice1(c.b, x, 2, 0, half), gelu(c.b, slice1(c.b, x, 2, half, half)));
  }),
  fused('SkipLayerNormalization', (c) => skipLayerNorm(c, false)),
  fused('SkipSimplifiedLayerNormalization', (c) => skipLayerNorm(c, true)),
  { op: 'SimplifiedLayerNormalization', since: 1, convert: simplifiedLayerNorm },
  fused('EmbedLayerNormalization', embedLayerNorm),
  fused('GroupNorm', (c) => groupNorm(c)),
  fused('SkipGroupNorm', skipGroupNorm),
  fused('FusedMatMul', fusedMatMul),
  fused('TransposeMatMul', fusedMatMul),
  fused('FusedConv', fusedConv),
  fused('FusedGemm', fusedGemm),
  fused('NhwcConv', nhwcConv),
  fused('NhwcFusedConv', (c) =>
    activated(c, nhwcConv(c), c.string('activation', ''), c.floats('activation_params') ?? []),
  ),
  fused('CDist', (c) => {
    const [[rows, width], [columns]] = [c.ranked(0, 2), c.ranked(1, 2)];
    const pair = sub(c.b, reshape(c.b, c.input(0), [rows, 1, width]), reshape(c.b, c.input(1), [1, columns, width]));
    const squares = reduce(c.b, 'sum', mul(c.b, pair, pair), [2]);
    const metric = c.choice('metric', ['sqeuclidean', 'euclidean'], 'sqeuclidean');
    return metric === 'euclidean' ? unary(c.b, 'sqrt', squares) : squares;
  }),
  ...contribAttentions,
  ...contribQuantization,
];
