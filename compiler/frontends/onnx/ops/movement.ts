/** Operators that move elements: shapes, slices, joins, pads, blocks. */
import {
  binary,
  broadcastShapes,
  broadcastTo,
  cast,
  concat,
  flatten,
  gatherElements,
  iota,
  pad,
  reshape,
  scalar,
  select3,
  slice,
  slice1,
  squeeze,
  sub,
  tile,
  transpose,
  unary,
  unsqueeze,
} from '../../../graph/compose/index.js';
import {
  addDims,
  ceilDivDims,
  type Dim,
  dimEquals,
  floorDivDims,
  isSymbolic,
  maxDims,
  minDims,
  mulDims,
  productOf,
  subDims,
} from '../../../graph/dims.js';
import type { Value } from '../../../graph/types.js';
import type { Conversion, ConvertContext } from '../context.js';

function reshapeOp(c: ConvertContext): Value {
  const [x, from] = [c.input(0), c.shape(0)];
  const wanted = c.opset < 5 ? (c.ints('shape') ?? c.dims(1)) : c.dims(1);
  if (c.opset >= 5 && c.rank(1) > 1) c.fail('the shape must be a vector', '1 axis', String(c.rank(1)));
  const copied = wanted.map((dim, i) => {
    if (dim !== 0 || c.flag('allowzero')) return dim;
    return from[i] ?? c.fail(`dim ${i} is to be copied from the input, which has only ${from.length}`);
  });
  const open = copied.flatMap((dim, i) => (dim === -1 ? [i] : []));
  if (open.length > 1) c.fail('more than one dim of -1', undefined, `[${wanted.join(', ')}]`);
  if (open.length === 0) return reshape(c.b, x, copied);
  const rest = productOf(copied.filter((_, i) => i !== open[0]));
  const total = productOf(from);
  if (rest === 0) c.fail('dim -1 cannot be told beside a dim of 0', undefined, `[${wanted.join(', ')}]`);
  const inferred = floorDivDims(total, rest);
  if (typeof inferred === 'number' && !dimEquals(mulDims(inferred, rest), total)) {
    c.fail(
      `cannot reshape [${from.join(', ')}] to [${wanted.join(', ')}]`,
      `a multiple of ${String(rest)} elements`,
      String(total),
    );
  }
  return reshape(
    c.b,
    x,
    copied.map((dim, i) => (i === open[0] ? inferred : dim)),
  );
}

/** Axes from the attribute or, since opset 13, from input 1. */
const axesOf = (c: ConvertContext): readonly number[] | undefined => (c.has(1) ? c.numbers(1) : c.ints('axes'));

function squeezeOp(c: ConvertContext): Value {
  const shape = c.shape(0);
  const given = axesOf(c);
  if (given === undefined) {
    // Which dims are 1 must be known.
    const dims = c.concreteShape(0);
    return squeeze(
      c.b,
      c.input(0),
      dims.flatMap((dim, i) => (dim === 1 ? [i] : [])),
    );
  }
  const axes = c.axes(given, shape.length);
  for (const axis of axes) {
    if (typeof shape[axis] === 'number' && shape[axis] !== 1)
      c.fail(`dim ${axis} cannot be squeezed`, '1', String(shape[axis]));
  }
  return squeeze(c.b, c.input(0), axes);
}

function unsqueezeOp(c: ConvertContext): Value {
  const axes = axesOf(c) ?? c.fail('axes are missing');
  return unsqueeze(c.b, c.input(0), c.axes(axes, c.rank(0) + axes.length));
}

function expand(c: ConvertContext): Value {
  const target = c.dims(1);
  c.decideBroadcast(c.shape(0), target);
  return broadcastTo(c.b, c.input(0), broadcastShapes(c.b, c.shape(0), target));
}

// --- slices --------------------------------------------------------------------------------------------------------

/** The smaller or greater of two dims, decided by their bounds where possible. */
function smaller(c: ConvertContext, a: Dim, b: Dim): Dim {
  const { min, max } = c.b.boundsOf(subDims(a, b));
  return max <= 0 ? a : min >= 0 ? b : minDims(a, b);
}
function greater(c: ConvertContext, a: Dim, b: Dim): Dim {
  const { min, max } = c.b.boundsOf(subDims(a, b));
  return min >= 0 ? a : max <= 0 ? b : maxDims(a, b);
}
/** `index` in [low, high], counted from the end if negative. */
function place(c: ConvertContext, index: Dim, dim: Dim, low: number, high: Dim): Dim {
  const { min, max } = c.b.boundsOf(index);
  if (min < 0 && max >= 0) return c.notConstant(0);
  // The extremes of i64 stand for "as far as it goes".
  const from = max < 0 ? (max < -(2 ** 40) ? low : addDims(index, dim)) : min > 2 ** 40 ? high : index;
  return greater(c, smaller(c, from, high), low);
}

export function sliceAxis(
  c: ConvertContext,
  dim: Dim,
  start: Dim,
  end: Dim,
  step: number,
): { readonly start: Dim; readonly size: Dim } {
  if (step > 0) {
    const first = place(c, start, dim, 0, dim);
    const last = place(c, end, dim, 0, dim);
    return { start: first, size: greater(c, ceilDivDims(subDims(last, first), step), 0) };
  }
  const top = subDims(dim, 1);
  const first = place(c, start, dim, 0, top);
  const last = place(c, end, dim, -1, top);
  return { start: first, size: greater(c, ceilDivDims(subDims(first, last), -step), 0) };
}

function sliceOp(c: ConvertContext): Value {
  const old = c.opset < 10;
  const starts = old ? (c.ints('starts') ?? c.fail('starts are missing')) : c.dims(1);
  const ends = old ? (c.ints('ends') ?? c.fail('ends are missing')) : c.dims(2);
  const shape = c.shape(0);
  const given = old ? c.ints('axes') : c.has(3) ? c.numbers(3) : undefined;
  const axes = c.axes(given ?? starts.map((_, i) => i), shape.length);
  const steps = !old && c.has(4) ? c.numbers(4) : starts.map(() => 1);
  if (ends.length !== starts.length || axes.length !== starts.length || steps.length !== starts.length) {
    c.fail('starts, ends, axes and steps differ in length');
  }
  const from = shape.map((): Dim => 0);
  const sizes = [...shape];
  const by = shape.map(() => 1);
  axes.forEach((axis, i) => {
    if (steps[i] === 0) c.fail('a step of 0');
    const step = Math.max(-(2 ** 31), Math.min(2 ** 31, steps[i]));
    const part = sliceAxis(c, shape[axis], starts[i], ends[i], step);
    [from[axis], sizes[axis], by[axis]] = [part.size === 0 ? 0 : part.start, part.size, part.size === 0 ? 1 : step];
  });
  return slice(c.b, c.input(0), from, sizes, by);
}

function split(c: ConvertContext): readonly Value[] {
  const x = c.input(0);
  const axis = c.axis(c.int('axis', 0), c.rank(0));
  const dim = c.shape(0)[axis];
  const outputs = c.operator.wanted.length;
  const given = c.opset < 13 ? c.ints('split') : undefined;
  let sizes: readonly Dim[];
  if (given !== undefined) sizes = given;
  else if (c.has(1)) sizes = c.dims(1);
  else {
    const count = c.int('num_outputs', outputs);
    if (count !== outputs) c.fail('num_outputs is not the number of outputs', String(outputs), String(count));
    if (isSymbolic(dim)) sizes = c.opset < 18 ? new Array<Dim>(count).fill(floorDivDims(dim, count)) : c.notConstant(0);
    else {
      // Since opset 18 the last part may be smaller.
      const part = Math.ceil(dim / count);
      sizes = Array.from({ length: count }, (_, i) => Math.max(0, Math.min(part, dim - i * part)));
    }
  }
  const total = sizes.reduce(addDims, 0);
  if (typeof total === 'number' && typeof dim === 'number' && total !== dim) {
    c.fail(`parts of dim ${axis} do not add up`, String(dim), String(total));
  }
  if (sizes.length < outputs) c.fail('more outputs than parts', String(sizes.length), String(outputs));
  let start: Dim = 0;
  return sizes.map((size) => {
    const part = slice1(c.b, x, axis, size === 0 ? 0 : start, size);
    start = addDims(start, size);
    return part;
  });
}

// --- pads ----------------------------------------------------------------------------------------------------------

function padOp(c: ConvertContext): Value {
  const rank = c.rank(0);
  const pads = c.opset < 11 ? (c.ints('pads') ?? c.ints('paddings') ?? c.fail('pads are missing')) : c.dims(1);
  const axes = c.opset >= 18 && c.has(3) ? c.axes(c.numbers(3), rank) : Array.from({ length: rank }, (_, i) => i);
  if (pads.length !== 2 * axes.length) c.fail('wrong number of pads', String(2 * axes.length), String(pads.length));
  const low = new Array<Dim>(rank).fill(0);
  const high = new Array<Dim>(rank).fill(0);
  axes.forEach((axis, i) => {
    [low[axis], high[axis]] = [pads[i], pads[axes.length + i]];
  });
  const mode = c.choice('mode', ['constant', 'edge', 'reflect', 'wrap'], 'constant');
  const value =
    c.opset < 11
      ? scalar(c.b, c.float('value', 0), c.dtype(0))
      : c.has(2)
        ? reshape(c.b, c.input(2), [])
        : scalar(c.b, 0, c.dtype(0));
  const undecided = [...low, ...high].some((dim) => isSymbolic(dim) && c.b.boundsOf(dim).min < 0);
  if (undecided) c.notConstant(1);
  return crop(c, c.input(0), low, high, (x, l, h) => pad(c.b, x, l, h, value, mode));
}

/** Negative pads cut off; the rest is padded. */
function crop(
  c: ConvertContext,
  x: Value,
  low: readonly Dim[],
  high: readonly Dim[],
  rest: (x: Value, low: readonly Dim[], high: readonly Dim[]) => Value,
): Value {
  const cut = (dim: Dim): number => (typeof dim === 'number' && dim < 0 ? -dim : 0);
  const keep = (dim: Dim): Dim => (typeof dim === 'number' && dim < 0 ? 0 : dim);
  const sizes = x.type.shape.map((dim, i) => subDims(dim, cut(low[i]) + cut(high[i])));
  if (sizes.some((size) => typeof size === 'number' && size < 0)) c.fail('pads cut off more than there is');
  const cropped = slice(
    c.b,
    x,
    low.map(cut),
    sizes,
    sizes.map(() => 1),
  );
  return rest(cropped, low.map(keep), high.map(keep));
}

/** Crops or zero-pads axes around their centres. */
function centerCropPad(c: ConvertContext): Value {
  const axes = c.axes(c.ints('axes') ?? c.shape(0).map((_, i) => i), c.rank(0));
  const target = c.concreteDims(c.dims(1), 1);
  const shape = c.shape(0);
  const low = new Array<Dim>(shape.length).fill(0);
  const high = new Array<Dim>(shape.length).fill(0);
  axes.forEach((axis, i) => {
    const dim = c.concreteDim(shape[axis]);
    const change = Math.abs(target[i] - dim);
    const before = Math.floor(change / 2);
    const sign = target[i] >= dim ? 1 : -1;
    [low[axis], high[axis]] = [sign * before, sign * (change - before)];
  });
  return crop(c, c.input(0), low, high, (x, l, h) => pad(c.b, x, l, h));
}

// --- blocks --------------------------------------------------------------------------------------------------------

function depthToSpace(c: ConvertContext): Value {
  const size = c.int('blocksize');
  const [n, channels, h, w] = imageOf(c);
  const rest = floorDivDims(channels, size * size);
  const crd = c.choice('mode', ['DCR', 'CRD'], 'DCR') === 'CRD';
  const apart = reshape(c.b, c.input(0), crd ? [n, rest, size, size, h, w] : [n, size, size, rest, h, w]);
  const moved = transpose(c.b, apart, crd ? [0, 1, 4, 2, 5, 3] : [0, 3, 4, 1, 5, 2]);
  return reshape(c.b, moved, [n, rest, mulDims(h, size), mulDims(w, size)]);
}

function spaceToDepth(c: ConvertContext): Value {
  const size = c.int('blocksize');
  const [n, channels, h, w] = imageOf(c);
  const [rows, columns] = [floorDivDims(h, size), floorDivDims(w, size)];
  const apart = reshape(c.b, c.input(0), [n, channels, rows, size, columns, size]);
  const moved = transpose(c.b, apart, [0, 3, 5, 1, 2, 4]);
  return reshape(c.b, moved, [n, mulDims(channels, size * size), rows, columns]);
}

const imageOf = (c: ConvertContext): readonly Dim[] =>
  c.rank(0) === 4 ? c.shape(0) : c.fail('wrong rank', '4 axes [N, C, H, W]', String(c.rank(0)));

/** Reverses the first `sequence_lens[b]` places of the time axis of each batch entry. */
function reverseSequence(c: ConvertContext): Value {
  const x = c.input(0);
  const time = c.axis(c.int('time_axis', 0), c.rank(0));
  const batch = c.axis(c.int('batch_axis', 1), c.rank(0));
  const { shape } = x.type;
  const along = (axis: number) => shape.map((dim, i) => (i === axis ? dim : 1));
  const lengths = reshape(c.b, cast(c.b, c.input(1), 'i64'), along(batch));
  const t = iota(c.b, 'i64', along(time), time);
  const mirrored = sub(c.b, binary(c.b, 'sub', lengths, scalar(c.b, 1, 'i64')), t);
  const index = select3(c.b, binary(c.b, 'lt', t, lengths), mirrored, t);
  return gatherElements(c.b, x, broadcastTo(c.b, index, shape), time);
}

/** Keeps the upper or lower triangle of the last two axes. */
function trilu(c: ConvertContext): Value {
  const x = c.input(0);
  const [h, w] = c.ranked(0, 2, Infinity).slice(-2);
  const k = c.has(1) ? reshape(c.b, cast(c.b, c.input(1), 'i64'), []) : scalar(c.b, 0, 'i64');
  const row = iota(c.b, 'i64', [h, 1], 0);
  const column = iota(c.b, 'i64', [1, w], 1);
  const kept = binary(c.b, c.flag('upper', true) ? 'ge' : 'le', column, binary(c.b, 'add', row, k));
  return select3(c.b, kept, x, x.type.dtype === 'bool' ? scalar(c.b, false, 'bool') : scalar(c.b, 0, x.type.dtype));
}

export const movement: readonly Conversion[] = [
  { op: 'Reshape', since: 1, convert: reshapeOp },
  { op: 'Flatten', since: 1, convert: (c) => flatten(c.b, c.input(0), c.int('axis', 1)) },
  { op: 'Squeeze', since: 1, convert: squeezeOp },
  { op: 'Unsqueeze', since: 1, convert: unsqueezeOp },
  {
    op: 'Transpose',
    since: 1,
    convert: (c) => transpose(c.b, c.input(0), c.ints('perm') ?? c.shape(0).map((_, i) => c.rank(0) - 1 - i)),
  },
  { op: 'Expand', since: 8, convert: expand },
  {
    op: 'Tile',
    since: 1,
    convert(c) {
      // Opset 1: how often, and along which axis.
      const axis = c.axis(c.number(2), c.rank(0));
      return tile(
        c.b,
        c.input(0),
        c.shape(0).map((_, i) => (i === axis ? c.number(1) : 1)),
      );
    },
  },
  {
    op: 'Tile',
    since: 6,
    convert(c) {
      const repeats = c.dims(1);
      if (repeats.length !== c.rank(0)) c.fail('wrong number of repeats', String(c.rank(0)), String(repeats.length));
      return tile(c.b, c.input(0), repeats);
    },
  },
  { op: 'Slice', since: 1, convert: sliceOp },
  { op: 'Split', since: 1, convert: split },
  {
    op: 'Concat',
    since: 1,
    convert(c) {
      const values = c.inputs.map((_, i) => c.input(i));
      return concat(c.b, values, c.axis(c.int('axis', c.opset < 4 ? 1 : undefined), c.rank(0)));
    },
  },
  { op: 'Pad', since: 1, convert: padOp },
  { op: 'CenterCropPad', since: 18, convert: centerCropPad },
  { op: 'DepthToSpace', since: 1, convert: depthToSpace },
  { op: 'SpaceToDepth', since: 1, convert: spaceToDepth },
  { op: 'ReverseSequence', since: 10, convert: reverseSequence },
  { op: 'Trilu', since: 14, convert: trilu },
  { op: 'Identity', since: 1, convert: (c) => c.input(0) },
  { op: 'Det', since: 11, convert: determinant },
];

/** By cofactors along the first row, for matrices up to 4 × 4. */
function determinant(c: ConvertContext): Value {
  const size = c.concreteShape(0).at(-1) ?? c.fail('a matrix is needed');
  if (size < 1 || size > 4) c.unsupported(`the determinant of ${size} × ${size} matrices; up to 4 × 4 are supported`);
  const rank = c.rank(0);
  const element = (row: number, column: number): Value =>
    squeeze(c.b, slice1(c.b, slice1(c.b, c.input(0), rank - 2, row, 1), rank - 1, column, 1), [rank - 2, rank - 1]);
  const minor = (row: number, columns: readonly number[]): Value => {
    if (columns.length === 1) return element(row, columns[0]);
    const terms = columns.map((column, i) => {
      const product = binary(
        c.b,
        'mul',
        element(row, column),
        minor(
          row + 1,
          columns.filter((other) => other !== column),
        ),
      );
      return i % 2 === 0 ? product : unary(c.b, 'neg', product);
    });
    return terms.reduce((a, b) => binary(c.b, 'add', a, b));
  };
  return minor(
    0,
    Array.from({ length: size }, (_, i) => i),
  );
}
