/** Elementwise ops on values of one type, brought to one shape. */
import { type DType, isFloat, isInt } from '../../dtype.js';
import type { ScaleRounding } from '../../minifloat.js';
import type { GraphBuilder } from '../builder.js';
import type { BinaryOp, UnaryOp, Value } from '../types.js';
import { type Literal, one } from './append.js';
import { broadcastAll } from './broadcast.js';
import { scalar } from './constants.js';

export const unary = (b: GraphBuilder, fn: UnaryOp, x: Value): Value => one(b, fn, [x], {});

/** With numpy's broadcasting. */
export function binary(b: GraphBuilder, fn: BinaryOp, x: Value, y: Value): Value {
  return one(b, fn, broadcastAll(b, x, y), {});
}

/** `x fn constant`, the constant in x's element type. */
export const binaryC = (b: GraphBuilder, fn: BinaryOp, x: Value, value: Literal): Value =>
  binary(b, fn, x, scalar(b, value, x.type.dtype));

export const add = (b: GraphBuilder, x: Value, y: Value): Value => binary(b, 'add', x, y);
export const sub = (b: GraphBuilder, x: Value, y: Value): Value => binary(b, 'sub', x, y);
export const mul = (b: GraphBuilder, x: Value, y: Value): Value => binary(b, 'mul', x, y);
export const div = (b: GraphBuilder, x: Value, y: Value): Value => binary(b, 'div', x, y);

/** condition ? x : y, with broadcasting. */
export const select3 = (b: GraphBuilder, condition: Value, x: Value, y: Value): Value =>
  one(b, 'select', broadcastAll(b, condition, x, y), {});

export const clamp = (b: GraphBuilder, x: Value, min: number | null, max: number | null): Value =>
  min === null && max === null ? x : one(b, 'clamp', [x], { min, max });

/** ONNX semantics; `saturate` matters for f8 only, `rounding` for f8e8m0. */
export const cast = (b: GraphBuilder, x: Value, dtype: DType, saturate = true, rounding?: ScaleRounding): Value =>
  x.type.dtype === dtype ? x : one(b, 'cast', [x], { dtype, saturate, ...(rounding && { rounding }) });

export const bitcast = (b: GraphBuilder, x: Value, dtype: DType): Value =>
  x.type.dtype === dtype ? x : one(b, 'bitcast', [x], { dtype });

export const not = (b: GraphBuilder, x: Value): Value => unary(b, 'not', x);
export const square = (b: GraphBuilder, x: Value): Value => binary(b, 'mul', x, x);

/** Remainder with the sign of the divisor (Python's %, ONNX Mod with fmod = 0). */
export function floorMod(b: GraphBuilder, x: Value, y: Value): Value {
  const rest = binary(b, 'rem', x, y);
  if (isInt(x.type.dtype) && x.type.dtype.startsWith('u')) return rest;
  const zero = scalar(b, 0, x.type.dtype);
  const opposite = binary(b, 'ne', binary(b, 'lt', rest, zero), binary(b, 'lt', y, zero));
  const mend = binary(b, 'and', binary(b, 'ne', rest, zero), opposite);
  return select3(b, mend, binary(b, 'add', rest, y), rest);
}

/** Quotient rounded down. */
export function floorDiv(b: GraphBuilder, x: Value, y: Value): Value {
  if (isFloat(x.type.dtype)) return unary(b, 'floor', div(b, x, y));
  return div(b, sub(b, x, floorMod(b, x, y)), y);
}

/** Computes in f32 if x is of a smaller float type, and rounds once at the end. */
export function wide(b: GraphBuilder, x: Value, body: (x: Value) => Value): Value {
  const { dtype } = x.type;
  if (!isFloat(dtype) || dtype === 'f32' || dtype === 'f64') return body(x);
  return cast(b, body(cast(b, x, 'f32')), dtype);
}
