/** Where WebGPU adapters come from: a browser, or Dawn in Node. */

export interface GpuSource {
  readonly gpu: GPU;
  /** Memory of the machine, known in Node only: what a software adapter may fill. */
  readonly memoryBytes?: number;
  readonly threads?: number;
}

/** Why there are none. */
export interface Unavailable {
  readonly reason: string;
}
