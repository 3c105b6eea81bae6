/** Square blocks of vectors in registers: transposed, and summed along their lanes, by exchanging halves of pairs. */
import type { KernelBuilder } from '../../kernel/builder.js';
import type { KValue } from '../../kernel/types.js';
import { range } from '../tensors.js';

/**
 * Two vectors as blocks of `width` lanes: the even blocks of both (`part` 0), or the odd ones, those of `p` in the even
 * places.
 */
function exchanged(b: KernelBuilder, p: KValue, q: KValue, width: number, part: 0 | 1): KValue {
  return b.build(
    range(p.type.lanes).map((lane) => {
      const inside = lane % (2 * width);
      return b.extract(inside < width ? p : q, lane - inside + part * width + (inside % width));
    }),
  );
}

/** As many vectors as they have lanes; lane j of result i is lane i of vector j. */
export function transposeAll(b: KernelBuilder, vectors: readonly KValue[]): readonly KValue[] {
  const { lanes } = vectors[0].type;
  let now = [...vectors];
  for (let width = lanes / 2; width >= 1; width /= 2) {
    const next = [...now];
    for (let i = 0; i < lanes; i++) {
      if (i % (2 * width) >= width) continue;
      next[i] = exchanged(b, now[i], now[i + width], width, 0);
      next[i + width] = exchanged(b, now[i], now[i + width], width, 1);
    }
    now = next;
  }
  return now;
}

/** As many vectors as they have lanes; lane i of the result is the sum of vector i. */
export function collapseAll(b: KernelBuilder, vectors: readonly KValue[]): KValue {
  let now = vectors;
  for (let width = vectors[0].type.lanes / 2; width >= 1; width /= 2) {
    const half = now.length / 2;
    now = range(half).map((i) =>
      b.add(exchanged(b, now[i], now[i + half], width, 0), exchanged(b, now[i], now[i + half], width, 1)),
    );
  }
  return now[0];
}
