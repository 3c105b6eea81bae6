/** Inputs and outputs of a session fixed on the device, for many runs. */
import { TuttiError } from '../compiler/error.js';
import type { BindingOptions, RunOptions, Value, ValueInfo } from './api.js';
import { isOnDevice } from './chain.js';
import type { DeviceTensors } from './device_tensors.js';
import { wrap } from './feeds.js';
import type { Resident } from './residents.js';
import type { BoundKind, Runs } from './runs.js';
import { Tensor, type TensorData } from './tensor.js';

export interface BoundSession {
  readonly inputs: readonly ValueInfo[];
  readonly tensors: DeviceTensors;
  readonly runs: Runs;
}

type BoundRunOptions = Pick<RunOptions, 'signal' | 'profile'>;

/** Made by `session.bind`. */
export class Binding {
  readonly #session: BoundSession;
  readonly #inputs: Record<string, Tensor>;
  /** Copies of host tensors that were made for the binding. */
  readonly #own: readonly Tensor[];
  readonly #kind: BoundKind;
  /** Memory of bound outputs: it stays even if the caller disposes the tensors. */
  readonly #held: Resident[];

  private constructor(
    session: BoundSession,
    inputs: Record<string, Tensor>,
    own: readonly Tensor[],
    kind: BoundKind,
    held: Resident[],
  ) {
    this.#session = session;
    this.#inputs = inputs;
    this.#own = own;
    this.#kind = kind;
    this.#held = held;
  }

  /** @throws TuttiError E_INPUT, E_OUT_OF_MEMORY */
  static async create({ inputs, outputs }: BindingOptions, session: BoundSession): Promise<Binding> {
    const kind = session.runs.bind(outputs);
    const held: Resident[] = [];
    for (const { into } of kind.wanted.values())
      if (into !== undefined && isOnDevice(into)) held.push(into.resident.hold());
    const own: Tensor[] = [];
    const fixed: Record<string, Tensor> = {};
    try {
      for (const [name, given] of Object.entries(inputs)) {
        const info = session.inputs.find((input) => input.name === name);
        if (info === undefined) throw new TuttiError('E_INPUT', 'the model has no such input', { subject: name });
        const tensor = given instanceof Tensor ? given : wrap(given, info);
        if (tensor.location === 'device' || staysOnHost(tensor)) fixed[name] = tensor;
        else {
          fixed[name] = await session.tensors.upload(tensor.toHost());
          own.push(fixed[name]);
        }
      }
    } catch (error) {
      for (const tensor of own) tensor.dispose();
      for (const resident of held) resident.release();
      throw error;
    }
    return new Binding(session, fixed, own, kind, held);
  }

  /**
   * Runs the model once on what is bound. Outputs written to tensors that were bound are those tensors.
   * @throws TuttiError as `Session.run`
   */
  run<V extends Value = Tensor>(options: BoundRunOptions = {}): Promise<Record<string, V>> {
    return this.#session.runs.run(this.#inputs, options, this.#kind) as Promise<Record<string, V>>;
  }

  /**
   * The same in the calling thread.
   * @throws TuttiError as `Session.runSync`
   */
  runSync<V extends Value = Tensor>(options: BoundRunOptions = {}): Record<string, V> {
    return this.#session.runs.runSync(this.#inputs, options, this.#kind) as Record<string, V>;
  }

  /**
   * Overwrites a bound input, for the runs that are started from now on.
   * @throws TuttiError E_INPUT
   */
  async write(name: string, data: TensorData): Promise<void> {
    const tensor = Object.hasOwn(this.#inputs, name) ? this.#inputs[name] : undefined;
    if (tensor === undefined) throw new TuttiError('E_INPUT', 'no input of this name is bound', { subject: name });
    const next = new Tensor(tensor.type, data, tensor.dims);
    if (tensor.storage === undefined) this.#inputs[name] = next;
    else await this.#session.tensors.fill(next.toHost(), tensor.storage.resident);
  }

  /** Gives back the copies that were made for the binding; tensors that were handed in stay the caller's. */
  dispose(): void {
    for (const tensor of this.#own) tensor.dispose();
    for (const resident of this.#held.splice(0)) resident.release();
  }
}

/** Strings are the host's in any case; what is small may be a parameter, and goes along with a run at no cost. */
const staysOnHost = ({ type, size }: Tensor): boolean => type === 'string' || size <= 64;
