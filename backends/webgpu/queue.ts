/** The queue of a WebGPU device: host data in, recorded steps, host data out. */
import type { Completion, HostRead, HostWrite, Queue } from '../backend.js';
import { checkTransfer } from '../common/checks.js';
import { foreignError, releasedError } from '../common/errors.js';
import type { Health } from './health.js';
import { Profile } from './profile.js';
import { Recorder, type Recording } from './recorder.js';
import { ownBuffer, roundUp } from './resources.js';
import { encodeSteps, WebGpuCommandList } from './steps.js';

// The flags of the specification as numbers: Node has no GPUBufferUsage global.
const MAP_READ = 0x01;
const COPY_DST = 0x08;
const STORAGE = 0x80;
const MAP_MODE_READ = 1;

/** Results of one submission are packed in staging buffers of at most this size (or one read, if that is larger). */
const STAGING_BYTES = 64 << 20;
/** Idle staging buffers kept for the next submissions: bytes in all. */
const POOL_BYTES = 64 << 20;

type Work = Parameters<Queue['submit']>[0];

interface StagedRead {
  readonly read: HostRead;
  readonly staging: GPUBuffer;
  /** Of the read's first byte. */
  readonly offset: number;
}

export class WebGpuQueue implements Queue {
  readonly #gpu: GPUDevice;
  readonly #recording: Recording;
  readonly #health: Health;
  /** Idle staging buffers by size. */
  readonly #pool = new Map<number, GPUBuffer[]>();
  #pooledBytes = 0;
  /** How to fail each submission in flight, and when it has left the device. */
  readonly #inFlight = new Map<(error: unknown) => void, Promise<void>>();

  constructor(recording: Recording, health: Health) {
    this.#gpu = recording.gpu;
    this.#recording = recording;
    this.#health = health;
  }

  /** Everything up to the device's queue happens before the first await: submissions keep the order of their calls. */
  async submit(work: Work): Promise<Completion> {
    this.#health.check();
    const { list, writes = [], reads = [], signal, profile: timed = false } = work;
    signal?.throwIfAborted();
    const fault = this.#health.takeFault();
    if (fault) throw fault;
    if (list && !(list instanceof WebGpuCommandList && list.owner === this.#gpu)) throw foreignError('command list');
    if (list?.released) throw releasedError('command list');
    for (const { to, data } of writes) {
      ownBuffer(this.#gpu, to, 'write');
      checkTransfer(to, data, 'write');
    }
    for (const { from, into } of reads) {
      ownBuffer(this.#gpu, from, 'read');
      checkTransfer(from, into, 'read');
    }

    const encoder = this.#gpu.createCommandEncoder();
    const patches = this.#write(writes, encoder);
    const profile =
      timed && list && this.#gpu.features.has('timestamp-query') ? Profile.encode(this.#gpu, list, encoder) : undefined;
    if (list && !profile) encodeSteps(encoder, list.steps);
    const staged = this.#stage(reads, encoder);
    this.#gpu.queue.submit([encoder.finish()]);

    const stagings = [...new Set(staged.map(({ staging }) => staging))];
    return this.#settle(stagings, staged, signal, profile).finally(() => {
      patches?.release();
      profile?.destroy();
    });
  }

  /** Host data into buffers: whole words by the queue, the rest through a kernel in `encoder`. */
  #write(writes: readonly HostWrite[], encoder: GPUCommandEncoder): { release(): void } | undefined {
    let recorder: Recorder | undefined;
    const temporaries: GPUBuffer[] = [];
    for (const { to, data } of writes) {
      const buffer = ownBuffer(this.#gpu, to, 'write');
      if (to.bytes === 0) continue;
      // Shared memory is not accepted everywhere.
      const bytes = data.buffer instanceof ArrayBuffer ? (data as Uint8Array<ArrayBuffer>) : new Uint8Array(data);
      const words = to.offset % 4 === 0 ? to.bytes - (to.bytes % 4) : 0;
      if (words > 0) this.#gpu.queue.writeBuffer(buffer.gpu, to.offset, bytes.subarray(0, words));
      if (words === to.bytes) continue;
      const rest = new Uint8Array(roundUp(to.bytes - words, 4));
      rest.set(bytes.subarray(words));
      if (to.offset % 4 === 0 && to.offset + to.bytes === buffer.bytes) {
        this.#gpu.queue.writeBuffer(buffer.gpu, to.offset + words, rest); // only padding follows
        continue;
      }
      const temporary = this.#gpu.createBuffer({ size: rest.length, usage: STORAGE | COPY_DST });
      this.#gpu.queue.writeBuffer(temporary, 0, rest);
      temporaries.push(temporary);
      recorder ??= new Recorder(this.#recording);
      recorder.patch(temporary, 0, { buffer, offset: to.offset + words, bytes: to.bytes - words });
    }
    if (!recorder) return undefined;
    const list = recorder.finish(() => undefined);
    encodeSteps(encoder, list.steps);
    return {
      release: () => {
        list.release();
        for (const buffer of temporaries) buffer.destroy();
      },
    };
  }

  /** Copies what is to be read into staging buffers, in whole words. */
  #stage(reads: readonly HostRead[], encoder: GPUCommandEncoder): readonly StagedRead[] {
    const staged: StagedRead[] = [];
    for (let first = 0; first < reads.length; ) {
      // As many reads as fit one staging buffer.
      let size = 0;
      let end = first;
      for (; end < reads.length; end++) {
        const words = wordsOf(reads[end].from).bytes;
        if (end > first && size + words > STAGING_BYTES) break;
        size += words;
      }
      const staging = size > 0 ? this.#borrow(size) : undefined;
      let at = 0;
      for (; first < end; first++) {
        const read = reads[first];
        const words = wordsOf(read.from);
        if (!staging || read.from.bytes === 0) continue;
        const buffer = ownBuffer(this.#gpu, read.from, 'read');
        encoder.copyBufferToBuffer(buffer.gpu, words.offset, staging, at, words.bytes);
        staged.push({ read, staging, offset: at + read.from.offset - words.offset });
        at += words.bytes;
      }
    }
    return staged;
  }

  #borrow(bytes: number): GPUBuffer {
    const size = Math.min(2 ** Math.ceil(Math.log2(Math.max(bytes, 256))), roundUp(Math.max(bytes, STAGING_BYTES), 4));
    const idle = this.#pool.get(size)?.pop();
    if (idle) {
      this.#pooledBytes -= size;
      return idle;
    }
    return this.#gpu.createBuffer({ size, usage: MAP_READ | COPY_DST });
  }

  #giveBack(staging: GPUBuffer): void {
    const { size } = staging;
    if (!this.#health.open || this.#health.loss || this.#pooledBytes + size > POOL_BYTES) {
      staging.destroy();
      return;
    }
    this.#pooledBytes += size;
    const idle = this.#pool.get(size);
    if (idle) idle.push(staging);
    else this.#pool.set(size, [staging]);
  }

  /** Waits for the device; fails at once when the caller aborts or the device is lost. */
  #settle(
    stagings: readonly GPUBuffer[],
    staged: readonly StagedRead[],
    signal: AbortSignal | undefined,
    profile: Profile | undefined,
  ): Promise<Completion> {
    return new Promise((resolve, reject) => {
      let settled = false;
      const fail = (error: unknown): void => {
        settled = true;
        reject(error);
      };
      const abort = (): void => fail(signal?.reason);
      signal?.addEventListener('abort', abort, { once: true });

      const waits = this.#recording.polling.begin(() => {
        const mapped: Promise<unknown>[] = stagings.map((staging) => staging.mapAsync(MAP_MODE_READ));
        if (profile) mapped.push(profile.map());
        return mapped.length > 0 ? mapped : [this.#gpu.queue.onSubmittedWorkDone()];
      });
      const done = Promise.all(waits)
        .then(
          () => {
            if (!settled && !this.#health.loss && !this.#health.faulty) {
              for (const { read, staging, offset } of staged) {
                // The whole buffer is mapped once; the views share its range.
                read.into.set(new Uint8Array(mappedRange(staging), offset, read.into.length));
              }
            }
            const dispatchMicroseconds = profile?.read();
            for (const staging of stagings) {
              ranges.delete(staging);
              staging.unmap();
              this.#giveBack(staging);
            }
            if (settled) return;
            if (this.#health.loss) fail(this.#health.lossError());
            else if (this.#health.faulty) fail(this.#health.takeFault());
            else resolve(dispatchMicroseconds ? { dispatchMicroseconds } : {});
          },
          (error: unknown) => {
            for (const staging of stagings) staging.destroy();
            if (!settled) fail(this.#health.failure(error));
          },
        )
        .catch(fail)
        .finally(() => {
          signal?.removeEventListener('abort', abort);
          this.#inFlight.delete(fail);
        });
      this.#inFlight.set(fail, done);
    });
  }

  /** Fails what is in flight, at once. */
  abandon(error: unknown): void {
    for (const fail of [...this.#inFlight.keys()]) fail(error);
  }

  /** Waits for what is in flight, then frees the staging memory. */
  async drain(): Promise<void> {
    await Promise.allSettled([...this.#inFlight.values()]);
    for (const idle of this.#pool.values()) for (const staging of idle) staging.destroy();
    this.#pool.clear();
  }
}

/** Mapped ranges by staging buffer: a range may be asked for only once. */
const ranges = new WeakMap<GPUBuffer, ArrayBuffer>();

function mappedRange(staging: GPUBuffer): ArrayBuffer {
  let range = ranges.get(staging);
  if (!range) {
    range = staging.getMappedRange();
    ranges.set(staging, range);
  }
  return range;
}

/** The whole words around a range. */
function wordsOf({ offset, bytes }: { readonly offset: number; readonly bytes: number }): {
  readonly offset: number;
  readonly bytes: number;
} {
  if (bytes === 0) return { offset, bytes: 0 };
  const start = offset - (offset % 4);
  return { offset: start, bytes: roundUp(offset + bytes, 4) - start };
}
