/** Keys of stages: equal keys mean equal programs, constants included. */
import { type CreateHasher, createSha256, sha256 } from '../compiler/artifact/sha256.js';
import { bytesOf } from '../compiler/dtype.js';
import { printGraph } from '../compiler/graph/print.js';
import type { ConstantData, Graph } from '../compiler/graph/types.js';
import { bytesOfTensor, sizeOf } from '../compiler/tensor.js';

/** Constants up to this size are told apart by content: each stage folds its own. Larger ones are the model's. */
const smallBytes = 1 << 16;

export class StageKeys {
  readonly #createHasher: CreateHasher;
  readonly #names = new WeakMap<ConstantData, string>();
  #next = 0;

  constructor(createHasher: CreateHasher = createSha256) {
    this.#createHasher = createHasher;
  }

  of(graph: Graph): string {
    const text = printGraph(graph, { keyOf: (data) => this.#nameOf(data) });
    return sha256(new TextEncoder().encode(text), this.#createHasher);
  }

  #nameOf(data: ConstantData): string {
    let name = this.#names.get(data);
    if (name === undefined) {
      const small = data.dtype !== 'string' && bytesOf(data.dtype, sizeOf(data.shape)) <= smallBytes;
      name = small ? sha256(bytesOfTensor(data.load()), this.#createHasher) : `#${this.#next++}`;
      this.#names.set(data, name);
    }
    return name;
  }
}
