/** Which outputs of a run are wanted, and where: in memory of their own or in tensors of the caller's. */
import { bytesOf } from '../compiler/dtype.js';
import { TuttiError } from '../compiler/error.js';
import { type HostTensor, sizeOf } from '../compiler/tensor.js';
import type { OutputPlace, RunOptions } from './api.js';
import type { OnDevice, Placed, Wanted } from './chain.js';
import type { Resident } from './residents.js';
import { Tensor } from './tensor.js';

/** By name, in the order asked for. With the caller's tensor where the output is written to one. */
export type WantedOutputs = ReadonlyMap<string, Wanted & { readonly tensor?: Tensor }>;

export class OutputPlaces {
  readonly #device: object;
  readonly #names: () => readonly string[];
  /** Where one place holds for all outputs. */
  readonly #everywhere = new Map<OutputPlace, WantedOutputs>();

  /**
   * @param device Where tensors may lie that are not on the host.
   * @param names Of the model's outputs.
   */
  constructor(device: object, names: () => readonly string[]) {
    this.#device = device;
    this.#names = names;
  }

  /** @throws TuttiError E_INPUT, with the name of the output that cannot be had like that */
  wanted(outputs: RunOptions['outputs']): WantedOutputs {
    if (outputs === undefined || outputs === 'cpu' || outputs === 'device') return this.#all(outputs ?? 'cpu');
    const entries: readonly (readonly [string, OutputPlace | Tensor])[] = Array.isArray(outputs)
      ? outputs.map((name: string) => [name, 'cpu'] as const)
      : Object.entries(outputs as Readonly<Record<string, OutputPlace | Tensor>>);
    const present = this.#names();
    const wanted = new Map<string, Wanted & { readonly tensor?: Tensor }>();
    for (const [name, target] of entries) {
      if (!present.includes(name)) {
        throw new TuttiError('E_INPUT', 'the model has no such output', {
          subject: name,
          expected: `one of ${present.join(', ')}`,
        });
      }
      wanted.set(name, target instanceof Tensor ? this.#target(name, target) : { place: placeOf(name, target) });
    }
    return wanted;
  }

  #all(place: OutputPlace): WantedOutputs {
    let wanted = this.#everywhere.get(place);
    if (wanted === undefined) {
      wanted = new Map(this.#names().map((name) => [name, { place }]));
      this.#everywhere.set(place, wanted);
    }
    return wanted;
  }

  #target(name: string, tensor: Tensor): Wanted & { readonly tensor: Tensor } {
    const { storage, dtype, dims: shape } = tensor;
    if (storage !== undefined) {
      if (storage.device === this.#device) {
        const into: OnDevice = { dtype, shape, resident: storage.resident };
        return { place: 'device', into, tensor };
      }
      throw new TuttiError('E_INPUT', 'the tensor bound to an output does not lie on the device of the session', {
        subject: name,
        remedy: 'Make it with session.tensor(type, dims).',
      });
    }
    const into = tensor.toHost();
    if (dtype === 'string' || !ArrayBuffer.isView(into.data)) {
      throw new TuttiError('E_INPUT', 'strings cannot be written to a tensor', {
        subject: name,
        remedy: 'Ask for the output on the cpu.',
      });
    }
    const [expected, found] = [bytesOf(dtype, sizeOf(shape)), into.data.byteLength];
    if (found === expected) return { place: 'cpu', into, tensor };
    throw new TuttiError('E_INPUT', 'the memory of the tensor bound to an output is gone', {
      subject: name,
      expected: `${expected} bytes`,
      found: `${found} bytes`,
      remedy: 'Its array was transferred: make another tensor.',
    });
  }
}

function placeOf(name: string, place: unknown): OutputPlace {
  if (place === 'cpu' || place === 'device') return place;
  throw new TuttiError('E_INPUT', 'an output can be on the cpu or on the device', {
    subject: name,
    expected: 'cpu, device or a Tensor to write to',
    found: typeof place === 'string' ? place : typeof place,
  });
}

/**
 * Whether outputs may be written to tensors of the host at any time: those share memory neither with inputs nor with one
 * another.
 */
export function areApart(wanted: WantedOutputs, inputs: Iterable<Placed | Resident>): boolean {
  let given: HostTensor[] | undefined;
  for (const { place, into } of wanted.values()) {
    if (place !== 'cpu' || into === undefined) continue;
    given ??= [...inputs].filter((input): input is HostTensor => 'data' in input);
    if (given.some((other) => overlap(into, other))) return false;
    given.push(into);
  }
  return true;
}

function overlap({ data: a }: HostTensor, { data: b }: HostTensor): boolean {
  if (!ArrayBuffer.isView(a) || !ArrayBuffer.isView(b) || a.buffer !== b.buffer) return false;
  return a.byteOffset < b.byteOffset + b.byteLength && b.byteOffset < a.byteOffset + a.byteLength;
}
