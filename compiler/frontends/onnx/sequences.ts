/**
 * Sequences and optionals. They hold tensors while a graph is specialised and are gone afterwards: these operators
 * choose among values and compute nothing.
 */
import { concat, slice1, squeeze, stack } from '../../graph/compose/index.js';
import { integersOf } from '../../graph/host_tensors.js';
import { NotConstant } from '../../graph/host_values.js';
import type { Value } from '../../graph/types.js';
import { isList, type Mapped } from '../../passes/mapped.js';
import type { SourceContext, SourceResolver } from '../../passes/source.js';
import { invalid, tensorAt } from './bodies.js';

/** Input `i` as a list of tensors. */
function listAt({ inputs, node }: SourceContext, i: number): readonly Value[] {
  const mapped = inputs[i];
  if (mapped === undefined || mapped === null || !isList(mapped)) return invalid(node, `input ${i} must be a sequence`);
  return mapped;
}

/** Integers of an input. Throws NotConstant where the device has to be waited for. */
function integersAt(c: SourceContext, i: number): readonly number[] {
  const value = tensorAt(c, i);
  const tensor = c.b.tensorOf(value);
  if (tensor === undefined) throw new NotConstant(value, i);
  return integersOf(tensor) ?? invalid(c.node, `input ${i} must hold integers`);
}

/** A place in a list of `length`, counted from its end if negative; `standard` where the input is absent. */
function placeAt(c: SourceContext, i: number, length: number, standard: number, last = length - 1): number {
  if (c.inputs[i] === undefined) return standard;
  const [given, ...more] = integersAt(c, i);
  if (given === undefined || more.length > 0) return invalid(c.node, `input ${i} must have one element`);
  const place = given < 0 ? given + length : given;
  if (place < 0 || place > last) invalid(c.node, 'place out of range', `-${length} to ${last}`, String(given));
  return place;
}

/** A list whose tensors are of one type. */
function listOf(c: SourceContext, values: readonly Value[]): readonly Mapped[] {
  const other = values.find(({ type }) => type.dtype !== values[0].type.dtype);
  if (other) invalid(c.node, 'tensors of a sequence differ in type', values[0].type.dtype, other.type.dtype);
  return [values];
}

function construct(c: SourceContext): readonly Mapped[] {
  if (c.inputs.length === 0) invalid(c.node, 'a sequence is made of at least one tensor');
  return listOf(
    c,
    c.inputs.map((_, i) => tensorAt(c, i)),
  );
}

function insert(c: SourceContext): readonly Mapped[] {
  const list = listAt(c, 0);
  const place = placeAt(c, 2, list.length, list.length, list.length);
  return listOf(c, [...list.slice(0, place), tensorAt(c, 1), ...list.slice(place)]);
}

function erase(c: SourceContext): readonly Mapped[] {
  const list = listAt(c, 0);
  if (list.length === 0) invalid(c.node, 'nothing can be taken out of an empty sequence');
  const place = placeAt(c, 1, list.length, list.length - 1);
  return [list.filter((_, i) => i !== place)];
}

const at = (c: SourceContext): readonly Mapped[] => {
  const list = listAt(c, 0);
  if (list.length === 0) invalid(c.node, 'the sequence is empty');
  return [list[placeAt(c, 1, list.length, 0)]];
};

const length = (c: SourceContext): readonly Mapped[] => [
  c.b.constant({ dtype: 'i64', shape: [], data: BigInt64Array.of(BigInt(listAt(c, 0).length)) }),
];

const axisOf = (c: SourceContext, rank: number, standard?: number): number => {
  const given = c.node.attrs.attrs.axis === undefined ? standard : Number(c.node.attrs.attrs.axis);
  if (given === undefined) return invalid(c.node, 'attribute axis is missing');
  if (given < -rank || given >= rank) invalid(c.node, 'axis out of range', `-${rank} to ${rank - 1}`, String(given));
  return given < 0 ? given + rank : given;
};

/** Parts of `split` places each (a number), of these sizes (a vector), or of one place, whose axis may be dropped. */
function split(c: SourceContext): readonly Mapped[] {
  const x = tensorAt(c, 0);
  const shape = x.type.shape as readonly number[];
  const axis = axisOf(c, shape.length, 0);
  const total = shape[axis];
  const given = c.inputs[1] === undefined ? undefined : integersAt(c, 1);
  const single = given === undefined || tensorAt(c, 1).type.shape.length === 0;
  const step = given === undefined ? 1 : given[0];
  if (single && step < 1) invalid(c.node, 'invalid size of the parts', '1 or more', String(step));
  const sizes = single
    ? Array.from({ length: Math.ceil(total / step) }, (_, i) => Math.min(step, total - i * step))
    : given;
  const sum = sizes.reduce((a, b) => a + b, 0);
  if (sum !== total || sizes.some((size) => size < 0)) {
    invalid(c.node, 'the parts do not make up the axis', String(total), sizes.join(' + '));
  }
  const drop = given === undefined && Number(c.node.attrs.attrs.keepdims ?? 1) === 0;
  let start = 0;
  const parts = sizes.map((size) => {
    const part = slice1(c.b, x, axis, start, size);
    start += size;
    return drop ? squeeze(c.b, part, [axis]) : part;
  });
  return [parts];
}

function join(c: SourceContext): readonly Mapped[] {
  const list = listAt(c, 0);
  if (list.length === 0) invalid(c.node, 'the sequence is empty');
  const fresh = Number(c.node.attrs.attrs.new_axis ?? 0) !== 0;
  const axis = axisOf(c, list[0].type.shape.length + (fresh ? 1 : 0));
  return [fresh ? stack(c.b, list, axis) : concat(c.b, list, axis)];
}

function content(c: SourceContext): readonly Mapped[] {
  const [held] = c.inputs;
  return held === undefined || held === null ? invalid(c.node, 'the optional is empty') : [held];
}

const present = (c: SourceContext): readonly Mapped[] => {
  const [held] = c.inputs;
  const holds = held !== undefined && held !== null;
  return [c.b.constant({ dtype: 'bool', shape: [], data: Uint8Array.of(holds ? 1 : 0) })];
};

/** The operators that take or give sequences and optionals. */
export const containerOperators: ReadonlyMap<string, SourceResolver> = new Map<string, SourceResolver>([
  ['SequenceEmpty', () => [[]]],
  ['SequenceConstruct', construct],
  ['SequenceInsert', insert],
  ['SequenceErase', erase],
  ['SequenceAt', at],
  ['SequenceLength', length],
  ['SplitToSequence', split],
  ['ConcatFromSequence', join],
  ['Optional', ({ inputs: [held] }) => [held ?? null]],
  ['OptionalGetElement', content],
  ['OptionalHasElement', present],
]);
