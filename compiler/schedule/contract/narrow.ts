/**
 * Integers of 8 bits that were widened on their way to a contraction: cast, perhaps with a zero point subtracted, and
 * cast again. All of it is exact, so a matrix unit may multiply the small integers themselves.
 */
import { elementsOf } from '../../graph/ops/reference/data.js';
import type { ConstantData, Node, Value } from '../../graph/types.js';
import type { Target } from '../../kernel/target.js';
import { type Group, isView } from '../group.js';

/** value = source - zero, element by element. */
export interface Narrow {
  /** The last value of the chain, which the contraction (or a view before it) reads; may be the source itself. */
  readonly top: Value;
  readonly source: Value;
  readonly scalar: 'i8' | 'u8';
  readonly zero: number;
}

/** Types that hold all of the integers between -255 and 255. */
const wide: ReadonlySet<string> = new Set(['i16', 'i32', 'i64', 'f32', 'f64']);

/** The integers behind an operand of the group's contraction, if nothing else reads what was made of them. */
export function narrowOperand(group: Group, operand: Value): Narrow | undefined {
  const producerOf = (value: Value): Node | undefined => group.nodes.find((node) => node.outputs[0] === value);
  const narrow = narrowOf(operand, producerOf, group.scalars);
  return narrow && isForAnchor(group, narrow.top) ? narrow : undefined;
}

/** Whether only the anchor reads the value, be it through views: its elements become the small integers. */
const isForAnchor = (group: Group, value: Value): boolean =>
  !group.writes.includes(value) &&
  group.nodes.every(
    (node) =>
      node === group.anchor || !node.inputs.includes(value) || (isView(node.op) && isForAnchor(group, node.outputs[0])),
  );

/** The integers of 8 bits behind `value`, seen through views; undefined where there are none. */
function narrowOf(
  value: Value,
  producerOf: (value: Value) => Node | undefined,
  scalars: ReadonlyMap<number, ConstantData>,
): Narrow | undefined {
  const producer = producerOf(value);
  if (
    producer?.op === 'transpose' ||
    producer?.op === 'reshape' ||
    producer?.op === 'broadcast' ||
    producer?.op === 'slice'
  )
    return narrowOf(producer.inputs[0], producerOf, scalars);
  const chain = chainOf(value, producerOf, scalars);
  return chain && { top: value, ...chain };
}

type Chain = Omit<Narrow, 'top'>;

/** The same without views: `value` itself is made of casts and one subtraction. */
export function chainOf(
  value: Value,
  producerOf: (value: Value) => Node | undefined,
  scalars: ReadonlyMap<number, ConstantData>,
): Chain | undefined {
  const { dtype } = value.type;
  if (dtype === 'i8' || dtype === 'u8') return { source: value, scalar: dtype, zero: 0 };
  const producer = producerOf(value);
  if (!wide.has(dtype) || !producer) return undefined;
  const inner =
    producer.op === 'cast' || producer.op === 'sub' ? chainOf(producer.inputs[0], producerOf, scalars) : undefined;
  if (!inner || producer.op === 'cast') return inner;
  const zero = inner.zero === 0 ? uniformOf(producer.inputs[1], producerOf, scalars) : undefined;
  const [low, high] = inner.scalar === 'i8' ? [-128, 127] : [0, 255];
  if (zero === undefined || !Number.isInteger(zero) || zero < low || zero > high) return undefined;
  return { ...inner, zero };
}

/** The one number that all elements of `value` are. */
export function uniformOf(
  value: Value,
  producerOf: (value: Value) => Node | undefined,
  scalars: ReadonlyMap<number, ConstantData>,
): number | undefined {
  const data = scalars.get(value.id);
  if (data) return Number(elementsOf(data.load())[0]);
  const producer = producerOf(value);
  const passes = producer?.op === 'broadcast' || producer?.op === 'reshape' || producer?.op === 'cast';
  return passes ? uniformOf(producer.inputs[0], producerOf, scalars) : undefined;
}

/** Constants of integers as bytes: element = byte - zero. */
export interface ConstantIntegers {
  readonly scalar: 'i8' | 'u8';
  readonly zero: number;
}

const known = new WeakMap<ConstantData, ConstantIntegers | 'none'>();

/** The bytes that hold all elements of a constant, which are integers. Read once for each constant. */
export function integersOf(data: ConstantData): ConstantIntegers | undefined {
  let integers = known.get(data);
  if (integers === undefined) known.set(data, (integers = bytesFor(data) ?? 'none'));
  return integers === 'none' ? undefined : integers;
}

function bytesFor(data: ConstantData): ConstantIntegers | undefined {
  const { dtype } = data;
  if (dtype !== 'i8' && dtype !== 'u8' && dtype !== 'i32' && dtype !== 'f32') return undefined;
  const elements = data.load().data as Float32Array;
  let [low, high] = [0, 0];
  for (const x of elements) {
    if (!Number.isInteger(x) || x < -255 || x > 255) return undefined;
    if (x < low) low = x;
    if (x > high) high = x;
  }
  if (low >= -128 && high <= 127) return { scalar: 'i8', zero: 0 };
  return high - low <= 255 ? { scalar: 'u8', zero: -low } : undefined;
}

/** Whether the target multiplies such integers as they are. */
export const multipliesBytes = ({ matrixUnits, byteDots }: Target): boolean =>
  byteDots !== undefined || matrixUnits?.some(({ accumulator }) => accumulator === 'i32') === true;
