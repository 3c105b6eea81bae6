/**
 * Rows of the lhs for register tiles: each step of k multiplies one element of every row of a tile.
 *
 * Constants were packed when they were uploaded, [tile][k][tileM]. Rows that are contiguous along k are read where they
 * are, or copied if their distance in memory maps them onto few lines of the first-level cache. All others are packed
 * by the task, [k][tileM]. A task with several panels of columns keeps what it copied or packed of all its tiles.
 */
import type { Target } from '../../../kernel/target.js';
import { type KArray, type KValue, type Lanes, scalarBits } from '../../../kernel/types.js';
import { Affine } from '../../affine.js';
import type { Group } from '../../group.js';
import type { DerivedConstant } from '../../lowered.js';
import type { Lowering } from '../../lowering.js';
import { range, scalarOf } from '../../tensors.js';
import type { Contraction } from '../contraction.js';
import { packedLhs, type Strides, stridesOf } from '../packing.js';
import { lanesFor } from '../tiling.js';
import { type Block, overSteps, stepOf } from './block.js';
import { rowPitch, type Tiling, vectorCost } from './tiling.js';

export type RowsKind = 'constant' | 'memory' | 'copied' | 'packed';

/** A tile of rows: its number, and its first row; the last tile moves back to where it is whole. */
export interface RowTile {
  readonly batch: Affine;
  readonly tile: Affine;
  /** Its number within the task. */
  readonly slot: Affine;
  readonly start: Affine;
}

/** Ways of the first-level cache: those of most processors. Columns and results take two of them. */
const ways = 8;
const waysForOthers = 2;

export function rowsKind(group: Group, contraction: Contraction, target: Target, tileM: number): RowsKind {
  if (packedLhs(group, contraction, 1)) return 'constant';
  const strides = rowStrides(group, contraction);
  if (strides && strides.row === 1 && strides.k !== 1) return 'packed';
  return tileM <= rowsInPlace(group, contraction, target) ? 'memory' : 'copied';
}

/**
 * Rows of a tile that can be read where they are: those that the first-level cache holds at the same time. Where their
 * distance is a large power of two they share its lines.
 */
export function rowsInPlace(group: Group, contraction: Contraction, target: Target): number {
  const { lhs, k, accumulator } = contraction;
  const strides = rowStrides(group, contraction);
  if (strides?.k !== 1 || scalarOf(lhs.value) !== accumulator) return 0;
  if (k <= 16) return Number.POSITIVE_INFINITY;
  const period = (target.caches[0]?.bytes ?? 32 << 10) / ways;
  const bytes = (strides.row * scalarBits[accumulator]) / 8;
  const places = period / greatestCommonDivisor(bytes % period || period, period);
  return places * (ways - waysForOthers);
}

const rowStrides = (group: Group, { lhs, lhsBatches, m, k }: Contraction): Strides | undefined =>
  group.reads.includes(lhs.value) ? stridesOf(lhs, { batches: lhsBatches, rows: m, k, width: 1 }) : undefined;

const greatestCommonDivisor = (a: number, b: number): number => (b === 0 ? a : greatestCommonDivisor(b, a % b));

/** Cycles to prepare an element. */
export function rowCost(kind: RowsKind, { m, k, accumulator, lhsBatches }: Contraction, target: Target): number {
  if (kind === 'constant' || kind === 'memory') return 0;
  return vectorCost(lhsBatches * m * k * (scalarBits[accumulator] / 8), target) / lanesFor({ accumulator }, target);
}

export class Rows {
  readonly #lowering: Lowering;
  readonly #contraction: Contraction;
  readonly #tiling: Tiling;
  readonly #kind: RowsKind;
  readonly #array: KArray | undefined;
  readonly #pitch: number;
  /** Elements of `#array` that belong to a tile. */
  readonly #tileLength: number;
  /** All of k of all tiles of a task, not only the block of one tile that is at work. */
  readonly #kept: boolean;

  constructor(lowering: Lowering, contraction: Contraction, tiling: Tiling, kind: RowsKind) {
    this.#lowering = lowering;
    this.#contraction = contraction;
    this.#tiling = tiling;
    this.#kind = kind;
    const kept = tiling.panels > 1;
    this.#kept = kept;
    const { tileM, blockK, blockM, lanes } = tiling;
    const steps = kept ? contraction.k : blockK;
    this.#pitch = rowPitch(steps, lanes);
    this.#tileLength = { constant: 0, memory: 0, copied: this.#pitch, packed: steps }[kind] * tileM;
    const length = this.#tileLength * (kept ? blockM : 1);
    this.#array = length > 0 ? lowering.b.array('rows', 'shared', contraction.accumulator, length) : undefined;
  }

  static packed(kind: RowsKind, group: Group, contraction: Contraction, tileM: number): DerivedConstant | undefined {
    return kind === 'constant' ? packedLhs(group, contraction, tileM) : undefined;
  }

  /** The tile with this number. Packed constants end with rows of zeros, others must not be read beyond their end. */
  tile(batch: Affine, tile: Affine, slot: Affine): RowTile {
    const { b } = this.#lowering;
    const { tileM } = this.#tiling;
    const first = tile.scale(tileM);
    const last = this.#contraction.m - tileM;
    const fits = this.#kind === 'constant' || first.range.max <= last;
    return { batch, tile, slot, start: fits ? first : Affine.of(b.min(first.emit(b), b.constant(last)), b) };
  }

  /** Makes the rows of a tile ready for a block of k, in panel number `panel` of the task. */
  prepare(tile: RowTile, block: Block, panel: Affine): void {
    const { b } = this.#lowering;
    if (!this.#array) return;
    const prepare = () => (this.#kind === 'packed' ? this.#pack(tile, block) : this.#copy(tile, block));
    if (this.#kept) this.#lowering.if(b.compare('eq', panel.emit(b), b.constant(0)), prepare);
    else prepare();
  }

  /** Where element `step` of a block is held: of row `r` of a copy, or of all rows of a packed tile. */
  #place({ slot }: RowTile, block: Block, step: Affine, width: number, r: Affine): Affine {
    const at = this.#kept ? stepOf(this.#lowering, this.#contraction, block, step, width) : step;
    const first = this.#kept ? slot.scale(this.#tileLength) : Affine.constant(0);
    if (this.#kind === 'packed') return first.add(at.scale(this.#tiling.tileM)).add(r);
    return first.add(r.scale(this.#pitch)).add(at);
  }

  #copy(tile: RowTile, block: Block): void {
    const { batch, start } = tile;
    const lowering = this.#lowering;
    const { lhs } = this.#contraction;
    const { tileM, lanes } = this.#tiling;
    lowering.for(0, tileM, 1, [], (r) =>
      overSteps(lowering, block, lanes, (step, width) => {
        const k = stepOf(lowering, this.#contraction, block, step, width);
        const element = lhs.element(lowering, batch, start.add(r), k.add(Affine.lane(width)), width);
        const at = this.#place(tile, block, step, width, r).emit(lowering.b);
        lowering.b.store(this.#array as KArray, at, lowering.widen(element, width));
      }),
    );
  }

  #pack(tile: RowTile, block: Block): void {
    const { batch, start } = tile;
    const lowering = this.#lowering;
    const { lhs } = this.#contraction;
    const { tileM } = this.#tiling;
    const parts = powersOf(tileM);
    lowering.for(0, block.length.emit(lowering.b), 1, [], (step) => {
      const k = stepOf(lowering, this.#contraction, block, step, 1);
      let first = 0;
      for (const width of parts) {
        const element = lhs.element(lowering, batch, start.add(first).add(Affine.lane(width)), k, width);
        const at = this.#place(tile, block, step, 1, Affine.constant(first)).emit(lowering.b);
        lowering.b.store(this.#array as KArray, at, lowering.widen(element, width));
        first += width;
      }
    });
  }

  /** What row `r` of the tile contributes at a step of the block. */
  factor(rows: RowTile, block: Block, step: Affine, r: number): KValue {
    const { batch, tile, start } = rows;
    const lowering = this.#lowering;
    const { b } = lowering;
    const { lhs, m, k, lhsBatch } = this.#contraction;
    const { tileM } = this.#tiling;
    switch (this.#kind) {
      case 'constant': {
        const buffer = lowering.buffer(lhs.value);
        if (!buffer) throw new Error('the packed lhs is not bound');
        const row = lhsBatch(batch)
          .scale(Math.ceil(m / tileM))
          .add(tile)
          .scale(k);
        const at = row.add(stepOf(lowering, this.#contraction, block, step, 1));
        return b.load(buffer, at.scale(tileM).add(r).emit(b));
      }
      case 'memory':
        return lhs.element(lowering, batch, start.add(r), stepOf(lowering, this.#contraction, block, step, 1), 1);
      case 'copied':
      case 'packed':
        return b.load(this.#array as KArray, this.#place(rows, block, step, 1, Affine.constant(r)).emit(b));
      default:
        return this.#kind satisfies never;
    }
  }
}

/** 14 = 8 + 4 + 2. */
const powersOf = (count: number): Lanes[] =>
  range(5)
    .map((i) => 16 >> i)
    .filter((width) => count & width) as Lanes[];
