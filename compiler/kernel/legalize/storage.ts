/**
 * How elements lie in memory whose element type a target lacks: always the bytes of the host, read and written as
 * unsigned integers of the element's width where the target has them, else within 32-bit words.
 */
import type { KernelBuilder } from '../builder.js';
import type { Target } from '../target.js';
import { type KMemory, type KValue, type Lanes, type ScalarType, scalarBits } from '../types.js';

export interface Storage {
  /** Element type of the legal memory. */
  readonly scalar: ScalarType;
  /** Elements in one element of the legal memory: 1, 2 or 4, and ½ for 64-bit elements in u32 words. */
  readonly perWord: number;
}

/** Whether values of the type are kept as they are. bf16 is native nowhere. */
export const isNative = (scalar: ScalarType, target: Target): boolean =>
  scalar !== 'bf16' && (scalar === 'bool' || target.arithmetic.has(scalar));
/** Types of up to 16 bits that a target only stores are converted at each access. */
const isStored = (scalar: ScalarType, target: Target): boolean =>
  scalar !== 'bf16' && target.storage.has(scalar) && (isNative(scalar, target) || scalarBits[scalar] < 32);

/** How memory with elements of `scalar` is declared on `target`. The bytes are the same everywhere. */
export function storageOf(scalar: ScalarType, target: Target): Storage {
  if (isStored(scalar, target)) return { scalar, perWord: 1 };
  const bits = scalarBits[scalar];
  if (bits === 64) return { scalar: 'u32', perWord: 0.5 };
  if (bits === 8 && isStored('u8', target)) return { scalar: 'u8', perWord: 1 };
  if (bits === 16 && isStored('u16', target)) return { scalar: 'u16', perWord: 1 };
  return { scalar: 'u32', perWord: 32 / bits };
}

/** Elements of the legal memory for `length` elements. */
export const storageLength = (length: number, { perWord }: Storage): number => Math.ceil(length / perWord);

const mask = (bits: number): number => (bits === 32 ? 0xffffffff : 2 ** bits - 1);

/** Reads and writes elements of 8 or 16 bits in a memory of u32 words, as u32 values with zeros above. */
export class PackedMemory {
  constructor(
    readonly b: KernelBuilder,
    readonly vectorLanes: number,
    /** No other invocation writes the same word: plain reads and writes will do. */
    readonly exclusive: (memory: KMemory) => boolean,
  ) {}

  /** The word of element `index`, which is a multiple of `lanes`; visibly a multiple of the words of that many. */
  #word(index: KValue, perWord: number, lanes = 1): KValue {
    const words = lanes / perWord;
    const down = Math.log2(Math.max(perWord, lanes));
    const word = this.b.binary('shr', index, this.#like(index, down));
    return words > 1 ? this.b.binary('shl', word, this.#like(index, Math.log2(words))) : word;
  }
  #like(value: KValue, constant: number): KValue {
    return this.b.constant(constant, value.type.scalar, value.type.lanes);
  }
  /** The bit position of an element within its word. */
  #position(index: KValue, bits: number): KValue {
    const lane = this.b.and(index, this.#like(index, 32 / bits - 1));
    const constant = this.b.constantOf(lane);
    if (constant !== undefined) return this.b.constant(Number(constant) * bits, 'u32');
    const position = this.b.binary('shl', lane, this.#like(index, Math.log2(bits)));
    return this.b.convert(position, 'u32');
  }

  /** `lanes` elements from `index`, as vectors of at most `vectorLanes`. */
  load(memory: KMemory, bits: number, index: KValue, lanes: number, aligned: boolean): KValue[] {
    const { b } = this;
    const perWord = 32 / bits;
    const width = Math.min(lanes, this.vectorLanes);
    if (aligned && lanes >= 2) {
      const first = this.#word(index, perWord, lanes);
      const words = Math.max(1, lanes / perWord);
      const step = Math.min(words, this.vectorLanes) as Lanes;
      const loaded: KValue[] = [];
      for (let i = 0; i < words; i += step) {
        const part = b.load(memory, b.addc(first, i), step, true);
        for (let k = 0; k < step; k++) loaded.push(b.extract(part, k));
      }
      // Lanes that fill a part of a word only: that part moves down.
      const inWord = Math.min(lanes, perWord);
      if (inWord < perWord) loaded[0] = b.binary('shr', loaded[0], this.#position(index, bits));
      const out: KValue[] = [];
      for (let i = 0; i < lanes; i += width) {
        const lane = Array.from({ length: width }, (_, k) => i + k);
        const source = b.build(lane.map((k) => loaded[Math.floor(k / inWord)]));
        const shifts = b.build(lane.map((k) => b.constant((k % inWord) * bits, 'u32')));
        out.push(b.and(b.binary('shr', source, shifts), b.constant(mask(bits), 'u32', width as Lanes)));
      }
      return out;
    }
    const elements: KValue[] = [];
    for (let i = 0; i < lanes; i++) {
      const at = b.addc(index, i);
      const word = b.load(memory, this.#word(at, perWord));
      const shifted = b.binary('shr', word, this.#position(at, bits));
      elements.push(b.and(shifted, b.constant(mask(bits), 'u32')));
    }
    return chunk(b, elements, width);
  }

  store(memory: KMemory, bits: number, index: KValue, elements: readonly KValue[], aligned: boolean): void {
    const { b } = this;
    const perWord = 32 / bits;
    if (aligned && elements.length >= perWord) {
      const words: KValue[] = [];
      for (let i = 0; i < elements.length; i += perWord) words.push(this.#join(elements.slice(i, i + perWord), bits));
      const first = this.#word(index, perWord, elements.length);
      chunk(b, words, Math.min(words.length, this.vectorLanes)).forEach((part, i) => {
        b.store(memory, b.addc(first, i * part.type.lanes), part, true);
      });
      return;
    }
    if (aligned && elements.length > 1) {
      this.#merge(memory, index, bits, this.#join(elements, bits), elements.length * bits);
      return;
    }
    elements.forEach((element, i) => {
      this.#merge(memory, b.addc(index, i), bits, element, bits);
    });
  }

  #join(elements: readonly KValue[], bits: number): KValue {
    const { b } = this;
    return elements
      .map((element, i) => (i === 0 ? element : b.binary('shl', element, b.constant(i * bits, 'u32'))))
      .reduce((x, y) => b.or(x, y));
  }

  /** Replaces `width` bits of the word that holds element `index`. */
  #merge(memory: KMemory, index: KValue, bits: number, value: KValue, width: number): void {
    const { b } = this;
    const word = this.#word(index, 32 / bits);
    const position = this.#position(index, bits);
    const ones = b.constant(mask(width), 'u32');
    const keep = b.unary('not', b.binary('shl', ones, position));
    const field = b.binary('shl', value, position);
    if (this.exclusive(memory)) {
      b.store(memory, word, b.or(b.and(b.load(memory, word), keep), field));
      return;
    }
    // Each invocation touches its own bits only, so clearing and setting them need not be one operation.
    b.atomic('and', memory, word, keep);
    b.atomic('or', memory, word, field);
  }
}

/** Values as vectors of `width` lanes. */
export function chunk(b: KernelBuilder, elements: readonly KValue[], width: number): KValue[] {
  const out: KValue[] = [];
  for (let i = 0; i < elements.length; i += width) out.push(b.build(elements.slice(i, i + width)));
  return out;
}
