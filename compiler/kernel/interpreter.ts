/**
 * Runs a kernel: the executable definition of the Kernel IR, against which every renderer is checked.
 *
 * The body is compiled to closures over one register file (doubles, with 64-bit integers as bits of the same slots).
 * A kernel without barriers and subgroup ops runs invocation by invocation. Otherwise the invocations of a workgroup
 * run in lockstep: stretches without such ops invocation by invocation, control flow around them with the set of
 * invocations that take it, so a barrier that not all reach is found.
 */
import { bf16ToF32, f16ToF32, f32ToBf16, f32ToF16 } from '../numeric.js';
import { RaceDetector } from './races.js';
import {
  binaryBig,
  binaryNumber,
  comparisons,
  conversion,
  fusedNumber,
  isBig,
  type NumberFn2,
  normalizers,
  unaryBig,
  unaryNumber,
  wrapBig,
} from './semantics.js';
import {
  isIntScalar,
  type KBlock,
  type KBuffer,
  type KernelFunction,
  type KInst,
  type KMemory,
  type KParam,
  type KValue,
  type ScalarType,
  scalarBits,
} from './types.js';

export interface InterpretOptions {
  /** Detect invocations that touch one element without a barrier between, at least one writing. Default false. */
  readonly checkRaces?: boolean;
  /** Throw on accesses out of bounds and on broken `aligned` promises. Default true. */
  readonly checkBounds?: boolean;
  /** Check every integer result against its claimed `range`. Default false; `assume` is always checked. */
  readonly checkRanges?: boolean;
}

type Op = (base: number) => void;
/** `sync` code holds barriers or subgroup ops and runs for a set of invocations, given by their register bases. */
type Code =
  | { readonly sync: false; readonly run: Op }
  | { readonly sync: true; readonly run: (active: readonly number[]) => void };

type MemoryView =
  | Int8Array
  | Uint8Array
  | Int16Array
  | Uint16Array
  | Int32Array
  | Uint32Array
  | Float32Array
  | Float64Array
  | BigInt64Array
  | BigUint64Array;

interface Memory {
  readonly memory: KMemory;
  readonly view: MemoryView;
  /** Elements from one invocation's copy to the next: 0 unless private and run in lockstep. */
  readonly stride: number;
  readonly races: RaceDetector | undefined;
}

const viewTypes = {
  bool: Uint8Array,
  i8: Int8Array,
  u8: Uint8Array,
  i16: Int16Array,
  u16: Uint16Array,
  i32: Int32Array,
  u32: Uint32Array,
  i64: BigInt64Array,
  u64: BigUint64Array,
  f16: Uint16Array,
  bf16: Uint16Array,
  f32: Float32Array,
  f64: Float64Array,
} as const satisfies Record<ScalarType, unknown>;

/** Fixed registers at the start of each invocation's frame. */
const localIdSlot = 0;
const workgroupIdSlot = 3;
const linearIdSlot = 6;
const laneSlot = 7;
const subgroupSizeSlot = 8;
const firstFreeSlot = 9;

/**
 * Runs the whole grid of `kernel`.
 *
 * `buffers` are the bytes of the buffer parameters and `scalars` the values of the scalar parameters, each in the
 * order of `kernel.params`; written buffers are changed in place. Undefined contents (fresh arrays, lanes from outside
 * a shuffle's subgroup) read as NaN or all ones. Throws an Error naming kernel and memory on an access out of bounds,
 * a race (if checked), a broken promise (`assume`, division by zero, …) or a barrier in divergent control flow.
 */
export function interpret(
  kernel: KernelFunction,
  buffers: readonly ArrayBufferView[],
  scalars: readonly number[] = [],
  options: InterpretOptions = {},
): void {
  const lockstep = hasSync(kernel.body);
  const invocations = kernel.workgroup[0] * kernel.workgroup[1] * kernel.workgroup[2];
  const memories = bindMemories(kernel, buffers, lockstep ? invocations : 1, options.checkRaces === true);
  const machine = new Machine(kernel, memories.byMemory, scalars, lockstep ? invocations : 1, options);
  try {
    machine.runGrid();
  } finally {
    for (const copyBack of memories.copyBack) copyBack();
  }
}

function hasSync(block: KBlock): boolean {
  return block.instructions.some((inst) => {
    switch (inst.op) {
      case 'barrier':
      case 'subgroup':
        return true;
      case 'for':
      case 'loop':
        return hasSync(inst.body);
      case 'if':
        return hasSync(inst.then) || hasSync(inst.else);
      default:
        return false;
    }
  });
}

const isBuffer = (param: KParam): param is KBuffer => param.kind === 'buffer';

function bindMemories(
  kernel: KernelFunction,
  bytes: readonly ArrayBufferView[],
  frames: number,
  checkRaces: boolean,
): { readonly byMemory: ReadonlyMap<KMemory, Memory>; readonly copyBack: readonly (() => void)[] } {
  const params = kernel.params.filter(isBuffer);
  if (params.length !== bytes.length) {
    throw new Error(`kernel ${kernel.name} has ${params.length} buffers, got ${bytes.length}`);
  }
  const byMemory = new Map<KMemory, Memory>();
  const copyBack: (() => void)[] = [];
  for (const [i, memory] of params.entries()) {
    const size = (memory.length * scalarBits[memory.scalar]) / 8;
    const given = bytes[i];
    if (given.byteLength < size) {
      throw new Error(`kernel ${kernel.name}: buffer ${memory.name} needs ${size} bytes, got ${given.byteLength}`);
    }
    let { buffer, byteOffset } = given;
    if (byteOffset % (scalarBits[memory.scalar] / 8) !== 0) {
      const aligned = new Uint8Array(buffer, byteOffset, size).slice();
      if (memory.access !== 'read') copyBack.push(() => new Uint8Array(given.buffer, given.byteOffset).set(aligned));
      buffer = aligned.buffer;
      byteOffset = 0;
    }
    const view = new viewTypes[memory.scalar](buffer as ArrayBuffer, byteOffset, memory.length);
    const races = checkRaces && memory.access !== 'read' ? new RaceDetector(kernel.name, memory) : undefined;
    byMemory.set(memory, { memory, view, stride: 0, races });
  }
  for (const memory of kernel.arrays) {
    const copies = memory.space === 'private' ? frames : 1;
    const view = new viewTypes[memory.scalar](memory.length * copies);
    const races = checkRaces && memory.space === 'shared' ? new RaceDetector(kernel.name, memory) : undefined;
    byMemory.set(memory, { memory, view, stride: copies > 1 ? memory.length : 0, races });
  }
  return { byMemory, copyBack };
}

class Machine {
  readonly #kernel: KernelFunction;
  readonly #memories: ReadonlyMap<KMemory, Memory>;
  readonly #options: InterpretOptions;
  readonly #slots = new Map<KValue, number>();
  readonly #constants: {
    readonly slot: number;
    readonly lanes: number;
    readonly value: number | bigint;
    readonly scalar: ScalarType;
  }[] = [];
  readonly #scalars: readonly number[];
  readonly #frames: number;
  readonly #lockstep: boolean;
  readonly #code: Code;
  readonly #frameSize: number;
  /** The register file: the same bits as doubles and as 64-bit integers. */
  readonly #registers: Registers;
  readonly #workgroup = new Int32Array(3);
  #nextSlot = firstFreeSlot;
  /** Counts barriers and workgroups: accesses in different epochs of one workgroup are ordered. */
  #epoch = 0;

  constructor(
    kernel: KernelFunction,
    memories: ReadonlyMap<KMemory, Memory>,
    scalars: readonly number[],
    frames: number,
    options: InterpretOptions,
  ) {
    this.#kernel = kernel;
    this.#memories = memories;
    this.#options = options;
    this.#scalars = scalars;
    this.#frames = frames;
    this.#lockstep = hasSync(kernel.body);
    // Slots first, so that closures can capture a register file of the right size.
    this.#allocate();
    this.#frameSize = this.#nextSlot;
    this.#registers = new Registers(this.#frameSize * frames);
    this.#code = this.#block(kernel.body);
  }

  runGrid(): void {
    const { grid, workgroup } = this.#kernel;
    const f = this.#registers.f;
    const size = this.#frameSize;
    const invocations = workgroup[0] * workgroup[1] * workgroup[2];
    const subgroupSize = this.#kernel.subgroupSize ?? 1;
    const bases = Array.from({ length: this.#frames }, (_, i) => i * size);
    for (const base of bases) this.#initializeFrame(base);
    const setLocal = (base: number, linear: number): void => {
      f[base + localIdSlot] = linear % workgroup[0];
      f[base + localIdSlot + 1] = Math.floor(linear / workgroup[0]) % workgroup[1];
      f[base + localIdSlot + 2] = Math.floor(linear / (workgroup[0] * workgroup[1]));
      f[base + linearIdSlot] = linear;
      f[base + laneSlot] = linear % subgroupSize;
      f[base + subgroupSizeSlot] = subgroupSize;
    };
    if (this.#lockstep) for (const [linear, base] of bases.entries()) setLocal(base, linear);
    const shared = [...this.#memories.values()].filter(
      ({ memory }) => memory.kind === 'array' && memory.space === 'shared',
    );
    const own = [...this.#memories.values()].filter(
      ({ memory }) => memory.kind === 'array' && memory.space === 'private',
    );
    const tracked = [...this.#memories.values()].flatMap(({ races }) => (races ? [races] : []));
    const code = this.#code;
    for (let z = 0; z < grid[2]; z++) {
      for (let y = 0; y < grid[1]; y++) {
        for (let x = 0; x < grid[0]; x++) {
          this.#workgroup.set([x, y, z]);
          this.#epoch++;
          for (const races of tracked) races.beginWorkgroup(this.#epoch);
          for (const { view } of shared) poison(view);
          for (const base of bases) f.set(this.#workgroup, base + workgroupIdSlot);
          if (code.sync) {
            for (const { view } of own) poison(view);
            code.run(bases);
            continue;
          }
          for (let linear = 0; linear < invocations; linear++) {
            setLocal(0, linear);
            for (const { view } of own) poison(view);
            code.run(0);
          }
        }
      }
    }
  }

  #initializeFrame(base: number): void {
    const { f, i } = this.#registers;
    for (const { slot, lanes, value, scalar } of this.#constants) {
      for (let lane = 0; lane < lanes; lane++) {
        if (isBig(scalar)) i[base + slot + lane] = BigInt(value);
        else f[base + slot + lane] = normalizers[scalar](Number(value));
      }
    }
  }

  // --- Slots ---

  #allocate(): void {
    const scalarParams = this.#kernel.params.filter((param) => param.kind === 'scalar');
    if (scalarParams.length !== this.#scalars.length) {
      throw new Error(
        `kernel ${this.#kernel.name} has ${scalarParams.length} scalar parameters, got ${this.#scalars.length}`,
      );
    }
    const paramSlots = new Map<KParam, number>();
    for (const [i, param] of scalarParams.entries()) {
      const slot = this.#nextSlot++;
      paramSlots.set(param, slot);
      this.#constants.push({ slot, lanes: 1, value: this.#scalars[i], scalar: param.scalar });
    }
    const define = (value: KValue): number => {
      const slot = this.#nextSlot;
      this.#slots.set(value, slot);
      this.#nextSlot += value.type.lanes;
      return slot;
    };
    const visit = (block: KBlock): void => {
      for (const inst of block.instructions) {
        switch (inst.op) {
          case 'const':
            this.#constants.push({ slot: define(inst.result), value: inst.value, ...inst.result.type });
            break;
          case 'scalar': {
            const slot = paramSlots.get(inst.param);
            if (slot === undefined) throw new Error(`kernel ${this.#kernel.name}: ${inst.param.name} is no parameter`);
            this.#slots.set(inst.result, slot);
            break;
          }
          case 'builtin':
            this.#slots.set(inst.result, builtinSlot(inst));
            break;
          case 'for':
          case 'loop':
            if (inst.op === 'for') define(inst.index);
            for (const { inner, result } of inst.carried) {
              define(inner);
              define(result);
            }
            visit(inst.body);
            break;
          case 'if':
            for (const result of inst.results) define(result);
            visit(inst.then);
            visit(inst.else);
            break;
          case 'store':
          case 'barrier':
            break;
          default:
            define(inst.result);
        }
      }
    };
    for (const helper of this.#kernel.helpers) {
      for (const param of helper.params) define(param);
      visit(helper.body);
    }
    visit(this.#kernel.body);
    // Scratch for values that change places in a loop's carried list.
    this.#scratch = this.#nextSlot;
    this.#nextSlot += widestCarried(this.#kernel.body);
    for (const helper of this.#kernel.helpers) this.#nextSlot += widestCarried(helper.body);
  }
  #scratch = 0;

  #slot(value: KValue): number {
    const slot = this.#slots.get(value);
    if (slot === undefined) throw new Error(`kernel ${this.#kernel.name}: value ${value.id} has no definition`);
    return slot;
  }

  // --- Blocks and control flow ---

  #block(block: KBlock): Code {
    const parts: Code[] = [];
    let plain: Op[] = [];
    const flush = (): void => {
      if (plain.length > 0) parts.push({ sync: false, run: sequence(plain) });
      plain = [];
    };
    for (const inst of block.instructions) {
      const code = this.#instruction(inst);
      if (code === undefined) continue;
      if (code.sync) {
        flush();
        parts.push(code);
      } else {
        plain.push(this.#options.checkRanges ? this.#checkRange(inst, code.run) : code.run);
      }
    }
    flush();
    if (parts.length === 0) return { sync: false, run: () => {} };
    if (parts.length === 1) return parts[0];
    return {
      sync: true,
      run: (active) => {
        for (const part of parts) {
          if (part.sync) part.run(active);
          else for (const base of active) part.run(base);
        }
      },
    };
  }

  #instruction(inst: KInst): Code | undefined {
    const plain = (run: Op): Code => ({ sync: false, run });
    switch (inst.op) {
      case 'const':
      case 'scalar':
      case 'builtin':
        return undefined;
      case 'unary':
        return plain(this.#unary(inst));
      case 'binary':
        return plain(this.#binary(inst));
      case 'fma':
        return plain(this.#fma(inst));
      case 'compare':
        return plain(this.#compare(inst));
      case 'select':
        return plain(this.#select(inst));
      case 'convert':
        return plain(this.#convert(inst));
      case 'bitcast':
        return plain(this.#bitcast(inst));
      case 'splat': {
        const from = this.#slot(inst.a);
        const copies = Array.from({ length: inst.result.type.lanes }, (_, lane) =>
          this.#move(inst.a, from, this.#slot(inst.result) + lane, 1),
        );
        return plain(sequence(copies));
      }
      case 'extract':
        return plain(this.#move(inst.a, this.#slot(inst.a) + inst.lane, this.#slot(inst.result), 1));
      case 'build':
        return plain(
          sequence(
            inst.elements.map((value, lane) => this.#move(value, this.#slot(value), this.#slot(inst.result) + lane, 1)),
          ),
        );
      case 'assume':
        return plain(this.#assume(inst));
      case 'load':
      case 'store':
      case 'atomic':
      case 'atomic_compare_exchange':
        return plain(this.#access(inst));
      case 'subgroup':
        return { sync: true, run: this.#subgroup(inst) };
      case 'call':
        return plain(this.#call(inst));
      case 'for':
        return this.#for(inst);
      case 'loop':
        return this.#loop(inst);
      case 'if':
        return this.#if(inst);
      case 'barrier':
        return {
          sync: true,
          run: (active) => {
            if (active.length !== this.#frames) {
              throw new Error(
                `kernel ${this.#kernel.name}: barrier reached by ${active.length} of ${this.#frames} invocations`,
              );
            }
            this.#epoch++;
          },
        };
      default:
        return inst satisfies never;
    }
  }

  #for(inst: KInst & { op: 'for' }): Code {
    const { f, i: big } = this.#registers;
    const index = this.#slot(inst.index);
    const lower = this.#slot(inst.lower);
    const upper = this.#slot(inst.upper);
    const { step } = inst;
    const enter = this.#moves(inst.carried.map(({ initial, inner }) => [initial, inner]));
    const next = this.#moves(inst.carried.map(({ inner }, k) => [inst.body.yields[k], inner]));
    const leave = this.#moves(inst.carried.map(({ inner, result }) => [inner, result]));
    const body = this.#block(inst.body);
    const isBigIndex = isBig(inst.index.type.scalar);
    const read = (slot: number): number => (isBigIndex ? Number(big[slot]) : f[slot]);
    const write = (slot: number, value: number): void => {
      if (isBigIndex) big[slot] = BigInt(value);
      else f[slot] = value;
    };
    if (!body.sync) {
      return {
        sync: false,
        run: (base) => {
          enter(base);
          const end = read(base + upper);
          for (let at = read(base + lower); at < end; at += step) {
            write(base + index, at);
            body.run(base);
            next(base);
          }
          leave(base);
        },
      };
    }
    return {
      sync: true,
      run: (active) => {
        let running = active.slice();
        for (const base of active) {
          enter(base);
          write(base + index, read(base + lower));
        }
        for (;;) {
          running = running.filter((base) => read(base + index) < read(base + upper));
          if (running.length === 0) break;
          body.run(running);
          for (const base of running) {
            next(base);
            write(base + index, read(base + index) + step);
          }
        }
        for (const base of active) leave(base);
      },
    };
  }

  #loop(inst: KInst & { op: 'loop' }): Code {
    const { f } = this.#registers;
    const condition = this.#slot(inst.condition);
    const enter = this.#moves(inst.carried.map(({ initial, inner }) => [initial, inner]));
    const next = this.#moves(inst.carried.map(({ inner }, k) => [inst.body.yields[k], inner]));
    const leave = this.#moves(inst.carried.map(({ inner, result }) => [inner, result]));
    const body = this.#block(inst.body);
    /** Steps the carried values; whether the loop goes on (the condition may itself be a carried value). */
    const step = (base: number): boolean => {
      const again = f[base + condition] !== 0;
      next(base);
      return again;
    };
    if (!body.sync) {
      return {
        sync: false,
        run: (base) => {
          enter(base);
          do body.run(base);
          while (step(base));
          leave(base);
        },
      };
    }
    return {
      sync: true,
      run: (active) => {
        for (const base of active) enter(base);
        let running: readonly number[] = active;
        while (running.length > 0) {
          body.run(running);
          running = running.filter(step);
        }
        for (const base of active) leave(base);
      },
    };
  }

  #if(inst: KInst & { op: 'if' }): Code {
    const { f } = this.#registers;
    const condition = this.#slot(inst.condition);
    const branch = (block: KBlock) => ({
      code: this.#block(block),
      leave: this.#moves(inst.results.map((result, k) => [block.yields[k], result])),
    });
    const yes = branch(inst.then);
    const no = branch(inst.else);
    if (!yes.code.sync && !no.code.sync) {
      const thenRun = sequence([yes.code.run, yes.leave]);
      const elseRun = sequence([no.code.run, no.leave]);
      return { sync: false, run: (base) => (f[base + condition] !== 0 ? thenRun(base) : elseRun(base)) };
    }
    const run = ({ code, leave }: typeof yes, active: readonly number[]): void => {
      if (active.length === 0) return;
      if (code.sync) code.run(active);
      else for (const base of active) code.run(base);
      for (const base of active) leave(base);
    };
    return {
      sync: true,
      run: (active) => {
        const taken = active.filter((base) => f[base + condition] !== 0);
        const rest = active.filter((base) => f[base + condition] === 0);
        run(yes, taken);
        run(no, rest);
      },
    };
  }

  #call(inst: KInst & { op: 'call' }): Op {
    const { callee } = inst;
    const body = this.#block(callee.body);
    if (body.sync) throw new Error(`kernel ${this.#kernel.name}: helper ${callee.name} is not pure`);
    const enter = this.#moves(callee.params.map((param, k) => [inst.args[k], param]));
    const leave = this.#moves([[callee.body.yields[0], inst.result]]);
    return sequence([enter, body.run, leave]);
  }

  // --- Moves ---

  #move(value: KValue, from: number, to: number, lanes: number): Op {
    const { f, i } = this.#registers;
    const big = isBig(value.type.scalar);
    if (lanes > 1)
      return sequence(Array.from({ length: lanes }, (_, lane) => this.#move(value, from + lane, to + lane, 1)));
    return big
      ? (base) => {
          i[base + to] = i[base + from];
        }
      : (base) => {
          f[base + to] = f[base + from];
        };
  }

  /** All the copies at once: through scratch where a source is also a target. */
  #moves(pairs: readonly (readonly [KValue, KValue])[]): Op {
    const copies = pairs.filter(([from, to]) => from !== to);
    const targets = new Set(copies.map(([, to]) => to));
    const direct: Op[] = [];
    const save: Op[] = [];
    const restore: Op[] = [];
    let scratch = this.#scratch;
    for (const [from, to] of copies) {
      const { lanes } = from.type;
      if (targets.has(from)) {
        save.push(this.#move(from, this.#slot(from), scratch, lanes));
        restore.push(this.#move(from, scratch, this.#slot(to), lanes));
        scratch += lanes;
      } else {
        direct.push(this.#move(from, this.#slot(from), this.#slot(to), lanes));
      }
    }
    return sequence([...save, ...direct, ...restore]);
  }

  // --- Arithmetic ---

  #unary(inst: KInst & { op: 'unary' }): Op {
    const { f, i, u } = this.#registers;
    const { scalar, lanes } = inst.a.type;
    const a = this.#slot(inst.a);
    const r = this.#slot(inst.result);
    if (isBig(scalar)) {
      const apply = unaryBig(inst.fn, scalar);
      const bits = scalar === 'i64' ? i : u;
      return perLane(lanes, (lane) => (base) => {
        bits[base + r + lane] = apply(bits[base + a + lane]);
      });
    }
    const apply = unaryNumber(inst.fn, scalar);
    return perLane(lanes, (lane) => (base) => {
      f[base + r + lane] = apply(f[base + a + lane]);
    });
  }

  #binary(inst: KInst & { op: 'binary' }): Op {
    const { f, i, u } = this.#registers;
    const { scalar, lanes } = inst.a.type;
    const a = this.#slot(inst.a);
    const b = this.#slot(inst.b);
    const r = this.#slot(inst.result);
    if (isBig(scalar)) {
      const apply = binaryBig(inst.fn, scalar);
      const bits = scalar === 'i64' ? i : u;
      return perLane(lanes, (lane) => (base) => {
        bits[base + r + lane] = apply(bits[base + a + lane], bits[base + b + lane]);
      });
    }
    const generic = binaryNumber(inst.fn, scalar);
    return perLane(lanes, (lane) => binaryOp(f, inst.fn, scalar, generic, r + lane, a + lane, b + lane));
  }

  #fma(inst: KInst & { op: 'fma' }): Op {
    const { f } = this.#registers;
    const apply = fusedNumber(inst.a.type.scalar);
    const [a, b, c, r] = [inst.a, inst.b, inst.c, inst.result].map((value) => this.#slot(value));
    return perLane(inst.a.type.lanes, (lane) => (base) => {
      const at = base + lane;
      f[at + r] = apply(f[at + a], f[at + b], f[at + c]);
    });
  }

  #compare(inst: KInst & { op: 'compare' }): Op {
    const { f, i, u } = this.#registers;
    const { scalar, lanes } = inst.a.type;
    const [a, b, r] = [inst.a, inst.b, inst.result].map((value) => this.#slot(value));
    const apply = comparisons[inst.fn];
    if (isBig(scalar)) {
      const bits = scalar === 'i64' ? i : u;
      return perLane(lanes, (lane) => (base) => {
        f[base + r + lane] = apply(bits[base + a + lane], bits[base + b + lane]);
      });
    }
    if (inst.fn === 'lt')
      return perLane(lanes, (lane) => (base) => {
        f[base + r + lane] = f[base + a + lane] < f[base + b + lane] ? 1 : 0;
      });
    return perLane(lanes, (lane) => (base) => {
      f[base + r + lane] = apply(f[base + a + lane], f[base + b + lane]);
    });
  }

  #select(inst: KInst & { op: 'select' }): Op {
    const { f, i } = this.#registers;
    const { scalar, lanes } = inst.result.type;
    const [c, a, b, r] = [inst.condition, inst.a, inst.b, inst.result].map((value) => this.#slot(value));
    const perLaneCondition = inst.condition.type.lanes > 1;
    return perLane(lanes, (lane) => {
      const condition = c + (perLaneCondition ? lane : 0);
      return isBig(scalar)
        ? (base) => {
            i[base + r + lane] = i[base + lane + (f[base + condition] !== 0 ? a : b)];
          }
        : (base) => {
            f[base + r + lane] = f[base + lane + (f[base + condition] !== 0 ? a : b)];
          };
    });
  }

  #convert(inst: KInst & { op: 'convert' }): Op {
    const { f, i, u } = this.#registers;
    const { scalar: from, lanes } = inst.a.type;
    const to = inst.result.type.scalar;
    const a = this.#slot(inst.a);
    const r = this.#slot(inst.result);
    const source = from === 'u64' ? u : i;
    const target = to === 'u64' ? u : i;
    const op = conversion(from, to);
    return perLane(lanes, (lane) => {
      switch (op.kind) {
        case 'number':
          return (base) => {
            f[base + r + lane] = op.apply(f[base + a + lane]);
          };
        case 'toBig':
          return (base) => {
            target[base + r + lane] = op.apply(f[base + a + lane]);
          };
        case 'fromBig':
          return (base) => {
            f[base + r + lane] = op.apply(source[base + a + lane]);
          };
        case 'big':
          return (base) => {
            target[base + r + lane] = op.apply(source[base + a + lane]);
          };
        default:
          return op satisfies never;
      }
    });
  }

  #bitcast(inst: KInst & { op: 'bitcast' }): Op {
    const bytes = new ArrayBuffer((scalarBits[inst.a.type.scalar] / 8) * inst.a.type.lanes);
    const source = new viewTypes[inst.a.type.scalar](bytes);
    const target = new viewTypes[inst.result.type.scalar](bytes);
    const write = this.#writer(inst.a.type.scalar, source);
    const read = this.#reader(inst.result.type.scalar, target);
    const a = this.#slot(inst.a);
    const r = this.#slot(inst.result);
    const inLanes = inst.a.type.lanes;
    const outLanes = inst.result.type.lanes;
    return (base) => {
      for (let lane = 0; lane < inLanes; lane++) write(lane, base + a + lane);
      for (let lane = 0; lane < outLanes; lane++) read(lane, base + r + lane);
    };
  }

  #assume(inst: KInst & { op: 'assume' }): Op {
    const { range } = inst.result;
    const move = this.#move(inst.a, this.#slot(inst.a), this.#slot(inst.result), inst.a.type.lanes);
    if (range === undefined) return move;
    const check = this.#rangeCheck(inst.result, 'assume');
    return (base) => {
      move(base);
      check(base);
    };
  }

  #rangeCheck(value: KValue, what: string): Op {
    const { f, i, u } = this.#registers;
    const range = value.range!;
    const { scalar, lanes } = value.type;
    const slot = this.#slot(value);
    const bits = scalar === 'u64' ? u : i;
    return perLane(lanes, (lane) => (base) => {
      const found = isBig(scalar) ? bits[base + slot + lane] : f[base + slot + lane];
      if (found < range.min || found > range.max) {
        throw new Error(
          `kernel ${this.#kernel.name}: ${what} %${value.id} is ${found}, not in [${range.min}, ${range.max}] ${this.#where(base)}`,
        );
      }
    });
  }

  #checkRange(inst: KInst, run: Op): Op {
    if (!('result' in inst) || inst.result.range === undefined || !isIntScalar(inst.result.type.scalar)) return run;
    return sequence([run, this.#rangeCheck(inst.result, `${inst.op} result`)]);
  }

  // --- Memory ---

  /** Copies element `at` of `view` into a register. */
  #reader(scalar: ScalarType, view: MemoryView): (at: number, slot: number) => void {
    const { f, i, u } = this.#registers;
    if (view instanceof BigInt64Array || view instanceof BigUint64Array) {
      const bits = scalar === 'i64' ? i : u;
      return (at, slot) => {
        bits[slot] = view[at];
      };
    }
    switch (scalar) {
      case 'f16':
        return (at, slot) => {
          f[slot] = f16ToF32(view[at]);
        };
      case 'bf16':
        return (at, slot) => {
          f[slot] = bf16ToF32(view[at]);
        };
      case 'bool':
        return (at, slot) => {
          f[slot] = view[at] !== 0 ? 1 : 0;
        };
      case 'f32': {
        // Own closures for the common types keep the property access monomorphic.
        const floats = view as Float32Array;
        return (at, slot) => {
          f[slot] = floats[at];
        };
      }
      default:
        return (at, slot) => {
          f[slot] = view[at];
        };
    }
  }

  /** Copies a register into element `at` of `view`. */
  #writer(scalar: ScalarType, view: MemoryView): (at: number, slot: number) => void {
    const { f, i, u } = this.#registers;
    if (view instanceof BigInt64Array || view instanceof BigUint64Array) {
      const bits = scalar === 'i64' ? i : u;
      return (at, slot) => {
        view[at] = bits[slot];
      };
    }
    switch (scalar) {
      case 'f16':
        return (at, slot) => {
          view[at] = f32ToF16(f[slot]);
        };
      case 'bf16':
        return (at, slot) => {
          view[at] = f32ToBf16(f[slot]);
        };
      case 'f32': {
        const floats = view as Float32Array;
        return (at, slot) => {
          floats[at] = f[slot];
        };
      }
      default:
        return (at, slot) => {
          view[at] = f[slot];
        };
    }
  }

  #access(inst: KInst & { op: 'load' | 'store' | 'atomic' | 'atomic_compare_exchange' }): Op {
    const { f, i } = this.#registers;
    const bound = this.#memories.get(inst.memory);
    if (bound === undefined) throw new Error(`kernel ${this.#kernel.name}: memory ${inst.memory.name} is not declared`);
    const { memory, view, stride, races } = bound;
    const isWrite = inst.op !== 'load';
    const isAtomic = inst.op === 'atomic' || inst.op === 'atomic_compare_exchange';
    if (memory.kind === 'buffer' && (isWrite ? memory.access === 'read' : memory.access === 'write')) {
      throw new Error(`kernel ${this.#kernel.name}: ${inst.op} on ${memory.access} buffer ${memory.name}`);
    }
    const lanes = inst.op === 'load' ? inst.result.type.lanes : inst.op === 'store' ? inst.value.type.lanes : 1;
    const index = this.#slot(inst.index);
    const bigIndex = isBig(inst.index.type.scalar);
    const { length } = memory;
    const check = this.#options.checkBounds !== false;
    const mustAlign = lanes > 1 && (inst.op === 'load' || inst.op === 'store') && inst.aligned;
    const perform = this.#element(inst, view, lanes);
    const run = (base: number): void => {
      const at = bigIndex ? Number(i[base + index]) : f[base + index];
      if (check) {
        if (at < 0 || at + lanes > length) this.#outOfBounds(inst.op, memory, at, lanes, base);
        if (mustAlign && at % lanes !== 0) {
          throw new Error(
            `kernel ${this.#kernel.name}: ${inst.op} of ${memory.name}[${at}] is not aligned to ${lanes} elements`,
          );
        }
      }
      perform(base, stride === 0 ? at : at + f[base + linearIdSlot] * stride);
    };
    if (races === undefined) return run;
    return (base) => {
      const at = bigIndex ? Number(i[base + index]) : f[base + index];
      if (at >= 0 && at + lanes <= length) {
        const kind = isAtomic ? 'atomic' : isWrite ? 'write' : 'read';
        for (let lane = 0; lane < lanes; lane++) races.access(kind, at + lane, f[base + linearIdSlot], this.#epoch);
      }
      run(base);
    };
  }

  /** The access itself, at an element of the view that was checked. */
  #element(
    inst: KInst & { op: 'load' | 'store' | 'atomic' | 'atomic_compare_exchange' },
    view: MemoryView,
    lanes: number,
  ): (base: number, at: number) => void {
    const { scalar } = inst.memory;
    const read = this.#reader(scalar, view);
    const write = this.#writer(scalar, view);
    if (inst.op === 'load') {
      const r = this.#slot(inst.result);
      if (lanes === 1) return (base, at) => read(at, base + r);
      return (base, at) => {
        for (let lane = 0; lane < lanes; lane++) read(at + lane, base + r + lane);
      };
    }
    const value = this.#slot(inst.value);
    if (inst.op === 'store') {
      if (lanes === 1) return (base, at) => write(at, base + value);
      return (base, at) => {
        for (let lane = 0; lane < lanes; lane++) write(at + lane, base + value + lane);
      };
    }
    const { f, i, u } = this.#registers;
    const bits = scalar === 'i64' ? i : u;
    const r = this.#slot(inst.result);
    // The new value is made in scratch, for writing may convert.
    const scratch = this.#scratch;
    if (inst.op === 'atomic_compare_exchange') {
      const expected = this.#slot(inst.expected);
      const registers = isBig(scalar) ? bits : f;
      return (base, at) => {
        read(at, base + r);
        if (registers[base + r] === registers[base + expected]) write(at, base + value);
      };
    }
    if (inst.fn === 'exchange') {
      return (base, at) => {
        read(at, base + r);
        write(at, base + value);
      };
    }
    if (isBig(scalar)) {
      const apply = binaryBig(inst.fn, scalar);
      return (base, at) => {
        read(at, base + r);
        bits[base + scratch] = apply(bits[base + r], bits[base + value]);
        write(at, base + scratch);
      };
    }
    const apply = binaryNumber(inst.fn, scalar);
    return (base, at) => {
      read(at, base + r);
      f[base + scratch] = apply(f[base + r], f[base + value]);
      write(at, base + scratch);
    };
  }

  #where(base: number): string {
    const f = this.#registers.f;
    const local = [0, 1, 2].map((dim) => f[base + localIdSlot + dim]);
    return `(workgroup ${this.#workgroup.join(',')}, invocation ${local.join(',')})`;
  }

  #outOfBounds(op: string, memory: KMemory, index: number, lanes: number, base: number): never {
    const what = lanes === 1 ? `index ${index}` : `indices ${index} to ${index + lanes - 1}`;
    throw new Error(
      `kernel ${this.#kernel.name}: ${op} of ${memory.name} out of bounds: ${what}, length ${memory.length} ${this.#where(base)}`,
    );
  }

  // --- Subgroups ---

  /** Reductions go over the active lanes of a subgroup in ascending order. */
  #subgroup(inst: KInst & { op: 'subgroup' }): (active: readonly number[]) => void {
    const size = this.#kernel.subgroupSize;
    if (size === undefined) throw new Error(`kernel ${this.#kernel.name}: subgroup op without subgroupSize`);
    const { f, i, u } = this.#registers;
    const { scalar, lanes } = inst.a.type;
    const a = this.#slot(inst.a);
    const r = this.#slot(inst.result);
    const { fn, delta } = inst;
    const registers = scalar === 'i64' ? i : scalar === 'u64' ? u : f;
    const undefinedValue = isBig(scalar)
      ? wrapBig(scalar)(-1n)
      : isIntScalar(scalar)
        ? normalizers[scalar](-1)
        : scalar === 'bool'
          ? 1
          : Number.NaN;
    const combine = (
      fn === 'add' || fn === 'min' || fn === 'max'
        ? isBig(scalar)
          ? binaryBig(fn, scalar)
          : binaryNumber(fn, scalar)
        : undefined
    ) as ((x: number | bigint, y: number | bigint) => number | bigint) | undefined;
    return (active) => {
      const groups = new Map<number, number[]>();
      for (const base of active) {
        const key = Math.floor(f[base + linearIdSlot] / size);
        const members = groups.get(key);
        if (members) members.push(base);
        else groups.set(key, [base]);
      }
      for (const members of groups.values()) {
        for (let k = 0; k < lanes; k++) {
          const values = members.map((base) => registers[base + a + k]);
          const byLane = new Map(members.map((base, at) => [f[base + laneSlot], values[at]]));
          const total = combine ? values.reduce((x, y) => combine(x, y)) : undefined;
          for (const base of members) {
            const lane = f[base + laneSlot];
            const value =
              total ??
              (fn === 'broadcast_first' ? values[0] : byLane.get(fn === 'shuffle_xor' ? lane ^ delta : lane + delta)) ??
              undefinedValue;
            (registers as { [at: number]: number | bigint })[base + r + k] = value;
          }
        }
      }
    };
  }
}

class Registers {
  readonly f: Float64Array;
  readonly i: BigInt64Array;
  readonly u: BigUint64Array;
  constructor(length: number) {
    this.f = new Float64Array(length);
    this.i = new BigInt64Array(this.f.buffer);
    this.u = new BigUint64Array(this.f.buffer);
  }
}

function builtinSlot({ builtin, dim }: KInst & { op: 'builtin' }): number {
  switch (builtin) {
    case 'local_id':
      return localIdSlot + dim;
    case 'workgroup_id':
      return workgroupIdSlot + dim;
    case 'subgroup_lane':
      return laneSlot;
    case 'subgroup_size':
      return subgroupSizeSlot;
    default:
      return builtin satisfies never;
  }
}

/** Registers that the carried values and results of any one instruction take, at least one. */
function widestCarried(block: KBlock): number {
  let widest = 1;
  const width = (values: readonly KValue[]): number => values.reduce((sum, value) => sum + value.type.lanes, 0);
  for (const inst of block.instructions) {
    if (inst.op === 'for' || inst.op === 'loop') {
      widest = Math.max(widest, width(inst.carried.map(({ inner }) => inner)), widestCarried(inst.body));
    } else if (inst.op === 'if') {
      widest = Math.max(widest, widestCarried(inst.then), widestCarried(inst.else));
    } else if (inst.op === 'call') {
      widest = Math.max(widest, width(inst.args));
    }
  }
  return widest;
}

function sequence(ops: readonly Op[]): Op {
  switch (ops.length) {
    case 0:
      return () => {};
    case 1:
      return ops[0];
    case 2: {
      const [first, second] = ops;
      return (base) => {
        first(base);
        second(base);
      };
    }
    default:
      return (base) => {
        for (let k = 0; k < ops.length; k++) ops[k](base);
      };
  }
}

const perLane = (lanes: number, make: (lane: number) => Op): Op =>
  sequence(Array.from({ length: lanes }, (_, lane) => make(lane)));

/** Inline forms of the ops that kernels spend their time in; the rest go through `generic`. */
function binaryOp(
  f: Float64Array,
  fn: string,
  scalar: ScalarType,
  generic: NumberFn2,
  r: number,
  a: number,
  b: number,
): Op {
  switch (`${fn} ${scalar}`) {
    case 'add f32':
      return (base) => {
        f[base + r] = Math.fround(f[base + a] + f[base + b]);
      };
    case 'sub f32':
      return (base) => {
        f[base + r] = Math.fround(f[base + a] - f[base + b]);
      };
    case 'mul f32':
      return (base) => {
        f[base + r] = Math.fround(f[base + a] * f[base + b]);
      };
    case 'add i32':
      return (base) => {
        f[base + r] = (f[base + a] + f[base + b]) | 0;
      };
    case 'mul i32':
      return (base) => {
        f[base + r] = Math.imul(f[base + a], f[base + b]);
      };
    case 'add u32':
      return (base) => {
        f[base + r] = (f[base + a] + f[base + b]) >>> 0;
      };
    case 'mul u32':
      return (base) => {
        f[base + r] = Math.imul(f[base + a], f[base + b]) >>> 0;
      };
    default:
      return (base) => {
        f[base + r] = generic(f[base + a], f[base + b]);
      };
  }
}

/** All bits set: NaN in every float type, so that reading undefined contents shows. */
function poison(view: MemoryView): void {
  new Uint8Array(view.buffer, view.byteOffset, view.byteLength).fill(0xff);
}
