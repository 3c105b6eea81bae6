/** The sums of a register tile: multiply-adds, the loop over k, and the slices of k that invocations share. */
import type { KValue } from '../../../kernel/types.js';
import { Affine, linearize } from '../../affine.js';
import { range } from '../../tensors.js';
import { multiplyAdd } from '../contraction.js';
import { vector } from '../tiling.js';
import type { Factors } from './factors.js';
import type { Form, Place } from './form.js';

/** Several steps of k, sum by sum: each is fetched and put back once, where there are more of them than registers. */
export function multiplyTile(
  { lowering, contraction, tile }: Form,
  factors: readonly (readonly KValue[])[],
  values: readonly (readonly KValue[])[],
  carried: readonly KValue[],
): readonly KValue[] {
  const { columns } = tile;
  const { words } = contraction;
  return carried.map((sum, i) =>
    factors.reduce(
      (now, row, u) => multiplyAdd(lowering, row[Math.floor(i / columns)], values[u][i % columns], now, words),
      sum,
    ),
  );
}

/** Loops over k, four steps at a time where they can be read together. */
export function sumOverK(
  form: Form,
  factorsOf: Factors,
  extents: readonly number[],
  place: Place,
  columnsAt: (step: Affine, count: number) => KValue[][],
  initial: readonly KValue[],
): readonly KValue[] {
  const { lowering, tile } = form;
  const { b } = lowering;
  const { slices } = tile;
  const { slice } = place;
  const nest = (d: number, at: readonly Affine[], carried: readonly KValue[]): readonly KValue[] => {
    if (d < extents.length - 1)
      return lowering.for(0, extents[d], 1, carried, (i, inner) => nest(d + 1, [...at, i], inner));
    const extent = extents[d];
    const steps = (from: Affine, count: number, sums: readonly KValue[]): readonly KValue[] => {
      const step = linearize([...at, from], extents);
      const factors = factorsOf.of(place, step, count);
      const values = columnsAt(step, count);
      return multiplyTile(form, factors, values, sums);
    };
    const whole = Math.floor(extent / vector);
    const start = slices > 1 ? slice.emit(b) : 0;
    const sums = lowering.for(start, whole, slices, carried, (i, inner) => steps(i.scale(vector), vector, inner));
    if (extent % vector === 0) return sums;
    const rest = () => steps(Affine.constant(whole * vector), extent % vector, sums);
    if (slices === 1) return rest();
    return lowering.if(b.compare('eq', slice.emit(b), b.constant(0)), rest, () => sums);
  };
  return nest(0, [], initial);
}

/** The sums of all slices of a tile; `body` is for those invocations that have them. */
export function meetSlices(
  { lowering, contraction, tile }: Form,
  own: readonly KValue[],
  slice: Affine,
  place: Affine,
  body: (sums: readonly KValue[]) => void,
): void {
  const { b } = lowering;
  const { along, across, slices } = tile;
  if (slices === 1) {
    body(own);
    return;
  }
  const places = along * across;
  const at = (from: Affine, i: number) => from.scale(own.length).add(i).scale(places).add(place).emit(b);
  const array = b.array('slices', 'shared', contraction.accumulator, slices * own.length * places);
  for (const [i, sum] of own.entries()) b.store(array, at(slice, i), sum);
  b.barrier();
  lowering.if(b.compare('eq', slice.emit(b), b.constant(0)), () => {
    const others = range(slices - 1).map((s) => Affine.constant(s + 1));
    body(own.map((sum, i) => others.reduce((now, other) => b.add(now, b.load(array, at(other, i))), sum)));
  });
}
