/**
 * Attention of many queries on GPUs without matrix units: FlashAttention's loop with register tiles and shared memory.
 *
 * A workgroup owns a block of queries of one head. Its invocations form a grid: `across` invocations share four queries,
 * `down` of such groups make the block. For each block of keys they compute 4 × 4 scores each from staged slices of
 * queries and keys, agree on the largest logits through shared memory, hand the weights to each other there, and add
 * weighted values, which they read from memory in vectors, to their own columns of the result.
 */
import type { Target } from '../../kernel/target.js';
import { type KArray, type KValue, type Lanes, scalarBits } from '../../kernel/types.js';
import { Affine, delinearize } from '../affine.js';
import { multiplyAdd } from '../contract/contraction.js';
import { vector } from '../contract/tiling.js';
import type { Group } from '../group.js';
import type { LoweredKernel } from '../lowered.js';
import { Lowering } from '../lowering.js';
import { range } from '../tensors.js';
import { type Attention, keyAt, queryAt, rowsFor, storeResult, valueAt } from './attention.js';
import { type Band, bandOf } from './band.js';
import { logitOf } from './logits.js';
import { larger, smallest } from './softmax.js';

interface Tiling {
  /** Invocations that share queries, and groups of them. */
  readonly across: number;
  readonly down: number;
  readonly blockRows: number;
  readonly blockKeys: number;
  /** Steps of the depth that are staged at once. */
  readonly slice: number;
  /** Columns in a vector of values, and vectors of an invocation. */
  readonly wide: Lanes;
  readonly columns: number;
}

/** Vectors of results that an invocation may hold, a query each. */
const mostColumns = 4;

/** A head with fewer queries is joined with those that share its keys. */
const leastRows = 16;

function tilingFor(attention: Attention, target: Target): Tiling | undefined {
  const { width, depth, accumulator } = attention;
  const invocations = Math.min(128, target.limits.workgroupInvocations);
  const wide: Lanes = width % vector === 0 ? vector : 1;
  const bytes = scalarBits[accumulator] / 8;
  const candidates = [8, 16, 32].flatMap((across): Tiling[] => {
    const down = invocations / across;
    const columns = Math.ceil(width / (wide * across));
    const [blockRows, blockKeys] = [down * vector, across * vector];
    const slice = Math.min(16, Math.ceil(depth / 4) * 4);
    const shared = (slice * (blockRows + blockKeys) + (blockKeys + across) * blockRows) * bytes;
    const fits = down >= 1 && Number.isInteger(down) && shared <= target.limits.sharedBytes;
    return fits && columns * wide <= mostColumns * vector
      ? [{ across, down, blockRows, blockKeys, slice, wide, columns }]
      : [];
  });
  // Large blocks of queries reuse keys and values the most, but not beyond the queries that there are.
  const rows = rowsFor(attention, leastRows);
  return candidates.find(({ blockRows }) => blockRows < 2 * rows) ?? candidates.at(-1);
}

/** Whether registers and shared memory have room for the results of a block. */
export const fitsShared = (attention: Attention, target: Target): boolean => tilingFor(attention, target) !== undefined;

export function lowerShared(group: Group, target: Target, attention: Attention): LoweredKernel {
  return new SharedAttention(group, target, attention, tilingFor(attention, target) as Tiling).lower();
}

/** Of a key block: the largest logits and the sums of weights by query, and results by query and vector of columns. */
interface State {
  readonly largest: KValue;
  readonly totals: KValue;
  readonly sums: readonly KValue[];
}

class SharedAttention {
  readonly #group: Group;
  readonly #attention: Attention;
  readonly #tiling: Tiling;
  readonly #lowering: Lowering;
  readonly #inner: number;
  readonly #band: Band;
  readonly #x: Affine;
  readonly #y: Affine;
  readonly #local: Affine;
  /** [d of the slice][query], [d of the slice][key]. */
  readonly #queries: KArray;
  readonly #keys: KArray;
  /** [key][query] */
  readonly #weights: KArray;
  /** What invocations that share queries tell each other: [across][query]. */
  readonly #parts: KArray;

  constructor(group: Group, target: Target, attention: Attention, tiling: Tiling) {
    this.#group = group;
    this.#attention = attention;
    this.#tiling = tiling;
    this.#lowering = new Lowering(group, target);
    const { b } = this.#lowering;
    const { across, down, blockRows, blockKeys, slice } = tiling;
    const { accumulator } = attention;
    this.#inner = rowsFor(attention, leastRows);
    this.#band = bandOf(this.#lowering, attention, this.#inner);
    this.#local = Affine.of(b.builtin('local_id', 0, across * down), b);
    [this.#y, this.#x] = delinearize(this.#local, [down, across]);
    const array = (name: string, length: number): KArray => b.array(name, 'shared', accumulator, length);
    this.#queries = array('queries', slice * blockRows);
    this.#keys = array('keys', slice * blockKeys);
    this.#weights = array('weights', blockKeys * blockRows);
    this.#parts = array('parts', across * blockRows);
  }

  lower(): LoweredKernel {
    const { batch, rows } = this.#attention;
    const { across, down, blockRows } = this.#tiling;
    const inner = this.#inner;
    const blocks = Math.ceil(inner / blockRows);
    const lowering = this.#lowering;
    const counts = [batch, rows / inner, blocks];
    const grid = lowering.workgroups(batch * (rows / inner) * blocks, (at) => {
      const [batchAt, outer, block] = delinearize(at, counts);
      const turned = this.#band.high === undefined ? block : block.scale(-1).add(blocks - 1);
      this.#workgroup(batchAt, outer.scale(inner), turned.scale(blockRows));
    });
    const kernel = lowering.finish(grid, [across * down, 1, 1]);
    return { kernel, bindings: lowering.bindings };
  }

  #limited(at: Affine, last: number): Affine {
    const { b } = this.#lowering;
    return at.range.max <= last ? at : Affine.of(b.min(at.emit(b), b.constant(last)), b);
  }

  #workgroup(batch: Affine, outer: Affine, first: Affine): void {
    const lowering = this.#lowering;
    const { b } = lowering;
    const { accumulator, keys } = this.#attention;
    const { blockRows, blockKeys, wide, columns } = this.#tiling;
    const own = first.add(this.#y.scale(vector));
    const rows = range(vector).map((r) => outer.add(this.#limited(own.add(r), this.#inner - 1)));
    const begin = [
      b.constant(smallest(accumulator), accumulator, vector),
      b.constant(0, accumulator, vector),
      ...range(vector * columns).map(() => b.constant(0, accumulator, wide)),
    ];
    const { low, high } = this.#band.blocks(lowering, first, blockRows, blockKeys, keys);
    const [, totals, ...sums] = lowering.for(low, high, 1, begin, (block, [largest, before, ...carried]) => {
      const firstKey = block.scale(blockKeys);
      const scores = this.#scores(batch, outer, first, firstKey);
      const logits = this.#logits(batch, rows, firstKey, scores);
      const next = this.#softmax(logits, { largest, totals: before, sums: carried });
      return [next.largest, next.totals, ...this.#products(batch, firstKey, next.sums)];
    });
    this.#finish(batch, outer, own, totals, sums);
  }

  /** Four by four scores: of each query a vector of keys. */
  #scores(batch: Affine, outer: Affine, first: Affine, firstKey: Affine): readonly KValue[] {
    const lowering = this.#lowering;
    const { b } = lowering;
    const { depth, accumulator } = this.#attention;
    const { slice, blockRows, blockKeys } = this.#tiling;
    const zeros = range(vector).map(() => b.constant(0, accumulator, vector));
    return lowering.for(0, Math.ceil(depth / slice), 1, zeros, (at, sums) => {
      const d = at.scale(slice);
      b.barrier();
      this.#stage(this.#queries, blockRows, d, (row, step, lanes) =>
        queryAt(
          lowering,
          this.#attention,
          batch,
          outer.add(this.#limited(first.add(row), this.#inner - 1)),
          step,
          lanes,
        ),
      );
      this.#stage(this.#keys, blockKeys, d, (key, step, lanes) =>
        keyAt(
          lowering,
          this.#attention,
          batch,
          this.#limited(firstKey.add(key), this.#attention.keys - 1),
          step,
          lanes,
        ),
      );
      b.barrier();
      return lowering.for(0, slice, 1, sums, (step, carried) => {
        const queries = b.load(this.#queries, step.scale(blockRows).add(this.#y.scale(vector)).emit(b), vector, true);
        const keys = b.load(this.#keys, step.scale(blockKeys).add(this.#x.scale(vector)).emit(b), vector, true);
        return carried.map((sum, r) => multiplyAdd(lowering, b.extract(queries, r), keys, sum));
      });
    });
  }

  /** Brings a slice of `count` rows to shared memory as [d][row]; zeros beyond the depth. */
  #stage(memory: KArray, count: number, d: Affine, element: (row: Affine, d: Affine, lanes: Lanes) => KValue): void {
    const lowering = this.#lowering;
    const { b } = lowering;
    const { depth, accumulator } = this.#attention;
    const { across, down, slice } = this.#tiling;
    const lanes: Lanes = depth % vector === 0 ? vector : 1;
    const invocations = across * down;
    const pieces = (count * slice) / lanes;
    lowering.for(0, Math.ceil(pieces / invocations), 1, [], (i) => {
      lowering.guarded(i.scale(invocations).add(this.#local), pieces, (piece) => {
        const [part, row] = delinearize(piece, [slice / lanes, count]);
        const step = d.add(part.scale(lanes));
        const whole = step.range.max + lanes <= depth;
        const at = whole ? step : this.#limited(step, depth - lanes);
        const value = lowering.widen(element(row, at.add(Affine.lane(lanes)), lanes), lanes);
        const inside = whole ? undefined : b.compare('lt', step.emit(b), b.constant(depth));
        range(lanes).forEach((lane) => {
          const one = b.extract(value, lane);
          const kept = inside ? b.select(inside, one, b.constant(0, accumulator)) : one;
          b.store(memory, part.scale(lanes).add(lane).scale(count).add(row).emit(b), kept);
        });
      });
    });
  }

  #logits(batch: Affine, rows: readonly Affine[], firstKey: Affine, scores: readonly KValue[]): readonly KValue[] {
    const lowering = this.#lowering;
    const { b } = lowering;
    const { keys, accumulator } = this.#attention;
    const first = firstKey.add(this.#x.scale(vector));
    const hidden = b.constant(Number.NEGATIVE_INFINITY, accumulator);
    if (keys % vector === 0) {
      // Vectors of keys are inside or outside as a whole.
      const key = this.#limited(first, keys - vector).add(Affine.lane(vector));
      const inside = first.range.max + vector <= keys ? undefined : b.compare('lt', first.emit(b), b.constant(keys));
      return scores.map((score, r) => {
        const logit = logitOf(lowering, this.#attention, { batch, row: rows[r], key }, score);
        return inside ? b.select(b.splat(inside, vector), logit, b.splat(hidden, vector)) : logit;
      });
    }
    return scores.map((score, r) =>
      b.build(
        range(vector).map((lane) => {
          const at = first.add(lane);
          const key = this.#limited(at, keys - 1);
          const logit = logitOf(lowering, this.#attention, { batch, row: rows[r], key }, b.extract(score, lane));
          return at === key ? logit : b.select(b.compare('lt', at.emit(b), b.constant(keys)), logit, hidden);
        }),
      ),
    );
  }

  /** Combines a value a query, held as a vector of four, over the invocations that share them. */
  #combined(own: KValue, combine: (x: KValue, y: KValue) => KValue): KValue {
    const { b } = this.#lowering;
    const { across, blockRows } = this.#tiling;
    const place = (x: Affine): KValue => x.scale(blockRows).add(this.#y.scale(vector)).emit(b);
    b.store(this.#parts, place(this.#x), own, true);
    b.barrier();
    return range(across)
      .map((x) => b.load(this.#parts, place(Affine.constant(x)), vector, true))
      .reduce(combine);
  }

  #softmax(logits: readonly KValue[], state: State): State {
    const lowering = this.#lowering;
    const { b } = lowering;
    const { blockRows, columns } = this.#tiling;
    const lanes = range(vector);
    // Column j: logits of key j, one a query.
    const byKey = lanes.map((j) => b.build(logits.map((logit) => b.extract(logit, j))));
    const own = byKey.reduce((most, logit) => larger(b, most, logit), state.largest);
    const largest = this.#combined(own, (x, y) => larger(b, x, y));
    const shrink = b.unary('exp', b.sub(state.largest, largest));
    const weights = byKey.map((logit) => b.unary('exp', b.sub(logit, largest)));
    weights.forEach((weight, j) => {
      const at = this.#x.scale(vector).add(j).scale(blockRows).add(this.#y.scale(vector));
      b.store(this.#weights, at.emit(b), weight, true);
    });
    const totals = weights.reduce((sum, weight) => b.add(sum, weight), b.mul(state.totals, shrink));
    const sums = state.sums.map((sum, i) =>
      b.mul(sum, lowering.widen(b.extract(shrink, Math.floor(i / columns)), sum.type.lanes)),
    );
    b.barrier();
    return { largest, totals, sums };
  }

  /** First column of the invocation's vector v. */
  #column(v: number): Affine {
    const { across, wide } = this.#tiling;
    return this.#x.add(v * across).scale(wide);
  }

  #products(batch: Affine, firstKey: Affine, initial: readonly KValue[]): readonly KValue[] {
    const lowering = this.#lowering;
    const { b } = lowering;
    const { keys, width } = this.#attention;
    const { blockRows, blockKeys, wide, columns } = this.#tiling;
    const count =
      keys % blockKeys === 0
        ? blockKeys
        : b.clamp(b.sub(b.constant(keys), firstKey.emit(b)), 1, Math.min(blockKeys, keys));
    return lowering.for(0, count, 1, initial, (at, sums) => {
      const key = this.#limited(firstKey.add(at), keys - 1);
      const weights = b.load(this.#weights, at.scale(blockRows).add(this.#y.scale(vector)).emit(b), vector, true);
      const values = range(columns).map((v) => {
        const column = this.#limited(this.#column(v), width - wide).add(Affine.lane(wide));
        return lowering.widen(valueAt(lowering, this.#attention, batch, key, column, wide), wide);
      });
      return range(vector).flatMap((r) =>
        values.map((value, v) => multiplyAdd(lowering, b.extract(weights, r), value, sums[r * columns + v])),
      );
    });
  }

  #finish(batch: Affine, outer: Affine, own: Affine, totals: KValue, sums: readonly KValue[]): void {
    const lowering = this.#lowering;
    const { b } = lowering;
    const { width } = this.#attention;
    const { wide, columns } = this.#tiling;
    b.barrier();
    const divisors = this.#combined(totals, (x, y) => b.add(x, y));
    for (const r of range(vector)) {
      lowering.guarded(own.add(r), this.#inner, (row) => {
        for (const v of range(columns)) {
          lowering.guarded(this.#column(v).div(wide), width / wide, (column) => {
            const place = { batch, row: outer.add(row), w: column.scale(wide).add(Affine.lane(wide)) };
            const divisor = lowering.widen(b.extract(divisors, r), wide);
            storeResult(lowering, this.#group, this.#attention, place, b.div(sums[r * columns + v], divisor));
          });
        }
      });
    }
  }
}
