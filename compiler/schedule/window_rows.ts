/**
 * Pooling on CPUs, row by row of the result. Columns whose windows lie within the input are vectors without conditions;
 * the others, at the borders, are computed one by one. Taps outside of the input are left out of the loops.
 */
import type { NodeOf } from '../graph/types.js';
import type { Target } from '../kernel/target.js';
import type { KernelFunction, KValue, Lanes } from '../kernel/types.js';
import { sizeOf } from '../tensor.js';
import { Affine, delinearize } from './affine.js';
import { type Group, resultIndex } from './group.js';
import { Lowering, mostSteps } from './lowering.js';
import { accumulatorOf, combine, identity } from './reduce.js';
import { shareOf, taskCount, widestWithin } from './shares.js';
import { type Index, range, scalarOf, shapeOf } from './tensors.js';

/** Taps of a row that are written out one after another. */
const mostUnrolled = 16;

/** A window along one dim. */
interface Axis {
  readonly extent: number;
  readonly taps: number;
  readonly stride: number;
  readonly dilation: number;
  readonly pad: number;
}

/** The kernel, or undefined where the columns do not lie side by side in memory. */
export function lowerWindowRows(
  group: Group,
  target: Target,
  node: NodeOf<'reduce_window'>,
): KernelFunction | undefined {
  const [x] = node.inputs;
  const [y] = node.outputs;
  const { window, strides, dilations, padLow } = node.attrs;
  if (window.length === 0) return undefined;
  const axes = shapeOf(x).map(
    (extent, d): Axis => ({
      extent,
      taps: window[d],
      stride: strides[d],
      dilation: dilations[d],
      pad: Number(padLow[d]),
    }),
  );
  const shape = shapeOf(y);
  const last = shape.length - 1;
  const columns = shape[last];
  const [first, end] = innerColumns(axes[last], columns);
  const lanes = widestWithin(Math.min(target.vectorLanes, end - first));
  const lowering = new Lowering(group, target);
  const { b } = lowering;
  const compute = (index: Index, width: Lanes): void => {
    const value = reduced(lowering, node, axes, index, width);
    lowering.define(y, () => value);
    const [output] = group.writes;
    const place = resultIndex(group, index);
    lowering.store(output, place, lowering.value(output, place, width), width);
  };
  const outerShape = shape.slice(0, last);
  const rows = sizeOf(outerShape);
  const tasks = taskCount(target, rows, sizeOf(shape) * Math.max(1, sizeOf(window) / 2));
  const grid = lowering.workgroups(tasks, (task) => {
    const [from, to] = shareOf(lowering, task, tasks, rows);
    lowering.for(from.emit(b), to.emit(b), 1, [], (row) => {
      const outer = delinearize(row, outerShape);
      const one = (start: number, stop: number): void => {
        if (start < stop) lowering.for(start, stop, 1, [], (column) => compute([...outer, column], 1));
      };
      const vector = (column: Affine): void => compute([...outer, column.add(Affine.lane(lanes))], lanes);
      one(0, first);
      const whole = Math.floor((end - first) / lanes);
      lowering.for(0, whole, 1, [], (i) => vector(i.scale(lanes).add(first)));
      if (whole * lanes < end - first) vector(Affine.constant(end - lanes));
      one(end, columns);
    });
  });
  const scattered = lowering.addresses.some((address) => (address.laneCoefficient() ?? mostSteps + 1) > mostSteps);
  return scattered ? undefined : lowering.finish(grid, [1, 1, 1]);
}

/** [first, end) of the places whose windows lie within the input. */
function innerColumns({ extent, taps, stride, dilation, pad }: Axis, columns: number): readonly [number, number] {
  const first = Math.min(columns, Math.max(0, Math.ceil(pad / stride)));
  const reach = extent - 1 - (taps - 1) * dilation + pad;
  return [first, Math.min(columns, Math.max(first, Math.floor(reach / stride) + 1))];
}

function reduced(
  lowering: Lowering,
  node: NodeOf<'reduce_window'>,
  axes: readonly Axis[],
  index: Index,
  lanes: Lanes,
): KValue {
  const { b } = lowering;
  const [x] = node.inputs;
  const { fn } = node.attrs;
  const accumulator = accumulatorOf(scalarOf(x, node));
  const nest = (d: number, place: Index, total: KValue): KValue => {
    if (d === axes.length) {
      return combine(b, fn, total, lowering.widen(lowering.unrounded(x, place, lanes), lanes));
    }
    const { extent, taps, stride, dilation, pad } = axes[d];
    const origin = index[d].scale(stride).sub(pad);
    const isInside = origin.range.min >= 0 && origin.range.max + (taps - 1) * dilation < extent;
    if (isInside && taps <= (d === axes.length - 1 ? mostUnrolled : 1)) {
      return range(taps).reduce((sum, tap) => nest(d + 1, [...place, origin.add(tap * dilation)], sum), total);
    }
    const [from, to] = isInside ? [0, taps] : tapsInside(lowering, axes[d], origin);
    const [sum] = lowering.for(from, to, 1, [total], (tap, [sofar]) => {
      const at = origin.add(tap.scale(dilation));
      // The bounds of the loop imply it, which is not seen.
      const within = isInside ? at : Affine.of(b.clamp(at.emit(b), 0, extent - 1), b);
      return [nest(d + 1, [...place, within], sofar)];
    });
    return sum;
  };
  return nest(0, [], b.constant(identity(fn, accumulator), accumulator, lanes));
}

/** [from, to) of the taps that meet the input; empty where none does. */
function tapsInside({ b }: Lowering, { extent, taps, dilation }: Axis, origin: Affine): readonly [KValue, KValue] {
  const limited = (value: Affine): KValue =>
    b.min(b.divc(b.max(value.emit(b), b.constant(0)), dilation), b.constant(taps));
  return [limited(origin.scale(-1).add(dilation - 1)), limited(origin.scale(-1).add(extent - 1 + dilation))];
}
