/**
 * Uncompressed tar archives (POSIX.1-1988 ustar), as far as OCI layouts need them: plain files with short names, and
 * folders, which are skipped. What is written is the same bytes every time. What is read is checked to the last byte:
 * checksums of headers, zeros between entries and at the end.
 */
import { TuttiError } from '../error.js';
import { damaged } from './failure.js';

const block = 512;
const maxEntries = 10_000;

/** A file in an archive. */
export interface TarEntry {
  readonly name: string;
  readonly offset: number;
  readonly size: number;
}

/** The header of a file of `size` bytes; the data follows, then `tarPadding(size)` zeros. */
export function tarHeader(name: string, size: number): Uint8Array {
  const header = new Uint8Array(block);
  const put = (offset: number, text: string) => header.set(new TextEncoder().encode(text), offset);
  if (name.length > 100) throw new Error(`name too long for a tar header: ${name}`);
  put(0, name);
  put(100, '0000644\0');
  put(108, '0000000\0');
  put(116, '0000000\0');
  put(124, sizeField(size));
  put(136, '00000000000\0');
  put(156, '0');
  put(257, 'ustar\x0000');
  put(148, `${checksum(header).toString(8).padStart(6, '0')}\0 `);
  return header;
}

function sizeField(size: number): string {
  if (size >= 8 ** 11) throw new TuttiError('E_UNSUPPORTED', 'a file of 8 GiB or more does not fit a tar entry');
  return `${size.toString(8).padStart(11, '0')}\0`;
}

export const tarPadding = (size: number): Uint8Array => new Uint8Array((block - (size % block)) % block);
/** Two blocks of zeros end an archive. */
export const tarEnd = (): Uint8Array => new Uint8Array(2 * block);

/** Sum of all bytes, those of the checksum itself taken as blanks. */
function checksum(header: Uint8Array): number {
  let sum = 0;
  for (let i = 0; i < block; i++) sum += i >= 148 && i < 156 ? 32 : header[i];
  return sum;
}

export const isTar = (bytes: Uint8Array): boolean =>
  bytes.byteLength >= block && String.fromCharCode(...bytes.subarray(257, 262)) === 'ustar';

/** The files of an archive by name. @throws TuttiError E_ARTIFACT */
export function readTar(bytes: Uint8Array): ReadonlyMap<string, TarEntry> {
  const entries = new Map<string, TarEntry>();
  let at = 0;
  for (;;) {
    if (at + block > bytes.byteLength)
      throw damaged('the archive has no end', undefined, 'two blocks of zeros', 'none');
    const header = bytes.subarray(at, at + block);
    if (isZero(header)) break;
    const entry = readHeader(header, at + block);
    const end = entry.offset + entry.size;
    const next = at + block + Math.ceil(entry.size / block) * block;
    if (next > bytes.byteLength) {
      throw damaged('the archive is cut off', entry.name, `${entry.size} bytes`, `${bytes.byteLength - entry.offset}`);
    }
    if (!isZero(bytes.subarray(end, next)))
      throw damaged('bytes between the files of the archive', entry.name, 'zeros');
    if (entry.file) {
      if (entries.has(entry.name)) throw damaged('two files of one name', entry.name);
      if (entries.size >= maxEntries) throw damaged('too many files', undefined, `at most ${maxEntries}`);
      entries.set(entry.name, { name: entry.name, offset: entry.offset, size: entry.size });
    }
    at = next;
  }
  const rest = bytes.byteLength - at;
  if (rest < 2 * block || rest % block !== 0 || !isZero(bytes.subarray(at))) {
    throw damaged('the end of the archive is damaged', undefined, 'two or more blocks of zeros', `${rest} bytes`);
  }
  return entries;
}

function readHeader(header: Uint8Array, offset: number): TarEntry & { readonly file: boolean } {
  const text = (start: number, length: number): string => {
    const field = header.subarray(start, start + length);
    const end = field.indexOf(0);
    return String.fromCharCode(...(end < 0 ? field : field.subarray(0, end)));
  };
  const octal = (start: number, length: number, what: string): number => {
    const digits = /^ *([0-7]+)[ \0]*$/.exec(String.fromCharCode(...header.subarray(start, start + length)));
    if (!digits) throw damaged(`bad ${what} in a header of the archive`);
    return Number.parseInt(digits[1], 8);
  };
  if (text(257, 5) !== 'ustar') throw damaged('not a tar header');
  const sum = octal(148, 8, 'checksum');
  if (sum !== checksum(header)) {
    throw damaged('a header of the archive is damaged', undefined, `checksum ${checksum(header)}`, `${sum}`);
  }
  const prefix = text(257, 6) === 'ustar' && header[262] === 0 ? text(345, 155) : '';
  const name = (prefix === '' ? text(0, 100) : `${prefix}/${text(0, 100)}`).replace(/^\.\//, '');
  const size = octal(124, 12, 'size');
  const type = String.fromCharCode(header[156]);
  if (type === '0' || type === '\0') return { name, offset, size, file: true };
  if (type === '5') return { name, offset, size: 0, file: false };
  throw damaged('neither a file nor a folder in the archive', name, 'type 0 or 5', type);
}

function isZero(bytes: Uint8Array): boolean {
  for (let i = 0; i < bytes.byteLength; i++) if (bytes[i] !== 0) return false;
  return true;
}
