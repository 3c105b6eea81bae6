/** Activations, by their usual names. */
import type { GraphBuilder } from '../builder.js';
import type { Value } from '../types.js';
import { axesOf, one } from './append.js';
import { add, binaryC, clamp, div, mul, select3, unary, wide } from './elementwise.js';

export const relu = (b: GraphBuilder, x: Value): Value => clamp(b, x, 0, null);
export const relu6 = (b: GraphBuilder, x: Value): Value => clamp(b, x, 0, 6);

/** 1 / (1 + e^-x). */
export const sigmoid = (b: GraphBuilder, x: Value): Value =>
  wide(b, x, (v) => unary(b, 'recip', binaryC(b, 'add', unary(b, 'exp', unary(b, 'neg', v)), 1)));

/** log(1 + e^x) in the form that does not overflow: max(x, 0) + log(1 + e^-|x|). */
export const softplus = (b: GraphBuilder, x: Value): Value =>
  wide(b, x, (v) => add(b, relu(b, v), log1p(b, unary(b, 'exp', unary(b, 'neg', unary(b, 'abs', v))))));

/**
 * log(1 + x) for x ≥ 0 without the rounding of 1 + x: 2·atanh(x / (2 + x)), since (1 + u) / (1 - u) = 1 + x for that u.
 */
export const log1p = (b: GraphBuilder, x: Value): Value =>
  binaryC(b, 'mul', unary(b, 'atanh', div(b, x, binaryC(b, 'add', x, 2))), 2);

/** x · sigmoid(x). */
export const silu = (b: GraphBuilder, x: Value): Value => wide(b, x, (v) => mul(b, v, sigmoid(b, v)));

/** x · Φ(x), exactly by erf or by the usual tanh polynomial. */
export function gelu(b: GraphBuilder, x: Value, approximate: 'none' | 'tanh' = 'none'): Value {
  return wide(b, x, (v) => {
    const inner =
      approximate === 'none'
        ? unary(b, 'erf', binaryC(b, 'mul', v, Math.SQRT1_2))
        : unary(
            b,
            'tanh',
            binaryC(b, 'mul', add(b, v, binaryC(b, 'mul', mul(b, mul(b, v, v), v), 0.044715)), Math.sqrt(2 / Math.PI)),
          );
    return mul(b, binaryC(b, 'mul', v, 0.5), binaryC(b, 'add', inner, 1));
  });
}

/** clamp(alpha·x + beta, 0, 1). */
export const hardSigmoid = (b: GraphBuilder, x: Value, alpha = 0.2, beta = 0.5): Value =>
  clamp(b, binaryC(b, 'add', binaryC(b, 'mul', x, alpha), beta), 0, 1);

/** x · hardSigmoid(x) with alpha 1/6 and beta 1/2. */
export const hardSwish = (b: GraphBuilder, x: Value): Value => mul(b, x, hardSigmoid(b, x, 1 / 6, 0.5));

/** x where it is not negative, else slope · x; the slope is a number or broadcasts. */
export function leakyRelu(b: GraphBuilder, x: Value, slope: number | Value): Value {
  const scaled = typeof slope === 'number' ? binaryC(b, 'mul', x, slope) : mul(b, x, slope);
  return select3(b, binaryC(b, 'lt', x, 0), scaled, x);
}

/** x where it is positive, else alpha · (e^x - 1). */
export const elu = (b: GraphBuilder, x: Value, alpha = 1): Value =>
  wide(b, x, (v) => select3(b, binaryC(b, 'gt', v, 0), v, binaryC(b, 'mul', expm1(b, v), alpha)));

/** gamma · elu(x, alpha). */
export const selu = (b: GraphBuilder, x: Value, alpha = 1.6732632423543772, gamma = 1.0507009873554805): Value =>
  wide(b, x, (v) => binaryC(b, 'mul', elu(b, v, alpha), gamma));

/** max(x, 0) + min(0, alpha · (e^(x/alpha) - 1)). */
export const celu = (b: GraphBuilder, x: Value, alpha = 1): Value =>
  wide(b, x, (v) =>
    select3(b, binaryC(b, 'gt', v, 0), v, binaryC(b, 'mul', expm1(b, binaryC(b, 'mul', v, 1 / alpha)), alpha)),
  );

/** e^x - 1 without cancellation near 0: tanh(x/2)·(e^x + 1), and e^x - 1 itself where that overflows or saturates. */
export function expm1(b: GraphBuilder, x: Value): Value {
  const power = unary(b, 'exp', x);
  const near = mul(b, unary(b, 'tanh', binaryC(b, 'mul', x, 0.5)), binaryC(b, 'add', power, 1));
  return select3(b, binaryC(b, 'lt', unary(b, 'abs', x), 1), near, binaryC(b, 'sub', power, 1));
}

/** x · tanh(softplus(x)). */
export const mish = (b: GraphBuilder, x: Value): Value =>
  wide(b, x, (v) => mul(b, v, unary(b, 'tanh', softplus(b, v))));

export const softsign = (b: GraphBuilder, x: Value): Value => div(b, x, binaryC(b, 'add', unary(b, 'abs', x), 1));

/** Softmax over axes, or its logarithm. */
export const softmax = (b: GraphBuilder, x: Value, axes: readonly number[], log = false): Value =>
  one(b, 'softmax', [x], { axes: axesOf(b, axes, x.type.shape.length), log });
