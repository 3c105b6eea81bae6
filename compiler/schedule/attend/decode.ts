/**
 * Attention of few queries on GPUs: workgroups share the keys of a head, and a second kernel joins their results.
 *
 * A workgroup takes a range of keys that fits into shared memory as scores: an invocation a key for the scores, an
 * invocation a vector of columns (and a share of the keys) for the weighted values. Keys and values are read once.
 */
import type { Target } from '../../kernel/target.js';
import { type KArray, type KBuffer, type KValue, type Lanes, scalarBits } from '../../kernel/types.js';
import { Affine, delinearize } from '../affine.js';
import { multiplyAdd } from '../contract/contraction.js';
import { vector } from '../contract/tiling.js';
import type { Group } from '../group.js';
import type { LoweredKernel } from '../lowered.js';
import { Lowering } from '../lowering.js';
import { range } from '../tensors.js';
import { type Attention, keyAt, queryAt, storeResult, valueAt } from './attention.js';
import { lowerJoin, lowerRanges, type Partials, partialsOf } from './join.js';
import { logitOf } from './logits.js';
import { regrouped } from './regroup.js';
import { larger, smallest } from './softmax.js';

/** Queries that one pass over keys and values may serve. */
const mostRows = 8;
/** Bytes of shared memory for scores, at most and at least. */
const [mostScores, leastScores] = [8 << 10, 2 << 10];

const invocationsOf = (target: Target): number => Math.min(128, target.limits.workgroupInvocations);

/** Bytes of shared memory that are left for scores beside so many queries and what invocations exchange. */
function scoreBytes({ depth, accumulator }: Attention, target: Target, rows: number): number {
  const others = (rows * depth + invocationsOf(target) * vector) * (scalarBits[accumulator] / 8);
  return Math.min(mostScores, target.limits.sharedBytes - others);
}

/** The most queries that share a pass. */
const rowsThatFit = (attention: Attention, target: Target): number =>
  [8, 4, 2, 1].find((rows) => rows <= mostRows && scoreBytes(attention, target, rows) >= leastScores) ?? 0;

export const isDecode = (attention: Attention, target: Target): boolean =>
  attention.rows <= rowsThatFit(attention, target) && attention.width <= vector * invocationsOf(target);

export function lowerDecode(group: Group, target: Target, single: Attention): readonly LoweredKernel[] {
  const attention = regrouped(group, target, single, rowsThatFit(single, target));
  const { batch, rows, keys, accumulator } = attention;
  const most = Math.floor((scoreBytes(attention, target, rows) * 8) / scalarBits[accumulator] / rows);
  const wanted = Math.ceil((2 * target.parallelism) / batch);
  const least = Math.ceil(keys / most);
  const splits = Math.max(least, Math.min(wanted, Math.floor(keys / invocationsOf(target))), 1);
  const partials = splits > 1 ? partialsOf(attention, splits) : undefined;
  const first = new DecodeAttention(group, target, attention, partials).lower();
  return partials ? [first, lowerJoin(group, target, attention, partials)] : [first];
}

class DecodeAttention {
  readonly #group: Group;
  readonly #attention: Attention;
  readonly #partials: Partials | undefined;
  readonly #lowering: Lowering;
  readonly #invocations: number;
  readonly #local: Affine;
  /** Keys of a workgroup. */
  readonly #share: number;
  readonly #wide: Lanes;
  /** Vectors of a row of values, and shares of the keys that are added up side by side. */
  readonly #columns: number;
  readonly #sides: number;
  /** [row][d] */
  readonly #queries: KArray;
  /** [row][key]: scores, then weights. */
  readonly #weights: KArray;
  /** For sums over invocations. */
  readonly #parts: KArray;
  readonly #buffers: { readonly sums: KBuffer; readonly state: KBuffer } | undefined;

  constructor(group: Group, target: Target, attention: Attention, partials: Partials | undefined) {
    this.#group = group;
    this.#attention = attention;
    this.#partials = partials;
    this.#lowering = new Lowering(group, target);
    const { b } = this.#lowering;
    const { accumulator, rows, keys, depth, width } = attention;
    this.#invocations = invocationsOf(target);
    this.#local = Affine.of(b.builtin('local_id', 0, this.#invocations), b);
    this.#share = Math.ceil(keys / (partials?.splits ?? 1));
    this.#wide = width % vector === 0 ? vector : 1;
    this.#columns = Math.min(this.#invocations, width / this.#wide);
    this.#sides = 2 ** Math.floor(Math.log2(this.#invocations / this.#columns));
    const array = (name: string, length: number): KArray => b.array(name, 'shared', accumulator, length);
    this.#queries = array('queries', rows * depth);
    this.#weights = array('weights', rows * this.#share);
    this.#parts = array('parts', this.#invocations * vector);
    this.#buffers = partials?.declare(b, 'write');
  }

  lower(): LoweredKernel {
    const { batch } = this.#attention;
    return lowerRanges(this.#lowering, batch, this.#partials, this.#invocations, (at, split) =>
      this.#workgroup(at, split),
    );
  }

  #workgroup(batch: Affine, split: Affine): void {
    const { b } = this.#lowering;
    const { keys } = this.#attention;
    const first = split.scale(this.#share);
    const count =
      keys % this.#share === 0
        ? b.constant(this.#share)
        : b.clamp(b.sub(b.constant(keys), first.emit(b)), 0, this.#share);
    this.#stageQueries(batch);
    b.barrier();
    const largest = this.#scores(batch, first, count);
    const totals = this.#softmax(count, largest);
    b.barrier();
    this.#products(batch, split, first, count, largest, totals);
  }

  #stageQueries(batch: Affine): void {
    const lowering = this.#lowering;
    const { b } = lowering;
    const { rows, depth } = this.#attention;
    lowering.for(0, Math.ceil((rows * depth) / this.#invocations), 1, [], (i) => {
      lowering.guarded(i.scale(this.#invocations).add(this.#local), rows * depth, (flat) => {
        const [row, d] = delinearize(flat, [rows, depth]);
        b.store(this.#queries, flat.emit(b), queryAt(lowering, this.#attention, batch, row, d, 1));
      });
    });
  }

  #key(at: Affine): Affine {
    const { b } = this.#lowering;
    const last = this.#attention.keys - 1;
    return at.range.max <= last ? at : Affine.of(b.min(at.emit(b), b.constant(last)), b);
  }

  /** Keys of the workgroup, one an invocation. */
  #overKeys(
    count: KValue,
    initial: readonly KValue[],
    body: (at: Affine, carried: readonly KValue[]) => readonly KValue[],
  ): readonly KValue[] {
    const lowering = this.#lowering;
    const { b } = lowering;
    return lowering.for(this.#local.emit(b), count, this.#invocations, initial, (at, carried) => body(at, carried));
  }

  /** Logits of the workgroup's keys; returns the largest of each row. */
  #scores(batch: Affine, first: Affine, count: KValue): readonly KValue[] {
    const lowering = this.#lowering;
    const { b } = lowering;
    const { rows, depth, accumulator } = this.#attention;
    const lanes: Lanes = depth % vector === 0 ? vector : 1;
    const begin = range(rows).map(() => b.constant(smallest(accumulator), accumulator));
    const own = this.#overKeys(count, begin, (at, most) => {
      const key = this.#key(first.add(at));
      const zeros = range(rows).map(() => b.constant(0, accumulator, lanes));
      const sums = lowering.for(0, depth / lanes, 1, zeros, (step, carried) => {
        const d = step.scale(lanes);
        const keys = lowering.widen(
          keyAt(lowering, this.#attention, batch, key, d.add(Affine.lane(lanes)), lanes),
          lanes,
        );
        return carried.map((sum, row) => {
          const query = b.load(this.#queries, d.add(row * depth).emit(b), lanes, depth % lanes === 0);
          return multiplyAdd(lowering, query, keys, sum);
        });
      });
      return sums.map((sum, row) => {
        const score = range(lanes)
          .map((lane) => b.extract(sum, lane))
          .reduce((x, y) => b.add(x, y));
        const logit = logitOf(lowering, this.#attention, { batch, row: Affine.constant(row), key }, score);
        b.store(this.#weights, at.add(row * this.#share).emit(b), logit);
        return larger(b, most[row], logit);
      });
    });
    return own.map((most) => this.#combined(most, (x, y) => larger(b, x, y)));
  }

  /** A value of every invocation combined over the workgroup, in a tree. */
  #combined(own: KValue, combine: (x: KValue, y: KValue) => KValue): KValue {
    const lowering = this.#lowering;
    const { b } = lowering;
    const local = this.#local.emit(b);
    b.barrier();
    b.store(this.#parts, local, own);
    for (let half = this.#invocations / 2; half >= 1; half /= 2) {
      b.barrier();
      lowering.if(b.compare('lt', local, b.constant(half)), () => {
        const index = b.assume(local, 0, half - 1);
        b.store(this.#parts, index, combine(b.load(this.#parts, index), b.load(this.#parts, b.addc(index, half))));
      });
    }
    b.barrier();
    return b.load(this.#parts, b.constant(0));
  }

  #softmax(count: KValue, largest: readonly KValue[]): readonly KValue[] {
    const { b } = this.#lowering;
    const { accumulator } = this.#attention;
    const begin = largest.map(() => b.constant(0, accumulator));
    const own = this.#overKeys(count, begin, (at, totals) =>
      totals.map((total, row) => {
        const place = at.add(row * this.#share).emit(b);
        const weight = b.unary('exp', b.sub(b.load(this.#weights, place), largest[row]));
        b.store(this.#weights, place, weight);
        return b.add(total, weight);
      }),
    );
    return own.map((total) => this.#combined(total, (x, y) => b.add(x, y)));
  }

  #products(
    batch: Affine,
    split: Affine,
    first: Affine,
    count: KValue,
    largest: readonly KValue[],
    totals: readonly KValue[],
  ): void {
    const lowering = this.#lowering;
    const { b } = lowering;
    const { rows, accumulator } = this.#attention;
    const [wide, columns, sides] = [this.#wide, this.#columns, this.#sides];
    const [side, column] = delinearize(this.#local, [Math.ceil(this.#invocations / columns), columns]);
    const w = column.scale(wide);
    const begin = range(rows).map(() => b.constant(0, accumulator, wide));
    // Invocations beyond the last share begin behind the last key.
    const sideAt = side.emit(b);
    const works = side.range.max < sides ? undefined : b.compare('lt', sideAt, b.constant(sides));
    const end = works ? b.select(works, count, b.constant(0)) : count;
    const sums = lowering.for(sideAt, end, sides, begin, (at, carried) => {
      const limited = at.range.max < this.#share ? at : Affine.of(b.min(at.emit(b), b.constant(this.#share - 1)), b);
      const key = this.#key(first.add(limited));
      const values = valueAt(lowering, this.#attention, batch, key, w.add(Affine.lane(wide)), wide);
      return carried.map((sum, row) => {
        const weight = b.load(this.#weights, limited.add(row * this.#share).emit(b));
        return multiplyAdd(lowering, weight, lowering.widen(values, wide), sum);
      });
    });
    for (const row of range(rows)) {
      b.barrier();
      b.store(this.#parts, this.#local.scale(wide).emit(b), sums[row], true);
      b.barrier();
      lowering.if(b.compare('eq', sideAt, b.constant(0)), () => {
        const parts = range(sides).map((s) => {
          const at = column.add(s * columns).scale(wide);
          return b.load(this.#parts, at.emit(b), wide, true);
        });
        const sum = parts.reduce((x, y) => b.add(x, y));
        const place = { batch, split, row: Affine.constant(row) };
        if (this.#partials && this.#buffers) {
          b.store(this.#buffers.sums, this.#partials.sumAt(batch, split, place.row, w).emit(b), sum, wide > 1);
          const { partials, buffers } = { partials: this.#partials, buffers: this.#buffers };
          lowering.if(b.compare('eq', column.emit(b), b.constant(0)), () =>
            partials.storeState(lowering, buffers.state, place, largest[row], totals[row]),
          );
          return;
        }
        const at = { batch, row: place.row, w: w.add(Affine.lane(wide)) };
        storeResult(lowering, this.#group, this.#attention, at, b.div(sum, b.splat(totals[row], wide)));
      });
    }
  }
}
