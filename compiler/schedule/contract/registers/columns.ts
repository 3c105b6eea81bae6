/** The rhs of a register tile: its columns, from the operand as it is or from rows of aligned vectors. */
import type { KBuffer, KValue } from '../../../kernel/types.js';
import { Affine } from '../../affine.js';
import type { Lowering } from '../../lowering.js';
import { range } from '../../tensors.js';
import type { Operand } from '../contraction.js';
import type { Reading } from '../packing.js';
import { limited } from '../sharing.js';
import { vector } from '../tiling.js';
import type { Form, Place } from './form.js';

/** A vector of an operand, where the lane is in `row` or in `k`. */
export const operandVector = (lowering: Lowering, operand: Operand, batch: Affine, row: Affine, k: Affine): KValue =>
  lowering.widen(operand.element(lowering, batch, row, k, vector), vector);

/** [count][columns] of the rhs as it is, at `step` of k and after it; columns beyond the end repeat others. */
export function readColumns(
  { lowering, contraction, tile }: Form,
  reading: Reading,
  { batch, first }: Place,
  step: Affine,
  count: number,
): KValue[][] {
  const { rhs, n: total } = contraction;
  const extent = tile.columns;
  const { b } = lowering;
  const lanes = (value: KValue) => range(vector).map((lane) => b.extract(value, lane));
  if (reading === 'along-k' && count === vector) {
    const byRow = range(extent).map((r) =>
      lanes(
        operandVector(lowering, rhs, batch, limited(lowering, first.add(r), total - 1), step.add(Affine.lane(vector))),
      ),
    );
    return range(count).map((u) => byRow.map((row) => row[u]));
  }
  if (reading === 'along-row' && extent % vector === 0) {
    const firsts = range(extent / vector).map((i) =>
      limited(lowering, first.add(i * vector).div(vector), total / vector - 1).scale(vector),
    );
    return range(count).map((u) =>
      firsts.flatMap((at) => lanes(operandVector(lowering, rhs, batch, at.add(Affine.lane(vector)), step.add(u)))),
    );
  }
  const places = range(extent).map((r) => limited(lowering, first.add(r), total - 1));
  return range(count).map((u) => places.map((at) => rhs.element(lowering, batch, at, step.add(u), 1)));
}

/** [count][columns] of a rhs in the form [batch][k][pitch]. */
export function readRows(
  { lowering, contraction, tile }: Form,
  copied: KBuffer,
  pitch: number,
  { batch, first }: Place,
  step: Affine,
  count: number,
): KValue[][] {
  const { b } = lowering;
  const { k, rhsBatch } = contraction;
  const last = pitch / vector - 1;
  const columns = range(tile.columns / vector).map((i) =>
    limited(lowering, first.add(i * vector).div(vector), last).scale(vector),
  );
  return range(count).map((u) =>
    columns.flatMap((column) => {
      const loaded = b.load(
        copied,
        rhsBatch(batch).scale(k).add(step).add(u).scale(pitch).add(column).emit(b),
        vector,
        true,
      );
      return range(vector).map((lane) => b.extract(loaded, lane));
    }),
  );
}
