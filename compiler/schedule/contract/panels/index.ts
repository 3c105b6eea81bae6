/**
 * Matrix products on a CPU: register tiles over panels (Goto & van de Geijn 2008, "Anatomy of high-performance matrix
 * multiplication").
 *
 * A task owns a block of m × n and keeps tileM × tileN accumulators in vector registers while it walks along k: in each
 * step it multiplies an element of each of its rows (`rows.ts`) by the vectors of its columns (`columns.ts`). The
 * epilogue works on finished tiles in scratch memory.
 */
import type { Target } from '../../../kernel/target.js';
import type { KArray, KValue, Lanes } from '../../../kernel/types.js';
import { Affine, delinearize } from '../../affine.js';
import type { Group } from '../../group.js';
import type { LoweredKernel } from '../../lowered.js';
import { Lowering } from '../../lowering.js';
import { range } from '../../tensors.js';
import { type Contraction, contractionOf, multiplyAdd, transposed } from '../contraction.js';
import { finish } from '../finish.js';
import { writesChannelsLast } from '../image/index.js';
import { lanesFor } from '../tiling.js';
import type { Block } from './block.js';
import { Columns, columnCost, columnsKind, packsColumns } from './columns.js';
import { Rows, type RowTile, rowCost, rowsInPlace, rowsKind } from './rows.js';
import { chooseTiling, type Tiling } from './tiling.js';

export function lowerPanels(group: Group, target: Target): LoweredKernel {
  return new PanelContraction(group, target, oriented(contractionOf(group), group, target)).lower();
}

/** Vector lanes run along n, neighbours in memory: the problem is turned round where n is too short for them. */
function oriented(contraction: Contraction, group: Group, target: Target): Contraction {
  const { m, n } = contraction;
  if (writesChannelsLast(group)) return transposed(contraction);
  return n < lanesFor(contraction, target) && m > n ? transposed(contraction) : contraction;
}

/** True if columns reach the registers without being packed by the task: then few rows are enough. */
export function streams(group: Group, target: Target): boolean {
  const contraction = oriented(contractionOf(group), group, target);
  const lanes = lanesFor(contraction, target);
  return contraction.n >= lanes && ['constant', 'memory', 'rows'].includes(columnsKind(group, contraction, lanes));
}

/** Vectors of sums that hide how long a multiply-add takes. */
const independentSums = 8;

class PanelContraction {
  readonly #group: Group;
  readonly #contraction: Contraction;
  readonly #tiling: Tiling;
  readonly #lowering: Lowering;
  readonly #rows: Rows;
  readonly #columns: Columns;
  readonly #sums: KArray;
  readonly #blocks: number;

  constructor(group: Group, target: Target, contraction: Contraction) {
    this.#group = group;
    this.#contraction = contraction;
    const { lhs, rhs, accumulator } = contraction;
    const lanes = lanesFor(contraction, target);
    const columns = columnsKind(group, contraction, lanes);
    const tiling = chooseTiling(contraction, target, {
      rowsInPlace: rowsInPlace(group, contraction, target),
      row: (tileM) => rowCost(rowsKind(group, contraction, target, tileM), contraction, target),
      column: columnCost(columns, contraction, target),
      packsColumns: packsColumns(columns),
    });
    const rows = rowsKind(group, contraction, target, tiling.tileM);
    this.#tiling = tiling;
    const { tileM, tileN, blockK, panelN, blockM } = tiling;
    const packed = [
      [lhs.value.id, Rows.packed(rows, group, contraction, tileM)],
      [rhs.value.id, Columns.packed(columns, group, contraction, tileN)],
    ] as const;
    this.#lowering = new Lowering(group, target, new Map(packed.flatMap(([id, data]) => (data ? [[id, data]] : []))));
    this.#columns = new Columns(this.#lowering, contraction, tiling, columns);
    this.#blocks = Math.ceil(contraction.k / blockK);
    const tiles = this.#blocks > 1 ? blockM * panelN : 1;
    this.#sums = this.#lowering.b.array('sums', 'shared', accumulator, tiles * tileM * tileN);
    this.#rows = new Rows(this.#lowering, contraction, tiling, rows);
  }

  lower(): LoweredKernel {
    const { batch, m, n } = this.#contraction;
    const { tileM, tileN, blockM, panelN, panels } = this.#tiling;
    const blocksM = Math.ceil(Math.ceil(m / tileM) / blockM);
    const blocksN = Math.ceil(Math.ceil(n / tileN) / (panelN * panels));
    const grid = this.#lowering.workgroups(batch * blocksM * blocksN, (task) => {
      const [batchAt, columnBlock, rowBlock] = delinearize(task, [batch, blocksN, blocksM]);
      this.#task(batchAt, rowBlock.scale(blockM), columnBlock.scale(panels));
    });
    const kernel = this.#lowering.finish(grid, [1, 1, 1]);
    return { kernel, bindings: this.#lowering.bindings };
  }

  /** `rowTile` and `firstPanel`: where the task's block begins. */
  #task(batch: Affine, rowTile: Affine, firstPanel: Affine): void {
    const { n } = this.#contraction;
    const { tileN, panelN, panels } = this.#tiling;
    const total = Math.ceil(Math.ceil(n / tileN) / panelN);
    this.#lowering.for(0, panels, 1, [], (at) =>
      this.#lowering.guarded(firstPanel.add(at), total, (panel) =>
        this.#onePanel(batch, rowTile, panel.scale(panelN), at),
      ),
    );
  }

  /** All rows of a task by its panel number `at`, which begins with tile `columnTile`. */
  #onePanel(batch: Affine, rowTile: Affine, columnTile: Affine, at: Affine): void {
    const lowering = this.#lowering;
    const { m, n, k } = this.#contraction;
    const { tileM, tileN, blockM, blockK, panelN, lanes } = this.#tiling;
    const single = this.#blocks === 1;
    const over = (count: number, first: Affine, total: number, body: (tile: Affine, at: Affine) => void) =>
      lowering.for(0, count, 1, [], (i) => lowering.guarded(first.add(i), total, (tile) => body(tile, i)));
    const overRows = (body: (rows: RowTile) => void) =>
      over(blockM, rowTile, Math.ceil(m / tileM), (tile, at) => body(this.#rows.tile(batch, tile, at)));
    const overColumns = (body: (tile: Affine, at: Affine) => void) =>
      over(panelN, columnTile, Math.ceil(n / tileN), body);
    const slotOf = ({ slot }: RowTile, ni: Affine): Affine =>
      single
        ? Affine.constant(0)
        : slot
            .scale(panelN)
            .add(ni)
            .scale(tileM * tileN);
    const multiply = (block: Block): void => {
      this.#columns.prepare(batch, columnTile, block);
      overRows((rows) => {
        this.#rows.prepare(rows, block, at);
        overColumns((column, ni) => {
          this.#tile(rows, column, ni, block, slotOf(rows, ni));
          if (single) this.#finish(rows, column, slotOf(rows, ni));
        });
      });
    };
    if (single) {
      multiply({ first: Affine.constant(0), length: Affine.constant(k), most: k });
      return;
    }
    lowering.for(0, this.#sums.length / lanes, 1, [], (i) =>
      lowering.b.store(this.#sums, i.scale(lanes).emit(lowering.b), this.#zero(), true),
    );
    lowering.for(0, this.#blocks, 1, [], (i) => {
      const first = i.scale(blockK);
      multiply({ first, length: this.#lengthFrom(first), most: blockK });
    });
    overRows((rows) => overColumns((column, ni) => this.#finish(rows, column, slotOf(rows, ni))));
  }

  #lengthFrom(first: Affine): Affine {
    const { b } = this.#lowering;
    const { k } = this.#contraction;
    const { blockK } = this.#tiling;
    if (k % blockK === 0) return Affine.constant(blockK);
    return Affine.of(b.clamp(b.sub(b.constant(k), first.emit(b)), 1, blockK), b);
  }

  #zero(): KValue {
    return this.#lowering.b.zero(this.#contraction.accumulator, this.#tiling.lanes);
  }

  /** Multiplies one tile over a block and leaves its sums in scratch memory at `slot`: [tileM][tileN]. */
  #tile(rows: RowTile, column: Affine, panel: Affine, block: Block, slot: Affine): void {
    const lowering = this.#lowering;
    const { b } = lowering;
    const { lanes, tileM, tileN, vectors } = this.#tiling;
    const place = (i: number) => slot.add(Math.floor(i / vectors) * tileN + (i % vectors) * lanes).emit(b);
    const initial = range(tileM * vectors).map((i) =>
      this.#blocks > 1 ? b.load(this.#sums, place(i), lanes, true) : this.#zero(),
    );
    const columns = this.#columns.of(rows.batch, column, panel, block);
    const advance = (step: Affine, carried: readonly KValue[]): KValue[] => {
      const loaded = columns(step);
      return range(tileM).flatMap((r) => {
        const factor = this.#rows.factor(rows, block, step, r);
        return loaded.map((value, v) => multiplyAdd(lowering, factor, value, carried[r * vectors + v]));
      });
    };
    const sums = this.#overSteps(block, initial, advance);
    sums.forEach((sum, i) => {
      b.store(this.#sums, place(i), sum, true);
    });
  }

  /** The steps of a block; small tiles take several at a time, with sums of their own that do not wait for each other. */
  #overSteps(
    { length }: Block,
    initial: readonly KValue[],
    advance: (step: Affine, carried: readonly KValue[]) => readonly KValue[],
  ): readonly KValue[] {
    const lowering = this.#lowering;
    const { b } = lowering;
    const chains = Math.max(1, Math.floor(independentSums / initial.length));
    if (chains === 1 || !length.isConstant || length.constant < 2 * chains)
      return lowering.for(0, length.emit(b), 1, initial, (step, carried) => advance(step, carried));
    const whole = Math.floor(length.constant / chains);
    const zeros = range((chains - 1) * initial.length).map(() => this.#zero());
    const parts = lowering.for(0, whole, 1, [...initial, ...zeros], (i, carried) =>
      range(chains).flatMap((c) =>
        advance(i.scale(chains).add(c), carried.slice(c * initial.length, (c + 1) * initial.length)),
      ),
    );
    const sums = initial.map((_, i) =>
      range(chains)
        .map((c) => parts[c * initial.length + i])
        .reduce((sum, part) => b.add(sum, part)),
    );
    return range(length.constant - whole * chains).reduce<readonly KValue[]>(
      (carried, rest) => advance(Affine.constant(whole * chains + rest), carried),
      sums,
    );
  }

  /** Epilogue and stores of one finished tile. */
  #finish({ batch, tile, start }: RowTile, column: Affine, slot: Affine): void {
    const lowering = this.#lowering;
    const { b } = lowering;
    const { n } = this.#contraction;
    const { lanes, tileM, tileN, vectors, panelN, panels } = this.#tiling;
    const { overlaps } = this.#columns;
    const store = (rowAt: Affine, columnAt: Affine, sum: KValue, width: Lanes): void =>
      finish(
        lowering,
        this.#group,
        this.#contraction,
        { batch, m: rowAt, n: columnAt.add(Affine.lane(width)) },
        sum,
        width,
      );
    const owned = panelN * panels * tileN >= n || n % tileN === 0 || n % tileN > lanes;
    lowering.for(0, tileM, 1, [], (r) =>
      this.#ownRow(tile, start, r, (rowAt) => {
        lowering.for(0, vectors, 1, [], (v) => {
          const from = slot.add(r.scale(tileN)).add(v.scale(lanes));
          const first = column.scale(tileN).add(v.scale(lanes));
          const whole = (at: Affine) => store(rowAt, at, b.load(this.#sums, from.emit(b), lanes, true), lanes);
          if (first.range.max + lanes <= n) {
            whole(first);
            return;
          }
          const value = first.emit(b);
          if (overlaps && owned) {
            // The overlapping vector belongs to this task as well: it stores the same values again.
            lowering.if(b.compare('lt', value, b.constant(n)), () => whole(this.#columns.firstColumn(first, lanes)));
            return;
          }
          const byLane = () => {
            const moved = overlaps
              ? Affine.of(b.clamp(b.sub(value, b.constant(n - lanes)), 0, lanes - 1), b)
              : Affine.constant(0);
            lowering.for(0, lanes, 1, [], (lane) =>
              lowering.guarded(first.add(lane), n, (at) => {
                const source = from.emit(b);
                const place = b.min(lane.add(moved).emit(b), b.constant(lanes - 1));
                store(rowAt, at, b.load(this.#sums, b.add(source, place)), 1);
              }),
            );
          };
          if (n < lanes) byLane();
          else
            lowering.if(
              b.compare('le', value, b.constant(n - lanes)),
              () => whole(Affine.of(b.assume(value, 0, n - lanes), b)),
              byLane,
            );
        });
      }),
    );
  }

  /** Row `r` of a tile if it is the tile's own: not beyond the end, not of the tile before. */
  #ownRow(tile: Affine, start: Affine, r: Affine, body: (row: Affine) => void): void {
    const lowering = this.#lowering;
    const { b } = lowering;
    const row = start.add(r);
    const first = tile.scale(this.#tiling.tileM);
    if (start.key === first.key) {
      lowering.guarded(row, this.#contraction.m, body);
      return;
    }
    lowering.if(b.compare('ge', row.emit(b), first.emit(b)), () => body(row));
  }
}
