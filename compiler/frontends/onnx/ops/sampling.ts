/** Sampling at computed places: grids, affine grids, images out of columns. */
import {
  add,
  binary,
  binaryC,
  broadcastTo,
  cast,
  clamp,
  concat,
  floorMod,
  full,
  gatherElements,
  matmul,
  mul,
  reshape,
  scalar,
  scatterElements,
  select3,
  slice1,
  sub,
  tensor,
  transpose,
  unary,
} from '../../../graph/compose/index.js';
import { productOf } from '../../../graph/dims.js';
import type { Value } from '../../../graph/types.js';
import { sizeOf } from '../../../tensor.js';
import type { Conversion, ConvertContext } from '../context.js';
import { spatial } from './windows.js';

/** A place along one axis that takes part in an interpolation, and with which weight. Both [N, P]. */
interface Tap {
  readonly index: Value;
  readonly weight?: Value;
}

/** A tap within its axis, and where it lies inside; without `inside`, wherever it came from. */
export interface PlacedTap extends Tap {
  readonly inside?: Value;
}

/** Keys' cubic convolution kernel with a = -0.75, for distances below 1 and from 1 to 2. */
function cubicWeight(c: ConvertContext, distance: Value, far: boolean): Value {
  const a = -0.75;
  // Horner's scheme of (a+2)|d|³ - (a+3)|d|² + 1, or of a|d|³ - 5a|d|² + 8a|d| - 4a.
  const coefficients = far ? [a, -5 * a, 8 * a, -4 * a] : [a + 2, -(a + 3), 0, 1];
  const [first, ...rest] = coefficients;
  let value = binaryC(c.b, 'mul', distance, first);
  rest.forEach((coefficient, i) => {
    value = binaryC(c.b, 'add', value, coefficient);
    if (i < rest.length - 1) value = mul(c.b, value, distance);
  });
  return value;
}

/** The tap moved into an axis of `size`; outside of it counts as zero if so asked. */
function placed(c: ConvertContext, { index, weight }: Tap, size: number, zeros: boolean): PlacedTap {
  const kept = clamp(c.b, index, 0, size - 1);
  return { index: kept, weight, inside: zeros ? binary(c.b, 'eq', kept, index) : undefined };
}

/** Taps of linear interpolation at places [N, P], zero outside of the axis. */
export const linearTaps = (c: ConvertContext, places: Value, size: number): readonly PlacedTap[] =>
  tapsOf(c, places, 'linear').map((tap) => placed(c, tap, size, true));

/** x [N, C, …spatial] interpolated by the taps of each spatial axis: [N, C, P], in the type of the weights. */
export function interpolated(c: ConvertContext, x: Value, taps: readonly (readonly PlacedTap[])[]): Value {
  const [batch, channels, ...sizes] = x.type.shape.map(Number);
  const { dtype } = taps[0][0].index.type;
  const count = taps[0][0].index.type.shape[1];
  const flat = reshape(c.b, x, [batch, channels, sizeOf(sizes)]);
  const spread = (value: Value): Value =>
    broadcastTo(c.b, reshape(c.b, value, [batch, 1, count]), [batch, channels, count]);
  const terms = product(taps).map((combination) => {
    let place: Value | undefined;
    let weight: Value | undefined;
    let inside: Value | undefined;
    combination.forEach((tap, axis) => {
      const index = cast(c.b, tap.index, 'i64');
      place = place === undefined ? index : add(c.b, binaryC(c.b, 'mul', place, sizes[axis]), index);
      if (tap.weight !== undefined) weight = weight === undefined ? tap.weight : mul(c.b, weight, tap.weight);
      if (tap.inside !== undefined) inside = inside === undefined ? tap.inside : binary(c.b, 'and', inside, tap.inside);
    });
    let sample = gatherElements(c.b, flat, spread(place as Value), 2);
    if (inside !== undefined) sample = select3(c.b, spread(inside), sample, scalar(c.b, 0, x.type.dtype));
    return weight === undefined ? sample : mul(c.b, cast(c.b, sample, dtype), spread(weight));
  });
  return terms.reduce((sum, term) => add(c.b, sum, term));
}

type Mode = 'linear' | 'nearest' | 'cubic';

function tapsOf(c: ConvertContext, x: Value, mode: Mode): readonly Tap[] {
  if (mode === 'nearest') return [{ index: unary(c.b, 'round', x) }];
  const base = unary(c.b, 'floor', x);
  const t = sub(c.b, x, base);
  const at = (offset: number): Value => (offset === 0 ? base : binaryC(c.b, 'add', base, offset));
  const rest = binaryC(c.b, 'add', unary(c.b, 'neg', t), 1);
  if (mode === 'linear')
    return [
      { index: base, weight: rest },
      { index: at(1), weight: t },
    ];
  return [
    { index: at(-1), weight: cubicWeight(c, binaryC(c.b, 'add', t, 1), true) },
    { index: base, weight: cubicWeight(c, t, false) },
    { index: at(1), weight: cubicWeight(c, rest, false) },
    { index: at(2), weight: cubicWeight(c, binaryC(c.b, 'add', rest, 1), true) },
  ];
}

/** Mirrors an index at the ends: the borders of the image or, with align_corners, the middles of its outer pixels. */
function reflected(c: ConvertContext, index: Value, size: number, aligned: boolean): Value {
  const low = aligned ? 0 : -0.5;
  const span = aligned ? size - 1 : size;
  if (span === 0) return binaryC(c.b, 'mul', index, 0);
  const distance = unary(c.b, 'abs', binaryC(c.b, 'sub', index, low));
  const around = floorMod(c.b, distance, scalar(c.b, 2 * span, index.type.dtype));
  const back = binaryC(c.b, 'add', unary(c.b, 'neg', around), 2 * span);
  return binaryC(c.b, 'add', binary(c.b, 'min', around, back), low);
}

/** x [N, C, …spatial] at the places of grid [N, …out, n], whose last axis counts from the last spatial axis. */
function gridSample(c: ConvertContext): Value {
  const [x, grid] = [c.input(0), c.input(1)];
  const [batch, channels] = c.ranked(0, 3, 5);
  c.ranked(1, c.rank(0));
  const sizes = c.concreteDims(x.type.shape.slice(2));
  const out = grid.type.shape.slice(1, -1);
  const count = productOf(out);
  const names = { linear: 'linear', bilinear: 'linear', nearest: 'nearest', cubic: 'cubic', bicubic: 'cubic' } as const;
  const mode = names[c.choice('mode', ['linear', 'bilinear', 'nearest', 'cubic', 'bicubic'] as const, 'linear')];
  const padding = c.choice('padding_mode', ['zeros', 'border', 'reflection'] as const, 'zeros');
  const aligned = c.flag('align_corners');
  const taps = sizes.map((size, axis) => {
    const normal = reshape(c.b, slice1(c.b, grid, -1, sizes.length - 1 - axis, 1), [batch, count]);
    const shifted = binaryC(c.b, 'add', normal, 1);
    const place = aligned
      ? binaryC(c.b, 'mul', shifted, (size - 1) / 2)
      : binaryC(c.b, 'div', binaryC(c.b, 'sub', binaryC(c.b, 'mul', shifted, size), 1), 2);
    return tapsOf(c, place, mode).map((tap) => {
      const index = padding === 'reflection' ? reflected(c, tap.index, size, aligned) : tap.index;
      return placed(c, { ...tap, index }, size, padding === 'zeros');
    });
  });
  return reshape(c.b, cast(c.b, interpolated(c, x, taps), x.type.dtype), [batch, channels, ...out]);
}

/** All ways to take one of each list. */
const product = <T>(lists: readonly (readonly T[])[]): T[][] =>
  lists.reduce<T[][]>((rows, list) => rows.flatMap((row) => list.map((entry) => [...row, entry])), [[]]);

/** Places of an output grid in [-1, 1], transformed by theta [N, n, n + 1]. */
function affineGrid(c: ConvertContext): Value {
  const [batch, , ...sizes] = c.numbers(1);
  if (sizes.length !== 2 && sizes.length !== 3) c.fail('size must be [N, C, …2 or 3 spatial dims]');
  for (const size of sizes) checkCount(c, [size]);
  const aligned = c.flag('align_corners');
  const n = sizes.length;
  const count = sizeOf(sizes);
  // Rows of coordinates, the last spatial axis first, then ones.
  const rows = sizes.map((size, axis) => {
    const places = Array.from({ length: size }, (_, i) =>
      aligned ? (size === 1 ? 0 : (2 * i) / (size - 1) - 1) : (2 * i + 1) / size - 1,
    );
    const shape = sizes.map((_, i) => (i === axis ? size : 1));
    return reshape(c.b, broadcastTo(c.b, tensor(c.b, 'f64', places, shape), sizes), [1, count]);
  });
  const ones = full(c.b, 1, 'f64', [1, count]);
  const base = cast(c.b, concat(c.b, [...rows.reverse(), ones], 0), c.dtype(0));
  const grid = transpose(c.b, matmul(c.b, c.input(0), base), [0, 2, 1]);
  return reshape(c.b, grid, [batch, ...sizes, n]);
}

/** Tables of places are made here: they must be of a sensible size. */
function checkCount(c: ConvertContext, dims: readonly number[]): void {
  if (dims.some((dim) => dim < 1)) c.fail('sizes must be positive', undefined, `[${dims.join(', ')}]`);
  if (sizeOf(dims) > 2 ** 20) c.unsupported(`more than 2^20 places ([${dims.join(', ')}])`);
}

/** Adds the columns of blocks [N, C · block, L] up to images. */
function columnsToImage(c: ConvertContext): Value {
  const image = c.numbers(1);
  const block = c.numbers(2);
  const dilations = spatial(c, 'dilations', image.length, 1);
  const strides = spatial(c, 'strides', image.length, 1);
  const pads = spatial(c, 'pads', 2 * image.length, 0);
  const counts = image.map(
    (size, i) =>
      Math.floor((size + pads[i] + pads[image.length + i] - dilations[i] * (block[i] - 1) - 1) / strides[i]) + 1,
  );
  const [batch, width, columns] = c.concreteDims(c.ranked(0, 3));
  if (block.length !== image.length) c.fail('block_shape does not fit image_shape');
  checkCount(c, image);
  checkCount(c, [...block, ...counts]);
  if (columns !== sizeOf(counts)) c.fail('wrong number of columns', String(sizeOf(counts)), String(columns));
  const range = (size: number) => Array.from({ length: size }, (_, i) => i);
  const total = sizeOf(image);
  const target = product(block.map(range)).flatMap((inBlock) =>
    product(counts.map(range)).map((at) => {
      const place = image.map((_, i) => at[i] * strides[i] - pads[i] + inBlock[i] * dilations[i]);
      // Beyond the image: an index out of range, which is dropped.
      if (place.some((p, i) => p < 0 || p >= image[i])) return total;
      return place.reduce((flat, p, i) => flat * image[i] + p, 0);
    }),
  );
  const channels = width / sizeOf(block);
  const updates = reshape(c.b, c.input(0), [batch * channels, target.length]);
  const indices = broadcastTo(c.b, tensor(c.b, 'i64', target, [1, target.length]), [batch * channels, target.length]);
  const zeros = full(c.b, 0, c.dtype(0), [batch * channels, total]);
  return reshape(c.b, scatterElements(c.b, zeros, indices, updates, 1, 'add'), [batch, channels, ...image]);
}

export const sampling: readonly Conversion[] = [
  { op: 'GridSample', since: 16, convert: gridSample },
  { op: 'AffineGrid', since: 20, convert: affineGrid },
  { op: 'Col2Im', since: 18, convert: columnsToImage },
];
