/**
 * The short way of a run that is like one before it: whole tensors of the same types and dims, to the same outputs. What
 * was checked then needs only be compared.
 */
import type { Device, Work } from '../backends/backend.js';
import { isList } from '../compiler/passes/mapped.js';
import type { HostTensor } from '../compiler/tensor.js';
import type { Feeds } from './api.js';
import { isLike } from './chain.js';
import type { DeviceTensors } from './device_tensors.js';
import type { ReadyRun } from './executable.js';
import type { CheckedFeeds } from './feeds.js';
import { areApart, type WantedOutputs } from './outputs.js';
import type { Programs } from './programs.js';
import type { Resident, Residents } from './residents.js';
import type { Lease } from './specialisations.js';
import type { Step } from './stage_tree.js';
import { Tensor, type TensorType, typeOfDType } from './tensor.js';

/** What a session lends to such runs. */
export interface LaneScene {
  readonly device: Device;
  readonly programs: Programs;
  readonly residents: Residents;
  readonly tensors: DeviceTensors;
}

interface LaneInput {
  readonly name: string;
  readonly type: TensorType;
  readonly dims: readonly number[];
}
interface LaneOutput {
  readonly name: string;
  /** Number of the program's output. */
  readonly index: number;
}

export class Lane {
  /** Of the shapes. */
  readonly key: string;
  readonly #program: string;
  readonly #inputs: readonly LaneInput[];
  readonly #outputs: readonly LaneOutput[];

  private constructor(key: string, program: string, inputs: readonly LaneInput[], outputs: readonly LaneOutput[]) {
    this.key = key;
    this.#program = program;
    this.#inputs = inputs;
    this.#outputs = outputs;
  }

  /**
   * @param step The only stage of the model for such inputs, whatever their data.
   * @returns undefined where there is no short way: the program takes or gives something else than the model does.
   */
  static of({ stage, key: program }: Step, { key, tensors }: CheckedFeeds, wanted: WantedOutputs): Lane | undefined {
    const { inputs, outputs, next } = stage;
    if (next.kind !== 'done' || inputs.length !== Object.keys(tensors).length) return undefined;
    const taken: LaneInput[] = [];
    for (const held of inputs) {
      const tensor = held.kind === 'input' ? tensors[held.name] : undefined;
      if (tensor === undefined) return undefined;
      taken.push({ name: held.name, type: typeOfDType(tensor.dtype), dims: tensor.shape });
    }
    const given: LaneOutput[] = [];
    for (const name of wanted.keys()) {
      const held = next.outputs.find((output) => output.name === name)?.held;
      if (held === undefined || held === null || isList(held)) return undefined;
      const index = outputs.indexOf(held);
      if (index < 0 || given.some((other) => other.index === index)) return undefined;
      given.push({ name, index });
    }
    return new Lane(key, program, taken, given);
  }

  gives(wanted: WantedOutputs): boolean {
    return wanted.size === this.#outputs.length && this.#outputs.every(({ name }) => wanted.has(name));
  }

  /** Undefined if the run is not like the one before, or something has to be waited for first. */
  enter(scene: LaneScene, feeds: Feeds, wanted: WantedOutputs): ShortRun | undefined {
    const inputs = this.#match(feeds, scene.device);
    if (inputs === undefined || !this.gives(wanted) || !areApart(wanted, inputs)) return undefined;
    const lease = scene.programs.leaseWhole(this.#program);
    if (lease === undefined) return undefined;
    const run = new ShortRun(scene, lease, inputs, this.#outputs, wanted);
    try {
      if (run.prepare()) return run;
    } catch (error) {
      run.release();
      throw error;
    }
    run.release();
    return undefined;
  }

  /** The tensors in the order of the program. */
  #match(feeds: Feeds, device: Device): readonly (HostTensor | Resident)[] | undefined {
    if (typeof feeds !== 'object' || feeds === null) return undefined;
    let count = 0;
    for (const _ in feeds) count++;
    if (count !== this.#inputs.length) return undefined;
    const inputs: (HostTensor | Resident)[] = [];
    for (const { name, type, dims } of this.#inputs) {
      const tensor = feeds[name];
      if (!(tensor instanceof Tensor) || tensor.type !== type || !isEqual(tensor.dims, dims)) return undefined;
      const { storage } = tensor;
      if (storage === undefined) inputs.push(tensor.toHost());
      else if (storage.device === device) inputs.push(storage.resident);
      else return undefined;
    }
    return inputs;
  }
}

/** One run on the short way: made, prepared, submitted, and let go in any case. */
export class ShortRun {
  readonly #scene: LaneScene;
  readonly #lease: Lease;
  readonly #inputs: readonly (HostTensor | Resident)[];
  readonly #outputs: readonly LaneOutput[];
  readonly #wanted: WantedOutputs;
  /** Memory that outputs stay in on the device, by the program's number; the caller's own included. */
  readonly #keep = new Map<number, Resident>();
  /** Those of them that nobody has yet. */
  #fresh: Resident[] = [];
  #held: readonly Resident[] = [];
  #ready: ReadyRun | undefined;

  constructor(
    scene: LaneScene,
    lease: Lease,
    inputs: readonly (HostTensor | Resident)[],
    outputs: readonly LaneOutput[],
    wanted: WantedOutputs,
  ) {
    this.#scene = scene;
    this.#lease = lease;
    this.#inputs = inputs;
    this.#outputs = outputs;
    this.#wanted = wanted;
  }

  /** False if there is more to do than can be done here. @throws TuttiError E_OUT_OF_MEMORY */
  prepare(): boolean {
    const { executable } = this.#lease;
    const reads: number[] = [];
    const into = new Map<number, HostTensor>();
    for (const { name, index } of this.#outputs) {
      const goal = this.#wanted.get(name);
      const planned = executable.plan.outputs[index];
      const { location, constant } = planned;
      const placed = location !== undefined && constant === undefined;
      if (goal === undefined) return false;
      if (goal.into !== undefined && !(placed && isLike(planned, goal.into))) return false;
      if (goal.place === 'cpu') {
        reads.push(index);
        if (goal.into !== undefined) into.set(index, goal.into);
      } else if (!placed) return false;
      else this.#keep.set(index, goal.into?.resident ?? this.#take(location.bytes));
    }
    this.#ready = executable.ready({ inputs: this.#inputs, outputs: reads, keep: this.#keep, into });
    return this.#ready !== undefined;
  }

  #take(bytes: number): Resident {
    const resident = this.#scene.residents.take(bytes);
    this.#fresh.push(resident);
    return resident;
  }

  get work(): Work {
    return this.#prepared().work;
  }

  /** What the caller disposes while the work is under way is still needed. */
  hold(): void {
    const own = new Set(this.#fresh);
    const used = [...this.#inputs, ...this.#keep.values()].filter((memory): memory is Resident => 'hold' in memory);
    this.#held = used.filter((resident) => !own.has(resident)).map((resident) => resident.hold());
  }

  /** Once the work is done. */
  outputs(): Record<string, Tensor> {
    const { results } = this.#prepared();
    const { plan } = this.#lease.executable;
    const tensors: Record<string, Tensor> = {};
    let next = 0;
    for (const { name, index } of this.#outputs) {
      const { place, tensor } = this.#wanted.get(name) ?? {};
      const resident = this.#keep.get(index);
      const result = place === 'cpu' ? results[next++] : undefined;
      if (tensor !== undefined) tensors[name] = tensor;
      else if (result !== undefined) tensors[name] = Tensor.fromHost(result);
      else if (resident !== undefined) {
        const { dtype, shape } = plan.outputs[index];
        tensors[name] = this.#scene.tensors.wrap({ dtype, shape, resident });
      }
    }
    this.#fresh = [];
    return tensors;
  }

  release(): void {
    this.#ready?.done();
    this.#lease.release();
    for (const resident of [...this.#held, ...this.#fresh]) resident.release();
    this.#held = [];
    this.#fresh = [];
  }

  #prepared(): ReadyRun {
    if (this.#ready === undefined) throw new Error('a run that was not prepared');
    return this.#ready;
  }
}

function isEqual(a: readonly number[], b: readonly number[]): boolean {
  if (a.length !== b.length) return false;
  for (let i = 0; i < a.length; i++) if (a[i] !== b[i]) return false;
  return true;
}
