/**
 * The short way of a run that is like one before it: whole tensors of the host, of the same types and dims, to all
 * outputs on the host. What was checked then needs only be compared.
 */
import { isList } from '../compiler/passes/mapped.js';
import type { HostTensor } from '../compiler/tensor.js';
import type { Feeds } from './api.js';
import type { CheckedFeeds } from './feeds.js';
import type { Step } from './stage_tree.js';
import { Tensor, type TensorType, typeOfDType } from './tensor.js';

interface LaneInput {
  readonly name: string;
  readonly type: TensorType;
  readonly dims: readonly number[];
}

export class Lane {
  /** Of the shapes, and of the program. */
  readonly key: string;
  readonly program: string;
  /** By name of the model's output, the number of the program's. */
  readonly outputs: readonly (readonly [name: string, index: number])[];
  readonly #inputs: readonly LaneInput[];

  private constructor(key: string, program: string, inputs: readonly LaneInput[], outputs: Lane['outputs']) {
    this.key = key;
    this.program = program;
    this.outputs = outputs;
    this.#inputs = inputs;
  }

  /**
   * @param step The only stage of the model for such inputs, whatever their data.
   * @returns undefined where there is no short way: the program takes or gives something else than the model does.
   */
  static of({ stage, key: program }: Step, { key, tensors }: CheckedFeeds, names: readonly string[]): Lane | undefined {
    const { inputs, outputs, next } = stage;
    if (next.kind !== 'done' || inputs.length !== Object.keys(tensors).length) return undefined;
    const taken: LaneInput[] = [];
    for (const held of inputs) {
      const tensor = held.kind === 'input' ? tensors[held.name] : undefined;
      if (tensor === undefined) return undefined;
      taken.push({ name: held.name, type: typeOfDType(tensor.dtype), dims: tensor.shape });
    }
    const given: (readonly [string, number])[] = [];
    for (const name of names) {
      const held = next.outputs.find((output) => output.name === name)?.held;
      if (held === undefined || held === null || isList(held)) return undefined;
      const index = outputs.indexOf(held);
      if (index < 0 || given.some(([, other]) => other === index)) return undefined;
      given.push([name, index]);
    }
    return new Lane(key, program, taken, given);
  }

  /** The tensors in the order of the program, if the run is like the one before. */
  match(feeds: Feeds): readonly HostTensor[] | undefined {
    if (typeof feeds !== 'object' || feeds === null) return undefined;
    let count = 0;
    for (const _ in feeds) count++;
    if (count !== this.#inputs.length) return undefined;
    const tensors: HostTensor[] = [];
    for (const { name, type, dims } of this.#inputs) {
      const tensor = feeds[name];
      if (!(tensor instanceof Tensor) || tensor.type !== type || tensor.location !== 'cpu') return undefined;
      if (!isEqual(tensor.dims, dims)) return undefined;
      tensors.push(tensor.toHost());
    }
    return tensors;
  }
}

function isEqual(a: readonly number[], b: readonly number[]): boolean {
  if (a.length !== b.length) return false;
  for (let i = 0; i < a.length; i++) if (a[i] !== b[i]) return false;
  return true;
}
