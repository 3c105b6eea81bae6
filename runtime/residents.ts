/**
 * Tensors that stay on a device: between the stages of a run, and between runs. Their buffers are the session's; what is
 * let go is used again for the next tensor of its size, so that a model that runs over and over allocates nothing.
 */
import type { BufferRange, Device, DeviceBuffer } from '../backends/backend.js';

/** Kernels and copies may touch whole words past the end. */
const granularity = 256;
/** Buffers of one size that wait to be used again. */
const idlePerSize = 16;

/** Memory of a tensor, shared by whoever counts on it; it is not written again once it is filled. */
export class Resident {
  /** Unique within the process. */
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
  /** By size. */
  readonly #idle = new Map<number, DeviceBuffer[]>();
  readonly #ids = new WeakMap<DeviceBuffer, number>();
  #nextId = 0;
  #bytes = 0;
  #closed = false;

  constructor(device: Device) {
    this.#device = device;
  }

  /** Bytes of all buffers, idle ones included. */
  get bytes(): number {
    return this.#bytes;
  }

  /** Memory for a tensor; what is in it is not defined. @throws TuttiError E_OUT_OF_MEMORY */
  take(bytes: number): Resident {
    const size = Math.max(granularity, Math.ceil(bytes / granularity) * granularity);
    const buffer = this.#idle.get(size)?.pop() ?? this.#allocate(size);
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
    this.#ids.set(buffer, this.#nextId++);
    this.#bytes += size;
    return buffer;
  }

  #giveBack(buffer: DeviceBuffer): void {
    const idle = this.#idle.get(buffer.bytes) ?? [];
    this.#idle.set(buffer.bytes, idle);
    if (this.#closed || idle.length >= idlePerSize) this.#free(buffer);
    else idle.push(buffer);
  }

  #free(buffer: DeviceBuffer): void {
    this.#bytes -= buffer.bytes;
    buffer.free();
  }

  /** Frees what waits to be used again; true if there was any. */
  trim(): boolean {
    const idle = [...this.#idle.values()].flat();
    this.#idle.clear();
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
