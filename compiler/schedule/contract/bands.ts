/**
 * How the forms go through a convolution's output that first copy the input rows they need: a task has some images, a
 * band of output rows and some tiles of channels, so that what is copied is used by several tiles.
 */
import { type Affine, delinearize } from '../affine.js';
import type { LoweredKernel } from '../lowered.js';
import type { Lowering } from '../lowering.js';

/** What one task has. */
export interface Bands {
  /** Output rows of a band. */
  readonly rows: number;
  /** Output channels of a tile. */
  readonly tileM: number;
  /** Tiles, and batches, of a task. */
  readonly blockM: number;
  readonly blockBatch: number;
}

export interface BandSteps {
  /** Before anything is copied. */
  clear(): void;
  /** Copies what the band from `firstRow` on needs. */
  stage(batch: Affine, firstRow: Affine): void;
  tile(batch: Affine, tile: Affine, firstRow: Affine): void;
}

/** @param height Output rows. */
export function lowerBands(
  lowering: Lowering,
  { batch, m }: { readonly batch: number; readonly m: number },
  height: number,
  { rows, tileM, blockM, blockBatch }: Bands,
  steps: BandSteps,
): LoweredKernel {
  const tilesM = Math.ceil(m / tileM);
  const counts = [Math.ceil(batch / blockBatch), Math.ceil(height / rows), Math.ceil(tilesM / blockM)];
  const grid = lowering.workgroups(counts[0] * counts[1] * counts[2], (task) => {
    const [batches, band, tiles] = delinearize(task, counts);
    steps.clear();
    lowering.for(0, blockBatch, 1, [], (i) =>
      lowering.guarded(batches.scale(blockBatch).add(i), batch, (at) => {
        const firstRow = band.scale(rows);
        steps.stage(at, firstRow);
        lowering.for(0, blockM, 1, [], (j) =>
          lowering.guarded(tiles.scale(blockM).add(j), tilesM, (tile) => steps.tile(at, tile, firstRow)),
        );
      }),
    );
  });
  return { kernel: lowering.finish(grid, [1, 1, 1]), bindings: lowering.bindings };
}
