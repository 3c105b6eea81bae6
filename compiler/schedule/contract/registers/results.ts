/** What becomes of a finished register tile: epilogue and stores, written out or from an array. */
import type { KValue, Lanes } from '../../../kernel/types.js';
import { Affine } from '../../affine.js';
import type { Group } from '../../group.js';
import { range } from '../../tensors.js';
import { finish } from '../finish.js';
import type { Dim, Geometry } from '../geometry.js';
import type { Shares } from '../integer_contraction.js';
import { vector } from '../tiling.js';
import type { Form, Place } from './form.js';

export interface ResultOptions {
  readonly group: Group;
  /** Of a convolution, whose output positions are those of a grid. */
  readonly geometry: Geometry | undefined;
  readonly shares: Shares;
  /** Nodes of epilogues that may be written out. */
  readonly limit: number;
}

/** Epilogue and stores of a tile. */
export function storeTile(form: Form, options: ResultOptions, place: Place, sums: readonly KValue[]): void {
  const { lowering, contraction, space, tile } = form;
  const { group, geometry, shares, limit } = options;
  const { batch, tileM, line, first, classAt } = place;
  const { b } = lowering;
  const { m, accumulator } = contraction;
  const { rows, columns } = tile;
  const { h, w }: { h?: Dim; w?: Dim } = geometry ?? {};
  const [classH, classW] = w ? [Math.floor(classAt / w.inputDilation), classAt % w.inputDilation] : [0, 0];
  const extentOf = (dim: Dim, residue: number) => Math.max(0, Math.ceil((dim.output - residue) / dim.inputDilation));
  const [height, width] = h && w ? [extentOf(h, classH), extentOf(w, classW)] : [1, space.width];
  if (height === 0 || width === 0) return;
  const lanes: Lanes = width % vector === 0 && (w?.inputDilation ?? 1) === 1 ? vector : 1;
  const placeOf = (lineAt: Affine, column: Affine): Affine => {
    const across = column.scale(lanes).add(Affine.lane(lanes));
    return h && w
      ? lineAt.scale(h.inputDilation).add(classH).scale(w.output).add(across.scale(w.inputDilation)).add(classW)
      : across;
  };
  const store = (r: Affine, c: Affine, sum: () => KValue): void =>
    lowering.guarded(tileM.scale(rows).add(r), m, (row) =>
      lowering.guarded(first.div(lanes).add(c), width / lanes, (column) =>
        lowering.guarded(line, height, (lineAt) => {
          const at = { batch, m: row, n: placeOf(lineAt, column) };
          finish(lowering, group, contraction, at, shares.added(at, sum(), lanes), lanes);
        }),
      ),
    );
  const [downs, rights] = [rows, columns / lanes];
  const own = group.nodes.length - 1;
  if (downs * rights * (own + 1) <= limit) {
    for (const r of range(downs)) {
      for (const c of range(rights)) {
        store(Affine.constant(r), Affine.constant(c), () =>
          b.build(range(lanes).map((lane) => sums[r * columns + c * lanes + lane])),
        );
      }
    }
    return;
  }
  // Through an array, so that the code of the epilogue is there once.
  const array = b.array(`tile${classAt}`, 'private', accumulator, rows * columns);
  for (const i of range((rows * columns) / vector))
    b.store(array, b.constant(i * vector), b.build(sums.slice(i * vector, (i + 1) * vector)), true);
  lowering.for(0, downs, 1, [], (r) =>
    lowering.for(0, rights, 1, [], (c) =>
      store(r, c, () => b.load(array, r.scale(columns).add(c.scale(lanes)).emit(b), lanes, true)),
    ),
  );
}
