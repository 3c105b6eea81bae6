/** Quantised operators: values are (q - zero point) · scale, rounded half to even and saturated on the way in. */
import { bitsOf, type DType, integerRange, isFloat, isInt } from '../../../dtype.js';
import {
  add,
  binaryC,
  broadcastTo,
  cast,
  clamp,
  div,
  mul,
  reduce,
  reshape,
  sub,
  unary,
} from '../../../graph/compose/index.js';
import { type Dim, mulDims } from '../../../graph/dims.js';
import type { Value } from '../../../graph/types.js';
import type { Conversion, ConvertContext } from '../context.js';
import { dtypeOf } from '../tensors.js';
import { channelwise, integerConv, integerMatmul } from './contraction.js';

/**
 * A scale or zero point in the shape of x, or one that broadcasts to it: a scalar, one per place of an axis, or one
 * per block of places.
 */
function spread(c: ConvertContext, parameter: Value, x: Value): Value {
  const { shape } = parameter.type;
  const rank = x.type.shape.length;
  if (shape.length === 0 || (shape.length === 1 && shape[0] === 1)) return reshape(c.b, parameter, []);
  const axis = c.axis(c.int('axis', 1), rank);
  const block = c.int('block_size', 0);
  if (block === 0) {
    if (shape.length !== 1) {
      c.fail(
        'scale and zero point must be scalars or vectors, or come with block_size',
        '0 or 1 axes',
        String(shape.length),
      );
    }
    return reshape(
      c.b,
      parameter,
      x.type.shape.map((_, i) => (i === axis ? shape[0] : 1)),
    );
  }
  // Each element stands for `block` places of the axis; the last block may be cut.
  const dim = c.concreteDim(x.type.shape[axis]);
  const blocks = c.concreteDim(shape[axis], 1);
  const repeated = broadcastTo(
    c.b,
    reshape(c.b, parameter, [...shape.slice(0, axis + 1), 1, ...shape.slice(axis + 1)]),
    [...shape.slice(0, axis + 1), block, ...shape.slice(axis + 1)],
  );
  const joined = reshape(
    c.b,
    repeated,
    shape.map((d, i): Dim => (i === axis ? mulDims(d, block) : d)),
  );
  if (blocks * block === dim) return joined;
  const zeros = shape.map(() => 0);
  const sizes = shape.map((d, i): Dim => (i === axis ? dim : d));
  return c.op('slice', [joined], { starts: zeros, sizes, steps: shape.map(() => 1) });
}

/** Float values as integers of `dtype`, the zero point added after rounding. */
export function quantised(c: ConvertContext, scaled: Value, zeroPoint: Value | undefined, dtype: DType): Value {
  if (isFloat(dtype)) {
    const shifted = zeroPoint === undefined ? scaled : add(c.b, scaled, cast(c.b, zeroPoint, scaled.type.dtype));
    return cast(c.b, shifted, dtype, c.flag('saturate', true));
  }
  if (!isInt(dtype)) return c.unsupported(`quantisation to ${dtype}`);
  const rounded = unary(c.b, 'round', scaled);
  const known = zeroPoint === undefined ? [0] : c.b.contentOf(zeroPoint);
  const zero = known?.every((value) => value === 0);
  const shifted =
    zero || zeroPoint === undefined ? rounded : add(c.b, rounded, cast(c.b, zeroPoint, scaled.type.dtype));
  const [low, high] = integerRange(dtype);
  return cast(c.b, clamp(c.b, shifted, Number(low), Number(high)), dtype);
}

export function quantize(c: ConvertContext): Value {
  const x = c.input(0);
  const requested = c.int('output_dtype', 0);
  const zero = c.has(2) ? c.input(2) : undefined;
  const dtype = requested !== 0 ? dtypeOf(requested, c.operator.source.node) : (zero?.type.dtype ?? 'u8');
  const precision = c.int('precision', 0);
  const scaleType = c.dtype(1);
  // Without `precision` two operands of a 16-bit float are divided in it, all others in f32 or wider.
  const isHalf = (scaleType === 'f16' || scaleType === 'bf16') && x.type.dtype === scaleType;
  const usual: DType = isHalf ? scaleType : scaleType === 'f64' ? 'f64' : 'f32';
  const inner = precision !== 0 ? dtypeOf(precision, c.operator.source.node) : usual;
  const scale = cast(c.b, spread(c, c.input(1), x), inner);
  const scaled = div(c.b, cast(c.b, x, inner), scale);
  // The division is in the given precision, the rest exact.
  const wide = bitsOf(inner) < 32 ? cast(c.b, scaled, 'f32') : scaled;
  return quantised(c, wide, zero === undefined ? undefined : spread(c, zero, x), dtype);
}

export function dequantize(c: ConvertContext): Value {
  const x = c.input(0);
  const requested = c.int('output_dtype', 0);
  const scaleType = c.dtype(1);
  const dtype = requested !== 0 ? dtypeOf(requested, c.operator.source.node) : scaleType;
  const inner: DType = scaleType === 'f64' || dtype === 'f64' ? 'f64' : 'f32';
  let value: Value;
  if (isInt(x.type.dtype)) {
    const zero = c.has(2) ? c.input(2) : undefined;
    const none = zero === undefined || (c.b.contentOf(zero)?.every((z) => z === 0) ?? false);
    const integer = none ? x : sub(c.b, cast(c.b, x, 'i32'), spread(c, cast(c.b, zero, 'i32'), x));
    value = cast(c.b, integer, inner);
  } else value = cast(c.b, x, inner);
  return cast(c.b, mul(c.b, value, cast(c.b, spread(c, c.input(1), x), inner)), dtype);
}

/** x as u8 by the range of its data, which is made to include 0; its scale; its zero point. */
export function dynamicQuantized(c: ConvertContext, x: Value): readonly [x: Value, scale: Value, zero: Value] {
  const axes = x.type.shape.map((_, i) => i);
  const high = clamp(c.b, reduce(c.b, 'max', x, axes), 0, null);
  const low = clamp(c.b, reduce(c.b, 'min', x, axes), null, 0);
  const scale = binaryC(c.b, 'div', sub(c.b, high, low), 255);
  const zero = unary(c.b, 'round', clamp(c.b, unary(c.b, 'neg', div(c.b, low, scale)), 0, 255));
  const scaled = unary(c.b, 'round', div(c.b, x, scale));
  return [cast(c.b, clamp(c.b, add(c.b, scaled, zero), 0, 255), 'u8'), scale, cast(c.b, zero, 'u8')];
}

/** An i32 accumulator brought to the scale of the output: acc · (a_scale · b_scale / y_scale). */
function requantise(c: ConvertContext, sum: Value, factor: Value, yZero: Value): Value {
  return quantised(c, mul(c.b, cast(c.b, sum, 'f32'), factor), yZero, yZero.type.dtype);
}

/** A scale that is one number, or one a row or column. */
const scaleOf = (c: ConvertContext, i: number, place: (scale: Value) => Value): Value => {
  const scale = cast(c.b, c.input(i), 'f32');
  const { shape } = scale.type;
  return shape.length === 1 && shape[0] === 1 ? reshape(c.b, scale, []) : shape.length === 0 ? scale : place(scale);
};

function qLinearMatMul(c: ConvertContext): Value {
  const sum = integerMatmul(c, c.input(0), c.inputs[2], c.input(3), c.inputs[5]);
  const rows = (scale: Value): Value =>
    scale.type.shape.length === 1 ? reshape(c.b, scale, [scale.type.shape[0], 1]) : scale;
  const product = mul(
    c.b,
    scaleOf(c, 1, rows),
    scaleOf(c, 4, (scale) => scale),
  );
  const factor = div(c.b, product, scaleOf(c, 6, rows));
  const yZero = c.input(7);
  return requantise(c, sum, factor, yZero.type.shape.length === 1 ? rowsOrSingle(c, yZero) : yZero);
}

const rowsOrSingle = (c: ConvertContext, x: Value): Value =>
  reshape(c.b, x, x.type.shape[0] === 1 ? [] : [x.type.shape[0], 1]);

/** Of `x` [N, C, …spatial]; scales, weights and bias are the operator's inputs. */
export function qLinearConv(c: ConvertContext, x = c.input(0)): Value {
  let sum = integerConv(c, x, c.inputs[2], c.input(3), c.inputs[5]);
  const rank = c.rank(0);
  if (c.has(8)) sum = add(c.b, sum, channelwise(c, c.input(8), rank));
  const channels = (scale: Value): Value => channelwise(c, scale, rank);
  const product = mul(c.b, scaleOf(c, 1, channels), scaleOf(c, 4, channels));
  const yZero = c.input(7);
  return requantise(c, sum, div(c.b, product, scaleOf(c, 6, channels)), reshape(c.b, yZero, []));
}

export const quantization: readonly Conversion[] = [
  { op: 'QuantizeLinear', since: 10, convert: quantize },
  { op: 'DequantizeLinear', since: 10, convert: dequantize },
  { op: 'DynamicQuantizeLinear', since: 11, convert: (c) => dynamicQuantized(c, c.input(0)) },
  { op: 'QLinearMatMul', since: 10, convert: qLinearMatMul },
  { op: 'QLinearConv', since: 10, convert: (c) => qLinearConv(c) },
];
