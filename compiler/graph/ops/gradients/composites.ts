/** Derivatives of composites that are better known in closed form than by their decomposition. */
import { mul, reduce, sub, unary } from '../../compose/index.js';
import type { Gradient } from '../../definition.js';

/** With y the result: y·(g - Σ g·y), or g - e^y · Σ g for the logarithm. */
export const softmaxGradient: Gradient<'softmax'> = (b, { attrs: { axes, log }, outputs: [y] }, [g]) => {
  if (!g) return [null];
  if (log) return [sub(b, g, mul(b, unary(b, 'exp', y), reduce(b, 'sum', g, axes, true)))];
  return [mul(b, y, sub(b, g, reduce(b, 'sum', mul(b, g, y), axes, true)))];
};
