/** Elementwise ops as ONNX operators. */
import { integerRange, isFloat, isInt, isMiniFloat, isPacked } from '../../../dtype.js';
import { type BinaryOp, binaryOps, type OpKind, type UnaryOp, unaryOps } from '../../../graph/types.js';
import { onnxTypeOf } from '../tensors.js';
import { type Conversions, type Convert, cast, dtypeIn, scalar } from './convert.js';

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

const scalarOps = Object.fromEntries([
  ...unaryOps.map((op) => [op, unary[op] ?? plain(unaryNames[op] as string)]),
  ...binaryOps.map((op) => [op, binary[op] ?? plain(binaryNames[op] as string)]),
]) as unknown as Conversions<UnaryOp | BinaryOp>;

export const elementwise: Conversions<UnaryOp | BinaryOp | 'select' | 'clamp' | 'cast' | 'bitcast'> = {
  ...scalarOps,
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
};
