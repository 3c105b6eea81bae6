/** The bytes of constants in pieces of bounded size: what is large need not be held whole anywhere on its way. */
import { bytesOf, type DType } from '../compiler/dtype.js';
import type { ConstantData } from '../compiler/graph/types.js';
import { bytesOfTensor, dataArrays, sizeOf } from '../compiler/tensor.js';

/** Bytes of a piece: much more than what a transfer costs, and whole elements of any type. */
export const pieceBytes = 4 << 20;

export interface Piece {
  /** In the constant. */
  readonly offset: number;
  readonly bytes: Uint8Array;
}

/** All pieces, from the first byte to the last. A piece is good until the next is asked for. */
export function* piecesOf(data: ConstantData): Generator<Piece> {
  const total = sizeInBytes(data);
  if (data.readPart === undefined || total === 0) {
    if (total > 0) yield { offset: 0, bytes: bytesOfTensor(data.load()) };
    return;
  }
  const memory = new Uint8Array(Math.min(pieceBytes, total));
  for (let offset = 0; offset < total; offset += memory.byteLength) {
    const bytes = memory.subarray(0, total - offset);
    readPart(data, offset, bytes);
    yield { offset, bytes };
  }
}

/** The same in the order in which they are read at the least cost. */
export function* piecesInBestOrder(data: ConstantData): Generator<Piece> {
  if (data.parts === undefined) {
    yield* piecesOf(data);
    return;
  }
  const memory = new Uint8Array(pieceBytes);
  for (const [start, end] of rangesOf(data)) {
    for (let offset = start; offset < end; offset += memory.byteLength) {
      const bytes = memory.subarray(0, end - offset);
      readPart(data, offset, bytes);
      yield { offset, bytes };
    }
  }
}

/** Ranges of bytes in the order in which they are best read. */
export function* rangesOf(data: ConstantData): Generator<readonly [start: number, end: number]> {
  if (data.parts === undefined) {
    yield [0, sizeInBytes(data)];
    return;
  }
  const size = arrayOf(data).BYTES_PER_ELEMENT;
  for (const { start, length } of data.parts(pieceBytes / size)) yield [start * size, (start + length) * size];
}

/** Fills `into`, which begins where elements may, with the bytes from `offset` on. */
export function readPart(data: ConstantData, offset: number, into: Uint8Array): void {
  const array = arrayOf(data);
  const size = array.BYTES_PER_ELEMENT;
  data.readPart?.(offset / size, new array(into.buffer as ArrayBuffer, into.byteOffset, into.byteLength / size));
}

export const sizeInBytes = ({ dtype, shape }: ConstantData): number => bytesOf(dtype, sizeOf(shape));
const arrayOf = ({ dtype }: ConstantData) => dataArrays[dtype as Exclude<DType, 'string'>];
