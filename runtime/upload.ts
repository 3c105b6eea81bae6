/**
 * Constants on their way to a device: in pieces of bounded size, so that what is large is held whole nowhere but on the
 * device. Two pieces alternate: one is filled while the other is taken over.
 */
import type { BufferRange, HostWrite, Queue } from '../backends/backend.js';
import type { CreateHasher } from '../compiler/artifact/sha256.js';
import type { ConstantData } from '../compiler/graph/types.js';
import { bytesOfTensor } from '../compiler/tensor.js';
import { pieceBytes, piecesOf, rangesOf, readPart, sizeInBytes } from './constant_parts.js';
import { Pace } from './pace.js';

/** Where a part may begin in a piece, whatever its elements are. */
const alignment = 16;

export interface Upload {
  readonly name: string;
  readonly data: ConstantData;
  /** As long as the data. */
  readonly to: BufferRange;
}

/** @throws TuttiError E_EXTERNAL_DATA, E_ARTIFACT, E_IO, E_DEVICE_LOST */
export async function uploadConstants(queue: Queue, constants: readonly Upload[]): Promise<void> {
  const pace = new Pace();
  const total = constants.reduce((sum, { to }) => sum + alignUp(to.bytes), 0);
  const stage = new Stage(queue, Math.min(pieceBytes, total));
  for (const { name, data, to } of constants) {
    const bytes = sizeInBytes(data);
    if (bytes !== to.bytes) throw new Error(`constant ${name}: ${bytes} bytes, planned ${to.bytes}`);
    const whole = data.readPart === undefined ? bytesOfTensor(data.load()) : undefined;
    for (const [start, end] of rangesOf(data)) {
      for (let at = start; at < end; ) {
        await pace.breathe();
        const part = whole?.subarray(at, at + pieceBytes) ?? (await stage.space(end - at));
        if (whole === undefined) readPart(data, at, part);
        await stage.write({ to: { buffer: to.buffer, offset: to.offset + at, bytes: part.byteLength }, data: part });
        at += part.byteLength;
      }
    }
  }
  await stage.end();
}

/** SHA-256 of a constant's bytes. */
export function digestOf(data: ConstantData, createHasher: CreateHasher): string {
  const hasher = createHasher();
  for (const { bytes } of piecesOf(data)) hasher.update(bytes);
  return hasher.digest();
}

class Stage {
  readonly #queue: Queue;
  readonly #size: number;
  readonly #pieces: Uint8Array[] = [];
  #current = 0;
  #used = 0;
  #writes: HostWrite[] = [];
  #bytes = 0;
  #underway: Promise<unknown> = Promise.resolve();

  constructor(queue: Queue, size: number) {
    this.#queue = queue;
    this.#size = alignUp(size);
  }

  /** At most `wanted` bytes to fill and write next. */
  async space(wanted: number): Promise<Uint8Array> {
    if (this.#used >= this.#size) await this.#flush();
    const piece = (this.#pieces[this.#current] ??= new Uint8Array(this.#size));
    const part = piece.subarray(this.#used, this.#used + Math.min(wanted, this.#size - this.#used));
    this.#used += alignUp(part.byteLength);
    return part;
  }

  async write(write: HostWrite): Promise<void> {
    this.#writes.push(write);
    this.#bytes += write.to.bytes;
    if (this.#bytes >= this.#size) await this.#flush();
  }

  async end(): Promise<void> {
    await this.#flush();
    await this.#underway;
  }

  async #flush(): Promise<void> {
    await this.#underway;
    if (this.#writes.length === 0) return;
    this.#underway = this.#queue.submit({ writes: this.#writes });
    // Whoever waits for it hears of its failure; nobody does if something else has failed before.
    this.#underway.catch(() => undefined);
    this.#writes = [];
    this.#bytes = 0;
    this.#used = 0;
    this.#current = 1 - this.#current;
  }
}

const alignUp = (bytes: number): number => Math.ceil(bytes / alignment) * alignment;
