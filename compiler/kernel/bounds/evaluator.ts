/**
 * Intervals of a kernel's values, evaluated on demand in an environment. They are recomputed under each environment's
 * facts, so a condition on `i` also narrows what is computed from `i` before the condition.
 */
import { binaryInterval, fitted, type Interval, join, meet, typeInterval, within } from '../intervals.js';
import { isIntScalar, type KernelFunction, type KInst, type KValue, type Range, scalarBits } from '../types.js';
import { type Definition, definitionsOf } from '../walk.js';
import { assumedOf, type Environment, isEvaluated, narrowed, newEnvironment, outerInterval } from './environment.js';
import { type Evaluation, learn } from './facts.js';

/** Beyond this depth of definitions, and beyond the other from where an environment began, the outer interval is taken. */
const maxDepth = 400;
const maxRederived = 16;
/** Arms of selects and ifs, and loops, that may be evaluated within each other on the way to one interval. */
const maxSpeculation = 2;

export class Evaluator implements Evaluation {
  readonly definitions: ReadonlyMap<KValue, Definition>;
  readonly #kernel: KernelFunction;
  #depth = 0;
  #speculation = 0;

  constructor(kernel: KernelFunction) {
    this.#kernel = kernel;
    this.definitions = definitionsOf(kernel);
  }

  /** Undefined: not known to be narrower than its type, or no integer. */
  interval(value: KValue, env: Environment): Interval {
    const { scalar } = value.type;
    if (!isIntScalar(scalar)) return undefined;
    if (env.memo.has(value)) return env.memo.get(value);
    if (this.#depth > maxDepth || (this.#depth - env.depth > maxRederived && isEvaluated(value, env))) {
      return outerInterval(value, env);
    }
    this.#depth++;
    try {
      const known = narrowed(value, this.#derive(value, env), env);
      env.memo.set(value, known);
      return known;
    } finally {
      this.#depth--;
    }
  }

  /** `env` with the facts that `condition` being `truth` gives; undefined if that cannot be. */
  under(condition: KValue, truth: boolean, env: Environment): Environment | undefined {
    const inner = newEnvironment(env, this.#depth);
    return learn(this, condition, truth, inner) ? inner : undefined;
  }

  /** The environment of a loop's body: intervals of the carried values that hold in every iteration. */
  loopEnvironment(inst: KInst & { op: 'for' | 'loop' }, env: Environment): Environment {
    const carried = inst.carried
      .map((item, i) => ({ ...item, i }))
      .filter(({ inner }) => isIntScalar(inner.type.scalar));
    let hypotheses = new Map(carried.map(({ initial, inner }) => [inner, this.interval(initial, env)]));
    for (let round = 0; ; round++) {
      const body = newEnvironment(env, this.#depth, hypotheses);
      const next = new Map<KValue, Interval>();
      let stable = true;
      for (const { inner, i } of carried) {
        const before = hypotheses.get(inner);
        const after = this.interval(inst.body.yields[i], body);
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

  #derive(value: KValue, env: Environment): Interval {
    const { scalar } = value.type;
    const definition = this.definitions.get(value);
    if (definition === undefined) return typeInterval(scalar);
    const { inst, role, position } = definition;
    if (role === 'index' && inst.op === 'for') return this.#indexInterval(inst, env);
    if (role === 'inner') return assumedOf(value, env);
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
    if (inst.op === 'select') return join(this.interval(inst.a, env), this.interval(inst.b, env));
    return outerInterval(value, env);
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
        return binaryInterval(inst.fn, this.interval(inst.a, env), this.interval(inst.b, env), scalar);
      case 'select': {
        const scalarCondition = inst.condition.type.lanes === 1;
        const yes = scalarCondition ? this.under(inst.condition, true, env) : env;
        const no = scalarCondition ? this.under(inst.condition, false, env) : env;
        if (yes === undefined) return this.interval(inst.b, env);
        if (no === undefined) return this.interval(inst.a, env);
        return join(this.interval(inst.a, yes), this.interval(inst.b, no));
      }
      case 'convert':
        if (inst.a.type.scalar === 'bool') return { min: 0, max: 1 };
        return fitted(this.interval(inst.a, env), scalar);
      case 'splat':
      case 'extract':
        return this.interval(inst.a, env);
      case 'build':
        return inst.elements.map((element) => this.interval(element, env)).reduce(join);
      case 'assume':
        return meet(this.interval(inst.a, env), inst.result.range);
      case 'subgroup':
        // Others may read a lane that does not exist, and a sum grows.
        return inst.fn === 'min' || inst.fn === 'max' || inst.fn === 'broadcast_first'
          ? this.interval(inst.a, env)
          : typeInterval(scalar);
      case 'for':
      case 'loop': {
        const body = this.loopEnvironment(inst, env);
        const last = this.interval(inst.body.yields[position], body);
        return inst.op === 'loop' ? last : join(this.interval(inst.carried[position].initial, env), last);
      }
      case 'if': {
        const yes = this.under(inst.condition, true, env);
        const no = this.under(inst.condition, false, env);
        const a = yes && this.interval(inst.then.yields[position], yes);
        const b = no && this.interval(inst.else.yields[position], no);
        return yes === undefined ? b : no === undefined ? a : join(a, b);
      }
      default:
        return typeInterval(scalar);
    }
  }

  #indexInterval(inst: KInst & { op: 'for' }, env: Environment): Interval {
    const lower = this.interval(inst.lower, env);
    const upper = this.interval(inst.upper, env);
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
    const a = this.interval(inst.a, env);
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

/** Moves a bound that grew to the next of 0 and the type's; after that gives up. */
function widen(before: Range, after: Interval, value: KValue, round: number): Interval {
  const all = typeInterval(value.type.scalar);
  if (after === undefined || all === undefined || round > 6) return all;
  return {
    min: after.min >= before.min ? before.min : after.min >= 0 ? 0 : all.min,
    max: after.max <= before.max ? before.max : after.max <= 0 ? 0 : all.max,
  };
}
