/**
 * The softmax of attention on accumulators of matrix units: each invocation works on the elements that it holds of two
 * rows, and the four invocations that share rows agree by shuffles (Dao 2023, "FlashAttention-2").
 */
import { fragmentPlace } from '../../kernel/engines.js';
import type { KArray, KValue, Lanes } from '../../kernel/types.js';
import { Affine } from '../affine.js';
import type { Group } from '../group.js';
import type { Lowering } from '../lowering.js';
import { range } from '../tensors.js';
import { type Attention, storeResult } from './attention.js';
import { logitOf } from './logits.js';
import { smallest } from './softmax.js';

/** The rows of an invocation, and invocations that share them. */
const halves = [0, 1] as const;
const sharers = [1, 2] as const;

/** Largest logits and sums of weights of an invocation's two rows; sums are its own part. */
export interface RowState {
  readonly largest: readonly KValue[];
  readonly totals: readonly KValue[];
}

export interface FragmentRows {
  readonly l: Lowering;
  readonly attention: Attention;
  /** Number of the invocation in its subgroup. */
  readonly lane: Affine;
  readonly batch: Affine;
  /** Row of the subgroup's first query, and how many exist before the last one's end. */
  readonly outer: Affine;
  readonly first: Affine;
  readonly inner: number;
}

const halfOf = (element: number): 0 | 1 => ((element >> 1) & 1) as 0 | 1;

/** Column of an invocation's element that is the first of a pair. */
const columnOf = (lane: Affine, element: number): Affine => lane.mod(4).scale(2).add(fragmentPlace(element, 0).column);

/** The rows in the tensor, limited to those that exist. */
function rowsOf({ l, lane, first, inner }: FragmentRows): readonly Affine[] {
  return halves.map((half) => {
    const row = first.add(lane.div(4)).add(8 * half);
    return row.range.max < inner ? row : Affine.of(l.b.min(row.emit(l.b), l.b.constant(inner - 1)), l.b);
  });
}

export const rowStateStart = ({ b }: Lowering): readonly KValue[] => [
  ...halves.map(() => b.constant(smallest('f32'), 'f32')),
  ...halves.map(() => b.constant(0, 'f32')),
];

/** e^x for weights that are rounded to 16 bits: what the device has for it where it has something. */
const power = ({ b, target }: Lowering, x: KValue): KValue =>
  target.features.has('fast_exp2') ? b.unary('exp2', b.mul(x, b.constant(Math.LOG2E, 'f32')), true) : b.unary('exp', x);

/** Combines a value of each of two rows over the invocations that share them. */
function agreed({ b }: Lowering, values: readonly KValue[], combine: (x: KValue, y: KValue) => KValue): KValue[] {
  return values.map((value) =>
    sharers.reduce((own, delta) => combine(own, b.subgroup('shuffle_xor', own, delta)), value),
  );
}

/**
 * Scores of `count` keys from `firstKey` on become weights, in place; returns by how much what came before shrinks, by
 * row, and the next state.
 */
export function softmaxStep(
  at: FragmentRows,
  scores: KArray,
  firstKey: Affine,
  count: number,
  state: readonly KValue[],
): { readonly shrink: readonly KValue[]; readonly next: readonly KValue[] } {
  const { l, attention, lane, batch, outer } = at;
  const { b } = l;
  const { keys } = attention;
  const rows = rowsOf(at).map((row) => outer.add(row));
  const elements = range(count / 2);
  const [before, sums] = [state.slice(0, 2), state.slice(2)];
  const together = keys % 2 === 0;
  const element = (i: number): KValue => b.load(scores, b.constant(i));
  const put = (i: number, value: KValue): void => b.store(scores, b.constant(i), value);
  const most = [...before];
  const limited = (key: Affine, lanes: Lanes): Affine =>
    key.range.max + lanes <= keys ? key : Affine.of(b.min(key.emit(b), b.constant(keys - lanes)), b);
  for (const i of elements.filter((one) => one % 2 === 0)) {
    const row = rows[halfOf(i)];
    const key = firstKey.add(columnOf(lane, i));
    const own = [element(i), element(i + 1)];
    const pair = together
      ? logitOf(l, attention, { batch, row, key: limited(key, 2).add(Affine.lane(2)) }, b.build(own))
      : undefined;
    own.forEach((score, j) => {
      const logit = pair
        ? b.extract(pair, j)
        : logitOf(l, attention, { batch, row, key: limited(key.add(j), 1) }, score);
      if (logit !== score) put(i + j, logit);
    });
  }
  // Keys beyond the last one are hidden; only the last block has some.
  if (keys % count !== 0) {
    l.if(b.compare('gt', firstKey.emit(b), b.constant(keys - count)), () => {
      for (const i of elements) {
        const inside = b.compare(
          'lt',
          firstKey
            .add(columnOf(lane, i & ~1))
            .add(i & 1)
            .emit(b),
          b.constant(keys),
        );
        put(i, b.select(inside, element(i), b.constant(Number.NEGATIVE_INFINITY, 'f32')));
      }
    });
  }
  for (const i of elements) most[halfOf(i)] = b.max(most[halfOf(i)], element(i));
  const largest = agreed(l, most, (x, y) => b.max(x, y));
  const shrink = before.map((old, half) => power(l, b.sub(old, largest[half])));
  const totals = sums.map((sum, half) => b.mul(sum, shrink[half]));
  for (const i of elements) {
    const half = halfOf(i);
    const weight = power(l, b.sub(element(i), largest[half]));
    put(i, weight);
    totals[half] = b.add(totals[half], weight);
  }
  return { shrink, next: [...largest, ...totals] };
}

/** Multiplies `columns` columns of an invocation's part of the results by a factor a row. */
export function scaleRows({ b }: Lowering, sums: KArray, columns: number, factors: readonly KValue[]): void {
  for (const i of range(columns / 2)) {
    const place = b.constant(i);
    b.store(sums, place, b.mul(b.load(sums, place), factors[halfOf(i)]));
  }
}

/** Divides by the sums of weights and stores what an invocation holds of the results, `columns` wide. */
export function storeRows(
  at: FragmentRows,
  group: Group,
  sums: KArray,
  columns: number,
  state: readonly KValue[],
): void {
  const { l, attention, lane, batch, outer, first, inner } = at;
  const { b } = l;
  const { width } = attention;
  const totals = agreed(l, state.slice(2), (x, y) => b.add(x, y));
  const lanes: Lanes = width % 2 === 0 ? 2 : 1;
  for (const half of halves) {
    l.guarded(first.add(lane.div(4)).add(8 * half), inner, (row) => {
      for (const i of range(columns / 2).filter((one) => one % 2 === 0 && halfOf(one) === half)) {
        for (let j = 0; j < 2; j += lanes) {
          const value = b.build(range(lanes).map((k) => b.load(sums, b.constant(i + j + k))));
          const column = columnOf(lane, i).add(j);
          const store = (w: Affine): void => {
            const result = b.div(value, l.widen(totals[half], lanes));
            storeResult(l, group, attention, { batch, row: outer.add(row), w: w.add(Affine.lane(lanes)) }, result);
          };
          if (column.range.max + lanes <= width) store(column);
          else if (column.range.min + lanes <= width)
            l.if(b.compare('le', column.emit(b), b.constant(width - lanes)), () =>
              store(Affine.of(b.assume(column.emit(b), 0, width - lanes), b)),
            );
        }
      }
    });
  }
}
