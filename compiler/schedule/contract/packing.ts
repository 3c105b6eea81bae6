/**
 * Packed operands: [batch][tile][k][width], rows of a tile side by side, so that a register tile reads `width`
 * consecutive elements a step of k. Constants are packed once, when they are uploaded; rows beyond the operand's end
 * are zeros.
 */
import type { ConstantData, Value } from '../../graph/types.js';
import { KernelBuilder } from '../../kernel/builder.js';
import type { ScalarType } from '../../kernel/types.js';
import { emptyTensor, sizeOf } from '../../tensor.js';
import { Affine, linearize } from '../affine.js';
import type { Group } from '../group.js';
import type { DerivedConstant } from '../lowered.js';
import { scalarOf, shapeOf } from '../tensors.js';
import type { Contraction, Operand } from './contraction.js';
import { vector } from './tiling.js';

export interface PackedShape {
  readonly batches: number;
  readonly rows: number;
  readonly k: number;
  readonly width: number;
}

export interface Strides {
  readonly batch: number;
  readonly row: number;
  readonly k: number;
  readonly offset: number;
}

/** Element address = offset + batch·a + row·b + k·c, if the operand is that simple. */
export function stridesOf(operand: Operand, { batches, rows, k }: PackedShape): Strides | undefined {
  if (operand.padded) return undefined;
  const b = new KernelBuilder();
  // In a scratch builder the workgroup's coordinates serve as three independent variables.
  const variable = (dim: 0 | 1 | 2, extent: number) => Affine.of(b.builtin('workgroup_id', dim, extent), b);
  const [batchAt, rowAt, kAt] = [variable(0, batches), variable(1, rows), variable(2, k)];
  const address = linearize(operand.index(batchAt, rowAt, kAt), shapeOf(operand.value));
  const coefficient = (variableAt: Affine): number | undefined => {
    if (variableAt.isConstant) return 0;
    const [{ atom }] = variableAt.terms;
    return address.terms.find((term) => term.atom.key === atom.key)?.coefficient ?? 0;
  };
  if (address.terms.some(({ atom }) => atom.kind !== 'value')) return undefined;
  return {
    batch: coefficient(batchAt) as number,
    row: coefficient(rowAt) as number,
    k: coefficient(kAt) as number,
    offset: address.constant,
  };
}

export const packedLength = ({ batches, rows, k, width }: PackedShape): number =>
  batches * Math.ceil(rows / width) * k * width;

/** The packed form of a constant operand. Data is read when the result is. */
export function packConstant(value: Value, data: ConstantData, shape: PackedShape, strides: Strides): DerivedConstant {
  const packed = [packedLength(shape)];
  return {
    kind: 'constant',
    name: `${value.name}.packed${shape.width}`,
    data: {
      dtype: data.dtype,
      shape: packed,
      load() {
        const source = data.load();
        const result = emptyTensor(data.dtype, packed);
        pack(source.data as Float32Array, result.data as Float32Array, shape, strides, sizeOf(source.shape));
        return result;
      },
    },
  };
}

/** The lhs as a packed constant, if it is one that only the anchor reads, in the accumulators' type. */
export function packedLhs(group: Group, contraction: Contraction, width: number): DerivedConstant | undefined {
  const { lhs, accumulator, lhsBatches, m, k } = contraction;
  return packedOperand(group, lhs, accumulator, { batches: lhsBatches, rows: m, k, width });
}

/** The same for the rhs. */
export function packedRhs(group: Group, contraction: Contraction, width: number): DerivedConstant | undefined {
  const { rhs, accumulator, rhsBatches, n, k } = contraction;
  return packedOperand(group, rhs, accumulator, { batches: rhsBatches, rows: n, k, width });
}

function packedOperand(
  group: Group,
  operand: Operand,
  accumulator: ScalarType,
  shape: PackedShape,
): DerivedConstant | undefined {
  const { value } = operand;
  const own = group.constants.get(value.id);
  if (!own || scalarOf(value) !== accumulator || !group.reads.includes(value)) return undefined;
  if (group.nodes.some((node) => node !== group.anchor && node.inputs.includes(value))) return undefined;
  const strides = stridesOf(operand, shape);
  return strides && packConstant(value, own, shape, strides);
}

/** How four steps of k, or four rows, of an operand are read: aligned vectors where its memory allows. */
export type Reading = 'along-k' | 'along-row' | 'element';

/** How an operand's memory can be read in vectors. */
export function readingOf(group: Group, operand: Operand, batches: number, rows: number, k: number): Reading {
  const strides = group.reads.includes(operand.value) ? stridesOf(operand, { batches, rows, k, width: 1 }) : undefined;
  if (!strides) return 'element';
  const aligned = (...values: number[]) => values.every((value) => value % vector === 0);
  if (strides.k === 1 && aligned(strides.offset, strides.batch, strides.row, k)) return 'along-k';
  if (strides.row === 1 && aligned(strides.offset, strides.batch, strides.k, rows)) return 'along-row';
  return 'element';
}

function pack(
  source: Float32Array,
  target: Float32Array,
  { batches, rows, k, width }: PackedShape,
  strides: Strides,
  length: number,
): void {
  let at = 0;
  for (let batch = 0; batch < batches; batch++) {
    for (let first = 0; first < rows; first += width) {
      const count = Math.min(width, rows - first);
      const base = strides.offset + batch * strides.batch + first * strides.row;
      if (base + (count - 1) * strides.row + (k - 1) * strides.k >= length)
        throw new RangeError('packing reads beyond the constant');
      for (let step = 0; step < k; step++) {
        let from = base + step * strides.k;
        for (let row = 0; row < count; row++, from += strides.row) target[at + row] = source[from];
        at += width;
      }
    }
  }
}
