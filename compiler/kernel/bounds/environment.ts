/**
 * What is known where: the facts that enclosing conditions give, what loops assume of the values they carry, and the
 * intervals that have been evaluated under those.
 */
import { type Interval, meet, typeInterval } from '../intervals.js';
import type { KValue, Range } from '../types.js';

export interface Environment {
  readonly parent: Environment | undefined;
  readonly facts: Map<KValue, Range>;
  /** Hypotheses about carried values: taken as they are. */
  readonly assumed: ReadonlyMap<KValue, Interval>;
  readonly memo: Map<KValue, Interval>;
  /** Depth of the evaluation that made it. */
  readonly depth: number;
}

export const newEnvironment = (
  parent: Environment | undefined,
  depth = 0,
  assumed: ReadonlyMap<KValue, Interval> = new Map(),
): Environment => ({ parent, facts: new Map(), assumed, memo: new Map(), depth });

/** Whether the value has been evaluated here or further out. */
export function isEvaluated(value: KValue, env: Environment): boolean {
  for (let at: Environment | undefined = env; at !== undefined; at = at.parent) if (at.memo.has(value)) return true;
  return false;
}

/** `interval` and all that is known of the value here and further out. */
export function narrowed(value: KValue, interval: Interval, env: Environment): Interval {
  let known = interval;
  for (let at: Environment | undefined = env; at !== undefined; at = at.parent) {
    known = meet(meet(known, at.facts.get(value)), at.memo.get(value));
  }
  return known;
}

/** What the innermost loop that carries the value assumes of it. */
export function assumedOf(value: KValue, env: Environment): Interval {
  for (let at: Environment | undefined = env; at !== undefined; at = at.parent) {
    if (at.assumed.has(value)) return at.assumed.get(value) ?? typeInterval(value.type.scalar);
  }
  return typeInterval(value.type.scalar);
}

/**
 * What an outer environment knows of the value, true here too; else what it claims. That is sound, for every claim
 * is checked by itself, from operands: when values are computed in turn, no claim can be the first one broken.
 */
export function outerInterval(value: KValue, env: Environment): Interval {
  for (let at: Environment | undefined = env; at !== undefined; at = at.parent) {
    const known = at.facts.get(value) ?? at.memo.get(value);
    if (known !== undefined) return known;
  }
  return value.range ?? typeInterval(value.type.scalar);
}
