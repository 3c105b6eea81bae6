/** Shapes, indexing and reductions of the public builder. Axes may be negative: they count from the end. */
import * as compose from '../graph/compose/index.js';
import { dimEquals, floorDivDims, mulDims, printShape, productOf, subDims } from '../graph/dims.js';
import type { ScatterFn, Value } from '../graph/types.js';
import { type Axes, axesOrAll, dimsOf, type ShapeLike } from './base.js';
import { ElementwiseBuilder } from './elementwise.js';

export interface ReduceOptions {
  /** Default: all. */
  readonly axes?: Axes;
  /** Keep reduced axes as 1. Default false. */
  readonly keep?: boolean;
}

export class MovementBuilder extends ElementwiseBuilder {
  // --- shapes ------------------------------------------------------------------------------------------------------

  /** One dim may be -1: what is left. Others may be names and expressions. */
  reshape(x: Value, shape: ShapeLike): Value {
    const g = this.at('reshape');
    const open = shape.indexOf(-1);
    if (open < 0) return compose.reshape(g, x, dimsOf(shape));
    const known = dimsOf(shape.filter((_, i) => i !== open));
    const [total, divisor] = [productOf(x.type.shape), productOf(known)];
    const size = divisor === 0 ? 0 : floorDivDims(total, divisor);
    if (!dimEquals(mulDims(size, divisor), total)) {
      this.fail('the elements do not divide', `a multiple of ${divisor}`, `${total} of ${printShape(x.type.shape)}`);
    }
    return compose.reshape(
      g,
      x,
      dimsOf(shape).map((dim, i) => (i === open ? size : dim)),
    );
  }

  /** Default: reverses the axes. */
  transpose(x: Value, permutation?: readonly number[]): Value {
    const axes = permutation ?? x.type.shape.map((_, i, { length }) => length - 1 - i);
    return compose.transpose(this.at('transpose'), x, axes);
  }

  /** Exchanges two axes. */
  swapAxes(x: Value, a: number, b: number): Value {
    return compose.swapAxes(this.at('swapAxes'), x, a, b);
  }

  /** Repeats axes of size 1 and adds axes in front. */
  broadcast(x: Value, shape: ShapeLike): Value {
    return compose.broadcastTo(this.at('broadcast'), x, dimsOf(shape));
  }

  /** Inserts axes of size 1 at these places of the result. */
  unsqueeze(x: Value, axes: Axes): Value {
    return compose.unsqueeze(this.at('unsqueeze'), x, typeof axes === 'number' ? [axes] : axes);
  }

  /** Removes axes of size 1; default: all of them. */
  squeeze(x: Value, axes?: Axes): Value {
    const places = axes ?? x.type.shape.flatMap((dim, i) => (dim === 1 ? [i] : []));
    return compose.squeeze(this.at('squeeze'), x, typeof places === 'number' ? [places] : places);
  }

  /** A matrix: axes before `axis` joined, axes from it on joined. */
  flatten(x: Value, axis = 1): Value {
    return compose.flatten(this.at('flatten'), x, axis);
  }

  /**
   * Elements [start, end) by step along one axis. Negative numbers count from the end (the axis must be of known size);
   * no end: to the end.
   */
  slice(x: Value, axis: number, start: number, end?: number, step = 1): Value {
    const g = this.at('slice');
    const dim = x.type.shape[compose.axisOf(g, axis, x.type.shape.length)];
    if (!Number.isInteger(step) || step < 1) this.fail('bad step', 'an integer from 1', String(step));
    if (typeof dim !== 'number') {
      if (start < 0 || (end !== undefined && end < 0) || (end === undefined && step !== 1)) {
        this.fail('slice of an axis of unknown size', 'start and end from 0', `[${start}, ${end ?? 'end'})`);
      }
      const size = end === undefined ? subDims(dim, start) : Math.max(0, Math.ceil((end - start) / step));
      return compose.slice1(g, x, axis, start, size, step);
    }
    const within = (at: number) => Math.min(dim, Math.max(0, at < 0 ? at + dim : at));
    const from = within(start);
    return compose.slice1(g, x, axis, from, Math.max(0, Math.ceil((within(end ?? dim) - from) / step)), step);
  }

  /** Parts along an axis: their number (the axis must divide) or their sizes. */
  split(x: Value, parts: number | readonly number[], axis = 0): Value[] {
    const g = this.at('split');
    const dim = x.type.shape[compose.axisOf(g, axis, x.type.shape.length)];
    if (typeof parts !== 'number') return compose.split(g, x, axis, parts);
    if (typeof dim !== 'number' || dim % parts !== 0) {
      this.fail('the axis does not divide', `a multiple of ${parts}`, String(dim));
    }
    return compose.split(g, x, axis, new Array<number>(parts).fill(dim / parts));
  }

  concat(values: readonly Value[], axis = 0): Value {
    if (values.length === 0) this.fail('nothing to join', 'one value or more', 'none');
    return compose.concat(this.at('concat'), values, axis);
  }

  /** Values of one shape as slices of a new axis. */
  stack(values: readonly Value[], axis = 0): Value {
    if (values.length === 0) this.fail('nothing to join', 'one value or more', 'none');
    return compose.stack(this.at('stack'), values, axis);
  }

  /** Pads before and after each axis, with a value or by repeating what is there. */
  pad(
    x: Value,
    low: readonly number[],
    high: readonly number[],
    { mode = 'constant', value = 0 }: { mode?: 'constant' | 'edge' | 'reflect' | 'wrap'; value?: number } = {},
  ): Value {
    return compose.pad(this.at('pad'), x, low, high, value, mode);
  }

  /** Repeats the tensor along each axis. */
  tile(x: Value, repeats: readonly number[]): Value {
    return compose.tile(this.at('tile'), x, repeats);
  }

  /** Reverses the order along axes. */
  flip(x: Value, axes: Axes): Value {
    const g = this.at('flip');
    return axesOrAll(x, axes).reduce((value, axis) => compose.reverse(g, value, axis), x);
  }

  // --- indexing ----------------------------------------------------------------------------------------------------

  /** x[…, indices, …] along an axis (numpy take). Negative indices count from the end. */
  gather(x: Value, indices: Value, axis = 0): Value {
    return compose.gather(this.at('gather'), x, indices, axis);
  }

  /** Rows of a table [entries, width]: [...indices, width]. */
  embedding(table: Value, indices: Value): Value {
    return compose.gather(this.at('embedding'), table, indices, 0);
  }

  /** x with indices[i…] in place of the index of the axis (numpy take_along_axis). */
  gatherElements(x: Value, indices: Value, axis: number): Value {
    return compose.gatherElements(this.at('gatherElements'), x, indices, axis);
  }

  /** Slices at coordinates: indices […, k]. */
  gatherNd(x: Value, indices: Value, batchDims = 0): Value {
    return compose.gatherNd(this.at('gatherNd'), x, indices, batchDims);
  }

  /** x with updates put in along an axis, or combined with what is there. */
  scatterElements(x: Value, indices: Value, updates: Value, axis: number, fn: ScatterFn = 'set'): Value {
    return compose.scatterElements(this.at('scatterElements'), x, indices, updates, axis, fn);
  }

  /** x with slices put in at coordinates: indices […, k]. */
  scatterNd(x: Value, indices: Value, updates: Value, fn: ScatterFn = 'set'): Value {
    return compose.scatterNd(this.at('scatterNd'), x, indices, updates, fn);
  }

  /** The k largest (or smallest) along an axis, sorted, and their i64 indices. */
  topK(x: Value, k: number, { axis = -1, largest = true }: { axis?: number; largest?: boolean } = {}) {
    return compose.topK(this.at('topK'), x, k, axis, largest);
  }

  // --- reductions --------------------------------------------------------------------------------------------------

  sum(x: Value, { axes, keep = false }: ReduceOptions = {}): Value {
    return compose.reduce(this.at('sum'), 'sum', x, axesOrAll(x, axes), keep);
  }
  product(x: Value, { axes, keep = false }: ReduceOptions = {}): Value {
    return compose.reduce(this.at('product'), 'prod', x, axesOrAll(x, axes), keep);
  }
  reduceMax(x: Value, { axes, keep = false }: ReduceOptions = {}): Value {
    return compose.reduce(this.at('reduceMax'), 'max', x, axesOrAll(x, axes), keep);
  }
  reduceMin(x: Value, { axes, keep = false }: ReduceOptions = {}): Value {
    return compose.reduce(this.at('reduceMin'), 'min', x, axesOrAll(x, axes), keep);
  }
  mean(x: Value, { axes, keep = false }: ReduceOptions = {}): Value {
    return compose.mean(this.at('mean'), x, axesOrAll(x, axes), keep);
  }
  /** Mean of squared distances from the mean (not Bessel's correction). */
  variance(x: Value, { axes, keep = false }: ReduceOptions = {}): Value {
    const g = this.at('variance');
    const places = axesOrAll(x, axes);
    const centred = compose.sub(g, x, compose.mean(g, x, places, true));
    return compose.mean(g, compose.square(g, centred), places, keep);
  }
  /** Of bools. */
  any(x: Value, { axes, keep = false }: ReduceOptions = {}): Value {
    return compose.reduce(this.at('any'), 'or', x, axesOrAll(x, axes), keep);
  }
  all(x: Value, { axes, keep = false }: ReduceOptions = {}): Value {
    return compose.reduce(this.at('all'), 'and', x, axesOrAll(x, axes), keep);
  }
  /** i64 index of the first maximum. */
  argMax(x: Value, axis = -1, keep = false): Value {
    return compose.argReduce(this.at('argMax'), 'max', x, axis, keep);
  }
  argMin(x: Value, axis = -1, keep = false): Value {
    return compose.argReduce(this.at('argMin'), 'min', x, axis, keep);
  }
  /** Sums of all elements up to each one along an axis. */
  cumulativeSum(
    x: Value,
    axis: number,
    { exclusive = false, reverse = false }: { exclusive?: boolean; reverse?: boolean } = {},
  ): Value {
    const g = this.at('cumulativeSum');
    const attrs = { fn: 'sum', axis: compose.axisOf(g, axis, x.type.shape.length), exclusive, reverse } as const;
    return g.op('cumulative', [x], attrs)[0];
  }
}
