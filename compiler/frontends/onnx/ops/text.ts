/** Text as numbers: counts of n-grams. */
import {
  add,
  binary,
  binaryC,
  cast,
  concat,
  full,
  gather,
  mul,
  reduce,
  reshape,
  scalar,
  select3,
  slice1,
  tensor,
} from '../../../graph/compose/index.js';
import type { Value } from '../../../graph/types.js';
import type { Conversion, ConvertContext } from '../context.js';
import { stringsOf } from './strings.js';

/** The n-grams of one length that are counted. */
interface Grams {
  readonly length: number;
  /** One list a place in the n-gram, one entry an n-gram. */
  readonly columns: readonly (readonly bigint[])[];
  /** Their numbers in the pool. */
  readonly ids: readonly number[];
}

/** Tokens as integers, and the pool in the same ones. Strings get the number of their first place in the pool. */
function numbered(c: ConvertContext): { readonly tokens: Value; readonly pool: readonly bigint[] } {
  if (c.dtype(0) !== 'string')
    return {
      tokens: cast(c.b, c.input(0), 'i64'),
      pool: (c.operator.attrs.pool_int64s ?? []) as readonly bigint[],
    };
  const words = c.strings('pool_strings') ?? [];
  const vocabulary = new Map([...words.entries()].reverse().map(([i, word]) => [word, BigInt(i)]));
  const tokens = BigInt64Array.from(stringsOf(c, 0), (word) => vocabulary.get(word) ?? -1n);
  return {
    tokens: c.computed({ dtype: 'i64', shape: c.constant(0).shape, data: tokens }),
    pool: words.map((word) => vocabulary.get(word) as bigint),
  };
}

/** The pool cut into n-grams of lengths 1, 2, …; those within the wanted lengths, of equal ones the last. */
function gramsOf(c: ConvertContext, pool: readonly bigint[], shortest: number, longest: number): readonly Grams[] {
  const starts = c.ints('ngram_counts') ?? c.fail('attribute ngram_counts is missing');
  let id = 0;
  return starts.flatMap((start, i): Grams[] => {
    const length = i + 1;
    const end = starts[i + 1] ?? pool.length;
    const count = Math.floor((end - start) / length);
    const first = id;
    id += Math.max(0, count);
    if (count <= 0 || length < shortest || length > longest) return [];
    const last = new Map<string, number>();
    for (let g = 0; g < count; g++) last.set(pool.slice(start + g * length, start + (g + 1) * length).join(), g);
    const kept = [...last.values()].sort((p, q) => p - q);
    return [
      {
        length,
        columns: Array.from({ length }, (_, k) => kept.map((g) => BigInt(pool[start + g * length + k]))),
        ids: kept.map((g) => first + g),
      },
    ];
  });
}

/** How often each n-gram comes in rows of tokens [B, n], its tokens 1 to `reach` places apart: i32 [B, grams]. */
function countsOf(c: ConvertContext, tokens: Value, { length, columns, ids }: Grams, reach: number): Value {
  const [rows, size] = tokens.type.shape.map(Number);
  let total = full(c.b, 0, 'i32', [rows, ids.length]);
  for (let distance = 1; distance <= (length === 1 ? 1 : reach); distance++) {
    const places = size - (length - 1) * distance;
    if (places <= 0) break;
    const hits = columns.map((column, k) =>
      binary(
        c.b,
        'eq',
        reshape(c.b, slice1(c.b, tokens, 1, k * distance, places), [rows, places, 1]),
        tensor(c.b, 'i64', column, [1, 1, ids.length]),
      ),
    );
    const whole = hits.reduce((p, q) => binary(c.b, 'and', p, q));
    total = add(c.b, total, reduce(c.b, 'sum', cast(c.b, whole, 'i32'), [1]));
  }
  return total;
}

function tfIdf(c: ConvertContext): Value {
  const shape = c.concreteDims(c.ranked(0, 0, 2));
  const [rows, size] = [shape.length === 2 ? shape[0] : 1, shape.at(-1) ?? 1];
  const [shortest, longest] = [c.int('min_gram_length'), c.int('max_gram_length')];
  const indexes = c.ints('ngram_indexes') ?? c.fail('attribute ngram_indexes is missing');
  if (indexes.some((index) => index < 0)) c.fail('ngram_indexes has a negative entry');
  const outputs = Math.max(-1, ...indexes) + 1;
  const mode = c.choice('mode', ['TF', 'IDF', 'TFIDF'] as const, 'TF');
  const { tokens: given, pool } = numbered(c);
  const grams = gramsOf(c, pool, shortest, longest);
  const tokens = reshape(c.b, given, [rows, size]);
  const reach = c.int('max_skip_count') + 1;
  // The last column is for outputs that no n-gram counts.
  const columns = [...grams.map((g) => countsOf(c, tokens, g, reach)), full(c.b, 0, 'i32', [rows, 1])];
  const counts = concat(c.b, columns, 1);
  const unused = grams.reduce((sum, { ids }) => sum + ids.length, 0);
  // Several n-grams may share an output: one gather for the first of each, one for the second, …
  const sources = Array.from({ length: outputs }, (): number[] => []);
  grams
    .flatMap(({ ids }) => ids)
    .forEach((id, column) => {
      sources[indexes[id] ?? c.fail('ngram_indexes are fewer than the n-grams')].push(column);
    });
  const depth = Math.max(1, ...sources.map((list) => list.length));
  const terms = Array.from({ length: depth }, (_, k) =>
    gather(
      c.b,
      counts,
      tensor(
        c.b,
        'i32',
        sources.map((list) => list[k] ?? unused),
      ),
      1,
    ),
  );
  const frequency = cast(
    c.b,
    terms.reduce((p, q) => add(c.b, p, q)),
    'f32',
  );
  // Weights are those of n-grams, in the order of the pool.
  const factors = c.floats('weights') ?? [];
  const ofOutputs = new Array<number>(outputs).fill(1);
  indexes.forEach((output, id) => {
    ofOutputs[output] = factors[id] ?? 1;
  });
  const weights = tensor(c.b, 'f32', ofOutputs, [1, outputs]);
  const result =
    mode === 'TF'
      ? frequency
      : mode === 'TFIDF'
        ? mul(c.b, frequency, weights)
        : select3(c.b, binaryC(c.b, 'gt', frequency, 0), weights, scalar(c.b, 0, 'f32'));
  return reshape(c.b, result, shape.length === 2 ? [rows, outputs] : [outputs]);
}

export const texts: readonly Conversion[] = [{ op: 'TfIdfVectorizer', since: 9, convert: tfIdf }];
