/** Detectors: suppression of boxes, pooling of regions, convolution at shifted places. */
import { isFloat } from '../../../dtype.js';
import {
  add,
  binary,
  binaryC,
  broadcastTo,
  cast,
  clamp,
  concat,
  div,
  floorMod,
  full,
  gather,
  iota,
  mul,
  reduce,
  reshape,
  scalar,
  select3,
  slice1,
  stack,
  sub,
  tensor,
  transpose,
  unary,
} from '../../../graph/compose/index.js';
import { countOf, placesOf } from '../../../graph/search.js';
import type { Value } from '../../../graph/types.js';
import { sizeOf } from '../../../tensor.js';
import type { Conversion, ConvertContext } from '../context.js';
import { interpolated, linearTaps } from './sampling.js';
import { explicitPads, spatial } from './windows.js';

/** Floats that are computed with: f32 for those that are smaller. */
const widened = (c: ConvertContext, x: Value): Value => (x.type.dtype === 'f64' ? x : cast(c.b, x, 'f32'));

// --- suppression ---------------------------------------------------------------------------------------------------

/** Boxes as low and high corners, from two opposite corners or from centre and size. */
function cornersOf(c: ConvertContext, boxes: Value): Value {
  const [first, second] = [slice1(c.b, boxes, 2, 0, 2), slice1(c.b, boxes, 2, 2, 2)];
  if (!c.flag('center_point_box')) {
    return concat(c.b, [binary(c.b, 'min', first, second), binary(c.b, 'max', first, second)], 2);
  }
  const half = binaryC(c.b, 'div', second, 2);
  return concat(c.b, [sub(c.b, first, half), add(c.b, first, half)], 2);
}

/** Rows (batch, class, box) of the boxes that are kept. */
function nonMaxSuppression(c: ConvertContext): Value {
  const [batches, count] = c.concreteDims(c.ranked(0, 3));
  const [, classes] = c.concreteDims(c.ranked(1, 3), 1);
  const limit = Math.min(count, c.has(2) ? Math.max(0, c.number(2)) : 0);
  const none = tensor(c.b, 'i64', [], [0, 3]);
  if (limit === 0 || batches * classes === 0) return none;
  const threshold = (i: number, standard: number): Value =>
    c.has(i) ? reshape(c.b, cast(c.b, c.input(i), 'f32'), []) : scalar(c.b, standard, 'f32');
  const selected = c.op(
    'suppress',
    [
      cornersOf(c, cast(c.b, c.input(0), 'f32')),
      cast(c.b, c.input(1), 'f32'),
      threshold(3, 0),
      threshold(4, Number.NEGATIVE_INFINITY),
    ],
    { limit },
  );
  const flat = reshape(c.b, selected, [batches * classes * limit]);
  const kept = binaryC(c.b, 'ge', flat, 0);
  const [total] = c.demand(countOf(c.b, kept), 'count');
  if (total === 0) return none;
  const places = placesOf(c.b, kept, total);
  const row = binaryC(c.b, 'div', cast(c.b, places, 'i64'), limit);
  const classAt = floorMod(c.b, row, scalar(c.b, classes, 'i64'));
  return stack(c.b, [binaryC(c.b, 'div', row, classes), classAt, gather(c.b, flat, places, 0)], 1);
}

// --- regions -------------------------------------------------------------------------------------------------------

/** Where regions [R] are sampled along one axis: places, weights and whether they count, [R, bins, grid]. */
interface AxisSamples {
  readonly low: Value;
  readonly high: Value;
  readonly lowWeight: Value;
  readonly highWeight: Value;
  readonly counts: Value;
}

/** Start and length of each region along an axis, and how many samples each of its bins gets (floats, [R, 1, 1]). */
function extentOf(
  c: ConvertContext,
  [from, to]: readonly [Value, Value],
  bins: number,
): { readonly start: Value; readonly bin: Value; readonly grid: Value } {
  const aligned = c.opset >= 16 && halfPixel(c);
  const scaled = (x: Value): Value => {
    const y = binaryC(c.b, 'mul', x, c.float('spatial_scale', 1));
    return reshape(c.b, aligned ? binaryC(c.b, 'sub', y, 0.5) : y, [x.type.shape[0], 1, 1]);
  };
  const [start, end] = [scaled(from), scaled(to)];
  const difference = sub(c.b, end, start);
  const bin = binaryC(c.b, 'div', aligned ? difference : clamp(c.b, difference, 1, null), bins);
  const ratio = c.int('sampling_ratio', 0);
  const { dtype, shape } = bin.type;
  const grid = ratio > 0 ? full(c.b, ratio, dtype, shape) : clamp(c.b, unary(c.b, 'ceil', bin), 0, null);
  return { start, bin, grid };
}

const halfPixel = (c: ConvertContext): boolean =>
  c.choice('coordinate_transformation_mode', ['half_pixel', 'output_half_pixel'] as const, 'half_pixel') ===
  'half_pixel';

function samplesOf(
  c: ConvertContext,
  { start, bin, grid }: ReturnType<typeof extentOf>,
  size: number,
  bins: number,
  most: number,
): AxisSamples {
  const { dtype } = bin.type;
  const binAt = iota(c.b, dtype, [1, bins, 1], 1);
  const sampleAt = iota(c.b, dtype, [1, 1, most], 2);
  const step = div(c.b, mul(c.b, binaryC(c.b, 'add', sampleAt, 0.5), bin), clamp(c.b, grid, 1, null));
  const place = add(c.b, add(c.b, start, mul(c.b, binAt, bin)), step);
  const near = binary(c.b, 'and', binaryC(c.b, 'ge', place, -1), binaryC(c.b, 'le', place, size));
  const inside = clamp(c.b, place, 0, size - 1);
  const low = unary(c.b, 'floor', inside);
  const share = sub(c.b, inside, low);
  const zero = scalar(c.b, 0, dtype);
  return {
    low: cast(c.b, low, 'i32'),
    high: cast(c.b, clamp(c.b, binaryC(c.b, 'add', low, 1), null, size - 1), 'i32'),
    lowWeight: select3(c.b, near, binaryC(c.b, 'add', unary(c.b, 'neg', share), 1), zero),
    highWeight: select3(c.b, near, share, zero),
    counts: binary(c.b, 'lt', sampleAt, grid),
  };
}

/** Means or maxima of samples in bins of regions: x [N, C, H, W], regions [R, 4] → [R, C, bins of height, of width]. */
function roiAlign(c: ConvertContext): Value {
  const [batches, channels, ...sizes] = c.concreteDims(c.ranked(0, 4));
  const [regions] = c.concreteDims(c.ranked(1, 2), 1);
  const bins = [c.int('output_height', 1), c.int('output_width', 1)];
  const mode = c.choice('mode', ['avg', 'max'] as const, 'avg');
  const { dtype } = c.input(0).type;
  const rois = widened(c, c.input(1));
  const column = (i: number): Value => reshape(c.b, slice1(c.b, rois, 1, i, 1), [regions]);
  const extents = [extentOf(c, [column(1), column(3)], bins[0]), extentOf(c, [column(0), column(2)], bins[1])];
  if (regions * channels === 0) return full(c.b, 0, dtype, [regions, channels, ...bins]);
  const ratio = c.int('sampling_ratio', 0);
  const most =
    ratio > 0
      ? [ratio, ratio]
      : c.demand(
          stack(
            c.b,
            extents.map(({ grid }) => cast(c.b, reduce(c.b, 'max', grid, [0, 1, 2]), 'i32')),
            0,
          ),
          'samples',
        );
  if (most.includes(0)) return full(c.b, 0, dtype, [regions, channels, ...bins]);
  const [down, across] = extents.map((extent, i) => samplesOf(c, extent, sizes[i], bins[i], most[i]));
  const wide = rois.type.dtype;
  // [R, bins, samples, bins, samples, C]: places in x as [N·H·W, C].
  const x = reshape(c.b, transpose(c.b, reshape(c.b, c.input(0), [batches, channels, sizeOf(sizes)]), [0, 2, 1]), [
    batches * sizeOf(sizes),
    channels,
  ]);
  const onRows = (v: Value): Value => reshape(c.b, v, [...v.type.shape, 1, 1]);
  const onColumns = (v: Value): Value => reshape(c.b, v, [v.type.shape[0], 1, 1, ...v.type.shape.slice(1)]);
  const image = reshape(c.b, cast(c.b, c.input(2), 'i32'), [regions, 1, 1, 1, 1]);
  const spread = (v: Value): Value => reshape(c.b, v, [...v.type.shape, 1]);
  const corners = (['low', 'high'] as const).flatMap((row) =>
    (['low', 'high'] as const).map((col) => {
      const line = add(c.b, binaryC(c.b, 'mul', image, sizes[0]), onRows(down[row]));
      const place = add(c.b, binaryC(c.b, 'mul', line, sizes[1]), onColumns(across[col]));
      const weight = mul(c.b, onRows(down[`${row}Weight`]), onColumns(across[`${col}Weight`]));
      return mul(c.b, cast(c.b, gather(c.b, x, place, 0), wide), spread(weight));
    }),
  );
  const counts = spread(binary(c.b, 'and', onRows(down.counts), onColumns(across.counts)));
  const pooled = (fn: 'sum' | 'max', sample: Value, absent: number): Value =>
    reduce(c.b, fn, select3(c.b, counts, sample, scalar(c.b, absent, wide)), [2, 4]);
  const number = reshape(c.b, mul(c.b, extents[0].grid, extents[1].grid), [regions, 1, 1, 1]);
  const result =
    mode === 'avg'
      ? div(
          c.b,
          pooled(
            'sum',
            corners.reduce((p, q) => add(c.b, p, q)),
            0,
          ),
          clamp(c.b, number, 1, null),
        )
      : select3(
          c.b,
          binaryC(c.b, 'gt', number, 0),
          pooled(
            'max',
            corners.reduce((p, q) => binary(c.b, 'max', p, q)),
            Number.NEGATIVE_INFINITY,
          ),
          scalar(c.b, 0, wide),
        );
  return cast(c.b, transpose(c.b, result, [0, 3, 1, 2]), dtype);
}

// --- deformable convolution ----------------------------------------------------------------------------------------

/** A convolution whose every tap is shifted by an offset of its own and weighted by a mask. */
function deformConv(c: ConvertContext): Value {
  const x = widened(c, c.input(0));
  const [batch, channels, ...sizes] = c.concreteDims(c.ranked(0, 3, 5));
  const [outputs, perGroup, ...kernel] = c.concreteDims(c.ranked(1, c.rank(0)), 1);
  const out = c.concreteDims(c.ranked(2, c.rank(0)), 2).slice(2);
  const rank = sizes.length;
  const [groups, offsetGroups] = [c.int('group', 1), c.int('offset_group', 1)];
  const strides = spatial(c, 'strides', rank, 1);
  const dilations = spatial(c, 'dilations', rank, 1);
  const { low, high } = explicitPads(c, rank);
  if (!isFloat(c.dtype(0))) c.fail('wrong element type of input 0', 'a float type', c.dtype(0));
  if (perGroup * groups !== channels)
    c.fail('channels of kernel · groups and input differ', String(channels), String(perGroup * groups));
  if (channels % offsetGroups !== 0)
    c.fail('channels do not divide into offset groups', `a multiple of ${offsetGroups}`, String(channels));
  sizes.forEach((size, i) => {
    const extent = (kernel[i] - 1) * dilations[i] + 1;
    const places = Math.floor((size + low[i] + high[i] - extent) / strides[i]) + 1;
    if (places !== out[i]) c.fail(`offsets do not fit axis ${i} of the output`, String(places), String(out[i]));
  });
  const [taps, places] = [sizeOf(kernel), sizeOf(out)];
  const rows = batch * offsetGroups;
  const offsets = reshape(c.b, widened(c, c.input(2)), [rows, taps, rank, places]);
  const dtype = offsets.type.dtype;
  const axes = sizes.map((size, i) => {
    const index = (shape: readonly number[], at: number): number =>
      Math.floor(at / sizeOf(shape.slice(i + 1))) % shape[i];
    const starts = Array.from({ length: places }, (_, at) => index(out, at) * strides[i] - low[i]);
    const within = Array.from({ length: taps }, (_, at) => index(kernel, at) * dilations[i]);
    const base = add(c.b, tensor(c.b, dtype, within, [taps, 1]), tensor(c.b, dtype, starts, [1, places]));
    const shift = reshape(c.b, slice1(c.b, offsets, 2, i, 1), [rows, taps, places]);
    return linearTaps(c, reshape(c.b, add(c.b, shift, base), [rows, taps * places]), size);
  });
  const images = reshape(c.b, x, [rows, channels / offsetGroups, ...sizes]);
  let columns = interpolated(c, images, axes);
  if (c.has(4)) columns = mul(c.b, columns, reshape(c.b, cast(c.b, c.input(4), dtype), [rows, 1, taps * places]));
  const weights = reshape(c.b, widened(c, c.input(1)), [groups, outputs / groups, perGroup * taps]);
  // [groups, outputs of a group, N, places]
  const product = c.op('dot', [weights, reshape(c.b, columns, [batch, groups, perGroup * taps, places])], {
    lhsBatch: [0],
    rhsBatch: [1],
    lhsContract: [2],
    rhsContract: [2],
    dtype,
  });
  let y = reshape(c.b, transpose(c.b, product, [2, 0, 1, 3]), [batch, outputs, ...out]);
  if (c.has(3)) {
    const bias = reshape(c.b, cast(c.b, c.input(3), dtype), [1, outputs, ...out.map(() => 1)]);
    y = add(c.b, y, broadcastTo(c.b, bias, y.type.shape));
  }
  return cast(c.b, y, c.dtype(0));
}

export const detectors: readonly Conversion[] = [
  { op: 'NonMaxSuppression', since: 10, convert: nonMaxSuppression },
  { op: 'RoiAlign', since: 10, convert: roiAlign },
  { op: 'DeformConv', since: 19, convert: deformConv },
];
