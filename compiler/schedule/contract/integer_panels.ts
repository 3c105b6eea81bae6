/**
 * Products of matrices of bytes on a CPU: register tiles of `dot4` over panels of words (see `integers.ts`).
 *
 * A task owns a block of m × n. Vectors run along n: their words are a constant packed at upload, or a panel that the
 * task packs; words of single rows of the lhs likewise. The epilogue works on finished tiles in scratch memory, so a
 * result that is quantised again leaves as bytes.
 */
import type { Target } from '../../kernel/target.js';
import { type KArray, type KValue, ktype, type Lanes } from '../../kernel/types.js';
import { Affine, delinearize } from '../affine.js';
import type { Group } from '../group.js';
import type { DerivedConstant, LoweredKernel } from '../lowered.js';
import { Lowering } from '../lowering.js';
import { range } from '../tensors.js';
import { type Contraction, transposed } from './contraction.js';
import { finish } from './finish.js';
import { addBytes, flipWord, inOrder, joinBytes, loadWords, type PackedWords, packWords } from './integer_words.js';
import { type ByteProduct, type ByteSide, paddingOf, seeThrough } from './integers.js';
import { requantise } from './requantise.js';

interface Tiling {
  readonly lanes: Lanes;
  readonly tileM: number;
  readonly vectors: number;
  readonly tileN: number;
  /** Tiles of n and of m in a task's block. */
  readonly blockN: number;
  readonly blockM: number;
}

/** The kernel, or undefined where k is too long for a panel in scratch memory. */
export function lowerIntegerPanels(group: Group, target: Target, product: ByteProduct): LoweredKernel | undefined {
  const { m, n } = product.contraction;
  const turned = n < target.vectorLanes && m > n;
  const { contraction, lhs, rhs } = turned
    ? { contraction: transposed(product.contraction), lhs: product.rhs, rhs: product.lhs }
    : product;
  const oriented = { contraction, lhs, rhs };
  const tiling = tilingOf(oriented, target);
  return tiling && new IntegerPanels(group, target, oriented, tiling).lower();
}

/** Multiply-adds of a task that make up for handing it to another thread. */
const taskWork = 1 << 18;

function tilingOf({ contraction, lhs, rhs }: ByteProduct, target: Target): Tiling | undefined {
  const { batch, m, n, k } = contraction;
  const lanes = target.vectorLanes;
  const waste = (extent: number, tile: number) => (Math.ceil(extent / tile) * tile) / extent;
  let best = { tileM: 1, vectors: 1, score: Number.POSITIVE_INFINITY };
  for (const vectors of [1, 2, 3, 4, 6, 8]) {
    for (let tileM = 1; tileM <= 14 && (tileM <= m || tileM === 1); tileM++) {
      if (tileM * vectors + vectors + 2 > target.vectorRegisters) continue;
      const loads = (tileM + vectors) / (tileM * vectors);
      const latency = Math.max(1, 8 / (tileM * vectors));
      const score = waste(m, tileM) * waste(n, lanes * vectors) * latency * Math.max(1, loads) * (1 + 0.5 * loads);
      if (score < best.score - 1e-9) best = { tileM, vectors, score };
    }
  }
  const { tileM, vectors } = best;
  const tileN = lanes * vectors;
  const words = Math.ceil(k / 4);
  const [tilesM, tilesN] = [Math.ceil(m / tileM), Math.ceil(n / tileN)];
  const wordBytes = 4;
  const rows = lhs.from.kind === 'memory' ? (words + 1) * tileM * wordBytes : 0;
  const panel = rhs.from.kind === 'memory' ? (words + 1) * tileN * wordBytes : 0;
  const room = target.limits.sharedBytes - rows - tileM * tileN * wordBytes;
  if (panel > room || rows > target.limits.sharedBytes / 2) return undefined;
  // Half of the second-level cache for the panels, or for the constant columns that rows pass by.
  const cache = Math.min(room, (target.caches[1]?.bytes ?? 512 << 10) / 2);
  let blockN = Math.max(1, Math.min(tilesN, Math.floor(cache / ((words + 1) * tileN * wordBytes))));
  let blockM = tilesM;
  const worthwhile = Math.max(1, Math.floor((batch * m * n * k) / taskWork));
  const wanted = Math.min(target.parallelism * 4, worthwhile);
  const tasks = () => batch * Math.ceil(tilesM / blockM) * Math.ceil(tilesN / blockN);
  // Columns are split first, since rows that share a panel save packing it.
  while (tasks() < wanted && blockN > 1) blockN = Math.ceil(blockN / 2);
  while (tasks() < Math.min(target.parallelism, worthwhile) && blockM > 1) blockM = Math.ceil(blockM / 2);
  return { lanes, tileM, vectors, tileN, blockN, blockM };
}

class IntegerPanels {
  readonly #group: Group;
  readonly #contraction: Contraction;
  readonly #lhs: ByteSide;
  readonly #rhs: ByteSide;
  readonly #tiling: Tiling;
  readonly #lowering: Lowering;
  readonly #words: number;
  readonly #packedLhs: PackedWords | undefined;
  readonly #packedRhs: PackedWords | undefined;
  /** Packed by the task, in the form of `integer_words.ts`. */
  readonly #panel: KArray | undefined;
  readonly #rows: KArray | undefined;
  readonly #sums: KArray;

  constructor(group: Group, target: Target, product: ByteProduct, tiling: Tiling) {
    const { contraction, lhs, rhs } = product;
    const { k } = contraction;
    this.#group = group;
    this.#contraction = contraction;
    this.#lhs = lhs;
    this.#rhs = rhs;
    this.#tiling = tiling;
    this.#words = Math.ceil(k / 4);
    const { tileM, tileN, blockN } = tiling;
    this.#packedLhs = packWords(lhs, rhs, k, tileM, this.#words, inOrder(k));
    this.#packedRhs = packWords(rhs, lhs, k, tileN, this.#words, inOrder(k));
    const derived = new Map<number, DerivedConstant>();
    if (this.#packedLhs) derived.set(lhs.operand.value.id, this.#packedLhs.constant);
    if (this.#packedRhs) derived.set(rhs.operand.value.id, this.#packedRhs.constant);
    this.#lowering = new Lowering(group, target, derived);
    seeThrough(this.#lowering, product);
    requantise(this.#lowering, group, target);
    const { b } = this.#lowering;
    const lines = this.#words + 1;
    this.#panel = this.#packedRhs ? undefined : b.array('panel', 'shared', 'u32', blockN * lines * tileN);
    this.#rows = this.#packedLhs ? undefined : b.array('rows', 'shared', 'u32', lines * tileM);
    this.#sums = b.array('sums', 'shared', 'i32', tileM * tileN);
  }

  lower(): LoweredKernel {
    const { batch, m, n } = this.#contraction;
    const { tileM, tileN, blockN, blockM } = this.#tiling;
    const lowering = this.#lowering;
    const [tilesM, tilesN] = [Math.ceil(m / tileM), Math.ceil(n / tileN)];
    const counts = [batch, Math.ceil(tilesN / blockN), Math.ceil(tilesM / blockM)];
    const overTiles = (count: number, first: Affine, total: number, body: (tile: Affine, at: Affine) => void) =>
      lowering.for(0, count, 1, [], (i) => lowering.guarded(first.add(i), total, (tile) => body(tile, i)));
    const grid = lowering.workgroups(counts[0] * counts[1] * counts[2], (task) => {
      const [batchAt, columns, rows] = delinearize(task, counts);
      const { lhs: ownRows, rhs: ownColumns } = this.#batches(batchAt);
      if (this.#panel) overTiles(blockN, columns.scale(blockN), tilesN, (tile, i) => this.#packPanel(batchAt, tile, i));
      overTiles(blockM, rows.scale(blockM), tilesM, (row) => {
        if (this.#rows) this.#packRows(batchAt, row);
        overTiles(blockN, columns.scale(blockN), tilesN, (column, i) => {
          this.#multiply(ownRows.add(row), this.#panel ? i : ownColumns.add(column));
          this.#finish(batchAt, row, column);
        });
      });
    });
    return { kernel: lowering.finish(grid, [1, 1, 1]), bindings: lowering.bindings };
  }

  /** First tiles of a batch in the packed constants. */
  #batches(batch: Affine): { readonly lhs: Affine; readonly rhs: Affine } {
    const first = (side: ByteSide, packed: PackedWords | undefined) =>
      packed ? side.batchOf(batch).scale(packed.tiles) : Affine.constant(0);
    return { lhs: first(this.#lhs, this.#packedLhs), rhs: first(this.#rhs, this.#packedRhs) };
  }

  /** What is added to all sums where no constant has it in its first line. */
  get #common(): number {
    return this.#packedRhs ? 0 : this.#contraction.k * this.#lhs.zero * this.#rhs.zero;
  }

  /** Words of `lanes` columns from `column` on at slot `place` of the panel; the bytes come from `read`. */
  #packColumns(place: (line: Affine) => Affine, lanes: Lanes, read: (k: Affine) => KValue): void {
    const lowering = this.#lowering;
    const { b } = lowering;
    const { k } = this.#contraction;
    const [lhs, rhs] = [this.#lhs, this.#rhs];
    const panel = this.#panel as KArray;
    const store = (word: Affine, value: KValue) => b.store(panel, place(word.add(1)).emit(b), value);
    const whole = Math.floor(k / 4);
    const needsSums = lhs.zero !== 0;
    const initial = needsSums ? [b.constant(0, 'i32', lanes)] : [];
    const count = (word: KValue, sums: readonly KValue[]) => sums.map((sum) => addBytes(lowering, word, sum, rhs, lhs));
    let sums = lowering.for(0, whole, 1, initial, (word, carried) => {
      const value = joinBytes(
        lowering,
        range(4).map((i) => lowering.widen(read(word.scale(4).add(i)), lanes)),
        rhs,
      );
      store(word, value);
      return count(value, carried);
    });
    if (k % 4 !== 0) {
      const bytes = range(k % 4).map((i) => lowering.widen(read(Affine.constant(4 * whole + i)), lanes));
      const value = b.and(joinBytes(lowering, bytes, rhs), b.constant(2 ** (8 * (k % 4)) - 1, 'u32', lanes));
      store(Affine.constant(whole), value);
      sums = count(value, sums);
    }
    for (const sum of sums) {
      const share = b.mul(sum, b.constant(-lhs.zero, 'i32', lanes));
      b.store(panel, place(Affine.constant(0)).emit(b), b.bitcast(share, ktype('u32', lanes)));
    }
  }

  /** `tileN` columns of the rhs at slot `i` of the panel. */
  #packPanel(batch: Affine, tile: Affine, i: Affine): void {
    const lowering = this.#lowering;
    const { b } = lowering;
    const { n } = this.#contraction;
    const { tileN, lanes, vectors } = this.#tiling;
    const { operand } = this.#rhs;
    const padding = paddingOf(b, this.#rhs);
    const lines = this.#words + 1;
    lowering.for(0, vectors, 1, [], (v) => {
      const place = (from: Affine) => (line: Affine) => i.scale(lines).add(line).scale(tileN).add(from);
      const columns = (first: Affine, at: Affine) =>
        this.#packColumns(place(at), lanes, (k) =>
          operand.stored(lowering, { batch, row: first.add(Affine.lane(lanes)), k }, lanes, padding),
        );
      this.#vector(tile, v, {
        whole: columns,
        partial: (first, at) => {
          // Columns beyond the end repeat the last one.
          const value = first.emit(b);
          const places = range(lanes).map((lane) => Affine.of(b.min(b.addc(value, lane), b.constant(n - 1)), b));
          this.#packColumns(place(at), lanes, (k) =>
            b.build(places.map((row) => operand.stored(lowering, { batch, row, k }, 1, padding))),
          );
        },
      });
    });
  }

  /**
   * Vector `v` of a tile: its first column and its place in the tile. The last one of a row moves back to end with the
   * row; what has no room for that in its tile is `partial`.
   */
  #vector(
    tile: Affine,
    v: Affine,
    body: Readonly<Record<'whole' | 'partial', (first: Affine, at: Affine) => void>>,
  ): void {
    const lowering = this.#lowering;
    const { b } = lowering;
    const { n } = this.#contraction;
    const { tileN, lanes } = this.#tiling;
    const at = v.scale(lanes);
    const first = tile.scale(tileN).add(at);
    if (first.range.max + lanes <= n) {
      body.whole(first, at);
      return;
    }
    const value = first.emit(b);
    const last = () =>
      lowering.if(b.compare('lt', value, b.constant(n)), () => {
        const moved = (n % tileN || tileN) - lanes;
        if (moved >= 0) body.whole(Affine.constant(n - lanes), Affine.constant(moved));
        else body.partial(Affine.of(b.assume(value, Math.max(0, n - lanes + 1), n - 1), b), at);
      });
    if (n < lanes) last();
    else
      lowering.if(
        b.compare('le', value, b.constant(n - lanes)),
        () => body.whole(Affine.of(b.assume(value, 0, n - lanes), b), at),
        last,
      );
  }

  /** `tileM` rows of the lhs. */
  #packRows(batch: Affine, tile: Affine): void {
    const lowering = this.#lowering;
    const { b } = lowering;
    const { k, m } = this.#contraction;
    const { tileM } = this.#tiling;
    const [lhs, rhs] = [this.#lhs, this.#rhs];
    const rows = this.#rows as KArray;
    const whole = Math.floor(k / 4);
    const padding = paddingOf(b, lhs);
    lowering.for(0, tileM, 1, [], (r) => {
      const at = tile.scale(tileM).add(r);
      const row = at.range.max < m ? at : Affine.of(b.min(at.emit(b), b.constant(m - 1)), b);
      const place = (line: Affine) => line.scale(tileM).add(r).emit(b);
      const needsSums = rhs.zero !== 0;
      const count = (word: KValue, sums: readonly KValue[]) =>
        sums.map((sum) => addBytes(lowering, word, sum, lhs, rhs));
      const byte = (step: Affine) => lhs.operand.stored(lowering, { batch, row, k: step }, 1, padding);
      let sums = lowering.for(0, whole, 1, needsSums ? [b.constant(0, 'i32')] : [], (word, carried) => {
        const first = word.scale(4);
        const stored = lowering.widen(
          lhs.operand.stored(lowering, { batch, row, k: first.add(Affine.lane(4)) }, 4, padding),
          4,
        );
        const value = flipWord(b, b.bitcast(stored, ktype('u32')), lhs);
        b.store(rows, place(word.add(1)), value);
        return count(value, carried);
      });
      if (k % 4 !== 0) {
        const bytes = range(k % 4).map((i) => byte(Affine.constant(4 * whole + i)));
        const value = b.and(joinBytes(lowering, bytes, lhs), b.constant(2 ** (8 * (k % 4)) - 1, 'u32'));
        b.store(rows, place(Affine.constant(whole + 1)), value);
        sums = count(value, sums);
      }
      for (const sum of sums) {
        const share = b.addc(b.mulc(sum, -rhs.zero), this.#common);
        b.store(rows, place(Affine.constant(0)), b.bitcast(share, ktype('u32')));
      }
    });
  }

  /** Multiplies a tile of each side, by its place, and leaves the sums in scratch memory. */
  #multiply(row: Affine, column: Affine): void {
    const lowering = this.#lowering;
    const { b } = lowering;
    const { lanes, tileM, tileN, vectors } = this.#tiling;
    const [lhs, rhs] = [this.#lhs, this.#rhs];
    const lines = this.#words + 1;
    const rows = this.#rows ?? lowering.buffer(lhs.operand.value);
    const columns = this.#panel ?? lowering.buffer(rhs.operand.value);
    if (!rows || !columns) throw new Error('a packed side is not bound');
    const rowBase = this.#rows ? Affine.constant(0) : row.scale(lines * tileM);
    const columnBase = column.scale(lines * tileN);
    const factor = (line: Affine, r: number) =>
      loadWords(lowering, rows, rowBase.add(line.scale(tileM)).add(r), 1, false);
    const vector = (line: Affine, v: number) =>
      loadWords(lowering, columns, columnBase.add(line.scale(tileN)).add(v * lanes), lanes, true);
    const first = Affine.constant(0);
    const share = (word: KValue) => b.bitcast(word, ktype('i32', word.type.lanes));
    const zero = b.constant(0, 'i32', lanes);
    const ofRows = range(tileM).map((r) => (rhs.zero === 0 ? undefined : b.splat(share(factor(first, r)), lanes)));
    const ofColumns = range(vectors).map((v) => (lhs.zero === 0 ? undefined : share(vector(first, v))));
    const initial = ofRows.flatMap((own) =>
      ofColumns.map((other) => (own && other ? b.add(own, other) : (own ?? other ?? zero))),
    );
    const sums = lowering.for(0, this.#words, 1, initial, (word, carried) => {
      const line = word.add(1);
      const loaded = range(vectors).map((v) => vector(line, v));
      return range(tileM).flatMap((r) => {
        const value = b.splat(factor(line, r), lanes);
        return loaded.map((other, v) => b.dot4(other, value, carried[r * vectors + v], rhs.type, lhs.type));
      });
    });
    sums.forEach((sum, i) => {
      b.store(this.#sums, b.constant(i * lanes), sum, true);
    });
  }

  /** Epilogue and stores of the tile. */
  #finish(batch: Affine, row: Affine, column: Affine): void {
    const lowering = this.#lowering;
    const { b } = lowering;
    const { m, n } = this.#contraction;
    const { lanes, tileM, tileN, vectors } = this.#tiling;
    lowering.for(0, tileM, 1, [], (r) =>
      lowering.guarded(row.scale(tileM).add(r), m, (rowAt) => {
        const store = (first: Affine, at: Affine, width: Lanes): void => {
          const sum = b.load(this.#sums, r.scale(tileN).add(at).emit(b), width);
          finish(
            lowering,
            this.#group,
            this.#contraction,
            { batch, m: rowAt, n: first.add(Affine.lane(width)) },
            sum,
            width,
          );
        };
        lowering.for(0, vectors, 1, [], (v) =>
          this.#vector(column, v, {
            whole: (first, at) => store(first, at, lanes),
            partial: (first, at) =>
              lowering.for(0, lanes, 1, [], (lane) =>
                lowering.guarded(first.add(lane), n, (columnAt) => store(columnAt, at.add(lane), 1)),
              ),
          }),
        );
      }),
    );
  }
}
