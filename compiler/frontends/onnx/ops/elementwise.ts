/** Elementwise operators: arithmetic, comparison, logic, bits, conversion. */
import { isFloat, isInt, isPacked } from '../../../dtype.js';
import {
  binary,
  binaryC,
  bitcast,
  cast,
  clamp,
  div,
  floorMod,
  mul,
  reshape,
  scalar,
  select3,
  unary,
} from '../../../graph/compose/index.js';
import type { BinaryOp, UnaryOp, Value } from '../../../graph/types.js';
import { scaleRoundings } from '../../../minifloat.js';
import type { Conversion, ConvertContext } from '../context.js';
import { dtypeOf } from '../tensors.js';
import { castStrings, equalStrings } from './strings.js';

/** ONNX names of the graph's unary ops. */
const unaryNames: Readonly<Record<string, UnaryOp>> = {
  Neg: 'neg',
  Abs: 'abs',
  Sign: 'sign',
  Exp: 'exp',
  Log: 'log',
  Sqrt: 'sqrt',
  Reciprocal: 'recip',
  Sin: 'sin',
  Cos: 'cos',
  Tan: 'tan',
  Asin: 'asin',
  Acos: 'acos',
  Atan: 'atan',
  Sinh: 'sinh',
  Cosh: 'cosh',
  Tanh: 'tanh',
  Asinh: 'asinh',
  Acosh: 'acosh',
  Atanh: 'atanh',
  Erf: 'erf',
  Floor: 'floor',
  Ceil: 'ceil',
  Round: 'round',
  Not: 'not',
  BitwiseNot: 'not',
  IsNaN: 'is_nan',
};

/** ONNX names of the graph's binary ops, with numpy's broadcasting. */
const binaryNames: Readonly<Record<string, BinaryOp>> = {
  Add: 'add',
  Sub: 'sub',
  Mul: 'mul',
  Div: 'div',
  And: 'and',
  Or: 'or',
  Xor: 'xor',
  BitwiseAnd: 'and',
  BitwiseOr: 'or',
  BitwiseXor: 'xor',
  Equal: 'eq',
  Greater: 'gt',
  Less: 'lt',
  GreaterOrEqual: 'ge',
  LessOrEqual: 'le',
};

/** Before opset 7 the second operand broadcasts only with `broadcast`, aligned at `axis` of the first or at its end. */
function operands(c: ConvertContext): [Value, Value] {
  const [a, b] = [c.input(0), c.input(1)];
  if (c.opset < 7 && c.flag('broadcast') && c.hasAttr('axis')) {
    const axis = c.axis(c.int('axis'), c.rank(0));
    const after = c.rank(0) - axis - c.rank(1);
    if (after < 0) c.fail('the second operand does not fit at the axis');
    return [a, reshape(c.b, b, [...c.shape(1), ...new Array<number>(after).fill(1)])];
  }
  c.decideBroadcast(c.shape(0), c.shape(1));
  return [a, b];
}

const variadic = (
  op: string,
  fn: 'add' | 'max' | 'min',
  finish = (_: ConvertContext, sum: Value) => sum,
): Conversion => ({
  op,
  since: 1,
  convert(c) {
    const values = c.inputs.map((_, i) => c.input(i));
    if (values.length === 0) c.fail('no inputs', '1 or more', '0');
    c.decideBroadcast(...values.map((value) => value.type.shape));
    return finish(
      c,
      values.reduce((x, y) => binary(c.b, fn, x, y)),
    );
  },
});

function pow(c: ConvertContext): Value {
  let [x, y] = operands(c);
  const { dtype } = x.type;
  if (x.type.dtype !== y.type.dtype) {
    // Base and exponent may differ in type; the result has the base's.
    if (isInt(dtype) && isFloat(y.type.dtype)) {
      const wide = y.type.dtype === 'f64' || dtype === 'i64' ? 'f64' : 'f32';
      return cast(c.b, binary(c.b, 'pow', cast(c.b, x, wide), cast(c.b, y, wide)), dtype);
    }
    y = cast(c.b, y, dtype);
  }
  const exponent = c.b.constantOf(y)?.shape.length === 0 && isFloat(dtype) ? c.number(1) : undefined;
  if (exponent === 2) return mul(c.b, x, x);
  if (exponent === 0.5) return unary(c.b, 'sqrt', x);
  if (exponent === 1) return x;
  return binary(c.b, 'pow', x, y);
}

/** A bound of Clip: a number if it is a constant that a double holds. */
function bound(c: ConvertContext, i: number): number | Value | null {
  if (!c.has(i)) return null;
  const tensor = c.known(i);
  if (tensor === undefined) return c.input(i);
  const value = c.number(i);
  if (Number.isNaN(value) || (isInt(c.dtype(i)) && !Number.isSafeInteger(value))) return c.input(i);
  return value;
}

function clip(c: ConvertContext): Value {
  const [low, high] = [bound(c, 1), bound(c, 2)];
  const isNumber = (limit: number | Value | null): limit is number | null =>
    typeof limit !== 'object' || limit === null;
  if (isNumber(low) && isNumber(high)) return clamp(c.b, c.input(0), low, high);
  // A scalar may come as a vector of one element, which must not raise the rank.
  const limited = (x: Value, fn: 'max' | 'min', i: number): Value =>
    c.has(i) ? binary(c.b, fn, x, reshape(c.b, c.input(i), [])) : x;
  return limited(limited(c.input(0), 'max', 1), 'min', 2);
}

function isInf(c: ConvertContext): Value {
  const [positive, negative] = [c.flag('detect_positive', true), c.flag('detect_negative', true)];
  const x = c.input(0);
  const infinite = unary(c.b, 'is_inf', x);
  if (positive && negative) return infinite;
  const side = binaryC(c.b, positive ? 'gt' : 'lt', x, 0);
  const none = binary(c.b, 'and', infinite, side);
  return positive || negative ? none : binary(c.b, 'and', none, unary(c.b, 'not', infinite));
}

function castTo(c: ConvertContext): Value {
  const to = c.operator.attrs.to;
  // Opset 1 named the type.
  const names: Readonly<Record<string, number>> = {
    FLOAT: 1,
    UINT8: 2,
    INT8: 3,
    UINT16: 4,
    INT16: 5,
    INT32: 6,
    INT64: 7,
    STRING: 8,
    BOOL: 9,
    FLOAT16: 10,
    DOUBLE: 11,
  };
  const type = typeof to === 'string' ? names[to] : c.int('to');
  const dtype = dtypeOf(type, c.operator.source.node);
  return convertTo(c, dtype);
}

function convertTo(c: ConvertContext, dtype: Value['type']['dtype']): Value {
  const from = c.dtype(0);
  if (from !== dtype && (from === 'string' || dtype === 'string')) return castStrings(c, dtype);
  // Floats saturate, but packed integers are the low bits of wider ones.
  const narrow = isFloat(from) && isInt(dtype) && isPacked(dtype);
  const rounding = dtype === 'f8e8m0' ? c.choice('round_mode', scaleRoundings, 'up') : undefined;
  return cast(c.b, narrow ? cast(c.b, c.input(0), 'i32') : c.input(0), dtype, c.flag('saturate', true), rounding);
}

export const elementwise: readonly Conversion[] = [
  ...Object.entries(unaryNames).map(
    ([op, fn]): Conversion => ({ op, since: 1, convert: (c) => unary(c.b, fn, c.input(0)) }),
  ),
  ...Object.entries(binaryNames).map(
    ([op, fn]): Conversion => ({
      op,
      since: 1,
      convert: (c) => (fn === 'eq' && c.dtype(0) === 'string' ? equalStrings(c) : binary(c.b, fn, ...operands(c))),
    }),
  ),
  variadic('Sum', 'add'),
  variadic('Max', 'max'),
  variadic('Min', 'min'),
  variadic('Mean', 'add', (c, sum) => div(c.b, sum, scalar(c.b, c.inputs.length, sum.type.dtype))),
  { op: 'Pow', since: 1, convert: pow },
  {
    op: 'Mod',
    since: 10,
    convert(c) {
      const [x, y] = operands(c);
      return c.flag('fmod') ? binary(c.b, 'rem', x, y) : floorMod(c.b, x, y);
    },
  },
  {
    op: 'BitShift',
    since: 11,
    convert(c) {
      const direction = c.choice('direction', ['LEFT', 'RIGHT'], 'LEFT');
      return binary(c.b, direction === 'LEFT' ? 'shl' : 'shr', ...operands(c));
    },
  },
  {
    op: 'Where',
    since: 9,
    convert(c) {
      c.decideBroadcast(c.shape(0), c.shape(1), c.shape(2));
      return select3(c.b, c.input(0), c.input(1), c.input(2));
    },
  },
  {
    op: 'Clip',
    since: 1,
    convert: (c) =>
      clamp(c.b, c.input(0), c.hasAttr('min') ? c.float('min') : null, c.hasAttr('max') ? c.float('max') : null),
  },
  { op: 'Clip', since: 11, convert: clip },
  { op: 'IsInf', since: 10, convert: isInf },
  { op: 'Cast', since: 1, convert: castTo },
  { op: 'CastLike', since: 15, convert: (c) => convertTo(c, c.dtype(1)) },
  {
    op: 'BitCast',
    since: 26,
    convert(c) {
      const dtype = dtypeOf(c.int('to'), c.operator.source.node);
      // A bool is stored as a byte of 0 or 1.
      if (c.dtype(0) === 'bool') return bitcast(c.b, cast(c.b, c.input(0), 'u8'), dtype);
      if (dtype === 'bool') return binaryC(c.b, 'ne', bitcast(c.b, c.input(0), 'u8'), 0);
      return bitcast(c.b, c.input(0), dtype);
    },
  },
];
