/** Sums of a convolution's tile, from planes copied with their padding. */
import type { KBuffer, KValue } from '../../../kernel/types.js';
import { Affine, delinearize, linearize } from '../../affine.js';
import { range } from '../../tensors.js';
import type { PlanesCopy } from '../copy.js';
import { type Geometry, progressions, type Tap } from '../geometry.js';
import { vector } from '../tiling.js';
import type { Factors } from './factors.js';
import type { Form, Place } from './form.js';
import { multiplyTile } from './sums.js';

export interface Planes {
  readonly geometry: Geometry;
  readonly copy: PlanesCopy;
  /** What the copy is bound as. */
  readonly copied: KBuffer;
}

/** Taps of a row of a kernel that are spelled out; more of them make code that takes long to compile. */
const unrolledTaps = 16;

/** Sums over channels and taps; a row of the kernel shares its aligned loads. */
export function sumOverPlanes(
  form: Form,
  factorsOf: Factors,
  { geometry, copy, copied }: Planes,
  place: Place,
  zeros: readonly KValue[],
): readonly KValue[] {
  const { lowering, contraction, tile } = form;
  const { h, w } = geometry;
  const { batch, line, first, classAt } = place;
  const { b } = lowering;
  const { k } = contraction;
  const { columns } = tile;
  const [tapsH, tapsW] = [h.classes[Math.floor(classAt / w.inputDilation)], w.classes[classAt % w.inputDilation]];
  const channels = k / (h.kernel * w.kernel);
  const groups = contraction.lhsBatches;
  const [image, groupAt] = delinearize(batch, [contraction.batch / groups, groups]);
  const { rows, pitch, phasesH, phasesW } = copy;
  const rowOf = (
    channel: Affine,
    at: { k: Affine; phase: number; shift: Affine },
    carried: readonly KValue[],
  ): readonly KValue[] => {
    const plane = linearize(
      [image, groupAt.scale(channels).add(channel), Affine.constant(phasesH.indexOf(at.phase))],
      [contraction.batch / groups, groups * channels, phasesH.length],
    ).scale(phasesW.length);
    const element = ({ phase, shift }: Tap, column: number, moved: Affine): KValue => {
      const offset = shift - w.minShift + column;
      const aligned = Math.floor(offset / vector) * vector;
      const row = plane.add(phasesW.indexOf(phase)).scale(rows).add(line).add(at.shift.sub(h.minShift));
      const from = row.scale(pitch).add(first).add(aligned).add(moved);
      return b.extract(b.load(copied, from.emit(b), vector, true), offset - aligned);
    };
    const row = channel.scale(h.kernel).add(at.k).scale(w.kernel);
    const columnsOf = (tap: Tap, moved: Affine) => range(columns).map((column) => element(tap, column, moved));
    const zero = Affine.constant(0);
    if (tapsW.length <= unrolledTaps) {
      const isWhole = tapsW.length === w.kernel;
      const all = isWhole ? factorsOf.of(place, row, w.kernel) : [];
      const factors = tapsW.map((tap) => all[tap.k] ?? factorsOf.of(place, row.add(tap.k), 1)[0]);
      return multiplyTile(
        form,
        factors,
        tapsW.map((tap) => columnsOf(tap, zero)),
        carried,
      );
    }
    /** One tap, `moved` columns (a multiple of the vector) and `further` steps of k on. */
    const multiplyTap = (now: readonly KValue[], tap: Tap, moved: Affine, further: Affine): readonly KValue[] =>
      multiplyTile(form, factorsOf.of(place, row.add(tap.k).add(further), 1), [columnsOf(tap, moved)], now);
    // Long kernels loop, a vector of taps at a time so that loads stay aligned.
    return progressions(tapsW).reduce((sums, [start, count, stepK, stepShift]) => {
      const tap = (i: number): Tap => ({ ...start, k: start.k + i * stepK, shift: start.shift + i * stepShift });
      const whole = stepShift === 1 ? Math.floor(count / vector) : 0;
      const looped = lowering.for(0, whole, 1, sums, (i, inner) =>
        range(vector).reduce((now, j) => multiplyTap(now, tap(j), i.scale(vector), i.scale(vector * stepK)), inner),
      );
      return range(count - whole * vector).reduce(
        (now, j) => multiplyTap(now, tap(whole * vector + j), zero, zero),
        looped,
      );
    }, carried);
  };
  return lowering.for(0, channels, 1, zeros, (channel, carried) =>
    progressions(tapsH).reduce(
      (now, [{ k: k0, phase, shift }, count, stepK, stepShift]) =>
        lowering.for(0, count, 1, now, (i, inner) =>
          rowOf(channel, { k: i.scale(stepK).add(k0), phase, shift: i.scale(stepShift).add(shift) }, inner),
        ),
      carried,
    ),
  );
}
