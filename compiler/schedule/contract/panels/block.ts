/** A block of k: the steps that a task does before it comes back to the first of its tiles. */
import type { Lanes } from '../../../kernel/types.js';
import { Affine } from '../../affine.js';
import type { Lowering } from '../../lowering.js';
import type { Contraction } from '../contraction.js';
import { overStrip } from '../strips.js';

export interface Block {
  readonly first: Affine;
  /** At least a vector where there are several blocks; exact where there is one. */
  readonly length: Affine;
  /** The longest of all blocks. */
  readonly most: number;
}

/** Position in [0, k) of a step of a block, the first of `width` that follow each other. */
export function stepOf(lowering: Lowering, { k }: Contraction, { first }: Block, step: Affine, width: number): Affine {
  const { b } = lowering;
  const position = first.add(step);
  // Implied by the block's length, which an interval cannot express.
  return position.range.max + width <= k ? position : Affine.of(b.clamp(position.emit(b), 0, k - width), b);
}

/** The steps of a block in vectors; the last one overlaps its neighbour. */
export function overSteps(
  lowering: Lowering,
  { length, most }: Block,
  lanes: Lanes,
  body: (first: Affine, width: Lanes) => void,
): void {
  const { b } = lowering;
  if (length.isConstant) {
    overStrip(lowering, length.constant, lanes, body);
    return;
  }
  const count = b.div(b.add(length.emit(b), b.constant(lanes - 1)), b.constant(lanes));
  lowering.for(0, count, 1, [], (i) => {
    const last = b.sub(length.emit(b), b.constant(lanes));
    body(Affine.of(b.clamp(b.min(i.scale(lanes).emit(b), last), 0, most - lanes), b), lanes);
  });
}
