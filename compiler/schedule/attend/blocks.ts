/**
 * Attention of many queries on a CPU, in one kernel and without the matrix of scores (Dao et al. 2022,
 * "FlashAttention", for one core and its caches).
 *
 * A task owns a block of queries of one head and walks over blocks of keys. Scores are computed with queries in the
 * lanes and keys as factors, so that keys are read as they lie in memory, maxima and sums of rows need no shuffles, and
 * the weights come out in the order [key][query] in which the second product takes them as factors, with the values'
 * columns in its lanes. Only queries are turned, once a task.
 */
import type { Target } from '../../kernel/target.js';
import { type KArray, type KValue, type Lanes, scalarBits } from '../../kernel/types.js';
import { Affine, delinearize } from '../affine.js';
import { multiplyAdd } from '../contract/contraction.js';
import { lanesFor } from '../contract/tiling.js';
import type { Group } from '../group.js';
import type { LoweredKernel } from '../lowered.js';
import { Lowering } from '../lowering.js';
import { widestWithin } from '../shares.js';
import { transposed } from '../shuffle.js';
import { range } from '../tensors.js';
import { type Attention, areRowsContiguous, keyAt, queryAt, rowsFor, storeResult, valueAt } from './attention.js';
import { type Band, bandOf } from './band.js';
import { logitOf } from './logits.js';
import { larger, smallest } from './softmax.js';

interface Tiling {
  /** Queries that blocks are cut from. */
  readonly inner: number;
  /** Queries in a vector, and vectors of a block of queries. */
  readonly lanes: Lanes;
  readonly vectors: number;
  readonly blockRows: number;
  /** Keys of a tile of scores. */
  readonly tileKeys: number;
  readonly blockKeys: number;
  /** Columns in a vector of values, vectors of a row, and how they are shared among tiles of results. */
  readonly wide: Lanes;
  readonly columns: number;
  readonly chunks: readonly { readonly first: number; readonly count: number }[];
  /** Queries of a tile of results. */
  readonly tileRows: number;
}

function chooseTiling(attention: Attention, target: Target): Tiling {
  const { batch, rows, keys, width, accumulator } = attention;
  const full = lanesFor({ accumulator }, target);
  const inner = rowsFor(attention, full);
  const lanes = widestWithin(Math.min(full, inner));
  const bytes = scalarBits[accumulator] / 8;
  const tasks = (vectors: number): number => batch * (rows / inner) * Math.ceil(inner / (vectors * lanes));
  const waste = (vectors: number): number => (Math.ceil(inner / (vectors * lanes)) * vectors * lanes) / inner;
  // Two vectors share the loads of keys; few queries, or few tasks, are better with one.
  const vectors = inner > lanes && waste(2) <= waste(1) * 1.1 && tasks(2) >= 2 * target.parallelism ? 2 : 1;
  const blockRows = vectors * lanes;
  const spare = target.vectorRegisters - 1;
  // Loads a multiply-add, and tiles that hang over the end.
  const keyCost = (count: number): number =>
    ((count + vectors) / (count * vectors)) * Math.max(1, 8 / (count * vectors)) * (Math.ceil(keys / count) * count);
  const tileKeys = [12, 8, 6, 4, 2, 1]
    .filter((count) => count * vectors + vectors + 1 <= spare)
    .reduce((best, count) => (keyCost(count) < keyCost(best) * 0.97 ? count : best));
  // The weights of a block stay in the first-level cache, beside the queries.
  const room = (target.caches[0]?.bytes ?? 32 << 10) / 2 / bytes / blockRows;
  const wanted = Math.max(4, Math.floor(Math.min(128, Math.max(32, room)) / tileKeys)) * tileKeys;
  const blockKeys = keys <= wanted * 1.5 ? Math.ceil(keys / tileKeys) * tileKeys : wanted;
  const wide = widestWithin(Math.min(full, width));
  const columns = Math.ceil(width / wide);
  let best = { count: 1, tileRows: 1, loads: Number.POSITIVE_INFINITY };
  for (const count of [1, 2, 3, 4]) {
    const tileRows = widestWithin(Math.min(blockRows, Math.floor((spare - 1 - count) / count)));
    const loads = (count + tileRows) / (count * tileRows);
    if (count <= columns && loads < best.loads) best = { count, tileRows, loads };
  }
  const parts = Math.ceil(columns / best.count);
  const chunks = range(parts).map((i) => {
    const first = Math.floor((i * columns) / parts);
    return { first, count: Math.floor(((i + 1) * columns) / parts) - first };
  });
  return {
    inner,
    lanes,
    vectors,
    blockRows,
    tileKeys,
    blockKeys,
    wide,
    columns,
    chunks,
    tileRows: best.tileRows,
  };
}

export function lowerBlocks(group: Group, target: Target, attention: Attention): LoweredKernel {
  return new BlockedAttention(group, target, attention).lower();
}

class BlockedAttention {
  readonly #group: Group;
  readonly #attention: Attention;
  readonly #tiling: Tiling;
  readonly #lowering: Lowering;
  readonly #inner: number;
  readonly #band: Band;
  /** [d][query] */
  readonly #queries: KArray;
  /** Raw scores, logits, then weights: [key][query]. */
  readonly #weights: KArray;
  /** Weighted sums: [query][column]. */
  readonly #sums: KArray;
  /** By query: what the sums so far shrink by, at the end what they are divided by. */
  readonly #factors: KArray;

  constructor(group: Group, target: Target, attention: Attention) {
    this.#group = group;
    this.#attention = attention;
    const tiling = chooseTiling(attention, target);
    this.#tiling = tiling;
    this.#lowering = new Lowering(group, target);
    const { b } = this.#lowering;
    const { accumulator, depth } = attention;
    const { blockRows, blockKeys, columns, wide } = tiling;
    this.#inner = tiling.inner;
    this.#band = bandOf(this.#lowering, attention, this.#inner);
    const array = (name: string, length: number): KArray => b.array(name, 'shared', accumulator, length);
    this.#queries = array('queries', depth * blockRows);
    this.#weights = array('weights', blockKeys * blockRows);
    this.#sums = array('sums', blockRows * columns * wide);
    this.#factors = array('factors', blockRows);
  }

  lower(): LoweredKernel {
    const { batch, rows } = this.#attention;
    const { blockRows } = this.#tiling;
    const inner = this.#inner;
    const blocks = Math.ceil(inner / blockRows);
    const counts = [batch, rows / inner, blocks];
    const lowering = this.#lowering;
    const grid = lowering.workgroups(batch * (rows / inner) * blocks, (task) => {
      const [batchAt, outer, block] = delinearize(task, counts);
      // The last queries see the most keys: they come first, so that no thread is left with them at the end.
      const turned = this.#band.high === undefined ? block : block.scale(-1).add(blocks - 1);
      this.#task(batchAt, outer.scale(inner), turned.scale(blockRows));
    });
    const kernel = lowering.finish(grid, [1, 1, 1]);
    return { kernel, bindings: lowering.bindings };
  }

  /** Vector c of a block's queries: the last ones move back to end at the last query. */
  #vectorRow(first: Affine, c: number): Affine {
    const { b } = this.#lowering;
    const { lanes } = this.#tiling;
    const row = first.add(c * lanes);
    const last = this.#inner - lanes;
    return row.range.max <= last ? row : Affine.of(b.min(row.emit(b), b.constant(last)), b);
  }

  #task(batch: Affine, outer: Affine, first: Affine): void {
    const lowering = this.#lowering;
    const { b } = lowering;
    const { accumulator, keys } = this.#attention;
    const { lanes, vectors, blockKeys, blockRows } = this.#tiling;
    const starts = range(vectors).map((c) => this.#vectorRow(first, c));
    const rows = starts.map((start) => outer.add(start).add(Affine.lane(lanes)));
    this.#packQueries(batch, rows);
    const blocks = Math.ceil(keys / blockKeys);
    const constant = (value: number): KValue => b.constant(value, accumulator, lanes);
    const begin = [
      ...range(vectors).map(() => constant(smallest(accumulator))),
      ...range(vectors).map(() => constant(0)),
    ];
    const { low, high } = this.#band.blocks(lowering, first, blockRows, blockKeys, keys);
    const several = blocks > 1;
    if (several) this.#clearSums();
    const end = lowering.for(low, high, 1, begin, (block, state) => {
      const firstKey = block.scale(blockKeys);
      const left = b.sub(b.constant(keys), firstKey.emit(b));
      const length = several ? Affine.of(b.clamp(left, 1, blockKeys), b) : Affine.constant(keys);
      this.#scores(batch, firstKey);
      const next = this.#softmax(batch, rows, firstKey, length, state, several);
      this.#products(batch, firstKey, length, several);
      return next;
    });
    range(vectors).forEach((c) => {
      b.store(this.#factors, b.constant(c * lanes), end[vectors + c], true);
    });
    this.#finish(batch, outer, first, starts);
  }

  /** [d][query] of the block's queries. */
  #packQueries(batch: Affine, rows: readonly Affine[]): void {
    const lowering = this.#lowering;
    const { b } = lowering;
    const { depth } = this.#attention;
    const { lanes, blockRows } = this.#tiling;
    const store = (d: Affine, c: number, value: KValue): void =>
      b.store(
        this.#queries,
        d
          .scale(blockRows)
          .add(c * lanes)
          .emit(b),
        lowering.widen(value, lanes),
        true,
      );
    if (depth < lanes || lanes === 1 || !areRowsContiguous(this.#attention, batch, rows[0])) {
      lowering.for(0, depth, 1, [], (d) => {
        rows.forEach((row, c) => {
          store(d, c, queryAt(lowering, this.#attention, batch, row, d, lanes));
        });
      });
      return;
    }
    // Squares of queries × depth are turned in registers; the last one moves back to end at the last element.
    lowering.for(0, Math.ceil(depth / lanes), 1, [], (step) => {
      const at = step.scale(lanes);
      const d = at.range.max + lanes <= depth ? at : Affine.of(b.min(at.emit(b), b.constant(depth - lanes)), b);
      rows.forEach((row, c) => {
        const vectors = range(lanes).map((lane) =>
          queryAt(lowering, this.#attention, batch, row.atLane(lane), d.add(Affine.lane(lanes)), lanes),
        );
        transposed(b, vectors).forEach((value, i) => {
          store(d.add(i), c, value);
        });
      });
    });
  }

  #clearSums(): void {
    const { b } = this.#lowering;
    const { accumulator } = this.#attention;
    const { wide } = this.#tiling;
    const zero = b.constant(0, accumulator, wide);
    this.#lowering.for(0, this.#sums.length / wide, 1, [], (i) => {
      b.store(this.#sums, i.scale(wide).emit(b), zero, true);
    });
  }

  /** A key of a block; what lies beyond the last one repeats it. */
  #key(at: Affine): Affine {
    const { b } = this.#lowering;
    const last = this.#attention.keys - 1;
    return at.range.max <= last ? at : Affine.of(b.min(at.emit(b), b.constant(last)), b);
  }

  /** Raw scores of a block of keys. */
  #scores(batch: Affine, firstKey: Affine): void {
    const lowering = this.#lowering;
    const { b } = lowering;
    const { depth, keys, accumulator } = this.#attention;
    const { lanes, vectors, blockRows, blockKeys, tileKeys } = this.#tiling;
    const zero = b.constant(0, accumulator, lanes);
    lowering.for(0, blockKeys / tileKeys, 1, [], (tile) => {
      lowering.guarded(firstKey.add(tile.scale(tileKeys)), keys, (first) => {
        const places = range(tileKeys).map((j) => this.#key(first.add(j)));
        const initial = range(tileKeys * vectors).map(() => zero);
        const sums = lowering.for(0, depth, 1, initial, (d, carried) => {
          const queries = range(vectors).map((c) =>
            b.load(
              this.#queries,
              d
                .scale(blockRows)
                .add(c * lanes)
                .emit(b),
              lanes,
              true,
            ),
          );
          return places.flatMap((key, j) => {
            const factor = keyAt(lowering, this.#attention, batch, key, d, 1);
            return queries.map((query, c) => multiplyAdd(lowering, factor, query, carried[j * vectors + c]));
          });
        });
        sums.forEach((sum, i) => {
          const at = tile.scale(tileKeys * blockRows).add(Math.floor(i / vectors) * blockRows + (i % vectors) * lanes);
          b.store(this.#weights, at.emit(b), sum, true);
        });
      });
    });
  }

  /** Logits and weights of a block; the next largest logits and sums of weights. */
  #softmax(
    batch: Affine,
    rows: readonly Affine[],
    firstKey: Affine,
    length: Affine,
    state: readonly KValue[],
    several: boolean,
  ): readonly KValue[] {
    const lowering = this.#lowering;
    const { b } = lowering;
    const { lanes, vectors, blockRows } = this.#tiling;
    const [before, sums] = [state.slice(0, vectors), state.slice(vectors)];
    const place = (key: Affine, c: number): KValue =>
      key
        .scale(blockRows)
        .add(c * lanes)
        .emit(b);
    const largest = lowering.for(0, length.emit(b), 1, before, (at, carried) => {
      const key = this.#key(firstKey.add(at));
      return carried.map((most, c) => {
        const score = b.load(this.#weights, place(at, c), lanes, true);
        const logit = logitOf(lowering, this.#attention, { batch, row: rows[c], key }, score);
        if (logit !== score) b.store(this.#weights, place(at, c), logit, true);
        return larger(b, most, logit);
      });
    });
    const shrink = several ? before.map((most, c) => b.unary('exp', b.sub(most, largest[c]))) : undefined;
    shrink?.forEach((factor, c) => {
      b.store(this.#factors, b.constant(c * lanes), factor, true);
    });
    const initial = shrink ? sums.map((sum, c) => b.mul(sum, shrink[c])) : sums;
    const totals = lowering.for(0, length.emit(b), 1, initial, (at, carried) =>
      carried.map((sum, c) => {
        const logit = b.load(this.#weights, place(at, c), lanes, true);
        const weight = b.unary('exp', b.sub(logit, largest[c]));
        b.store(this.#weights, place(at, c), weight, true);
        return b.add(sum, weight);
      }),
    );
    return [...largest, ...totals];
  }

  /** First column of vector v of a row of values; the last one moves back to fit. */
  #column(v: number): number {
    const { wide } = this.#tiling;
    return Math.min(v * wide, this.#attention.width - wide);
  }

  /** Adds the weighted values of a block to the sums. */
  #products(batch: Affine, firstKey: Affine, length: Affine, several: boolean): void {
    const lowering = this.#lowering;
    const { b } = lowering;
    const { accumulator } = this.#attention;
    const { blockRows, tileRows, wide, columns, chunks } = this.#tiling;
    const pitch = columns * wide;
    for (const { first, count } of chunks) {
      lowering.for(0, blockRows / tileRows, 1, [], (tile) => {
        const row = tile.scale(tileRows);
        const place = (r: number, v: number): KValue =>
          row
            .add(r)
            .scale(pitch)
            .add((first + v) * wide)
            .emit(b);
        const initial = range(tileRows).flatMap((r) => {
          if (!several) return range(count).map(() => b.constant(0, accumulator, wide));
          const factor = b.splat(b.load(this.#factors, row.add(r).emit(b)), wide);
          return range(count).map((v) => b.mul(b.load(this.#sums, place(r, v), wide, true), factor));
        });
        const sums = lowering.for(0, length.emit(b), 1, initial, (at, carried) => {
          const key = this.#key(firstKey.add(at));
          const values = range(count).map((v) => {
            const column = Affine.lane(wide).add(this.#column(first + v));
            return lowering.widen(valueAt(lowering, this.#attention, batch, key, column, wide), wide);
          });
          return range(tileRows).flatMap((r) => {
            const weight = b.load(this.#weights, at.scale(blockRows).add(row).add(r).emit(b));
            return values.map((value, v) => multiplyAdd(lowering, weight, value, carried[r * count + v]));
          });
        });
        sums.forEach((sum, i) => {
          b.store(this.#sums, place(Math.floor(i / count), i % count), sum, true);
        });
      });
    }
  }

  /** Divides by the sums of weights, epilogue, stores. */
  #finish(batch: Affine, outer: Affine, first: Affine, starts: readonly Affine[]): void {
    const lowering = this.#lowering;
    const { b } = lowering;
    const { lanes, wide, columns } = this.#tiling;
    const inner = this.#inner;
    starts.forEach((start, c) => {
      lowering.for(0, lanes, 1, [], (lane) => {
        const row = start.add(lane);
        const store = (): void => {
          const local = lane.add(c * lanes);
          const divisor = b.splat(b.load(this.#factors, local.emit(b)), wide);
          lowering.for(0, columns, 1, [], (v) => {
            const sum = b.load(
              this.#sums,
              local
                .scale(columns * wide)
                .add(v.scale(wide))
                .emit(b),
              wide,
              true,
            );
            const last = this.#attention.width - wide;
            const from = v.scale(wide);
            const column = from.range.max <= last ? from : Affine.of(b.min(from.emit(b), b.constant(last)), b);
            const place = { batch, row: outer.add(row), w: column.add(Affine.lane(wide)) };
            storeResult(lowering, this.#group, this.#attention, place, b.div(sum, divisor));
          });
        };
        // Queries that a vector repeats belong to the vector before.
        const own = first.add(c * lanes);
        if (own.range.max <= inner - lanes) store();
        else lowering.if(b.compare('ge', row.emit(b), own.emit(b)), store);
      });
    });
  }
}
