/**
 * A device in memory that runs Kernel IR with its interpreter: tests of the runtime and of the compiler need no driver.
 * It is stricter than any real one. It throws on use after free or close, on ranges outside their buffer, on
 * misaligned bindings and on dispatches that depend on one another without a barrier between; and it can be made to
 * wait, to run out of memory and to be lost.
 */
import type {
  Backend,
  BufferRange,
  Command,
  CommandList,
  Completion,
  Device,
  DeviceBuffer,
  DeviceInfo,
  DeviceLoss,
  HostRead,
  HostWrite,
  Kernel,
  KernelCode,
} from '../../backends/backend.js';
import { TuttiError } from '../../compiler/error.js';
import { type InterpretOptions, interpret } from '../../compiler/kernel/interpreter.js';
import type { Target } from '../../compiler/kernel/target.js';
import { type KernelFunction, scalarTypes } from '../../compiler/kernel/types.js';

export interface InterpreterOptions {
  readonly target?: Partial<Target>;
  readonly memoryBytes?: number;
  readonly interpret?: InterpretOptions;
}

export const interpreterTarget: Target = {
  backend: 'cpu',
  arch: 'interpreter',
  style: 'simt',
  limits: {
    workgroupInvocations: 256,
    workgroupSize: [256, 256, 64],
    workgroupCount: [65535, 65535, 65535],
    sharedBytes: 32768,
    storageBuffers: 16,
    storageBindingBytes: 1 << 30,
    bufferBytes: 1 << 30,
    storageAlignment: 64,
    scalarBytes: 128,
  },
  features: new Set(['fma']),
  arithmetic: new Set(scalarTypes),
  storage: new Set(scalarTypes),
  vectorLanes: 4,
  vectorRegisters: 64,
  subgroup: { min: 1, max: 1 },
  caches: [],
  parallelism: 1,
  rates: { copyGBs: 1, gflops: 1, dispatchMicroseconds: 10 },
};

/** The kernel behind each code that was rendered. */
const kernels = new WeakMap<KernelCode, KernelFunction>();

export function interpreterBackend(target: Target = interpreterTarget): Backend {
  return {
    name: target.backend,
    describe: () => target,
    target: (arch) => (arch === target.arch ? target : undefined),
    render(kernel) {
      const buffers = kernel.params.filter((param) => param.kind === 'buffer');
      const code: KernelCode = {
        name: kernel.name,
        text: kernel.name,
        entry: kernel.name,
        workgroup: kernel.workgroup,
        bindings: buffers.map(({ access }) => access),
        scalarBytes: 4 * (kernel.params.length - buffers.length),
        sharedBytes: 0,
      };
      kernels.set(code, kernel);
      return code;
    },
    driver: async () => ({
      name: target.backend,
      probe: async () => ({ ok: true }),
      enumerate: async () => [infoOf(target, 1 << 30)],
      open: async () => new InterpreterDevice({ target }),
    }),
  };
}

/** What `Session.create` takes as `device`. */
export function interpreterDevice(options: InterpreterOptions = {}) {
  const device = new InterpreterDevice(options);
  return { backend: interpreterBackend(device.target), device, release: () => device.close() };
}

const infoOf = (target: Target, memoryBytes: number): DeviceInfo => ({
  id: 'interpreter',
  backend: target.backend,
  name: 'Kernel IR interpreter',
  driver: 'none',
  virtual: true,
  software: true,
  memoryBytes,
  features: [],
  limits: {},
});

class MemoryBuffer implements DeviceBuffer {
  readonly bytes: number;
  readonly #memory: Uint8Array;
  readonly #onFree: () => void;
  /** Command lists that hold it. */
  holders = 0;
  freed = false;

  constructor(bytes: number, onFree: () => void) {
    this.bytes = bytes;
    this.#memory = new Uint8Array(bytes);
    this.#onFree = onFree;
  }

  view(offset: number, bytes: number): Uint8Array {
    if (this.freed && this.holders === 0) throw new Error('buffer is used after it was freed');
    if (offset < 0 || bytes < 0 || offset + bytes > this.bytes) {
      throw new Error(`[${offset}, ${offset + bytes}) lies outside a buffer of ${this.bytes} bytes`);
    }
    return this.#memory.subarray(offset, offset + bytes);
  }

  free(): void {
    if (this.freed) throw new Error('buffer is freed twice');
    this.freed = true;
    this.#onFree();
  }
}

interface LoadedKernel extends Kernel {
  readonly kernel: KernelFunction;
  released: boolean;
}

interface RecordedList extends CommandList {
  readonly commands: readonly Command[];
  released: boolean;
}

const memoryOf = ({ buffer, offset, bytes }: BufferRange): Uint8Array => (buffer as MemoryBuffer).view(offset, bytes);

/** What a kernel may touch of a binding: pools are padded so that it can read and write whole words. */
const wordsOf = ({ buffer, offset, bytes }: BufferRange): Uint8Array =>
  (buffer as MemoryBuffer).view(offset, Math.ceil(bytes / 4) * 4);

export class InterpreterDevice implements Device {
  readonly info: DeviceInfo;
  readonly target: Target;
  readonly lost: Promise<DeviceLoss>;
  readonly queue = { submit: (work: Submission) => this.#submit(work) };
  /** Counts for tests: submissions so far, live kernels and lists. */
  readonly counts = { submissions: 0, kernels: 0, lists: 0, buffers: 0 };
  /** Submissions wait for it before they execute. */
  gate: Promise<void> = Promise.resolve();
  readonly #options: InterpreterOptions;
  readonly #memoryBytes: number;
  #allocated = 0;
  #closed = false;
  #loss: DeviceLoss | undefined;
  #resolveLost: (loss: DeviceLoss) => void = () => undefined;
  #tail: Promise<unknown> = Promise.resolve();

  constructor(options: InterpreterOptions = {}) {
    this.#options = options;
    this.target = { ...interpreterTarget, ...options.target };
    this.#memoryBytes = options.memoryBytes ?? 1 << 30;
    this.info = infoOf(this.target, this.#memoryBytes);
    this.lost = new Promise((resolve) => {
      this.#resolveLost = resolve;
    });
  }

  memory() {
    return { allocatedBytes: this.#allocated, totalBytes: this.#memoryBytes };
  }

  async loadKernels(codes: readonly KernelCode[]): Promise<readonly Kernel[]> {
    this.#checkOpen();
    return codes.map((code): LoadedKernel => {
      const kernel = kernels.get(code);
      if (kernel === undefined)
        throw new TuttiError('E_KERNEL', 'not rendered for the interpreter', { subject: code.name });
      this.counts.kernels++;
      const loaded: LoadedKernel = {
        name: code.name,
        kernel,
        released: false,
        release: () => {
          if (loaded.released) throw new Error(`kernel ${code.name} is released twice`);
          loaded.released = true;
          this.counts.kernels--;
        },
      };
      return loaded;
    });
  }

  allocate(bytes: number): DeviceBuffer {
    this.#checkOpen();
    if (this.#allocated + bytes > this.#memoryBytes) {
      throw new TuttiError('E_OUT_OF_MEMORY', 'out of device memory', {
        expected: `${bytes} bytes free`,
        found: `${this.#memoryBytes - this.#allocated}`,
      });
    }
    this.#allocated += bytes;
    this.counts.buffers++;
    return new MemoryBuffer(bytes, () => {
      this.#allocated -= bytes;
      this.counts.buffers--;
    });
  }

  async record(commands: readonly Command[]): Promise<CommandList> {
    this.#checkOpen();
    checkHazards(commands);
    const buffers = new Set(commands.flatMap(accessesOf).map(({ range }) => range.buffer as MemoryBuffer));
    for (const command of commands) this.#check(command);
    for (const buffer of buffers) buffer.holders++;
    this.counts.lists++;
    const list: RecordedList = {
      commands,
      released: false,
      release: () => {
        if (list.released) throw new Error('list is released twice');
        list.released = true;
        this.counts.lists--;
        for (const buffer of buffers) buffer.holders--;
      },
    };
    return list;
  }

  /** As if the driver had died: all work rejects from now on. */
  lose(reason: string): void {
    this.#loss = { reason };
    this.#resolveLost(this.#loss);
  }

  async close(): Promise<void> {
    await this.#tail.catch(() => undefined);
    this.#closed = true;
  }

  #checkOpen(): void {
    if (this.#closed) throw new TuttiError('E_DEVICE_CLOSED', 'the device is closed');
    if (this.#loss) throw new TuttiError('E_DEVICE_LOST', 'the device was lost', { found: this.#loss.reason });
  }

  #check(command: Command): void {
    if (command.kind === 'dispatch') {
      for (const { buffer, offset, bytes } of command.bindings) {
        (buffer as MemoryBuffer).view(offset, bytes);
        if (offset % this.target.limits.storageAlignment !== 0) throw new Error(`binding at ${offset} is misaligned`);
      }
      return;
    }
    for (const { range } of accessesOf(command)) memoryOf(range);
  }

  #submit(work: Submission): Promise<Completion> {
    this.counts.submissions++;
    const { signal } = work;
    if (signal?.aborted) return Promise.reject(signal.reason);
    const done = this.#tail.then(
      () => this.#execute(work),
      () => this.#execute(work),
    );
    this.#tail = done.catch(() => undefined);
    if (!signal) return done;
    return new Promise((resolve, reject) => {
      const onAbort = () => reject(signal.reason);
      signal.addEventListener('abort', onAbort, { once: true });
      done.then(resolve, reject).finally(() => signal.removeEventListener('abort', onAbort));
    });
  }

  async #execute({ list, writes = [], reads = [], signal, profile }: Submission): Promise<Completion> {
    await this.gate;
    // Work takes a while on any device.
    await new Promise((resolve) => setImmediate(resolve));
    this.#checkOpen();
    for (const { to, data } of writes) {
      if (data.byteLength !== to.bytes) throw new Error(`${data.byteLength} bytes are written to ${to.bytes}`);
      memoryOf(to).set(data);
    }
    const recorded = list as RecordedList | undefined;
    if (recorded?.released) throw new Error('list is used after its release');
    const times: number[] = [];
    for (const command of recorded?.commands ?? []) {
      const start = performance.now();
      this.#run(command);
      if (command.kind === 'dispatch') times.push((performance.now() - start) * 1000);
    }
    if (!signal?.aborted) for (const { from, into } of reads) into.set(memoryOf(from));
    return profile ? { dispatchMicroseconds: Float64Array.from(times) } : {};
  }

  #run(command: Command): void {
    switch (command.kind) {
      case 'dispatch': {
        const { kernel, released } = command.kernel as LoadedKernel;
        if (released) throw new Error(`kernel ${kernel.name} is used after its release`);
        const scalars = command.scalars ?? new Uint8Array();
        const words = new DataView(scalars.buffer, scalars.byteOffset, scalars.byteLength);
        const values = kernel.params
          .filter((param) => param.kind === 'scalar')
          .map(({ scalar }, i) =>
            scalar === 'f32'
              ? words.getFloat32(4 * i, true)
              : words[scalar === 'i32' ? 'getInt32' : 'getUint32'](4 * i, true),
          );
        interpret({ ...kernel, grid: command.grid }, command.bindings.map(wordsOf), values, this.#options.interpret);
        return;
      }
      case 'copy':
        memoryOf(command.to).set(memoryOf(command.from));
        return;
      case 'fill':
        memoryOf(command.to).fill(command.byte);
        return;
      case 'barrier':
        return;
      default:
        command satisfies never;
    }
  }
}

interface Submission {
  readonly list?: CommandList;
  readonly writes?: readonly HostWrite[];
  readonly reads?: readonly HostRead[];
  readonly signal?: AbortSignal;
  readonly profile?: boolean;
}

interface Access {
  readonly range: BufferRange;
  readonly writes: boolean;
}

function accessesOf(command: Command): Access[] {
  switch (command.kind) {
    case 'dispatch': {
      const params = (command.kernel as LoadedKernel).kernel.params.filter((param) => param.kind === 'buffer');
      if (params.length !== command.bindings.length) {
        throw new Error(`kernel ${command.kernel.name} has ${params.length} buffers, ${command.bindings.length} bound`);
      }
      return command.bindings.map((range, i) => ({ range, writes: params[i].access !== 'read' }));
    }
    case 'copy':
      return [
        { range: command.from, writes: false },
        { range: command.to, writes: true },
      ];
    case 'fill':
      return [{ range: command.to, writes: true }];
    case 'barrier':
      return [];
    default:
      return command satisfies never;
  }
}

const overlap = (a: BufferRange, b: BufferRange): boolean =>
  a.buffer === b.buffer && a.offset < b.offset + b.bytes && b.offset < a.offset + a.bytes;

/** Commands between two barriers may run in any order or at once: none may touch what another writes. */
function checkHazards(commands: readonly Command[]): void {
  let since: Access[] = [];
  for (const [at, command] of commands.entries()) {
    if (command.kind === 'barrier') {
      since = [];
      continue;
    }
    const accesses = accessesOf(command);
    for (const [i, access] of accesses.entries()) {
      const clash = (other: Access) => (access.writes || other.writes) && overlap(access.range, other.range);
      if (accesses.some((other, j) => j < i && clash(other))) throw new Error(`command ${at}: its own ranges overlap`);
      if (since.some(clash)) throw new Error(`command ${at} depends on one before it without a barrier between`);
    }
    since.push(...accesses);
  }
}
