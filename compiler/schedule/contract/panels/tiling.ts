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

/** How operands reach the registers. */
export interface Preparation {
  /** Rows of a tile up to which they are read where they are. */
  readonly rowsInPlace: number;
  /** Cycles that an element of a row, and of a column, costs before it can be multiplied; 0 for rows in place. */
  row(tileM: number): number;
  readonly column: number;
  /** Whether a panel of columns is packed in scratch memory. */
  readonly packsColumns: boolean;
}

/** Elements from one row to the next in a copy: a vector more than they hold, so that rows do not share lines of a cache. */
export const rowPitch = (steps: number, lanes: Lanes): number => (Math.ceil(steps / lanes) + 1) * lanes;

const secondCache = ({ caches }: Target): number => caches[1]?.bytes ?? 512 << 10;

/** Cycles to move a vector of an operand of so many bytes into scratch memory. */
export const vectorCost = (bytes: number, target: Target): number => (bytes <= secondCache(target) / 2 ? 8 : 24);

/** Cycles that each element of an operand of so many bytes is waited for where a task reads it for the first time. */
export function streamCost(bytes: number, target: Target): number {
  if (bytes <= secondCache(target) / 2) return 0;
  return bytes <= (target.caches[2]?.bytes ?? 0) / 2 ? 0.25 : 1;
}

/** Cycles that a task and a tile cost beyond their multiply-adds. */
const taskOverhead = 300;
const tileOverhead = 40;
/** Cycles a vector of results: kept in scratch memory, finished, stored. */
const finishVector = 3;
/** Cycles an element of rows that is read again from a cache further away, for the next panel. */
const revisit = 0.02;
/** Share of a task for which one thread still works at the end and others have nothing left. */
const imbalance = 0.05;

export function chooseTiling(contraction: Contraction, target: Target, preparation: Preparation): Tiling {
  const { rowsInPlace } = preparation;
  const tile = registerTile(contraction, target, mostRows);
  const tiles = [tile];
  // A flatter tile may do without a copy of its rows.
  if (rowsInPlace > 0 && rowsInPlace < tile.tileM) tiles.push(registerTile(contraction, target, rowsInPlace));
  const choices = tiles.map((one) => chooseBlocks(contraction, target, preparation, one));
  return choices.reduce((best, one) => (one.cycles < best.cycles ? one : best)).tiling;
}

/** The blocks for a register tile that take fewest cycles. */
function chooseBlocks(
  contraction: Contraction,
  target: Target,
  { row, column, packsColumns }: Preparation,
  { tileM, vectors }: RegisterTile,
): { readonly tiling: Tiling; readonly cycles: number } {
  const { batch, m, n, k, accumulator } = contraction;
  const lanes = lanesFor({ accumulator }, target);
  const tileN = lanes * vectors;
  const bytes = scalarBits[accumulator] / 8;
  const [tilesM, tilesN] = [Math.ceil(m / tileM), Math.ceil(n / tileN)];
  const scratch = target.limits.sharedBytes;
  // Columns that several rows of tiles use stay in the second-level cache, packed or not.
  const room = Math.min(scratch, secondCache(target)) * 0.6;
  const blockK = blockOf(k, lanes, Math.floor(room / (tileN * bytes)));
  const panelBytes = (panelN: number) => panelN * tileN * blockK * bytes;
  const rowCycles = row(tileM);
  const multiplyAdd = loadsPerMultiplyAdd(tileM, vectors);
  let best = { blockM: 1, panelN: 1, panels: 1, cycles: Number.POSITIVE_INFINITY };
  const consider = (blockM: number, panelN: number, panels: number): void => {
    const [rows, columns] = [blockM * tileM, panelN * panels * tileN];
    const tasks = batch * Math.ceil(tilesM / blockM) * Math.ceil(tilesN / (panelN * panels));
    const task =
      (rows * columns * (k * multiplyAdd + finishVector)) / lanes +
      rows * k * (rowCycles + (panels - 1) * revisit) +
      columns * k * column +
      blockM * panelN * panels * tileOverhead * Math.ceil(k / blockK) +
      taskOverhead;
    const cycles = task * (Math.ceil(tasks / target.parallelism) + imbalance);
    if (cycles < best.cycles) best = { blockM, panelN, panels, cycles };
  };
  for (const panelN of shares(tilesN)) {
    if (panelN > 1 && (tilesM > 1 || packsColumns) && panelBytes(panelN) > room) continue;
    for (const blockM of shares(tilesM)) {
      // Partial sums of several blocks of k wait in scratch memory.
      const waiting = blockK < k ? blockM * tileM * panelN * tileN * bytes : 0;
      if (blockM * panelN > 1 && waiting > scratch / 4) continue;
      const kept = rowCycles > 0 ? blockM * tileM * rowPitch(k, lanes) * bytes : 0;
      for (const panels of panelCounts(Math.ceil(tilesN / panelN), target.parallelism)) {
        if (panels === 1 || kept + waiting + panelBytes(panelN) <= scratch * 0.9) consider(blockM, panelN, panels);
      }
    }
  }
  const { blockM, panelN, panels, cycles } = best;
  return { tiling: { lanes, tileM, vectors, tileN, blockK, blockM, panelN, panels }, cycles };
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

const mostRows = 16;

interface RegisterTile {
  readonly tileM: number;
  readonly vectors: number;
}

/**
 * The register tile of at most so many rows that leaves least to be desired: little waste at the edges, few loads, and
 * no thread without a tile.
 */
function registerTile(contraction: Contraction, target: Target, rows: number): RegisterTile {
  const { batch, m, n, k } = contraction;
  const lanes = lanesFor(contraction, target);
  const threads = batch * m * n * k < worthSharing ? 1 : target.parallelism;
  const waste = (extent: number, tile: number) => (Math.ceil(extent / tile) * tile) / extent;
  let best = { tileM: 1, vectors: 1, score: Number.POSITIVE_INFINITY };
  for (const vectors of [1, 2, 3, 4, 6, 8]) {
    for (let tileM = 1; tileM <= Math.min(mostRows, rows); tileM++) {
      const registers = tileM * vectors + (tileM === 1 ? 1 : vectors) + 1;
      if (registers > target.vectorRegisters - 1 || (tileM > m && tileM > 1)) continue;
      const idle = Math.max(1, threads / (batch * Math.ceil(m / tileM) * Math.ceil(n / (lanes * vectors))));
      const score = waste(m, tileM) * waste(n, lanes * vectors) * loadsPerMultiplyAdd(tileM, vectors) * idle;
      if (score < best.score - 1e-9) best = { tileM, vectors, score };
    }
  }
  return best;
}

/** What loads make of a multiply-add in a tile; at best 1. Those of columns come from the second-level cache. */
function loadsPerMultiplyAdd(tileM: number, vectors: number): number {
  const balance = Math.max(1, (tileM + vectors) / (tileM * vectors));
  return balance * (1 + (0.25 * tileM + vectors) / (tileM * vectors));
}

/**
 * All of k if so many steps of a tile's columns fit, for partial sums need not wait then. The last block is no shorter
 * than a vector.
 */
function blockOf(k: number, lanes: number, most: number): number {
  if (k <= most) return k;
  const first = Math.ceil(k / Math.ceil(k / most));
  for (let block = first; block > first / 2; block--) {
    const rest = k % block;
    if (rest === 0 || rest >= lanes) return block;
  }
  return first;
}
