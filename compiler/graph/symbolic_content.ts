/**
 * What happens to the dims in small integer tensors: the rule of each op on symbolic content, and bounds of dims that
 * see what quotients share.
 */
import { isInt } from '../dtype.js';
import type { HostTensor } from '../tensor.js';
import {
  addDims,
  boundsOf,
  type Dim,
  dimEquals,
  floorDivDims,
  isConcrete,
  isSymbolic,
  maxDims,
  minDims,
  modDims,
  mulDims,
  productOf,
  SymDim,
  subDims,
} from './dims.js';
import { evaluateNode } from './evaluate.js';
import { tensorOfIntegers } from './host_tensors.js';
import type { BinaryOp, DimBounds, Node, OpAttrs, OpKind, UnaryOp } from './types.js';

// --- bounds of quotients ---------------------------------------------------------------------------------------------

/** A sum of coefficient · monomial, by the printed monomial, and a constant. */
interface Linear {
  readonly terms: Map<string, { coefficient: number; readonly monomial: SymDim }>;
  constant: number;
}

/** Adds scale · dim to a linear form in which floor(a/k) is a/k or (a-k+1)/k, whichever is on the safe side. */
function accumulate(into: Linear, dim: Dim, scale: number, side: 'min' | 'max'): void {
  into.constant += scale * (isSymbolic(dim) ? dim.constant : dim);
  if (!isSymbolic(dim)) return;
  for (const { coefficient, atoms } of dim.terms) {
    const factor = scale * coefficient;
    const [atom] = atoms;
    if (atoms.length === 1 && atom.fn === 'floordiv' && typeof atom.b === 'number' && atom.b > 0) {
      const rounded = factor > 0 === (side === 'min');
      accumulate(into, atom.a, factor / atom.b, side);
      if (rounded) into.constant -= (factor * (atom.b - 1)) / atom.b;
      continue;
    }
    const monomial = new SymDim([{ coefficient: 1, atoms }], 0);
    const known = into.terms.get(String(monomial));
    if (known === undefined) into.terms.set(String(monomial), { coefficient: factor, monomial });
    else known.coefficient += factor;
  }
}

export function relaxed(dim: Dim, side: 'min' | 'max', bounds: ReadonlyMap<string, DimBounds>): number {
  const form: Linear = { terms: new Map(), constant: 0 };
  accumulate(form, dim, 1, side);
  let total = form.constant;
  for (const { coefficient, monomial } of form.terms.values()) {
    // Quotients that cancel leave a coefficient that is zero but for rounding.
    if (Math.abs(coefficient) < 1e-9) continue;
    const { min, max } = boundsOf(monomial, bounds);
    total += coefficient * (coefficient > 0 === (side === 'max') ? max : min);
  }
  const slack = 1e-6;
  return side === 'max' ? total + slack : total - slack;
}

// --- rules for symbolic content ------------------------------------------------------------------------------------

type Bounds = (dim: Dim) => DimBounds;
type Contents = readonly (readonly Dim[])[];

/** Ops that only move elements: what they do to positions, they do to contents. Which inputs hold elements: */
const movement: Partial<Record<OpKind, readonly number[] | 'all'>> = {
  reshape: [0],
  transpose: [0],
  broadcast: [0],
  slice: [0],
  concat: 'all',
  pad: 'all',
  gather: [0],
  gather_elements: [0],
  gather_nd: [0],
};

const sameSign = (a: Dim, b: Dim, bounds: Bounds): boolean => bounds(a).min >= 0 && bounds(b).min > 0;
type Combine = (a: Dim, b: Dim, bounds: Bounds) => Dim | undefined;
const compare =
  (yes: (a: DimBounds, b: DimBounds) => boolean, no: (a: DimBounds, b: DimBounds) => boolean): Combine =>
  (a, b, bounds) => {
    // The bounds of the difference see what two expressions share.
    const difference = bounds(subDims(a, b));
    const zero = { min: 0, max: 0 };
    return yes(difference, zero) ? 1 : no(difference, zero) ? 0 : undefined;
  };

const combine: Partial<Record<BinaryOp, Combine>> = {
  add: addDims,
  sub: subDims,
  mul: mulDims,
  // Integer division truncates; on non-negative dims that is rounding down.
  div: (a, b, bounds) => (sameSign(a, b, bounds) || isExact(a, b) ? floorDivDims(a, b) : undefined),
  rem: (a, b, bounds) => (sameSign(a, b, bounds) ? modDims(a, b) : undefined),
  max: maxDims,
  min: minDims,
  eq: (a, b, bounds) => (dimEquals(a, b) ? 1 : disjoint(bounds(subDims(a, b))) ? 0 : undefined),
  ne: (a, b, bounds) => (dimEquals(a, b) ? 0 : disjoint(bounds(subDims(a, b))) ? 1 : undefined),
  lt: compare(
    (d) => d.max < 0,
    (d) => d.min >= 0,
  ),
  le: compare(
    (d) => d.max <= 0,
    (d) => d.min > 0,
  ),
  gt: compare(
    (d) => d.min > 0,
    (d) => d.max <= 0,
  ),
  ge: compare(
    (d) => d.min >= 0,
    (d) => d.max < 0,
  ),
};
const disjoint = (difference: DimBounds): boolean => difference.min > 0 || difference.max < 0;
const isExact = (a: Dim, b: Dim): boolean => {
  const quotient = floorDivDims(a, b);
  return dimEquals(mulDims(quotient, b), a);
};

const single: Partial<Record<UnaryOp, (a: Dim, bounds: Bounds) => Dim | undefined>> = {
  neg: (a) => mulDims(a, -1),
  abs: (a, bounds) => (bounds(a).min >= 0 ? a : undefined),
};

const fold: Partial<Record<OpAttrs['reduce']['fn'], (content: readonly Dim[]) => Dim>> = {
  sum: (content) => content.reduce(addDims, 0),
  prod: productOf,
  max: (content) => content.reduce(maxDims),
  min: (content) => content.reduce(minDims),
};

export function symbolicRule(node: Node, contents: Contents, bounds: Bounds): readonly Dim[] | undefined {
  if (movement[node.op] !== undefined) return moved(node, contents);
  if (node.op === 'cast') {
    return isInt(node.attrs.dtype) && isInt(node.inputs[0].type.dtype) ? contents[0] : undefined;
  }
  if (node.op === 'reduce') {
    const reduce = fold[node.attrs.fn];
    const all = node.inputs[0].type.shape.every((dim, axis) => dim === 1 || node.attrs.axes.includes(axis));
    return reduce !== undefined && all && contents[0].length > 0 ? [reduce(contents[0])] : undefined;
  }
  if (node.op === 'select') {
    return complete(contents[0].map((c, i) => (isSymbolic(c) ? undefined : contents[c === 0 ? 2 : 1][i])));
  }
  const two = combine[node.op as BinaryOp];
  if (two !== undefined) return complete(contents[0].map((a, i) => two(a, contents[1][i], bounds)));
  const one = single[node.op as UnaryOp];
  return one === undefined ? undefined : complete(contents[0].map((a) => one(a, bounds)));
}

const complete = (dims: readonly (Dim | undefined)[]): readonly Dim[] | undefined =>
  dims.every((dim): dim is Dim => dim !== undefined) ? dims : undefined;

/** Runs a movement op on positions into the pooled contents of its element inputs. */
function moved(node: Node, contents: Contents): readonly Dim[] | undefined {
  const holders = movement[node.op];
  const pool: Dim[] = [];
  const inputs: HostTensor[] = [];
  for (const [i, input] of node.inputs.entries()) {
    const shape = input.type.shape as readonly number[];
    if (holders === 'all' || holders?.includes(i)) {
      inputs.push(
        tensorOfIntegers(
          'i64',
          shape,
          contents[i].map((_, k) => pool.length + k),
        ),
      );
      pool.push(...contents[i]);
    } else if (isConcrete(contents[i])) inputs.push(tensorOfIntegers(input.type.dtype, shape, contents[i]));
    else return undefined;
  }
  const [result] = evaluateNode(node, inputs);
  return Array.from(result.data as BigInt64Array, (at) => pool[Number(at)]);
}
