/** How a convolution of bytes is divided: what its words are made of, tiles of registers, rows of a task. */
import type { Target } from '../../kernel/target.js';
import type { Lanes } from '../../kernel/types.js';
import type { Contraction } from './contraction.js';
import { countOf, type Geometry } from './geometry.js';

/** What the bytes of a word are; a unit is what all taps of its planes share. */
type Bytes = 'channels' | 'rows';

export interface Plan {
  readonly bytes: Bytes;
  readonly units: number;
  readonly lanes: Lanes;
  readonly tileM: number;
  readonly vectors: number;
  /** Output rows of a task, rows of a plane, and the pitch of both. */
  readonly rows: number;
  readonly stagedRows: number;
  readonly pitch: number;
  readonly margin: number;
  /** Numbers of a task, as whole tiles; words of a plane, and of all of them. */
  readonly extent: number;
  readonly plane: number;
  readonly length: number;
  /** Tiles of m, and batches, that a task does. */
  readonly blockM: number;
  readonly blockBatch: number;
}

/** Bytes of scratch memory that stay in the nearest caches. */
const comfortable = 96 << 10;
/** Multiply-adds that make up for handing out a task. */
const worth = 200_000;

/** The plan, or undefined where not even one row fits into scratch memory. */
export function planOf(contraction: Contraction, { h, w }: Geometry, target: Target): Plan | undefined {
  const { m, batch, k } = contraction;
  const lanes = target.vectorLanes;
  const channels = k / (h.kernel * w.kernel);
  const quads = Math.ceil(channels / 4);
  const fours = Math.ceil(h.kernel / 4);
  const bytes: Bytes = quads * h.kernel <= channels * fours ? 'channels' : 'rows';
  const units = bytes === 'channels' ? quads : channels * fours;
  const planes = units * w.phases.length * (bytes === 'channels' ? h.phases.length : 1);
  const margin = Math.max(0, -w.minShift);
  const widest = Math.max(...w.phases.map((phase) => countOf(w, phase)));
  const pitch = Math.max(w.extent, margin + widest, w.extent + w.maxShift);
  const halo = bytes === 'channels' ? h.maxShift - h.minShift : 0;
  const numbers = (rows: number) => (rows - 1) * pitch + w.extent;
  const choose = (rows: number) => {
    let best = { tileM: 1, vectors: 1, score: Number.POSITIVE_INFINITY };
    for (const vectors of [1, 2, 3, 4, 6, 8]) {
      for (let tileM = 1; tileM <= 14 && tileM <= m; tileM++) {
        if (tileM * vectors + vectors + 2 > target.vectorRegisters) continue;
        const tile = lanes * vectors;
        const waste = ((Math.ceil(m / tileM) * tileM) / m) * ((Math.ceil(numbers(rows) / tile) * tile) / numbers(rows));
        // Vector loads cross cache lines: they count twice.
        const loads = (tileM + 2 * vectors) / (tileM * vectors);
        const score = waste * Math.max(1, loads) * Math.max(1, 8 / (tileM * vectors)) * (1 + 0.3 * loads);
        if (score < best.score - 1e-9) best = { tileM, vectors, score };
      }
    }
    return best;
  };
  const sizes = (rows: number) => {
    const { tileM, vectors } = choose(rows);
    const extent = Math.ceil(numbers(rows) / (lanes * vectors)) * lanes * vectors;
    const plane = (rows + halo) * pitch;
    const reach = halo * pitch + margin + w.maxShift + extent;
    const length = Math.ceil(((planes - 1) * plane + Math.max(plane, reach)) / lanes) * lanes;
    return { tileM, vectors, extent, plane, length, bytes: 4 * (length + tileM * extent) };
  };
  let rows = h.extent;
  while (rows > 2 * (halo + 1) && sizes(rows).bytes > comfortable) rows = Math.ceil(rows / 2);
  while (rows > 1 && sizes(rows).bytes > target.limits.sharedBytes * 0.9) rows = Math.ceil(rows / 2);
  if (sizes(rows).bytes > target.limits.sharedBytes * 0.9) return undefined;
  const work = (r: number) => r * w.extent * m * k;
  const wanted = target.parallelism * 4;
  let blockBatch = 1;
  while (batch / (2 * blockBatch) >= wanted && work(rows) * blockBatch < worth) blockBatch *= 2;
  blockBatch = Math.ceil(batch / Math.ceil(batch / blockBatch));
  const tasks = (r: number) => Math.ceil(batch / blockBatch) * Math.ceil(h.extent / r);
  while (tasks(rows) < wanted && rows > 4 * (halo + 1) && work(rows) > 2 * worth) rows = Math.ceil(rows / 2);
  rows = Math.ceil(h.extent / Math.ceil(h.extent / rows));
  const { tileM, vectors, extent, plane, length } = sizes(rows);
  let blockM = Math.ceil(m / tileM);
  const least = Math.min(target.parallelism, Math.ceil((work(h.extent) * batch) / worth));
  while (blockM > 1 && tasks(rows) * Math.ceil(m / tileM / blockM) < least) blockM = Math.ceil(blockM / 2);
  return {
    bytes,
    units,
    lanes,
    tileM,
    vectors,
    rows,
    stagedRows: rows + halo,
    pitch,
    margin,
    extent,
    plane,
    length,
    blockM,
    blockBatch,
  };
}
