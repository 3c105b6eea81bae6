/** One step of RNN, GRU and LSTM: what becomes of the states, and the activation functions the operators may name. */
import type { DType } from '../../../dtype.js';
import type { GraphBuilder } from '../../../graph/builder.js';
import {
  add,
  binaryC,
  clamp,
  elu,
  hardSigmoid,
  leakyRelu,
  mul,
  relu,
  scalar,
  select3,
  sigmoid,
  slice1,
  softplus,
  softsign,
  sub,
  unary,
} from '../../../graph/compose/index.js';
import type { Value } from '../../../graph/types.js';

// --- activations ---------------------------------------------------------------------------------------------------

interface ActivationKind {
  /** Defaults; absent where the function has no such parameter. */
  readonly alpha?: number;
  readonly beta?: number;
  apply(b: GraphBuilder, x: Value, alpha: number, beta: number): Value;
}

/** By name in lower case: the operators take them in any. */
const kinds = {
  relu: { apply: (b, x) => relu(b, x) },
  tanh: { apply: (b, x) => unary(b, 'tanh', x) },
  sigmoid: { apply: (b, x) => sigmoid(b, x) },
  softsign: { apply: (b, x) => softsign(b, x) },
  softplus: { apply: (b, x) => softplus(b, x) },
  elu: { alpha: 1, apply: (b, x, alpha) => elu(b, x, alpha) },
  leakyrelu: { alpha: 0.01, apply: (b, x, alpha) => leakyRelu(b, x, alpha) },
  thresholdedrelu: {
    alpha: 1,
    apply: (b, x, alpha) => select3(b, binaryC(b, 'gt', x, alpha), x, scalar(b, 0, x.type.dtype)),
  },
  affine: { alpha: 1, beta: 0, apply: (b, x, alpha, beta) => scaled(b, x, alpha, beta) },
  hardsigmoid: { alpha: 0.2, beta: 0.5, apply: (b, x, alpha, beta) => hardSigmoid(b, x, alpha, beta) },
  scaledtanh: {
    alpha: 1,
    beta: 1,
    apply: (b, x, alpha, beta) => binaryC(b, 'mul', unary(b, 'tanh', binaryC(b, 'mul', x, beta)), alpha),
  },
} as const satisfies Readonly<Record<string, ActivationKind>>;

const scaled = (b: GraphBuilder, x: Value, alpha: number, beta: number): Value =>
  binaryC(b, 'add', binaryC(b, 'mul', x, alpha), beta);

export const activationNames = [
  'Affine',
  'Elu',
  'HardSigmoid',
  'LeakyRelu',
  'Relu',
  'ScaledTanh',
  'Sigmoid',
  'Softplus',
  'Softsign',
  'Tanh',
  'ThresholdedRelu',
] as const;

/** An activation function with its parameters. */
export interface Activation {
  readonly kind: keyof typeof kinds;
  readonly alpha: number;
  readonly beta: number;
}

/**
 * The functions with their parameters. A list of parameters has one entry for each function that has such a
 * parameter, in their order; some exporters give one for each function. Undefined for an unknown name.
 */
export function activationsOf(
  names: readonly string[],
  alphas: readonly number[] = [],
  betas: readonly number[] = [],
): readonly Activation[] | undefined {
  const parameter = (list: readonly number[], which: 'alpha' | 'beta') => {
    const takers = names.filter((name) => which in (kindOf(name) ?? {})).length;
    let next = 0;
    return (name: string, i: number): number => {
      const standard = kindOf(name)?.[which];
      if (standard === undefined) return 0;
      const given = list.length === names.length && takers < names.length ? list[i] : list[next++];
      return given ?? standard;
    };
  };
  const [alphaOf, betaOf] = [parameter(alphas, 'alpha'), parameter(betas, 'beta')];
  if (names.some((name) => kindOf(name) === undefined)) return undefined;
  return names.map((name, i) => ({
    kind: name.toLowerCase() as Activation['kind'],
    alpha: alphaOf(name, i),
    beta: betaOf(name, i),
  }));
}

const kindOf = (name: string): ActivationKind | undefined => {
  const key = name.toLowerCase();
  return Object.hasOwn(kinds, key) ? kinds[key as keyof typeof kinds] : undefined;
};

// --- cells ---------------------------------------------------------------------------------------------------------

/** What a step needs of the operator; values are those of the body of the loop. */
export interface Cell {
  readonly b: GraphBuilder;
  /** Elements that states and gates are computed in. */
  readonly dtype: DType;
  readonly hidden: number;
  /** Input of every activation is limited to [-clip, clip]. */
  readonly clip: number | undefined;
  /** f, g, h, as many as the operator has. */
  readonly activations: readonly Activation[];
  /** The input's part of the gates with all biases that may be added early: [directions, batch, gates·hidden]. */
  readonly x: Value;
  /** [directions, batch, hidden] */
  readonly h: Value;
  /** [directions, gates·hidden, hidden] */
  readonly weights: Value;
}

function activate({ b, clip, activations }: Cell, x: Value, which: number): Value {
  const { kind, alpha, beta } = activations[which];
  return kinds[kind].apply(b, clip === undefined ? x : clamp(b, x, -clip, clip), alpha, beta);
}

/** Gates from `first` on: `count` times hidden. */
const gates = ({ b, hidden }: Cell, x: Value, first: number, count = 1): Value =>
  slice1(b, x, 2, first * hidden, count * hidden);

/** h·Rᵀ for gates from `first` on. */
function recurrence({ b, dtype, hidden, weights }: Cell, h: Value, first: number, count: number): Value {
  const rows = slice1(b, weights, 1, first * hidden, count * hidden);
  const attrs = { lhsBatch: [0], rhsBatch: [0], lhsContract: [2], rhsContract: [2], dtype };
  return b.op('dot', [h, rows], attrs)[0];
}

/** f(x + h·Rᵀ). */
export const rnnStep = (cell: Cell): Value => activate(cell, add(cell.b, cell.x, recurrence(cell, cell.h, 0, 1)), 0);

/**
 * Gates z, r, h. `linear`: the bias of the recurrence of h where the reset gate is applied after the product
 * (linear_before_reset), else undefined.
 */
export function gruStep(cell: Cell, linear: { readonly bias: Value | undefined } | undefined): Value {
  const { b, x, h } = cell;
  const product = recurrence(cell, h, 0, linear ? 3 : 2);
  const gate = (which: number): Value => activate(cell, add(b, gates(cell, x, which), gates(cell, product, which)), 0);
  const [z, r] = [gate(0), gate(1)];
  const own = linear ? gates(cell, product, 2) : recurrence(cell, mul(b, r, h), 2, 1);
  const biased = linear?.bias ? add(b, own, linear.bias) : own;
  const candidate = activate(cell, add(b, gates(cell, x, 2), linear ? mul(b, r, biased) : biased), 1);
  return add(b, mul(b, sub(b, scalar(b, 1, cell.dtype), z), candidate), mul(b, z, h));
}

/** Gates i, o, f, c. Peepholes are those of i, o, f: [directions, 1, hidden]. */
export function lstmStep(
  cell: Cell,
  c: Value,
  peepholes: readonly Value[] | undefined,
  inputForget: boolean,
): { readonly h: Value; readonly c: Value } {
  const { b, x } = cell;
  const sum = add(b, x, recurrence(cell, cell.h, 0, 4));
  const gate = (which: number, from: Value): Value => {
    const own = gates(cell, sum, which);
    return activate(cell, peepholes ? add(b, own, mul(b, peepholes[which], from)) : own, 0);
  };
  const input = gate(0, c);
  const forget = inputForget ? sub(b, scalar(b, 1, cell.dtype), input) : gate(2, c);
  const candidate = activate(cell, gates(cell, sum, 3), 1);
  const next = add(b, mul(b, forget, c), mul(b, input, candidate));
  return { c: next, h: mul(b, gate(1, next), activate(cell, next, 2)) };
}
