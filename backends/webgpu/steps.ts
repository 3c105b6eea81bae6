/** What a recorded list holds, and how it is encoded at each submission. */
import type { CommandList } from '../backend.js';
import type { WebGpuBuffer } from './resources.js';

/** One dispatch as the encoder needs it. */
export interface Dispatch {
  readonly pipeline: GPUComputePipeline;
  readonly group: GPUBindGroup;
  readonly x: number;
  readonly y: number;
  readonly z: number;
  /** False for the kernels that do copies and fills. */
  readonly profiled: boolean;
}

export type Step =
  | { readonly kind: 'pass'; readonly dispatches: Dispatch[] }
  | {
      readonly kind: 'copy';
      readonly from: GPUBuffer;
      readonly fromOffset: number;
      readonly to: GPUBuffer;
      readonly toOffset: number;
      readonly bytes: number;
    }
  | { readonly kind: 'clear'; readonly to: GPUBuffer; readonly offset: number; readonly bytes: number };

export class WebGpuCommandList implements CommandList {
  readonly owner: GPUDevice;
  readonly steps: readonly Step[];
  readonly dispatchCount: number;
  readonly #buffers: readonly WebGpuBuffer[];
  readonly #internal: readonly GPUBuffer[];
  readonly #onRelease: (list: WebGpuCommandList) => void;
  #released = false;

  constructor(
    owner: GPUDevice,
    steps: readonly Step[],
    buffers: readonly WebGpuBuffer[],
    internal: readonly GPUBuffer[],
    onRelease: (list: WebGpuCommandList) => void,
  ) {
    this.owner = owner;
    this.steps = steps;
    this.#buffers = buffers;
    this.#internal = internal;
    this.#onRelease = onRelease;
    let count = 0;
    for (const step of steps) {
      if (step.kind === 'pass') for (const dispatch of step.dispatches) if (dispatch.profiled) count++;
    }
    this.dispatchCount = count;
  }

  get released(): boolean {
    return this.#released;
  }

  release(): void {
    if (this.#released) return;
    this.#released = true;
    for (const buffer of this.#buffers) buffer.drop();
    for (const buffer of this.#internal) buffer.destroy();
    this.#onRelease(this);
  }
}

/** Encodes recorded steps. The loop over dispatches allocates nothing. */
export function encodeSteps(encoder: GPUCommandEncoder, steps: readonly Step[]): void {
  for (const step of steps) {
    switch (step.kind) {
      case 'pass': {
        const pass = encoder.beginComputePass();
        let pipeline: GPUComputePipeline | undefined;
        for (const dispatch of step.dispatches) {
          if (dispatch.pipeline !== pipeline) {
            pipeline = dispatch.pipeline;
            pass.setPipeline(pipeline);
          }
          pass.setBindGroup(0, dispatch.group);
          pass.dispatchWorkgroups(dispatch.x, dispatch.y, dispatch.z);
        }
        pass.end();
        break;
      }
      case 'copy':
        encoder.copyBufferToBuffer(step.from, step.fromOffset, step.to, step.toOffset, step.bytes);
        break;
      case 'clear':
        encoder.clearBuffer(step.to, step.offset, step.bytes);
        break;
      default:
        step satisfies never;
    }
  }
}

/** As `encodeSteps`, but each dispatch in a pass of its own between two timestamps. */
export function encodeProfiled(
  encoder: GPUCommandEncoder,
  steps: readonly Step[],
  querySetOf: (dispatch: number) => readonly [GPUQuerySet, number],
): void {
  let index = 0;
  for (const step of steps) {
    if (step.kind !== 'pass') {
      encodeSteps(encoder, [step]);
      continue;
    }
    for (const dispatch of step.dispatches) {
      let descriptor: GPUComputePassDescriptor | undefined;
      if (dispatch.profiled) {
        const [querySet, first] = querySetOf(index++);
        descriptor = {
          timestampWrites: { querySet, beginningOfPassWriteIndex: first, endOfPassWriteIndex: first + 1 },
        };
      }
      const pass = encoder.beginComputePass(descriptor);
      pass.setPipeline(dispatch.pipeline);
      pass.setBindGroup(0, dispatch.group);
      pass.dispatchWorkgroups(dispatch.x, dispatch.y, dispatch.z);
      pass.end();
    }
  }
}
