/**
 * The running softmax (Milakov & Gimelshein 2018, "Online normalizer calculation for softmax"): the largest logit so
 * far, the sum of e^(logit - largest), and by how much both and the weighted sum shrink when a larger one comes.
 *
 * The largest logit starts at the smallest finite number instead of -∞: rows whose logits so far are all -∞ then have
 * weights of 0 instead of NaN, and at the end 0/0, which is what the softmax of a hidden row is.
 */
import type { KernelBuilder } from '../../kernel/builder.js';
import type { KValue, ScalarType } from '../../kernel/types.js';

/** Where the largest logit starts. */
export const smallest = (scalar: ScalarType): number => (scalar === 'f64' ? -Number.MAX_VALUE : -3.4028234663852886e38);

/** The larger of two; a NaN on the right is passed over, since it comes back as a weight of NaN. */
export const larger = (b: KernelBuilder, largest: KValue, logit: KValue): KValue =>
  b.select(b.compare('gt', logit, largest), logit, largest);

/** Sums of the lanes of several vectors, one a lane of the result: `lanes` vectors of as many lanes. */
export function collapseAll(b: KernelBuilder, vectors: readonly KValue[]): KValue {
  const { lanes } = vectors[0].type;
  if (lanes === 1) return vectors[0];
  // Each step halves the number of vectors: the halves of two are added crosswise.
  let now = vectors;
  for (let width = lanes / 2; width >= 1; width /= 2) {
    const next: KValue[] = [];
    for (let i = 0; i < now.length / 2; i++) {
      const [p, q] = [now[i], now[i + now.length / 2]];
      const pick = (part: 0 | 1): KValue =>
        b.build(
          Array.from({ length: lanes }, (_, lane) => {
            // Blocks of 2·width lanes become blocks of width lanes of p, then of q.
            const block = Math.floor(lane / (2 * width));
            const inside = lane % (2 * width);
            const source = inside < width ? p : q;
            return b.extract(source, block * 2 * width + part * width + (inside % width));
          }),
        );
      next.push(b.add(pick(0), pick(1)));
    }
    now = next;
  }
  return now[0];
}
