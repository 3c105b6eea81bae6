/**
 * Columns of the rhs for register tiles: panels of `tileN` columns, vector by vector along n.
 *
 * Constants were packed when they were uploaded, [tile][k][tileN]. Others are packed by the task for each block of k
 * (transposes and casts happen there), or read where they are if they are contiguous and too few rows of the lhs use
 * them to pay for a copy.
 */
import type { Target } from '../../../kernel/target.js';
import { type KArray, type KValue, type Lanes, scalarBits } from '../../../kernel/types.js';
import { Affine } from '../../affine.js';
import type { Group } from '../../group.js';
import type { DerivedConstant } from '../../lowered.js';
import type { Lowering } from '../../lowering.js';
import { range, scalarOf, shapeOf } from '../../tensors.js';
import type { Contraction } from '../contraction.js';
import { packedRhs, stridesOf } from '../packing.js';
import { lanesFor } from '../tiling.js';
import { type Block, stepOf } from './block.js';
import { streamCost, type Tiling, vectorCost } from './tiling.js';

/** `rows`, `columns` and `gathered` are packed: contiguous along n, contiguous along k, or neither. */
export type ColumnsKind = 'constant' | 'memory' | 'rows' | 'columns' | 'gathered';

/** Rows of register tiles from which on a copy of the columns pays. */
const fewRows = 28;

export function columnsKind(group: Group, contraction: Contraction, lanes: Lanes): ColumnsKind {
  const { lhs, rhs, rhsBatches, m, n, k, accumulator } = contraction;
  if (lhs.value !== rhs.value && packedRhs(group, contraction, 1)) return 'constant';
  const strides = group.reads.includes(rhs.value)
    ? stridesOf(rhs, { batches: rhsBatches, rows: n, k, width: 1 })
    : undefined;
  if (strides?.row === 1 && n >= lanes) return m <= fewRows && scalarOf(rhs.value) === accumulator ? 'memory' : 'rows';
  return strides?.k === 1 ? 'columns' : 'gathered';
}

/** Cycles to pack an element, or to wait for it. */
export function columnCost(kind: ColumnsKind, { n, k, accumulator, rhsBatches }: Contraction, target: Target): number {
  const bytes = rhsBatches * n * k * (scalarBits[accumulator] / 8);
  const rows = vectorCost(bytes, target) / lanesFor({ accumulator }, target);
  const stream = streamCost(bytes, target);
  return { constant: stream, memory: stream, rows, columns: 2, gathered: 3 }[kind];
}

export const packsColumns = (kind: ColumnsKind): boolean => kind !== 'constant' && kind !== 'memory';

export class Columns {
  readonly #lowering: Lowering;
  readonly #contraction: Contraction;
  readonly #tiling: Tiling;
  readonly #kind: ColumnsKind;
  readonly #panel: KArray | undefined;

  constructor(lowering: Lowering, contraction: Contraction, tiling: Tiling, kind: ColumnsKind) {
    this.#lowering = lowering;
    this.#contraction = contraction;
    this.#tiling = tiling;
    this.#kind = kind;
    const { panelN, blockK, tileN } = tiling;
    this.#panel = packsColumns(kind)
      ? lowering.b.array('panel', 'shared', contraction.accumulator, panelN * blockK * tileN)
      : undefined;
  }

  static packed(kind: ColumnsKind, group: Group, contraction: Contraction, tileN: number): DerivedConstant | undefined {
    return kind === 'constant' ? packedRhs(group, contraction, tileN) : undefined;
  }

  /** Vectors at the end of a row overlap their neighbours; packed constants end with columns of zeros. */
  get overlaps(): boolean {
    return this.#kind !== 'constant' && this.#contraction.n >= this.#tiling.lanes;
  }

  /** Column that a vector starts with: the last vector of a row overlaps the one before. */
  firstColumn(first: Affine, width: Lanes): Affine {
    const { b } = this.#lowering;
    const { n } = this.#contraction;
    return first.range.max + width <= n ? first : Affine.of(b.min(first.emit(b), b.constant(n - width)), b);
  }

  /** Packs tiles `first` … of a panel for a block of k. */
  prepare(batch: Affine, first: Affine, block: Block): void {
    const panel = this.#panel;
    if (!panel) return;
    const lowering = this.#lowering;
    const { panelN, tileN } = this.#tiling;
    const tiles = Math.ceil(this.#contraction.n / tileN);
    const overTiles = (body: (tile: Affine, i: Affine) => void) =>
      lowering.for(0, panelN, 1, [], (i) => lowering.guarded(first.add(i), tiles, (tile) => body(tile, i)));
    if (this.#kind === 'rows') {
      // Row by row, as memory has them.
      lowering.for(0, block.length.emit(lowering.b), 1, [], (step) =>
        overTiles((tile, i) => this.#packRow(panel, batch, tile, i, block, step)),
      );
    } else if (this.#kind === 'columns') overTiles((tile, i) => this.#packColumns(panel, batch, tile, i, block));
    else overTiles((tile, i) => this.#gather(panel, batch, tile, i, block));
  }

  #slot(i: Affine, step: Affine): Affine {
    const { blockK, tileN } = this.#tiling;
    return i.scale(blockK).add(step).scale(tileN);
  }

  #packRow(panel: KArray, batch: Affine, tile: Affine, i: Affine, block: Block, step: Affine): void {
    const lowering = this.#lowering;
    const { rhs } = this.#contraction;
    const { tileN, lanes, vectors } = this.#tiling;
    const k = stepOf(lowering, this.#contraction, block, step, 1);
    for (const v of range(vectors)) {
      const column = this.firstColumn(tile.scale(tileN).add(v * lanes), lanes).add(Affine.lane(lanes));
      const element = rhs.element(lowering, batch, column, k, lanes);
      const at = this.#slot(i, step)
        .add(v * lanes)
        .emit(lowering.b);
      lowering.b.store(panel, at, lowering.widen(element, lanes), true);
    }
  }

  /** A column at a time; where the last vector of a row moved back, its columns with it. */
  #packColumns(panel: KArray, batch: Affine, tile: Affine, i: Affine, block: Block): void {
    const lowering = this.#lowering;
    const { b } = lowering;
    const { rhs, n } = this.#contraction;
    const { tileN, lanes, vectors } = this.#tiling;
    lowering.for(0, vectors, 1, [], (v) => {
      const vector = tile.scale(tileN).add(v.scale(lanes));
      const start = n >= lanes ? this.firstColumn(vector, lanes) : vector;
      lowering.for(0, lanes, 1, [], (lane) => {
        const at = start.add(lane);
        // Columns beyond the end repeat the last one.
        const column = at.range.max < n ? at : Affine.of(b.min(at.emit(b), b.constant(n - 1)), b);
        lowering.for(0, block.length.emit(b), 1, [], (step) => {
          const k = stepOf(lowering, this.#contraction, block, step, 1);
          const element = rhs.element(lowering, batch, column, k, 1);
          b.store(panel, this.#slot(i, step).add(v.scale(lanes)).add(lane).emit(b), element);
        });
      });
    });
  }

  #gather(panel: KArray, batch: Affine, tile: Affine, i: Affine, block: Block): void {
    const lowering = this.#lowering;
    const { b } = lowering;
    const { rhs, n } = this.#contraction;
    const { tileN, lanes } = this.#tiling;
    const width = this.#gatherWidth();
    lowering.for(0, tileN / width, 1, [], (part) => {
      const at = (step: Affine) => this.#slot(i, step).add(part.scale(width)).emit(b);
      const overSteps = (body: (step: Affine, k: Affine) => void) =>
        lowering.for(0, block.length.emit(b), 1, [], (step) =>
          body(step, stepOf(lowering, this.#contraction, block, step, 1)),
        );
      if (n >= lanes) {
        // A vector as a whole moves back to where it fits, its parts with it.
        const vector = tile.scale(tileN).add(part.div(lanes / width).scale(lanes));
        const column = this.firstColumn(vector, lanes).add(part.mod(lanes / width).scale(width));
        overSteps((step, k) => {
          const element = rhs.element(lowering, batch, column.add(Affine.lane(width)), k, width);
          b.store(panel, at(step), lowering.widen(element, width), true);
        });
        return;
      }
      const value = tile.scale(tileN).add(part.scale(width)).emit(b);
      const columns = range(width).map((lane) => Affine.of(b.min(b.addc(value, lane), b.constant(n - 1)), b));
      overSteps((step, k) =>
        b.store(panel, at(step), b.build(columns.map((column) => rhs.element(lowering, batch, column, k, 1))), true),
      );
    });
  }

  /** Lanes that one load of the rhs can fill: rows of an image that are no multiple of a vector are read in pieces. */
  #gatherWidth(): Lanes {
    const { node } = this.#contraction;
    const { lanes } = this.#tiling;
    if (node.op !== 'conv') return lanes;
    const extent = shapeOf(node.outputs[0]).at(-1) as number;
    return ([16, 8, 4, 2] as const).find((width) => width <= lanes && extent % width === 0) ?? 1;
  }

  /** The vectors of a tile, slot `i` of the panel, by step of the block. */
  of(batch: Affine, tile: Affine, i: Affine, block: Block): (step: Affine) => readonly KValue[] {
    const lowering = this.#lowering;
    const { b } = lowering;
    const { rhs, n, k, rhsBatch } = this.#contraction;
    const { lanes, tileN, vectors } = this.#tiling;
    switch (this.#kind) {
      case 'constant': {
        const buffer = lowering.buffer(rhs.value);
        if (!buffer) throw new Error('the packed rhs is not bound');
        const first = rhsBatch(batch)
          .scale(Math.ceil(n / tileN))
          .add(tile)
          .scale(k);
        return (step) => {
          const row = first.add(stepOf(lowering, this.#contraction, block, step, 1)).scale(tileN);
          return range(vectors).map((v) => b.load(buffer, row.add(v * lanes).emit(b), lanes, true));
        };
      }
      case 'memory': {
        const firsts = range(vectors).map((v) => this.firstColumn(tile.scale(tileN).add(v * lanes), lanes));
        return (step) => {
          const at = stepOf(lowering, this.#contraction, block, step, 1);
          return firsts.map((first) =>
            lowering.widen(rhs.element(lowering, batch, first.add(Affine.lane(lanes)), at, lanes), lanes),
          );
        };
      }
      case 'rows':
      case 'columns':
      case 'gathered': {
        const panel = this.#panel as KArray;
        return (step) =>
          range(vectors).map((v) =>
            b.load(
              panel,
              this.#slot(i, step)
                .add(v * lanes)
                .emit(b),
              lanes,
              true,
            ),
          );
      }
      default:
        return this.#kind satisfies never;
    }
  }
}
