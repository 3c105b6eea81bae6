/** Epilogue and stores of a tile of sums in scratch memory, at ragged ends too. */
import type { KArray, Lanes } from '../../kernel/types.js';
import { Affine } from '../affine.js';
import type { Group } from '../group.js';
import type { Lowering } from '../lowering.js';
import type { Contraction } from './contraction.js';
import { finish } from './finish.js';

/** [rows][vectors·lanes] sums. */
export interface SummedTile {
  readonly sums: KArray;
  readonly rows: number;
  readonly vectors: number;
  readonly lanes: Lanes;
}

/** Tile (row, column) of a contraction of one batch, which is at least a vector wide. */
export function finishTile(
  lowering: Lowering,
  group: Group,
  contraction: Contraction,
  { sums, rows, vectors, lanes }: SummedTile,
  row: Affine,
  column: Affine,
): void {
  const { b } = lowering;
  const { m, n } = contraction;
  const width = vectors * lanes;
  lowering.for(0, rows, 1, [], (r) =>
    lowering.guarded(row.scale(rows).add(r), m, (rowAt) => {
      const store = (at: Affine, first: Affine, count: Lanes): void => {
        const sum = b.load(sums, r.scale(width).add(at).emit(b), count);
        const place = { batch: Affine.constant(0), m: rowAt, n: first.add(Affine.lane(count)) };
        finish(lowering, group, contraction, place, sum, count);
      };
      lowering.for(0, vectors, 1, [], (v) => {
        const at = v.scale(lanes);
        const first = column.scale(width).add(at);
        if (first.range.max + lanes <= n) {
          store(at, first, lanes);
          return;
        }
        const value = first.emit(b);
        lowering.if(
          b.compare('le', value, b.constant(n - lanes)),
          () => store(at, Affine.of(b.assume(value, 0, n - lanes), b), lanes),
          () => {
            lowering.for(0, lanes, 1, [], (lane) =>
              lowering.guarded(first.add(lane), n, (one) => store(at.add(lane), one, 1)),
            );
          },
        );
      });
    }),
  );
}
