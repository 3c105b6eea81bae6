/**
 * Reading what all invocations of a subgroup need alike.
 *
 * Devices that run on a CPU have no fast way to read one place for a whole subgroup — every load is a loop over the
 * lanes —, but a fast one to hand a register's lane to all. So the lanes read different places and hand them round.
 */
import type { Target } from '../../kernel/target.js';
import { type KValue, type Lanes, type ScalarType, scalarBits } from '../../kernel/types.js';
import { Affine } from '../affine.js';
import type { Lowering } from '../lowering.js';
import { range } from '../tensors.js';

/**
 * How many invocations of a workgroup share what they read; 1 where each reads for itself.
 * @param along Consecutive invocations that need the same values.
 */
export function sharingOf(target: Target, along: number, scalar: ScalarType): number {
  const { min, max } = target.subgroup;
  const known = target.style === 'software-gpu' && target.features.has('subgroups') && min === max;
  return known && along % min === 0 && scalarBits[scalar] === 32 ? min : 1;
}

/**
 * `count` pieces of `lanes` each, loaded once for every `sharing` invocations; all of them must reach this together.
 * @returns a lane of a piece
 */
export function sharedPieces(
  lowering: Lowering,
  sharing: number,
  count: number,
  lanes: Lanes,
  load: (piece: Affine) => KValue,
): (piece: number, lane: number) => KValue {
  const { b } = lowering;
  const laneOf = (value: KValue, lane: number): KValue => (lanes === 1 ? value : b.extract(value, lane));
  if (sharing === 1) {
    const loaded = range(count).map((piece) => load(Affine.constant(piece)));
    return (piece, lane) => laneOf(loaded[piece], lane);
  }
  const own = Affine.of(b.builtin('subgroup_lane', 0, sharing), b);
  const loaded = range(Math.ceil(count / sharing)).map((pass) =>
    load(limited(lowering, own.add(pass * sharing), count - 1)),
  );
  return (piece, lane) => b.subgroup('broadcast', laneOf(loaded[Math.floor(piece / sharing)], lane), piece % sharing);
}

/** An index that may run over its end, kept within [0, last]. */
export function limited({ b }: Lowering, at: Affine, last: number): Affine {
  return at.range.max <= last ? at : Affine.of(b.min(at.emit(b), b.constant(last)), b);
}
