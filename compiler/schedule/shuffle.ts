/** Vectors made of lanes of other vectors, in steps that read two vectors each: what machines have instructions for. */
import type { KernelBuilder } from '../kernel/builder.js';
import type { KValue } from '../kernel/types.js';
import { range } from './tensors.js';

export interface Pick {
  readonly vector: KValue;
  readonly lane: number;
}

/** The lanes picked, of vectors as long as there are picks if there are more than two of them. */
export function pickLanes(b: KernelBuilder, picks: readonly Pick[]): KValue {
  const [first, second, ...others] = new Set(picks.map(({ vector }) => vector));
  const from = ({ vector, lane }: Pick): KValue => b.extract(vector, lane);
  if (others.length === 0) return b.build(picks.map(from));
  const early = (pick: Pick): Pick =>
    pick.vector === first || pick.vector === second ? pick : { vector: first, lane: 0 };
  return others.reduce(
    (sofar, vector) =>
      b.build(picks.map((pick, lane) => from(pick.vector === vector ? pick : { vector: sofar, lane }))),
    b.build(picks.map((pick) => from(early(pick)))),
  );
}

/** As many vectors as each has lanes: lane i of the result's vector j is lane j of vector i. */
export function transposed(b: KernelBuilder, vectors: readonly KValue[]): readonly KValue[] {
  const lanes = range(vectors.length);
  let rows = vectors;
  for (let distance = vectors.length / 2; distance >= 1; distance /= 2) {
    // Squares of that size off the diagonal change places.
    const before = rows;
    rows = lanes.map((i) => {
      const upper = (i & distance) === 0;
      const [own, other] = [before[i], before[i ^ distance]];
      return b.build(
        lanes.map((lane) =>
          ((lane & distance) === 0) === upper ? b.extract(own, lane) : b.extract(other, lane ^ distance),
        ),
      );
    });
  }
  return rows;
}

/** As many vectors as each has lanes: lane i of the result is the sum of the lanes of vector i. */
export function summed(b: KernelBuilder, vectors: readonly KValue[]): KValue {
  let rows = vectors;
  for (let width = vectors[0].type.lanes / 2; width >= 1; width /= 2) {
    const half = rows.length / 2;
    rows = range(half).map((i) => {
      // Blocks of `width` lanes: the first or second ones of a pair of vectors, by turns.
      const blocks = (part: 0 | 1): KValue =>
        b.build(
          range(vectors.length).map((lane) => {
            const inside = lane % (2 * width);
            const place = lane - inside + part * width + (inside % width);
            return b.extract(inside < width ? rows[i] : rows[i + half], place);
          }),
        );
      return b.add(blocks(0), blocks(1));
    });
  }
  return rows[0];
}
