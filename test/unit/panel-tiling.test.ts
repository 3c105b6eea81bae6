/** How products are cut into tasks on a CPU: what must hold for every shape, and the choices that speed hangs on. */
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import type { Target } from '../../compiler/kernel/target.js';
import type { Contraction } from '../../compiler/schedule/contract/contraction.js';
import {
  chooseTiling,
  type Preparation,
  rowPitch,
  streamCost,
  type Tiling,
  vectorCost,
} from '../../compiler/schedule/contract/panels/tiling.js';
import { testTargets } from '../support/targets.js';

const target: Target = { ...testTargets.cpu, vectorLanes: 16, vectorRegisters: 32 };
const l2 = target.caches[1].bytes;

interface Shape {
  readonly m: number;
  readonly n: number;
  readonly k: number;
  readonly batch?: number;
}

const inPlace: Preparation = { rowsInPlace: Number.POSITIVE_INFINITY, row: () => 0, column: 0, packsColumns: false };
const few: Preparation = { rowsInPlace: 6, row: (tileM) => (tileM <= 6 ? 0 : 1.5), column: 0.5, packsColumns: true };
const copied: Preparation = { rowsInPlace: 0, row: () => 1.5, column: 1.5, packsColumns: true };

const tilingOf = ({ batch = 1, ...shape }: Shape, preparation: Preparation): Tiling =>
  chooseTiling({ batch, ...shape, accumulator: 'f32' } as Contraction, target, preparation);

const tasksOf = ({ batch = 1, m, n }: Shape, { tileM, blockM, tileN, panelN, panels }: Tiling): number =>
  batch * Math.ceil(Math.ceil(m / tileM) / blockM) * Math.ceil(Math.ceil(n / tileN) / (panelN * panels));

describe('a tiling', () => {
  const extent = fc.oneof(fc.integer({ min: 1, max: 70 }), fc.integer({ min: 1, max: 6000 }));
  it('fits registers and scratch memory, and its last block of k is no shorter than a vector', () => {
    fc.assert(
      fc.property(
        fc.record({ batch: fc.integer({ min: 1, max: 4 }), m: extent, n: extent, k: extent }),
        fc.constantFrom(inPlace, few, copied),
        (shape, preparation) => {
          const { m, k } = shape;
          const { lanes, tileM, vectors, tileN, blockK, blockM, panelN, panels } = tilingOf(shape, preparation);
          expect(tileN).toBe(lanes * vectors);
          expect(tileM * vectors + vectors).toBeLessThan(target.vectorRegisters);
          expect(tileM === 1 || tileM <= m).toBe(true);
          const rows =
            preparation.row(tileM) === 0 ? 0 : panels > 1 ? blockM * rowPitch(k, lanes) : rowPitch(blockK, lanes);
          const sums = blockK < k ? blockM * panelN : 1;
          const packed = preparation.packsColumns ? panelN * tileN * blockK : 0;
          const scratch = 4 * (packed + tileM * rows + sums * tileM * tileN);
          expect(scratch).toBeLessThanOrEqual(target.limits.sharedBytes);
          if (blockK < k) expect(k % blockK === 0 || k % blockK >= lanes).toBe(true);
        },
      ),
      { numRuns: 300 },
    );
  });

  it('is flat where few rows can be read in place, and copies none', () => {
    const { tileM } = tilingOf({ m: 1024, n: 1024, k: 1024 }, few);
    expect(tileM).toBeLessThanOrEqual(6);
    expect(tilingOf({ m: 1024, n: 1024, k: 1024 }, { ...few, rowsInPlace: 16 }).tileM).toBeGreaterThan(6);
  });

  it('takes all of k where a tile of columns fits the second-level cache', () => {
    expect(tilingOf({ m: 512, n: 512, k: 2000 }, few).blockK).toBe(2000);
    const { blockK, tileN } = tilingOf({ m: 512, n: 512, k: 40_000 }, few);
    expect(4 * blockK * tileN).toBeLessThan(l2);
  });

  it('reads columns that come from far away once for all rows', () => {
    const [m, n, k] = [128, 4096, 4096];
    const column = streamCost(4 * n * k, target);
    const { tileM, blockM } = tilingOf({ m, n, k }, { ...few, column, packsColumns: false });
    expect(tileM * blockM).toBeGreaterThanOrEqual(m);
  });

  it('leaves work for every thread', () => {
    for (const shape of [
      { m: 64, n: 4096, k: 64 },
      { m: 4096, n: 64, k: 64 },
      { m: 256, n: 256, k: 256 },
    ]) {
      expect(tasksOf(shape, tilingOf(shape, few))).toBeGreaterThanOrEqual(target.parallelism);
    }
  });

  it('knows what is near', () => {
    expect(streamCost(l2 / 4, target)).toBe(0);
    expect(streamCost(l2, { ...target, caches: [...target.caches, { bytes: 32 * l2, shared: true }] })).toBeLessThan(
      streamCost(64 * l2, target),
    );
    expect(vectorCost(l2 / 4, target)).toBeLessThan(vectorCost(4 * l2, target));
  });
});
