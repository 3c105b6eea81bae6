/** The window family: pooling. A map whose elements are small reductions over a window of the input. */
import type { Node, NodeOf } from '../graph/types.js';
import type { Target } from '../kernel/target.js';
import type { KernelFunction, KValue, Lanes } from '../kernel/types.js';
import { type Affine, linearize } from './affine.js';
import type { Group } from './group.js';
import { inside } from './inside.js';
import type { Lowering } from './lowering.js';
import { lowerMap } from './map.js';
import { accumulatorOf, combine, identity, isNan } from './reduce.js';
import { type Index, scalarOf, shapeOf } from './tensors.js';
import { lowerWindowRows } from './window_rows.js';

export function lowerWindow(group: Group, target: Target): KernelFunction {
  const anchor = group.anchor as Node;
  if (target.style === 'cpu' && anchor.op === 'reduce_window') {
    const rows = lowerWindowRows(group, target, anchor);
    if (rows) return rows;
  }
  return lowerMap(group, target, (lowering) => defineWindow(lowering, group.anchor as Node));
}

function defineWindow(lowering: Lowering, anchor: Node): void {
  if (anchor.op === 'reduce_window') {
    lowering.define(anchor.outputs[0], (index, lanes) => reduceWindow(lowering, anchor, index, lanes));
  } else if (anchor.op === 'window_argmax') {
    lowering.define(anchor.outputs[0], (index, lanes) => argmaxWindow(lowering, anchor, index, lanes));
  } else throw new Error(`${anchor.op} is not a window op`);
}

/** Runs `body` for every offset of the window, carrying values; dims of extent 1 make no loop. */
function overWindow(
  lowering: Lowering,
  window: readonly number[],
  initial: readonly KValue[],
  body: (offset: Index, carried: readonly KValue[]) => readonly KValue[],
): readonly KValue[] {
  const nest = (d: number, offset: Index, carried: readonly KValue[]): readonly KValue[] =>
    d === window.length
      ? body(offset, carried)
      : lowering.for(0, window[d], 1, carried, (i, inner) => nest(d + 1, [...offset, i], inner));
  return nest(0, [], initial);
}

function placeIn(node: NodeOf<'reduce_window'> | NodeOf<'window_argmax'>, index: Index, offset: Index): Affine[] {
  const { strides, dilations, padLow } = node.attrs;
  return index.map((i, d) => i.scale(strides[d]).add(offset[d].scale(dilations[d])).sub(Number(padLow[d])));
}

function reduceWindow(lowering: Lowering, node: NodeOf<'reduce_window'>, index: Index, lanes: Lanes): KValue {
  const { b } = lowering;
  const [x] = node.inputs;
  const { fn, window } = node.attrs;
  const wide = index.some((i) => i.mentionsLane()) ? lanes : 1;
  const accumulator = accumulatorOf(scalarOf(x, node));
  const neutral = identity(fn, accumulator);
  const initial = b.constant(neutral, accumulator, wide);
  const [result] = overWindow(lowering, window, [initial], (offset, [accumulated]) => {
    const at = placeIn(node, index, offset);
    const element = inside(
      lowering,
      at,
      shapeOf(x),
      wide,
      (i, width) => lowering.unrounded(x, i, width),
      () => b.constant(neutral, accumulator),
    );
    return [combine(b, fn, accumulated, lowering.widen(element, wide))];
  });
  return result;
}

function argmaxWindow(lowering: Lowering, node: NodeOf<'window_argmax'>, index: Index, lanes: Lanes): KValue {
  const { b } = lowering;
  const [x] = node.inputs;
  const scalar = scalarOf(x, node);
  const one = (i: Index): KValue => {
    const initial = [b.constant(identity('max', scalar), scalar), b.constant(-1)];
    const [, best] = overWindow(lowering, node.attrs.window, initial, (offset, [value, position]) => {
      const at = placeIn(node, i, offset);
      let flat: KValue | undefined;
      const element = inside(
        lowering,
        at,
        shapeOf(x),
        1,
        (inner, width) => {
          flat = linearize(inner, shapeOf(x)).emit(b);
          return lowering.value(x, inner, width);
        },
        () => b.constant(identity('max', scalar), scalar),
      );
      const within = isInside(lowering, at, shapeOf(x));
      const firstNan = b.and(isNan(b, element), b.unary('not', isNan(b, value)));
      const better = b.or(b.or(b.compare('gt', element, value), firstNan), b.compare('lt', position, b.constant(0)));
      const take = b.and(within, better);
      return [b.select(take, element, value), b.select(take, flat as KValue, position)];
    });
    return b.convert(best, 'i64');
  };
  return lowering.perLane(index, lanes, one);
}

/** True where the place lies in the tensor. */
function isInside(lowering: Lowering, at: Index, extents: readonly number[]): KValue {
  const { b } = lowering;
  return at.reduce(
    (valid, i, d) => {
      if (i.range.min >= 0 && i.range.max < extents[d]) return valid;
      const value = i.emit(b);
      return b.and(valid, b.and(b.compare('ge', value, b.constant(0)), b.compare('lt', value, b.constant(extents[d]))));
    },
    b.constant(true, 'bool'),
  );
}
