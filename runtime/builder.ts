/** Makes executables for a session: plans without holding up others, and makes room where memory is short. */
import type { CreateHasher } from '../compiler/artifact/index.js';
import type { Numerics } from '../compiler/compile.js';
import { TuttiError } from '../compiler/error.js';
import type { Graph } from '../compiler/graph/types.js';
import type { PlanOptions } from '../compiler/plan.js';
import type { SessionOptions, SpecialisationReport } from './api.js';
import { ConstantStore } from './constants.js';
import type { DeviceHandle } from './device.js';
import { log } from './environment.js';
import { Executable, Renderer } from './executable.js';
import { nextTurn, Pace } from './pace.js';

/** The compiler, loaded when there is something to compile: listing devices must not wait for it. */
let loading: Promise<typeof import('../compiler/compile.js')> | undefined;
export function compiler(): Promise<typeof import('../compiler/compile.js')> {
  loading ??= import('../compiler/compile.js');
  return loading;
}

export interface Job {
  readonly graph: Graph;
  /** Where the graph is not concrete. */
  readonly bindings?: Pick<PlanOptions, 'shapes' | 'dims'>;
  /** It is one of several stages: what goes in and out is on the device. */
  readonly apart?: boolean;
  /** For reports and messages. */
  readonly shapes: Readonly<Record<string, readonly number[]>>;
}

export class Builder {
  readonly #name: string;
  readonly #numerics: Numerics;
  readonly #handle: DeviceHandle;
  readonly #dump: SessionOptions['dump'];
  readonly #constants: ConstantStore;
  readonly #renderer: Renderer;
  readonly #makeRoom: () => Promise<boolean>;
  readonly #reports = new WeakMap<Executable, SpecialisationReport>();

  /** @param makeRoom Frees device memory that nobody uses now; tells whether there was any. */
  constructor(
    name: string,
    numerics: Numerics,
    handle: DeviceHandle,
    dump: SessionOptions['dump'],
    createHasher: CreateHasher,
    makeRoom: () => Promise<boolean>,
  ) {
    this.#name = name;
    this.#numerics = numerics;
    this.#handle = handle;
    this.#dump = dump;
    this.#constants = new ConstantStore(handle.device, createHasher);
    this.#renderer = new Renderer(handle.backend);
    this.#makeRoom = makeRoom;
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
  async build({ graph, bindings, shapes, apart }: Job): Promise<Executable> {
    const start = performance.now();
    const { planPaced } = await compiler();
    await nextTurn();
    const planStart = performance.now();
    const { device } = this.#handle;
    const pace = new Pace();
    const options: PlanOptions = {
      numerics: this.#numerics,
      ...bindings,
      ...(this.#dump === undefined ? {} : { dump: this.#dump }),
    };
    const planned = await planPaced(graph, device.target, options, () => pace.breathe());
    const planTime = performance.now() - planStart;
    await nextTurn();
    const create = () => Executable.create(this.#name, device, planned, this.#constants, this.#renderer, apart);
    let executable: Executable;
    try {
      executable = await create();
    } catch (error) {
      const full = error instanceof TuttiError && error.code === 'E_OUT_OF_MEMORY';
      // Other shapes may hold memory that nobody needs now.
      if (!full || !(await this.#makeRoom())) throw error;
      executable = await create();
    }
    const times = { plan: planTime, ...executable.times, total: performance.now() - start };
    log('info', () => `compiled ${this.#name} in ${times.total.toFixed(0)} ms`);
    this.#reports.set(executable, { shapes, plan: planned.report, times });
    return executable;
  }
}
