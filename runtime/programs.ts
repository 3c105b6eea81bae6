/**
 * What a session has compiled: the stages that the model goes through, by shapes of its inputs, and their executables.
 * What is not there is built when it is asked for.
 */
import type { CreateHasher } from '../compiler/artifact/index.js';
import type { Graph } from '../compiler/graph/types.js';
import type { Lengths } from '../compiler/passes/containers.js';
import type { HostTensor } from '../compiler/tensor.js';
import { type Builder, compiler, type Job } from './builder.js';
import type { Executable } from './executable.js';
import { keyOf } from './feeds.js';
import type { ProgramKey } from './program_cache.js';
import type { SessionModel } from './session_model.js';
import { type Lease, Specialisations } from './specialisations.js';
import { StageKeys } from './stage_keys.js';
import { StageTree, type Step, type TreeStage, wholeStage } from './stage_tree.js';
import type { Pending } from './steps.js';

/** Executables of stages that are kept for each specialisation. */
const stagesPerSpecialisation = 16;

export type Shapes = Readonly<Record<string, readonly number[]>>;

export class Programs {
  readonly #model: SessionModel;
  readonly #builder: Builder;
  readonly #keys: StageKeys;
  /** Keys of stages that mean the same in other processes. */
  readonly #lasting = new Set<string>();
  /** Inputs are sequences or optionals. */
  readonly #holds: boolean;
  /** By shapes, least recently used first. */
  readonly #trees = new Map<string, StageTree>();
  readonly #cacheSize: number;
  /** Executables of whole models, and of stages of models that are run in several. */
  readonly #wholes: Specialisations;
  readonly #parts: Specialisations;

  /** @param cacheSize How many combinations of shapes are kept. */
  constructor(model: SessionModel, builder: Builder, cacheSize: number, createHasher: CreateHasher) {
    this.#model = model;
    this.#builder = builder;
    this.#keys = new StageKeys(createHasher);
    this.#holds = model.inputs.some(({ container }) => container !== undefined);
    this.#cacheSize = cacheSize;
    this.#wholes = new Specialisations(cacheSize);
    this.#parts = new Specialisations(cacheSize * stagesPerSpecialisation);
  }

  /** Those that are ready. */
  get executables(): readonly Executable[] {
    return [...this.#wholes.ready, ...this.#parts.ready];
  }

  /** Whether inputs of the shapes of this key were seen before. */
  has(key: string): boolean {
    return this.#trees.has(key);
  }

  /** Compiles for inputs of these shapes; undefined where data decides, and there is nothing to compile without it. */
  async specialise(shapes: Shapes): Promise<Lease | undefined> {
    const key = keyOf(this.#model, shapes);
    const step = (await this.tree(key, shapes)).first({});
    if (step.whole) return this.lease(step, shapes);
    this.#trees.delete(key);
    return undefined;
  }

  /** Gives up what is not in use; true if there was any. */
  async evictIdle(): Promise<boolean> {
    const freed = await Promise.all([this.#wholes.evictIdle(), this.#parts.evictIdle()]);
    return freed.includes(true);
  }

  async close(): Promise<void> {
    await Promise.all([this.#wholes.close(), this.#parts.close()]);
  }

  /** Undefined if inputs of these shapes were never seen, or long ago. */
  knownTree(key: string): StageTree | undefined {
    const known = this.#trees.get(key);
    if (known !== undefined) {
      this.#trees.delete(key);
      this.#trees.set(key, known);
    }
    return known;
  }

  /** The stages of the model at these shapes. */
  tree(key: string, given: Shapes, lengths: Lengths = {}): Pending<StageTree> {
    return this.knownTree(key) ?? this.#makeTree(key, given, lengths);
  }

  async #makeTree(key: string, given: Shapes, lengths: Lengths): Promise<StageTree> {
    const { signature, sizes } = this.#model;
    const shapes = { ...this.#model.shapes, ...given };
    let build: (values: Readonly<Record<string, HostTensor>>) => TreeStage;
    if (this.#model.waits && !this.#isStored(given)) {
      const [{ stageOf }, graph] = await Promise.all([compiler(), this.#model.load()]);
      this.#keys.know(graph);
      build = (values) => stageOf(graph, { shapes, lengths, dims: sizes, values });
    } else {
      const stage = wholeStage(signature);
      build = () => stage;
    }
    const tree = new StageTree(build, ({ graph }) => (graph === undefined ? key : this.#keyOf(graph)));
    for (const old of this.#trees.keys()) {
      if (this.#trees.size < this.#cacheSize) break;
      this.#trees.delete(old);
    }
    this.#trees.set(key, tree);
    return tree;
  }

  #cacheOf({ whole }: Step): Specialisations {
    return whole ? this.#wholes : this.#parts;
  }

  /** The executable of a stage, if it is there. */
  leaseReady(step: Step): Lease | undefined {
    return this.#cacheOf(step).leaseReady(step.key);
  }

  /** That of a whole model, by its key. */
  leaseWhole(key: string): Lease | undefined {
    return this.#wholes.leaseReady(key);
  }

  /** The same, built if it is not there. */
  lease(step: Step, shapes: Shapes): Pending<Lease> {
    const { stage, key, whole } = step;
    const stored = (): void => void this.#describe();
    return this.#cacheOf(step).lease(key, async () => {
      // What data has decided is told by the stage alone.
      const identity = whole && stage.looked.size === 0 ? this.#identityOf(shapes) : this.#identityOfStage(key);
      return this.#builder.build({ ...this.#jobOf(stage.graph, shapes), identity, stored, apart: !whole });
    });
  }

  /** What to plan: the graph of a stage, or the model's own at these shapes. */
  #jobOf(stage: Graph | undefined, shapes: Shapes): Pick<Job, 'graph' | 'bindings' | 'shapes'> {
    if (stage !== undefined) return { graph: async () => stage, shapes };
    const bindings = { shapes: { ...this.#model.shapes, ...shapes }, dims: this.#model.sizes };
    return { graph: () => this.#model.load(), bindings, shapes };
  }

  /** All that the program for these shapes follows from, but for the device and numerics. */
  #identityOf(shapes: Shapes): ProgramKey | undefined {
    const { origin, signature, sizes } = this.#model;
    if (origin === undefined || this.#holds) return undefined;
    const dims = new Map([...signature.dims].map(([name, { min, max }]) => [name, [min, max]]));
    return { model: origin.digest(), bounds: dims, shapes: { ...this.#model.shapes, ...shapes }, sizes };
  }

  #keyOf(stage: Graph): string {
    const { text, lasting } = this.#keys.of(stage);
    if (lasting) this.#lasting.add(text);
    return text;
  }

  /** The same for a stage, whatever led to it. */
  #identityOfStage(key: string): ProgramKey | undefined {
    const { origin } = this.#model;
    return origin === undefined || !this.#lasting.has(key) ? undefined : { model: origin.digest(), stage: key };
  }

  #isStored(shapes: Shapes): boolean {
    const identity = this.#identityOf(shapes);
    return identity !== undefined && this.#builder.knows(identity);
  }

  /** Notes what the model is, so that the next process need not read it. */
  async #describe(): Promise<void> {
    const { origin, signature, nodes, weightsBytes, waits } = this.#model;
    if (origin?.file === undefined) return;
    const { descriptions } = await import('./node.js');
    const digest = origin.digest();
    const { stated } = origin.file;
    descriptions().store(origin.file, { signature, nodes, weightsBytes, waits, digest, stated });
  }
}
