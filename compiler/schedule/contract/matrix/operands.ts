/**
 * What a matrix unit is given: which unit multiplies a contraction's operands, and where their elements come from.
 *
 * Floats of 16 bits are taken as they are, f32 where a unit takes f32 (or tf32, which `numerics` has then allowed).
 * Integers of 8 bits are taken where they are, however they were widened (`narrow.ts`); a zero point z of a side whose
 * other side is constant leaves the products, since Σ(a - z)·b = Σa·b - z·Σb, and Σb is a constant of each row or column.
 */
import type { ConstantData } from '../../../graph/types.js';
import type { MatrixUnit, TileScalar } from '../../../kernel/engines.js';
import type { Target } from '../../../kernel/target.js';
import type { ScalarType } from '../../../kernel/types.js';
import { emptyTensor } from '../../../tensor.js';
import type { Affine } from '../../affine.js';
import type { Group } from '../../group.js';
import type { DerivedConstant } from '../../lowered.js';
import { scalarOf } from '../../tensors.js';
import type { Contraction, Operand } from '../contraction.js';
import { integersOf, type Narrow, narrowOperand } from '../narrow.js';
import { type Strides, stridesOf } from '../packing.js';
import { type Memory, memoryOf } from './memory.js';

/** One side of the product. */
export interface Side {
  readonly operand: Operand;
  /** Element type in shared memory and, as tiles see it, in the unit. */
  readonly scalar: ScalarType;
  /** Rows (m or n) that exist. */
  readonly rows: number;
  /** Which of the side's own batches a batch of the contraction takes. */
  batchOf(batch: Affine): Affine;
  /** Integers of 8 bits behind the operand. */
  readonly narrow?: Narrow;
  /** Where elements can be fetched without computing anything; absent for padding, other index maps, casts. */
  readonly memory?: Memory;
}

/** What is added to each sum: by row (m), or by column (n), of each batch of the constant side. */
export interface Correction {
  readonly along: 'm' | 'n';
  readonly constant: DerivedConstant;
  readonly length: number;
}

export interface Product {
  readonly unit: MatrixUnit;
  readonly lhs: Side;
  readonly rhs: Side;
  readonly correction?: Correction;
}

/** Sums that wrap are wrong where the result is not an i32 itself. */
const largestSum = 2 ** 31;

/** The product on a matrix unit of the target; undefined where none computes it as exactly as it must be. */
export function productOf(group: Group, target: Target, contraction: Contraction): Product | undefined {
  const units = target.matrixUnits ?? [];
  if (units.length === 0 || contraction.k === 0) return undefined;
  const context: Context = { group, target, contraction };
  return integerProduct(context, units) ?? floatProduct(context, units);
}

interface Context {
  readonly group: Group;
  readonly target: Target;
  readonly contraction: Contraction;
}

const find = (units: readonly MatrixUnit[], a: TileScalar, b: TileScalar, accumulator: TileScalar) =>
  units.find((unit) => unit.a === a && unit.b === b && unit.accumulator === accumulator);

// Floats --------------------------------------------------------------------------------------------------------------

function floatProduct(context: Context, units: readonly MatrixUnit[]): Product | undefined {
  const { contraction } = context;
  const { lhs, rhs, accumulator } = contraction;
  const [a, b] = [scalarOf(lhs.value), scalarOf(rhs.value)];
  if (accumulator !== 'f32' || a !== b || (a !== 'f16' && a !== 'bf16' && a !== 'f32')) return undefined;
  const unit = find(units, a, a, 'f32') ?? (a === 'f32' ? find(units, 'tf32', 'tf32', 'f32') : undefined);
  if (!unit) return undefined;
  const side = (operand: Operand, batches: number, rows: number, batchOf: Side['batchOf']): Side => {
    const memory = memoryOf(context.group, context.target, contraction, operand, batches, rows);
    return { operand, scalar: a, rows, batchOf, ...optional('memory', memory) };
  };
  return {
    unit,
    lhs: side(lhs, contraction.lhsBatches, contraction.m, contraction.lhsBatch),
    rhs: side(rhs, contraction.rhsBatches, contraction.n, contraction.rhsBatch),
  };
}

// Integers ------------------------------------------------------------------------------------------------------------

/** A side of integers: how it is read, and what is known of its values. */
interface IntegerSide {
  readonly scalar: 'i8' | 'u8';
  /** What is to be subtracted from the elements that are read. */
  readonly zero: number;
  /** Largest magnitude of an element that is read, and of one without its zero point. */
  readonly largest: number;
  readonly narrow?: Narrow;
  /** Set for constants, whose elements are read from a copy. */
  readonly weights?: Weights;
}

/** A constant of small integers, rows of k elements each. */
interface Weights {
  readonly data: ConstantData;
  readonly strides: Strides;
  readonly batches: number;
  readonly rows: number;
}

function integerProduct(context: Context, units: readonly MatrixUnit[]): Product | undefined {
  const { contraction } = context;
  const { accumulator, k, lhsBatches, rhsBatches, m, n } = contraction;
  if (accumulator !== 'i32' && accumulator !== 'f32') return undefined;
  const lhs = integerSide(context, contraction.lhs, lhsBatches, m);
  const rhs = lhs && integerSide(context, contraction.rhs, rhsBatches, n);
  if (!lhs || !rhs) return undefined;
  const unit = find(units, lhs.scalar, rhs.scalar, 'i32');
  if (!unit) return undefined;
  // A zero point needs a constant on the other side, and one such side is enough for what occurs.
  if ((lhs.zero !== 0 && !rhs.weights) || (rhs.zero !== 0 && !lhs.weights)) return undefined;
  // i32 results wrap as the integers themselves do; those held in f32 must not.
  if (accumulator === 'f32' && k * lhs.largest * rhs.largest >= largestSum) return undefined;
  const side = (
    from: IntegerSide,
    operand: Operand,
    batches: number,
    rows: number,
    batchOf: Side['batchOf'],
  ): Side => ({
    operand,
    scalar: from.scalar,
    rows,
    batchOf,
    ...(from.narrow ? { narrow: from.narrow } : {}),
    ...optional(
      'memory',
      from.weights
        ? packedWeights(operand, from.scalar, from.weights, k)
        : memoryOf(context.group, context.target, contraction, operand, batches, rows, from.narrow),
    ),
  });
  const correction =
    lhs.zero !== 0 && rhs.weights
      ? correctionOf('n', rhs.weights, lhs.zero, k, contraction.rhs)
      : rhs.zero !== 0 && lhs.weights
        ? correctionOf('m', lhs.weights, rhs.zero, k, contraction.lhs)
        : undefined;
  return {
    unit,
    lhs: side(lhs, contraction.lhs, lhsBatches, m, contraction.lhsBatch),
    rhs: side(rhs, contraction.rhs, rhsBatches, n, contraction.rhsBatch),
    ...(correction ? { correction } : {}),
  };
}

const optional = <K extends string, V>(key: K, value: V | undefined): { readonly [P in K]?: V } =>
  (value === undefined ? {} : { [key]: value }) as { readonly [P in K]?: V };

function integerSide(
  { group, contraction: { k } }: Context,
  operand: Operand,
  batches: number,
  rows: number,
): IntegerSide | undefined {
  const data = group.constants.get(operand.value.id);
  if (data) {
    const strides = stridesOf(operand, { batches, rows, k, width: 1 });
    const integers = strides && integersOf(data);
    const scalar = integers?.zero === 0 ? integers.scalar : undefined;
    const largest = scalar === 'u8' ? 255 : 128;
    return scalar && strides && { scalar, zero: 0, largest, weights: { data, strides, batches, rows } };
  }
  const narrow = narrowOperand(group, operand.value);
  if (!narrow) return undefined;
  return { scalar: narrow.scalar, zero: narrow.zero, largest: 255, narrow };
}

/** Elements of a row of packed weights: whole 16-byte vectors. */
const packedRow = (k: number): number => Math.ceil(k / 16) * 16;

function packedWeights(operand: Operand, scalar: 'i8' | 'u8', weights: Weights, k: number): Memory {
  const { batches, rows, data } = weights;
  const pitch = packedRow(k);
  const length = batches * rows * pitch;
  const constant: DerivedConstant = {
    kind: 'constant',
    name: `${operand.value.name}.rows8`,
    data: {
      dtype: scalar,
      shape: [length],
      load() {
        const packed = emptyTensor(scalar, [length]);
        const bytes = packed.data as Uint8Array;
        const source = data.load().data as Float32Array;
        forEachRow(weights, (row, from, step) => {
          for (let i = 0; i < k; i++) bytes[row * pitch + i] = source[from + i * step];
        });
        return packed;
      },
    },
  };
  return {
    binding: { kind: 'derived', constant },
    length,
    offset: 0,
    parts: batches > 1 ? [{ stride: rows * pitch, extent: batches, of: (batch) => batch }] : [],
    rowStride: pitch,
    kStride: 1,
  };
}

function correctionOf(along: 'm' | 'n', weights: Weights, zero: number, k: number, operand: Operand): Correction {
  const length = weights.batches * weights.rows;
  return {
    along,
    length,
    constant: {
      kind: 'constant',
      name: `${operand.value.name}.zero${zero}`,
      data: {
        dtype: 'i32',
        shape: [length],
        load() {
          const sums = emptyTensor('i32', [length]);
          const source = weights.data.load().data as Float32Array;
          forEachRow(weights, (row, from, step) => {
            let sum = 0;
            for (let i = 0; i < k; i++) sum += source[from + i * step];
            (sums.data as Int32Array)[row] = -zero * sum;
          });
          return sums;
        },
      },
    },
  };
}

/** Calls `visit` for every row of every batch with where it begins and how far apart its elements are. */
function forEachRow(
  { strides, batches, rows }: Weights,
  visit: (row: number, from: number, step: number) => void,
): void {
  for (let batch = 0; batch < batches; batch++) {
    for (let row = 0; row < rows; row++)
      visit(batch * rows + row, strides.offset + batch * strides.batch + row * strides.row, strides.k);
  }
}
