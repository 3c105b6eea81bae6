/** Signal processing: Fourier transforms, windows, mel filters. */
import { isFloat } from '../../../dtype.js';
import {
  add,
  binary,
  binaryC,
  cast,
  clamp,
  concat,
  div,
  floorDiv,
  full,
  gather,
  iota,
  mul,
  pad,
  reshape,
  reverse,
  scalar,
  select3,
  slice1,
  sub,
  swapAxes,
  unary,
} from '../../../graph/compose/index.js';
import { fourier } from '../../../graph/fourier.js';
import type { Value } from '../../../graph/types.js';
import type { Conversion, ConvertContext } from '../context.js';
import { dtypeOf } from '../tensors.js';

/** The first `length` elements of an axis, with zeros after its end. */
function resized(c: ConvertContext, x: Value, axis: number, length: number): Value {
  const size = Number(x.type.shape[axis]);
  if (size >= length) return slice1(c.b, x, axis, 0, length);
  const none = x.type.shape.map(() => 0);
  return pad(
    c.b,
    x,
    none,
    none.map((_, i) => (i === axis ? length - size : 0)),
  );
}

/** Smaller floats are transformed in f32. */
const widened = (c: ConvertContext, x: Value): Value => (x.type.dtype === 'f64' ? x : cast(c.b, x, 'f32'));

/** x [..., n, 1 or 2] → the transform's first `outputs` of `length`, [..., outputs, 2]. */
const forward = (c: ConvertContext, x: Value, length: number, outputs: number): Value =>
  fourier(c.b, resized(c, x, x.type.shape.length - 2, length), false, outputs);

/** x [..., n, 1 or 2] → [..., length, 2]; or of one half of a spectrum, which continues conjugated, [..., length, 1]. */
function inverse(c: ConvertContext, x: Value, length: number, onesided: boolean): Value {
  const axis = x.type.shape.length - 2;
  const scaled = (y: Value): Value => binaryC(c.b, 'div', y, length);
  if (!onesided) return scaled(fourier(c.b, resized(c, x, axis, length), true));
  const half = resized(c, x, axis, Math.floor(length / 2) + 1);
  const rest = reverse(c.b, slice1(c.b, half, axis, 1, Math.ceil(length / 2) - 1), axis);
  const components = x.type.shape[axis + 1];
  const signs = c.b.constant({ dtype: x.type.dtype, shape: [2], data: halfSigns(x.type.dtype) });
  const conjugate = components === 2 ? mul(c.b, rest, signs) : rest;
  return scaled(slice1(c.b, fourier(c.b, concat(c.b, [half, conjugate], axis), true), axis + 1, 0, 1));
}

const halfSigns = (dtype: string): Float64Array | Float32Array =>
  dtype === 'f64' ? Float64Array.of(1, -1) : Float32Array.of(1, -1);

function checkComponents(c: ConvertContext, shape: readonly number[]): void {
  const components = shape[shape.length - 1];
  if (components !== 1 && components !== 2)
    c.fail('the last axis must hold real or complex numbers', '1 or 2 elements', String(components));
}

function dft(c: ConvertContext, axisGiven: number): Value {
  const shape = c.concreteShape(0);
  const { dtype } = c.input(0).type;
  if (shape.length < 2) c.fail('wrong rank of input 0', '2 axes or more', String(shape.length));
  if (!isFloat(dtype)) c.fail('wrong element type of input 0', 'a float type', dtype);
  checkComponents(c, shape);
  const axis = c.axis(axisGiven, shape.length);
  if (axis === shape.length - 1) c.fail('the axis of the components cannot be transformed', undefined, String(axis));
  const [back, onesided] = [c.flag('inverse'), c.flag('onesided')];
  const standard = back && onesided ? 2 * (shape[axis] - 1) : shape[axis];
  const length = c.has(1) ? c.number(1) : standard;
  if (!Number.isSafeInteger(length) || length < 1)
    c.fail('invalid length of the transform', '1 or more', String(length));
  const x = swapAxes(c.b, widened(c, c.input(0)), axis, -2);
  const y = back
    ? inverse(c, x, length, onesided)
    : forward(c, x, length, onesided ? Math.floor(length / 2) + 1 : length);
  return cast(c.b, swapAxes(c.b, y, axis, -2), dtype);
}

/** Frames of signal [B, n, 1 or 2] → [B, frames, bins, 2]. */
function stft(c: ConvertContext): Value {
  const given = c.concreteDims(c.ranked(0, 2, 3));
  const { dtype } = c.input(0).type;
  const [batch, size, components = 1] = given;
  checkComponents(c, [components]);
  const step = c.number(1);
  const windowSize = c.has(2) ? c.concreteDims(c.ranked(2, 1), 2)[0] : undefined;
  const length = c.has(3) ? c.number(3) : (windowSize ?? size);
  if (!(step >= 1)) c.fail('invalid frame step', '1 or more', String(step));
  if (!(length >= 1 && length <= size)) c.fail('invalid frame length', `1 to ${size}`, String(length));
  const taken = windowSize ?? length;
  if (taken > length) c.fail('the window is longer than the frame', `at most ${length}`, String(taken));
  const onesided = c.flag('onesided', true);
  const frames = 1 + Math.floor((size - length) / step);
  const signal = reshape(c.b, widened(c, c.input(0)), [batch, size, components]);
  const starts = binaryC(c.b, 'mul', iota(c.b, 'i32', [frames, 1]), step);
  const places = add(c.b, starts, iota(c.b, 'i32', [1, taken], 1));
  let framed = gather(c.b, signal, places, 1);
  if (c.has(2)) framed = mul(c.b, framed, reshape(c.b, cast(c.b, c.input(2), framed.type.dtype), [taken, 1]));
  return cast(c.b, forward(c, framed, length, onesided ? Math.floor(length / 2) + 1 : length), dtype);
}

/** Triangles between neighbouring ones of bins + 2 frequencies that are evenly spaced in mel: [spectrum, bins]. */
function melWeights(c: ConvertContext): Value {
  const dtype = dtypeOf(c.int('output_datatype', 1), c.operator.source.node);
  const [bins, length] = [c.number(0), c.number(1)];
  const spectrum = Math.floor(length / 2) + 1;
  const wide = (i: number): Value => reshape(c.b, cast(c.b, c.input(i), 'f64'), []);
  const perMel = 2595 / Math.LN10;
  const mel = (hertz: Value): Value =>
    binaryC(c.b, 'mul', unary(c.b, 'log', binaryC(c.b, 'add', binaryC(c.b, 'div', hertz, 700), 1)), perMel);
  const low = mel(wide(3));
  const step = binaryC(c.b, 'div', sub(c.b, mel(wide(4)), low), bins + 2);
  const mels = add(c.b, mul(c.b, iota(c.b, 'f64', [bins + 2]), step), low);
  const hertz = binaryC(c.b, 'mul', binaryC(c.b, 'sub', unary(c.b, 'exp', binaryC(c.b, 'div', mels, perMel)), 1), 700);
  // Rounding errors must not push a frequency that falls on a bin below it.
  const exact = binaryC(c.b, 'mul', hertz, (length + 1) * (1 + 1e-12));
  const edges = floorDiv(c.b, exact, wide(2));
  const edge = (i: number): Value => slice1(c.b, edges, 0, i, bins);
  const [left, centre, right] = [edge(0), edge(1), edge(2)];
  const place = iota(c.b, 'f64', [spectrum, bins]);
  const [rise, fall] = [sub(c.b, centre, left), sub(c.b, right, centre)];
  const between = (from: Value, to: Value, last: 'le' | 'lt'): Value =>
    binary(c.b, 'and', binary(c.b, 'ge', place, from), binary(c.b, last, place, to));
  // A slope of no width is a step: its divisor does not matter.
  const slope = (part: Value, whole: Value): Value => div(c.b, part, clamp(c.b, whole, 1, null));
  const flat = binaryC(c.b, 'eq', rise, 0);
  const up = select3(c.b, flat, scalar(c.b, 1, 'f64'), slope(sub(c.b, place, left), rise));
  const rising = select3(c.b, between(left, centre, 'le'), up, scalar(c.b, 0, 'f64'));
  const falling = between(centre, right, 'lt');
  return cast(c.b, select3(c.b, falling, slope(sub(c.b, right, place), fall), rising), dtype);
}

/** Generalised cosine windows: a0 - a1·cos(2πi/N) + a2·cos(4πi/N). */
const window = (op: string, a0: number, a1: number, a2: number): Conversion => ({
  op,
  since: 17,
  convert(c) {
    const dtype = dtypeOf(c.int('output_datatype', 1), c.operator.source.node);
    const size = c.number(0);
    const length = c.flag('periodic', true) ? size : size - 1;
    const wide = dtype === 'f64' ? 'f64' : 'f32';
    const angle = binaryC(c.b, 'mul', iota(c.b, wide, [size]), (2 * Math.PI) / length);
    const first = sub(c.b, full(c.b, a0, wide, [size]), binaryC(c.b, 'mul', unary(c.b, 'cos', angle), a1));
    const second = binaryC(c.b, 'mul', unary(c.b, 'cos', binaryC(c.b, 'mul', angle, 2)), a2);
    return cast(c.b, a2 === 0 ? first : add(c.b, first, second), dtype);
  },
});

export const signals: readonly Conversion[] = [
  { op: 'DFT', since: 17, convert: (c) => dft(c, c.int('axis', 1)) },
  { op: 'DFT', since: 20, convert: (c) => dft(c, c.has(2) ? c.number(2) : -2) },
  { op: 'STFT', since: 17, convert: stft },
  { op: 'MelWeightMatrix', since: 17, convert: melWeights },
  window('HannWindow', 0.5, 0.5, 0),
  window('HammingWindow', 25 / 46, 21 / 46, 0),
  window('BlackmanWindow', 0.42, 0.5, 0.08),
];
