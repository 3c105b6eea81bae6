/** Keys of stages: equal keys mean equal programs, constants included. */
import { type CreateHasher, createSha256, sha256 } from '../compiler/artifact/sha256.js';
import { bytesOf } from '../compiler/dtype.js';
import { withBodies } from '../compiler/graph/bodies.js';
import { printGraph } from '../compiler/graph/print.js';
import type { ConstantData, Graph } from '../compiler/graph/types.js';
import { bytesOfTensor, sizeOf } from '../compiler/tensor.js';

/** Constants up to this size are told apart by content: each stage folds its own. Larger ones are the model's. */
const smallBytes = 1 << 16;

export interface StageKey {
  readonly text: string;
  /** It means the same in other processes: all large constants are the model's. */
  readonly lasting: boolean;
}

export class StageKeys {
  readonly #createHasher: CreateHasher;
  readonly #names = new WeakMap<ConstantData, string>();
  readonly #lasting = new WeakSet<ConstantData>();
  #next = 0;

  constructor(createHasher: CreateHasher = createSha256) {
    this.#createHasher = createHasher;
  }

  /** Names the constants of the model by their place in it. */
  know(model: Graph): void {
    let body = 0;
    for (const { constants } of withBodies(model)) {
      for (const [id, data] of constants) if (isLarge(data)) this.#name(data, `model ${body} ${id}`, true);
      body++;
    }
  }

  of(graph: Graph): StageKey {
    let lasting = true;
    const keyOf = (data: ConstantData): string => {
      const name = this.#nameOf(data);
      lasting &&= this.#lasting.has(data);
      return name;
    };
    const text = printGraph(graph, { keyOf });
    return { text: sha256(new TextEncoder().encode(text), this.#createHasher), lasting };
  }

  #nameOf(data: ConstantData): string {
    const known = this.#names.get(data);
    if (known !== undefined) return known;
    if (isLarge(data)) return this.#name(data, `#${this.#next++}`, false);
    return this.#name(data, sha256(bytesOfTensor(data.load()), this.#createHasher), true);
  }

  #name(data: ConstantData, name: string, lasting: boolean): string {
    const known = this.#names.get(data);
    if (known !== undefined) return known;
    this.#names.set(data, name);
    if (lasting) this.#lasting.add(data);
    return name;
  }
}

const isLarge = ({ dtype, shape }: ConstantData): boolean =>
  dtype === 'string' || bytesOf(dtype, sizeOf(shape)) > smallBytes;
