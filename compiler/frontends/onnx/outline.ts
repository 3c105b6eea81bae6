/**
 * A model's file without the data of its large initialisers: what the import looks at, read in small pieces. The data
 * stays in the file until it is wanted, so that weights are never held twice.
 *
 * Only the wire format is walked here, along ModelProto.graph, GraphProto.initializer and TensorProto.raw_data. The result is as long
 * as the file, and has zeros where something was left out: pages of it that nothing is written to take no memory.
 */
import { largeBytes } from '../../stored.js';
import type { LeftOut } from './tensors.js';

/** A file that stays open. */
export interface ModelFile {
  /** Bytes. */
  readonly size: number;
  /** Fills `into` with the bytes from `offset` on. */
  read(offset: number, into: Uint8Array): void;
}

export interface Outline {
  /** As long as the file. */
  readonly bytes: Uint8Array;
  readonly leftOut: LeftOut;
}

/** What to do with the field of a number: look into it, leave it out if it is large, or (by default) keep it. */
type Fields = ReadonlyMap<number, Fields | 'data'>;
const tensorFields: Fields = new Map([[9, 'data']]);
const graphFields: Fields = new Map([[5, tensorFields]]);
const modelFields: Fields = new Map([[7, graphFields]]);

/** What is read at once grows from the first to the second while nothing is skipped. */
const [firstPiece, largestPiece] = [4 << 10, 256 << 10];

/** Where the file is not as expected, all of it is read: decoding it tells what is wrong. */
export function readOutline(file: ModelFile): Outline {
  const reader = new Reader(file);
  if (!walk(reader, modelFields, file.size)) reader.readAll();
  const { bytes, leftOut } = reader;
  return { bytes, leftOut: { has: (offset) => leftOut.has(offset), read: (offset, into) => file.read(offset, into) } };
}

/** One message up to `end`. False if it is malformed. */
function walk(reader: Reader, fields: Fields, end: number): boolean {
  while (reader.at < end) {
    const tag = reader.varint();
    if (tag === undefined) return false;
    const kind = tag % 8;
    if (kind === 0) {
      if (reader.varint() === undefined) return false;
    } else if (kind === 1 || kind === 5) {
      if (!reader.keep(kind === 1 ? 8 : 4)) return false;
    } else if (kind === 2) {
      const length = reader.varint();
      if (length === undefined || reader.at + length > end) return false;
      const what = fields.get(Math.floor(tag / 8));
      if (what === 'data' && length >= largeBytes) reader.leave(length);
      else if (what === undefined || what === 'data') reader.keep(length);
      else if (!walk(reader, what, reader.at + length)) return false;
    } else return false;
  }
  return reader.at === end;
}

class Reader {
  readonly bytes: Uint8Array;
  readonly leftOut = new Set<number>();
  at = 0;
  readonly #file: ModelFile;
  /** Read up to here. */
  #end = 0;
  #piece = firstPiece;

  constructor(file: ModelFile) {
    this.#file = file;
    this.bytes = new Uint8Array(file.size);
  }

  /** Exact up to 2^53: more is malformed here. */
  varint(): number | undefined {
    let value = 0;
    for (let i = 0; i < 10; i++) {
      if (!this.#need(1)) return undefined;
      const byte = this.bytes[this.at++];
      value += (byte % 128) * 2 ** (7 * i);
      if (byte < 128) return value;
    }
    return undefined;
  }

  keep(length: number): boolean {
    if (!this.#need(length)) return false;
    this.at += length;
    return true;
  }

  leave(length: number): void {
    this.leftOut.add(this.at);
    this.at += length;
    this.#end = Math.max(this.#end, this.at);
    this.#piece = firstPiece;
  }

  readAll(): void {
    this.leftOut.clear();
    this.#file.read(0, this.bytes);
  }

  /** False if the file has no `length` bytes more. */
  #need(length: number): boolean {
    const wanted = this.at + length;
    if (wanted > this.bytes.length) return false;
    if (wanted > this.#end) {
      const end = Math.min(this.bytes.length, Math.max(wanted, this.#end + this.#piece));
      this.#file.read(this.#end, this.bytes.subarray(this.#end, end));
      this.#end = end;
      this.#piece = Math.min(largestPiece, this.#piece * 2);
    }
    return true;
  }
}
