/**
 * A graph builder that knows what is in values at compile time: the dims in a small integer tensor even where they are
 * symbolic (shape arithmetic), and the data of whatever follows from constants alone. Shape arithmetic is thereby
 * settled while a graph is built, and the nodes it leaves behind are dropped when the graph is finished.
 */
import { type DType, isInt } from '../dtype.js';
import { emptyTensor, type HostTensor, sizeOf } from '../tensor.js';
import { GraphBuilder } from './builder.js';
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
import type {
  BinaryOp,
  DimBounds,
  Graph,
  Node,
  OpAttrs,
  OpKind,
  SourceRef,
  TensorType,
  UnaryOp,
  Value,
} from './types.js';

/** Integer tensors up to this size are looked into for dims. */
const maximumContent = 1024;
/** Larger results are not computed while a graph is built. */
const maximumElements = 2 ** 20;

/** Thrown where a converter needs the content of a value that is not known at compile time. */
export class NotConstant extends Error {
  readonly value: Value;
  /** Which input of the source operator it is. */
  readonly input: number;

  constructor(value: Value, input: number) {
    super(`the content of ${value.name} is not known`);
    this.value = value;
    this.input = input;
  }
}

export { evaluateNode };

export class HostBuilder extends GraphBuilder {
  readonly #contents = new Map<number, readonly Dim[] | undefined>();
  readonly #tensors = new Map<number, HostTensor | undefined>();
  readonly #bounds = new Map<string, DimBounds>();
  readonly #labels = new Map<number, string>();
  readonly #provided = new Map<number, { readonly data: HostTensor; readonly use: () => void }>();
  #inputsCount = false;

  override dim(name: string, bounds: DimBounds): void {
    super.dim(name, bounds);
    this.#bounds.set(name, bounds);
  }

  override node<K extends OpKind>(
    kind: K,
    inputs: readonly Value[],
    attrs: OpAttrs[K],
    types: readonly TensorType[],
    names: readonly string[] = [],
    source: SourceRef = this.source,
  ): readonly Value[] {
    const outputs = super.node(kind, inputs, attrs, types, names, source);
    this.#remember({ op: kind, attrs, inputs, outputs, source } as unknown as Node);
    return outputs;
  }

  #remember(node: Node): void {
    // Eagerly, so that long chains need no deep recursion.
    const content = this.#symbolic(node);
    if (content !== undefined) this.#contents.set(node.outputs[0].id, content);
  }

  /** What is in an input, for those who ask within `withInputs`; `use` is called when the data has been looked at. */
  provide(input: Value, data: HostTensor, use: () => void): void {
    this.#provided.set(input.id, { data, use });
  }

  /**
   * Runs `body` with the data of provided inputs taken as known: what is built then holds for these data only. Values
   * that were found to be unknown are looked at again.
   */
  withInputs<T>(body: () => T): T {
    const forget = (memo: Map<number, unknown>): void => {
      for (const [id, known] of memo) if (known === undefined) memo.delete(id);
    };
    forget(this.#tensors);
    forget(this.#contents);
    this.#inputsCount = true;
    try {
      return body();
    } finally {
      this.#inputsCount = false;
    }
  }

  /** The name that the value gets in the finished graph; the first label stays. */
  label(value: Value, name: string): void {
    if (!this.#labels.has(value.id)) this.#labels.set(value.id, name);
  }

  /** Interval of a dim under the declared bounds. Also sees that x/2 is at most x. */
  boundsOf(dim: Dim): DimBounds {
    const { min, max } = boundsOf(dim, this.#bounds);
    if (!isSymbolic(dim) || !dim.terms.some(({ atoms }) => atoms.some(({ fn }) => fn === 'floordiv')))
      return { min, max };
    return {
      min: Math.max(min, Math.ceil(relaxed(dim, 'min', this.#bounds))),
      max: Math.min(max, Math.floor(relaxed(dim, 'max', this.#bounds))),
    };
  }

  /** Elements of a small integer or bool tensor, row-major, symbolic where need be; undefined if not known. */
  contentOf(value: Value): readonly Dim[] | undefined {
    if (this.#contents.has(value.id)) return this.#contents.get(value.id);
    const { dtype, shape } = value.type;
    if (!isInt(dtype) && dtype !== 'bool') return undefined;
    if (!isConcrete(shape) || sizeOf(shape) > maximumContent) return undefined;
    const tensor = this.tensorOf(value);
    const content = tensor === undefined ? undefined : integersOf(tensor);
    this.#contents.set(value.id, content);
    return content;
  }

  /** The data of a value that follows from constants (and shapes) alone; undefined if it does not. */
  tensorOf(value: Value): HostTensor | undefined {
    const stack: Value[] = [value];
    while (stack.length > 0) {
      const top = stack[stack.length - 1];
      if (!this.#tensors.has(top.id)) {
        const leaf = this.#leaf(top);
        if (leaf === 'node') {
          const node = this.producerOf(top) as Node;
          const known = (input: Value): boolean => this.#tensors.has(input.id);
          const hopeless = node.inputs.some((input) => known(input) && this.#tensors.get(input.id) === undefined);
          const next = hopeless ? undefined : node.inputs.find((input) => !known(input));
          if (next !== undefined) {
            stack.push(next);
            continue;
          }
          this.#evaluate(node);
        } else this.#tensors.set(top.id, leaf);
      }
      stack.pop();
    }
    return this.#tensors.get(value.id);
  }

  /** What can be told without looking at inputs: the tensor, undefined for unknown, 'node' if inputs decide. */
  #leaf(value: Value): HostTensor | undefined | 'node' {
    const constant = this.constantOf(value);
    if (constant !== undefined) return constant.load();
    const provided = this.#inputsCount ? this.#provided.get(value.id) : undefined;
    if (provided !== undefined) {
      provided.use();
      return provided.data;
    }
    const { dtype, shape, unknown } = value.type;
    const node = this.producerOf(value);
    if (node === undefined || unknown || node.op === 'source_op' || !isConcrete(shape)) return undefined;
    const content = this.#contents.get(value.id);
    if (content !== undefined && isConcrete(content)) return tensorOfIntegers(dtype, shape, content);
    if (content !== undefined || node.op === 'shape_of') return undefined;
    const produced = node.outputs.map((output) => output.type.shape);
    return produced.every((s) => isConcrete(s) && sizeOf(s) <= maximumElements) ? 'node' : undefined;
  }

  #evaluate(node: Node): void {
    const inputs = node.inputs.map((input) => this.#tensors.get(input.id));
    const known = inputs.every((tensor): tensor is HostTensor => tensor !== undefined);
    const results = known ? evaluateNode(node, inputs) : [];
    node.outputs.forEach((output, i) => {
      this.#tensors.set(output.id, results[i]);
    });
  }

  #symbolic(node: Node): readonly Dim[] | undefined {
    const [output] = node.outputs;
    if (output === undefined || output.type.unknown) return undefined;
    if (node.op === 'shape_of') return node.inputs[0].type.shape.slice(node.attrs.start, node.attrs.end);
    const { dtype, shape } = output.type;
    if (!isInt(dtype) && dtype !== 'bool') return undefined;
    if (node.inputs.length === 0 || !isConcrete(shape) || sizeOf(shape) > maximumContent) return undefined;
    // Only where something symbolic flows in: the rest is computed if and when it is asked for.
    if (!node.inputs.some((input) => this.#contents.get(input.id)?.some(isSymbolic) ?? false)) return undefined;
    const contents = node.inputs.map((input) => this.contentOf(input));
    if (!contents.every((content): content is readonly Dim[] => content !== undefined)) return undefined;
    return symbolicRule(node, contents, (dim) => this.boundsOf(dim));
  }

  /** The graph without the nodes and constants that no output needs, its values named by their labels. */
  override finish(): Graph {
    const whole = super.finish();
    const live = new Set(whole.outputs.map((output) => output.value.id));
    const nodes: Node[] = [];
    for (let i = whole.nodes.length - 1; i >= 0; i--) {
      const node = whole.nodes[i];
      if (!node.outputs.some((output) => live.has(output.id))) continue;
      for (const input of node.inputs) live.add(input.id);
      nodes.push(node);
    }
    nodes.reverse();
    const names = new Set([...whole.inputs.map((input) => input.name), ...this.#labels.values()]);
    const taken = new Set<string>();
    const renamed = new Map<number, Value>();
    const rename = (value: Value): Value => {
      const known = renamed.get(value.id);
      if (known !== undefined) return known;
      const label = this.#labels.get(value.id);
      const wanted = label ?? value.name;
      let name = wanted;
      const free = (text: string): boolean => !taken.has(text) && (text === label || !names.has(text));
      for (let n = 1; !free(name); n++) name = `${wanted}.${n}`;
      taken.add(name);
      const result = name === value.name ? value : { ...value, name };
      renamed.set(value.id, result);
      return result;
    };
    for (const input of whole.inputs) {
      renamed.set(input.id, input);
      taken.add(input.name);
    }
    return {
      ...whole,
      nodes: nodes.map(
        (node) => ({ ...node, inputs: node.inputs.map(rename), outputs: node.outputs.map(rename) }) as Node,
      ),
      outputs: whole.outputs.map(({ name, value }) => ({ name, value: rename(value) })),
      constants: new Map([...whole.constants].filter(([id]) => live.has(id))),
    };
  }
}

/** Elements as exact numbers; undefined if one is beyond 2^53 or the tensor holds no integers. */
export function integersOf(tensor: HostTensor): readonly number[] | undefined {
  const { data, dtype } = tensor;
  if (dtype === 'i4' || dtype === 'u4') {
    const bytes = data as Uint8Array;
    return Array.from({ length: sizeOf(tensor.shape) }, (_, i) => {
      const nibble = (bytes[i >> 1] >> (i % 2 === 0 ? 0 : 4)) & 15;
      return dtype === 'i4' && nibble > 7 ? nibble - 16 : nibble;
    });
  }
  if (!isInt(dtype) && dtype !== 'bool') return undefined;
  const numbers = Array.from(data as ArrayLike<number | bigint>, Number);
  // Slices use the extremes of i64 for "to the end": as numbers they are rounded, and still beyond every dim.
  return numbers;
}

export function tensorOfIntegers(dtype: DType, shape: readonly number[], values: readonly number[]): HostTensor {
  const tensor = emptyTensor(dtype, shape);
  const { data } = tensor;
  if (data instanceof BigInt64Array || data instanceof BigUint64Array) {
    values.forEach((value, i) => {
      data[i] = BigInt(value);
    });
  } else (data as Int32Array).set(values);
  return tensor;
}

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

function relaxed(dim: Dim, side: 'min' | 'max', bounds: ReadonlyMap<string, DimBounds>): number {
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

function symbolicRule(node: Node, contents: Contents, bounds: Bounds): readonly Dim[] | undefined {
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
