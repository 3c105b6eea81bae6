/**
 * Bytes as words of four: constants packed when they are uploaded, rows in memory read by a kernel.
 *
 * Packed: [batch][tile][1 + words][width] of i32. The first line of a tile is what its rows add to their sums (see
 * `integers.ts`), each further one holds a word of every row. Rows beyond the end are zeros.
 */
import type { KArray, KValue, Lanes } from '../../kernel/types.js';
import { ktype } from '../../kernel/types.js';
import { emptyTensor } from '../../tensor.js';
import type { Affine } from '../affine.js';
import type { DerivedConstant } from '../lowered.js';
import type { Lowering } from '../lowering.js';
import { range } from '../tensors.js';
import type { ByteSide } from './integers.js';

/** Which steps of k are the bytes of a word; fewer than four at an end. */
export type Order = (word: number) => readonly number[];

/** Neighbours, four at a time. */
export const inOrder =
  (k: number): Order =>
  (word) =>
    range(Math.min(4, k - 4 * word)).map((i) => 4 * word + i);

export interface PackedWords {
  readonly words: number;
  readonly width: number;
  readonly tiles: number;
  readonly constant: DerivedConstant;
}

/** A constant side in tiles of `width` rows; undefined for sides in memory. */
export function packWords(
  side: ByteSide,
  other: ByteSide,
  k: number,
  width: number,
  words: number,
  order: Order,
): PackedWords | undefined {
  const { from, batches, rows, operand, stored, type, zero } = side;
  if (from.kind !== 'constant') return undefined;
  const tiles = Math.ceil(rows / width);
  const line = (words + 1) * width;
  const shape = [batches * tiles * line];
  const { data, strides, offset } = from;
  const flip = stored === type ? 0 : 0x80;
  const load = () => {
    const packed = emptyTensor('i32', shape);
    const sums = packed.data as Int32Array;
    const bytes = new Uint8Array(sums.buffer, sums.byteOffset, sums.byteLength);
    const source = data.load().data as Float32Array;
    for (let batch = 0; batch < batches; batch++) {
      for (let row = 0; row < rows; row++) {
        const at = (batch * tiles + Math.floor(row / width)) * line + (row % width);
        const base = strides.offset + batch * strides.batch + row * strides.row;
        let sum = 0;
        for (let word = 0; word < words; word++) {
          order(word).forEach((step, i) => {
            const byte = ((source[base + step * strides.k] + offset) & 0xff) ^ flip;
            sum += type === 'i8' ? (byte << 24) >> 24 : byte;
            bytes[4 * (at + (word + 1) * width) + i] = byte;
          });
        }
        sums[at] = k * zero * other.zero - other.zero * sum;
      }
    }
    return packed;
  };
  const name = `${operand.value.name}.words${width}`;
  return { words, width, tiles, constant: { kind: 'constant', name, data: { dtype: 'i32', shape, load } } };
}

/** A word of each of `lanes` rows from the bytes in it, as multiplied. */
export function joinBytes({ b }: Lowering, bytes: readonly KValue[], side: ByteSide): KValue {
  const { lanes } = bytes[0].type;
  const word = bytes
    .map((byte, i) => {
      const wide = b.convert(b.bitcast(byte, ktype('u8', lanes)), 'u32');
      return i === 0 ? wide : b.binary('shl', wide, b.constant(8 * i, 'u32', lanes));
    })
    .reduce((all, one) => b.or(all, one));
  return flipWord(b, word, side);
}

/** A word of stored bytes as it is multiplied. */
export const flipWord = (b: Lowering['b'], word: KValue, { stored, type }: ByteSide): KValue =>
  stored === type ? word : b.binary('xor', word, b.constant(0x80808080, 'u32', word.type.lanes));

/** The sum of the bytes in each word, added to `sums`. `other` gives the type that they are multiplied with. */
export function addBytes({ b }: Lowering, words: KValue, sums: KValue, side: ByteSide, other: ByteSide): KValue {
  return b.dot4(words, b.constant(0x01010101, 'u32', words.type.lanes), sums, side.type, other.type);
}

/** Loads words that lie as i32 in a packed constant or in scratch memory. */
export function loadWords(
  { b }: Lowering,
  memory: KArray | NonNullable<ReturnType<Lowering['buffer']>>,
  at: Affine,
  lanes: Lanes,
  aligned: boolean,
): KValue {
  const loaded = b.load(memory, at.emit(b), lanes, aligned);
  return loaded.type.scalar === 'u32' ? loaded : b.bitcast(loaded, ktype('u32', lanes));
}
