/** Activation functions, with the defaults of their attributes. */
import {
  binary,
  binaryC,
  celu,
  clamp,
  elu,
  full,
  gelu,
  hardSigmoid,
  leakyRelu,
  mish,
  mul,
  reshape,
  scalar,
  select3,
  selu,
  sigmoid,
  softplus,
  softsign,
  sub,
  wide,
} from '../../../graph/compose/index.js';
import { mulDims } from '../../../graph/dims.js';
import type { Value } from '../../../graph/types.js';
import type { Conversion, ConvertContext } from '../context.js';

/** An operator of one tensor and some attributes. */
const activation = (op: string, convert: (c: ConvertContext, x: Value) => Value, since = 1): Conversion => ({
  op,
  since,
  convert: (c) => convert(c, c.input(0)),
});

function prelu(c: ConvertContext, x: Value): Value {
  let slope = c.input(1);
  // Before opset 7: one slope, or one a channel. Later it broadcasts, and must not widen x.
  if (c.opset < 7 && slope.type.shape.length === 1 && slope.type.shape[0] !== 1 && c.rank(0) > 1) {
    slope = reshape(c.b, slope, [slope.type.shape[0], ...new Array<number>(c.rank(0) - 2).fill(1)]);
  }
  c.decideBroadcast(x.type.shape, slope.type.shape);
  if (slope.type.shape.length > c.rank(0)) slope = reshape(c.b, slope, slope.type.shape.slice(-Math.max(1, c.rank(0))));
  return leakyRelu(c.b, x, slope);
}

function shrink(c: ConvertContext, x: Value): Value {
  const [bias, lambda] = [c.float('bias', 0), c.float('lambd', 0.5)];
  const zero = full(c.b, 0, x.type.dtype, x.type.shape);
  const above = select3(c.b, binaryC(c.b, 'gt', x, lambda), binaryC(c.b, 'sub', x, bias), zero);
  return select3(c.b, binaryC(c.b, 'lt', x, -lambda), binaryC(c.b, 'add', x, bias), above);
}

/** x · clamp(x/6 + 1/2, 0, 1) with the constants that ONNX gives, rounded once. */
const hardSwish = (c: ConvertContext, x: Value): Value =>
  wide(c.b, x, (v) => mul(c.b, v, hardSigmoid(c.b, v, 1 / 6, 0.5)));

export const activations: readonly Conversion[] = [
  activation('Relu', (c, x) => clamp(c.b, x, 0, null)),
  activation('LeakyRelu', (c, x) => leakyRelu(c.b, x, c.float('alpha', 0.01))),
  activation('PRelu', prelu),
  activation('Elu', (c, x) => elu(c.b, x, c.float('alpha', 1))),
  activation('Selu', (c, x) =>
    selu(c.b, x, c.float('alpha', Math.fround(1.6732632)), c.float('gamma', Math.fround(1.050701))),
  ),
  activation('Celu', (c, x) => celu(c.b, x, c.float('alpha', 1))),
  activation('ThresholdedRelu', (c, x) =>
    select3(c.b, binaryC(c.b, 'gt', x, c.float('alpha', 1)), x, scalar(c.b, 0, x.type.dtype)),
  ),
  activation('Sigmoid', (c, x) => sigmoid(c.b, x)),
  activation('HardSigmoid', (c, x) =>
    wide(c.b, x, (v) => hardSigmoid(c.b, v, c.float('alpha', 0.2), c.float('beta', 0.5))),
  ),
  activation('HardSwish', hardSwish),
  activation('Mish', (c, x) => mish(c.b, x)),
  activation('Gelu', (c, x) => gelu(c.b, x, c.choice('approximate', ['none', 'tanh'] as const, 'none'))),
  activation('Swish', (c, x) => {
    const alpha = c.float('alpha', 1);
    return wide(c.b, x, (v) => mul(c.b, v, sigmoid(c.b, alpha === 1 ? v : binaryC(c.b, 'mul', v, alpha))));
  }),
  activation('Softplus', (c, x) => softplus(c.b, x)),
  activation('Softsign', (c, x) => wide(c.b, x, (v) => softsign(c.b, v))),
  activation('Shrink', shrink),
  activation('Hardmax', (c, x) => hardmax(c, x, 'flat'), 1),
  activation('Hardmax', (c, x) => hardmax(c, x, 'axis'), 13),
  activation('Softmax', (c, x) => softmax(c, x, 'flat', false), 1),
  activation('Softmax', (c, x) => softmax(c, x, 'axis', false), 13),
  activation('LogSoftmax', (c, x) => softmax(c, x, 'flat', true), 1),
  activation('LogSoftmax', (c, x) => softmax(c, x, 'axis', true), 13),
];

type Form = 'flat' | 'axis';

/** Before opset 13 all axes from `axis` on count as one, whose default is 1; since then a single axis, the last. */
function softmax(c: ConvertContext, x: Value, form: Form, log: boolean): Value {
  const rank = x.type.shape.length;
  const axis = c.int('axis', form === 'flat' ? 1 : -1);
  if (rank === 0) return log ? sub(c.b, x, x) : c.op('softmax', [x], { axes: [], log });
  const first = axis === rank && form === 'flat' ? rank : c.axis(axis, rank);
  const axes = form === 'axis' ? [first] : Array.from({ length: rank - first }, (_, i) => first + i);
  return c.op('softmax', [x], { axes, log });
}

/** 1 at the first maximum, else 0. */
function hardmax(c: ConvertContext, x: Value, form: Form): Value {
  const { shape, dtype } = x.type;
  const axis = c.axis(c.int('axis', form === 'flat' ? 1 : -1), shape.length);
  const flat = form === 'flat' ? c.op('reshape', [x], { shape: rows(c, x, axis) }) : x;
  const at = form === 'flat' ? 1 : axis;
  const best = c.op('arg_reduce', [flat], { fn: 'max', axis: at, keep: true, last: false });
  const places = c.op('iota', [], { dtype: 'i64', shape: flat.type.shape, axis: at });
  return reshape(c.b, c.op('cast', [binary(c.b, 'eq', places, best)], { dtype, saturate: true }), shape);
}

const rows = (c: ConvertContext, x: Value, axis: number) => {
  const product = (from: number, to: number) => x.type.shape.slice(from, to).reduce(mulDims, 1);
  return [product(0, axis), product(axis, c.rank(0))];
};
