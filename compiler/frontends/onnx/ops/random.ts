/**
 * Random operators. Numbers are a function of a key and the element's place (`random_bits`), so a run gives the same on
 * every device and every time. The key is the `seed` attribute, or follows from the node's name where there is none:
 * two nodes without a seed draw different numbers.
 */
import type { DType } from '../../../dtype.js';
import {
  add,
  binary,
  binaryC,
  cast,
  clamp,
  full,
  mul,
  reduce,
  reshape,
  scalar,
  select3,
  slice1,
  sub,
  unary,
} from '../../../graph/compose/index.js';
import type { Dim } from '../../../graph/dims.js';
import { prefixSum } from '../../../graph/search.js';
import type { Value } from '../../../graph/types.js';
import type { Conversion, ConvertContext } from '../context.js';
import { dtypeOf } from '../tensors.js';

/** FNV-1a of a text. */
function hash(text: string): number {
  let h = 0x811c9dc5;
  for (let i = 0; i < text.length; i++) h = Math.imul(h ^ text.charCodeAt(i), 0x01000193);
  return h >>> 0;
}

/** The second word tells several sequences of one node apart, and keys of seeds from keys of names. */
function bits(c: ConvertContext, shape: readonly Dim[], sequence: number): Value {
  const seeded = c.hasAttr('seed');
  const seed = Float32Array.of(seeded ? c.float('seed') : 0);
  const word = seeded ? new Uint32Array(seed.buffer)[0] : hash(c.operator.source.node);
  return c.op('random_bits', [], { shape: c.concreteDims(shape), key: [word, 2 * sequence + (seeded ? 0 : 1)] });
}

type Wide = 'f32' | 'f64';
const wideOf = (dtype: DType): Wide => (dtype === 'f64' ? 'f64' : 'f32');

/** Uniform in [0, 1): 24 random bits of an f32, 53 of an f64. Sequences `at` and `at + 1` are used. */
function uniform(c: ConvertContext, shape: readonly Dim[], dtype: Wide, at = 0): Value {
  const top = (sequence: number, count: number): Value =>
    cast(c.b, binaryC(c.b, 'shr', bits(c, shape, sequence), 32 - count), dtype);
  if (dtype === 'f32') return binaryC(c.b, 'mul', top(at, 24), 2 ** -24);
  const [high, low] = [binaryC(c.b, 'mul', top(at, 27), 2 ** 26), top(at + 1, 26)];
  return binaryC(c.b, 'mul', add(c.b, high, low), 2 ** -53);
}

/** Normal with mean 0 and deviation 1 (Box and Muller, 1958). */
function normal(c: ConvertContext, shape: readonly Dim[], dtype: Wide): Value {
  const radius = unary(
    c.b,
    'sqrt',
    // 1 - u is in (0, 1].
    binaryC(c.b, 'mul', unary(c.b, 'log', binaryC(c.b, 'add', unary(c.b, 'neg', uniform(c, shape, dtype)), 1)), -2),
  );
  return mul(c.b, radius, unary(c.b, 'cos', binaryC(c.b, 'mul', uniform(c, shape, dtype, 2), 2 * Math.PI)));
}

type Draw = (c: ConvertContext, shape: readonly Dim[], dtype: Wide) => Value;

const drawUniform: Draw = (c, shape, dtype) => {
  const [low, high] = [c.float('low', 0), c.float('high', 1)];
  return binaryC(c.b, 'add', binaryC(c.b, 'mul', uniform(c, shape, dtype), high - low), low);
};
const drawNormal: Draw = (c, shape, dtype) =>
  binaryC(c.b, 'add', binaryC(c.b, 'mul', normal(c, shape, dtype), c.float('scale', 1)), c.float('mean', 0));

/** The `dtype` attribute, or another type. */
const drawnType = (c: ConvertContext, standard: DType): DType =>
  c.hasAttr('dtype') ? dtypeOf(c.int('dtype'), c.operator.source.node) : standard;

const ofShape = (op: string, draw: Draw): Conversion => ({
  op,
  since: 1,
  convert(c) {
    const dtype = drawnType(c, 'f32');
    const shape = c.ints('shape') ?? c.fail('attribute shape is missing');
    return cast(c.b, draw(c, shape, wideOf(dtype)), dtype);
  },
});

const like = (op: string, draw: Draw): Conversion => ({
  op,
  since: 1,
  convert(c) {
    const dtype = drawnType(c, c.dtype(0));
    return cast(c.b, draw(c, c.shape(0), wideOf(dtype)), dtype);
  },
});

/** True with the probability that is given for each element. */
function bernoulli(c: ConvertContext): Value {
  const dtype = wideOf(c.dtype(0));
  const hit = binary(c.b, 'lt', uniform(c, c.shape(0), dtype), cast(c.b, c.input(0), dtype));
  return cast(c.b, hit, drawnType(c, c.dtype(0)));
}

/** Classes drawn by logarithms of weights [B, classes]: the place of a uniform number among their running sums. */
function multinomial(c: ConvertContext): Value {
  const [batch, classes] = c.concreteDims(c.ranked(0, 2));
  const samples = c.int('sample_size', 1);
  const dtype = wideOf(c.dtype(0));
  const logarithms = cast(c.b, c.input(0), dtype);
  const weights = unary(c.b, 'exp', sub(c.b, logarithms, reduce(c.b, 'max', logarithms, [1], true)));
  const sums = prefixSum(c.b, weights, 1);
  const drawn = mul(c.b, uniform(c, [batch, samples], dtype), slice1(c.b, sums, 1, classes - 1, 1));
  const before = binary(c.b, 'le', reshape(c.b, sums, [batch, 1, classes]), reshape(c.b, drawn, [batch, samples, 1]));
  const place = clamp(c.b, reduce(c.b, 'sum', cast(c.b, before, 'i32'), [2]), null, classes - 1);
  return cast(c.b, place, drawnType(c, 'i32'));
}

/** In training each element stays with probability 1 - ratio and is scaled by 1/(1 - ratio). Outputs: and which stay. */
function dropout(c: ConvertContext): readonly (Value | undefined)[] {
  const training = c.opset >= 12 ? c.has(2) && c.number(2) !== 0 : c.opset < 7 && !c.flag('is_test', false);
  const x = c.input(0);
  const maskType = c.opset < 10 ? x.type.dtype : 'bool';
  if (!training) {
    // Before opset 12 the mask is "not filled" outside training: zeros, as ONNX Runtime leaves it.
    const mask = full(c.b, c.opset >= 12, maskType, c.shape(0));
    return [x, c.wants(1) ? mask : undefined];
  }
  const dtype = wideOf(x.type.dtype);
  const given = c.opset >= 12 && c.has(1) ? cast(c.b, reshape(c.b, c.input(1), []), dtype) : undefined;
  const ratio = given ?? scalar(c.b, c.opset >= 12 ? 0.5 : c.float('ratio', 0.5), dtype);
  const stays = binary(c.b, 'ge', uniform(c, c.shape(0), dtype), ratio);
  const share = binaryC(c.b, 'add', unary(c.b, 'neg', ratio), 1);
  const scaled = binary(c.b, 'div', cast(c.b, x, dtype), share);
  const y = cast(c.b, select3(c.b, stays, scaled, scalar(c.b, 0, dtype)), x.type.dtype);
  return [y, c.wants(1) ? cast(c.b, stays, maskType) : undefined];
}

export const randoms: readonly Conversion[] = [
  ofShape('RandomUniform', drawUniform),
  ofShape('RandomNormal', drawNormal),
  like('RandomUniformLike', drawUniform),
  like('RandomNormalLike', drawNormal),
  { op: 'Bernoulli', since: 15, convert: bernoulli },
  { op: 'Multinomial', since: 7, convert: multinomial },
  { op: 'Dropout', since: 1, convert: dropout },
];
