/** What follows a heavy operator: biases, scalars, residuals, activations, casts, further operators, second outputs. */
import { isFloat } from '../../../compiler/dtype.js';
import { type Draft, type Extent, flag, list, type Made, one, product, rarely } from './draft.js';
import { moved } from './movement.js';

type Step = (d: Draft, x: Made) => Made;

const activations: readonly Step[] = [
  (d, x) => d.map('Relu', x),
  (d, x) => d.map('Sigmoid', x),
  (d, x) => d.map('Mul', x, {}, d.map('Sigmoid', x)),
  (d, x) => d.map('Tanh', x),
  (d, x) => d.map('LeakyRelu', x, { alpha: 0.25 }),
  (d, x) => d.map('Clip', x, {}, d.numbers(x.dtype, [], [-2]), d.numbers(x.dtype, [], [6])),
  (d, x) => d.map('Abs', x),
  (d, x) => d.map('Neg', x),
];
/** Of floats that are not bf16 alone. */
const further: readonly Step[] = [
  (d, x) => d.map('Gelu', x, { approximate: one(d.c, ['none', 'tanh']) }),
  (d, x) => d.map('HardSwish', x),
  (d, x) => d.map('HardSigmoid', x),
  (d, x) => d.map('Elu', x),
  (d, x) => d.map('Softplus', x),
  (d, x) => d.map('Erf', x),
  (d, x) => d.map('Mish', x),
];

/** Shapes that broadcast to x: scalars, channels, rows, all of it. */
function partner(d: Draft, x: Made): Made {
  const { c } = d;
  const shape: Extent[] = x.shape.map((extent) => (flag(c) ? extent : 1));
  const kept = shape.slice(rarely(c, 3) ? c.int(0, shape.length) : 0);
  switch (c.int(0, 3)) {
    case 0:
      return d.data(x.dtype, [], { as: 'constant' });
    case 1:
      return d.data(x.dtype, x.shape);
    case 2:
      if (x.shape.length >= 2 && typeof x.shape[1] === 'number') {
        return d.data(x.dtype, [x.shape[1], ...list(x.shape.length - 2, () => 1)]);
      }
      return d.data(x.dtype, kept);
    default:
      return d.data(x.dtype, kept);
  }
}

const steps: readonly Step[] = [
  (d, x) => d.map('Add', x, {}, partner(d, x)),
  (d, x) => d.op('Sub', [partner(d, x), x], x.shape),
  (d, x) => d.map('Mul', x, {}, d.numbers(x.dtype, [], [one(d.c, [0.5, -1, 2])])),
  (d, x) => d.map('Mul', x, {}, partner(d, x)),
  (d, x) => one(d.c, activations)(d, x),
  (d, x) => (x.dtype === 'f32' ? one(d.c, further)(d, x) : x),
  (d, x) => d.op('Max', [x, partner(d, x)], x.shape),
  (d, x) => moved(d, x),
  (d, x) => {
    if (x.shape.length === 0 || d.elements(x.shape) === 0) return x;
    const axis = d.c.int(0, x.shape.length - 1);
    return d.op(one(d.c, ['ReduceSum', 'ReduceMax', 'ReduceMean']), [x, d.integers([axis])], x.shape.with(axis, 1), {
      keepdims: 1n,
    });
  },
  (d, x) => (x.shape.length === 0 ? x : d.map('Softmax', x, { axis: -1n })),
  (d, x) => {
    const last = x.shape.at(-1);
    if (typeof last !== 'number' || last === 0 || d.elements(x.shape) * 4 > 200_000 / 4) return x;
    const columns = d.c.int(1, 9);
    return d.op(
      'MatMul',
      [x, d.data(x.dtype, [last, columns], { low: -2, high: 2 })],
      [...x.shape.slice(0, -1), columns],
    );
  },
  (d, x) => {
    const [, channels, ...spatial] = x.shape;
    if (
      spatial.length === 0 ||
      spatial.length > 3 ||
      !d.isFixed(x.shape.slice(1)) ||
      product(spatial as number[]) === 0
    )
      return x;
    const outputs = one(d.c, [8, 3, 16, 1]);
    if (d.elements(x.shape) * outputs > 300_000 || channels === 0) return x;
    const w = d.data(x.dtype, [outputs, channels, ...spatial.map(() => 1)], { as: 'constant', low: -2, high: 2 });
    return d.op('Conv', [x, w], [x.shape[0], outputs, ...spatial]);
  },
];

/** A few steps after x, the result of which is an output; others may be. */
export function finished(d: Draft, x: Made): void {
  let last = x;
  const count = one(d.c, [0, 1, 2, 3, 4]);
  for (let i = 0; i < count; i++) {
    const isNumber = isFloat(last.dtype) && last.dtype !== 'f64';
    const next = isNumber ? one(d.c, steps)(d, last) : moved(d, last);
    if (next !== last && rarely(d.c, 8)) d.output(last);
    last = next;
  }
  d.output(last);
}
