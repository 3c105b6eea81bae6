/** What a condition that is true or false says of the values it compares, and of those they are computed from. */
import { binaryInterval, type Interval, invertBinary, isEmpty, meet, typeInterval, within } from '../intervals.js';
import { type CompareFn, isIntScalar, type KInst, type KValue, type Range, scalarBits } from '../types.js';
import type { Definition } from '../walk.js';
import type { Environment } from './environment.js';

/** What is known before: definitions, and intervals in an environment. */
export interface Evaluation {
  readonly definitions: ReadonlyMap<KValue, Definition>;
  interval(value: KValue, env: Environment): Interval;
}

const negated: Readonly<Record<CompareFn, CompareFn>> = { eq: 'ne', ne: 'eq', lt: 'ge', le: 'gt', gt: 'le', ge: 'lt' };

const everything: Range = { min: Number.NEGATIVE_INFINITY, max: Number.POSITIVE_INFINITY };

/** Adds facts to `env`; false if they contradict what is known. */
export function learn(values: Evaluation, condition: KValue, truth: boolean, env: Environment): boolean {
  const inst = values.definitions.get(condition)?.inst;
  if (inst === undefined || condition.type.lanes !== 1) return true;
  switch (inst.op) {
    case 'const':
      return Boolean(inst.value) === truth;
    case 'unary':
      return inst.fn !== 'not' || learn(values, inst.a, !truth, env);
    case 'binary':
      if (inst.fn === (truth ? 'and' : 'or'))
        return learn(values, inst.a, truth, env) && learn(values, inst.b, truth, env);
      return true;
    case 'compare':
      if (!isIntScalar(inst.a.type.scalar)) return true;
      return learnCompare(values, truth ? inst.fn : negated[inst.fn], inst.a, inst.b, env);
    default:
      return true;
  }
}

function learnCompare(values: Evaluation, fn: CompareFn, a: KValue, b: KValue, env: Environment): boolean {
  const x = values.interval(a, env) ?? everything;
  const y = values.interval(b, env) ?? everything;
  switch (fn) {
    case 'lt':
      return (
        narrow(values, a, { min: x.min, max: y.max - 1 }, env) && narrow(values, b, { min: x.min + 1, max: y.max }, env)
      );
    case 'le':
      return narrow(values, a, { min: x.min, max: y.max }, env) && narrow(values, b, { min: x.min, max: y.max }, env);
    case 'gt':
      return learnCompare(values, 'lt', b, a, env);
    case 'ge':
      return learnCompare(values, 'le', b, a, env);
    case 'eq':
      return narrow(values, a, y, env) && narrow(values, b, x, env);
    case 'ne': {
      if (y.min !== y.max) return true;
      if (x.min === y.min) return narrow(values, a, { min: x.min + 1, max: x.max }, env);
      if (x.max === y.min) return narrow(values, a, { min: x.min, max: x.max - 1 }, env);
      return true;
    }
    default:
      return fn satisfies never;
  }
}

/** Notes that `value` lies in `range`, and what follows for the values it is computed from. */
function narrow(values: Evaluation, value: KValue, range: Range, env: Environment): boolean {
  const known = values.interval(value, env);
  const narrowed = meet(known, range);
  if (narrowed === undefined || (narrowed.min === known?.min && narrowed.max === known.max)) return true;
  if (narrowed.min === Number.NEGATIVE_INFINITY && narrowed.max === Number.POSITIVE_INFINITY) return true;
  env.facts.set(value, narrowed);
  env.memo.clear();
  if (isEmpty(narrowed)) return false;
  const inst = values.definitions.get(value)?.inst;
  if (inst?.op === 'assume') return narrow(values, inst.a, narrowed, env);
  if (inst?.op === 'convert' && isIntScalar(inst.a.type.scalar)) {
    // Nothing wrapped if all of `a` fits, or if both types, the result's no narrower, hold all of what is left.
    const [from, to] = [inst.a.type.scalar, inst.result.type.scalar];
    const fits = within(values.interval(inst.a, env), typeInterval(to) ?? { min: 0, max: Number.MAX_SAFE_INTEGER });
    const both = typeInterval(from) ?? { min: 0, max: Number.MAX_SAFE_INTEGER };
    if (fits || (scalarBits[to] >= scalarBits[from] && within(narrowed, both))) {
      return narrow(values, inst.a, narrowed, env);
    }
  }
  if (inst?.op === 'binary') {
    const constant = values.interval(inst.b, env);
    const inner = values.interval(inst.a, env);
    if (constant && constant.min === constant.max && inner && isExact(inst, inner, constant)) {
      const implied = invertBinary(inst.fn, narrowed, constant.min, inner);
      if (implied) return narrow(values, inst.a, implied, env);
    }
    if (
      (inst.fn === 'add' || inst.fn === 'mul') &&
      inner &&
      inner.min === inner.max &&
      constant &&
      isExact(inst, inner, constant)
    ) {
      const implied = invertBinary(inst.fn, narrowed, inner.min, constant);
      if (implied) return narrow(values, inst.b, implied, env);
    }
  }
  return true;
}

/** Whether the op cannot wrap for operands in these intervals. */
function isExact(inst: KInst & { op: 'binary' }, a: Range, b: Range): boolean {
  const wide = binaryInterval(inst.fn, a, b, 'i64');
  const type = typeInterval(inst.a.type.scalar) ?? {
    min: inst.a.type.scalar === 'u64' ? 0 : -(2 ** 53),
    max: 2 ** 53,
  };
  return wide !== undefined && within(wide, type);
}
