/**
 * Proves by intervals that every access of a kernel is in bounds and that every claimed range and `assume` holds.
 * `bounds/` has what is known where: intervals, facts of conditions, loops' carried values (widened until inductive).
 */

import { type Environment, newEnvironment } from './bounds/environment.js';
import { Evaluator } from './bounds/evaluator.js';
import { type BulkInst, boxElements, groupExtent, isBulkInst, isTile } from './bulk.js';
import { Divisors } from './divisors.js';
import { type EngineInst, isEngineInst, tileExtent } from './engines.js';
import { isEmpty, show, within } from './intervals.js';
import {
  isIntScalar,
  type KBlock,
  type KernelFunction,
  type KInst,
  type KMemory,
  type KValue,
  scalarBits,
} from './types.js';
import { boxMultiple } from './verify/bulk.js';
import { bodyValuesOf, resultsOf } from './walk.js';

export type Report = (inst: KInst, message: string) => never;

/** Calls `report` (which throws) for the first access, range or assumption that cannot be shown. */
export function checkBounds(kernel: KernelFunction, report: Report): void {
  new Bounds(kernel, report).check();
}

class Bounds {
  readonly #kernel: KernelFunction;
  readonly #report: Report;
  readonly #values: Evaluator;
  readonly #divisors: Divisors;

  constructor(kernel: KernelFunction, report: Report) {
    this.#kernel = kernel;
    this.#report = report;
    this.#values = new Evaluator(kernel);
    this.#divisors = new Divisors(this.#values.definitions);
  }

  check(): void {
    const root = newEnvironment(undefined);
    for (const helper of this.#kernel.helpers) this.#block(helper.body, newEnvironment(root));
    this.#block(this.#kernel.body, root);
  }

  #block(block: KBlock, env: Environment): void {
    for (const inst of block.instructions) this.#instruction(inst, env);
  }

  #instruction(inst: KInst, env: Environment): void {
    if (isEngineInst(inst)) {
      this.#engine(inst, env);
      return;
    }
    switch (inst.op) {
      case 'for': {
        const body = this.#values.loopEnvironment(inst, env);
        this.#claims(inst, [inst.index, ...inst.carried.map(({ inner }) => inner)], body);
        if (!isEmpty(this.#values.interval(inst.index, body))) this.#block(inst.body, body);
        break;
      }
      case 'loop': {
        const body = this.#values.loopEnvironment(inst, env);
        this.#claims(inst, bodyValuesOf(inst), body);
        this.#block(inst.body, body);
        break;
      }
      case 'if':
        for (const [block, truth] of [
          [inst.then, true],
          [inst.else, false],
        ] as const) {
          const branch = this.#values.under(inst.condition, truth, env);
          if (branch !== undefined) this.#block(block, branch);
        }
        break;
      case 'load':
      case 'store':
      case 'atomic':
      case 'atomic_compare_exchange':
        this.#access(inst, env);
        break;
      case 'assume': {
        const known = this.#values.interval(inst.a, env);
        if (inst.result.range && !within(known, inst.result.range)) {
          this.#report(
            inst,
            `no enclosing condition implies this range; %${inst.a.id} is known to be in ${show(known)}`,
          );
        }
        return;
      }
      case 'binary':
        this.#operands(inst, env);
        break;
      default:
        break;
    }
    this.#claims(inst, resultsOf(inst), env);
  }

  #claims(inst: KInst, values: readonly KValue[], env: Environment): void {
    for (const value of values) {
      // Evaluated in any case: later environments start from it.
      const known = this.#values.interval(value, env);
      if (value.range !== undefined && !within(known, value.range)) {
        this.#report(inst, `range ${show(value.range)} of %${value.id} is not implied: it may be ${show(known)}`);
      }
    }
  }

  #operands(inst: KInst & { op: 'binary' }, env: Environment): void {
    if (!isIntScalar(inst.a.type.scalar)) return;
    const b = this.#values.interval(inst.b, env);
    if ((inst.fn === 'div' || inst.fn === 'rem') && b?.min === 0 && b.max === 0) this.#report(inst, 'division by zero');
    const bits = scalarBits[inst.a.type.scalar];
    if ((inst.fn === 'shl' || inst.fn === 'shr') && b && !isEmpty(b) && (b.min >= bits || b.max < 0)) {
      this.#report(inst, `shift amount is not in [0, ${bits})`);
    }
  }

  #access(inst: KInst & { op: 'load' | 'store' | 'atomic' | 'atomic_compare_exchange' }, env: Environment): void {
    const lanes = inst.op === 'load' ? inst.result.type.lanes : inst.value.type.lanes;
    const { memory, index } = inst;
    this.#extent(inst, memory, index, lanes, env);
    if ((inst.op === 'load' || inst.op === 'store') && inst.aligned) this.#multiple(inst, memory, index, lanes);
  }

  #engine(inst: EngineInst, env: Environment): void {
    if (isBulkInst(inst)) {
      this.#bulk(inst, env);
      return;
    }
    switch (inst.op) {
      case 'tile_load':
      case 'tile_store': {
        this.#extent(inst, inst.memory, inst.index, tileExtent(inst), env);
        if (!inst.aligned) return;
        const elements = (16 * 8) / scalarBits[inst.memory.scalar];
        this.#multiple(inst, inst.memory, inst.index, elements);
        if (inst.stride % elements !== 0) this.#report(inst, `stride ${inst.stride} is no multiple of ${elements}`);
        return;
      }
      case 'async_copy':
        for (const [memory, index] of [
          [inst.memory, inst.index],
          [inst.source, inst.from],
        ] as const) {
          this.#extent(inst, memory, index, inst.elements, env);
          this.#multiple(inst, memory, index, inst.elements);
        }
        return;
      case 'tile_fill':
      case 'tile_multiply':
      case 'tile_unpack':
      case 'tile_pack':
      case 'subgroup_barrier':
      case 'async_commit':
      case 'async_wait':
        return;
      default:
        inst satisfies never;
    }
  }

  #bulk(inst: BulkInst, env: Environment): void {
    switch (inst.op) {
      case 'signal_init':
      case 'signal_expect':
      case 'signal_arrive':
        this.#inside(inst, inst.signal.name, inst.signal.count, inst.index, 1, env);
        return;
      case 'signal_wait':
        this.#inside(inst, inst.signal.name, inst.signal.count, inst.index, 1, env);
        if (!within(this.#values.interval(inst.parity, env), { min: 0, max: 1 }))
          this.#report(inst, 'parity is not 0 or 1');
        return;
      case 'tensor_copy':
        this.#inside(inst, inst.signal.name, inst.signal.count, inst.signalIndex, 1, env);
        this.#extent(inst, inst.memory, inst.index, boxElements(inst.map), env);
        this.#multiple(inst, inst.memory, inst.index, boxMultiple(inst.map));
        return;
      case 'group_multiply': {
        const { accumulator, a, b } = inst;
        for (const [operand, rows] of [
          [a, accumulator.m],
          [b, accumulator.n],
        ] as const) {
          if (isTile(operand)) continue;
          this.#extent(inst, operand.memory, operand.index, groupExtent(operand, rows, accumulator.k), env);
          this.#multiple(inst, operand.memory, operand.index, accumulator.k);
        }
        return;
      }
      case 'group_fence':
      case 'group_commit':
      case 'group_wait':
      case 'registers':
        return;
      default:
        inst satisfies never;
    }
  }

  #extent(inst: KInst, memory: KMemory, index: KValue, count: number, env: Environment): void {
    this.#inside(inst, memory.name, memory.length, index, count, env);
  }

  /** `count` elements from `index` must exist. */
  #inside(inst: KInst, name: string, length: number, index: KValue, count: number, env: Environment): void {
    const known = this.#values.interval(index, env);
    if (within(known, { min: 0, max: length - count })) return;
    const touched = count === 1 ? '' : ` (and the ${count - 1} after it)`;
    this.#report(
      inst,
      `access is not proven in bounds: index %${index.id} of ${name}${touched} may be ${show(known)}, length ${length}`,
    );
  }

  #multiple(inst: KInst, memory: KMemory, index: KValue, count: number): void {
    if (this.#divisors.of(index) % count === 0) return;
    this.#report(inst, `index %${index.id} of ${memory.name} is not proven a multiple of ${count}`);
  }
}
