/** Elements that exist only within a box: padding, ragged edges, taps of windows. */
import type { KValue, Lanes } from '../kernel/types.js';
import { Affine } from './affine.js';
import type { Lowering } from './lowering.js';
import { type Index, range } from './tensors.js';

/**
 * An element that exists only where every `at[d]` lies in [0, extents[d]); elsewhere `otherwise`. Reads stay in bounds
 * because `element` gets an index that is limited to the box. Vectors that lie inside as a whole take one branch,
 * vectors across the border are put together lane by lane.
 */
export function inside(
  l: Lowering,
  at: Index,
  extents: readonly number[],
  lanes: Lanes,
  element: (index: Index, lanes: Lanes) => KValue,
  otherwise: () => KValue,
): KValue {
  const open = at.map((i, d) => i.range.min < 0 || i.range.max >= extents[d]);
  if (!open.includes(true)) return element(at, lanes);
  if (extents.includes(0)) return otherwise();
  const crossing = at.map((i, d) => (open[d] && i.mentionsLane() ? d : -1)).filter((d) => d >= 0);
  if (lanes === 1 || crossing.length === 0) return masked(l, at, extents, open, lanes, element, otherwise);
  const byLane = () =>
    l.b.build(
      range(lanes).map((lane) =>
        masked(
          l,
          at.map((i) => i.atLane(lane)),
          extents,
          open,
          1,
          element,
          otherwise,
        ),
      ),
    );
  const [d] = crossing;
  const step = at[d].laneCoefficient();
  if (crossing.length > 1 || step === undefined || step <= 0 || extents[d] <= step * (lanes - 1)) return byLane();
  const base = at[d].atLane(0).emit(l.b);
  const last = extents[d] - 1 - step * (lanes - 1);
  const whole = l.b.and(l.b.compare('ge', base, l.b.constant(0)), l.b.compare('le', base, l.b.constant(last)));
  return l.if(
    whole,
    () => {
      const limited = Affine.of(l.b.assume(base, 0, last), l.b).add(Affine.lane(lanes).scale(step));
      const index = at.map((i, e) => (e === d ? limited : i));
      return [
        l.widen(
          masked(
            l,
            index,
            extents,
            open.map((o, e) => o && e !== d),
            lanes,
            element,
            otherwise,
          ),
          lanes,
        ),
      ];
    },
    () => [byLane()],
  )[0];
}

/** `inside` by clamping and selecting; the lane is in no dim that is `open`. */
function masked(
  l: Lowering,
  at: Index,
  extents: readonly number[],
  open: readonly boolean[],
  lanes: Lanes,
  element: (index: Index, lanes: Lanes) => KValue,
  otherwise: () => KValue,
): KValue {
  const { b } = l;
  let valid = b.constant(true, 'bool');
  const clamped = at.map((i, d) => {
    if (!open[d]) return i;
    const value = i.emit(b);
    valid = b.and(valid, b.and(b.compare('ge', value, b.constant(0)), b.compare('lt', value, b.constant(extents[d]))));
    return Affine.of(b.clamp(value, 0, extents[d] - 1), b);
  });
  const value = element(clamped, lanes);
  const wide = value.type.lanes;
  return b.select(l.widen(valid, wide), value, l.widen(otherwise(), wide));
}
