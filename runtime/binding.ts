/** Inputs and outputs of a session fixed on the device, for many runs. */
import { TuttiError } from '../compiler/error.js';
import type { BindingOptions, Feeds, RunOptions, Value, ValueInfo } from './api.js';
import type { OnDevice, Wanted } from './chain.js';
import type { DeviceTensors } from './device_tensors.js';
import { wrap } from './feeds.js';
import { wantedOutputs } from './outputs.js';
import type { Resident } from './residents.js';
import { Tensor, type TensorData } from './tensor.js';

/** A run of what is bound. */
export interface BoundRun extends Pick<RunOptions, 'signal' | 'profile'> {
  readonly feeds: Feeds;
  readonly wanted: ReadonlyMap<string, Wanted>;
}

export interface BoundSession {
  readonly inputs: readonly ValueInfo[];
  readonly outputNames: readonly string[];
  readonly tensors: DeviceTensors;
  /** Both give what has each output as a tensor. */
  run(bound: BoundRun): Promise<(name: string) => Value>;
  runSync(bound: BoundRun): (name: string) => Value;
}

/** Made by `session.bind`. */
export class Binding {
  readonly #session: BoundSession;
  readonly #inputs: Record<string, Tensor>;
  /** Copies of host tensors that were made for the binding. */
  readonly #own: readonly Tensor[];
  /** Memory of bound outputs: it stays even if the caller disposes the tensors. */
  readonly #held: Resident[];
  readonly #wanted: ReadonlyMap<string, Wanted>;
  readonly #bound: ReadonlyMap<string, Tensor>;

  private constructor(
    session: BoundSession,
    inputs: Record<string, Tensor>,
    own: readonly Tensor[],
    wanted: ReadonlyMap<string, Wanted>,
    bound: ReadonlyMap<string, Tensor>,
  ) {
    this.#session = session;
    this.#inputs = inputs;
    this.#own = own;
    this.#wanted = wanted;
    this.#bound = bound;
    this.#held = [...wanted.values()].flatMap(({ into }) => (into === undefined ? [] : [into.resident.hold()]));
  }

  /** @throws TuttiError E_INPUT, E_OUT_OF_MEMORY */
  static async create({ inputs, outputs }: BindingOptions, session: BoundSession): Promise<Binding> {
    const wanted = new Map<string, Wanted>();
    const bound = new Map<string, Tensor>();
    const names = session.outputNames;
    const given = Object.entries(outputs ?? {});
    const tensors = given.filter((entry): entry is [string, Tensor] => entry[1] instanceof Tensor);
    const asked = Object.fromEntries(
      given.map(([name, target]) => [name, target instanceof Tensor ? 'device' : target]),
    );
    for (const [name, goal] of wantedOutputs(outputs && asked, names)) wanted.set(name, goal);
    for (const [name, target] of tensors) {
      wanted.set(name, { place: 'device', into: placeOf(target, name, session) });
      bound.set(name, target);
    }
    const own: Tensor[] = [];
    const fixed: Record<string, Tensor> = {};
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
    return new Binding(session, fixed, own, wanted, bound);
  }

  /**
   * Runs the model once on what is bound. Outputs written to tensors that were bound are those tensors.
   * @throws TuttiError as `Session.run`
   */
  async run<V extends Value = Tensor>(
    options: Pick<RunOptions, 'signal' | 'profile'> = {},
  ): Promise<Record<string, V>> {
    return this.#named<V>(await this.#session.run({ ...options, feeds: this.#inputs, wanted: this.#wanted }));
  }

  /**
   * The same in the calling thread.
   * @throws TuttiError as `Session.runSync`
   */
  runSync<V extends Value = Tensor>(options: Pick<RunOptions, 'signal' | 'profile'> = {}): Record<string, V> {
    return this.#named<V>(this.#session.runSync({ ...options, feeds: this.#inputs, wanted: this.#wanted }));
  }

  #named<V extends Value>(result: (name: string) => Value): Record<string, V> {
    const named: Record<string, Value> = {};
    for (const name of this.#wanted.keys()) {
      const made = result(name);
      const target = this.#bound.get(name);
      // The caller has the tensor already: this share is one too many.
      if (target !== undefined && made instanceof Tensor) made.dispose();
      named[name] = target ?? made;
    }
    return named as Record<string, V>;
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

function placeOf(tensor: Tensor, name: string, { tensors }: BoundSession): OnDevice {
  const { storage, dtype, dims } = tensor;
  if (storage === undefined || storage.device !== tensors.device) {
    throw new TuttiError('E_INPUT', 'the tensor bound to an output does not lie on the device of the session', {
      subject: name,
      remedy: 'Make it with session.tensor(type, dims).',
    });
  }
  return { dtype, shape: dims, resident: storage.resident };
}
