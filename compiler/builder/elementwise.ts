/** Elementwise ops and activations of the public builder. Two operands broadcast as in numpy. */
import type { DType } from '../dtype.js';
import * as compose from '../graph/compose/index.js';
import type { BinaryOp, UnaryOp, Value } from '../graph/types.js';
import { BaseBuilder, type Operand } from './base.js';

export class ElementwiseBuilder extends BaseBuilder {
  #unary(fn: UnaryOp, x: Value): Value {
    return compose.unary(this.at(fn), fn, x);
  }

  #binary(fn: BinaryOp, a: Operand, b: Operand): Value {
    const g = this.at(fn);
    return compose.binary(g, fn, ...this.pair(a, b));
  }

  // --- arithmetic: operands of one element type, which the result has ---------------------------------------------

  add(a: Operand, b: Operand): Value {
    return this.#binary('add', a, b);
  }
  sub(a: Operand, b: Operand): Value {
    return this.#binary('sub', a, b);
  }
  mul(a: Operand, b: Operand): Value {
    return this.#binary('mul', a, b);
  }
  /** Integers truncate toward zero. */
  div(a: Operand, b: Operand): Value {
    return this.#binary('div', a, b);
  }
  /** Quotient rounded down. */
  floorDiv(a: Operand, b: Operand): Value {
    const g = this.at('floorDiv');
    return compose.floorDiv(g, ...this.pair(a, b));
  }
  /** Remainder with the sign of the dividend (C's % and fmod). */
  rem(a: Operand, b: Operand): Value {
    return this.#binary('rem', a, b);
  }
  /** Remainder with the sign of the divisor (Python's %). */
  mod(a: Operand, b: Operand): Value {
    const g = this.at('mod');
    return compose.floorMod(g, ...this.pair(a, b));
  }
  pow(a: Operand, b: Operand): Value {
    return this.#binary('pow', a, b);
  }
  /** NaN if either is NaN. */
  max(a: Operand, b: Operand): Value {
    return this.#binary('max', a, b);
  }
  min(a: Operand, b: Operand): Value {
    return this.#binary('min', a, b);
  }
  atan2(y: Operand, x: Operand): Value {
    return this.#binary('atan2', y, x);
  }

  // --- logic (bool) and bits (integers) ----------------------------------------------------------------------------

  and(a: Operand, b: Operand): Value {
    return this.#binary('and', a, b);
  }
  or(a: Operand, b: Operand): Value {
    return this.#binary('or', a, b);
  }
  xor(a: Operand, b: Operand): Value {
    return this.#binary('xor', a, b);
  }
  not(x: Value): Value {
    return this.#unary('not', x);
  }
  shiftLeft(a: Operand, b: Operand): Value {
    return this.#binary('shl', a, b);
  }
  /** Arithmetic for signed types, logical for unsigned ones. */
  shiftRight(a: Operand, b: Operand): Value {
    return this.#binary('shr', a, b);
  }

  // --- comparisons: bool ---------------------------------------------------------------------------------------------

  equal(a: Operand, b: Operand): Value {
    return this.#binary('eq', a, b);
  }
  notEqual(a: Operand, b: Operand): Value {
    return this.#binary('ne', a, b);
  }
  less(a: Operand, b: Operand): Value {
    return this.#binary('lt', a, b);
  }
  lessOrEqual(a: Operand, b: Operand): Value {
    return this.#binary('le', a, b);
  }
  greater(a: Operand, b: Operand): Value {
    return this.#binary('gt', a, b);
  }
  greaterOrEqual(a: Operand, b: Operand): Value {
    return this.#binary('ge', a, b);
  }
  isNaN(x: Value): Value {
    return this.#unary('is_nan', x);
  }
  isInfinite(x: Value): Value {
    return this.#unary('is_inf', x);
  }

  /** condition ? a : b, all three broadcast. */
  where(condition: Value, a: Operand, b: Operand): Value {
    const g = this.at('where');
    return compose.select3(g, condition, ...this.pair(a, b));
  }

  /** Missing bounds do not bound; NaN stays NaN. */
  clip(x: Value, { min, max }: { readonly min?: number; readonly max?: number }): Value {
    return compose.clamp(this.at('clip'), x, min ?? null, max ?? null);
  }

  /** Conversion as ONNX Cast does it. */
  cast(x: Value, dtype: DType): Value {
    return compose.cast(this.at('cast'), x, dtype);
  }

  /** The same bits as another type of equal size. */
  bitcast(x: Value, dtype: DType): Value {
    return compose.bitcast(this.at('bitcast'), x, dtype);
  }

  // --- functions of one operand ----------------------------------------------------------------------------------------

  neg(x: Value): Value {
    return this.#unary('neg', x);
  }
  abs(x: Value): Value {
    return this.#unary('abs', x);
  }
  sign(x: Value): Value {
    return this.#unary('sign', x);
  }
  square(x: Value): Value {
    return compose.square(this.at('square'), x);
  }
  sqrt(x: Value): Value {
    return this.#unary('sqrt', x);
  }
  /** 1 / √x. */
  rsqrt(x: Value): Value {
    return this.#unary('rsqrt', x);
  }
  reciprocal(x: Value): Value {
    return this.#unary('recip', x);
  }
  exp(x: Value): Value {
    return this.#unary('exp', x);
  }
  exp2(x: Value): Value {
    return this.#unary('exp2', x);
  }
  /** e^x - 1 without cancellation. */
  expm1(x: Value): Value {
    return compose.expm1(this.at('expm1'), x);
  }
  log(x: Value): Value {
    return this.#unary('log', x);
  }
  log2(x: Value): Value {
    return this.#unary('log2', x);
  }
  /** log(1 + x) for x ≥ 0 without cancellation. */
  log1p(x: Value): Value {
    return compose.log1p(this.at('log1p'), x);
  }
  sin(x: Value): Value {
    return this.#unary('sin', x);
  }
  cos(x: Value): Value {
    return this.#unary('cos', x);
  }
  tan(x: Value): Value {
    return this.#unary('tan', x);
  }
  asin(x: Value): Value {
    return this.#unary('asin', x);
  }
  acos(x: Value): Value {
    return this.#unary('acos', x);
  }
  atan(x: Value): Value {
    return this.#unary('atan', x);
  }
  sinh(x: Value): Value {
    return this.#unary('sinh', x);
  }
  cosh(x: Value): Value {
    return this.#unary('cosh', x);
  }
  asinh(x: Value): Value {
    return this.#unary('asinh', x);
  }
  acosh(x: Value): Value {
    return this.#unary('acosh', x);
  }
  atanh(x: Value): Value {
    return this.#unary('atanh', x);
  }
  tanh(x: Value): Value {
    return this.#unary('tanh', x);
  }
  erf(x: Value): Value {
    return this.#unary('erf', x);
  }
  floor(x: Value): Value {
    return this.#unary('floor', x);
  }
  ceil(x: Value): Value {
    return this.#unary('ceil', x);
  }
  /** To nearest, ties to even. */
  round(x: Value): Value {
    return this.#unary('round', x);
  }
  trunc(x: Value): Value {
    return this.#unary('trunc', x);
  }

  // --- activations -----------------------------------------------------------------------------------------------------

  relu(x: Value): Value {
    return compose.relu(this.at('relu'), x);
  }
  relu6(x: Value): Value {
    return compose.relu6(this.at('relu6'), x);
  }
  sigmoid(x: Value): Value {
    return compose.sigmoid(this.at('sigmoid'), x);
  }
  /** x · sigmoid(x), also known as swish. */
  silu(x: Value): Value {
    return compose.silu(this.at('silu'), x);
  }
  /** x · Φ(x), by erf or by the tanh approximation. */
  gelu(x: Value, approximate: 'none' | 'tanh' = 'none'): Value {
    return compose.gelu(this.at('gelu'), x, approximate);
  }
  /** log(1 + e^x). */
  softplus(x: Value): Value {
    return compose.softplus(this.at('softplus'), x);
  }
  softsign(x: Value): Value {
    return compose.softsign(this.at('softsign'), x);
  }
  mish(x: Value): Value {
    return compose.mish(this.at('mish'), x);
  }
  hardSigmoid(x: Value, alpha = 1 / 6, beta = 0.5): Value {
    return compose.hardSigmoid(this.at('hardSigmoid'), x, alpha, beta);
  }
  hardSwish(x: Value): Value {
    return compose.hardSwish(this.at('hardSwish'), x);
  }
  /** The slope of the negative side is a number or (PReLU) a value that broadcasts. */
  leakyRelu(x: Value, slope: number | Value = 0.01): Value {
    return compose.leakyRelu(this.at('leakyRelu'), x, slope);
  }
  elu(x: Value, alpha = 1): Value {
    return compose.elu(this.at('elu'), x, alpha);
  }
  selu(x: Value): Value {
    return compose.selu(this.at('selu'), x);
  }
  celu(x: Value, alpha = 1): Value {
    return compose.celu(this.at('celu'), x, alpha);
  }
}
