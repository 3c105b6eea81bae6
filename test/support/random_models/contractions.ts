/** Random convolutions and matrix products: of floats, of bytes, and of bytes under QuantizeLinear and DequantizeLinear. */
import type { DType } from '../../../compiler/dtype.js';
import { big, type Draft, type Extent, flag, list, type Made, one, product, rarely } from './draft.js';

const channelCounts: readonly number[] = [1, 3, 8, 2, 4, 5, 7, 9, 12, 16, 17, 24, 32, 33, 48, 64];
const manyChannels: readonly number[] = [64, 33, 96, 100, 128, 160];
/** Multiply-adds that the reference does in a blink; and what large ones may have, which other forms are for. */
const [few, many] = [300_000, 3_000_000];
const isLarge = (d: Draft): boolean => rarely(d.c, 6);

interface Geometry {
  readonly groups: number;
  readonly channels: number;
  readonly outputs: number;
  readonly batch: Extent;
  readonly spatial: readonly number[];
  readonly kernel: readonly number[];
  readonly strides: readonly number[];
  readonly dilations: readonly number[];
  readonly low: readonly number[];
  readonly high: readonly number[];
  readonly outputPadding: readonly number[];
  /** Spatial extents of the result. */
  readonly result: readonly number[];
}

function geometry(d: Draft, transposed: boolean): Geometry {
  const { c } = d;
  const rank = one(c, [2, 2, 1, 3] as const);
  const form = one(c, ['dense', 'dense', 'depthwise', 'grouped'] as const);
  const large = isLarge(d);
  const most = large ? many : few;
  const counts = large ? manyChannels : channelCounts;
  let [groups, perGroup, outputsPerGroup] = [1, one(c, counts), one(c, counts)];
  if (form === 'depthwise') [groups, perGroup, outputsPerGroup] = [one(c, counts), 1, one(c, [1, 1, 2, 3])];
  if (form === 'grouped') [groups, perGroup, outputsPerGroup] = [c.int(2, 5), c.int(1, 9), c.int(1, 9)];
  const kernel = list(rank, () => one(c, rank === 3 ? [3, 1, 2] : [3, 3, 1, 2, 5, 7]));
  const plain = flag(c);
  const strides = kernel.map(() => (plain ? 1 : c.int(1, 3)));
  const dilations = kernel.map(() => (plain ? 1 : one(c, [1, 1, 2, 3])));
  const reach = kernel.map((size, i) => (size - 1) * dilations[i] + 1);
  const low = reach.map((size) => c.int(0, Math.min(3, size - 1)));
  const high = reach.map((size, i) => (plain ? low[i] : c.int(0, Math.min(3, size - 1))));
  const room = [40, 19, 6][rank - 1];
  const outputPadding = strides.map((step, i) =>
    transposed && !plain ? c.int(0, Math.max(step, dilations[i]) - 1) : 0,
  );
  const batch = d.vary(one(c, [1, 1, 2, 3]));
  let spatial = reach.map((size, i) =>
    transposed
      ? Math.max(1, Math.ceil((low[i] + high[i] - size + 1) / strides[i]) + 1) + c.int(0, room >> 1)
      : Math.max(1, size - low[i] - high[i]) + c.int(0, room),
  );
  const resultOf = (sizes: readonly number[]): number[] =>
    sizes.map((size, i) =>
      transposed
        ? (size - 1) * strides[i] + outputPadding[i] + reach[i] - low[i] - high[i]
        : Math.floor((size + low[i] + high[i] - reach[i]) / strides[i]) + 1,
    );
  const work = (): number =>
    d.size(batch) * groups * outputsPerGroup * perGroup * product(kernel) * product(resultOf(spatial));
  const lessSpace = (): void => {
    spatial = spatial.map((size, i) => Math.max(Math.ceil(size / 2), reach[i]));
  };
  if (large && work() > most) lessSpace();
  while (work() > most && (perGroup > 1 || outputsPerGroup > 1)) {
    [perGroup, outputsPerGroup] = [Math.ceil(perGroup / 2), Math.ceil(outputsPerGroup / 2)];
  }
  if (work() > most) lessSpace();
  const [channels, outputs] = [groups * perGroup, groups * outputsPerGroup];
  const result = resultOf(spatial);
  return {
    groups,
    channels,
    outputs,
    batch,
    spatial,
    kernel,
    strides,
    dilations,
    low,
    high,
    outputPadding,
    result,
  };
}

const attrsOf = (g: Geometry): Record<string, bigint | bigint[]> => ({
  kernel_shape: big(g.kernel),
  strides: big(g.strides),
  dilations: big(g.dilations),
  pads: big([...g.low, ...g.high]),
  group: BigInt(g.groups),
});

export function convolution(d: Draft, source?: Made): Made {
  const { c } = d;
  const g = geometry(d, false);
  const dtype: DType = source?.dtype ?? one(c, ['f32', 'f32', 'f32', 'f32', 'f16', 'bf16'] as const);
  const x = source ?? d.data(dtype, [g.batch, g.channels, ...g.spatial], { as: 'input' });
  const w = d.data(dtype, [g.outputs, g.channels / g.groups, ...g.kernel], { as: rarely(c, 4) ? 'input' : 'constant' });
  const bias = flag(c) ? d.data(dtype, [g.outputs]) : undefined;
  return d.op('Conv', [x, w, bias], [g.batch, g.outputs, ...g.result], attrsOf(g));
}

export function transposedConvolution(d: Draft): Made {
  const { c } = d;
  const g = geometry(d, true);
  const dtype: DType = one(c, ['f32', 'f32', 'f32', 'f16'] as const);
  const x = d.data(dtype, [g.batch, g.channels, ...g.spatial], { as: 'input' });
  const w = d.data(dtype, [g.channels, g.outputs / g.groups, ...g.kernel], { as: flag(c) ? 'constant' : 'input' });
  const bias = flag(c) ? d.data(dtype, [g.outputs]) : undefined;
  const attrs = { ...attrsOf(g), output_padding: big(g.outputPadding) };
  return d.op('ConvTranspose', [x, w, bias], [g.batch, g.outputs, ...g.result], attrs);
}

/** Scales are powers of two: what is rounded to bytes is exact before, whatever the order of sums. */
const scaleOf = (d: Draft): number => one(d.c, [0.25, 0.5, 1, 2]);
const scalarOf = (d: Draft, dtype: DType, value: number): Made => d.numbers(dtype, [], [value]);
const zeroOf = (d: Draft, dtype: DType): number => (dtype === 'u8' ? one(d.c, [0, 3, 128]) : one(d.c, [0, 0, -3, 5]));

/** Bytes that stand for floats: [dequantised, scale]. */
function dequantised(d: Draft, shape: readonly Extent[], dtype: 'i8' | 'u8'): readonly [Made, number] {
  const scale = scaleOf(d);
  const [scaleValue, zero] = [scalarOf(d, 'f32', scale), scalarOf(d, dtype, zeroOf(d, dtype))];
  if (flag(d.c)) {
    const bytes = d.data(dtype, shape, { as: 'input', low: -128, high: dtype === 'u8' ? 255 : 127 });
    return [d.op('DequantizeLinear', [bytes, scaleValue, zero], shape, {}, 'f32'), scale];
  }
  const x = d.data('f32', shape, { as: 'input' });
  const bytes = d.op('QuantizeLinear', [x, scaleValue, zero], shape, {}, dtype);
  return [d.op('DequantizeLinear', [bytes, scaleValue, zero], shape, {}, 'f32'), scale];
}

function dequantisedWeights(d: Draft, shape: readonly number[], axis: number): readonly [Made, readonly number[]] {
  const { c } = d;
  const dtype = one(c, ['i8', 'i8', 'u8'] as const);
  const perAxis = flag(c);
  const count = perAxis ? shape[axis] : 1;
  const scales = list(count, () => scaleOf(d));
  const w = d.data(dtype, shape, { as: 'constant', low: -9, high: 9 });
  const scale = d.numbers('f32', perAxis ? [count] : [], scales);
  const zero = rarely(c, 3)
    ? d.numbers(
        dtype,
        perAxis ? [count] : [],
        list(count, () => zeroOf(d, dtype)),
      )
    : undefined;
  const all = perAxis ? scales : list(shape[axis], () => scales[0]);
  return [d.op('DequantizeLinear', [w, scale, zero], shape, perAxis ? { axis: BigInt(axis) } : {}, 'f32'), all];
}

/** Ends of chains of bytes: an activation, then bytes again. */
function quantised(d: Draft, x: Made): Made {
  const { c } = d;
  const dtype = one(c, ['u8', 'i8'] as const);
  const y = flag(c) ? d.map('Relu', x) : x;
  const [scale, zero] = [scalarOf(d, 'f32', one(c, [1, 2, 8, 32])), scalarOf(d, dtype, zeroOf(d, dtype))];
  const bytes = d.op('QuantizeLinear', [y, scale, zero], x.shape, {}, dtype);
  if (rarely(c, 3)) return bytes;
  return d.op('DequantizeLinear', [bytes, scale, zero], x.shape, {}, 'f32');
}

export function byteConvolution(d: Draft): Made {
  const { c } = d;
  const g = geometry(d, false);
  const dtype = one(c, ['u8', 'i8'] as const);
  const weights = [g.outputs, g.channels / g.groups, ...g.kernel];
  const shape = [g.batch, g.channels, ...g.spatial];
  const result = [g.batch, g.outputs, ...g.result];
  switch (c.int(0, 3)) {
    case 0: {
      const x = d.data(dtype, shape, { as: 'input', low: -128, high: dtype === 'u8' ? 255 : 127 });
      const w = d.data(one(c, ['i8', 'u8'] as const), weights, {
        as: flag(c) ? 'constant' : 'input',
        low: -9,
        high: 9,
      });
      const zeroX = flag(c) ? scalarOf(d, dtype, zeroOf(d, dtype)) : undefined;
      const zeroW = flag(c) ? scalarOf(d, w.dtype, zeroOf(d, w.dtype)) : undefined;
      return d.op('ConvInteger', [x, w, zeroX, zeroW], result, attrsOf(g), 'i32');
    }
    case 1: {
      const x = d.data(dtype, shape, { as: 'input', low: -128, high: dtype === 'u8' ? 255 : 127 });
      const w = d.data('i8', weights, { as: flag(c) ? 'constant' : 'input', low: -9, high: 9 });
      const perAxis = flag(c);
      const count = perAxis ? g.outputs : 1;
      const scales = d.numbers(
        'f32',
        perAxis ? [count] : [],
        list(count, () => scaleOf(d)),
      );
      const zeros = d.numbers(
        'i8',
        perAxis ? [count] : [],
        list(count, () => 0),
      );
      const bias = flag(c) ? d.data('i32', [g.outputs], { as: 'constant', low: -300, high: 300 }) : undefined;
      const inputs = [x, scalarOf(d, 'f32', 0.5), scalarOf(d, dtype, zeroOf(d, dtype)), w, scales, zeros];
      const [scale, zero] = [scalarOf(d, 'f32', one(c, [1, 8, 64])), scalarOf(d, dtype, zeroOf(d, dtype))];
      return d.op('QLinearConv', [...inputs, scale, zero, bias], result, attrsOf(g), dtype);
    }
    default: {
      const [x, scale] = dequantised(d, shape, dtype);
      const [w, scales] = dequantisedWeights(d, weights, 0);
      const biasOf = (): Made => {
        const bias = d.data('i32', [g.outputs], { as: 'constant', low: -300, high: 300 });
        const factor = d.numbers(
          'f32',
          [g.outputs],
          scales.map((each) => each * scale),
        );
        return d.op('DequantizeLinear', [bias, factor], [g.outputs], { axis: 0n }, 'f32');
      };
      return quantised(d, d.op('Conv', [x, w, flag(c) ? biasOf() : undefined], result, attrsOf(g)));
    }
  }
}

const lengths = [1, 4, 3, 2, 5, 7, 8, 9, 15, 16, 17, 31, 33, 64, 65, 100, 129] as const;
const longLengths = [128, 64, 100, 256, 300, 512, 1000, 2048, 16, 5, 1] as const;
const lengthOf = (d: Draft, large: boolean): number =>
  rarely(d.c, 25) ? 0 : one<number>(d.c, large ? longLengths : lengths);

/** Batch axes of both sides and of what they broadcast to. */
function batches(d: Draft): readonly [readonly Extent[], readonly Extent[], readonly Extent[]] {
  const { c } = d;
  const all = list(one(c, [0, 1, 2, 0, 1, 3, 4]), () => d.vary(one(c, [1, 2, 3])));
  const side = (): Extent[] => {
    const kept = all.slice(rarely(c, 3) ? c.int(0, all.length) : 0);
    return kept.map((extent) => (rarely(c, 4) ? 1 : extent));
  };
  const [lhs, rhs] = [side(), side()];
  const rank = Math.max(lhs.length, rhs.length);
  const at = (shape: readonly Extent[], i: number): Extent => shape[i - rank + shape.length] ?? 1;
  return [lhs, rhs, list(rank, (i) => (at(lhs, i) === 1 ? at(rhs, i) : at(lhs, i)))];
}

/** A matrix as it is, or one that a Transpose makes of another: of its last axes, or of heads out of columns. */
function operand(d: Draft, dtype: DType, batch: readonly Extent[], rows: Extent, columns: Extent, constant: boolean) {
  const { c } = d;
  const options = { as: constant && d.isFixed([...batch, rows, columns]) ? 'constant' : 'input' } as const;
  const rank = batch.length + 2;
  const shape = [...batch, rows, columns];
  const order = list(rank, (i) => i);
  switch (c.int(0, 3)) {
    case 0:
      [order[rank - 1], order[rank - 2]] = [rank - 2, rank - 1];
      break;
    case 1:
      if (rank > 2) [order[rank - 3], order[rank - 2]] = [rank - 2, rank - 3];
      break;
    default:
      return d.data(dtype, shape, options);
  }
  const given = d.data(
    dtype,
    order.map((axis) => shape[axis]),
    options,
  );
  return d.op('Transpose', [given], shape, { perm: big(order) });
}

function sizesOf(d: Draft, batch: readonly Extent[]): [number, number, number] {
  const large = isLarge(d);
  const most = large ? many : few;
  const sizes: [number, number, number] = [lengthOf(d, large), lengthOf(d, large), lengthOf(d, large)];
  while (product(sizes) * d.elements(batch) > most) {
    const at = sizes.indexOf(Math.max(...sizes));
    sizes[at] = sizes[at] >> 1;
  }
  return sizes;
}

export function matrixProduct(d: Draft): Made {
  const { c } = d;
  const [lhs, rhs, batch] = batches(d);
  const [m, n, k] = sizesOf(d, batch);
  const rows = d.vary(m);
  const dtype: DType = one(c, ['f32', 'f32', 'f32', 'f16', 'bf16', 'f64', 'i32'] as const);
  if (rarely(c, 8)) {
    const y = operand(d, dtype, rhs, k, n, flag(c));
    return d.op('MatMul', [d.data(dtype, [k]), y], [...rhs, n]);
  }
  const x = operand(d, dtype, lhs, rows, k, rarely(c, 4));
  if (rarely(c, 8)) return d.op('MatMul', [x, d.data(dtype, [k])], [...lhs, rows]);
  return d.op('MatMul', [x, operand(d, dtype, rhs, k, n, flag(c))], [...batch, rows, n]);
}

export function gemm(d: Draft): Made {
  const { c } = d;
  const [m, n, k] = sizesOf(d, []);
  const rows = d.vary(m);
  const [transA, transB] = [flag(c), flag(c)];
  const dtype: DType = one(c, ['f32', 'f32', 'f16'] as const);
  const x = d.data(dtype, transA ? [k, rows] : [rows, k], { as: 'input' });
  const y = d.data(dtype, transB ? [n, k] : [k, n]);
  const addends: (readonly Extent[])[] = [[n], [1], [], [1, n], [rows, 1], [rows, n]];
  const addend = flag(c) ? d.data(dtype, one(c, addends)) : undefined;
  const attrs = {
    transA: transA ? 1n : 0n,
    transB: transB ? 1n : 0n,
    alpha: one(c, [1, 0.5, 2]),
    beta: one(c, [1, -1, 0.5, 0]),
  };
  return d.op('Gemm', [x, y, addend], [rows, n], attrs);
}

export function byteProduct(d: Draft): Made {
  const { c } = d;
  const [lhs, rhs, batch] = batches(d);
  const [m, n, k] = sizesOf(d, batch);
  const rows = d.vary(m);
  const dtype = one(c, ['u8', 'i8'] as const);
  const bytes = { low: -128, high: 127 };
  const result = [...batch, rows, n];
  switch (c.int(0, 3)) {
    case 0: {
      const x = d.data(dtype, [...lhs, rows, k], { as: 'input', ...bytes });
      const y = d.data(one(c, ['i8', 'u8'] as const), [...rhs, k, n], bytes);
      const zeroX = flag(c) ? scalarOf(d, dtype, zeroOf(d, dtype)) : undefined;
      const perColumn = rhs.length === 0 && flag(c);
      const zeros = list(perColumn ? n : 1, () => zeroOf(d, y.dtype));
      const zeroY = flag(c) ? d.numbers(y.dtype, perColumn ? [n] : [], zeros) : undefined;
      return d.op('MatMulInteger', [x, y, zeroX, zeroY], result, {}, 'i32');
    }
    case 1: {
      const x = d.data(dtype, [...lhs, rows, k], { as: 'input', ...bytes });
      const y = d.data('i8', [...rhs, k, n], { low: -9, high: 9 });
      const scalars = (type: DType): [Made, Made] => [
        scalarOf(d, 'f32', scaleOf(d)),
        scalarOf(d, type, zeroOf(d, type)),
      ];
      return d.op(
        'QLinearMatMul',
        [x, ...scalars(dtype), y, ...scalars('i8'), scalarOf(d, 'f32', 64), scalarOf(d, dtype, 1)],
        result,
        {},
        dtype,
      );
    }
    default: {
      const [x] = dequantised(d, [...lhs, rows, k], dtype);
      if (k === 0 || n === 0) return x;
      const [y] = dequantisedWeights(d, [k, n], 1);
      const made = d.op('MatMul', [x, y], [...lhs, rows, n]);
      return quantised(d, flag(c) ? d.op('Add', [made, d.data('f32', [n])], made.shape) : made);
    }
  }
}

/** Weights of few bits, a scale for every block of them along k. */
export function blockProduct(d: Draft): Made {
  const { c } = d;
  const block = one(c, [16, 32, 8, 64]);
  const [blocks, n] = [c.int(1, 4), one(c, [8, 1, 3, 16, 17, 40])];
  const k = block * blocks;
  const rows = d.vary(one(c, [1, 3, 4, 9, 17]));
  const dtype: DType = one(c, ['f32', 'f16'] as const);
  const bits = one(c, ['i4', 'u4', 'i8', 'u8'] as const);
  const transposed = flag(c);
  const range = bits.endsWith('4') ? { low: bits === 'u4' ? 0 : -8, high: bits === 'u4' ? 15 : 7 } : {};
  const w = d.data(bits, transposed ? [n, k] : [k, n], { as: 'constant', ...range });
  const shape = transposed ? [n, blocks] : [blocks, n];
  const scale = d.numbers(
    dtype,
    shape,
    list(n * blocks, () => scaleOf(d)),
  );
  const zero = flag(c) ? d.data(bits, shape, { as: 'constant', low: 0, high: 5 }) : undefined;
  const attrs = { axis: transposed ? 1n : 0n, block_size: BigInt(block) };
  const floats = d.op('DequantizeLinear', [w, scale, zero], w.shape, attrs, dtype);
  const y = transposed ? d.op('Transpose', [floats], [k, n], { perm: [1n, 0n] }) : floats;
  const lead = [...(flag(c) ? [2] : []), rows];
  return d.op('MatMul', [d.data(dtype, [...lead, k], { as: 'input' }), y], [...lead, n]);
}

export function einsum(d: Draft): Made {
  const { c } = d;
  const sizes = Object.fromEntries([...'bhijkd'].map((letter) => [letter, one(c, [2, 1, 3, 5, 8, 9])]));
  const equations = [
    'bij,bjk->bik',
    'bhid,bhjd->bhij',
    'bihd,bjhd->bhij',
    'ij,kj->ik',
    'bhij,bjhd->bihd',
    'ij,ij->',
    'bij->bji',
    'bi,bj->bij',
    'iij->j',
  ];
  const equation = one(c, equations);
  const [sides, result] = equation.split('->');
  const operands = sides.split(',').map((letters) =>
    d.data(
      'f32',
      [...letters].map((letter) => sizes[letter]),
    ),
  );
  return d.op(
    'Einsum',
    operands,
    [...result].map((letter) => sizes[letter]),
    { equation },
  );
}
