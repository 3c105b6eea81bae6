/**
 * Attention of few queries on a CPU: keys and values stream through once, at the speed of memory.
 *
 * Lanes run along the depth for scores, along keys for the softmax and along the values' columns for the result. Where
 * there are fewer heads than threads, the keys are split into ranges whose partial results a second kernel joins.
 */
import type { Target } from '../../kernel/target.js';
import { type KArray, type KBuffer, type KValue, type Lanes, scalarBits } from '../../kernel/types.js';
import { Affine } from '../affine.js';
import { multiplyAdd } from '../contract/contraction.js';
import { lanesFor } from '../contract/tiling.js';
import type { Group } from '../group.js';
import type { LoweredKernel } from '../lowered.js';
import { Lowering } from '../lowering.js';
import { collapse } from '../reduce.js';
import { widestWithin } from '../shares.js';
import { summed } from '../shuffle.js';
import { range } from '../tensors.js';
import { type Attention, keyAt, queryAt, storeResult, valueAt } from './attention.js';
import { lowerJoin, lowerRanges, type Partials, partialsOf } from './join.js';
import { logitOf } from './logits.js';
import { regrouped } from './regroup.js';
import { larger, smallest } from './softmax.js';

/** Whether so few queries share keys that lanes are better along other dims. */
const mostRows = ({ accumulator }: Attention, target: Target): number =>
  Math.max(1, lanesFor({ accumulator }, target) / 2);

export const isStream = (attention: Attention, target: Target): boolean =>
  attention.rows <= mostRows(attention, target);

/** Keys that a task should have at least. */
const leastKeys = 256;
/** Groups of keys in a block. */
const blockGroups = 16;

export function lowerStreams(group: Group, target: Target, single: Attention): readonly LoweredKernel[] {
  const attention = regrouped(group, target, single, mostRows(single, target));
  const { batch, keys } = attention;
  const wanted = Math.ceil((2 * target.parallelism) / batch);
  const splits = batch >= target.parallelism ? 1 : Math.max(1, Math.min(wanted, Math.floor(keys / leastKeys)));
  const partials = splits > 1 ? partialsOf(attention, splits) : undefined;
  const first = new StreamedAttention(group, target, attention, partials).lower();
  return partials ? [first, lowerJoin(group, target, attention, partials)] : [first];
}

class StreamedAttention {
  readonly #group: Group;
  readonly #attention: Attention;
  readonly #partials: Partials | undefined;
  readonly #lowering: Lowering;
  /** Keys that are scored together, one a lane. */
  readonly #keyLanes: Lanes;
  /** Lanes along the depth, and vectors of a row. */
  readonly #deep: Lanes;
  readonly #steps: number;
  readonly #wide: Lanes;
  readonly #columns: number;
  /** Groups of keys of all, of a task and of a block. */
  readonly #groups: number;
  readonly #taskGroups: number;
  readonly #blockGroups: number;
  /** [row][d], zeros where the last vector of a row repeats elements. */
  readonly #queries: KArray;
  /** Scores, logits, weights: [row][key of the block]. */
  readonly #weights: KArray;
  /** [row][column] */
  readonly #sums: KArray;
  readonly #buffers: { readonly sums: KBuffer; readonly state: KBuffer } | undefined;

  constructor(group: Group, target: Target, attention: Attention, partials: Partials | undefined) {
    this.#group = group;
    this.#attention = attention;
    this.#partials = partials;
    this.#lowering = new Lowering(group, target);
    const { b } = this.#lowering;
    const { accumulator, rows, keys, depth, width } = attention;
    const full = lanesFor({ accumulator }, target);
    this.#keyLanes = widestWithin(Math.min(full, keys));
    this.#deep = widestWithin(Math.min(this.#keyLanes, depth));
    this.#steps = Math.ceil(depth / this.#deep);
    this.#wide = widestWithin(Math.min(full, width));
    this.#columns = Math.ceil(width / this.#wide);
    this.#groups = Math.ceil(keys / this.#keyLanes);
    this.#taskGroups = Math.ceil(this.#groups / (partials?.splits ?? 1));
    this.#blockGroups = Math.min(blockGroups, this.#taskGroups);
    const array = (name: string, length: number): KArray => b.array(name, 'shared', accumulator, length);
    this.#queries = array('queries', rows * this.#steps * this.#deep);
    this.#weights = array('weights', rows * this.#blockGroups * this.#keyLanes);
    this.#sums = array('sums', rows * this.#columns * this.#wide);
    this.#buffers = partials?.declare(b, 'write');
    if (scalarBits[accumulator] < 32) throw new Error(`attention accumulated in ${accumulator}`);
  }

  lower(): LoweredKernel {
    const { batch } = this.#attention;
    return lowerRanges(this.#lowering, batch, this.#partials, 1, (at, split) => this.#task(at, split));
  }

  #task(batch: Affine, split: Affine): void {
    const lowering = this.#lowering;
    const { b } = lowering;
    const { rows, accumulator } = this.#attention;
    const wide = this.#wide;
    this.#packQueries(batch);
    const zero = b.constant(0, accumulator, wide);
    lowering.for(0, this.#sums.length / wide, 1, [], (i) => {
      b.store(this.#sums, i.scale(wide).emit(b), zero, true);
    });
    const firstGroup = split.scale(this.#taskGroups);
    const limit = this.#taskGroups === this.#groups ? this.#groups : this.#ends(firstGroup.add(this.#taskGroups));
    const begin = [
      ...range(rows).map(() => b.constant(smallest(accumulator), accumulator)),
      ...range(rows).map(() => b.constant(0, accumulator)),
    ];
    const from = firstGroup.isConstant ? firstGroup.constant : firstGroup.emit(b);
    const end = lowering.for(from, limit, this.#blockGroups, begin, (first, state) => {
      const past = first.add(this.#blockGroups);
      const count = this.#count(first, past, limit);
      this.#scores(batch, first, count);
      const { next, shrink } = this.#softmax(batch, first, count, state);
      this.#products(batch, first, count, shrink);
      return next;
    });
    this.#finish(batch, split, end.slice(0, rows), end.slice(rows));
  }

  #ends(group: Affine): KValue {
    const { b } = this.#lowering;
    return b.min(group.emit(b), b.constant(this.#groups));
  }

  /** Groups of the block from `first`. */
  #count(first: Affine, past: Affine, limit: KValue | number): KValue {
    const { b } = this.#lowering;
    if (typeof limit === 'number' && past.range.max <= limit) return b.constant(this.#blockGroups);
    const end = typeof limit === 'number' ? b.constant(limit) : limit;
    return b.clamp(b.sub(end, first.emit(b)), 1, this.#blockGroups);
  }

  #packQueries(batch: Affine): void {
    const lowering = this.#lowering;
    const { b } = lowering;
    const { rows, depth, accumulator } = this.#attention;
    const [deep, steps] = [this.#deep, this.#steps];
    for (const row of range(rows)) {
      for (const step of range(steps)) {
        const start = Math.min(step * deep, depth - deep);
        const d = Affine.lane(deep).add(start);
        const value = lowering.widen(queryAt(lowering, this.#attention, batch, Affine.constant(row), d, deep), deep);
        const repeated = step * deep - start;
        const kept =
          repeated === 0
            ? value
            : b.build(range(deep).map((i) => (i < repeated ? b.constant(0, accumulator) : b.extract(value, i))));
        b.store(this.#queries, b.constant((row * steps + step) * deep), kept, true);
      }
    }
  }

  /** First key of a group; the last group moves back to end at the last key. */
  #firstKey(group: Affine): Affine {
    const { b } = this.#lowering;
    const first = group.scale(this.#keyLanes);
    const last = this.#attention.keys - this.#keyLanes;
    return first.range.max <= last ? first : Affine.of(b.clamp(first.emit(b), 0, last), b);
  }

  #place(row: number, at: Affine): Affine {
    return at.scale(this.#keyLanes).add(row * this.#blockGroups * this.#keyLanes);
  }

  /** Raw scores of the groups of a block. */
  #scores(batch: Affine, first: Affine, count: KValue): void {
    const lowering = this.#lowering;
    const { b } = lowering;
    const { rows, depth, accumulator } = this.#attention;
    const [keyLanes, deep, steps] = [this.#keyLanes, this.#deep, this.#steps];
    lowering.for(0, count, 1, [], (at) => {
      const key = this.#firstKey(first.add(at));
      for (const row of range(rows)) {
        const zero = b.constant(0, accumulator, deep);
        const sums = lowering.for(
          0,
          steps,
          1,
          range(keyLanes).map(() => zero),
          (step, carried) => {
            const start = step.scale(deep);
            const inside = start.range.max + deep <= depth;
            const d = inside ? start : Affine.of(b.min(start.emit(b), b.constant(depth - deep)), b);
            const query = b.load(
              this.#queries,
              step
                .add(row * steps)
                .scale(deep)
                .emit(b),
              deep,
              true,
            );
            return carried.map((sum, i) => {
              const factor = keyAt(lowering, this.#attention, batch, key.add(i), d.add(Affine.lane(deep)), deep);
              return multiplyAdd(lowering, factor, query, sum);
            });
          },
        );
        b.store(this.#weights, this.#place(row, at).emit(b), this.#collapsed(sums), true);
      }
    });
  }

  /** One sum a lane; vectors may be shorter than they are many. */
  #collapsed(sums: readonly KValue[]): KValue {
    const { b } = this.#lowering;
    const { lanes } = sums[0].type;
    if (lanes === sums.length) return summed(b, sums);
    const parts = range(sums.length / lanes).map((i) => summed(b, sums.slice(i * lanes, (i + 1) * lanes)));
    return b.build(parts.flatMap((part) => range(lanes).map((lane) => b.extract(part, lane))));
  }

  /** Logits and weights of a block, by how much what came before shrinks, and the next largest logits and sums. */
  #softmax(
    batch: Affine,
    first: Affine,
    count: KValue,
    state: readonly KValue[],
  ): { readonly next: readonly KValue[]; readonly shrink: readonly KValue[] } {
    const lowering = this.#lowering;
    const { b } = lowering;
    const { rows, accumulator, keys } = this.#attention;
    const lanes = this.#keyLanes;
    const results = range(rows).map((row) => {
      const [before, sum] = [state[row], state[rows + row]];
      const [most] = lowering.for(0, count, 1, [b.splat(before, lanes)], (at, [carried]) => {
        const place = this.#place(row, at).emit(b);
        const key = this.#firstKey(first.add(at));
        const score = b.load(this.#weights, place, lanes, true);
        const index = { batch, row: Affine.constant(row), key: key.add(Affine.lane(lanes)) };
        const logit = logitOf(lowering, this.#attention, index, score);
        let own = logit;
        if (keys % lanes !== 0) {
          // Keys that the last group repeats are hidden.
          const repeated = b.sub(first.add(at).scale(lanes).emit(b), key.emit(b));
          const lane = lanes === 1 ? b.constant(0) : b.build(range(lanes).map((i) => b.constant(i)));
          const hidden = b.compare('lt', lane, b.splat(repeated, lanes));
          own = b.select(hidden, b.constant(Number.NEGATIVE_INFINITY, accumulator, lanes), logit);
        }
        if (own !== score) b.store(this.#weights, place, own, true);
        return [larger(b, carried, own)];
      });
      const largest = collapse(b, 'max', most);
      const shrink = b.unary('exp', b.sub(before, largest));
      const [total] = lowering.for(0, count, 1, [b.constant(0, accumulator, lanes)], (at, [carried]) => {
        const place = this.#place(row, at).emit(b);
        const logit = b.load(this.#weights, place, lanes, true);
        const weight = b.unary('exp', b.sub(logit, b.splat(largest, lanes)));
        b.store(this.#weights, place, weight, true);
        return [b.add(carried, weight)];
      });
      return { largest, shrink, sum: b.add(b.mul(sum, shrink), collapse(b, 'sum', total)) };
    });
    return {
      next: [...results.map(({ largest }) => largest), ...results.map(({ sum }) => sum)],
      shrink: results.map(({ shrink }) => shrink),
    };
  }

  /** Adds the weighted values of a block to the sums. */
  #products(batch: Affine, first: Affine, count: KValue, shrink: readonly KValue[]): void {
    const lowering = this.#lowering;
    const { b, target } = lowering;
    const { rows, width } = this.#attention;
    const [wide, columns, lanes] = [this.#wide, this.#columns, this.#keyLanes];
    const chunk = Math.max(1, Math.min(columns, Math.floor((target.vectorRegisters - 2) / (rows + 1))));
    for (let from = 0; from < columns; from += chunk) {
      const vectors = range(Math.min(chunk, columns - from)).map((i) => from + i);
      const place = (row: number, v: number): KValue => b.constant((row * columns + v) * wide);
      const initial = range(rows).flatMap((row) =>
        vectors.map((v) => b.mul(b.load(this.#sums, place(row, v), wide, true), b.splat(shrink[row], wide))),
      );
      const sums = lowering.for(0, count, 1, initial, (at, outer) => {
        const key = this.#firstKey(first.add(at));
        return lowering.for(0, lanes, 1, outer, (lane, carried) => {
          const values = vectors.map((v) => {
            const column = Affine.lane(wide).add(Math.min(v * wide, width - wide));
            return lowering.widen(valueAt(lowering, this.#attention, batch, key.add(lane), column, wide), wide);
          });
          return range(rows).flatMap((row) => {
            const weight = b.load(this.#weights, this.#place(row, at).add(lane).emit(b));
            return values.map((value, i) => multiplyAdd(lowering, weight, value, carried[row * vectors.length + i]));
          });
        });
      });
      range(rows).forEach((row) => {
        vectors.forEach((v, i) => {
          b.store(this.#sums, place(row, v), sums[row * vectors.length + i], true);
        });
      });
    }
  }

  #finish(batch: Affine, split: Affine, largest: readonly KValue[], totals: readonly KValue[]): void {
    const lowering = this.#lowering;
    const { b } = lowering;
    const { rows, width } = this.#attention;
    const [wide, columns] = [this.#wide, this.#columns];
    for (const row of range(rows)) {
      if (this.#partials && this.#buffers)
        this.#partials.storeState(
          lowering,
          this.#buffers.state,
          { batch, split, row: Affine.constant(row) },
          largest[row],
          totals[row],
        );
      lowering.for(0, columns, 1, [], (v) => {
        const sum = b.load(
          this.#sums,
          v
            .add(row * columns)
            .scale(wide)
            .emit(b),
          wide,
          true,
        );
        const from = v.scale(wide);
        const inside = from.range.max + wide <= width;
        const first = inside ? from : Affine.of(b.min(from.emit(b), b.constant(width - wide)), b);
        if (this.#partials && this.#buffers) {
          const at = this.#partials.sumAt(batch, split, Affine.constant(row), first);
          b.store(this.#buffers.sums, at.emit(b), sum);
          return;
        }
        const place = { batch, row: Affine.constant(row), w: first.add(Affine.lane(wide)) };
        storeResult(lowering, this.#group, this.#attention, place, b.div(sum, b.splat(totals[row], wide)));
      });
    }
  }
}
