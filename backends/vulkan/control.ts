/**
 * Loops and ifs as SPIR-V's structured form with phis.
 *
 * Loops that ask for unrolling and have constant bounds are unrolled here, because not every driver does; where a driver
 * limits iterations (loops.ts), one iteration does several trips.
 */
import type { KBlock, KInst } from '../../compiler/kernel/types.js';
import { countInstructions } from '../common/survey.js';
import { tripsAnIteration } from './loops.js';
import type { Scope } from './scope.js';
import { type Id, LoopControl, Op } from './spirv.js';
import { loopLimitOf } from './target.js';

/** Instructions that unrolling may produce from one loop, counted as trips × instructions of the body. */
const unrollBudget = 4096;

type For = Extract<KInst, { op: 'for' }>;

export class ControlFlow {
  readonly #scope: Scope;
  readonly #write: (block: KBlock) => void;
  /** Trips that one iteration of a loop does; one if absent. */
  #factors: ReadonlyMap<For, number> = new Map();

  /** `write` renders a block in place. */
  constructor(scope: Scope, write: (block: KBlock) => void) {
    this.#scope = scope;
    this.#write = write;
  }

  /** Decides on trips an iteration; the survey is complete. */
  plan(): void {
    const { kernel, target } = this.#scope;
    const limit = loopLimitOf(target);
    if (limit === undefined) return;
    const isUnrolled = (loop: For): boolean => this.#unrollable(loop) !== undefined;
    this.#factors = tripsAnIteration(kernel, limit, (loop) => this.#mostTrips(loop), isUnrolled, countInstructions);
  }

  /** Constant bounds of a loop that is to be unrolled in full. */
  #unrollable(inst: For): { readonly lower: number; readonly upper: number } | undefined {
    const [lower, upper] = [this.#scope.constants.get(inst.lower), this.#scope.constants.get(inst.upper)];
    if (!inst.unroll || typeof lower !== 'number' || typeof upper !== 'number') return undefined;
    const trips = Math.max(0, Math.ceil((upper - lower) / inst.step));
    return trips * countInstructions(inst.body) <= unrollBudget ? { lower, upper } : undefined;
  }

  /** The most trips that a loop's bounds allow, or undefined. */
  #mostTrips(inst: For): number | undefined {
    const [lower, upper] = [this.#scope.constants.get(inst.lower), this.#scope.constants.get(inst.upper)];
    const low = lower === undefined ? inst.lower.range?.min : Number(lower);
    const high = upper === undefined ? inst.upper.range?.max : Number(upper);
    if (low !== undefined && high !== undefined) return Math.max(0, Math.ceil((high - low) / inst.step));
    const range = inst.index.range;
    return range && Math.max(0, Math.floor((range.max - range.min) / inst.step) + 1);
  }

  for(inst: For): void {
    const bounds = this.#unrollable(inst);
    if (bounds) {
      this.#unrolled(inst, bounds.lower, bounds.upper);
      return;
    }
    const asm = this.#scope.asm;
    const { index } = inst;
    const [header, body, next, merge] = [asm.id(), asm.id(), asm.id(), asm.id()];
    const before = this.#scope.block;
    const indexType = this.#scope.math.type(index.type);
    this.#scope.branch(header);
    this.#scope.start(header);
    const counter = asm.loopPhi(indexType, this.#scope.id(inst.lower), before);
    this.#scope.names.setValue(index, counter.id);
    const phis = inst.carried.map((carried) => {
      const phi = asm.loopPhi(this.#scope.math.type(carried.inner.type), this.#scope.id(carried.initial), before);
      this.#scope.names.setValue(carried.inner, phi.id);
      return phi;
    });
    const condition = this.#scope.math.compare(
      'lt',
      index.type,
      { id: counter.id },
      { id: this.#scope.id(inst.upper) },
    );
    asm.emit(Op.LoopMerge, [merge, next, inst.unroll ? LoopControl.Unroll : LoopControl.None]);
    asm.emit(Op.BranchConditional, [condition, body, merge]);
    this.#scope.start(body);
    this.#write(inst.body);
    let values = inst.body.yields.map((value) => this.#scope.id(value));
    const factor = this.#factors.get(inst) ?? 1;
    for (let trip = 1; trip < factor; trip++) values = this.#furtherTrip(inst, counter.id, trip, values);
    this.#scope.branch(next);
    this.#scope.start(next);
    const step = this.#scope.math.constant(index.type, inst.step * factor);
    counter.close(asm.value(Op.IAdd, indexType, [counter.id, step]), next);
    phis.forEach((phi, i) => {
      phi.close(values[i], next);
    });
    this.#scope.branch(header);
    this.#scope.start(merge);
    inst.carried.forEach((carried, i) => {
      this.#scope.names.setValue(carried.result, phis[i].id);
    });
  }

  /** Another copy of the body in the same iteration, if the index has not passed the bound. */
  #furtherTrip(inst: For, counter: Id, trip: number, values: readonly Id[]): Id[] {
    const asm = this.#scope.asm;
    const { type } = inst.index;
    const offset = this.#scope.math.constant(type, inst.step * trip);
    const index = asm.value(Op.IAdd, this.#scope.math.type(type), [counter, offset]);
    const [then, merge] = [asm.id(), asm.id()];
    const condition = this.#scope.math.compare('lt', type, { id: index }, { id: this.#scope.id(inst.upper) });
    const before = this.#scope.block;
    asm.emit(Op.SelectionMerge, [merge, 0]);
    asm.emit(Op.BranchConditional, [condition, then, merge]);
    this.#scope.start(then);
    this.#scope.names.setValue(inst.index, index);
    inst.carried.forEach((carried, i) => {
      this.#scope.names.setValue(carried.inner, values[i]);
    });
    this.#forget(inst.body);
    this.#write(inst.body);
    const end = this.#scope.block;
    const yields = inst.body.yields.map((value) => this.#scope.id(value));
    this.#scope.branch(merge);
    this.#scope.start(merge);
    return inst.carried.map((carried, i) =>
      asm.value(Op.Phi, this.#scope.math.type(carried.inner.type), [yields[i], end, values[i], before]),
    );
  }

  #unrolled(inst: For, lower: number, upper: number): void {
    let values = inst.carried.map((carried) => this.#scope.id(carried.initial));
    for (let at = lower; at < upper; at += inst.step) {
      this.#scope.names.setValue(inst.index, this.#scope.math.constant(inst.index.type, at));
      this.#scope.constants.set(inst.index, at);
      inst.carried.forEach((carried, i) => {
        this.#scope.names.setValue(carried.inner, values[i]);
      });
      this.#forget(inst.body);
      this.#write(inst.body);
      values = inst.body.yields.map((value) => this.#scope.id(value));
    }
    inst.carried.forEach((carried, i) => {
      this.#scope.names.setValue(carried.result, values[i]);
    });
  }

  /** Constants folded in one copy of a body do not hold in the next. */
  #forget(block: KBlock): void {
    for (const inst of block.instructions) {
      if (inst.op === 'binary' || inst.op === 'assume') this.#scope.constants.delete(inst.result);
      else if (inst.op === 'for' || inst.op === 'loop') {
        if (inst.op === 'for') this.#scope.constants.delete(inst.index);
        this.#forget(inst.body);
      } else if (inst.op === 'if') {
        this.#forget(inst.then);
        this.#forget(inst.else);
      }
    }
  }

  loop(inst: Extract<KInst, { op: 'loop' }>): void {
    const asm = this.#scope.asm;
    const [header, body, next, merge] = [asm.id(), asm.id(), asm.id(), asm.id()];
    const before = this.#scope.block;
    this.#scope.branch(header);
    this.#scope.start(header);
    const phis = inst.carried.map((carried) => {
      const phi = asm.loopPhi(this.#scope.math.type(carried.inner.type), this.#scope.id(carried.initial), before);
      this.#scope.names.setValue(carried.inner, phi.id);
      return phi;
    });
    asm.emit(Op.LoopMerge, [merge, next, LoopControl.None]);
    this.#scope.branch(body);
    this.#scope.start(body);
    this.#write(inst.body);
    this.#scope.branch(next);
    this.#scope.start(next);
    const yields = inst.body.yields.map((value) => this.#scope.id(value));
    phis.forEach((phi, i) => {
      phi.close(yields[i], next);
    });
    asm.emit(Op.BranchConditional, [this.#scope.id(inst.condition), header, merge]);
    this.#scope.start(merge);
    inst.carried.forEach((carried, i) => {
      this.#scope.names.setValue(carried.result, yields[i]);
    });
  }

  if(inst: Extract<KInst, { op: 'if' }>): void {
    const asm = this.#scope.asm;
    const empty = inst.else.instructions.length === 0 && inst.results.length === 0;
    const [then, merge] = [asm.id(), asm.id()];
    const otherwise = empty ? merge : asm.id();
    asm.emit(Op.SelectionMerge, [merge, 0]);
    asm.emit(Op.BranchConditional, [this.#scope.id(inst.condition), then, otherwise]);
    const arm = (label: Id, block: KBlock): { values: Id[]; end: Id } => {
      this.#scope.start(label);
      this.#write(block);
      const end = this.#scope.block;
      this.#scope.branch(merge);
      return { values: block.yields.map((value) => this.#scope.id(value)), end };
    };
    const a = arm(then, inst.then);
    const b = empty ? undefined : arm(otherwise, inst.else);
    this.#scope.start(merge);
    inst.results.forEach((result, i) => {
      if (!b) throw new Error('an if with results needs both arms');
      this.#scope.names.setValue(
        result,
        asm.value(Op.Phi, this.#scope.math.type(result.type), [a.values[i], a.end, b.values[i], b.end]),
      );
    });
  }
}
