/**
 * Rows of the lhs for register tiles: each step of k multiplies one element of every row of a tile.
 *
 * Constants were packed when they were uploaded, [tile][k][tileM]. Rows that are contiguous along k are read where they
 * are, or copied if their distance in memory maps them onto few lines of the first-level cache. All others are packed
 * by the task, [k][tileM].
 */
import type { Target } from '../../../kernel/target.js';
import { type KArray, type KValue, type Lanes, scalarBits } from '../../../kernel/types.js';
import { Affine } from '../../affine.js';
import type { Group } from '../../group.js';
import type { DerivedConstant } from '../../lowered.js';
import type { Lowering } from '../../lowering.js';
import { range, scalarOf } from '../../tensors.js';
import type { Contraction } from '../contraction.js';
import { packedLhs, stridesOf } from '../packing.js';
import { type Block, overSteps, stepOf } from './block.js';
import type { Tiling } from './tiling.js';

export type RowsKind = 'constant' | 'memory' | 'copied' | 'packed';

/** A tile of rows: its number, and its first row; the last tile moves back to where it is whole. */
export interface RowTile {
  readonly batch: Affine;
  readonly tile: Affine;
  readonly start: Affine;
}

/** Ways of the first-level cache: those of most processors. */
const ways = 8;
/** Vectors of rows: what follows a row in a copy, so that rows do not share lines of the cache. */
const rowGap = 1;

export function rowsKind(group: Group, contraction: Contraction, target: Target): RowsKind {
  const { lhs, lhsBatches, m, k, accumulator } = contraction;
  if (packedLhs(group, contraction, 1)) return 'constant';
  const strides = group.reads.includes(lhs.value)
    ? stridesOf(lhs, { batches: lhsBatches, rows: m, k, width: 1 })
    : undefined;
  if (strides && strides.row === 1 && strides.k !== 1) return 'packed';
  if (strides?.k !== 1 || scalarOf(lhs.value) !== accumulator) return 'copied';
  return sharesLines((strides.row * scalarBits[accumulator]) / 8, k, target) ? 'copied' : 'memory';
}

/** True if a tile of rows so many bytes apart has fewer places in the first-level cache than it needs. */
function sharesLines(bytes: number, k: number, target: Target): boolean {
  const period = (target.caches[0]?.bytes ?? 32 << 10) / ways;
  const places = period / greatestCommonDivisor(bytes % period || period, period);
  return k > 16 && places * (ways / 2) < 16;
}

const greatestCommonDivisor = (a: number, b: number): number => (b === 0 ? a : greatestCommonDivisor(b, a % b));

/** Cycles to prepare an element. */
export const rowCost = (kind: RowsKind, lanes: Lanes): number =>
  ({ constant: 0, memory: 0, copied: 6 / lanes, packed: 6 / lanes })[kind];

export class Rows {
  readonly #lowering: Lowering;
  readonly #contraction: Contraction;
  readonly #tiling: Tiling;
  readonly #kind: RowsKind;
  readonly #array: KArray | undefined;
  readonly #pitch: number;

  constructor(lowering: Lowering, contraction: Contraction, tiling: Tiling, kind: RowsKind) {
    this.#lowering = lowering;
    this.#contraction = contraction;
    this.#tiling = tiling;
    this.#kind = kind;
    const { tileM, blockK, lanes } = tiling;
    this.#pitch = (Math.ceil(blockK / lanes) + rowGap) * lanes;
    const length = { constant: 0, memory: 0, copied: this.#pitch, packed: blockK }[kind] * tileM;
    this.#array = length > 0 ? lowering.b.array('rows', 'shared', contraction.accumulator, length) : undefined;
  }

  static packed(kind: RowsKind, group: Group, contraction: Contraction, tileM: number): DerivedConstant | undefined {
    return kind === 'constant' ? packedLhs(group, contraction, tileM) : undefined;
  }

  /** The tile with this number. Packed constants end with rows of zeros, others must not be read beyond their end. */
  tile(batch: Affine, tile: Affine): RowTile {
    const { b } = this.#lowering;
    const { tileM } = this.#tiling;
    const first = tile.scale(tileM);
    const last = this.#contraction.m - tileM;
    const fits = this.#kind === 'constant' || first.range.max <= last;
    return { batch, tile, start: fits ? first : Affine.of(b.min(first.emit(b), b.constant(last)), b) };
  }

  /** Makes the rows of a tile ready for a block of k. */
  prepare(tile: RowTile, block: Block): void {
    switch (this.#kind) {
      case 'constant':
      case 'memory':
        return;
      case 'copied':
        this.#copy(tile, block);
        return;
      case 'packed':
        this.#pack(tile, block);
        return;
      default:
        this.#kind satisfies never;
    }
  }

  #copy({ batch, start }: RowTile, block: Block): void {
    const lowering = this.#lowering;
    const { lhs } = this.#contraction;
    const { tileM, lanes } = this.#tiling;
    lowering.for(0, tileM, 1, [], (r) =>
      overSteps(lowering, block, lanes, (step, width) => {
        const k = stepOf(lowering, this.#contraction, block, step, width);
        const element = lhs.element(lowering, batch, start.add(r), k.add(Affine.lane(width)), width);
        const at = r.scale(this.#pitch).add(step).emit(lowering.b);
        lowering.b.store(this.#array as KArray, at, lowering.widen(element, width));
      }),
    );
  }

  #pack({ batch, start }: RowTile, block: Block): void {
    const lowering = this.#lowering;
    const { lhs } = this.#contraction;
    const { tileM } = this.#tiling;
    const parts = powersOf(tileM);
    lowering.for(0, block.length.emit(lowering.b), 1, [], (step) => {
      const k = stepOf(lowering, this.#contraction, block, step, 1);
      let first = 0;
      for (const width of parts) {
        const element = lhs.element(lowering, batch, start.add(first).add(Affine.lane(width)), k, width);
        const at = step.scale(tileM).add(first).emit(lowering.b);
        lowering.b.store(this.#array as KArray, at, lowering.widen(element, width));
        first += width;
      }
    });
  }

  /** What row `r` of the tile contributes at a step of the block. */
  factor({ batch, tile, start }: RowTile, block: Block, step: Affine, r: number): KValue {
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
        return b.load(this.#array as KArray, step.add(r * this.#pitch).emit(b));
      case 'packed':
        return b.load(this.#array as KArray, step.scale(tileM).add(r).emit(b));
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
