/** Classical machine learning (ai.onnx.ml): encoders, scalers, linear models, support vector machines. */
import { isFloat } from '../../../dtype.js';
import {
  add,
  binary,
  binaryC,
  cast,
  clamp,
  concat,
  div,
  full,
  gather,
  matmul,
  mul,
  pad,
  reduce,
  reshape,
  scalar,
  select3,
  sigmoid,
  slice1,
  softmax,
  square,
  sub,
  tensor,
  transpose,
  unary,
} from '../../../graph/compose/index.js';
import { bisect } from '../../../graph/search.js';
import type { Value } from '../../../graph/types.js';
import { type HostTensor, sizeOf } from '../../../tensor.js';
import type { Conversion, ConvertContext } from '../context.js';
import { stringsOf } from './strings.js';

export const mlDomain = 'ai.onnx.ml';

/** Input 0 as floats: f64 stays, everything else becomes f32. */
export const features = (c: ConvertContext): Value => cast(c.b, c.input(0), c.dtype(0) === 'f64' ? 'f64' : 'f32');

/** Features as rows [N, C]; a vector is one row. */
export function rowsOf(c: ConvertContext): Value {
  const shape = c.concreteDims(c.ranked(0, 1, 2));
  return reshape(c.b, features(c), shape.length === 1 ? [1, shape[0]] : shape);
}

export const postTransforms = ['NONE', 'SOFTMAX', 'LOGISTIC', 'SOFTMAX_ZERO', 'PROBIT'] as const;
export type PostTransform = (typeof postTransforms)[number];
export const postTransformOf = (c: ConvertContext): PostTransform => c.choice('post_transform', postTransforms, 'NONE');

/** What a model makes of its scores [N, C]. */
export function transformed(c: ConvertContext, scores: Value, transform: PostTransform): Value {
  switch (transform) {
    case 'NONE':
      return scores;
    case 'LOGISTIC':
      return sigmoid(c.b, scores);
    case 'SOFTMAX':
      return softmax(c.b, scores, [1]);
    case 'SOFTMAX_ZERO': {
      // Scores of 0 stay 0.
      const none = binaryC(c.b, 'le', unary(c.b, 'abs', scores), 1e-7);
      const powers = unary(c.b, 'exp', sub(c.b, scores, reduce(c.b, 'max', scores, [1], true)));
      const kept = select3(c.b, none, scalar(c.b, 0, scores.type.dtype), powers);
      const sum = reduce(c.b, 'sum', kept, [1], true);
      const empty = binaryC(c.b, 'eq', sum, 0);
      return select3(c.b, empty, scalar(c.b, 0.5, scores.type.dtype), div(c.b, kept, sum));
    }
    case 'PROBIT':
      return probit(c, scores);
    default:
      return transform satisfies never;
  }
}

/** √2 · erf⁻¹(2x - 1), by the approximation of S. Winitzki (2008) that ONNX Runtime and ONNX's reference use. */
function probit(c: ConvertContext, x: Value): Value {
  const a = 0.147;
  const centred = binaryC(c.b, 'sub', binaryC(c.b, 'mul', x, 2), 1);
  const rest = binaryC(c.b, 'add', unary(c.b, 'neg', square(c.b, centred)), 1);
  const log = unary(c.b, 'log', rest);
  const v = binaryC(c.b, 'add', binaryC(c.b, 'mul', log, 0.5), 2 / (Math.PI * a));
  const inner = sub(c.b, unary(c.b, 'sqrt', sub(c.b, square(c.b, v), binaryC(c.b, 'mul', log, 1 / a))), v);
  const size = mul(c.b, unary(c.b, 'sign', centred), unary(c.b, 'sqrt', inner));
  const zero = scalar(c.b, 0, x.type.dtype);
  return binaryC(c.b, 'mul', select3(c.b, binaryC(c.b, 'eq', rest, 0), zero, size), Math.SQRT2);
}

/** The classes' labels as a constant. Strings cannot be picked on a device. */
export function labelsOf(c: ConvertContext, ints: string, strings: string): readonly number[] | undefined {
  const labels = c.ints(ints);
  if (labels !== undefined && labels.length > 0) return labels;
  if ((c.strings(strings) ?? []).length > 0)
    c.unsupported('string labels', 'Give the classes integers and map them after the model');
  return undefined;
}

/** The label of each row's greatest score. */
export function bestLabels(c: ConvertContext, scores: Value, labels: readonly number[] | undefined): Value {
  const best = c.op('arg_reduce', [scores], { fn: 'max', axis: 1, keep: false, last: false });
  return labels === undefined ? best : gather(c.b, tensor(c.b, 'i64', labels), best, 0);
}

// --- encoders and scalers ------------------------------------------------------------------------------------------

function arrayFeatures(c: ConvertContext): Value {
  const count = sizeOf(c.concreteShape(1));
  const shape = c.concreteShape(0);
  const picked = gather(c.b, c.input(0), reshape(c.b, c.input(1), [count]), shape.length - 1);
  return shape.length === 1 ? reshape(c.b, picked, [1, count]) : picked;
}

/** Numbers per column, or one for all, as a row. */
const perColumn = (c: ConvertContext, name: string, like: Value, standard: number): Value =>
  tensor(c.b, like.type.dtype, c.floats(name) ?? [standard]);

function scaler(c: ConvertContext): Value {
  const x = features(c);
  return mul(c.b, sub(c.b, x, perColumn(c, 'offset', x, 0)), perColumn(c, 'scale', x, 1));
}

function normalizer(c: ConvertContext): Value {
  const x = rowsOf(c);
  const size = unary(c.b, 'abs', x);
  const norms = {
    MAX: () => reduce(c.b, 'max', size, [1], true),
    L1: () => reduce(c.b, 'sum', size, [1], true),
    L2: () => unary(c.b, 'sqrt', reduce(c.b, 'sum', square(c.b, x), [1], true)),
  };
  const norm = norms[c.choice('norm', ['MAX', 'L1', 'L2'] as const, 'MAX')]();
  return reshape(c.b, div(c.b, x, clamp(c.b, norm, 1e-30, null)), c.shape(0));
}

function imputer(c: ConvertContext): Value {
  const x = c.input(0);
  const float = isFloat(x.type.dtype);
  const values = (float ? c.floats('imputed_value_floats') : c.ints('imputed_value_int64s')) ?? [];
  if (values.length === 0) c.fail('imputed values of the element type are missing', x.type.dtype);
  const replaced = float ? c.float('replaced_value_float', 0) : c.int('replaced_value_int64', 0);
  const missing = Number.isNaN(replaced) ? unary(c.b, 'is_nan', x) : binaryC(c.b, 'eq', x, replaced);
  return select3(c.b, missing, tensor(c.b, x.type.dtype, values), x);
}

/** 1 at the place of each value among the categories; without `zeros` every value must be one, which is not checked. */
function oneHot(c: ConvertContext): Value {
  const shape = c.concreteShape(0);
  const words = c.strings('cats_strings') ?? [];
  const given = c.dtype(0) === 'string';
  const categories = given ? words.map((_, i) => i) : (c.ints('cats_int64s') ?? []);
  const x = given
    ? c.computed({
        dtype: 'i64',
        shape,
        data: BigInt64Array.from(stringsOf(c, 0), (word) => BigInt(words.indexOf(word))),
      })
    : cast(c.b, c.input(0), 'i64');
  const hits = binary(c.b, 'eq', reshape(c.b, x, [...shape, 1]), tensor(c.b, 'i64', categories));
  return cast(c.b, hits, 'f32');
}

/** Inputs side by side, each cut or filled up with zeros to its number of columns. */
function featureVectors(c: ConvertContext): Value {
  const widths = c.ints('inputdimensions') ?? c.inputs.map((_, i) => c.concreteShape(i).at(-1) ?? 1);
  const columns = c.inputs.map((_, i) => {
    const shape = c.concreteDims(c.ranked(i, 1, 2), i);
    const x = reshape(c.b, cast(c.b, c.input(i), 'f32'), shape.length === 1 ? [shape[0], 1] : shape);
    const width = Number(x.type.shape[1]);
    return width >= widths[i] ? slice1(c.b, x, 1, 0, widths[i]) : pad(c.b, x, [0, 0], [0, widths[i] - width]);
  });
  return concat(c.b, columns, 1);
}

/** A table of numbers, given as a tensor or as a list of one type. */
function tableOf(c: ConvertContext, name: string): HostTensor | undefined {
  const data = c.tensor(`${name}_tensor`);
  if (data !== undefined) return data;
  const ints = c.operator.attrs[`${name}_int64s`] as readonly bigint[] | undefined;
  if (ints !== undefined) return { dtype: 'i64', shape: [ints.length], data: BigInt64Array.from(ints, BigInt) };
  const floats = c.floats(`${name}_floats`);
  if (floats !== undefined) return { dtype: 'f32', shape: [floats.length], data: Float32Array.from(floats) };
  const strings = c.strings(`${name}_strings`);
  return strings && { dtype: 'string', shape: [strings.length], data: strings };
}

/** The value that a label encoder gives to keys it does not know. */
function defaultOf(c: ConvertContext, { dtype }: HostTensor): number | bigint | string {
  const given = c.tensor('default_tensor');
  if (given !== undefined) return given.data[0] as number | bigint | string;
  if (dtype === 'string') return c.string('default_string', '_Unused');
  return isFloat(dtype) ? c.float('default_float', -0) : BigInt(c.int('default_int64', -1));
}

/** Each element's value in a table of keys. Keys are sorted here and bisected on the device; strings are the host's. */
function labelEncoder(c: ConvertContext): Value {
  const [keys, values] = [tableOf(c, 'keys'), tableOf(c, 'values')];
  if (keys === undefined || values === undefined) return c.fail('keys or values are missing');
  const count = Math.min(keys.data.length, values.data.length);
  const standard = defaultOf(c, values);
  const shape = c.concreteShape(0);
  if (keys.dtype === 'string' || values.dtype === 'string') {
    const table = new Map(Array.from({ length: count }, (_, i) => [keys.data[i], i]));
    const given = c.constant(0).data as Iterable<string | number | bigint>;
    const places = Array.from(given, (key) => table.get(key) ?? count);
    if (values.dtype === 'string') {
      const words = places.map((place) => (place < count ? String(values.data[place]) : String(standard)));
      return c.computed({ dtype: 'string', shape, data: words });
    }
    const known = c.computed({ dtype: 'i64', shape, data: BigInt64Array.from(places, BigInt) });
    return gather(c.b, extended(c, values, count, standard), known, 0);
  }
  // NaN is the greatest key, and equal to itself.
  const number = (i: number): number | bigint => keys.data[i] as number | bigint;
  const isNan = (i: number): boolean => Number.isNaN(number(i));
  const order = Array.from({ length: count }, (_, i) => i).sort((p, q) =>
    isNan(p) || isNan(q)
      ? Number(isNan(p)) - Number(isNan(q))
      : number(p) < number(q)
        ? -1
        : number(p) > number(q)
          ? 1
          : 0,
  );
  const x = c.input(0);
  const wide = isFloat(x.type.dtype) ? x : cast(c.b, x, 'i64');
  const sorted = tensor(
    c.b,
    wide.type.dtype,
    order.map((i) => number(i)),
  );
  const nan = (v: Value): Value =>
    isFloat(v.type.dtype) ? unary(c.b, 'is_nan', v) : full(c.b, false, 'bool', v.type.shape);
  const same = (p: Value, q: Value): Value =>
    binary(c.b, 'or', binary(c.b, 'eq', p, q), binary(c.b, 'and', nan(p), nan(q)));
  const place = bisect(c.b, sorted, wide, (element, target) =>
    binary(
      c.b,
      'or',
      binary(c.b, 'lt', element, target),
      binary(c.b, 'and', nan(target), unary(c.b, 'not', nan(element))),
    ),
  );
  const found = binary(c.b, 'and', binaryC(c.b, 'lt', place, count), same(gather(c.b, sorted, place, 0), wide));
  const table = extended(c, values, count, standard);
  const permutation = tensor(c.b, 'i32', [...order, count]);
  const at = gather(c.b, permutation, select3(c.b, found, place, scalar(c.b, count, 'i32')), 0);
  return gather(c.b, table, at, 0);
}

/** A table with the default after its last entry. */
function extended(c: ConvertContext, values: HostTensor, count: number, standard: number | bigint | string): Value {
  const own = slice1(c.b, c.b.constant({ ...values, shape: [values.data.length] }), 0, 0, count);
  const last = tensor(c.b, values.dtype, [typeof standard === 'bigint' ? standard : Number(standard)]);
  return concat(c.b, [own, last], 0);
}

// --- linear models -------------------------------------------------------------------------------------------------

/** x · coefficientsᵀ + intercepts: [N, rows of coefficients]. */
function linear(c: ConvertContext, x: Value, rows: number): Value {
  const coefficients = c.floats('coefficients') ?? c.fail('attribute coefficients is missing');
  const weights = tensor(c.b, x.type.dtype, coefficients, [rows, coefficients.length / rows]);
  const scores = matmul(c.b, x, transpose(c.b, weights, [1, 0]));
  const intercepts = c.floats('intercepts') ?? [];
  return intercepts.length === 0 ? scores : add(c.b, scores, tensor(c.b, x.type.dtype, intercepts));
}

function linearClassifier(c: ConvertContext): readonly Value[] {
  const x = rowsOf(c);
  const labels = labelsOf(c, 'classlabels_ints', 'classlabels_strings');
  const rows = (c.floats('coefficients') ?? []).length / Number(x.type.shape[1]);
  const transform = postTransformOf(c);
  let scores = linear(c, x, rows);
  if (rows === 1 && labels?.length === 2) scores = concat(c.b, [unary(c.b, 'neg', scores), scores], 1);
  scores = transformed(c, scores, transform);
  if (Number(scores.type.shape[1]) > 1) return [bestLabels(c, scores, labels), scores];
  const positive = binaryC(c.b, 'ge', reshape(c.b, scores, [scores.type.shape[0]]), transform === 'NONE' ? 0 : 0.5);
  const label = select3(c.b, positive, scalar(c.b, labels?.[0] ?? 1, 'i64'), scalar(c.b, 0, 'i64'));
  return [label, scores];
}

// --- support vector machines ---------------------------------------------------------------------------------------

/** Values of the kernel for rows x [N, C] and constant vectors [V, C]: [N, V]. */
function kernelOf(c: ConvertContext, x: Value, vectors: Value, linearOnly: boolean): Value {
  const kind = linearOnly ? 'LINEAR' : c.choice('kernel_type', ['LINEAR', 'POLY', 'RBF', 'SIGMOID'] as const, 'LINEAR');
  const [gamma = 0, offset = 0, degree = 0] = c.floats('kernel_params') ?? [];
  const product = matmul(c.b, x, transpose(c.b, vectors, [1, 0]));
  const affine = (): Value => binaryC(c.b, 'add', binaryC(c.b, 'mul', product, gamma), offset);
  switch (kind) {
    case 'LINEAR':
      return product;
    case 'POLY':
      return binaryC(c.b, 'pow', affine(), Math.trunc(degree));
    case 'SIGMOID':
      return unary(c.b, 'tanh', affine());
    case 'RBF': {
      const [rows, width] = x.type.shape;
      const difference = sub(c.b, reshape(c.b, x, [rows, 1, width]), reshape(c.b, vectors, [1, ...vectors.type.shape]));
      return unary(c.b, 'exp', binaryC(c.b, 'mul', reduce(c.b, 'sum', square(c.b, difference), [2]), -gamma));
    }
    default:
      return kind satisfies never;
  }
}

function svmRegressor(c: ConvertContext): Value {
  const x = rowsOf(c);
  const { dtype } = x.type;
  const width = Number(x.type.shape[1]);
  const count = c.int('n_supports', 0);
  const coefficients = c.floats('coefficients') ?? c.fail('attribute coefficients is missing');
  const vectors = count > 0 ? tensor(c.b, dtype, c.floats('support_vectors') ?? [], [count, width]) : undefined;
  const weights = tensor(c.b, dtype, coefficients, [coefficients.length, 1]);
  const sum = vectors === undefined ? matmul(c.b, x, weights) : matmul(c.b, kernelOf(c, x, vectors, false), weights);
  const score = binaryC(c.b, 'add', sum, (c.floats('rho') ?? [0])[0]);
  if (!c.flag('one_class')) return transformed(c, score, postTransformOf(c));
  const one = (value: number): Value => scalar(c.b, value, dtype);
  return select3(c.b, binaryC(c.b, 'gt', score, 0), one(1), one(-1));
}

/** Scores of each pair of classes [N, pairs] and the votes that they give [N, classes]. */
function pairwise(c: ConvertContext, x: Value, perClass: readonly number[]): readonly [scores: Value, votes: Value] {
  const { dtype } = x.type;
  const classes = perClass.length;
  const count = perClass.reduce((p, q) => p + q, 0);
  const starts = perClass.map((_, i) => perClass.slice(0, i).reduce((p, q) => p + q, 0));
  const coefficients = c.floats('coefficients') ?? [];
  const vectors = tensor(c.b, dtype, c.floats('support_vectors') ?? [], [count, Number(x.type.shape[1])]);
  const pairs = perClass.flatMap((_, i) =>
    perClass.slice(i + 1).map((_, k): readonly [number, number] => [i, i + 1 + k]),
  );
  // Column p holds the weights of the vectors of both classes of pair p.
  const weights = new Array<number>(count * pairs.length).fill(0);
  pairs.forEach(([i, j], p) => {
    for (let v = 0; v < perClass[i]; v++)
      weights[(starts[i] + v) * pairs.length + p] = coefficients[(j - 1) * count + starts[i] + v];
    for (let v = 0; v < perClass[j]; v++)
      weights[(starts[j] + v) * pairs.length + p] = coefficients[i * count + starts[j] + v];
  });
  const products = matmul(c.b, kernelOf(c, x, vectors, false), tensor(c.b, dtype, weights, [count, pairs.length]));
  const scores = add(c.b, products, tensor(c.b, dtype, (c.floats('rho') ?? []).slice(0, pairs.length)));
  // The first of a pair gets the vote of a positive score, the second that of another.
  const direction = (first: boolean): number[] =>
    Array.from({ length: pairs.length * classes }, (_, at) =>
      pairs[Math.floor(at / classes)][first ? 0 : 1] === at % classes ? 1 : 0,
    );
  const table = (first: boolean): Value => tensor(c.b, dtype, direction(first), [pairs.length, classes]);
  const positive = cast(c.b, binaryC(c.b, 'gt', scores, 0), dtype);
  const negative = binaryC(c.b, 'add', unary(c.b, 'neg', positive), 1);
  return [scores, add(c.b, matmul(c.b, positive, table(true)), matmul(c.b, negative, table(false)))];
}

function svmClassifier(c: ConvertContext): readonly Value[] {
  const x = rowsOf(c);
  const labels = labelsOf(c, 'classlabels_ints', 'classlabels_strings');
  if ((c.floats('prob_a') ?? []).length > 0) c.unsupported('probabilities of support vector machines (prob_a, prob_b)');
  const transform = postTransformOf(c);
  const coefficients = c.floats('coefficients') ?? c.fail('attribute coefficients is missing');
  const perClass = c.ints('vectors_per_class') ?? [];
  const rho = c.floats('rho') ?? [0];
  const classes = Math.max(1, labels?.length ?? 1);
  let [scores, votes]: readonly [Value, Value | undefined] =
    perClass.length > 0 ? pairwise(c, x, perClass) : [binaryC(c.b, 'add', linear(c, x, classes), rho[0]), undefined];
  const ranked = votes ?? scores;
  let label = bestLabels(c, ranked, labels);
  const two = Number(scores.type.shape[1]) === 1;
  if (rho.length === 1 && classes === 2 && coefficients.every((value) => value >= 0)) {
    // One-sided machines: the second class from a weight of one half on.
    const most = reduce(c.b, 'max', ranked, [1]);
    label = select3(c.b, binaryC(c.b, 'ge', most, 0.5), scalar(c.b, labels?.[1] ?? 1, 'i64'), label);
  } else if (rho.length === 1 && classes !== 2) {
    label = cast(c.b, binaryC(c.b, 'gt', reduce(c.b, 'max', ranked, [1]), 0), 'i64');
  }
  if (two && classes === 2) scores = concat(c.b, [unary(c.b, 'neg', scores), scores], 1);
  return [label, transformed(c, scores, transform)];
}

const ml = (op: string, convert: Conversion['convert']): Conversion => ({ domain: mlDomain, op, since: 1, convert });

export const mlOperators: readonly Conversion[] = [
  ml('ArrayFeatureExtractor', arrayFeatures),
  ml('Binarizer', (c) => cast(c.b, binaryC(c.b, 'gt', c.input(0), c.float('threshold', 0)), c.dtype(0))),
  ml('Scaler', scaler),
  ml('Normalizer', normalizer),
  ml('Imputer', imputer),
  ml('OneHotEncoder', oneHot),
  ml('FeatureVectorizer', featureVectors),
  ml('LabelEncoder', labelEncoder),
  ml('LinearRegressor', (c) => transformed(c, linear(c, rowsOf(c), c.int('targets', 1)), postTransformOf(c))),
  ml('LinearClassifier', linearClassifier),
  ml('SVMRegressor', svmRegressor),
  ml('SVMClassifier', svmClassifier),
];
