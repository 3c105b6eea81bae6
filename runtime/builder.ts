/** Makes executables for a session: plans without holding up others, and makes room where memory is short. */
import type { CreateHasher } from '../compiler/artifact/sha256.js';
import type { Numerics } from '../compiler/compile.js';
import { TuttiError } from '../compiler/error.js';
import type { Graph } from '../compiler/graph/types.js';
import type { Plan, PlanOptions } from '../compiler/plan.js';
import type { SessionOptions, SpecialisationReport } from './api.js';
import { ConstantStore } from './constants.js';
import type { DeviceHandle } from './device.js';
import { log } from './environment.js';
import { Executable, Renderer } from './executable.js';
import { nextTurn, Pace } from './pace.js';
import type { ProgramCache, ProgramKey } from './program_cache.js';
import { DamagedProgram, type RenderedProgram } from './program_format.js';

/** The compiler, loaded when there is something to compile: listing devices must not wait for it. */
let loading: Promise<typeof import('../compiler/compile.js')> | undefined;
export function compiler(): Promise<typeof import('../compiler/compile.js')> {
  loading ??= import('../compiler/compile.js');
  return loading;
}

export interface Job {
  /** Asked for only where the program is not stored. */
  readonly graph: () => Promise<Graph>;
  /** All that the graph and its bindings follow from, for the cache of programs; without it nothing is stored. */
  readonly identity?: ProgramKey | undefined;
  /** Called when the program is worth storing. */
  readonly stored?: () => void;
  /** Where the graph is not concrete. */
  readonly bindings?: Pick<PlanOptions, 'shapes' | 'dims'>;
  /** It is one of several stages: what goes in and out is on the device. */
  readonly apart?: boolean;
  /** For reports and messages. */
  readonly shapes: Readonly<Record<string, readonly number[]>>;
}

/** Milliseconds of planning and rendering from which on the result is worth a file. */
const worthStoring = 25;

export class Builder {
  readonly #name: string;
  readonly #numerics: Numerics;
  readonly #handle: DeviceHandle;
  readonly #dump: SessionOptions['dump'];
  /** Measured forms by signature. */
  readonly #tuned: ReadonlyMap<string, string>;
  readonly #constants: ConstantStore;
  readonly #renderer: Renderer;
  readonly #makeRoom: () => Promise<boolean>;
  readonly #programs: ProgramCache | undefined;
  readonly #reports = new WeakMap<Executable, SpecialisationReport>();

  /**
   * @param makeRoom Frees device memory that nobody uses now; tells whether there was any.
   * @param tuned Names of the forms that are preferred, by signature of what they compute.
   */
  constructor(
    name: string,
    numerics: Numerics,
    handle: DeviceHandle,
    dump: SessionOptions['dump'],
    createHasher: CreateHasher,
    makeRoom: () => Promise<boolean>,
    tuned: ReadonlyMap<string, string>,
  ) {
    this.#name = name;
    this.#numerics = numerics;
    this.#handle = handle;
    this.#dump = dump;
    this.#tuned = tuned;
    this.#constants = new ConstantStore(handle.device, createHasher);
    this.#renderer = new Renderer(handle.backend);
    this.#makeRoom = makeRoom;
    this.#programs = dump === undefined ? handle.programs : undefined;
  }

  get constantBytes(): number {
    return this.#constants.bytes;
  }

  /** Of an executable that was built here. */
  reportOf(executable: Executable): readonly SpecialisationReport[] {
    const report = this.#reports.get(executable);
    return report === undefined ? [] : [report];
  }

  /** @throws TuttiError E_SHAPE, E_UNSUPPORTED, E_OUT_OF_MEMORY, E_KERNEL, E_DEVICE_LOST */
  async build(job: Job): Promise<Executable> {
    const start = performance.now();
    const stored = await this.#fromStore(job, start);
    if (stored !== undefined) return stored;
    const rendering = performance.now();
    const { plan: planned, planTime } = await this.#plan(job);
    const rendered: RenderedProgram = { program: planned, codes: await this.#renderer.render(planned) };
    const renderTime = performance.now() - rendering - planTime;
    const executable = await this.#realise(rendered, job);
    this.#note(job, executable, { plan: planTime, render: renderTime }, start);
    if (job.identity !== undefined && planTime + renderTime >= worthStoring) {
      this.#programs?.store(this.#keyOf(job.identity), rendered);
      job.stored?.();
    }
    return executable;
  }

  /** Resolves when all programs are stored that are to be. */
  async settled(): Promise<void> {
    await this.#programs?.settled();
  }

  async #fromStore(job: Job, start: number): Promise<Executable | undefined> {
    if (job.identity === undefined || this.#programs === undefined) return undefined;
    const key = this.#keyOf(job.identity);
    const stored = this.#programs.find(key);
    if (stored === undefined) return undefined;
    const found = performance.now() - start;
    try {
      const executable = await this.#realise(stored, job);
      this.#note(job, executable, { cache: found }, start);
      return executable;
    } catch (error) {
      // Constants are checked when they are read.
      if (!(error instanceof DamagedProgram)) throw error;
      await this.#programs.remove(key);
      return undefined;
    }
  }

  /** Whether a program of that identity is stored. */
  knows(identity: ProgramKey): boolean {
    return this.#programs?.has(this.#keyOf(identity)) ?? false;
  }

  #keyOf(identity: ProgramKey): ProgramKey {
    const { target } = this.#handle.device;
    return { identity, numerics: this.#numerics, target, tuned: this.#tuned };
  }

  async #plan({ graph, bindings }: Job): Promise<{ readonly plan: Plan; readonly planTime: number }> {
    const { planPaced } = await compiler();
    const { preferring } = await import('../compiler/schedule/forms.js');
    const model = await graph();
    await nextTurn();
    const start = performance.now();
    const pace = new Pace();
    const options: PlanOptions = {
      numerics: this.#numerics,
      ...bindings,
      ...(this.#dump === undefined ? {} : { dump: this.#dump }),
      ...(this.#tuned.size === 0 ? {} : { prefer: preferring(this.#tuned) }),
    };
    const plan = await planPaced(model, this.#handle.device.target, options, () => pace.breathe());
    const planTime = performance.now() - start;
    await nextTurn();
    return { plan, planTime };
  }

  async #realise({ program, codes }: RenderedProgram, { apart }: Job): Promise<Executable> {
    const create = () => Executable.create(this.#name, this.#handle.device, program, codes, this.#constants, apart);
    try {
      return await create();
    } catch (error) {
      const full = error instanceof TuttiError && error.code === 'E_OUT_OF_MEMORY';
      // Other shapes may hold memory that nobody needs now.
      if (!full || !(await this.#makeRoom())) throw error;
      return create();
    }
  }

  #note({ shapes }: Job, executable: Executable, found: Readonly<Record<string, number>>, start: number): void {
    const times = { ...found, ...executable.times, total: performance.now() - start };
    log('info', () => `compiled ${this.#name} in ${times.total.toFixed(0)} ms`);
    this.#reports.set(executable, { shapes, plan: executable.plan.report, times });
  }
}
