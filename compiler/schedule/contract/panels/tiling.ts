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
  /** Steps of k that a task does before it comes back to the first of a panel's tiles. */
  readonly blockK: number;
  /** Tiles of m in a task's block. */
  readonly blockM: number;
  /** Tiles of n that a task does for all of its rows before it turns to the next: its panel. */
  readonly panelN: number;
  /** Panels of a task. What is prepared of its rows is kept for all of them. */
  readonly panels: number;
}

/** What an element costs before it can be multiplied, in cycles; 0 if it is read where it is. */
export interface Preparation {
  readonly row: number;
  readonly column: number;
}

/** True if a task keeps what it prepares of its rows: it needs them again for its next panel. */
export const keepsRows = ({ panels }: Pick<Tiling, 'panels'>, { row }: Preparation): boolean => panels > 1 && row > 0;

/** Elements from one row to the next in a copy: a vector more than they hold, so that rows do not share lines of a cache. */
export const rowPitch = (steps: number, lanes: Lanes): number => (Math.ceil(steps / lanes) + 1) * lanes;

/** Cycles to move a vector of an operand of so many bytes into scratch memory. */
export const vectorCost = (bytes: number, target: Target): number =>
  bytes <= (target.caches[1]?.bytes ?? 512 << 10) / 2 ? 6 : 24;

/** Cycles that a task and a tile cost beyond their multiply-adds. */
const taskOverhead = 300;
const tileOverhead = 40;
/** Cycles a vector of results: kept in scratch memory, finished, stored. */
const finishVector = 3;
/** Cycles an element of rows that is read again from a cache further away, for the next panel. */
const revisit = 0.02;
/** Share of a task for which one thread still works at the end and others have nothing left. */
const imbalance = 0.05;

export function chooseTiling(contraction: Contraction, preparation: Preparation, target: Target): Tiling {
  const { batch, m, n, k, accumulator } = contraction;
  const lanes = lanesFor({ accumulator }, target);
  const { tileM, vectors } = registerTile(contraction, target, lanes);
  const tileN = lanes * vectors;
  const bytes = scalarBits[accumulator] / 8;
  const blockK = blockOf(k, lanes);
  const [tilesM, tilesN] = [Math.ceil(m / tileM), Math.ceil(n / tileN)];
  const scratch = target.limits.sharedBytes;
  // Columns that several rows of tiles use stay in the second-level cache, packed or not.
  const room = Math.min(scratch, target.caches[1]?.bytes ?? 512 << 10) * 0.6;
  const panelBytes = (panelN: number) => panelN * tileN * blockK * bytes;
  const cycles = ({ blockM, panelN, panels }: Pick<Tiling, 'blockM' | 'panelN' | 'panels'>): number => {
    const [rows, columns] = [blockM * tileM, panelN * panels * tileN];
    const tasks = batch * Math.ceil(tilesM / blockM) * Math.ceil(tilesN / (panelN * panels));
    const task =
      (rows * columns * (k + finishVector)) / lanes +
      rows * k * (preparation.row + (panels - 1) * revisit) +
      columns * k * preparation.column +
      blockM * panelN * panels * tileOverhead * Math.ceil(k / blockK) +
      taskOverhead;
    return task * (Math.ceil(tasks / target.parallelism) + imbalance);
  };
  let best = { blockM: 1, panelN: 1, panels: 1, cycles: Number.POSITIVE_INFINITY };
  for (const panelN of shares(tilesN)) {
    if (panelN > 1 && tilesM > 1 && panelBytes(panelN) > room) continue;
    for (const blockM of shares(tilesM)) {
      // Partial sums of several blocks of k wait in scratch memory.
      const waiting = blockK < k ? blockM * tileM * panelN * tileN * bytes : 0;
      if (blockM * panelN > 1 && waiting > scratch / 4) continue;
      for (const panels of panelCounts(Math.ceil(tilesN / panelN), target.parallelism)) {
        const kept = keepsRows({ panels }, preparation) ? blockM * tileM * rowPitch(k, lanes) * bytes : 0;
        if (kept + waiting + panelBytes(panelN) > scratch * 0.9 && panels > 1) continue;
        const candidate = { blockM, panelN, panels };
        const estimate = cycles(candidate);
        if (estimate < best.cycles) best = { ...candidate, cycles: estimate };
      }
    }
  }
  const { blockM, panelN, panels } = best;
  return { lanes, tileM, vectors, tileN, blockK, blockM, panelN, panels };
}

/** Panels of a task: one, all of `total`, or as many as leave work for each thread. */
const panelCounts = (total: number, threads: number): readonly number[] => [
  ...new Set([1, ...[1, 2, 3, 4].map((times) => Math.ceil(total / (threads * times))), Math.ceil(total / 2), total]),
];

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
