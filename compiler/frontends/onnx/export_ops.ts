/** How each graph op is written in ONNX operators. */
import { type DType, integerRange, isFloat, isInt, isMiniFloat, isPacked } from '../../dtype.js';
import { addDims, type Dim, isConcrete, mulDims } from '../../graph/dims.js';
import { filledTensor } from '../../graph/ops/reference/data.js';
import {
  type BinaryOp,
  binaryOps,
  type NodeOf,
  type OpKind,
  type UnaryOp,
  unaryOps,
  type Window,
} from '../../graph/types.js';
import { sizeOf } from '../../tensor.js';
import type { ExportContext } from './export.js';
import { onnxTypeOf } from './tensors.js';

type Names = readonly string[];
type Convert<K extends OpKind> = (c: ExportContext, node: NodeOf<K>, inputs: Names) => string | Names;

const big = (values: readonly number[]): bigint[] => values.map(BigInt);
const dtypeIn = (node: NodeOf<OpKind>, i = 0): DType => node.inputs[i].type.dtype;
const shapeIn = (node: NodeOf<OpKind>, i = 0): readonly Dim[] => node.inputs[i].type.shape;
const scalar = (c: ExportContext, value: number, dtype: DType): string => c.constant(filledTensor(dtype, [], value));
const cast = (c: ExportContext, x: string, from: DType, to: DType): string =>
  from === to ? x : c.one('Cast', [x], { to: BigInt(onnxTypeOf(to)) });

// --- elementwise ---------------------------------------------------------------------------------------------------

const unaryNames: Readonly<Partial<Record<UnaryOp, string>>> = {
  neg: 'Neg',
  abs: 'Abs',
  sign: 'Sign',
  exp: 'Exp',
  log: 'Log',
  sqrt: 'Sqrt',
  recip: 'Reciprocal',
  sin: 'Sin',
  cos: 'Cos',
  tan: 'Tan',
  asin: 'Asin',
  acos: 'Acos',
  atan: 'Atan',
  sinh: 'Sinh',
  cosh: 'Cosh',
  asinh: 'Asinh',
  acosh: 'Acosh',
  atanh: 'Atanh',
  tanh: 'Tanh',
  erf: 'Erf',
  floor: 'Floor',
  ceil: 'Ceil',
  round: 'Round',
  is_nan: 'IsNaN',
  is_inf: 'IsInf',
};

const unary: { readonly [K in UnaryOp]?: Convert<K> } = {
  not: (c, node, inputs) => c.one(dtypeIn(node) === 'bool' ? 'Not' : 'BitwiseNot', inputs),
  rsqrt: (c, _, inputs) => c.one('Reciprocal', [c.one('Sqrt', inputs)]),
  exp2: (c, node, [x]) => c.one('Pow', [scalar(c, 2, dtypeIn(node)), x]),
  log2: (c, node, inputs) => c.one('Mul', [c.one('Log', inputs), scalar(c, Math.LOG2E, dtypeIn(node))]),
  trunc: (c, _, [x]) => c.one('Mul', [c.one('Sign', [x]), c.one('Floor', [c.one('Abs', [x])])]),
};

const binaryNames: Readonly<Partial<Record<BinaryOp, string>>> = {
  add: 'Add',
  sub: 'Sub',
  mul: 'Mul',
  div: 'Div',
  pow: 'Pow',
  eq: 'Equal',
  lt: 'Less',
  le: 'LessOrEqual',
  gt: 'Greater',
  ge: 'GreaterOrEqual',
};

const logic =
  (onBool: string, onInt: string): Convert<BinaryOp> =>
  (c, node, inputs) =>
    c.one(dtypeIn(node) === 'bool' ? onBool : onInt, inputs);

const shift =
  (direction: 'LEFT' | 'RIGHT'): Convert<BinaryOp> =>
  (c, node, inputs) =>
    dtypeIn(node).startsWith('u')
      ? c.one('BitShift', inputs, { direction })
      : c.unsupported('shifts of signed integers');

const binary: { readonly [K in BinaryOp]?: Convert<BinaryOp> } = {
  and: logic('And', 'BitwiseAnd'),
  or: logic('Or', 'BitwiseOr'),
  xor: logic('Xor', 'BitwiseXor'),
  max: logic('Or', 'Max'),
  min: logic('And', 'Min'),
  rem: (c, _, inputs) => c.one('Mod', inputs, { fmod: 1n }),
  ne: (c, _, inputs) => c.one('Not', [c.one('Equal', inputs)]),
  shl: shift('LEFT'),
  shr: shift('RIGHT'),
  atan2: (c) => c.unsupported('atan2 has no ONNX operator'),
};

const plain =
  (op: string): Convert<OpKind> =>
  (c, _, inputs) =>
    c.one(op, inputs);

const elementwise = Object.fromEntries([
  ...unaryOps.map((op) => [op, unary[op] ?? plain(unaryNames[op] as string)]),
  ...binaryOps.map((op) => [op, binary[op] ?? plain(binaryNames[op] as string)]),
]) as unknown as { readonly [K in UnaryOp | BinaryOp]: Convert<K> };

// --- windows -------------------------------------------------------------------------------------------------------

interface Cropped {
  readonly x: string;
  readonly low: readonly number[];
  readonly high: readonly number[];
}

/** Negative pads cut the input first; `axes` are those of the pads. */
function crop(
  c: ExportContext,
  x: string,
  shape: readonly Dim[],
  low: readonly Dim[],
  high: readonly Dim[],
  first: number,
): Cropped {
  if (!isConcrete(low) || !isConcrete(high)) return c.unsupported('symbolic pads');
  const axes = low.flatMap((pad, i) => (pad < 0 || high[i] < 0 ? [i] : []));
  const ends = axes.map((i) => addDims(shape[i + first], Math.min(0, high[i])));
  const cut =
    axes.length === 0
      ? x
      : c.one('Slice', [
          x,
          c.ints(axes.map((i) => Math.max(0, -low[i]))),
          c.dims(ends),
          c.ints(axes.map((i) => i + first)),
        ]);
  return { x: cut, low: low.map((pad) => Math.max(0, pad)), high: high.map((pad) => Math.max(0, pad)) };
}

const conv: Convert<'conv'> = (c, node, [x, w]) => {
  const { attrs } = node;
  const spatial = shapeIn(node).slice(2);
  let data = x;
  let shape = [...shapeIn(node)];
  attrs.inputDilation.forEach((step, i) => {
    if (step === 1) return;
    // step - 1 zeros after each element, but not after the last one.
    const axis = i + 2;
    const apart = [...shape.slice(0, axis + 1), 1, ...shape.slice(axis + 1)];
    const pads = new Array<number>(2 * apart.length).fill(0);
    pads[apart.length + axis + 1] = step - 1;
    const padded = c.one('Pad', [c.one('Reshape', [data, c.dims(apart)]), c.ints(pads)]);
    const joined = c.one('Reshape', [padded, c.dims(shape.map((dim, k) => (k === axis ? mulDims(dim, step) : dim)))]);
    const size = addDims(mulDims(addDims(shape[axis], -1), step), 1);
    data = c.one('Slice', [joined, c.ints([0]), c.dims([size]), c.ints([axis])]);
    shape = shape.map((dim, k) => (k === axis ? size : dim));
  });
  const { x: cut, low, high } = crop(c, data, shape, attrs.padLow, attrs.padHigh, 2);
  const options = {
    strides: big(attrs.strides),
    dilations: big(attrs.dilations),
    group: BigInt(attrs.groups),
    pads: big([...low, ...high]),
    kernel_shape: kernelShape(c, shapeIn(node, 1).slice(2)),
  };
  const [from, weights] = [dtypeIn(node), dtypeIn(node, 1)];
  if (isFloat(attrs.dtype) && spatial.length > 0) {
    return c.one('Conv', [cast(c, cut, from, attrs.dtype), cast(c, w, weights, attrs.dtype)], options);
  }
  const narrow = (dtype: DType) => dtype === 'i8' || dtype === 'u8';
  if (attrs.dtype === 'i32' && narrow(from) && narrow(weights)) return c.one('ConvInteger', [cut, w], options);
  // Sums of products of integers below 2^26 are exact in f64.
  if (attrs.dtype === 'i32') {
    const sum = c.one('Conv', [cast(c, cut, from, 'f64'), cast(c, w, weights, 'f64')], options);
    return cast(c, sum, 'f64', 'i32');
  }
  return c.unsupported(`convolution of ${from} to ${attrs.dtype}`);
};

const kernelShape = (c: ExportContext, dims: readonly Dim[]): bigint[] =>
  isConcrete(dims) ? big(dims) : c.unsupported('kernels of symbolic size');

/** Windows over [N, C, …spatial]; others by two axes of 1 in front. */
function poolInput(
  c: ExportContext,
  node: NodeOf<'reduce_window' | 'window_argmax'>,
  x: string,
): { x: string; spatial: Window & { readonly window: readonly number[] }; restore: (y: string) => string } {
  const { attrs } = node;
  const shape = shapeIn(node);
  const whole =
    shape.length < 3 ||
    [0, 1].some(
      (i) => attrs.window[i] !== 1 || attrs.strides[i] !== 1 || attrs.padLow[i] !== 0 || attrs.padHigh[i] !== 0,
    );
  const skip = whole ? 0 : 2;
  const input = whole ? c.one('Reshape', [x, c.dims([1, 1, ...shape])]) : x;
  const {
    x: cut,
    low,
    high,
  } = crop(c, input, whole ? [1, 1, ...shape] : shape, attrs.padLow.slice(skip), attrs.padHigh.slice(skip), 2);
  return {
    x: cut,
    spatial: {
      window: attrs.window.slice(skip),
      strides: attrs.strides.slice(skip),
      dilations: attrs.dilations.slice(skip),
      padLow: low,
      padHigh: high,
    },
    restore: (y) => (whole ? c.one('Reshape', [y, c.dims(node.outputs[0].type.shape)]) : y),
  };
}

const poolAttrs = ({
  window,
  strides,
  dilations,
  padLow,
  padHigh,
}: Window & { readonly window: readonly number[] }) => ({
  kernel_shape: big(window),
  strides: big(strides),
  dilations: big(dilations),
  pads: big([...padLow, ...padHigh].map(Number)),
});

const reduceWindow: Convert<'reduce_window'> = (c, node, [x]) => {
  const dtype = dtypeIn(node);
  if (dtype === 'i64' || dtype === 'u64') return c.unsupported(`pooling of ${dtype}`);
  // Pooling operators take floats; integers of up to 32 bits fit into f64.
  const inner: DType = isFloat(dtype) ? dtype : 'f64';
  const { x: input, spatial, restore } = poolInput(c, node, cast(c, x, dtype, inner));
  const attrs = poolAttrs(spatial);
  let y: string;
  switch (node.attrs.fn) {
    case 'max':
      y = c.one('MaxPool', [input], attrs);
      break;
    case 'min':
      y = c.one('Neg', [c.one('MaxPool', [c.one('Neg', [input])], attrs)]);
      break;
    case 'sum': {
      const mean = c.one('AveragePool', [input], { ...attrs, count_include_pad: 1n });
      y = c.one('Mul', [mean, scalar(c, sizeOf(spatial.window), inner)]);
      if (!isFloat(dtype)) y = c.one('Round', [y]);
      break;
    }
    case 'prod':
      return c.unsupported('products over windows');
    default:
      return node.attrs.fn satisfies never;
  }
  return restore(cast(c, y, inner, dtype));
};

// --- contraction ---------------------------------------------------------------------------------------------------

const letters = 'abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ';

const dot: Convert<'dot'> = (c, node, [x, y]) => {
  const { lhsBatch, rhsBatch, lhsContract, rhsContract, dtype } = node.attrs;
  const [left, right] = [shapeIn(node, 0).length, shapeIn(node, 1).length];
  const inputs = [cast(c, x, dtypeIn(node), dtype), cast(c, y, dtypeIn(node, 1), dtype)];
  const n = lhsBatch.length;
  const inOrder = [lhsBatch, rhsBatch].every((axes) => axes.every((axis, i) => axis === i));
  const matrices = left === n + 2 && right === n + 2 && lhsContract.length === 1;
  if (inOrder && matrices && lhsContract[0] === n + 1 && rhsContract[0] === n) return c.one('MatMul', inputs);
  if (left + right > letters.length) return c.unsupported(`a contraction over ${left + right} axes`);
  const lhs = Array.from({ length: left }, (_, i) => letters[i]);
  const rhs = Array.from({ length: right }, (_, i) => letters[left + i]);
  for (const [own, other] of [
    [lhsBatch, rhsBatch],
    [lhsContract, rhsContract],
  ]) {
    own.forEach((axis, i) => {
      rhs[other[i]] = lhs[axis];
    });
  }
  const free = (labels: Names, ...bound: readonly number[]) => labels.filter((_, i) => !bound.includes(i));
  const out = [
    ...lhsBatch.map((axis) => lhs[axis]),
    ...free(lhs, ...lhsBatch, ...lhsContract),
    ...free(rhs, ...rhsBatch, ...rhsContract),
  ];
  return c.one('Einsum', inputs, { equation: `${lhs.join('')},${rhs.join('')}->${out.join('')}` });
};

// --- composites ----------------------------------------------------------------------------------------------------

const softmax: Convert<'softmax'> = (c, node, [x]) => {
  const { axes, log } = node.attrs;
  if (axes.length === 1) return c.one(log ? 'LogSoftmax' : 'Softmax', [x], { axis: BigInt(axes[0]) });
  const places = c.ints(axes);
  const noop = { noop_with_empty_axes: 1n };
  const shifted = c.one('Sub', [x, c.one('ReduceMax', [x, places], noop)]);
  const power = c.one('Exp', [shifted]);
  const sum = c.one('ReduceSum', [power, places], noop);
  return log ? c.one('Sub', [shifted, c.one('Log', [sum])]) : c.one('Div', [power, sum]);
};

const normalize: Convert<'normalize'> = (c, node, [x]) => {
  const { axes, epsilon, center, statistics } = node.attrs;
  const dtype = dtypeIn(node);
  const shape = shapeIn(node);
  const first = shape.length - axes.length;
  const inner: DType = dtype === 'f64' ? 'f64' : 'f32';
  const normal = [...axes].sort((p, q) => p - q);
  const dims = shape.slice(first);
  if (
    center &&
    axes.length > 0 &&
    dtype !== 'f64' &&
    normal.every((axis, i) => axis === first + i) &&
    isConcrete(dims)
  ) {
    const ones = c.constant(filledTensor(dtype, dims, 1));
    return c.emit('LayerNormalization', [x, ones], { axis: BigInt(first), epsilon }, statistics ? 3 : 1);
  }
  const noop = { noop_with_empty_axes: 1n };
  const places = c.ints(axes);
  const wide = cast(c, x, dtype, inner);
  const average = c.one('ReduceMean', [wide, places], noop);
  const centred = center ? c.one('Sub', [wide, average]) : wide;
  const variance = c.one('ReduceMean', [c.one('Mul', [centred, centred]), places], noop);
  const deviation = c.one('Reciprocal', [c.one('Sqrt', [c.one('Add', [variance, scalar(c, epsilon, inner)])])]);
  const y = cast(c, c.one('Mul', [centred, deviation]), inner, dtype);
  if (!statistics) return y;
  return [y, center ? average : c.one('Mul', [average, scalar(c, 0, inner)]), deviation];
};

const resize: Convert<'resize'> = (c, node, [x]) => {
  const { attrs } = node;
  const shape = shapeIn(node);
  const exact = attrs.scales.every(
    (scale, i) =>
      scale !== null &&
      Math.fround(scale) === scale &&
      typeof shape[i] === 'number' &&
      Math.floor(shape[i] * scale) === attrs.shape[i],
  );
  if (!exact && attrs.scales.some((scale, i) => scale !== null && !isQuotient(attrs.shape[i], shape[i], scale))) {
    c.unsupported('a resize whose scales are not those of its sizes');
  }
  const roi =
    attrs.roi === null
      ? ''
      : c.constant({ dtype: 'f32', shape: [attrs.roi.length], data: Float32Array.from(attrs.roi) });
  const scales = exact
    ? c.constant({ dtype: 'f32', shape: [shape.length], data: Float32Array.from(attrs.scales, Number) })
    : '';
  return c.one('Resize', exact ? [x, roi, scales] : [x, roi, '', c.dims(attrs.shape)], {
    mode: attrs.mode,
    coordinate_transformation_mode: attrs.coordinates,
    nearest_mode: attrs.nearest,
    cubic_coeff_a: attrs.cubicA,
    exclude_outside: attrs.excludeOutside ? 1n : 0n,
    antialias: attrs.antialias ? 1n : 0n,
    extrapolation_value: attrs.extrapolation,
  });
};

const isQuotient = (size: Dim, from: Dim, scale: number): boolean =>
  typeof size === 'number' && typeof from === 'number' ? Math.abs(size / from - scale) < 1e-12 * scale : scale === 1;

// --- loops ---------------------------------------------------------------------------------------------------------

/** Scan; the number of the iteration is scanned too, since ONNX has it in Loop only. */
const scan: Convert<'scan'> = (c, { attrs, outputs }, inputs) => {
  const { body, trips, carried, iteration, scanned, stacked } = attrs;
  if (trips === 0) return c.unsupported('a loop without iterations');
  const arrays = inputs.slice(carried, carried + scanned.length);
  const first = iteration ? 1 : 0;
  const count = (length: number, start: number): number[] => Array.from({ length }, (_, i) => start + i);
  const captured = inputs.slice(carried + scanned.length);
  const bound = new Map(captured.map((name, i) => [first + carried + scanned.length + i, name]));
  const formal = [...count(carried, first), ...count(scanned.length, first + carried), ...(iteration ? [0] : [])];
  const counter = iteration || scanned.length === 0;
  const graph = c.subgraph(body, formal, bound);
  // Something must be scanned; what nobody reads still is an input of the body.
  const unread = counter && !iteration ? [counterInfo(c.fresh('iteration'))] : [];
  const forward = counter ? [0n] : [];
  return c.emit(
    'Scan',
    [...inputs.slice(0, carried), ...arrays, ...(counter ? [c.ints(count(trips, 0))] : [])],
    {
      body: { ...graph, input: [...(graph.input ?? []), ...unread] },
      num_scan_inputs: BigInt(scanned.length + (counter ? 1 : 0)),
      scan_input_directions: [...big(scanned.map(Number)), ...forward],
      scan_output_directions: stacked.length > 0 ? big(stacked.map(Number)) : undefined,
    },
    outputs.length,
  );
};

/** An i64 scalar. */
const counterInfo = (name: string) => ({
  name,
  type: { tensorType: { elemType: onnxTypeOf('i64'), shape: { dim: [] } } },
});

// --- the table -----------------------------------------------------------------------------------------------------

const lowest = -(2n ** 63n);

export const conversions: { readonly [K in OpKind]: Convert<K> } = {
  ...elementwise,
  select: (c, _, inputs) => c.one('Where', inputs),
  clamp: (c, node, [x]) => {
    const bound = (value: number | null): string => (value === null ? '' : scalar(c, value, dtypeIn(node)));
    return c.one('Clip', [x, bound(node.attrs.min), bound(node.attrs.max)]);
  },
  cast: (c, node, inputs) => {
    const { dtype, saturate, rounding } = node.attrs;
    const from = dtypeIn(node);
    let [x] = inputs;
    if (isFloat(from) && isInt(dtype) && isPacked(dtype)) {
      // ONNX takes the low bits of what is out of range of a packed type; here floats saturate.
      const wide = isMiniFloat(from) ? 'f32' : from;
      const bounds = integerRange(dtype).map((bound) => scalar(c, Number(bound), wide));
      x = c.one('Clip', [cast(c, x, from, wide), ...bounds]);
    }
    return c.one('Cast', [x], {
      to: BigInt(onnxTypeOf(dtype)),
      saturate: isMiniFloat(dtype) && dtype !== 'f4e2m1' ? (saturate ? 1n : 0n) : undefined,
      round_mode: dtype === 'f8e8m0' ? (rounding ?? 'up') : undefined,
    });
  },
  bitcast: (c, { attrs: { dtype } }, inputs) => {
    c.needs(26);
    return c.one('BitCast', inputs, { to: BigInt(onnxTypeOf(dtype)) });
  },

  reshape: (c, { attrs: { shape } }, [x]) =>
    c.one('Reshape', [x, c.dims(shape)], {
      allowzero: shape.some((dim) => dim === 0 || typeof dim !== 'number') ? 1n : undefined,
    }),
  transpose: (c, { attrs: { permutation } }, inputs) => c.one('Transpose', inputs, { perm: big(permutation) }),
  broadcast: (c, { attrs: { shape } }, [x]) => c.one('Expand', [x, c.dims(shape)]),
  slice: (c, node, [x]) => {
    const { starts, sizes, steps } = node.attrs;
    // The end of a walk down to the first element lies before it: only the lowest number says so.
    const ends = starts.map((start, i) => (sizes[i] === 0 ? start : addDims(start, mulDims(sizes[i], steps[i]))));
    const end = ends.length === 0 ? c.ints([]) : mixedEnds(c, ends);
    return c.one('Slice', [x, c.dims(starts), end, c.ints(starts.map((_, i) => i)), c.ints(steps)]);
  },
  pad: (c, { attrs: { low, high, mode } }, inputs) =>
    c.one('Pad', [inputs[0], c.dims([...low, ...high]), ...inputs.slice(1)], { mode }),
  concat: (c, { attrs: { axis } }, inputs) => c.one('Concat', inputs, { axis: BigInt(axis) }),

  iota: (c, { attrs: { dtype, shape, axis } }) => {
    const limit = c.one('Reshape', [c.dims([shape[axis]]), c.ints([])]);
    const count = c.one('Range', [scalar(c, 0, 'i64'), limit, scalar(c, 1, 'i64')]);
    const placed = c.one('Reshape', [count, c.dims(shape.map((dim, i) => (i === axis ? dim : 1)))], { allowzero: 1n });
    return cast(c, c.one('Expand', [placed, c.dims(shape)]), 'i64', dtype);
  },
  gather: (c, { attrs: { axis } }, inputs) => c.one('Gather', inputs, { axis: BigInt(axis) }),
  gather_elements: (c, { attrs: { axis } }, inputs) => c.one('GatherElements', inputs, { axis: BigInt(axis) }),
  gather_nd: (c, { attrs: { batchDims } }, [x, indices]) =>
    c.one('GatherND', [x, indices], { batch_dims: BigInt(batchDims) }),
  scatter_elements: (c, { attrs: { axis, fn } }, inputs) =>
    c.one('ScatterElements', inputs, { axis: BigInt(axis), reduction: fn === 'set' ? 'none' : fn }),
  scatter_nd: (c, { attrs: { fn } }, inputs) => c.one('ScatterND', inputs, { reduction: fn === 'set' ? 'none' : fn }),

  reduce: (c, { attrs: { fn, axes, keep } }, [x]) => {
    const names = {
      sum: 'ReduceSum',
      prod: 'ReduceProd',
      max: 'ReduceMax',
      min: 'ReduceMin',
      and: 'ReduceMin',
      or: 'ReduceMax',
    };
    return c.one(names[fn], [x, c.ints(axes)], { keepdims: keep ? 1n : 0n, noop_with_empty_axes: 1n });
  },
  arg_reduce: (c, { attrs: { fn, axis, keep, last } }, inputs) =>
    c.one(fn === 'max' ? 'ArgMax' : 'ArgMin', inputs, {
      axis: BigInt(axis),
      keepdims: keep ? 1n : 0n,
      select_last_index: last ? 1n : 0n,
    }),
  cumulative: (c, { attrs: { fn, axis, exclusive, reverse } }, [x]) => {
    if (fn !== 'sum' && fn !== 'prod') return c.unsupported(`running ${fn}`);
    if (fn === 'prod') c.needs(26);
    return c.one(fn === 'sum' ? 'CumSum' : 'CumProd', [x, scalar(c, axis, 'i64')], {
      exclusive: exclusive ? 1n : 0n,
      reverse: reverse ? 1n : 0n,
    });
  },
  top_k: (c, { attrs: { k, axis, largest } }, [x]) =>
    c.emit('TopK', [x, c.dims([k])], { axis: BigInt(axis), largest: largest ? 1n : 0n, sorted: 1n }, 2),

  dot,
  conv,
  reduce_window: reduceWindow,
  window_argmax: (c, node, [x]) => {
    const { x: input, spatial, restore } = poolInput(c, node, x);
    if (input !== x) return c.unsupported('places of maxima in windows over other than spatial axes');
    return restore(c.emit('MaxPool', [input], poolAttrs(spatial), 2)[1]);
  },

  suppress: (c) => c.unsupported('suppression of boxes in batches'),
  random_bits: (c) => c.unsupported('random bits'),
  softmax,
  normalize,
  resize,
  scan,
  shape_of: (c, { attrs: { start, end } }, inputs) =>
    c.one('Shape', inputs, { start: BigInt(start), end: BigInt(end) }),
  source_op: (c, { attrs: { name } }) => c.unsupported(`${name} waits for its shapes; specialise the graph first`),
};

/** Ends of a slice, of which some may be symbolic; a negative one is before the first element. */
function mixedEnds(c: ExportContext, ends: readonly Dim[]): string {
  const place = (end: number): number | bigint => (end < 0 ? lowest : end);
  const known = ends.filter((end) => typeof end === 'number');
  if (known.length === ends.length) return c.ints(known.map(place));
  const parts = ends.map((end) => (typeof end === 'number' ? c.ints([place(end)]) : c.dims([end])));
  return parts.length === 1 ? parts[0] : c.one('Concat', parts, { axis: 0n });
}
