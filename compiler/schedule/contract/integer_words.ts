/**
 * Bytes as words of four: constants packed when they are uploaded, rows in memory read by a kernel.
 *
 * Packed: [batch][tile][1 + words][width] of i32. The first line of a tile is what its rows add to their sums (see
 * `integers.ts`), each further one holds a word of every row. Rows beyond the end are zeros.
 */
import type { Value } from '../../graph/types.js';
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
  const { from, batches, rows, operand, zero } = side;
  if (from.kind !== 'constant') return undefined;
  const tiles = Math.ceil(rows / width);
  const shape = [batches * tiles * (words + 1) * width];
  const load = () => {
    const packed = emptyTensor('i32', shape);
    const sums = packed.data as Int32Array;
    fillWords(side, from, sums, { width, words, before: 1 }, order, (at, sum) => {
      sums[at] = k * zero * other.zero - other.zero * sum;
    });
    return packed;
  };
  const name = `${operand.value.name}.words${width}`;
  return { words, width, tiles, constant: { kind: 'constant', name, data: { dtype: 'i32', shape, load } } };
}

type Constant = Extract<ByteSide['from'], { kind: 'constant' }>;

/** The same without the first line, as u32: what contractions of words are given (`integer_contraction.ts`). */
export function packedWords(
  side: ByteSide,
  from: Constant,
  width: number,
  words: number,
  order: Order,
): DerivedConstant {
  const { value } = side.operand;
  const shape = [side.batches * Math.ceil(side.rows / width) * words * width];
  const load = () => {
    const packed = emptyTensor('u32', shape);
    fillWords(side, from, packed.data as Uint32Array, { width, words, before: 0 }, order);
    return packed;
  };
  return {
    kind: 'constant',
    name: `${value.name}.words${width}`,
    data: { dtype: 'u32', shape, load },
    derivation: {
      value,
      of: (other, data) => packedWords(renamed(side, other), { ...from, data }, width, words, order),
    },
  };
}

/** [batch][row] of i32: the sum of each row's bytes times `factor`, and `constant`. */
export function packedSums(
  side: ByteSide,
  from: Constant,
  k: number,
  factor: number,
  constant: number,
): DerivedConstant {
  const { value } = side.operand;
  const { batches, rows } = side;
  const shape = [batches * rows];
  const load = () => {
    const packed = emptyTensor('i32', shape);
    const sums = packed.data as Int32Array;
    fillWords(side, from, undefined, { width: 1, words: Math.ceil(k / 4), before: 0 }, inOrder(k), (_, sum, row) => {
      sums[row] = constant + factor * sum;
    });
    return packed;
  };
  return {
    kind: 'constant',
    name: `${value.name}.sums`,
    data: { dtype: 'i32', shape, load },
    derivation: {
      value,
      of: (other, data) => packedSums(renamed(side, other), { ...from, data }, k, factor, constant),
    },
  };
}

const renamed = (side: ByteSide, value: Value): ByteSide => ({ ...side, operand: { ...side.operand, value } });

/**
 * Reads a constant side as it is multiplied, into [batch][tile][before + words][width] if there is an array. `each` gets
 * the sum of every row's bytes, where in the array its lines begin, and the number of the row in all batches.
 */
function fillWords(
  { batches, rows, stored, type }: ByteSide,
  { data, strides, offset }: Constant,
  into: Int32Array | Uint32Array | undefined,
  { width, words, before }: { readonly width: number; readonly words: number; readonly before: number },
  order: Order,
  each?: (at: number, sum: number, row: number) => void,
): void {
  const bytes = into && new Uint8Array(into.buffer, into.byteOffset, into.byteLength);
  const source = data.load().data as Float32Array;
  const flip = stored === type ? 0 : 0x80;
  const tiles = Math.ceil(rows / width);
  const steps = range(words).map(order);
  for (let batch = 0; batch < batches; batch++) {
    for (let row = 0; row < rows; row++) {
      const at = (batch * tiles + Math.floor(row / width)) * (before + words) * width + (row % width);
      const base = strides.offset + batch * strides.batch + row * strides.row;
      let sum = 0;
      for (let word = 0; word < words; word++) {
        const own = steps[word];
        for (let i = 0; i < own.length; i++) {
          const byte = ((source[base + own[i] * strides.k] + offset) & 0xff) ^ flip;
          sum += type === 'i8' ? (byte << 24) >> 24 : byte;
          if (bytes) bytes[4 * (at + (before + word) * width) + i] = byte;
        }
      }
      each?.(at, sum, batch * rows + row);
    }
  }
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
