/** Operands as tensors that the bulk copy engine cuts boxes from: where elements of 16 bits are neighbours, and how far apart the rest is. */
import type { KTensorMap } from '../../../kernel/engines.js';
import type { Along } from './blocks.js';
import type { BatchPart } from './memory.js';
import type { Side } from './operands.js';

/** Dimensions of a tensor that boxes are cut from. */
const mostDims = 5;

/** The boxes of a side: where its elements are neighbours, and the tensor that they are cut from. */
export interface Boxes {
  readonly along: Along;
  readonly value: Side['operand']['value'];
  readonly map: Omit<KTensorMap, 'kind' | 'name' | 'buffer' | 'box'>;
  /** Dimensions after the two of the matrix. */
  readonly parts: readonly BatchPart[];
}

/** The side as a tensor that boxes can be cut from; undefined where its memory is not regular or not aligned. */
export function boxesOf({ memory, rows }: Side, k: number): Boxes | undefined {
  if (memory?.binding.kind !== 'value') return undefined;
  const { offset, parts, rowStride, kStride } = memory;
  const along: Along | undefined = kStride === 1 || k === 1 ? 'k' : rowStride === 1 || rows === 1 ? 'row' : undefined;
  if (!along) return undefined;
  const [inner, outer, step] = along === 'k' ? [k, rows, rowStride] : [rows, k, kStride];
  // A dimension of one element has any stride.
  const outerStride = outer === 1 ? Math.ceil(inner / 8) * 8 : step;
  const strides = [outerStride, ...parts.map(({ stride }) => stride)];
  if (strides.length >= mostDims || strides.some((stride) => stride <= 0)) return undefined;
  if ([offset, ...strides].some((elements) => elements % 8 !== 0)) return undefined;
  const dims = [inner, outer, ...parts.map(({ extent }) => extent)];
  return { along, value: memory.binding.value, parts, map: { offset, dims, strides } };
}
