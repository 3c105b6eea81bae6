/**
 * Slices of the contracted steps as batches of a contraction: its sums are parts of those of the whole one. Operands stay
 * where they are; only the indices of their elements move.
 */
import { sizeOf } from '../../tensor.js';
import { type Affine, delinearize, linearize } from '../affine.js';
import type { Slices } from '../group.js';
import type { Contraction, Operand } from './contraction.js';

/** The contraction of all slices. A batch of it is (image, slice, what the lhs differs in). */
export function sliced(whole: Contraction, { count, length, partials }: Slices): Contraction {
  const { batch, lhsBatches, extents } = whole;
  const shape = [batch / lhsBatches, count, lhsBatches];
  const place = (at: Affine): { readonly own: Affine; readonly slice: Affine } => {
    const [image, slice, inner] = delinearize(at, shape);
    return { own: image.scale(lhsBatches).add(inner), slice };
  };
  const moved = (at: Affine, k: Affine): readonly [batch: Affine, k: Affine] => {
    const { own, slice } = place(at);
    return [own, slice.scale(length).add(k)];
  };
  const operand = (of: Operand): Operand => ({
    ...of,
    index(at, row, step) {
      const [own, k] = moved(at, step);
      return of.index(own, row, k);
    },
    element(lowering, at, row, step, lanes) {
      const [own, k] = moved(at, step);
      return of.element(lowering, own, row, k, lanes);
    },
    stored(lowering, { batch: at, row, k: step }, lanes, padding) {
      const [own, k] = moved(at, step);
      return of.stored(lowering, { batch: own, row, k }, lanes, padding);
    },
  });
  const [, ...inner] = extents;
  return {
    ...whole,
    node: { ...whole.node, outputs: [partials] },
    batch: batch * count,
    k: length,
    extents: length % sizeOf(inner) === 0 ? [length / sizeOf(inner), ...inner] : [length],
    lhs: operand(whole.lhs),
    rhs: operand(whole.rhs),
    lhsBatches: count * lhsBatches,
    lhsBatch: (at) => delinearize(at, [batch / lhsBatches, count * lhsBatches])[1],
    rhsBatches: count * batch,
    rhsBatch: (at) => at,
    result({ batch: at, m, n }) {
      const { own, slice } = place(at);
      return [slice, ...whole.result({ batch: own, m, n })];
    },
    place([slice, ...index]) {
      const { batch: own, m, n } = whole.place(index);
      const [image, inner] = delinearize(own, [batch / lhsBatches, lhsBatches]);
      return { batch: linearize([image, slice, inner], shape), m, n };
    },
  };
}
