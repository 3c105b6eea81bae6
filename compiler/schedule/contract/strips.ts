/** Rows of elements in vectors. */
import type { Lanes } from '../../kernel/types.js';
import { Affine } from '../affine.js';
import type { Lowering } from '../lowering.js';

/** Vectors of at most `lanes` over [0, count); the last one overlaps its neighbour. */
export function overStrip(
  lowering: Lowering,
  count: number,
  lanes: Lanes,
  body: (first: Affine, width: Lanes) => void,
): void {
  if (count <= 0) return;
  const width = ([16, 8, 4, 2, 1] as const).find((l) => l <= lanes && l <= count) as Lanes;
  const whole = Math.floor(count / width);
  lowering.for(0, whole, 1, [], (i) => body(i.scale(width), width));
  if (whole * width < count) body(Affine.constant(count - width), width);
}
