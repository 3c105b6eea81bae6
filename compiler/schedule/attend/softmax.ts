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
