/**
 * Results that are quantised again, q = clamp(round(x / s) + z), in fewer operations that give the same integers.
 *
 * What follows an integer sum is finite, as intervals over the group's nodes show. Then
 * - a division by a constant is a product with its reciprocal and one correction (Markstein 1990), which is rounded
 *   correctly unless something underflows, and what underflows is rounded to zero next;
 * - clamping comes first, since its bounds are integers: clamp(round(d) + z, low, high) = round(clamp(d, low - z, high - z)) + z;
 * - adding 1.5·2²³ rounds to the nearest even integer, which then is in the low bits of the sum.
 */
import type { Node, Value } from '../../graph/types.js';
import type { Target } from '../../kernel/target.js';
import { type KValue, ktype } from '../../kernel/types.js';
import { sizeOf } from '../../tensor.js';
import type { Group } from '../group.js';
import type { Lowering } from '../lowering.js';
import { shapeOf } from '../tensors.js';
import { uniformOf } from './narrow.js';

type Interval = readonly [low: number, high: number];

/** Defines the quantised values of the group anew where that is exact. The anchor's sums are integers. */
export function requantise(lowering: Lowering, group: Group, target: Target): void {
  const producers = new Map(group.nodes.flatMap((node) => node.outputs.map((value) => [value.id, node] as const)));
  const producer = (value: Value): Node | undefined => producers.get(value.id);
  const constant = (value: Value): number | undefined => uniformOf(value, producer, group.scalars);
  const intervals = new Intervals(group, producer);
  for (const node of group.nodes) {
    if (node.op !== 'cast') continue;
    const quantised = quantisation(node, producer, constant);
    if (!quantised || !intervals.of(quantised.x)) continue;
    const { x, zero, low, high, scalar } = quantised;
    const division = producer(x);
    const divisor =
      division?.op === 'div' && target.features.has('fma') ? divisorOf(constant(division.inputs[1])) : undefined;
    lowering.define(node.outputs[0], (index, lanes) => {
      const { b } = lowering;
      const real = divisor
        ? divided(lowering, lowering.value((division as Node).inputs[0], index, lanes), divisor)
        : lowering.value(x, index, lanes);
      const { lanes: width } = real.type;
      const number = (value: number) => b.constant(value, 'f32', width);
      const inside = b.min(b.max(real, number(low - zero)), number(high - zero));
      const rounded = b.bitcast(b.add(inside, number(nearest)), ktype('i32', width));
      return b.convert(zero === 0 ? rounded : b.addc(rounded, zero), scalar);
    });
  }
}

/** Adding this leaves no bits behind the point; the low 22 bits of the result are the integer, in two's complement. */
const nearest = 1.5 * 2 ** 23;

interface Quantisation {
  readonly x: Value;
  readonly zero: number;
  readonly low: number;
  readonly high: number;
  readonly scalar: 'i8' | 'u8';
}

/** The node as cast(clamp(round(x) + zero, low, high)) to bytes. */
function quantisation(
  node: Node,
  producer: (value: Value) => Node | undefined,
  constant: (value: Value) => number | undefined,
): Quantisation | undefined {
  const { dtype } = node.outputs[0].type;
  const limit = producer(node.inputs[0]);
  if ((dtype !== 'i8' && dtype !== 'u8') || limit?.op !== 'clamp' || limit.inputs[0].type.dtype !== 'f32')
    return undefined;
  const [low, high] = [Number(limit.attrs.min ?? Number.NaN), Number(limit.attrs.max ?? Number.NaN)];
  const [least, most] = dtype === 'i8' ? [-128, 127] : [0, 255];
  if (!Number.isInteger(low) || !Number.isInteger(high) || low < least || high > most || low > high) return undefined;
  const sum = producer(limit.inputs[0]);
  const zero = sum?.op === 'add' ? constant(sum.inputs[1]) : 0;
  const round = sum?.op === 'add' ? producer(sum.inputs[0]) : sum;
  if (round?.op !== 'round' || zero === undefined || !Number.isInteger(zero) || Math.abs(zero) > 2 ** 16)
    return undefined;
  return { x: round.inputs[0], zero, low, high, scalar: dtype };
}

interface Divisor {
  readonly value: number;
  readonly reciprocal: number;
}

/** A divisor whose reciprocal, rounded to f32, gives correctly rounded quotients. */
function divisorOf(value: number | undefined): Divisor | undefined {
  if (value === undefined) return undefined;
  const size = Math.abs(value);
  const mantissa = new Uint32Array(Float32Array.of(value).buffer)[0] & 0x7fffff;
  if (!(size > 2 ** -60 && size < 2 ** 60) || mantissa === 0x7fffff) return undefined;
  return { value, reciprocal: Math.fround(1 / value) };
}

function divided({ b }: Lowering, x: KValue, { value, reciprocal }: Divisor): KValue {
  const number = (constant: number) => b.constant(constant, 'f32', x.type.lanes);
  const quotient = b.mul(x, number(reciprocal));
  // Powers of two divide exactly.
  if (reciprocal * value === 1) return quotient;
  const rest = b.fma(quotient, number(-value), x);
  return b.fma(rest, number(reciprocal), quotient);
}

/** Where values of a group surely lie; only finite ones, so that no NaN hides. */
class Intervals {
  readonly #group: Group;
  readonly #producer: (value: Value) => Node | undefined;
  readonly #known = new Map<number, Interval | undefined>();

  constructor(group: Group, producer: (value: Value) => Node | undefined) {
    this.#group = group;
    this.#producer = producer;
  }

  of(value: Value): Interval | undefined {
    if (!this.#known.has(value.id)) this.#known.set(value.id, finite(this.#compute(value)));
    return this.#known.get(value.id);
  }

  #compute(value: Value): Interval | undefined {
    const node = this.#producer(value);
    if (!node) return ofType(value) ?? this.#constant(value);
    const [x, y] = node.inputs;
    if (node === this.#group.anchor) return [-(2 ** 31), 2 ** 31];
    switch (node.op) {
      case 'cast':
      case 'broadcast':
      case 'reshape':
      case 'transpose':
      case 'slice':
        return this.of(x);
      case 'round':
        return grown(this.of(x), 1);
      case 'clamp': {
        const from = this.of(x);
        const { min, max } = node.attrs;
        return from && [clampTo(from[0], min, max), clampTo(from[1], min, max)];
      }
      case 'add':
        return combined(this.of(x), this.of(y), (p, q) => p + q);
      case 'sub':
        return combined(this.of(x), this.of(y), (p, q) => p - q);
      case 'mul':
        return combined(this.of(x), this.of(y), (p, q) => p * q);
      case 'div': {
        const by = this.of(y);
        return by && (by[0] > 0 || by[1] < 0) ? combined(this.of(x), by, (p, q) => p / q) : undefined;
      }
      default:
        return ofType(value);
    }
  }

  #constant(value: Value): Interval | undefined {
    const data = this.#group.scalars.get(value.id) ?? this.#group.constants.get(value.id);
    if (data?.dtype !== 'f32' || sizeOf(shapeOf(value)) > most) return undefined;
    let [low, high] = [Number.POSITIVE_INFINITY, Number.NEGATIVE_INFINITY];
    for (const element of data.load().data as Float32Array) {
      if (!Number.isFinite(element)) return undefined;
      low = Math.min(low, element);
      high = Math.max(high, element);
    }
    return [low, high];
  }
}

/** Elements of constants that are looked through: scales and biases. */
const most = 1 << 16;
/** Far from overflow, whatever is rounded on the way. */
const largest = 2 ** 100;

const finite = (interval: Interval | undefined): Interval | undefined =>
  interval && interval[0] > -largest && interval[1] < largest ? interval : undefined;

/** Rounding to f32 may leave the exact interval by a little. */
const grown = (interval: Interval | undefined, by: number): Interval | undefined =>
  interval && [interval[0] - by, interval[1] + by];

function combined(a: Interval | undefined, b: Interval | undefined, fn: (p: number, q: number) => number) {
  if (!a || !b) return undefined;
  const corners = a.flatMap((p) => b.map((q) => fn(p, q)));
  const [low, high] = [Math.min(...corners), Math.max(...corners)];
  return [low - Math.abs(low) * 1e-6, high + Math.abs(high) * 1e-6] as const;
}

const clampTo = (x: number, min: number | string | null, max: number | string | null): number =>
  Math.min(Math.max(x, min === null ? x : Number(min)), max === null ? Number.POSITIVE_INFINITY : Number(max));

function ofType({ type: { dtype } }: Value): Interval | undefined {
  if (dtype === 'u8') return [0, 255];
  if (dtype === 'i8') return [-128, 127];
  if (dtype === 'i32') return [-(2 ** 31), 2 ** 31];
  return undefined;
}
