/** Suppression of overlapping boxes, rounded to f32 after every operation: which box wins must not depend on the width. */
import type { HostTensor } from '../../../tensor.js';
import { numbersOf } from './data.js';

const { fround: round, max, min } = Math;

/** Whether the boxes that start at p and q overlap by more than the limit: intersection over union. */
function overlaps(boxes: ArrayLike<number>, p: number, q: number, limit: number): boolean {
  const side = (axis: number): number =>
    round(min(boxes[p + 2 + axis], boxes[q + 2 + axis]) - max(boxes[p + axis], boxes[q + axis]));
  const area = (at: number): number => round(round(boxes[at + 2] - boxes[at]) * round(boxes[at + 3] - boxes[at + 1]));
  const [width, height] = [side(0), side(1)];
  const shared = round(width * height);
  const [own, other] = [area(p), area(q)];
  const union = round(round(own + other) - shared);
  if (!(width > 0 && height > 0 && shared > 0 && own > 0 && other > 0 && union > 0)) return false;
  return round(shared / union) > limit;
}

export function suppress(
  boxTensor: HostTensor,
  scoreTensor: HostTensor,
  overlap: HostTensor,
  least: HostTensor,
  shape: readonly number[],
): HostTensor {
  const [batches, classes, limit] = shape;
  const [, , count] = scoreTensor.shape;
  const [boxes, scores] = [numbersOf(boxTensor), numbersOf(scoreTensor)];
  const [greatest] = numbersOf(overlap);
  const [threshold] = numbersOf(least);
  const out = new BigInt64Array(batches * classes * limit).fill(-1n);
  for (let row = 0; row < batches * classes; row++) {
    const box = (i: number): number => (Math.floor(row / classes) * count + i) * 4;
    const score = (i: number): number => scores[row * count + i];
    const order = Array.from({ length: count }, (_, i) => i)
      .filter((i) => score(i) > threshold)
      .sort((p, q) => score(q) - score(p) || p - q);
    const kept: number[] = [];
    for (const i of order) {
      if (kept.length === limit) break;
      if (!kept.some((other) => overlaps(boxes, box(i), box(other), greatest))) kept.push(i);
    }
    kept.forEach((i, slot) => {
      out[row * limit + slot] = BigInt(i);
    });
  }
  return { dtype: 'i64', shape, data: out };
}
