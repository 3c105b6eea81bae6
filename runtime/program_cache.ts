/**
 * Programs on disk, so that a model is planned and rendered once for a device and not once a process. Node only.
 *
 * An entry is a file `<key>.program`: sections of bytes, a document that says where they lie and what they add up to, and
 * a tail that says the same of the document. Whatever is not as it should be is a miss; entries are written beside their
 * place and renamed. The least recently used are removed when all together are too large.
 */
import { createHash, randomBytes } from 'node:crypto';
import { closeSync, existsSync, fstatSync, openSync, readSync, utimes } from 'node:fs';
import { type FileHandle, mkdir, open, readdir, rename, rm, stat } from 'node:fs/promises';
import { join } from 'node:path';
import { crc32 } from 'node:zlib';
import { canonical } from './canonical.js';
import { pieceBytes } from './constant_parts.js';
import { log } from './environment.js';
import { DamagedProgram, decodeProgram, encodeProgram, type RenderedProgram, type Sections } from './program_format.js';

/** Of all entries together. A larger program is not stored. */
const maximumBytes = 4 * 2 ** 30;

/** Sections begin where any element may. */
const alignment = 64;

/** After the document: its bytes, its CRC-32, and this, which changes with the format. */
const magic = Buffer.from('tutti program 1\n');
const tailBytes = 8 + magic.length;

interface Place {
  readonly offset: number;
  readonly bytes: number;
  readonly crc: number;
}

/** What a program follows from; equal text, equal programs. */
export type ProgramKey = Readonly<Record<string, unknown>>;

export class ProgramCache {
  readonly #folder: string;
  readonly #version: string;
  readonly #writing = new Set<Promise<void>>();

  /** @param version Of everything that makes programs: what another one has stored is not found. */
  constructor(folder: string, version: string) {
    this.#folder = folder;
    this.#version = version;
  }

  #path(key: ProgramKey): string {
    const digest = createHash('sha256')
      .update(`${this.#version}\n${canonical(key)}`)
      .digest('hex');
    return join(this.#folder, `${digest}.program`);
  }

  has(key: ProgramKey): boolean {
    return existsSync(this.#path(key));
  }

  find(key: ProgramKey): RenderedProgram | undefined {
    const path = this.#path(key);
    try {
      const file = new EntryFile(openSync(path, 'r'));
      const found = decodeProgram(file.text, file);
      const now = new Date();
      // Used now; if that cannot be noted, it is given up earlier.
      utimes(path, now, now, () => undefined);
      return found;
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code !== 'ENOENT') log('info', () => `${path} is of no use: ${error}`);
      return undefined;
    }
  }

  /** In the background; what cannot be written is not there next time. */
  store(key: ProgramKey, rendered: RenderedProgram): void {
    const writing = this.#write(this.#path(key), rendered)
      .catch((error) => log('info', () => `the program was not stored: ${error}`))
      .finally(() => this.#writing.delete(writing));
    this.#writing.add(writing);
  }

  /** An entry that was found and then proved damaged. */
  async remove(key: ProgramKey): Promise<void> {
    await rm(this.#path(key), { force: true }).catch(() => undefined);
  }

  /** Resolves when all that is being stored is there. */
  async settled(): Promise<void> {
    while (this.#writing.size > 0) await Promise.all(this.#writing);
  }

  async #write(path: string, rendered: RenderedProgram): Promise<void> {
    const { text, sections } = encodeProgram(rendered);
    await mkdir(this.#folder, { recursive: true });
    const temporary = `${path}.${process.pid}.${randomBytes(6).toString('hex')}.tmp`;
    try {
      const file = await open(temporary, 'wx+');
      let length = 0;
      const write = async (bytes: Uint8Array, at: number): Promise<void> => {
        for (let done = 0; done < bytes.byteLength; )
          done += (await file.write(bytes, done, bytes.byteLength - done, at + done)).bytesWritten;
        length = Math.max(length, at + bytes.byteLength);
      };
      const append = (bytes: Uint8Array): Promise<void> => write(bytes, length);
      try {
        const places: Place[] = [];
        for (const section of sections) {
          const offset = Math.ceil(length / alignment) * alignment;
          let ordered: number | undefined = 0;
          let crc = 0;
          for (const piece of section()) {
            if (offset + piece.offset + piece.bytes.byteLength > maximumBytes) throw new Error('it is too large');
            if (piece.offset !== ordered) ordered = undefined;
            else {
              ordered += piece.bytes.byteLength;
              crc = crc32(piece.bytes, crc);
            }
            await write(piece.bytes, offset + piece.offset);
          }
          const bytes = Math.max(0, length - offset);
          // What did not come in order is summed up when it is all there.
          if (ordered === undefined) crc = await sumOf(file, offset, bytes);
          places.push({ offset, bytes, crc });
        }
        const document = Buffer.from(`${JSON.stringify(places)}\n${text}`);
        await append(document);
        const tail = Buffer.alloc(8);
        tail.writeUInt32LE(document.length, 0);
        tail.writeUInt32LE(crc32(document), 4);
        await append(Buffer.concat([tail, magic]));
      } finally {
        await file.close();
      }
      await rename(temporary, path);
      await this.#shrink();
    } catch (error) {
      await rm(temporary, { force: true });
      throw error;
    }
  }

  async #shrink(): Promise<void> {
    const names = await readdir(this.#folder);
    const entries = await Promise.all(
      names.map(async (name) => {
        const path = join(this.#folder, name);
        const info = await stat(path).catch(() => undefined);
        return { path, bytes: info?.size ?? 0, used: info?.mtimeMs ?? 0 };
      }),
    );
    let total = entries.reduce((sum, { bytes }) => sum + bytes, 0);
    for (const { path, bytes } of entries.sort((a, b) => a.used - b.used)) {
      if (total <= maximumBytes) return;
      await rm(path, { force: true });
      total -= bytes;
    }
  }
}

/** CRC-32 of a part of a file. */
async function sumOf(file: FileHandle, offset: number, bytes: number): Promise<number> {
  const memory = Buffer.alloc(Math.min(bytes, pieceBytes));
  let crc = 0;
  for (let done = 0; done < bytes; ) {
    const { bytesRead } = await file.read(memory, 0, Math.min(memory.length, bytes - done), offset + done);
    if (bytesRead === 0) throw new Error('it ends early');
    crc = crc32(memory.subarray(0, bytesRead), crc);
    done += bytesRead;
  }
  return crc;
}

/** Descriptors of entries whose constants nobody can ask for any more. */
const abandoned = new FinalizationRegistry<number>((descriptor) => closeSync(descriptor));

/** An open entry: it stays readable when another one takes its place or it is removed. */
class EntryFile implements Sections {
  readonly text: string;
  readonly #places: readonly Place[];
  readonly #descriptor: number;
  /** By section: how far it was read part by part, and the CRC-32 up to there. */
  readonly #progress = new Map<number, { readonly offset: number; readonly crc: number }>();

  constructor(descriptor: number) {
    abandoned.register(this, descriptor);
    this.#descriptor = descriptor;
    const { size } = fstatSync(descriptor);
    if (size < tailBytes) throw new DamagedProgram('it is too short');
    const tail = this.#read(size - tailBytes, Buffer.alloc(tailBytes));
    if (!tail.subarray(8).equals(magic)) throw new DamagedProgram('it is of another format');
    const length = tail.readUInt32LE(0);
    if (length > size - tailBytes) throw new DamagedProgram('it is too short');
    const document = this.#read(size - tailBytes - length, Buffer.alloc(length));
    if (crc32(document) !== tail.readUInt32LE(4)) throw new DamagedProgram('its document is damaged');
    const [places, text] = document.toString().split('\n');
    this.#places = JSON.parse(places) as readonly Place[];
    this.text = text;
  }

  #read<T extends Uint8Array>(offset: number, into: T): T {
    for (let done = 0; done < into.byteLength; ) {
      const length = Math.min(into.byteLength - done, 1 << 30);
      const count = readSync(this.#descriptor, into, done, length, offset + done);
      if (count === 0) throw new DamagedProgram('it ends early');
      done += count;
    }
    return into;
  }

  all(section: number): Uint8Array {
    const { offset, bytes, crc } = this.#places[section];
    const content = this.#read(offset, new Uint8Array(bytes));
    if (crc32(content) !== crc) throw new DamagedProgram('a section is damaged');
    return content;
  }

  part(section: number, offset: number, into: Uint8Array): void {
    const place = this.#places[section];
    this.#read(place.offset + offset, into);
    const before = offset === 0 ? { offset, crc: 0 } : this.#progress.get(section);
    // Only what is read from its beginning to its end can be checked.
    if (before?.offset !== offset) return;
    const now = { offset: offset + into.byteLength, crc: crc32(into, before.crc) };
    this.#progress.set(section, now);
    if (now.offset === place.bytes && now.crc !== place.crc) throw new DamagedProgram('a section is damaged');
  }
}
