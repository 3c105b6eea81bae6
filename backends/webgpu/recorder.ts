/** Turns commands into steps that WebGPU can encode: bind groups, uniforms, and kernels for copies and fills of odd bytes. */
import type { BufferRange, Command, Target } from '../backend.js';
import { checkCopy, checkDispatch, checkFill } from '../common/checks.js';
import { foreignError } from '../common/errors.js';
import { byteGrid, byteRange, copyCode, fillCode } from './bytes.js';
import type { Polling } from './polling.js';
import { ownBuffer, roundDown, roundUp, type WebGpuBuffer, WebGpuKernel } from './resources.js';
import { type Dispatch, type Step, WebGpuCommandList } from './steps.js';

const STORAGE_USAGE = 0x80 | 0x04 | 0x08; // STORAGE | COPY_SRC | COPY_DST
const UNIFORM_USAGE = 0x40 | 0x08; // UNIFORM | COPY_DST
const COMPUTE_STAGE = 4;
/** Copies within one buffer go through a scratch buffer of at most this size, piece by piece. */
const SCRATCH_BYTES = 16 << 20;

/** What recording needs of its device. */
export interface Recording {
  readonly gpu: GPUDevice;
  readonly polling: Polling;
  readonly limits: Target['limits'];
  /** Of the offsets of uniform bindings. */
  readonly uniformAlignment: number;
  /** Layout of a group of `buffers` storage buffers, then a uniform buffer if `scalars`. */
  layout(buffers: number, scalars: boolean): GPUBindGroupLayout;
  bytePipeline(kind: 'copy' | 'fill'): GPUComputePipeline;
}

/** Turns commands into steps. One recorder makes one list, or the byte patches of one submission. */
export class Recorder {
  readonly #to: Recording;
  readonly #steps: Step[] = [];
  readonly #buffers = new Set<WebGpuBuffer>();
  readonly #internal: GPUBuffer[] = [];
  readonly #uniforms = new Map<string, number>();
  readonly #uniformData: Uint8Array[] = [];
  /** Dispatches whose bind group waits for the uniform buffer. */
  readonly #pending: (() => void)[] = [];
  readonly #groups = new Map<string, GPUBindGroup>();
  readonly #bufferIds = new Map<GPUBuffer, number>();
  #uniformBuffer: GPUBuffer | undefined;
  #uniformStride = 0;
  #scratch: { bytes: number; buffer: GPUBuffer | undefined } = { bytes: 0, buffer: undefined };

  constructor(to: Recording) {
    this.#to = to;
  }

  add(command: Command) {
    switch (command.kind) {
      case 'dispatch':
        return this.#dispatch(command);
      case 'copy':
        return this.#copy(command.from, command.to);
      case 'fill':
        return this.#fill(command.to, command.byte);
      case 'barrier':
        return; // WebGPU orders dispatches, copies and passes by what they touch
      default:
        return command satisfies never;
    }
  }

  /** Copies bytes of a GPU buffer of the caller's (whole words, at least `fromByte + bytes` long) to any place. */
  patch(source: GPUBuffer, fromByte: number, to: BufferRange): void {
    const target = ownBuffer(this.#to.gpu, to, 'write');
    this.#copyBytes(source, fromByte, target.gpu, target.size, to.offset, to.bytes);
  }

  /** Writes uniforms and finishes. Every buffer of the list is held until it is released. */
  finish(onRelease: (list: WebGpuCommandList) => void): WebGpuCommandList {
    const { gpu, uniformAlignment } = this.#to;
    if (this.#scratch.bytes > 0) {
      this.#scratch.buffer = gpu.createBuffer({ size: this.#scratch.bytes, usage: STORAGE_USAGE });
      this.#internal.push(this.#scratch.buffer);
    }
    if (this.#uniformData.length > 0) {
      const stride = roundUp(Math.max(...this.#uniformData.map((data) => data.length)), uniformAlignment);
      const all = new Uint8Array(stride * this.#uniformData.length);
      this.#uniformData.forEach((data, slot) => {
        all.set(data, slot * stride);
      });
      this.#uniformBuffer = gpu.createBuffer({ size: all.length, usage: UNIFORM_USAGE });
      this.#internal.push(this.#uniformBuffer);
      gpu.queue.writeBuffer(this.#uniformBuffer, 0, all);
      this.#uniformStride = stride;
    }
    for (const resolve of this.#pending) resolve();
    for (const buffer of this.#buffers) buffer.hold();
    return new WebGpuCommandList(gpu, this.#steps, [...this.#buffers], this.#internal, onRelease);
  }

  #dispatch(command: Extract<Command, { kind: 'dispatch' }>): void {
    const { kernel, grid, bindings, scalars } = command;
    if (!(kernel instanceof WebGpuKernel) || kernel.owner !== this.#to.gpu) throw foreignError('kernel');
    const { code, pipeline, name } = kernel;
    checkDispatch(command, code, this.#to.limits);
    const entries = bindings.map((range, i) => {
      const buffer = ownBuffer(this.#to.gpu, range, `kernel ${name}, buffer ${i}`);
      this.#buffers.add(buffer);
      return { buffer: buffer.gpu, offset: range.offset, size: Math.max(roundUp(range.bytes, 4), 4) };
    });
    if (grid.includes(0)) return;
    this.#push(pipeline, entries, scalars && scalars.length > 0 ? scalars : undefined, grid, true);
  }

  #push(
    pipeline: GPUComputePipeline,
    entries: readonly GPUBufferBinding[],
    scalars: Uint8Array | undefined,
    [x, y, z]: readonly [number, number, number],
    profiled: boolean,
  ): void {
    const last = this.#steps.at(-1);
    const dispatches = last?.kind === 'pass' ? last.dispatches : [];
    if (last?.kind !== 'pass') this.#steps.push({ kind: 'pass', dispatches });
    const slot = scalars === undefined ? undefined : this.#uniform(scalars);
    const place = dispatches.length;
    const resolve = (): void => {
      dispatches[place] = { pipeline, group: this.#group(entries, slot, scalars?.length ?? 0), x, y, z, profiled };
    };
    // The uniform buffer exists once all its slots are known.
    dispatches.push(undefined as unknown as Dispatch);
    this.#pending.push(resolve);
  }

  #uniform(data: Uint8Array): number {
    const key = data.join();
    let slot = this.#uniforms.get(key);
    if (slot === undefined) {
      slot = this.#uniformData.length;
      this.#uniforms.set(key, slot);
      this.#uniformData.push(data.slice());
    }
    return slot;
  }

  #group(entries: readonly GPUBufferBinding[], slot: number | undefined, scalarBytes: number): GPUBindGroup {
    const key = `${entries.map((e) => `${this.#bufferId(e.buffer)}:${e.offset}:${e.size}`).join()}|${slot ?? ''}`;
    let group = this.#groups.get(key);
    if (!group) {
      const bound: GPUBindGroupEntry[] = entries.map((entry, binding) => ({ binding, resource: entry }));
      if (slot !== undefined && this.#uniformBuffer) {
        const offset = slot * this.#uniformStride;
        bound.push({
          binding: entries.length,
          resource: { buffer: this.#uniformBuffer, offset, size: roundUp(scalarBytes, 16) },
        });
      }
      group = this.#to.gpu.createBindGroup({
        layout: this.#to.layout(entries.length, slot !== undefined),
        entries: bound,
      });
      this.#groups.set(key, group);
    }
    return group;
  }

  #bufferId(buffer: GPUBuffer): number {
    let id = this.#bufferIds.get(buffer);
    if (id === undefined) {
      id = this.#bufferIds.size;
      this.#bufferIds.set(buffer, id);
    }
    return id;
  }

  #fill(to: BufferRange, byte: number): void {
    const buffer = ownBuffer(this.#to.gpu, to, 'fill');
    checkFill(to, byte);
    if (to.bytes === 0) return;
    this.#buffers.add(buffer);
    const atEnd = to.offset + to.bytes === buffer.bytes; // what follows in the last word is padding
    const bytes = atEnd ? buffer.size - to.offset : to.bytes;
    if (byte === 0 && to.offset % 4 === 0 && bytes % 4 === 0) {
      this.#steps.push({ kind: 'clear', to: buffer.gpu, offset: to.offset, bytes });
      return;
    }
    this.#windows(to.offset, to.bytes, (offset, length) => {
      const window = this.#window(buffer.gpu, buffer.size, offset, length);
      const place = offset - window.offset;
      this.#push(
        this.#to.bytePipeline('fill'),
        [window],
        new Uint8Array(byteRange(place, length, 0, byte).buffer),
        byteGrid(place, length),
        false,
      );
    });
  }

  #copy(from: BufferRange, to: BufferRange) {
    const source = ownBuffer(this.#to.gpu, from, 'copy source');
    const target = ownBuffer(this.#to.gpu, to, 'copy destination');
    checkCopy(from, to);
    if (from.bytes === 0) return;
    this.#buffers.add(source);
    this.#buffers.add(target);
    const whole = from.offset % 4 === 0 && to.offset % 4 === 0 && to.bytes % 4 === 0;
    if (source !== target) {
      if (whole) return this.#copyWords(source.gpu, from.offset, target.gpu, to.offset, to.bytes);
      return this.#copyBytes(source.gpu, from.offset, target.gpu, target.size, to.offset, to.bytes);
    }
    // WebGPU copies only between two buffers.
    for (let done = 0; done < to.bytes; done += SCRATCH_BYTES) {
      const bytes = Math.min(SCRATCH_BYTES, to.bytes - done);
      const start = roundDown(from.offset + done, 4);
      const words = roundUp(from.offset + done + bytes, 4) - start;
      this.#scratch.bytes = Math.max(this.#scratch.bytes, words);
      this.#copyWords(source.gpu, start, undefined, 0, words);
      if (whole) this.#copyWords(undefined, 0, target.gpu, to.offset + done, bytes);
      else this.#copyBytes(undefined, from.offset + done - start, target.gpu, target.size, to.offset + done, bytes);
    }
  }

  /** Copies whole words; undefined is the scratch buffer, which is made at the end. */
  #copyWords(
    from: GPUBuffer | undefined,
    fromOffset: number,
    to: GPUBuffer | undefined,
    toOffset: number,
    bytes: number,
  ): void {
    const place = this.#steps.length;
    const resolve = (): void => {
      const scratch = this.#scratch.buffer as GPUBuffer;
      this.#steps[place] = { kind: 'copy', from: from ?? scratch, fromOffset, to: to ?? scratch, toOffset, bytes };
    };
    this.#steps.push({ kind: 'copy', from: from as GPUBuffer, fromOffset, to: to as GPUBuffer, toOffset, bytes });
    this.#pending.push(resolve);
  }

  /** Copies bytes between two buffers by a kernel; both are bound as windows around the ranges. */
  #copyBytes(
    from: GPUBuffer | undefined,
    fromOffset: number,
    to: GPUBuffer,
    toSize: number,
    toOffset: number,
    bytes: number,
  ): void {
    this.#windows(toOffset, bytes, (offset, length) => {
      const start = fromOffset + (offset - toOffset);
      const target = this.#window(to, toSize, offset, length);
      const aligned = roundDown(start, this.#to.limits.storageAlignment);
      const place = offset - target.offset;
      // The scratch buffer is unknown yet, so its binding is looked up when bind groups are made.
      const scratch = this.#scratch;
      const source: GPUBufferBinding & { offset: number } = {
        get buffer(): GPUBuffer {
          return from ?? (scratch.buffer as GPUBuffer);
        },
        offset: aligned,
        size: roundUp(start + length, 4) - aligned,
      };
      this.#push(
        this.#to.bytePipeline('copy'),
        [target, source],
        new Uint8Array(byteRange(place, length, start - aligned, 0).buffer),
        byteGrid(place, length),
        false,
      );
    });
  }

  #window(buffer: GPUBuffer, size: number, offset: number, bytes: number): GPUBufferBinding & { offset: number } {
    const start = roundDown(offset, this.#to.limits.storageAlignment);
    return { buffer, offset: start, size: Math.min(roundUp(offset + bytes, 4), size) - start };
  }

  /** Cuts a range into pieces that fit a binding with its alignment on both sides. */
  #windows(offset: number, bytes: number, each: (offset: number, bytes: number) => void): void {
    const most = roundDown(this.#to.limits.storageBindingBytes, 4) - 2 * this.#to.limits.storageAlignment - 4;
    for (let done = 0; done < bytes; ) {
      // Pieces end on words, so that no two of them share one.
      const end = done + most >= bytes ? bytes : roundDown(offset + done + most, 4) - offset;
      each(offset + done, end - done);
      done = end;
    }
  }
}

/** The source of the byte kernels and the number of storage buffers they bind. */
export const bytePrograms = { copy: { code: copyCode, buffers: 2 }, fill: { code: fillCode, buffers: 1 } } as const;

export function createLayout(gpu: GPUDevice, buffers: number, scalars: boolean): GPUBindGroupLayout {
  const entries: GPUBindGroupLayoutEntry[] = [];
  for (let binding = 0; binding < buffers; binding++) {
    entries.push({ binding, visibility: COMPUTE_STAGE, buffer: { type: 'storage' } });
  }
  if (scalars) entries.push({ binding: buffers, visibility: COMPUTE_STAGE, buffer: { type: 'uniform' } });
  return gpu.createBindGroupLayout({ entries });
}
