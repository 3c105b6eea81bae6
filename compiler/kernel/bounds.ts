/**
 * Proves by intervals that every access of a kernel is in bounds and that every claimed range and `assume` holds.
 *
 * Intervals are evaluated on demand in an environment: the facts that enclosing conditions give, and the intervals
 * assumed for loops' carried values (widened until they are inductive). Intervals are recomputed under each
 * environment's facts, so a condition on `i` also narrows what is computed from `i` before the condition.
 */

import { type BulkInst, boxElements, groupExtent, isBulkInst, isTile } from './bulk.js';
import { Divisors } from './divisors.js';
import { type EngineInst, isEngineInst, tileExtent } from './engines.js';
import {
  binaryInterval,
  fitted,
  type Interval,
  invertBinary,
  isEmpty,
  join,
  meet,
  show,
  typeInterval,
  within,
} from './intervals.js';
import {
  type CompareFn,
  isIntScalar,
  type KBlock,
  type KernelFunction,
  type KInst,
  type KMemory,
  type KValue,
  type Range,
  scalarBits,
} from './types.js';
import { boxMultiple } from './verify_bulk.js';
import { bodyValuesOf, type Definition, definitionsOf, resultsOf } from './walk.js';

export type Report = (inst: KInst, message: string) => never;

interface Environment {
  readonly parent: Environment | undefined;
  readonly facts: Map<KValue, Range>;
  /** Hypotheses about carried values: taken as they are. */
  readonly assumed: Map<KValue, Interval>;
  readonly memo: Map<KValue, Interval>;
  /** Depth of the evaluation that made it. */
  readonly depth: number;
}

/** Beyond this depth of definitions, and beyond the other from where an environment began, the outer interval is taken. */
const maxDepth = 400;
const maxRederived = 16;
/** Arms of selects and ifs, and loops, that may be evaluated within each other on the way to one interval. */
const maxSpeculation = 2;

const negated: Readonly<Record<CompareFn, CompareFn>> = { eq: 'ne', ne: 'eq', lt: 'ge', le: 'gt', gt: 'le', ge: 'lt' };

/** Calls `report` (which throws) for the first access, range or assumption that cannot be shown. */
export function checkBounds(kernel: KernelFunction, report: Report): void {
  new Bounds(kernel, report).check();
}

class Bounds {
  readonly #kernel: KernelFunction;
  readonly #report: Report;
  readonly #definitions: ReadonlyMap<KValue, Definition>;
  #depth = 0;
  #speculation = 0;
  readonly #divisors: Divisors;

  constructor(kernel: KernelFunction, report: Report) {
    this.#kernel = kernel;
    this.#report = report;
    this.#definitions = definitionsOf(kernel);
    this.#divisors = new Divisors(this.#definitions);
  }

  check(): void {
    const root = newEnvironment(undefined);
    for (const helper of this.#kernel.helpers) this.#block(helper.body, newEnvironment(root));
    this.#block(this.#kernel.body, root);
  }

  // --- The check ---

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
        const body = this.#loopEnvironment(inst, env);
        this.#claims(inst, [inst.index, ...inst.carried.map(({ inner }) => inner)], body);
        if (!isEmpty(this.#interval(inst.index, body))) this.#block(inst.body, body);
        break;
      }
      case 'loop': {
        const body = this.#loopEnvironment(inst, env);
        this.#claims(inst, bodyValuesOf(inst), body);
        this.#block(inst.body, body);
        break;
      }
      case 'if':
        for (const [block, truth] of [
          [inst.then, true],
          [inst.else, false],
        ] as const) {
          const branch = this.#under(inst.condition, truth, env);
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
        const known = this.#interval(inst.a, env);
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
      const known = this.#interval(value, env);
      if (value.range !== undefined && !within(known, value.range)) {
        this.#report(inst, `range ${show(value.range)} of %${value.id} is not implied: it may be ${show(known)}`);
      }
    }
  }

  #operands(inst: KInst & { op: 'binary' }, env: Environment): void {
    if (!isIntScalar(inst.a.type.scalar)) return;
    const b = this.#interval(inst.b, env);
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
        if (!within(this.#interval(inst.parity, env), { min: 0, max: 1 })) this.#report(inst, 'parity is not 0 or 1');
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
    const known = this.#interval(index, env);
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

  // --- Environments ---

  /** `env` with the facts that `condition` being `truth` gives; undefined if that cannot be. */
  #under(condition: KValue, truth: boolean, env: Environment): Environment | undefined {
    const inner = newEnvironment(env, this.#depth);
    return this.#learn(condition, truth, inner) ? inner : undefined;
  }

  /** Adds facts to `env`; false if they contradict what is known. */
  #learn(condition: KValue, truth: boolean, env: Environment): boolean {
    const inst = this.#definitions.get(condition)?.inst;
    if (inst === undefined || condition.type.lanes !== 1) return true;
    switch (inst.op) {
      case 'const':
        return Boolean(inst.value) === truth;
      case 'unary':
        return inst.fn !== 'not' || this.#learn(inst.a, !truth, env);
      case 'binary':
        if (inst.fn === (truth ? 'and' : 'or'))
          return this.#learn(inst.a, truth, env) && this.#learn(inst.b, truth, env);
        return true;
      case 'compare':
        if (!isIntScalar(inst.a.type.scalar)) return true;
        return this.#learnCompare(truth ? inst.fn : negated[inst.fn], inst.a, inst.b, env);
      default:
        return true;
    }
  }

  #learnCompare(fn: CompareFn, a: KValue, b: KValue, env: Environment): boolean {
    const x = this.#interval(a, env) ?? everything;
    const y = this.#interval(b, env) ?? everything;
    switch (fn) {
      case 'lt':
        return (
          this.#narrow(a, { min: x.min, max: y.max - 1 }, env) && this.#narrow(b, { min: x.min + 1, max: y.max }, env)
        );
      case 'le':
        return this.#narrow(a, { min: x.min, max: y.max }, env) && this.#narrow(b, { min: x.min, max: y.max }, env);
      case 'gt':
        return this.#learnCompare('lt', b, a, env);
      case 'ge':
        return this.#learnCompare('le', b, a, env);
      case 'eq':
        return this.#narrow(a, y, env) && this.#narrow(b, x, env);
      case 'ne': {
        if (y.min !== y.max) return true;
        if (x.min === y.min) return this.#narrow(a, { min: x.min + 1, max: x.max }, env);
        if (x.max === y.min) return this.#narrow(a, { min: x.min, max: x.max - 1 }, env);
        return true;
      }
      default:
        return fn satisfies never;
    }
  }

  /** Notes that `value` lies in `range`, and what follows for the values it is computed from. */
  #narrow(value: KValue, range: Range, env: Environment): boolean {
    const known = this.#interval(value, env);
    const narrowed = meet(known, range);
    if (narrowed === undefined || (narrowed.min === known?.min && narrowed.max === known.max)) return true;
    if (narrowed.min === Number.NEGATIVE_INFINITY && narrowed.max === Number.POSITIVE_INFINITY) return true;
    env.facts.set(value, narrowed);
    env.memo.clear();
    if (isEmpty(narrowed)) return false;
    const inst = this.#definitions.get(value)?.inst;
    if (inst?.op === 'assume') return this.#narrow(inst.a, narrowed, env);
    if (inst?.op === 'convert' && isIntScalar(inst.a.type.scalar)) {
      // Nothing wrapped if all of `a` fits, or if both types, the result's no narrower, hold all of what is left.
      const [from, to] = [inst.a.type.scalar, inst.result.type.scalar];
      const fits = within(this.#interval(inst.a, env), typeInterval(to) ?? { min: 0, max: Number.MAX_SAFE_INTEGER });
      const both = typeInterval(from) ?? { min: 0, max: Number.MAX_SAFE_INTEGER };
      if (fits || (scalarBits[to] >= scalarBits[from] && within(narrowed, both))) {
        return this.#narrow(inst.a, narrowed, env);
      }
    }
    if (inst?.op === 'binary') {
      const constant = this.#interval(inst.b, env);
      const inner = this.#interval(inst.a, env);
      if (constant && constant.min === constant.max && inner && this.#exact(inst, inner, constant)) {
        const implied = invertBinary(inst.fn, narrowed, constant.min, inner);
        if (implied) return this.#narrow(inst.a, implied, env);
      }
      if (
        (inst.fn === 'add' || inst.fn === 'mul') &&
        inner &&
        inner.min === inner.max &&
        constant &&
        this.#exact(inst, inner, constant)
      ) {
        const implied = invertBinary(inst.fn, narrowed, inner.min, constant);
        if (implied) return this.#narrow(inst.b, implied, env);
      }
    }
    return true;
  }

  /** Whether the op cannot wrap for operands in these intervals. */
  #exact(inst: KInst & { op: 'binary' }, a: Range, b: Range): boolean {
    const wide = binaryInterval(inst.fn, a, b, 'i64');
    const type = typeInterval(inst.a.type.scalar) ?? {
      min: inst.a.type.scalar === 'u64' ? 0 : -(2 ** 53),
      max: 2 ** 53,
    };
    return wide !== undefined && within(wide, type);
  }

  /** The environment of a loop's body: intervals of the carried values that hold in every iteration. */
  #loopEnvironment(inst: KInst & { op: 'for' | 'loop' }, env: Environment): Environment {
    const carried = inst.carried
      .map((item, i) => ({ ...item, i }))
      .filter(({ inner }) => isIntScalar(inner.type.scalar));
    let hypotheses = new Map(carried.map(({ initial, inner }) => [inner, this.#interval(initial, env)]));
    for (let round = 0; ; round++) {
      const body = newEnvironment(env, this.#depth, hypotheses);
      const next = new Map<KValue, Interval>();
      let stable = true;
      for (const { inner, i } of carried) {
        const before = hypotheses.get(inner);
        const after = this.#interval(inst.body.yields[i], body);
        if (before === undefined || (after !== undefined && within(after, before))) {
          next.set(inner, before);
          continue;
        }
        stable = false;
        next.set(inner, round < 2 ? join(before, after) : widen(before, after, inner, round));
      }
      // Only hypotheses that were confirmed as a whole may be used. Nothing evaluated on the way is kept: it may
      // rest on claims of the body, which are to be checked there.
      if (stable) return newEnvironment(env, this.#depth, hypotheses);
      hypotheses = next;
    }
  }

  // --- Intervals ---

  #interval(value: KValue, env: Environment): Interval {
    const { scalar } = value.type;
    if (!isIntScalar(scalar)) return undefined;
    if (env.memo.has(value)) return env.memo.get(value);
    if (this.#depth > maxDepth || (this.#depth - env.depth > maxRederived && this.#known(value, env))) {
      return this.#outer(value, env);
    }
    this.#depth++;
    try {
      let known = this.#derive(value, env);
      for (let at: Environment | undefined = env; at !== undefined; at = at.parent) {
        known = meet(meet(known, at.facts.get(value)), at.memo.get(value));
      }
      env.memo.set(value, known);
      return known;
    } finally {
      this.#depth--;
    }
  }

  #known(value: KValue, env: Environment): boolean {
    for (let at: Environment | undefined = env; at !== undefined; at = at.parent) if (at.memo.has(value)) return true;
    return false;
  }

  /**
   * What an outer environment knows of the value, true here too; else what it claims. That is sound, for every claim
   * is checked by itself, from operands: when values are computed in turn, no claim can be the first one broken.
   */
  #outer(value: KValue, env: Environment): Interval {
    for (let at: Environment | undefined = env; at !== undefined; at = at.parent) {
      const known = at.facts.get(value) ?? at.memo.get(value);
      if (known !== undefined) return known;
    }
    return value.range ?? typeInterval(value.type.scalar);
  }

  #derive(value: KValue, env: Environment): Interval {
    const { scalar } = value.type;
    const definition = this.#definitions.get(value);
    if (definition === undefined) return typeInterval(scalar);
    const { inst, role, position } = definition;
    if (role === 'index' && inst.op === 'for') return this.#indexInterval(inst, env);
    if (role === 'inner') {
      for (let at: Environment | undefined = env; at !== undefined; at = at.parent) {
        if (at.assumed.has(value)) return at.assumed.get(value) ?? typeInterval(scalar);
      }
      return typeInterval(scalar);
    }
    const nested = inst.op === 'select' || inst.op === 'if' || inst.op === 'for' || inst.op === 'loop';
    if (!nested) return this.#deriveResult(inst, value, position, env);
    if (this.#speculation >= maxSpeculation) return this.#deriveRoughly(inst, value, env);
    this.#speculation++;
    try {
      return this.#deriveResult(inst, value, position, env);
    } finally {
      this.#speculation--;
    }
  }

  /** Without looking into arms and bodies: by the claim. */
  #deriveRoughly(inst: KInst, value: KValue, env: Environment): Interval {
    if (inst.op === 'select') return join(this.#interval(inst.a, env), this.#interval(inst.b, env));
    return this.#outer(value, env);
  }

  #deriveResult(inst: KInst, value: KValue, position: number, env: Environment): Interval {
    const { scalar } = value.type;
    switch (inst.op) {
      case 'const': {
        const number = Number(inst.value);
        return Number.isSafeInteger(number) ? { min: number, max: number } : typeInterval(scalar);
      }
      case 'scalar':
        return inst.param.range ?? typeInterval(scalar);
      case 'builtin':
        return this.#builtinInterval(inst);
      case 'unary':
        return this.#unaryInterval(inst, env);
      case 'binary':
        return binaryInterval(inst.fn, this.#interval(inst.a, env), this.#interval(inst.b, env), scalar);
      case 'select': {
        const scalarCondition = inst.condition.type.lanes === 1;
        const yes = scalarCondition ? this.#under(inst.condition, true, env) : env;
        const no = scalarCondition ? this.#under(inst.condition, false, env) : env;
        if (yes === undefined) return this.#interval(inst.b, env);
        if (no === undefined) return this.#interval(inst.a, env);
        return join(this.#interval(inst.a, yes), this.#interval(inst.b, no));
      }
      case 'convert':
        if (inst.a.type.scalar === 'bool') return { min: 0, max: 1 };
        return fitted(this.#interval(inst.a, env), scalar);
      case 'splat':
      case 'extract':
        return this.#interval(inst.a, env);
      case 'build':
        return inst.elements.map((element) => this.#interval(element, env)).reduce(join);
      case 'assume':
        return meet(this.#interval(inst.a, env), inst.result.range);
      case 'subgroup':
        // Others may read a lane that does not exist, and a sum grows.
        return inst.fn === 'min' || inst.fn === 'max' || inst.fn === 'broadcast_first'
          ? this.#interval(inst.a, env)
          : typeInterval(scalar);
      case 'for':
      case 'loop': {
        const body = this.#loopEnvironment(inst, env);
        const last = this.#interval(inst.body.yields[position], body);
        return inst.op === 'loop' ? last : join(this.#interval(inst.carried[position].initial, env), last);
      }
      case 'if': {
        const yes = this.#under(inst.condition, true, env);
        const no = this.#under(inst.condition, false, env);
        const a = yes && this.#interval(inst.then.yields[position], yes);
        const b = no && this.#interval(inst.else.yields[position], no);
        return yes === undefined ? b : no === undefined ? a : join(a, b);
      }
      default:
        return typeInterval(scalar);
    }
  }

  #indexInterval(inst: KInst & { op: 'for' }, env: Environment): Interval {
    const lower = this.#interval(inst.lower, env);
    const upper = this.#interval(inst.upper, env);
    if (lower === undefined || upper === undefined) return typeInterval(inst.index.type.scalar);
    let last = upper.max - 1;
    // With one lower bound the index only takes every step-th value.
    if (lower.min === lower.max && last >= lower.min) last -= (last - lower.min) % inst.step;
    return { min: lower.min, max: last };
  }

  #builtinInterval({ builtin, dim }: KInst & { op: 'builtin' }): Range {
    const { grid, workgroup, subgroupSize = 1 } = this.#kernel;
    switch (builtin) {
      case 'workgroup_id':
        return { min: 0, max: grid[dim] - 1 };
      case 'local_id':
        return { min: 0, max: workgroup[dim] - 1 };
      case 'subgroup_lane':
        return { min: 0, max: subgroupSize - 1 };
      case 'subgroup_size':
        return { min: subgroupSize, max: subgroupSize };
      default:
        return builtin satisfies never;
    }
  }

  #unaryInterval(inst: KInst & { op: 'unary' }, env: Environment): Interval {
    const { scalar } = inst.a.type;
    const a = this.#interval(inst.a, env);
    switch (inst.fn) {
      case 'popcount':
      case 'clz':
        return { min: 0, max: scalarBits[scalar] };
      case 'neg':
        return fitted(a && { min: -a.max + 0, max: -a.min + 0 }, scalar);
      case 'abs': {
        const most = a && Math.max(Math.abs(a.min), Math.abs(a.max));
        return fitted(a && { min: a.min > 0 ? a.min : a.max < 0 ? -a.max : 0, max: most ?? 0 }, scalar);
      }
      case 'not': {
        if (scalar.startsWith('i')) return fitted(a && { min: -a.max - 1, max: -a.min - 1 }, scalar);
        const all = typeInterval(scalar);
        return a && all && { min: all.max - a.max, max: all.max - a.min };
      }
      default:
        return typeInterval(scalar);
    }
  }
}

const everything: Range = { min: Number.NEGATIVE_INFINITY, max: Number.POSITIVE_INFINITY };

const newEnvironment = (
  parent: Environment | undefined,
  depth = 0,
  assumed: Map<KValue, Interval> = new Map(),
): Environment => ({ parent, facts: new Map(), assumed, memo: new Map(), depth });

/** Moves a bound that grew to the next of 0 and the type's; after that gives up. */
function widen(before: Range, after: Interval, value: KValue, round: number): Interval {
  const all = typeInterval(value.type.scalar);
  if (after === undefined || all === undefined || round > 6) return all;
  return {
    min: after.min >= before.min ? before.min : after.min >= 0 ? 0 : all.min,
    max: after.max <= before.max ? before.max : after.max <= 0 ? 0 : all.max,
  };
}
