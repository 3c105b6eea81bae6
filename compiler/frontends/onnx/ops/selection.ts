/** Elements that data selects: the device counts them, the host reads the count, the device finds and gathers them. */
import { binaryC, cast, gather, reshape, slice1, stack, tensor } from '../../../graph/compose/index.js';
import { countOf, placesOf } from '../../../graph/search.js';
import type { Value } from '../../../graph/types.js';
import { sizeOf } from '../../../tensor.js';
import type { Conversion, ConvertContext } from '../context.js';

/** Coordinates of the elements that are not zero, [rank, count]. */
function nonZero(c: ConvertContext): Value {
  const shape = c.concreteShape(0);
  const x = reshape(c.b, c.input(0), [sizeOf(shape)]);
  const mask = x.type.dtype === 'bool' ? x : binaryC(c.b, 'ne', x, 0);
  const [count] = sizeOf(shape) === 0 ? [0] : c.demand(countOf(c.b, mask), 'count');
  if (count === 0 || shape.length === 0) return tensor(c.b, 'i64', [], [shape.length, count]);
  const places = cast(c.b, placesOf(c.b, mask, count), 'i64');
  const coordinates = shape.map((size, axis) => {
    const row = binaryC(c.b, 'div', places, sizeOf(shape.slice(axis + 1)));
    return axis === 0 ? row : binaryC(c.b, 'rem', row, size);
  });
  return stack(c.b, coordinates, 0);
}

/** Elements, or slices along an axis, where the condition holds; it may be shorter than the axis. */
function compress(c: ConvertContext): Value {
  const flat = !c.hasAttr('axis');
  const shape = c.concreteShape(0);
  const x = flat ? reshape(c.b, c.input(0), [sizeOf(shape)]) : c.input(0);
  const axis = flat ? 0 : c.axis(c.int('axis'), shape.length);
  const [length] = c.concreteDims(c.ranked(1, 1), 1);
  const extent = Number(x.type.shape[axis]);
  const condition = length > extent ? slice1(c.b, c.input(1), 0, 0, extent) : c.input(1);
  const [count] = sizeOf(condition.type.shape as number[]) === 0 ? [0] : c.demand(countOf(c.b, condition), 'count');
  if (count === 0) return slice1(c.b, x, axis, 0, 0);
  return gather(c.b, x, placesOf(c.b, condition, count), axis);
}

export const selections: readonly Conversion[] = [
  { op: 'NonZero', since: 9, convert: nonZero },
  { op: 'Compress', since: 9, convert: compress },
];
