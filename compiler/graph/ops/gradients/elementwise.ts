/** Derivatives of elementwise ops. Where a function has a corner, its one-sided derivatives are averaged. */
import { isFloat } from '../../../dtype.js';
import type { GraphBuilder } from '../../builder.js';
import { add, binary, binaryC, cast, div, mul, scalar, select3, square, unary } from '../../compose/index.js';
import type { Gradient } from '../../definition.js';
import type { BinaryOp, UnaryOp, Value } from '../../types.js';

const neg = (b: GraphBuilder, x: Value): Value => unary(b, 'neg', x);
const times = (b: GraphBuilder, x: Value, factor: number): Value => binaryC(b, 'mul', x, factor);
const plus = (b: GraphBuilder, x: Value, term: number): Value => binaryC(b, 'add', x, term);
const root = (b: GraphBuilder, x: Value): Value => unary(b, 'rsqrt', x);
const zero = (b: GraphBuilder, like: Value): Value => scalar(b, 0, like.type.dtype);

/** The cotangent of the operand x from that of the result y. Null: constant almost everywhere. */
type UnaryRule = ((b: GraphBuilder, g: Value, x: Value, y: Value) => Value) | null;

const unaryRules: Readonly<Record<UnaryOp, UnaryRule>> = {
  neg: (b, g) => neg(b, g),
  abs: (b, g, x) => mul(b, g, unary(b, 'sign', x)),
  sign: null,
  exp: (b, g, _, y) => mul(b, g, y),
  exp2: (b, g, _, y) => times(b, mul(b, g, y), Math.LN2),
  log: (b, g, x) => div(b, g, x),
  log2: (b, g, x) => times(b, div(b, g, x), Math.LOG2E),
  sqrt: (b, g, _, y) => div(b, times(b, g, 0.5), y),
  rsqrt: (b, g, _, y) => times(b, mul(b, g, mul(b, y, square(b, y))), -0.5),
  recip: (b, g, _, y) => neg(b, mul(b, g, square(b, y))),
  sin: (b, g, x) => mul(b, g, unary(b, 'cos', x)),
  cos: (b, g, x) => neg(b, mul(b, g, unary(b, 'sin', x))),
  tan: (b, g, _, y) => mul(b, g, plus(b, square(b, y), 1)),
  asin: (b, g, x) => mul(b, g, root(b, plus(b, neg(b, square(b, x)), 1))),
  acos: (b, g, x) => neg(b, mul(b, g, root(b, plus(b, neg(b, square(b, x)), 1)))),
  atan: (b, g, x) => div(b, g, plus(b, square(b, x), 1)),
  sinh: (b, g, x) => mul(b, g, unary(b, 'cosh', x)),
  cosh: (b, g, x) => mul(b, g, unary(b, 'sinh', x)),
  asinh: (b, g, x) => mul(b, g, root(b, plus(b, square(b, x), 1))),
  acosh: (b, g, x) => mul(b, g, root(b, plus(b, square(b, x), -1))),
  atanh: (b, g, x) => div(b, g, plus(b, neg(b, square(b, x)), 1)),
  tanh: (b, g, _, y) => mul(b, g, plus(b, neg(b, square(b, y)), 1)),
  erf: (b, g, x) => times(b, mul(b, g, unary(b, 'exp', neg(b, square(b, x)))), 2 / Math.sqrt(Math.PI)),
  floor: null,
  ceil: null,
  round: null,
  trunc: null,
  not: null,
  is_nan: null,
  is_inf: null,
};

type BinaryRule = ((b: GraphBuilder, g: Value, x: Value, y: Value, z: Value) => readonly [Value, Value]) | null;

/** All of the cotangent for the operand that wins, half for each of two equal ones. */
const extreme =
  (wins: 'gt' | 'lt'): NonNullable<BinaryRule> =>
  (b, g, x, y) => {
    const half = times(b, g, 0.5);
    const part = (p: Value, q: Value): Value =>
      select3(b, binary(b, wins, p, q), g, select3(b, binary(b, 'eq', p, q), half, zero(b, g)));
    return [part(x, y), part(y, x)];
  };

const binaryRules: Readonly<Record<BinaryOp, BinaryRule>> = {
  add: (_, g) => [g, g],
  sub: (b, g) => [g, neg(b, g)],
  mul: (b, g, x, y) => [mul(b, g, y), mul(b, g, x)],
  div: (b, g, _, y, z) => [div(b, g, y), neg(b, div(b, mul(b, g, z), y))],
  rem: (b, g, x, y) => [g, neg(b, mul(b, g, unary(b, 'trunc', div(b, x, y))))],
  pow(b, g, x, y, z) {
    const base = mul(b, g, mul(b, y, binary(b, 'pow', x, plus(b, y, -1))));
    // x^0 does not depend on x, also at x = 0; 0^y does not depend on y.
    const still = binaryC(b, 'eq', y, 0);
    const positive = binaryC(b, 'gt', x, 0);
    const logarithm = unary(b, 'log', select3(b, positive, x, scalar(b, 1, x.type.dtype)));
    return [select3(b, still, zero(b, g), base), select3(b, positive, mul(b, mul(b, g, z), logarithm), zero(b, g))];
  },
  max: extreme('gt'),
  min: extreme('lt'),
  atan2(b, g, x, y) {
    const scaled = div(b, g, add(b, square(b, x), square(b, y)));
    return [mul(b, scaled, y), neg(b, mul(b, scaled, x))];
  },
  and: null,
  or: null,
  xor: null,
  shl: null,
  shr: null,
  eq: null,
  ne: null,
  lt: null,
  le: null,
  gt: null,
  ge: null,
};

export const unaryGradient = <K extends UnaryOp>(kind: K): Gradient<K> => {
  const rule = unaryRules[kind];
  return (b, { inputs: [x], outputs: [y] }, [g]) => [rule && g && isFloat(x.type.dtype) ? rule(b, g, x, y) : null];
};

export const binaryGradient = <K extends BinaryOp>(kind: K): Gradient<K> => {
  const rule = binaryRules[kind];
  return (b, { inputs: [x, y], outputs: [z] }, [g]) =>
    rule && g && isFloat(x.type.dtype) ? rule(b, g, x, y, z) : [null, null];
};

export const selectGradient: Gradient<'select'> = (b, { inputs: [condition] }, [g]) =>
  g ? [null, select3(b, condition, g, zero(b, g)), select3(b, condition, zero(b, g), g)] : [null, null, null];

export const clampGradient: Gradient<'clamp'> = (b, { attrs: { min, max }, inputs: [x] }, [g]) => {
  if (!g) return [null];
  const above = min === null ? undefined : binaryC(b, 'ge', x, min);
  const below = max === null ? undefined : binaryC(b, 'le', x, max);
  const inside = above && below ? binary(b, 'and', above, below) : (above ?? below);
  return [inside === undefined ? g : select3(b, inside, g, zero(b, g))];
};

export const castGradient: Gradient<'cast'> = (b, { inputs: [x] }, [g]) => [
  g && isFloat(x.type.dtype) ? cast(b, g, x.type.dtype) : null,
];
