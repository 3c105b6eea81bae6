/**
 * How a legalised kernel holds the values of the kernel it comes from. Each value is represented by legal values; how,
 * depends on its type (and for 64-bit integers on its range):
 *
 * - native types: vectors of at most the target's lanes ("chunks");
 * - i8 i16 (u8 u16): chunks of i32 (u32) that hold the sign- (zero-) extended value;
 * - f16 bf16: chunks of f32 that hold a value of the half type;
 * - i64 u64 whose range lies in i32: chunks of i32 ("narrowed");
 * - other i64 u64, and f64: one u32x2 a lane, low word first.
 */
import { KernelBuilder, rangeOf } from '../builder.js';
import type { Target } from '../target.js';
import {
  isSignedScalar,
  type KernelFunction,
  type KInst,
  type KType,
  type KValue,
  ktype,
  type Lanes,
  type Range,
  type ScalarType,
  scalarBits,
} from '../types.js';
import { type Half, halfBits, halfValue } from './float16.js';
import * as int64 from './int64.js';
import { chunk, isNative } from './storage.js';
import { type Pair, pairType, Words } from './words.js';

/** Legal values that together represent one value of the kernel. */
export interface Rep {
  readonly kind: 'chunks' | 'pairs';
  readonly type: KType;
  readonly parts: readonly KValue[];
}

export type Inst<Op extends KInst['op']> = Extract<KInst, { readonly op: Op }>;

const i32Range: Range = { min: -(2 ** 31), max: 2 ** 31 - 1 };
export const within = (range: Range | undefined, limits: Range): boolean =>
  range !== undefined && range.min >= limits.min && range.max <= limits.max;
export const isHalf = (scalar: ScalarType): scalar is Half => scalar === 'f16' || scalar === 'bf16';
export const isNarrow = (scalar: ScalarType): boolean =>
  scalar === 'i8' || scalar === 'u8' || scalar === 'i16' || scalar === 'u16';
export const smallRange = (scalar: ScalarType): Range => {
  const bits = scalarBits[scalar];
  return isSignedScalar(scalar)
    ? { min: -(2 ** (bits - 1)), max: 2 ** (bits - 1) - 1 }
    : { min: 0, max: 2 ** bits - 1 };
};

export class Representations {
  readonly b = new KernelBuilder();
  readonly w = new Words(this.b);
  readonly values = new Map<KValue, Rep>();
  /** The bits that a rounded half value was made from, or a loaded one's. */
  readonly #halfBits = new Map<KValue, KValue>();
  /** Vectors built here from scalars, to take lanes from without an instruction. */
  readonly built = new Map<KValue, readonly KValue[]>();
  /** What is known of values beyond what the verifier can derive: never claimed, only used here. */
  readonly #known = new Map<KValue, Range>();
  /** Set once a condition compares pairs of words: what it implies can no longer be seen. */
  opaque = false;

  constructor(
    readonly kernel: KernelFunction,
    readonly target: Target,
  ) {}

  native(scalar: ScalarType): boolean {
    return isNative(scalar, this.target);
  }

  width(lanes: number): Lanes {
    return Math.min(lanes, this.target.vectorLanes) as Lanes;
  }

  /** The scalar of a value's chunks; undefined where it is kept as pairs unless narrowed. */
  chunkScalar(scalar: ScalarType): ScalarType | undefined {
    if (this.native(scalar)) return scalar;
    if (isHalf(scalar)) return 'f32';
    if (isNarrow(scalar)) return isSignedScalar(scalar) ? 'i32' : 'u32';
    return undefined;
  }

  chunks(type: KType, parts: readonly KValue[]): Rep {
    return { kind: 'chunks', type, parts };
  }

  /** Whether a 64-bit integer of that range is computed in i32. */
  narrowed(type: KType, range: Range | undefined): boolean {
    return int64.isWideInteger(type.scalar) && !this.native(type.scalar) && within(range, i32Range);
  }

  get(value: KValue): Rep {
    const rep = this.values.get(value);
    if (!rep) throw new Error(`kernel ${this.kernel.name}: value %${value.id} is used before its definition`);
    return rep;
  }

  /** The one scalar bool of a condition. */
  single(value: KValue): KValue {
    return this.get(value).parts[0];
  }

  /** The lanes of a chunk. */
  elements(part: KValue): readonly KValue[] {
    if (part.type.lanes === 1) return [part];
    const known = this.built.get(part);
    if (known) return known;
    return Array.from({ length: part.type.lanes }, (_, i) => this.b.extract(part, i));
  }

  lane(rep: Rep, lane: number): KValue {
    if (rep.kind === 'pairs') return rep.parts[lane];
    const width = rep.parts[0].type.lanes;
    const part = rep.parts[Math.floor(lane / width)];
    return width === 1 ? part : (this.built.get(part)?.[lane % width] ?? this.b.extract(part, lane % width));
  }

  lanes(rep: Rep): KValue[] {
    return Array.from({ length: rep.type.lanes }, (_, i) => this.lane(rep, i));
  }

  /** Scalars as chunks. Lanes taken from one chunk in order give it back. */
  gather(type: KType, elements: readonly KValue[]): Rep {
    const width = this.width(type.lanes);
    const parts = chunk(this.b, elements, width);
    if (width > 1) parts.forEach((part, i) => void this.built.set(part, elements.slice(i * width, (i + 1) * width)));
    return this.chunks(type, parts);
  }

  /** A 64-bit integer or f64 as pairs, whatever it is kept as. */
  pairs(rep: Rep): readonly KValue[] {
    if (rep.kind === 'pairs') return rep.parts;
    const { scalar } = rep.type;
    if (scalar === 'f64') return this.lanes(rep).map((lane) => this.b.bitcast(lane, pairType));
    return this.lanes(rep).map((lane) => {
      if (int64.isWideInteger(lane.type.scalar)) {
        const high = this.b.binary('shr', lane, this.b.constant(32n, lane.type.scalar));
        return this.w.pack({ lo: this.b.convert(lane, 'u32'), hi: this.b.convert(high, 'u32') });
      }
      return this.w.pack(this.extend(lane));
    });
  }

  wide(rep: Rep): Pair[] {
    return this.pairs(rep).map((pair) => this.w.unpack(pair));
  }

  /** An i32 or u32 as 64 bits. */
  extend(lane: KValue): Pair {
    const lo = this.w.unsigned(lane);
    const range = this.rangeOf(lane);
    if (lane.type.scalar === 'u32' || (range && range.min >= 0)) return { lo, hi: this.w.c(0) };
    return { lo, hi: this.w.signFill(lo) };
  }

  /** Pairs as the chunks of a native 64-bit type. */
  fromPairs(type: KType, pairs: readonly KValue[]): Rep {
    const { b } = this;
    const lanes = pairs.map((pair) => {
      if (type.scalar === 'f64') return b.bitcast(pair, ktype('f64'));
      const { lo, hi } = this.w.unpack(pair);
      const high = b.binary('shl', b.convert(hi, type.scalar), b.constant(32n, type.scalar));
      return b.or(high, b.convert(lo, type.scalar));
    });
    return this.gather(type, lanes);
  }

  /** The result of an operation on pairs: kept so, as native, or narrowed. */
  fromWide(type: KType, pairs: readonly Pair[], range?: Range): Rep {
    if (this.narrowed(type, range)) {
      return this.gather(
        type,
        pairs.map((pair) => this.clamped(this.w.signed(pair.lo), range)),
      );
    }
    const parts = pairs.map((pair) => this.w.pack(pair));
    return this.native(type.scalar) ? this.fromPairs(type, parts) : { kind: 'pairs', type, parts };
  }

  /** The canonical form at merges: a soft 64-bit integer is widened there unless `narrow` says otherwise. */
  whole(rep: Rep, narrow?: Range): Rep {
    if (this.chunkScalar(rep.type.scalar) !== undefined) return rep;
    if (narrow) return this.lowWords(rep, narrow);
    return { kind: 'pairs', type: rep.type, parts: this.pairs(rep) };
  }

  /** The low words of a soft 64-bit integer as i32. */
  lowWords(rep: Rep, range?: Range): Rep {
    if (rep.kind === 'chunks') return rep;
    const words = rep.parts.map((pair) => this.w.signed(this.w.unpack(pair).lo));
    return this.gather(
      rep.type,
      words.map((word) => this.clamped(word, range)),
    );
  }

  rangeOf(value: KValue): Range | undefined {
    const [own, known] = [rangeOf(value), this.#known.get(value)];
    if (!own || !known) return own ?? known;
    return { min: Math.max(own.min, known.min), max: Math.min(own.max, known.max) };
  }

  /** Notes that `value` lies in `range`. */
  within(value: KValue, range: Range | undefined): KValue {
    if (range && !within(rangeOf(value), range)) this.#known.set(value, range);
    return value;
  }

  /** The same where the range must be seen to hold, for it may be that of an index: clamping costs little. */
  clamped(value: KValue, range: Range | undefined): KValue {
    return range && !within(rangeOf(value), range) ? this.b.clamp(value, range.min, range.max) : value;
  }

  /** An i32 or u32 computed for a narrow type, wrapped into it unless its range says that it is there already. */
  wrap(scalar: ScalarType, value: KValue): KValue {
    const limits = smallRange(scalar);
    if (within(this.rangeOf(value), limits)) return value;
    const { b } = this;
    const { lanes } = value.type;
    if (!isSignedScalar(scalar)) return b.and(value, b.constant(limits.max, 'u32', lanes));
    const shift = b.constant(32 - scalarBits[scalar], 'i32', lanes);
    return b.binary('shr', b.binary('shl', value, shift), shift);
  }

  /** An f32 rounded to the half type. */
  round(half: Half, value: KValue): KValue {
    const bits = halfBits(this.b, half, value);
    const rounded = halfValue(this.b, half, bits);
    this.#halfBits.set(rounded, bits);
    return rounded;
  }

  finish(type: KType, value: KValue): KValue {
    if (this.native(type.scalar)) return value;
    return isHalf(type.scalar) ? this.round(type.scalar, value) : this.wrap(type.scalar, value);
  }

  /** An element's bits, zero-extended in u32, from a chunk of at most 32 bits a lane. */
  toBits(scalar: ScalarType, value: KValue): KValue {
    const { b } = this;
    const { lanes } = value.type;
    if (scalar === 'bool') return b.convert(value, 'u32');
    if (isHalf(scalar)) {
      const wide = value.type.scalar === 'f32' ? value : b.convert(value, 'f32');
      return this.#halfBits.get(wide) ?? halfBits(b, scalar, wide);
    }
    if (scalarBits[scalar] === 32) return this.w.unsigned(value);
    const word = b.convert(value, 'u32');
    return isSignedScalar(scalar) ? b.and(word, b.constant(2 ** scalarBits[scalar] - 1, 'u32', lanes)) : word;
  }

  fromBits(scalar: ScalarType, bits: KValue): KValue {
    const { b } = this;
    const { lanes } = bits.type;
    if (scalar === 'bool') return b.compare('ne', bits, b.constant(0, 'u32', lanes));
    if (isHalf(scalar)) {
      const value = halfValue(b, scalar, bits);
      if (this.native(scalar)) return b.convert(value, scalar);
      this.#halfBits.set(value, bits);
      return value;
    }
    if (scalarBits[scalar] === 32) return b.bitcast(bits, ktype(scalar, lanes));
    if (this.native(scalar)) return b.convert(bits, scalar);
    if (!isSignedScalar(scalar)) return this.within(bits, smallRange(scalar));
    return this.wrap(scalar, b.bitcast(bits, ktype('i32', lanes)));
  }
}
