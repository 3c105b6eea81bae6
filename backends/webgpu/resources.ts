/** Buffers and kernels of a WebGPU device. */
import type { BufferRange, DeviceBuffer, Kernel, KernelCode } from '../backend.js';
import { checkRange } from '../common/checks.js';
import { foreignError, releasedError } from '../common/errors.js';

export const roundUp = (value: number, multiple: number): number => Math.ceil(value / multiple) * multiple;
export const roundDown = (value: number, multiple: number): number => Math.floor(value / multiple) * multiple;

/** A buffer of a device. Freed when its owner has freed it and no list holds it. */
export class WebGpuBuffer implements DeviceBuffer {
  readonly bytes: number;
  /** `bytes` in whole words: WebGPU copies and binds nothing smaller. */
  readonly size: number;
  readonly gpu: GPUBuffer;
  readonly owner: GPUDevice;
  readonly #onFree: (buffer: WebGpuBuffer) => void;
  #holders = 1;
  #freed = false;

  constructor(owner: GPUDevice, gpu: GPUBuffer, bytes: number, onFree: (buffer: WebGpuBuffer) => void) {
    this.owner = owner;
    this.gpu = gpu;
    this.bytes = bytes;
    this.size = gpu.size;
    this.#onFree = onFree;
  }

  get freed(): boolean {
    return this.#freed;
  }

  free(): void {
    if (this.#freed) return;
    this.#freed = true;
    this.drop();
  }

  hold(): void {
    this.#holders++;
  }

  drop(): void {
    if (--this.#holders > 0) return;
    this.gpu.destroy();
    this.#onFree(this);
  }
}

export class WebGpuKernel implements Kernel {
  readonly name: string;
  readonly code: KernelCode;
  readonly owner: GPUDevice;
  #pipeline: GPUComputePipeline | undefined;

  constructor(owner: GPUDevice, code: KernelCode, pipeline: GPUComputePipeline) {
    this.owner = owner;
    this.name = code.name;
    this.code = code;
    this.#pipeline = pipeline;
  }

  get pipeline(): GPUComputePipeline {
    if (!this.#pipeline) throw releasedError(`kernel ${this.name}`);
    return this.#pipeline;
  }

  release(): void {
    this.#pipeline = undefined;
  }
}

/** The buffer of a range, which must be live and `owner`'s. The range itself is checked too; `use` names it in errors. */
export function ownBuffer(owner: GPUDevice, range: BufferRange, use: string): WebGpuBuffer {
  const { buffer } = range;
  if (!(buffer instanceof WebGpuBuffer) || buffer.owner !== owner) throw foreignError('buffer');
  if (buffer.freed) throw releasedError('buffer');
  checkRange(range, use);
  return buffer;
}
