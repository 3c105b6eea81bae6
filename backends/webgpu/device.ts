/** An open WebGPU device: kernels, buffers, recorded lists, and its end. */
import { TuttiError } from '../../compiler/error.js';
import type {
  Command,
  CommandList,
  Device,
  DeviceBuffer,
  DeviceInfo,
  DeviceLoss,
  Kernel,
  KernelCode,
  Target,
} from '../backend.js';
import { checkAllocation } from '../common/checks.js';
import { Health } from './health.js';
import { Polling } from './polling.js';
import { WebGpuQueue } from './queue.js';
import { bytePrograms, createLayout, Recorder, type Recording } from './recorder.js';
import { roundUp, WebGpuBuffer, WebGpuKernel } from './resources.js';
import type { WebGpuCommandList } from './steps.js';
import { defaultLimits } from './target.js';

const BUFFER_USAGE = 0x80 | 0x04 | 0x08; // STORAGE | COPY_SRC | COPY_DST

interface Options {
  readonly info: DeviceInfo;
  readonly target: Target;
  readonly gpu: GPUDevice;
  /** False for a device of the caller's, which we must not destroy. */
  readonly owned: boolean;
}

export class WebGpuDevice implements Device {
  readonly info: DeviceInfo;
  readonly target: Target;
  readonly lost: Promise<DeviceLoss>;
  readonly queue: WebGpuQueue;

  readonly #gpu: GPUDevice;
  readonly #polling: Polling;
  readonly #owned: boolean;
  readonly #buffers = new Set<WebGpuBuffer>();
  readonly #lists = new Set<WebGpuCommandList>();
  readonly #layouts = new Map<string, GPUBindGroupLayout>();
  readonly #bytePipelines = new Map<string, GPUComputePipeline>();
  #allocatedBytes = 0;
  readonly #recording: Recording;
  readonly #health: Health;
  #closing: Promise<void> | undefined;
  readonly #onUncaptured = (event: Event): void => {
    event.preventDefault(); // it becomes the error of a submission instead of a line on the console
    const { error } = event as GPUUncapturedErrorEvent;
    const code = error.constructor.name === 'GPUOutOfMemoryError' ? 'E_OUT_OF_MEMORY' : 'E_DEVICE';
    this.#health.report(new TuttiError(code, error.message, { subject: this.info.id }));
  };

  constructor({ info, target, gpu, owned }: Options) {
    this.info = info;
    this.target = target;
    this.#gpu = gpu;
    this.#polling = new Polling(info.software);
    this.#owned = owned;
    this.#health = new Health(info.id);
    const alignment = 'minUniformBufferOffsetAlignment';
    this.#recording = {
      gpu,
      polling: this.#polling,
      limits: target.limits,
      uniformAlignment: info.limits[alignment] ?? defaultLimits[alignment],
      layout: (buffers, scalars) => this.#layout(buffers, scalars),
      bytePipeline: (kind) => this.#bytePipeline(kind),
    };
    this.queue = new WebGpuQueue(this.#recording, this.#health);
    gpu.addEventListener('uncapturederror', this.#onUncaptured);
    this.lost = new Promise((resolve) => {
      void gpu.lost.then(({ reason, message }) => {
        if (!this.#health.open) return;
        this.#health.loss = { reason: message || reason || 'unknown' };
        this.queue.abandon(this.#health.lossError());
        resolve(this.#health.loss);
      });
    });
  }

  memory(): { readonly allocatedBytes: number; readonly totalBytes: number } {
    return { allocatedBytes: this.#allocatedBytes, totalBytes: this.info.memoryBytes };
  }

  // --- kernels -----------------------------------------------------------------------------------------------------

  async loadKernels(codes: readonly KernelCode[]): Promise<readonly Kernel[]> {
    this.#health.check();
    const results = await Promise.allSettled(codes.map((code) => this.#loadKernel(code)));
    this.#health.check();
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
    const invalid = this.#polling.begin(() => gpu.popErrorScope());
    const compiled = this.#polling
      .begin(() =>
        gpu.createComputePipelineAsync({ layout, compute: { module, entryPoint: code.entry }, label: code.name }),
      )
      .then(
        (pipeline) => ({ pipeline }),
        (error: unknown) => ({ error }),
      );
    const [error, outcome] = [await invalid, await compiled];
    if (error === null && 'pipeline' in outcome) return new WebGpuKernel(gpu, code, outcome.pipeline);
    if (this.#health.loss) throw this.#health.lossError();
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
    this.#health.check();
    // Only software adapters live in memory whose size is known.
    const totalBytes = this.info.software ? this.info.memoryBytes : Number.POSITIVE_INFINITY;
    const memory = { allocatedBytes: this.#allocatedBytes, totalBytes };
    checkAllocation(bytes, memory, this.target.limits.bufferBytes, this.info.id);
    const size = Math.max(roundUp(bytes, 4), 4);
    this.#gpu.pushErrorScope('out-of-memory');
    const gpu = this.#gpu.createBuffer({ size, usage: BUFFER_USAGE });
    void this.#polling
      .begin(() => this.#gpu.popErrorScope())
      .then(
        (error) => {
          if (!error) return;
          const words = `${bytes} bytes could not be allocated beside ${memory.allocatedBytes} bytes: ${error.message}`;
          this.#health.report(new TuttiError('E_OUT_OF_MEMORY', words, { subject: this.info.id }));
        },
        () => undefined,
      );
    const buffer = new WebGpuBuffer(this.#gpu, gpu, bytes, (freed) => {
      if (this.#buffers.delete(freed)) this.#allocatedBytes -= freed.size;
    });
    this.#allocatedBytes += size;
    this.#buffers.add(buffer);
    return buffer;
  }

  async record(commands: readonly Command[]): Promise<CommandList> {
    this.#health.check();
    const recorder = new Recorder(this.#recording);
    for (const command of commands) recorder.add(command);
    this.#gpu.pushErrorScope('validation');
    const list = recorder.finish((released) => this.#lists.delete(released));
    const error = await this.#polling.begin(() => this.#gpu.popErrorScope());
    if (error) {
      list.release();
      throw new TuttiError('E_DEVICE', `recording failed: ${error.message}`, { subject: this.info.id });
    }
    this.#health.check();
    this.#lists.add(list);
    return list;
  }

  close(): Promise<void> {
    this.#closing ??= this.#close();
    return this.#closing;
  }

  async #close(): Promise<void> {
    this.#health.open = false;
    await this.queue.drain();
    for (const list of [...this.#lists]) list.release();
    for (const buffer of [...this.#buffers]) buffer.gpu.destroy();
    this.#buffers.clear();
    this.#allocatedBytes = 0;
    this.#gpu.removeEventListener('uncapturederror', this.#onUncaptured);
    if (this.#owned) this.#gpu.destroy();
  }
}
