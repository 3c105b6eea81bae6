/**
 * What one invocation has while a kernel is interpreted: a frame of registers, a slot in it for every value, and ways
 * to move values between slots. All code that the interpreter compiles is closures over one `Frame`.
 */
import { isBig, normalizers } from '../semantics.js';
import type { KBlock, KernelFunction, KInst, KParam, KValue, ScalarType } from '../types.js';

/** Runs for one invocation, given by where its registers begin. */
export type Op = (base: number) => void;
/**
 * `sync` code holds barriers or subgroup ops and runs for a set of invocations, given by their register bases; it yields
 * while the set must wait for others.
 */
export type Code =
  | { readonly sync: false; readonly run: Op }
  | { readonly sync: true; readonly run: (active: readonly number[]) => Iterable<void> };

/** Fixed registers at the start of each invocation's frame. */
export const localIdSlot = 0;
export const workgroupIdSlot = 3;
export const linearIdSlot = 6;
export const laneSlot = 7;
export const subgroupSizeSlot = 8;
const firstFreeSlot = 9;

/** The register file: the same bits as doubles and as 64-bit integers. */
export class Registers {
  readonly f: Float64Array;
  readonly i: BigInt64Array;
  readonly u: BigUint64Array;
  constructor(length: number) {
    this.f = new Float64Array(length);
    this.i = new BigInt64Array(this.f.buffer);
    this.u = new BigUint64Array(this.f.buffer);
  }
}

interface Constant {
  readonly slot: number;
  readonly lanes: number;
  readonly value: number | bigint;
  readonly scalar: ScalarType;
}

export class Frame {
  readonly registers: Registers;
  /** Registers of one invocation. */
  readonly size: number;
  /** Room for values that change places in a loop's carried list. */
  readonly scratch: number;
  readonly workgroup = new Int32Array(3);
  /** Counts barriers and workgroups: accesses in different epochs of one workgroup are ordered. */
  epoch = 0;
  readonly #slots = new Map<KValue, number>();
  readonly #constants: Constant[] = [];
  #nextSlot = firstFreeSlot;

  /** `count` frames: as many as invocations of a workgroup run in lockstep, else one. */
  constructor(
    readonly kernel: KernelFunction,
    scalars: readonly number[],
    readonly count: number,
  ) {
    // Slots first, so that closures can capture a register file of the right size.
    this.#allocate(scalars);
    this.scratch = this.#nextSlot;
    this.size = [kernel.body, ...kernel.helpers.map(({ body }) => body)].reduce(
      (size, block) => size + widestCarried(block),
      this.scratch,
    );
    this.registers = new Registers(this.size * count);
  }

  /** Writes the constants and scalar parameters, which never change, into a frame. */
  initialize(base: number): void {
    const { f, i } = this.registers;
    for (const { slot, lanes, value, scalar } of this.#constants) {
      for (let lane = 0; lane < lanes; lane++) {
        if (isBig(scalar)) i[base + slot + lane] = BigInt(value);
        else f[base + slot + lane] = normalizers[scalar](Number(value));
      }
    }
  }

  #allocate(scalars: readonly number[]): void {
    const scalarParams = this.kernel.params.filter((param) => param.kind === 'scalar');
    if (scalarParams.length !== scalars.length) {
      throw new Error(`kernel ${this.kernel.name} has ${scalarParams.length} scalar parameters, got ${scalars.length}`);
    }
    const paramSlots = new Map<KParam, number>();
    for (const [i, param] of scalarParams.entries()) {
      const slot = this.#nextSlot++;
      paramSlots.set(param, slot);
      const { range = { min: -Infinity, max: Infinity } } = param;
      if (scalars[i] < range.min || scalars[i] > range.max)
        throw new Error(`${param.name} of kernel ${this.kernel.name} is ${scalars[i]}, out of its range`);
      this.#constants.push({ slot, lanes: 1, value: scalars[i], scalar: param.scalar });
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
            if (slot === undefined) throw new Error(`kernel ${this.kernel.name}: ${inst.param.name} is no parameter`);
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
          default:
            if ('result' in inst) define(inst.result);
        }
      }
    };
    for (const helper of this.kernel.helpers) {
      for (const param of helper.params) define(param);
      visit(helper.body);
    }
    visit(this.kernel.body);
  }

  slot(value: KValue): number {
    const slot = this.#slots.get(value);
    if (slot === undefined) throw new Error(`kernel ${this.kernel.name}: value ${value.id} has no definition`);
    return slot;
  }

  move(value: KValue, from: number, to: number, lanes: number): Op {
    const { f, i } = this.registers;
    const big = isBig(value.type.scalar);
    if (lanes > 1)
      return sequence(Array.from({ length: lanes }, (_, lane) => this.move(value, from + lane, to + lane, 1)));
    return big
      ? (base) => {
          i[base + to] = i[base + from];
        }
      : (base) => {
          f[base + to] = f[base + from];
        };
  }

  /** All the copies at once: through scratch where a source is also a target. */
  moves(pairs: readonly (readonly [KValue, KValue])[]): Op {
    const copies = pairs.filter(([from, to]) => from !== to);
    const targets = new Set(copies.map(([, to]) => to));
    const direct: Op[] = [];
    const save: Op[] = [];
    const restore: Op[] = [];
    let scratch = this.scratch;
    for (const [from, to] of copies) {
      const { lanes } = from.type;
      if (targets.has(from)) {
        save.push(this.move(from, this.slot(from), scratch, lanes));
        restore.push(this.move(from, scratch, this.slot(to), lanes));
        scratch += lanes;
      } else {
        direct.push(this.move(from, this.slot(from), this.slot(to), lanes));
      }
    }
    return sequence([...save, ...direct, ...restore]);
  }

  /** Names the invocation in an error. */
  where(base: number): string {
    const f = this.registers.f;
    const local = [0, 1, 2].map((dim) => f[base + localIdSlot + dim]);
    return `(workgroup ${this.workgroup.join(',')}, invocation ${local.join(',')})`;
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

export function sequence(ops: readonly Op[]): Op {
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

export const perLane = (lanes: number, make: (lane: number) => Op): Op =>
  sequence(Array.from({ length: lanes }, (_, lane) => make(lane)));
