/** An open WebGPU device: buffers, pipelines, recorded lists and the queue. */
import { TuttiError } from '../../compiler/error.js';
import type {
  Command,
  CommandList,
  Completion,
  Device,
  DeviceBuffer,
  DeviceInfo,
  DeviceLoss,
  HostRead,
  HostWrite,
  Kernel,
  KernelCode,
  Queue,
  Target,
} from '../backend.js';
import {
  bytePrograms,
  createLayout,
  encodeProfiled,
  encodeSteps,
  ownBuffer,
  Recorder,
  type Recording,
  roundUp,
  WebGpuBuffer,
  WebGpuCommandList,
  WebGpuKernel,
} from './commands.js';
import { defaultLimits } from './target.js';

// The flags of the specification as numbers: Node has no GPUBufferUsage global.
const MAP_READ = 0x01;
const COPY_SRC = 0x04;
const COPY_DST = 0x08;
const STORAGE = 0x80;
const QUERY_RESOLVE = 0x200;
const MAP_MODE_READ = 1;

/** Results of one submission are packed in staging buffers of at most this size (or one read, if that is larger). */
const STAGING_BYTES = 64 << 20;
/** Idle staging buffers kept for the next submissions: bytes in all. */
const POOL_BYTES = 64 << 20;
const QUERIES_PER_SET = 4096;

interface Options {
  readonly info: DeviceInfo;
  readonly target: Target;
  readonly gpu: GPUDevice;
  /** False for a device of the caller's, which we must not destroy. */
  readonly owned: boolean;
}

type Work = Parameters<Queue['submit']>[0];

interface StagedRead {
  readonly read: HostRead;
  readonly staging: GPUBuffer;
  /** Of the read's first byte. */
  readonly offset: number;
}

export class WebGpuDevice implements Device {
  readonly info: DeviceInfo;
  readonly target: Target;
  readonly lost: Promise<DeviceLoss>;
  readonly queue: Queue = { submit: (work) => this.#submit(work) };

  readonly #gpu: GPUDevice;
  readonly #owned: boolean;
  readonly #buffers = new Set<WebGpuBuffer>();
  readonly #lists = new Set<WebGpuCommandList>();
  readonly #layouts = new Map<string, GPUBindGroupLayout>();
  readonly #bytePipelines = new Map<string, GPUComputePipeline>();
  /** Idle staging buffers by size. */
  readonly #pool = new Map<number, GPUBuffer[]>();
  #pooledBytes = 0;
  #allocatedBytes = 0;
  /** How to fail each submission in flight, and when it has left the device. */
  readonly #inFlight = new Map<(error: unknown) => void, Promise<void>>();
  readonly #recording: Recording;
  #state: 'open' | 'closing' | 'closed' = 'open';
  #loss: DeviceLoss | undefined;
  /** An error the device reported late; the next submission to settle carries it. */
  #fault: TuttiError | undefined;
  readonly #onUncaptured = (event: Event): void => {
    event.preventDefault(); // it becomes the error of a submission instead of a line on the console
    this.#uncaptured((event as GPUUncapturedErrorEvent).error);
  };

  constructor({ info, target, gpu, owned }: Options) {
    this.info = info;
    this.target = target;
    this.#gpu = gpu;
    this.#owned = owned;
    const limit = (name: string): number => info.limits[name] ?? defaultLimits[name];
    this.#recording = {
      gpu,
      limits: {
        grid: limit('maxComputeWorkgroupsPerDimension'),
        bindingBytes: limit('maxStorageBufferBindingSize'),
        storageAlignment: limit('minStorageBufferOffsetAlignment'),
        uniformAlignment: limit('minUniformBufferOffsetAlignment'),
      },
      layout: (buffers, scalars) => this.#layout(buffers, scalars),
      bytePipeline: (kind) => this.#bytePipeline(kind),
    };
    gpu.addEventListener('uncapturederror', this.#onUncaptured);
    this.lost = new Promise((resolve) => {
      void gpu.lost.then(({ reason, message }) => {
        if (this.#state !== 'open') return;
        this.#loss = { reason: message || reason || 'unknown' };
        for (const fail of [...this.#inFlight.keys()]) fail(this.#lossError());
        resolve(this.#loss);
      });
    });
  }

  memory(): { readonly allocatedBytes: number; readonly totalBytes: number } {
    return { allocatedBytes: this.#allocatedBytes, totalBytes: this.info.memoryBytes };
  }

  // --- kernels -----------------------------------------------------------------------------------------------------

  async loadKernels(codes: readonly KernelCode[]): Promise<readonly Kernel[]> {
    this.#check();
    const results = await Promise.allSettled(codes.map((code) => this.#loadKernel(code)));
    this.#check();
    const kernels: Kernel[] = [];
    for (const result of results) {
      if (result.status === 'rejected') throw result.reason;
      kernels.push(result.value);
    }
    return kernels;
  }

  async #loadKernel(code: KernelCode): Promise<WebGpuKernel> {
    const gpu = this.#gpu;
    if (code.text === undefined) {
      throw new TuttiError('E_KERNEL', 'no WGSL text', { subject: `kernel ${code.name}` });
    }
    gpu.pushErrorScope('validation');
    const module = gpu.createShaderModule({ code: code.text, label: code.name });
    const layout = gpu.createPipelineLayout({
      bindGroupLayouts: [this.#layout(code.bindings.length, code.scalarBytes > 0)],
    });
    const invalid = gpu.popErrorScope();
    const compiled = gpu
      .createComputePipelineAsync({ layout, compute: { module, entryPoint: code.entry }, label: code.name })
      .then(
        (pipeline) => ({ pipeline }),
        (error: unknown) => ({ error }),
      );
    const [error, outcome] = [await invalid, await compiled];
    if (error === null && 'pipeline' in outcome) return new WebGpuKernel(code, outcome.pipeline);
    if (this.#loss) throw this.#lossError();
    const { messages } = await module.getCompilationInfo();
    const words = messages
      .filter((message) => message.type === 'error')
      .map((message) => `line ${message.lineNum}:${message.linePos}: ${message.message}`)
      .join('; ');
    const cause = error ?? ('error' in outcome ? outcome.error : undefined);
    const reason = words || (cause as Error | undefined)?.message || 'unknown error';
    throw new TuttiError('E_KERNEL', `the WGSL compiler refused it: ${reason}`, {
      subject: `kernel ${code.name}`,
      cause,
    });
  }

  #layout(buffers: number, scalars: boolean): GPUBindGroupLayout {
    const key = `${buffers}${scalars ? '+' : ''}`;
    let layout = this.#layouts.get(key);
    if (!layout) {
      layout = createLayout(this.#gpu, buffers, scalars);
      this.#layouts.set(key, layout);
    }
    return layout;
  }

  #bytePipeline(kind: 'copy' | 'fill'): GPUComputePipeline {
    let pipeline = this.#bytePipelines.get(kind);
    if (!pipeline) {
      const { code, buffers } = bytePrograms[kind];
      pipeline = this.#gpu.createComputePipeline({
        label: `tutti ${kind}`,
        layout: this.#gpu.createPipelineLayout({ bindGroupLayouts: [this.#layout(buffers, true)] }),
        compute: { module: this.#gpu.createShaderModule({ code }), entryPoint: 'main' },
      });
      this.#bytePipelines.set(kind, pipeline);
    }
    return pipeline;
  }

  // --- memory ------------------------------------------------------------------------------------------------------

  allocate(bytes: number): DeviceBuffer {
    this.#check();
    if (!Number.isSafeInteger(bytes) || bytes < 0) {
      throw new TuttiError('E_USAGE', 'bad buffer size', { subject: 'allocate', found: String(bytes) });
    }
    const size = Math.max(roundUp(bytes, 4), 4);
    const { bufferBytes } = this.target.limits;
    const { memoryBytes, software } = this.info;
    if (size > bufferBytes) {
      throw new TuttiError(
        'E_OUT_OF_MEMORY',
        `a buffer of ${bytes} bytes exceeds the device's limit of ${bufferBytes} bytes a buffer`,
        {
          subject: this.info.id,
        },
      );
    }
    // Only software adapters live in memory whose size is known.
    if (software && this.#allocatedBytes + size > memoryBytes) {
      throw new TuttiError(
        'E_OUT_OF_MEMORY',
        `${bytes} bytes asked for, ${memoryBytes - this.#allocatedBytes} of ${memoryBytes} bytes left`,
        {
          subject: this.info.id,
        },
      );
    }
    this.#gpu.pushErrorScope('out-of-memory');
    const gpu = this.#gpu.createBuffer({ size, usage: STORAGE | COPY_SRC | COPY_DST });
    void this.#gpu.popErrorScope().then(
      (error) => {
        if (!error) return;
        this.#fault ??= new TuttiError(
          'E_OUT_OF_MEMORY',
          `${bytes} bytes could not be allocated beside ${this.#allocatedBytes} bytes: ${error.message}`,
          {
            subject: this.info.id,
          },
        );
      },
      () => undefined,
    );
    const buffer = new WebGpuBuffer(gpu, bytes, (freed) => {
      if (this.#buffers.delete(freed)) this.#allocatedBytes -= freed.size;
    });
    this.#allocatedBytes += size;
    this.#buffers.add(buffer);
    return buffer;
  }

  async record(commands: readonly Command[]): Promise<CommandList> {
    this.#check();
    const recorder = new Recorder(this.#recording);
    for (const command of commands) recorder.add(command);
    this.#gpu.pushErrorScope('validation');
    const list = recorder.finish((released) => this.#lists.delete(released));
    const error = await this.#gpu.popErrorScope();
    if (error) {
      list.release();
      throw new TuttiError('E_DEVICE', `recording failed: ${error.message}`, { subject: this.info.id });
    }
    this.#check();
    this.#lists.add(list);
    return list;
  }

  // --- queue -------------------------------------------------------------------------------------------------------

  /** Everything up to the device's queue happens before the first await: submissions keep the order of their calls. */
  async #submit(work: Work): Promise<Completion> {
    this.#check();
    work.signal?.throwIfAborted();
    if (this.#fault) throw this.#takeFault();
    const { list, writes = [], reads = [] } = work;
    if (list !== undefined && !(list instanceof WebGpuCommandList)) {
      throw new TuttiError('E_USAGE', 'the command list belongs to another backend');
    }
    if (list?.released) throw new TuttiError('E_USAGE', 'the command list was released');
    for (const { to, data } of writes) {
      ownBuffer(to, 'write');
      if (data.length !== to.bytes) throw sizeMismatch('write', to.bytes, data.length);
    }
    for (const { from, into } of reads) {
      ownBuffer(from, 'read');
      if (into.length !== from.bytes) throw sizeMismatch('read', from.bytes, into.length);
    }

    const encoder = this.#gpu.createCommandEncoder();
    const patches = this.#write(writes, encoder);
    const profile =
      work.profile === true && list !== undefined && this.#gpu.features.has('timestamp-query')
        ? this.#profile(list, encoder)
        : undefined;
    if (list && !profile) encodeSteps(encoder, list.steps);
    const staged = this.#stage(reads, encoder);
    this.#gpu.queue.submit([encoder.finish()]);

    const stagings = [...new Set(staged.map(({ staging }) => staging))];
    const left = this.#settle(stagings, staged, work.signal, profile).finally(() => {
      patches?.release();
      profile?.destroy();
    });
    return left;
  }

  /** Host data into buffers: whole words by the queue, the rest through a kernel in `encoder`. */
  #write(writes: readonly HostWrite[], encoder: GPUCommandEncoder): { release(): void } | undefined {
    let recorder: Recorder | undefined;
    const temporaries: GPUBuffer[] = [];
    for (const { to, data } of writes) {
      const buffer = ownBuffer(to, 'write');
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
        const buffer = ownBuffer(read.from, 'read');
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
    if (this.#state !== 'open' || this.#loss || this.#pooledBytes + size > POOL_BYTES) {
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

      const waits: Promise<unknown>[] = stagings.map((staging) => staging.mapAsync(MAP_MODE_READ));
      if (profile) waits.push(profile.map());
      if (waits.length === 0) waits.push(this.#gpu.queue.onSubmittedWorkDone());
      const done = Promise.all(waits)
        .then(
          () => {
            if (!settled && !this.#loss && !this.#fault) {
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
            if (this.#loss) fail(this.#lossError());
            else if (this.#fault) fail(this.#takeFault());
            else resolve(dispatchMicroseconds ? { dispatchMicroseconds } : {});
          },
          (error: unknown) => {
            for (const staging of stagings) staging.destroy();
            if (settled) return;
            fail(this.#loss ? this.#lossError() : (this.#takeFault() ?? this.#deviceError(error)));
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

  #profile(list: WebGpuCommandList, encoder: GPUCommandEncoder): Profile {
    const profile = new Profile(this.#gpu, list.dispatchCount);
    encodeProfiled(encoder, list.steps, (dispatch) => profile.querySetOf(dispatch));
    profile.resolve(encoder);
    return profile;
  }

  // --- errors and the end ------------------------------------------------------------------------------------------

  #check(): void {
    if (this.#state !== 'open')
      throw new TuttiError('E_DEVICE_CLOSED', 'the device was closed', { subject: this.info.id });
    if (this.#loss) throw this.#lossError();
  }

  #lossError(): TuttiError {
    return new TuttiError('E_DEVICE_LOST', `the device was lost: ${this.#loss?.reason ?? 'unknown'}`, {
      subject: this.info.id,
    });
  }

  #deviceError(cause: unknown): TuttiError {
    const words = cause instanceof Error ? cause.message : String(cause);
    return new TuttiError('E_DEVICE', `a submission failed: ${words}`, { subject: this.info.id, cause });
  }

  #takeFault(): TuttiError | undefined {
    const fault = this.#fault;
    this.#fault = undefined;
    return fault;
  }

  #uncaptured(error: GPUError): void {
    const memory = error.constructor.name === 'GPUOutOfMemoryError';
    this.#fault ??= new TuttiError(memory ? 'E_OUT_OF_MEMORY' : 'E_DEVICE', error.message, { subject: this.info.id });
  }

  async close(): Promise<void> {
    if (this.#state !== 'open') return;
    this.#state = 'closing';
    await Promise.allSettled([...this.#inFlight.values()]);
    for (const list of [...this.#lists]) list.release();
    for (const buffer of [...this.#buffers]) buffer.gpu.destroy();
    this.#buffers.clear();
    this.#allocatedBytes = 0;
    for (const idle of this.#pool.values()) for (const staging of idle) staging.destroy();
    this.#pool.clear();
    this.#gpu.removeEventListener('uncapturederror', this.#onUncaptured);
    if (this.#owned) this.#gpu.destroy();
    this.#state = 'closed';
  }
}

/** Timestamps around each dispatch of one submission. */
class Profile {
  readonly #sets: GPUQuerySet[] = [];
  readonly #count: number;
  readonly #resolved: GPUBuffer;
  readonly #staging: GPUBuffer;

  constructor(gpu: GPUDevice, dispatches: number) {
    this.#count = dispatches;
    for (let left = dispatches * 2; left > 0; left -= QUERIES_PER_SET) {
      this.#sets.push(gpu.createQuerySet({ type: 'timestamp', count: Math.min(left, QUERIES_PER_SET) }));
    }
    const size = Math.max(dispatches * 16, 16);
    this.#resolved = gpu.createBuffer({ size, usage: QUERY_RESOLVE | COPY_SRC });
    this.#staging = gpu.createBuffer({ size, usage: MAP_READ | COPY_DST });
  }

  querySetOf(dispatch: number): readonly [GPUQuerySet, number] {
    const query = dispatch * 2;
    return [this.#sets[Math.floor(query / QUERIES_PER_SET)], query % QUERIES_PER_SET];
  }

  resolve(encoder: GPUCommandEncoder): void {
    this.#sets.forEach((set, i) => {
      encoder.resolveQuerySet(set, 0, set.count, this.#resolved, i * QUERIES_PER_SET * 8);
    });
    if (this.#count > 0) encoder.copyBufferToBuffer(this.#resolved, 0, this.#staging, 0, this.#count * 16);
  }

  map(): Promise<void> {
    return this.#staging.mapAsync(MAP_MODE_READ);
  }

  /** Microseconds of each dispatch; the device counts nanoseconds. */
  read(): Float64Array {
    const stamps = new BigUint64Array(this.#staging.getMappedRange());
    const times = new Float64Array(this.#count);
    for (let i = 0; i < this.#count; i++) times[i] = Math.max(Number(stamps[2 * i + 1] - stamps[2 * i]) / 1000, 0);
    this.#staging.unmap();
    return times;
  }

  destroy(): void {
    for (const set of this.#sets) set.destroy();
    this.#resolved.destroy();
    this.#staging.destroy();
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

const sizeMismatch = (what: string, expected: number, found: number): TuttiError =>
  new TuttiError('E_USAGE', 'the host array does not fit the range', {
    subject: what,
    expected: `${expected} bytes`,
    found: `${found} bytes`,
  });
