/** How a matrix product is cut on a CPU: register tile, block of k, and the tiles of a task. */
import type { Target } from '../../../kernel/target.js';
import { type Lanes, scalarBits } from '../../../kernel/types.js';
import { range } from '../../tensors.js';
import type { Contraction } from '../contraction.js';
import { lanesFor } from '../tiling.js';

export interface Tiling {
  readonly lanes: Lanes;
  /** Rows of a register tile. */
  readonly tileM: number;
  /** Vectors of a register tile's row. */
  readonly vectors: number;
  readonly tileN: number;
  /** Steps of k that a task does before it comes back to the first of its tiles. */
  readonly blockK: number;
  /** Tiles of n and of m in a task's block. */
  readonly blockN: number;
  readonly blockM: number;
}

/** What an element costs before it can be multiplied, in cycles; 0 if it is read where it is. */
export interface Preparation {
  readonly row: number;
  readonly column: number;
}

/** Cycles that a task and a tile cost beyond their multiply-adds. */
const taskOverhead = 300;
const tileOverhead = 40;
/** Cycles a vector of results: kept in scratch memory, finished, stored. */
const finishVector = 3;
/** Share of a task for which one thread still works at the end and others have nothing left. */
const imbalance = 0.05;

export function chooseTiling(contraction: Contraction, preparation: Preparation, target: Target): Tiling {
  const { m, n, k, accumulator } = contraction;
  const lanes = lanesFor({ accumulator }, target);
  const { tileM, vectors } = registerTile(contraction, target, lanes);
  const tileN = lanes * vectors;
  const bytes = scalarBits[accumulator] / 8;
  const blockK = blockOf(k, lanes);
  const [tilesM, tilesN] = [Math.ceil(m / tileM), Math.ceil(n / tileN)];
  const scratch = target.limits.sharedBytes;
  const panel = Math.min(scratch, target.caches[1]?.bytes ?? 512 << 10) * 0.6;
  let best = { blockM: 1, blockN: 1, cycles: Number.POSITIVE_INFINITY };
  for (const blockN of shares(tilesN)) {
    // Columns that several rows of tiles use stay in the second-level cache, packed or not.
    if (blockN > 1 && tilesM > 1 && blockN * tileN * blockK * bytes > panel) continue;
    for (const blockM of shares(tilesM)) {
      // Partial sums of several blocks of k wait in scratch memory.
      if (blockK < k && blockM * blockN > 1 && blockM * tileM * blockN * tileN * bytes > scratch / 4) continue;
      const tasks = contraction.batch * Math.ceil(tilesM / blockM) * Math.ceil(tilesN / blockN);
      const [rows, columns] = [blockM * tileM, blockN * tileN];
      const task =
        (rows * columns * (k + finishVector)) / lanes +
        rows * k * preparation.row +
        columns * k * preparation.column +
        blockM * blockN * tileOverhead * Math.ceil(k / blockK) +
        taskOverhead;
      const rounds = Math.ceil(tasks / target.parallelism);
      const cycles = task * (rounds + imbalance);
      if (cycles < best.cycles) best = { blockM, blockN, cycles };
    }
  }
  return { lanes, tileM, vectors, tileN, blockK, blockM: best.blockM, blockN: best.blockN };
}

/** Tiles of a task if `total` is cut into 1, 2, … shares. */
function shares(total: number): readonly number[] {
  const counts = range(Math.min(total, 64)).map((i) => Math.ceil(total / (i + 1)));
  return [...new Set([...counts, 1])];
}

/** Multiply-adds that are worth another thread. */
const worthSharing = 1 << 16;

/**
 * The register tile that leaves least to be desired: little waste at the edges, few loads, and no thread
 * without a tile.
 */
function registerTile(contraction: Contraction, target: Target, lanes: Lanes): { tileM: number; vectors: number } {
  const { batch, m, n, k } = contraction;
  const threads = batch * m * n * k < worthSharing ? 1 : target.parallelism;
  const waste = (extent: number, tile: number) => (Math.ceil(extent / tile) * tile) / extent;
  let best = { tileM: 1, vectors: 1, score: Number.POSITIVE_INFINITY };
  for (const vectors of [1, 2, 3, 4, 6, 8]) {
    for (let tileM = 1; tileM <= 16; tileM++) {
      const registers = tileM * vectors + (tileM === 1 ? 1 : vectors) + 1;
      if (registers > target.vectorRegisters - 1 || (tileM > m && tileM > 1)) continue;
      // Loads a step of k against multiply-adds; those of columns come from the second-level cache.
      const balance = Math.max(1, (tileM + vectors) / (tileM * vectors));
      const overhead = 1 + (0.25 * tileM + vectors) / (tileM * vectors);
      const idle = Math.max(1, threads / (batch * Math.ceil(m / tileM) * Math.ceil(n / (lanes * vectors))));
      const score = waste(m, tileM) * waste(n, lanes * vectors) * balance * overhead * idle;
      if (score < best.score - 1e-9) best = { tileM, vectors, score };
    }
  }
  return best;
}

/**
 * All of k if it is short: partial sums need not wait then. Otherwise short blocks, whose rows stay in the first-level
 * cache; the last one is no shorter than a vector.
 */
function blockOf(k: number, lanes: Lanes): number {
  const [whole, longest] = [1024, 256];
  if (k <= whole) return k;
  const first = Math.ceil(k / Math.ceil(k / longest));
  for (let block = first; block > longest / 2; block--) {
    const rest = k % block;
    if (rest === 0 || rest >= lanes) return block;
  }
  return first;
}
