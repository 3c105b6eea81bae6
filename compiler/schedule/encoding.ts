/**
 * How elements lie in memory, where that is not how kernels hold them: bools are bytes of 0 and 1, packed elements
 * share a byte. Everything that a schedule loads or stores goes through here; the bytes are those of the host.
 *
 * Loads find any element of a packed tensor. Stores write whole bytes, each by one invocation alone, so they are for
 * schedules that go through the bytes of a result (`map.ts`).
 */
import { bitsOf, type DType, isPacked, type PackedDType, perByte } from '../dtype.js';
import { signExtended } from '../graph/ops/conversion.js';
import { elementScalar } from '../graph/ops/scalar.js';
import type { KernelBuilder } from '../kernel/builder.js';
import type { KBuffer, KValue, Lanes, ScalarType } from '../kernel/types.js';
import { Affine } from './affine.js';

/** Element type of the buffer that holds a tensor. @throws TuttiError E_UNSUPPORTED for strings */
export const memoryScalar = (dtype: DType): ScalarType =>
  dtype === 'bool' || isPacked(dtype) ? 'u8' : elementScalar(dtype);

/** Elements of that buffer for `count` elements of the tensor. */
export const memoryLength = (dtype: DType, count: number): number => Math.ceil(count / perByte(dtype));

/** What was loaded of a type that is not packed, as kernels hold it. */
export const decoded = (b: KernelBuilder, dtype: DType, stored: KValue): KValue =>
  dtype === 'bool' ? b.compare('ne', stored, b.constant(0, 'u8', stored.type.lanes)) : stored;

/** The reverse. */
export const encoded = (b: KernelBuilder, dtype: DType, element: KValue): KValue =>
  dtype === 'bool' ? b.convert(element, 'u8') : element;

const lanesOf = (lanes: number): number[] => Array.from({ length: lanes }, (_, lane) => lane);

/**
 * Elements of a packed tensor as kernels hold them: a scalar if `address` does not mention the lane.
 * @param address Of the elements; its lane, if any, counts `lanes`
 */
export function loadPacked(
  b: KernelBuilder,
  dtype: PackedDType,
  buffer: KBuffer,
  address: Affine,
  lanes: Lanes,
): KValue {
  const each = perByte(dtype);
  const coefficient = lanes === 1 ? 0 : address.laneCoefficient();
  const base = address.atLane(0);
  if (coefficient === 0) return signExtended(b, dtype, fieldAt(b, dtype, buffer, base));
  if (coefficient === 1 && lanes % each === 0 && base.divisor() % each === 0) {
    const bytes = b.load(buffer, base.div(each).emit(b), (lanes / each) as Lanes, base.divisor() % lanes === 0);
    const wide = b.convert(bytes, 'u32');
    const spread = b.build(lanesOf(lanes).map((lane) => b.extract(wide, Math.floor(lane / each))));
    const shifts = b.build(lanesOf(lanes).map((lane) => b.constant((lane % each) * bitsOf(dtype), 'u32')));
    return signExtended(b, dtype, b.binary('shr', spread, shifts));
  }
  const fields = lanesOf(lanes).map((lane) => fieldAt(b, dtype, buffer, address.atLane(lane)));
  return signExtended(b, dtype, b.build(fields));
}

/** The byte of an element, shifted down to its bits; what lies above is not cleared. */
function fieldAt(b: KernelBuilder, dtype: PackedDType, buffer: KBuffer, place: Affine): KValue {
  const each = perByte(dtype);
  // Of correlated terms the range may not show that their sum is no negative number; division wants to see it.
  const address = place.range.min >= 0 ? place : Affine.of(b.max(place.emit(b), b.constant(0)), b);
  const shift = b.convert(b.mulc(address.mod(each).emit(b), bitsOf(dtype)), 'u32');
  return b.binary('shr', b.convert(b.load(buffer, address.div(each).emit(b)), 'u32'), shift);
}

/** Bytes from the elements of each, the first in the low bits. */
export function packBytes(b: KernelBuilder, dtype: PackedDType, elements: readonly KValue[]): KValue {
  const bits = bitsOf(dtype);
  const fields = elements.map((element, i) => {
    const { lanes } = element.type;
    const field = b.and(b.convert(element, 'u32'), b.constant(2 ** bits - 1, 'u32', lanes));
    return i === 0 ? field : b.binary('shl', field, b.constant(i * bits, 'u32', lanes));
  });
  return b.convert(
    fields.reduce((byte, field) => b.or(byte, field)),
    'u8',
  );
}
