/** Derivatives of ops that move, pick, reduce and contract elements: their transposes. */
import { isFloat } from '../../../dtype.js';
import type { GraphBuilder } from '../../builder.js';
import {
  binary,
  broadcastTo,
  cast,
  concat,
  div,
  full,
  gatherElements,
  gatherNd,
  iota,
  mul,
  pad,
  reduce,
  reshape,
  reverse,
  scalar,
  scatterElements,
  scatterNd,
  select3,
  slice1,
  sub,
  tensor,
  transpose,
  unary,
  unsqueeze,
} from '../../compose/index.js';
import type { Gradient } from '../../definition.js';
import type { NodeOf, Value } from '../../types.js';
import { noDerivative } from '../common.js';

const sizes = (x: Value): number[] => x.type.shape.map(Number);
const zeros = (b: GraphBuilder, like: Value, shape: readonly number[] = sizes(like)): Value =>
  full(b, 0, like.type.dtype, shape);
const range = (count: number): number[] => Array.from({ length: count }, (_, i) => i);
const inverse = (permutation: readonly number[]): number[] =>
  range(permutation.length).map((axis) => permutation.indexOf(axis));

// --- movement ------------------------------------------------------------------------------------------------------

export const reshapeGradient: Gradient<'reshape'> = (b, { inputs: [x] }, [g]) => [g && reshape(b, g, x.type.shape)];

export const transposeGradient: Gradient<'transpose'> = (b, { attrs: { permutation } }, [g]) => [
  g && transpose(b, g, inverse(permutation)),
];

export const broadcastGradient: Gradient<'broadcast'> = (b, { inputs: [x] }, [g]) => {
  if (!g) return [null];
  const [from, to] = [sizes(x), sizes(g)];
  const offset = to.length - from.length;
  const axes = range(to.length).filter((axis) => axis < offset || (from[axis - offset] === 1 && to[axis] !== 1));
  return [reshape(b, reduce(b, 'sum', g, axes, true), from)];
};

export const sliceGradient: Gradient<'slice'> = (b, { attrs, inputs: [x] }, [g]) => {
  if (!g) return [null];
  let value = g;
  sizes(x).forEach((dim, axis) => {
    const size = Number(attrs.sizes[axis]);
    const step = Math.abs(attrs.steps[axis]);
    const last = Number(attrs.starts[axis]) + (size - 1) * attrs.steps[axis];
    const low = attrs.steps[axis] > 0 ? Number(attrs.starts[axis]) : last;
    const ascending = attrs.steps[axis] > 0 ? value : reverse(b, value, axis);
    value = size === 0 ? zeros(b, value, put(sizes(value), axis, dim)) : spread(b, ascending, axis, low, step, dim);
  });
  return [value];
};

const put = (shape: readonly number[], axis: number, dim: number): number[] =>
  shape.map((size, i) => (i === axis ? dim : size));

/** Elements at low, low + step, … of an axis of size `dim`, zeros between them. */
function spread(b: GraphBuilder, x: Value, axis: number, low: number, step: number, dim: number): Value {
  const shape = sizes(x);
  const padded = (v: Value, at: number, before: number, after: number): Value =>
    pad(
      b,
      v,
      v.type.shape.map((_, i) => (i === at ? before : 0)),
      v.type.shape.map((_, i) => (i === at ? after : 0)),
    );
  const apart = padded(unsqueeze(b, x, [axis + 1]), axis + 1, 0, step - 1);
  const wide = reshape(b, apart, put(shape, axis, shape[axis] * step));
  const cut = slice1(b, wide, axis, 0, (shape[axis] - 1) * step + 1);
  return padded(cut, axis, low, dim - low - Number(cut.type.shape[axis]));
}

/** The cotangent of x where y[…, j, …] = x[…, places[j], …] along an axis; out of range places are dropped. */
function gathered(b: GraphBuilder, g: Value, places: Value, axis: number, dim: number): Value {
  const rank = g.type.shape.length;
  const picked = places.type.shape.length;
  const outer = range(rank).filter((i) => i < axis || i >= axis + picked);
  const first = transpose(b, g, [...range(picked).map((i) => axis + i), ...outer]);
  const data = zeros(b, g, [dim, ...outer.map((i) => Number(g.type.shape[i]))]);
  const sum = scatterNd(b, data, unsqueeze(b, places, [picked]), first, 'add');
  return transpose(b, sum, [
    ...range(axis).map((i) => i + 1),
    0,
    ...range(outer.length - axis).map((i) => axis + 1 + i),
  ]);
}

export const padGradient: Gradient<'pad'> = (b, { attrs, inputs: [x, fill] }, [g]) => {
  if (!g) return fill === undefined ? [null] : [null, null];
  let value = g;
  sizes(x).forEach((dim, axis) => {
    const [low, high] = [Number(attrs.low[axis]), Number(attrs.high[axis])];
    if (low === 0 && high === 0) return;
    if (attrs.mode === 'constant') value = slice1(b, value, axis, low, dim);
    else {
      const places = range(low + dim + high).map((i) => folded(i - low, dim, attrs.mode));
      value = gathered(b, value, tensor(b, 'i64', places), axis, dim);
    }
  });
  if (fill === undefined) return [value];
  const all = (v: Value): Value => reduce(b, 'sum', v, range(v.type.shape.length));
  return [value, sub(b, all(g), all(value))];
};

/** Place in [0, dim) that padding repeats at i. */
function folded(i: number, dim: number, mode: 'edge' | 'reflect' | 'wrap' | 'constant'): number {
  if (mode === 'edge') return Math.min(Math.max(i, 0), dim - 1);
  const period = mode === 'wrap' ? dim : Math.max(1, 2 * (dim - 1));
  const turned = ((i % period) + period) % period;
  return mode === 'wrap' ? turned : Math.min(turned, period - turned, dim - 1);
}

export const concatGradient: Gradient<'concat'> = (b, { attrs: { axis }, inputs }, [g]) => {
  let start = 0;
  return inputs.map((input) => {
    const size = Number(input.type.shape[axis]);
    start += size;
    return g && slice1(b, g, axis, start - size, size);
  });
};

// --- indexing ------------------------------------------------------------------------------------------------------

export const gatherGradient: Gradient<'gather'> = (b, { attrs: { axis }, inputs: [x, places] }, [g]) => [
  g && gathered(b, g, places, axis, Number(x.type.shape[axis])),
  null,
];

export const gatherElementsGradient: Gradient<'gather_elements'> = (
  b,
  { attrs: { axis }, inputs: [x, places] },
  [g],
) => [g && scatterElements(b, zeros(b, x), places, g, axis, 'add'), null];

export const gatherNdGradient: Gradient<'gather_nd'> = (b, { attrs: { batchDims }, inputs: [x, places] }, [g]) => {
  if (!g) return [null, null];
  const outer = sizes(places).slice(0, -1);
  const own = range(batchDims).map((axis) => {
    const along = outer.map((dim, i) => (i === axis ? dim : 1));
    return unsqueeze(b, broadcastTo(b, iota(b, places.type.dtype, along, axis), outer), [outer.length]);
  });
  return [scatterNd(b, zeros(b, x), concat(b, [...own, places], outer.length), g, 'add'), null];
};

/** Whether places, of which negative ones count from the end, lie in an axis; others are dropped by scatters. */
const inside = (b: GraphBuilder, places: Value, limit: Value): Value =>
  binary(b, 'and', binary(b, 'ge', places, unary(b, 'neg', limit)), binary(b, 'lt', places, limit));
const kept = (b: GraphBuilder, condition: Value, x: Value): Value =>
  select3(b, condition, x, scalar(b, 0, x.type.dtype));

/** Of `set` where no two updates have one place, and of `add`. */
export const scatterElementsGradient: Gradient<'scatter_elements'> = (b, node, [g]) => {
  if (!g) return [null, null, null];
  const {
    attrs: { axis, fn },
    inputs: [, places, updates],
  } = node;
  if (fn !== 'set' && fn !== 'add') return noDerivative(node, `${node.op} by ${fn}`);
  const own = fn === 'set' ? scatterElements(b, g, places, zeros(b, updates), axis) : g;
  const limit = scalar(b, Number(g.type.shape[axis]), places.type.dtype);
  return [own, null, kept(b, inside(b, places, limit), gatherElements(b, g, places, axis))];
};

export const scatterNdGradient: Gradient<'scatter_nd'> = (b, node, [g]) => {
  if (!g) return [null, null, null];
  const {
    attrs: { fn },
    inputs: [, places, updates],
  } = node;
  if (fn !== 'set' && fn !== 'add') return noDerivative(node, `${node.op} by ${fn}`);
  const own = fn === 'set' ? scatterNd(b, g, places, zeros(b, updates)) : g;
  const [outer, depth] = [sizes(places).slice(0, -1), Number(places.type.shape.at(-1))];
  const limits = tensor(b, places.type.dtype, sizes(g).slice(0, depth));
  const valid = reduce(b, 'and', inside(b, places, limits), [outer.length]);
  const slices = reshape(b, valid, [...outer, ...range(updates.type.shape.length - outer.length).map(() => 1)]);
  return [own, null, kept(b, slices, gatherNd(b, g, places))];
};

export const topKGradient: Gradient<'top_k'> = (b, { attrs: { axis }, inputs: [x], outputs: [, places] }, [g]) => [
  g && scatterElements(b, zeros(b, x), places, g, axis, 'add'),
];

// --- reductions ----------------------------------------------------------------------------------------------------

export const reduceGradient: Gradient<'reduce'> = (b, { attrs: { fn, axes }, inputs: [x], outputs: [y] }, [g]) => {
  if (!g || !isFloat(x.type.dtype)) return [null];
  const kept = sizes(x).map((dim, axis) => (axes.includes(axis) ? 1 : dim));
  const over = (v: Value): Value => broadcastTo(b, reshape(b, v, kept), x.type.shape);
  switch (fn) {
    case 'sum':
      return [over(g)];
    case 'prod':
      return [mul(b, over(g), productOfOthers(b, x, axes))];
    case 'max':
    case 'min': {
      // Shared evenly by those that are the extreme.
      const hits = cast(b, binary(b, 'eq', x, over(y)), x.type.dtype);
      const count = reduce(b, 'sum', hits, axes, true);
      return [mul(b, hits, over(div(b, g, reshape(b, count, g.type.shape))))];
    }
    case 'and':
    case 'or':
      return [null];
    default:
      return fn satisfies never;
  }
};

/** The product of all other elements along the axes, which also holds where some are 0. */
function productOfOthers(b: GraphBuilder, x: Value, axes: readonly number[]): Value {
  const shape = sizes(x);
  const order = [...range(shape.length).filter((axis) => !axes.includes(axis)), ...axes];
  const moved = transpose(b, x, order);
  const length = axes.reduce((product, axis) => product * shape[axis], 1);
  const rows = reshape(b, moved, [length === 0 ? 0 : shape.reduce((p, d) => p * d, 1) / length, length]);
  const running = (reverse: boolean): Value =>
    b.op('cumulative', [rows], { fn: 'prod', axis: 1, exclusive: true, reverse })[0];
  return transpose(b, reshape(b, mul(b, running(false), running(true)), moved.type.shape), inverse(order));
}

export const cumulativeGradient: Gradient<'cumulative'> = (b, node, [g]) => {
  const { attrs, inputs } = node;
  if (!g || !isFloat(inputs[0].type.dtype)) return [null];
  if (attrs.fn !== 'sum') return noDerivative(node, `running ${attrs.fn}`);
  return b.op('cumulative', [g], { ...attrs, reverse: !attrs.reverse });
};

// --- contractions --------------------------------------------------------------------------------------------------

export const dotGradient: Gradient<'dot'> = (b, node, [g]) => {
  if (!g || !isFloat(node.inputs[0].type.dtype)) return [null, null];
  return [operandGradient(b, node, g, 'lhs'), operandGradient(b, node, g, 'rhs')];
};

/** g [batch, free axes of lhs, free axes of rhs] contracted with the other operand over the other's free axes. */
function operandGradient(
  b: GraphBuilder,
  { attrs, inputs: [lhs, rhs] }: NodeOf<'dot'>,
  g: Value,
  side: 'lhs' | 'rhs',
): Value {
  const isLeft = side === 'lhs';
  const [own, other] = isLeft ? [lhs, rhs] : [rhs, lhs];
  const [ownBatch, otherBatch] = isLeft ? [attrs.lhsBatch, attrs.rhsBatch] : [attrs.rhsBatch, attrs.lhsBatch];
  const [ownContract, otherContract] = isLeft
    ? [attrs.lhsContract, attrs.rhsContract]
    : [attrs.rhsContract, attrs.lhsContract];
  const freeOf = (x: Value, batch: readonly number[], contract: readonly number[]): number[] =>
    range(x.type.shape.length).filter((axis) => !batch.includes(axis) && !contract.includes(axis));
  const [ownFree, otherFree] = [freeOf(own, ownBatch, ownContract), freeOf(other, otherBatch, otherContract)];
  const batch = ownBatch.length;
  const leftFree = isLeft ? ownFree.length : otherFree.length;
  const inG = range(otherFree.length).map((i) => batch + (isLeft ? leftFree + i : i));
  const result = b.op('dot', [cast(b, g, own.type.dtype), other], {
    lhsBatch: range(batch),
    rhsBatch: otherBatch,
    lhsContract: inG,
    rhsContract: otherFree,
    dtype: own.type.dtype,
  })[0];
  // The result's axes: batch, own free axes, then the contracted ones in the order of the other operand's axes.
  const contracted = range(ownContract.length).sort((p, q) => otherContract[p] - otherContract[q]);
  const axes = [...ownBatch, ...ownFree, ...contracted.map((i) => ownContract[i])];
  return transpose(b, result, inverse(axes));
}

/** For ops whose results do not change with small changes of their inputs. */
export const noGradient = (_: GraphBuilder, node: { readonly inputs: readonly Value[] }): null[] =>
  node.inputs.map(() => null);
