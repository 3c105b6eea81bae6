/** com.microsoft's operators on quantised tensors. */
import { bitsOf, type DType } from '../../../dtype.js';
import {
  add,
  binaryC,
  cast,
  concat,
  div,
  gather,
  leakyRelu,
  matmul,
  mean,
  mul,
  reshape,
  select3,
  sigmoid,
  slice1,
  softmax,
  sub,
  transpose,
} from '../../../graph/compose/index.js';
import { type Dim, mulDims } from '../../../graph/dims.js';
import type { Value } from '../../../graph/types.js';
import { bytesOfTensor, type HostTensor, sizeOf, tensorFromBytes } from '../../../tensor.js';
import type { Conversion, ConvertContext } from '../context.js';
import { channelsLast, integerMatmul } from './contraction.js';
import { averagePool } from './pooling.js';
import { dequantize, dynamicQuantized, qLinearConv, quantised, quantize } from './quantization.js';

const domain = 'com.microsoft';

/** A parameter of one number as a scalar. */
const single = (c: ConvertContext, x: Value): Value => reshape(c.b, x, []);

/** (x - zero) · scale, with inputs x, scale, zero point (which may be absent) from `i` on; one scale for the tensor. */
function real(c: ConvertContext, i: number): Value {
  const x = c.input(i);
  const zero = c.inputs[i + 2];
  const shifted = zero === undefined ? x : sub(c.b, cast(c.b, x, 'i32'), single(c, cast(c.b, zero, 'i32')));
  return mul(c.b, cast(c.b, shifted, 'f32'), single(c, c.input(i + 1)));
}

/** x / scale + zero, rounded and saturated, with scale and zero point (which may be absent) as inputs `i` and `i + 1`. */
function stored(c: ConvertContext, x: Value, i: number, standard: DType): Value {
  const zero = c.inputs[i + 1];
  const scaled = div(c.b, x, single(c, c.input(i)));
  return quantised(c, scaled, zero && single(c, zero), zero?.type.dtype ?? standard);
}

/** An operator of floats between quantised tensors; inputs are (x, scale, zero) each, then scale and zero of the result. */
const between = (op: string, count: number, body: (c: ConvertContext, xs: readonly Value[]) => Value): Conversion => ({
  domain,
  op,
  since: 1,
  convert: (c) =>
    stored(
      c,
      body(
        c,
        Array.from({ length: count }, (_, i) => real(c, 3 * i)),
      ),
      3 * count,
      c.dtype(0),
    ),
});

/** Scales and zero points are of the result first, then with each input. */
function qLinearConcat(c: ConvertContext): Value {
  const xs = Array.from({ length: (c.inputs.length - 2) / 3 }, (_, i) => real(c, 2 + 3 * i));
  return stored(c, concat(c.b, xs, c.axis(c.int('axis'), xs[0].type.shape.length)), 0, c.dtype(2));
}

function qLinearWhere(c: ConvertContext): Value {
  return stored(c, select3(c.b, c.input(0), real(c, 1), real(c, 4)), 7, c.dtype(1));
}

interface ProductInputs {
  readonly a: number;
  readonly b: number;
  readonly aScale: number;
  readonly bScale: number;
  readonly aZero: number;
  readonly bZero: number;
}

/** The f32 product of two integer matrices with their scales, summed exactly. */
export function quantisedProduct(c: ConvertContext, i: ProductInputs): Value {
  const sum = integerMatmul(c, c.input(i.a), c.inputs[i.aZero], c.input(i.b), c.inputs[i.bZero]);
  return scaledSum(c, sum, c.input(i.aScale), c.input(i.bScale));
}

function scaledSum(c: ConvertContext, sum: Value, aScale: Value, bScale: Value): Value {
  const flat = (x: Value): Value => (sizeOf(c.concreteDims(x.type.shape)) === 1 ? single(c, x) : x);
  return mul(c.b, cast(c.b, sum, 'f32'), mul(c.b, flat(aScale), flat(bScale)));
}

const biased = (c: ConvertContext, y: Value, i: number): Value => (c.has(i) ? add(c.b, y, c.input(i)) : y);

function dynamicQuantizeMatMul(c: ConvertContext): Value {
  const [quantisedA, scale, zero] = dynamicQuantized(c, c.input(0));
  const sum = integerMatmul(c, quantisedA, zero, c.input(1), c.inputs[3]);
  return biased(c, scaledSum(c, sum, scale, c.input(2)), 4);
}

const matMulIntegerToFloat = (c: ConvertContext): Value =>
  biased(c, quantisedProduct(c, { a: 0, b: 1, aScale: 2, bScale: 3, aZero: 4, bZero: 5 }), 6);

/** alpha · A' · B' + C, C in the scale of the product; the result is f32 unless its scale is given. */
function qGemm(c: ConvertContext): Value {
  const flipped = (x: Value, name: string): Value => (c.flag(name) ? transpose(c.b, x, [1, 0]) : x);
  const sum = integerMatmul(c, flipped(c.input(0), 'transA'), c.inputs[2], flipped(c.input(3), 'transB'), c.inputs[5]);
  const total = biased(c, sum, 6);
  const y = binaryC(c.b, 'mul', scaledSum(c, total, c.input(1), c.input(4)), c.float('alpha', 1));
  return c.has(7) ? stored(c, y, 7, c.dtype(0)) : y;
}

/** Elements packed `8 / bits` a byte, low bits first, along the last axis: the same bytes as a tensor of that type. */
function unpacked(c: ConvertContext, i: number, bits: number): HostTensor {
  const packed = c.constant(i);
  if (bits === 8) return packed;
  const dtype = ({ 2: 'u2', 4: 'u4' } as const)[bits] ?? c.fail('invalid bits', '2, 4 or 8', String(bits));
  const shape = [...packed.shape.slice(0, -1), (packed.shape[packed.shape.length - 1] * 8) / bits];
  return tensorFromBytes(dtype, shape, bytesOfTensor(packed));
}

/** A [.., K] times the transpose of B [N, K], whose elements are integers of few bits with a scale per block of K. */
function matMulNBits(c: ConvertContext): Value {
  const [rows, depth, block, bits] = [c.int('N'), c.int('K'), c.int('block_size'), c.int('bits', 4)];
  const blocks = Math.ceil(depth / block);
  const a = c.input(0);
  const inner: DType = bitsOf(a.type.dtype) < 32 ? 'f32' : a.type.dtype;
  const levels = c.b.constant(unpacked(c, 1, bits));
  const codes = cast(c.b, reshape(c.b, levels, [rows, blocks, block]), inner);
  const scale = cast(c.b, reshape(c.b, c.input(2), [rows, blocks, 1]), inner);
  const centre = zeroPoints(c, rows, blocks, bits, inner);
  const centred = centre === undefined ? binaryC(c.b, 'sub', codes, 2 ** (bits - 1)) : sub(c.b, codes, centre);
  const padded = reshape(c.b, mul(c.b, centred, scale), [rows, blocks * block]);
  let weights = slice1(c.b, padded, 1, 0, depth);
  if (c.has(4)) weights = reordered(c, weights, { rows, depth, block }, codes, scale, centre, bits);
  const y = cast(c.b, matmul(c.b, cast(c.b, a, inner), transpose(c.b, weights, [1, 0])), a.type.dtype);
  return biased(c, y, 5);
}

/** Zero points [N, blocks, 1]: of the type of A, or packed like B, each row filling whole bytes. */
function zeroPoints(c: ConvertContext, rows: number, blocks: number, bits: number, inner: DType): Value | undefined {
  if (!c.has(3)) return undefined;
  if (c.dtype(3) !== 'u8') return cast(c.b, reshape(c.b, c.input(3), [rows, blocks, 1]), inner);
  const bytes = Math.ceil((blocks * bits) / 8);
  const all = c.b.constant(unpacked(c, 3, bits));
  const perRow = reshape(c.b, all, [rows, (bytes * 8) / bits]);
  return cast(c.b, reshape(c.b, slice1(c.b, perRow, 1, 0, blocks), [rows, blocks, 1]), inner);
}

/** With `g_idx`, place k of the depth belongs to the block that it names. */
function reordered(
  c: ConvertContext,
  plain: Value,
  { rows, depth, block }: { readonly rows: number; readonly depth: number; readonly block: number },
  codes: Value,
  scale: Value,
  centre: Value | undefined,
  bits: number,
): Value {
  const index = slice1(c.b, c.input(4), 0, 0, depth);
  const perPlace = (x: Value): Value => gather(c.b, reshape(c.b, x, x.type.shape.slice(0, 2)), index, 1);
  const [, blocks] = codes.type.shape;
  const flat = slice1(c.b, reshape(c.b, codes, [rows, mulDims(blocks, block)]), 1, 0, depth);
  const centred = centre === undefined ? binaryC(c.b, 'sub', flat, 2 ** (bits - 1)) : sub(c.b, flat, perPlace(centre));
  return reshape(c.b, mul(c.b, centred, perPlace(scale)), plain.type.shape as readonly Dim[]);
}

export const contribQuantization: readonly Conversion[] = [
  { domain, op: 'QuantizeLinear', since: 1, convert: quantize },
  { domain, op: 'DequantizeLinear', since: 1, convert: dequantize },
  between('QLinearAdd', 2, (c, [x, y]) => add(c.b, x, y)),
  between('QLinearMul', 2, (c, [x, y]) => mul(c.b, x, y)),
  between('QLinearSigmoid', 1, (c, [x]) => sigmoid(c.b, x)),
  between('QLinearLeakyRelu', 1, (c, [x]) => leakyRelu(c.b, x, c.float('alpha', 0.01))),
  between('QLinearSoftmax', 1, (c, [x]) => {
    const rank = x.type.shape.length;
    const axis = c.axis(c.int('axis', -1), rank);
    // The attribute names the opset of Softmax that is meant.
    const flat = c.int('opset', 13) < 13;
    return softmax(c.b, x, flat ? Array.from({ length: rank - axis }, (_, i) => axis + i) : [axis]);
  }),
  between('QLinearAveragePool', 1, (c, [x]) =>
    channelsLast(c, x, c.flag('channels_last'), (inner) => averagePool(c, inner)),
  ),
  between('QLinearGlobalAveragePool', 1, (c, [x]) =>
    channelsLast(c, x, c.flag('channels_last'), (inner) =>
      mean(c.b, inner, Array.from(inner.type.shape.keys()).slice(2), true),
    ),
  ),
  between('QLinearReduceMean', 1, (c, [x]) => {
    const rank = x.type.shape.length;
    const axes = c.axes(c.ints('axes') ?? Array.from({ length: rank }, (_, i) => i), rank);
    return mean(c.b, x, axes, c.flag('keepdims', true));
  }),
  { domain, op: 'QLinearConcat', since: 1, convert: qLinearConcat },
  { domain, op: 'QLinearWhere', since: 1, convert: qLinearWhere },
  {
    domain,
    op: 'QLinearConv',
    since: 1,
    convert: (c) => channelsLast(c, c.input(0), c.flag('channels_last'), (x) => qLinearConv(c, x)),
  },
  { domain, op: 'QGemm', since: 1, convert: qGemm },
  { domain, op: 'DynamicQuantizeMatMul', since: 1, convert: dynamicQuantizeMatMul },
  { domain, op: 'MatMulIntegerToFloat', since: 1, convert: matMulIntegerToFloat },
  { domain, op: 'MatMulNBits', since: 1, convert: matMulNBits },
];
