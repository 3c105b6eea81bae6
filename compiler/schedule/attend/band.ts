/**
 * Which keys a query can see for sure at most: causal masks and windows let whole blocks of keys be skipped.
 *
 * A mask is a band where a key that is hidden (its logit is -∞) is known from key - row alone: comparisons of counted
 * indices, and constant masks of the model, whose data is looked at. Constants of two values inside and outside of a
 * band are then computed instead of read.
 */
import { isFloat, isInt } from '../../dtype.js';
import { elementsOf, firstElement, numbersOf } from '../../graph/ops/reference/data.js';
import type { Node, Value } from '../../graph/types.js';
import { KernelBuilder } from '../../kernel/builder.js';
import type { CompareFn, KValue } from '../../kernel/types.js';
import { sizeOf } from '../../tensor.js';
import { Affine, delinearize, linearize } from '../affine.js';
import type { Lowering } from '../lowering.js';
import { type Index, range, shapeOf } from '../tensors.js';
import { type Attention, logitIndex } from './attention.js';

/** Bounds of key - row, both inclusive; absent where there is none. */
export interface Interval {
  readonly low?: number;
  readonly high?: number;
}

export interface Band extends Interval {
  /** Blocks of keys that rows from `first` on see: from `low` to before `high`. */
  blocks(
    l: Lowering,
    first: Affine,
    rows: number,
    blockKeys: number,
    keys: number,
  ): { readonly low: KValue | number; readonly high: KValue | number };
}

const everything: Interval = {};

/** @param inner Rows of which `row` counts; others have the same band. */
export function bandOf(l: Lowering, attention: Attention, inner: number): Band {
  const interval = inner === attention.inner || inner === 1 ? new Analysis(l, attention, inner).logits() : everything;
  return { ...interval, blocks: (...args) => blocksOf(interval, ...args) };
}

function blocksOf(
  { low, high }: Interval,
  { b }: Lowering,
  first: Affine,
  rows: number,
  blockKeys: number,
  keys: number,
): { low: KValue | number; high: KValue | number } {
  const blocks = Math.ceil(keys / blockKeys);
  // Quotients of what may be negative round toward zero: limits come first.
  const within = (key: Affine, most: number): KValue => b.clamp(key.emit(b), 0, most);
  return {
    low:
      low === undefined || blocks === 1 || first.range.max + low <= 0
        ? 0
        : b.divc(within(first.add(low), (blocks - 1) * blockKeys), blockKeys),
    high:
      high === undefined || blocks === 1 || first.range.min + rows + high >= keys
        ? blocks
        : b.divc(b.addc(within(first.add(rows + high), keys), blockKeys - 1), blockKeys),
  };
}

// --- analysis ----------------------------------------------------------------------------------------------------------

/** Masks of more elements are not looked at. */
const mostElements = 1 << 25;

class Analysis {
  readonly #l: Lowering;
  readonly #producers = new Map<number, Node>();
  readonly #attention: Attention;
  readonly #row: Affine;
  readonly #key: Affine;
  readonly #index: Index;

  constructor(l: Lowering, attention: Attention, inner: number) {
    this.#l = l;
    this.#attention = attention;
    for (const node of l.group.nodes) for (const { id } of node.outputs) this.#producers.set(id, node);
    const b = new KernelBuilder();
    const symbol = (builtin: 'workgroup_id' | 'local_id', dim: 0 | 1, extent: number): Affine =>
      Affine.of(b.builtin(builtin, dim, extent), b);
    this.#row = symbol('local_id', 0, inner);
    this.#key = symbol('local_id', 1, attention.keys);
    const outer = symbol('workgroup_id', 0, attention.rows / inner);
    const batch = symbol('workgroup_id', 1, attention.batch);
    this.#index = logitIndex(attention, batch, outer.scale(inner).add(this.#row), this.#key);
  }

  logits(): Interval {
    return this.#scores(this.#attention.pattern.softmax.inputs[0], this.#index);
  }

  #node(value: Value): Node | undefined {
    return this.#producers.get(value.id);
  }

  /** Where scores, raw or on their way to the softmax, may be more than -∞. */
  #scores(value: Value, index: Index): Interval {
    const node = this.#node(value);
    if (!node || node === this.#attention.pattern.scores) return everything;
    const [x, y, z] = node.inputs;
    switch (node.op) {
      case 'reshape':
      case 'transpose':
        return this.#scores(x, before(node, index));
      case 'cast':
        return this.#scores(x, index);
      case 'add':
        return both(this.#addend(x, index), this.#addend(y, index));
      case 'mul':
      case 'div': {
        const factor = this.#splat(y);
        return factor !== undefined && factor > 0 ? this.#scores(x, index) : everything;
      }
      case 'select':
        if (this.#splat(z) === Number.NEGATIVE_INFINITY)
          return both(this.#truth(x, index, true), this.#scores(y, index));
        if (this.#splat(y) === Number.NEGATIVE_INFINITY)
          return both(this.#truth(x, index, false), this.#scores(z, index));
        return everything;
      default:
        return everything;
    }
  }

  /** Where an addend, the scores or a mask, may be more than -∞. */
  #addend(value: Value, index: Index): Interval {
    const constant = this.#constant(value, index);
    if (constant) return this.#scan(constant.value, constant.index, (element) => element !== Number.NEGATIVE_INFINITY);
    const node = this.#node(value);
    if (node?.op === 'broadcast' || node?.op === 'cast') {
      return this.#addend(node.inputs[0], node.op === 'cast' ? index : before(node, index));
    }
    return this.#scores(value, index);
  }

  /** Where a condition may be `wanted`. */
  #truth(value: Value, index: Index, wanted: boolean): Interval {
    const constant = this.#constant(value, index);
    if (constant) return this.#scan(constant.value, constant.index, (element) => (element !== 0) === wanted);
    const node = this.#node(value);
    if (!node) return everything;
    const [x, y] = node.inputs;
    switch (node.op) {
      case 'reshape':
      case 'transpose':
      case 'broadcast':
      case 'slice':
        return this.#truth(x, before(node, index), wanted);
      case 'not':
        return this.#truth(x, index, !wanted);
      case 'and':
      case 'or':
        // Both must be as wanted, or one of them.
        return (node.op === 'and') === wanted
          ? both(this.#truth(x, index, wanted), this.#truth(y, index, wanted))
          : everything;
      case 'lt':
      case 'le':
      case 'gt':
      case 'ge':
      case 'eq':
        return this.#comparison(wanted ? node.op : opposite[node.op], x, y, index);
      default:
        return everything;
    }
  }

  #comparison(fn: CompareFn, x: Value, y: Value, index: Index): Interval {
    const [left, right] = [this.#counted(x, index), this.#counted(y, index)];
    if (!left || !right) return everything;
    const difference = left.sub(right);
    for (const sign of [1, -1] as const) {
      const rest = difference.sub(this.#key.sub(this.#row).scale(sign));
      if (!rest.isConstant || this.#key.isConstant) continue;
      // sign · (key - row) + c fn 0
      const at = -sign * rest.constant;
      const turned = sign === 1 ? fn : mirrored[fn];
      if (turned === 'le') return { high: at };
      if (turned === 'lt') return { high: at - 1 };
      if (turned === 'ge') return { low: at };
      if (turned === 'gt') return { low: at + 1 };
      if (turned === 'eq') return { low: at, high: at };
    }
    return everything;
  }

  /** An integer value as an expression of the index, if it is one. */
  #counted(value: Value, index: Index): Affine | undefined {
    const constant = this.#constant(value, index);
    if (constant) return this.#progression(constant.value, constant.index);
    const node = this.#node(value);
    if (!node || !isInt(value.type.dtype)) return undefined;
    const [x, y] = node.inputs;
    switch (node.op) {
      case 'iota':
        return index[node.attrs.axis];
      case 'reshape':
      case 'transpose':
      case 'broadcast':
      case 'slice':
        return this.#counted(x, before(node, index));
      case 'cast':
        return this.#counted(x, index);
      case 'add':
      case 'sub': {
        const [p, q] = [this.#counted(x, index), this.#counted(y, index)];
        return p && q && (node.op === 'add' ? p.add(q) : p.sub(q));
      }
      default:
        return undefined;
    }
  }

  /** The constant that a value is through views, and the index into it. */
  #constant(value: Value, index: Index): { value: Value; index: Index } | undefined {
    if (this.#l.group.constants.has(value.id)) return { value, index };
    const node = this.#node(value);
    if (node?.op !== 'reshape' && node?.op !== 'transpose' && node?.op !== 'broadcast' && node?.op !== 'slice')
      return undefined;
    return this.#constant(node.inputs[0], before(node, index));
  }

  #splat(value: Value): number | undefined {
    const constant = this.#constant(value, this.#index.length === shapeOf(value).length ? this.#index : zeros(value));
    const data = constant && this.#l.group.constants.get(constant.value.id);
    if (data && sizeOf(data.shape) === 1) return Number(firstElement(data.load()));
    const node = this.#node(value);
    return node?.op === 'cast' && isFloat(value.type.dtype) ? this.#splat(node.inputs[0]) : undefined;
  }

  /** A constant that is a + step · index of one dim. */
  #progression(value: Value, index: Index): Affine | undefined {
    const data = this.#l.group.constants.get(value.id);
    const varying = range(shapeOf(value).length).filter((d) => shapeOf(value)[d] > 1);
    if (!data || varying.length > 1 || sizeOf(data.shape) > mostElements) return undefined;
    const elements = Array.from(elementsOf(data.load()), Number);
    if (varying.length === 0) return Affine.constant(elements[0]);
    const step = elements[1] - elements[0];
    return elements.every((element, i) => element === elements[0] + i * step)
      ? index[varying[0]].scale(step).add(elements[0])
      : undefined;
  }

  /** The band outside of which no element of a constant mask is `seen`. */
  #scan(value: Value, index: Index, seen: (element: number) => boolean): Interval {
    const shape = shapeOf(value);
    const data = this.#l.group.constants.get(value.id);
    const rowDim = index.findIndex((at) => !at.isConstant && at.key === this.#row.key);
    const keyDim = index.findIndex((at) => !at.isConstant && at.key === this.#key.key);
    if (!data || rowDim < 0 || keyDim < 0 || shape[rowDim] === 1 || sizeOf(shape) > mostElements) return everything;
    const elements = numbersOf(data.load());
    const strides = shape.map((_, d) => sizeOf(shape.slice(d + 1)));
    let [low, high] = [Number.POSITIVE_INFINITY, Number.NEGATIVE_INFINITY];
    const outer = sizeOf(shape) / (shape[rowDim] * shape[keyDim]);
    const others = shape.map((extent, d) => (d === rowDim || d === keyDim ? 1 : extent));
    for (let o = 0; o < outer; o++) {
      let [base, left] = [0, o];
      for (let d = shape.length - 1; d >= 0; d--) {
        base += (left % others[d]) * strides[d];
        left = Math.floor(left / others[d]);
      }
      for (let i = 0; i < shape[rowDim]; i++) {
        for (let j = 0; j < shape[keyDim]; j++) {
          if (!seen(elements[base + i * strides[rowDim] + j * strides[keyDim]])) continue;
          if (j - i < low) low = j - i;
          if (j - i > high) high = j - i;
        }
      }
    }
    return low > high ? everything : { low, high };
  }
}

const zeros = (value: Value): Index => shapeOf(value).map(() => Affine.constant(0));

const opposite: Readonly<Record<'lt' | 'le' | 'gt' | 'ge' | 'eq', CompareFn>> = {
  lt: 'ge',
  le: 'gt',
  gt: 'le',
  ge: 'lt',
  eq: 'ne',
};
const mirrored: Readonly<Record<CompareFn, CompareFn>> = {
  lt: 'gt',
  le: 'ge',
  gt: 'lt',
  ge: 'le',
  eq: 'eq',
  ne: 'ne',
};

const least = (p: number | undefined, q: number | undefined, pick: (...n: number[]) => number): number | undefined =>
  p === undefined ? q : q === undefined ? p : pick(p, q);

function both(p: Interval, q: Interval): Interval {
  const low = least(p.low, q.low, Math.max);
  const high = least(p.high, q.high, Math.min);
  return { ...(low === undefined ? {} : { low }), ...(high === undefined ? {} : { high }) };
}

/** The index into a view's input. */
function before(node: Node, index: Index): Index {
  const [x] = node.inputs;
  switch (node.op) {
    case 'reshape':
      return delinearize(linearize(index, shapeOf(node.outputs[0])), shapeOf(x));
    case 'transpose': {
      const source: Affine[] = [];
      node.attrs.permutation.forEach((from, i) => {
        source[from] = index[i];
      });
      return source;
    }
    case 'broadcast': {
      const offset = index.length - shapeOf(x).length;
      return shapeOf(x).map((extent, d) => (extent === 1 ? Affine.constant(0) : index[d + offset]));
    }
    case 'slice':
      return index.map((at, d) => at.scale(node.attrs.steps[d]).add(Number(node.attrs.starts[d])));
    default:
      throw new Error(`${node.op} is no view`);
  }
}
