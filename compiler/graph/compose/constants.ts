/** Constants. */
import type { DType } from '../../dtype.js';
import type { HostTensor } from '../../tensor.js';
import type { GraphBuilder } from '../builder.js';
import type { Dim } from '../dims.js';
import { filledTensor, tensorOfElements, tensorOfNumbers } from '../ops/reference/data.js';
import type { Value } from '../types.js';
import { axisOf, type Literal, one } from './append.js';
import { broadcastTo } from './broadcast.js';

/** A constant without axes. */
export const scalar = (b: GraphBuilder, value: Literal | string, dtype: DType): Value =>
  b.constant(filledTensor(dtype, [], value));

/** A constant value in every place of `shape`. */
export const full = (b: GraphBuilder, value: Literal | string, dtype: DType, shape: readonly Dim[]): Value =>
  broadcastTo(b, scalar(b, value, dtype), shape);

/** A constant vector (or of `shape`) of numbers; i64 and u64 from integers. */
export function tensor(
  b: GraphBuilder,
  dtype: DType,
  values: readonly (number | bigint)[],
  shape: readonly number[] = [values.length],
): Value {
  if (dtype === 'i64') return b.constant(tensorOfElements(dtype, shape, BigInt64Array.from(values, BigInt)));
  if (dtype === 'u64') return b.constant(tensorOfElements(dtype, shape, BigUint64Array.from(values, BigInt)));
  return b.constant(tensorOfNumbers(dtype, shape, values.map(Number)));
}

/** 0, 1, 2 … along an axis. */
export const iota = (b: GraphBuilder, dtype: DType, shape: readonly Dim[], axis = 0): Value =>
  one(b, 'iota', [], { dtype, shape, axis: axisOf(b, axis, shape.length) });

/** The data of a value that is a constant, or undefined. */
export const constantData = (b: GraphBuilder, value: Value): HostTensor | undefined => b.constantOf(value)?.load();
