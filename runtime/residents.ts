/**
 * Tensors that stay on a device: between the stages of a run, and between runs. Their buffers are the session's; what is
 * let go is used again for the next tensor of its size, so that a model that runs over and over allocates nothing.
 */
import type { BufferRange, Device, DeviceBuffer } from '../backends/backend.js';

/** Kernels and copies may touch whole words past the end. */
const granularity = 256;
/** Buffers of one size that wait to be used again. */
const idlePerSize = 16;
/** What waits in all may be as much as is in use, and this much in any case. */
const idleBytes = 64 << 20;

/** Sessions of one device may hand tensors to each other. */
let nextId = 0;

/** Memory of a tensor, shared by whoever counts on it; it is not written again once it is filled. */
export class Resident {
  /** Of the memory, unique within the process. */
  readonly id: number;
  readonly buffer: DeviceBuffer;
  /** Of the tensor. */
  readonly bytes: number;
  readonly #letGo: (buffer: DeviceBuffer) => void;
  #holders = 1;

  constructor(id: number, buffer: DeviceBuffer, bytes: number, letGo: (buffer: DeviceBuffer) => void) {
    this.id = id;
    this.buffer = buffer;
    this.bytes = bytes;
    this.#letGo = letGo;
  }

  range(): BufferRange {
    return { buffer: this.buffer, offset: 0, bytes: this.bytes };
  }

  hold(): this {
    if (this.#holders === 0) throw new Error('a tensor is used after it was let go');
    this.#holders++;
    return this;
  }

  release(): void {
    if (this.#holders === 0) throw new Error('a tensor is let go twice');
    if (--this.#holders === 0) this.#letGo(this.buffer);
  }
}

export class Residents {
  readonly #device: Device;
  readonly #onFree: (id: number) => void;
  /** By size. */
  readonly #idle = new Map<number, DeviceBuffer[]>();
  readonly #ids = new WeakMap<DeviceBuffer, number>();
  #bytes = 0;
  #idleBytes = 0;
  #closed = false;

  /** @param onFree Told the id of memory that is no more: who has recorded commands with it lets them go. */
  constructor(device: Device, onFree: (id: number) => void = () => undefined) {
    this.#device = device;
    this.#onFree = onFree;
  }

  /** Bytes of all buffers, idle ones included. */
  get bytes(): number {
    return this.#bytes;
  }

  /** Memory for a tensor; what is in it is not defined. @throws TuttiError E_OUT_OF_MEMORY */
  take(bytes: number): Resident {
    const size = Math.max(granularity, Math.ceil(bytes / granularity) * granularity);
    const waiting = this.#idle.get(size)?.pop();
    if (waiting !== undefined) this.#idleBytes -= size;
    const buffer = waiting ?? this.#allocate(size);
    return new Resident(this.#ids.get(buffer) as number, buffer, bytes, (own) => this.#giveBack(own));
  }

  #allocate(size: number): DeviceBuffer {
    let buffer: DeviceBuffer;
    try {
      buffer = this.#device.allocate(size);
    } catch (error) {
      if (!this.trim()) throw error;
      buffer = this.#device.allocate(size);
    }
    this.#ids.set(buffer, nextId++);
    this.#bytes += size;
    return buffer;
  }

  #giveBack(buffer: DeviceBuffer): void {
    const idle = this.#idle.get(buffer.bytes) ?? [];
    this.#idle.set(buffer.bytes, idle);
    const after = this.#idleBytes + buffer.bytes;
    const full = idle.length >= idlePerSize || after > Math.max(idleBytes, this.#bytes - after);
    if (this.#closed || full) this.#free(buffer);
    else {
      idle.push(buffer);
      this.#idleBytes = after;
    }
  }

  #free(buffer: DeviceBuffer): void {
    this.#bytes -= buffer.bytes;
    this.#onFree(this.#ids.get(buffer) as number);
    buffer.free();
  }

  /** Frees what waits to be used again; true if there was any. */
  trim(): boolean {
    const idle = [...this.#idle.values()].flat();
    this.#idle.clear();
    this.#idleBytes = 0;
    for (const buffer of idle) this.#free(buffer);
    return idle.length > 0;
  }

  /** Tensors that somebody still holds are freed when they are let go. */
  close(): void {
    this.#closed = true;
    this.trim();
  }
}

/** Copies are of whole words: the places of tensors are padded. */
export const words = ({ buffer, offset, bytes }: BufferRange): BufferRange => ({
  buffer,
  offset,
  bytes: Math.ceil(bytes / 4) * 4,
});
