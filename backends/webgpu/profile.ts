/** The time of each dispatch, by timestamps on the device. */
import { encodeProfiled, type WebGpuCommandList } from './steps.js';

// The flags of the specification as numbers: Node has no GPUBufferUsage global.
const MAP_READ = 0x01;
const COPY_SRC = 0x04;
const COPY_DST = 0x08;
const QUERY_RESOLVE = 0x200;
const MAP_MODE_READ = 1;
const QUERIES_PER_SET = 4096;

/** Timestamps around each dispatch of one submission. */
export class Profile {
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

  /** Encodes the list, each dispatch in a pass of its own between two timestamps. */
  static encode(gpu: GPUDevice, list: WebGpuCommandList, encoder: GPUCommandEncoder): Profile {
    const profile = new Profile(gpu, list.dispatchCount);
    encodeProfiled(encoder, list.steps, (dispatch) => profile.#querySetOf(dispatch));
    profile.#resolve(encoder);
    return profile;
  }

  #querySetOf(dispatch: number): readonly [GPUQuerySet, number] {
    const query = dispatch * 2;
    return [this.#sets[Math.floor(query / QUERIES_PER_SET)], query % QUERIES_PER_SET];
  }

  #resolve(encoder: GPUCommandEncoder): void {
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
