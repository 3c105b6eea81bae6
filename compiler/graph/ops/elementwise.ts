/** Elementwise ops: one output element from the elements at the same place. */
import { bitsOf } from '../../dtype.js';
import type { OpDefinition } from '../definition.js';
import { type BinaryOp, binaryOps, type OpKind, type TensorType, type UnaryOp, unaryOps } from '../types.js';
import { agreeShapes, checkDType, type DTypeClass, define, type Fail, sameDType } from './common.js';
import * as conversion from './conversion.js';
import { binaryGradient, castGradient, clampGradient, selectGradient, unaryGradient } from './gradients/elementwise.js';
import { noGradient } from './gradients/structure.js';
import * as reference from './reference/elementwise.js';
import * as scalar from './scalar.js';

interface Elementwise {
  /** Element types it is defined on. */
  readonly on: DTypeClass;
  /** The result is bool. */
  readonly predicate?: true;
  readonly summary: string;
}

const unary: Readonly<Record<UnaryOp, Elementwise>> = {
  neg: { on: 'numeric', summary: '-x; wraps on integers' },
  abs: { on: 'numeric', summary: '|x|; wraps on the least integer' },
  sign: { on: 'numeric', summary: '-1, 0 or 1; NaN for NaN' },
  exp: { on: 'float', summary: 'e^x' },
  exp2: { on: 'float', summary: '2^x' },
  log: { on: 'float', summary: 'natural logarithm' },
  log2: { on: 'float', summary: 'logarithm to base 2' },
  sqrt: { on: 'float', summary: 'square root' },
  rsqrt: { on: 'float', summary: '1 / sqrt(x)' },
  recip: { on: 'float', summary: '1 / x' },
  sin: { on: 'float', summary: 'sine of radians' },
  cos: { on: 'float', summary: 'cosine of radians' },
  tan: { on: 'float', summary: 'tangent of radians' },
  asin: { on: 'float', summary: 'inverse sine' },
  acos: { on: 'float', summary: 'inverse cosine' },
  atan: { on: 'float', summary: 'inverse tangent' },
  sinh: { on: 'float', summary: 'hyperbolic sine' },
  cosh: { on: 'float', summary: 'hyperbolic cosine' },
  asinh: { on: 'float', summary: 'inverse hyperbolic sine' },
  acosh: { on: 'float', summary: 'inverse hyperbolic cosine' },
  atanh: { on: 'float', summary: 'inverse hyperbolic tangent' },
  tanh: { on: 'float', summary: 'hyperbolic tangent' },
  erf: { on: 'float', summary: 'error function' },
  floor: { on: 'float', summary: 'the next integer below or equal' },
  ceil: { on: 'float', summary: 'the next integer above or equal' },
  round: { on: 'float', summary: 'the nearest integer, ties to even' },
  trunc: { on: 'float', summary: 'the integer part' },
  not: { on: 'integral', summary: 'logical on bool, bitwise on integers' },
  is_nan: { on: 'float', predicate: true, summary: 'whether x is NaN' },
  is_inf: { on: 'float', predicate: true, summary: 'whether x is an infinity' },
};

const binary: Readonly<Record<BinaryOp, Elementwise>> = {
  add: { on: 'numeric', summary: 'a + b; wraps on integers' },
  sub: { on: 'numeric', summary: 'a - b; wraps on integers' },
  mul: { on: 'numeric', summary: 'a · b; wraps on integers' },
  div: { on: 'numeric', summary: 'a / b; integers truncate, x / 0 is 0 and the least integer / -1 wraps' },
  rem: { on: 'numeric', summary: 'remainder with the sign of a (C fmod); integers: x rem 0 is 0' },
  pow: { on: 'numeric', summary: 'a^b; integers wrap, negative exponents truncate toward 0' },
  max: { on: 'ordered', summary: 'the greater; NaN if either is' },
  min: { on: 'ordered', summary: 'the smaller; NaN if either is' },
  atan2: { on: 'float', summary: 'angle of the point (b, a)' },
  and: { on: 'integral', summary: 'logical on bool, bitwise on integers' },
  or: { on: 'integral', summary: 'logical on bool, bitwise on integers' },
  xor: { on: 'integral', summary: 'logical on bool, bitwise on integers' },
  shl: { on: 'int', summary: 'a · 2^b, wrapping; 0 if b is negative or not below the width' },
  shr: { on: 'int', summary: 'a / 2^b rounded down; all sign bits if b is negative or not below the width' },
  eq: { on: 'any', predicate: true, summary: 'a = b' },
  ne: { on: 'any', predicate: true, summary: 'a ≠ b' },
  lt: { on: 'ordered', predicate: true, summary: 'a < b' },
  le: { on: 'ordered', predicate: true, summary: 'a ≤ b' },
  gt: { on: 'ordered', predicate: true, summary: 'a > b' },
  ge: { on: 'ordered', predicate: true, summary: 'a ≥ b' },
};

/** Common shape of all inputs. */
const commonShape = (context: Fail & { readonly inputs: readonly TensorType[] }) =>
  context.inputs
    .slice(1)
    .reduce(
      (shape, type) => agreeShapes(context, shape, type.shape, 'shapes of the inputs'),
      [...context.inputs[0].shape],
    );

const unaryDefinition = <K extends UnaryOp>(kind: K): OpDefinition<K> => {
  const { on, predicate, summary } = unary[kind];
  return define<K>({
    kind,
    summary,
    arity: 1,
    family: 'map',
    infer(context) {
      const [x] = context.inputs;
      checkDType(context, x.dtype, on, `the input of ${kind}`);
      return [{ dtype: predicate ? 'bool' : x.dtype, shape: x.shape }];
    },
    evaluate: ({ inputs: [x] }) => [reference.unary(kind, x)],
    scalar: (b, [x], { inputs: [dtype] }) => scalar.unary(b, kind, x, dtype),
    gradient: unaryGradient(kind),
  });
};

const binaryDefinition = <K extends BinaryOp>(kind: K): OpDefinition<K> => {
  const { on, predicate, summary } = binary[kind];
  return define<K>({
    kind,
    summary,
    arity: 2,
    family: 'map',
    infer(context) {
      const dtype = sameDType(context);
      checkDType(context, dtype, on, `the inputs of ${kind}`);
      return [{ dtype: predicate ? 'bool' : dtype, shape: commonShape(context) }];
    },
    evaluate: ({ inputs: [x, y] }) => [reference.binary(kind, x, y)],
    scalar: (b, [x, y], { inputs: [dtype] }) => scalar.binary(b, kind, x, y, dtype),
    gradient: binaryGradient(kind),
  });
};

const tableOf = <K extends OpKind>(kinds: readonly K[], make: <L extends K>(kind: L) => OpDefinition<L>) =>
  Object.fromEntries(kinds.map((kind) => [kind, make(kind)])) as unknown as { [L in K]: OpDefinition<L> };

export const elementwise = {
  ...tableOf(unaryOps, unaryDefinition),
  ...tableOf(binaryOps, binaryDefinition),

  select: define<'select'>({
    kind: 'select',
    summary: 'a where the condition holds, else b',
    arity: 3,
    family: 'map',
    infer(context) {
      checkDType(context, context.inputs[0].dtype, 'bool', 'the condition of select');
      return [{ dtype: sameDType(context, 1), shape: commonShape(context) }];
    },
    evaluate: ({ inputs: [condition, x, y] }) => [reference.select(condition, x, y)],
    scalar: (b, [condition, x, y], { inputs: [, dtype] }) => scalar.select(b, condition, x, y, dtype),
    gradient: selectGradient,
  }),

  clamp: define<'clamp'>({
    kind: 'clamp',
    summary: 'min(max(x, attrs.min), attrs.max): the upper bound wins; NaN stays NaN',
    arity: 1,
    family: 'map',
    infer(context) {
      const {
        attrs: { min, max },
        inputs: [x],
      } = context;
      checkDType(context, x.dtype, 'numeric', 'the input of clamp');
      if (Number.isNaN(min) || Number.isNaN(max)) context.fail('a bound of clamp is NaN');
      return [x];
    },
    evaluate: ({ attrs, inputs: [x] }) => [reference.clamp(x, attrs.min, attrs.max)],
    scalar: (b, [x], { attrs, inputs: [dtype] }) => scalar.clamp(b, x, dtype, attrs.min, attrs.max),
    gradient: clampGradient,
  }),

  cast: define<'cast'>({
    kind: 'cast',
    summary:
      'Conversion: to integers truncates and saturates floats (NaN gives 0) and wraps integers; to bool is x ≠ 0; ' +
      'to floats rounds to nearest even; `saturate` gives the largest f8 instead of NaN or Inf, `rounding` is for f8e8m0',
    arity: 1,
    family: 'map',
    infer: ({ attrs, inputs: [x] }) => [{ dtype: attrs.dtype, shape: x.shape }],
    evaluate: ({ attrs, inputs: [x] }) => [reference.cast(x, attrs.dtype, attrs)],
    scalar: (b, [x], { attrs, inputs: [from], output }) => conversion.cast(b, x, from, output, attrs),
    gradient: castGradient,
  }),

  bitcast: define<'bitcast'>({
    kind: 'bitcast',
    summary: 'The same bits as another element type of the same width',
    arity: 1,
    family: 'map',
    infer(context) {
      const {
        attrs: { dtype },
        inputs: [x],
      } = context;
      const bits = bitsOf(x.dtype);
      if (bits === 0 || x.dtype === 'bool' || dtype === 'bool' || bitsOf(dtype) !== bits) {
        context.fail('types of bitcast differ in width', `a type of ${bits} bits`, dtype);
      }
      return [{ dtype, shape: x.shape }];
    },
    evaluate: ({ attrs, inputs: [x] }) => [reference.bitcast(x, attrs.dtype)],
    scalar: (b, [x], { inputs: [from], output }) => conversion.bitcast(b, x, from, output),
    gradient: noGradient,
  }),
} satisfies { readonly [K in UnaryOp | BinaryOp | 'select' | 'clamp' | 'cast' | 'bitcast']: OpDefinition<K> };
