/** com.microsoft's attention operators, as exporters of transformers write them. */
import {
  add,
  binary,
  binaryC,
  broadcastTo,
  cast,
  concat,
  full,
  gather,
  iota,
  matmul,
  pad,
  reshape,
  scalar,
  scatterElements,
  select3,
  slice1,
  split,
  stack,
  transpose,
  unsqueeze,
} from '../../../graph/compose/index.js';
import { type Dim, floorDivDims, maxDims, mulDims, subDims } from '../../../graph/dims.js';
import type { Value } from '../../../graph/types.js';
import type { Conversion, ConvertContext } from '../context.js';
import { joinHeads, rotate, scaledDotProduct, splitHeads } from './attention.js';
import { quantisedProduct } from './contrib_quantization.js';

const domain = 'com.microsoft';

/** Parts of x along an axis. */
const parts = (c: ConvertContext, x: Value, axis: number, sizes: readonly Dim[]): Value[] =>
  split(c.b, x, axis, c.concreteDims(sizes));

/** 0 where `kept`, else the value that hides a key: the attribute's, or -10000. */
const hiding = (c: ConvertContext, kept: Value, dtype: Value['type']['dtype']): Value =>
  select3(c.b, kept, scalar(c.b, 0, dtype), scalar(c.b, c.float('mask_filter_value', -10000), dtype));

/** Hides from each query the keys after its own place, which is `past` further. */
function causal(c: ConvertContext, q: Value, columns: Dim, past: Dim): Value {
  const row = iota(c.b, 'i64', [1, 1, q.type.shape[2], 1], 2);
  const column = iota(c.b, 'i64', [1, 1, 1, columns], 3);
  return hiding(c, binary(c.b, 'ge', binaryC(c.b, 'add', row, c.concreteDim(past)), column), q.type.dtype);
}

/**
 * The mask of Attention and MultiHeadAttention as an addend of the scores, in its many forms: lengths [B]; ends and
 * starts [2B]; keys [B, T]; per query [B, L, T] or [B, 1, M, M].
 */
function maskAddend(c: ConvertContext, mask: Value, q: Value, columns: Dim, past: Dim): Value {
  const { dtype } = q.type;
  const [batch, , rows] = q.type.shape;
  const { shape } = mask.type;
  if (shape.length === 1) {
    const column = iota(c.b, 'i64', [1, 1, 1, columns], 3);
    const size = c.concreteDim(batch);
    const lengths = cast(c.b, mask, 'i64');
    const run = (start: number): Value => reshape(c.b, slice1(c.b, lengths, 0, start, size), [size, 1, 1, 1]);
    const before = binary(c.b, 'lt', column, run(0));
    const count = c.concreteDim(shape[0]);
    if (count === size) return hiding(c, before, dtype);
    if (count === 2 * size) return hiding(c, binary(c.b, 'and', before, binary(c.b, 'ge', column, run(size))), dtype);
    return c.unsupported(`a mask of ${count} numbers for ${size} sequences`, 'Give a mask [batch, keys].');
  }
  const kept = cast(c.b, mask, 'bool');
  if (shape.length === 2) return hiding(c, reshape(c.b, kept, [shape[0], 1, 1, shape[1]]), dtype);
  if (shape.length === 3) return hiding(c, unsqueeze(c.b, kept, [1]), dtype);
  // [B, 1, M, M] of the longest sequence: the rows of these queries.
  const cut = slice1(c.b, slice1(c.b, kept, 2, past, rows), 3, 0, columns);
  return hiding(c, cut, dtype);
}

const sum = (c: ConvertContext, parts: readonly (Value | undefined)[]): Value | undefined =>
  parts.filter((part) => part !== undefined).reduce<Value | undefined>((x, y) => (x ? add(c.b, x, y) : y), undefined);

const scaleOf = (c: ConvertContext): number | undefined => {
  const scale = c.float('scale', 0);
  return scale === 0 ? undefined : scale;
};

/** Attention over projected inputs [B, L, 3·H·D], with a past [2, B, H, P, D] and the mask. */
function attendProjected(
  c: ConvertContext,
  projected: Value,
  inputs: { readonly mask: number; readonly past: number; readonly bias?: number; readonly sizes: readonly Dim[] },
): readonly (Value | undefined)[] {
  const heads = c.int('num_heads');
  const [q, fresh, freshV] = parts(c, projected, 2, inputs.sizes).map((part) => splitHeads(c, part, heads));
  let [k, v] = [fresh, freshV];
  let past: Dim = 0;
  if (c.has(inputs.past)) {
    const given = c.input(inputs.past);
    past = c.ranked(inputs.past, 5)[3];
    const half = (i: number): Value => reshape(c.b, slice1(c.b, given, 0, i, 1), given.type.shape.slice(1));
    k = concat(c.b, [half(0), k], 2);
    v = concat(c.b, [half(1), v], 2);
  }
  if (c.flag('do_rotary')) c.unsupported('rotary embedding inside of Attention', 'Export with RotaryEmbedding nodes.');
  const columns = k.type.shape[2];
  const mask = c.has(inputs.mask) ? maskAddend(c, c.input(inputs.mask), q, columns, past) : undefined;
  const triangle = c.flag('unidirectional') ? causal(c, q, columns, past) : undefined;
  const extra = inputs.bias === undefined ? undefined : c.inputs[inputs.bias];
  const { y } = scaledDotProduct(c, { q, k, v, scale: scaleOf(c), bias: sum(c, [mask, triangle, extra]) });
  return [joinHeads(c, y), c.wants(1) ? stack(c.b, [k, v], 0) : undefined];
}

const partSizes = (c: ConvertContext, total: Dim): readonly Dim[] =>
  c.ints('qkv_hidden_sizes') ?? [floorDivDims(total, 3), floorDivDims(total, 3), floorDivDims(total, 3)];

/** (input, weights, bias, mask, past, attention bias): the projection is inside. */
function attention(c: ConvertContext): readonly (Value | undefined)[] {
  c.ranked(0, 3);
  if (c.has(6))
    c.unsupported('Attention with a shared buffer of past and present', 'Export without past_present_share_buffer.');
  const product = matmul(c.b, c.input(0), c.input(1));
  const projected = c.has(2) ? add(c.b, product, c.input(2)) : product;
  return attendProjected(c, projected, { mask: 3, past: 4, bias: 5, sizes: partSizes(c, c.ranked(1, 2)[1]) });
}

/** The same over 8-bit integers. */
function quantisedAttention(c: ConvertContext): readonly (Value | undefined)[] {
  c.ranked(0, 3);
  const product = quantisedProduct(c, { a: 0, b: 1, aScale: 3, bScale: 4, aZero: 6, bZero: 7 });
  const projected = add(c.b, product, c.input(2));
  return attendProjected(c, projected, { mask: 5, past: 8, sizes: partSizes(c, c.ranked(1, 2)[1]) });
}

/** Queries, keys and values are projected before: separate, keys packed with values, or all packed. */
function multiHeadAttention(c: ConvertContext): readonly (Value | undefined)[] {
  const heads = c.int('num_heads');
  const packed = (x: Value, count: number): Value[] =>
    // [B, L, H, count, D]
    Array.from({ length: count }, (_, i) => {
      const [batch, length, group, , size] = x.type.shape;
      const part = reshape(c.b, slice1(c.b, x, 3, i, 1), [batch, length, group, size]);
      return transpose(c.b, part, [0, 2, 1, 3]);
    });
  let q: Value;
  let k: Value;
  let v: Value;
  if (c.rank(0) === 5) [q, k, v] = packed(c.input(0), 3);
  else {
    q = splitHeads(c, c.input(0), heads);
    if (c.rank(1) === 5) [k, v] = packed(c.input(1), 2);
    else {
      // Keys of four axes are already [B, H, S, D], of another sequence.
      const place = (i: number): Value => (c.rank(i) === 4 ? c.input(i) : splitHeads(c, c.input(i), heads));
      [k, v] = [place(1), place(2)];
    }
  }
  if (c.has(3)) {
    const width = (x: Value): Dim => mulDims(x.type.shape[1], x.type.shape[3]);
    const biases = parts(c, c.input(3), 0, [width(q), width(k), width(v)]);
    const biased = (x: Value, part: Value): Value =>
      add(c.b, x, reshape(c.b, part, [1, x.type.shape[1], 1, x.type.shape[3]]));
    [q, k, v] = [biased(q, biases[0]), biased(k, biases[1]), biased(v, biases[2])];
  }
  const past: Dim = c.has(6) ? c.ranked(6, 4)[2] : 0;
  if (c.has(6)) k = concat(c.b, [c.input(6), k], 2);
  if (c.has(7)) v = concat(c.b, [c.input(7), v], 2);
  if (c.has(8)) c.unsupported('MultiHeadAttention with a shared buffer of past and present');
  const columns = k.type.shape[2];
  const mask = c.has(4) ? maskAddend(c, c.input(4), q, columns, past) : undefined;
  const triangle = c.flag('unidirectional') ? causal(c, q, columns, past) : undefined;
  const extra = c.has(5) ? c.input(5) : undefined;
  const { y, scores } = scaledDotProduct(c, { q, k, v, scale: scaleOf(c), bias: sum(c, [mask, triangle, extra]) });
  return [joinHeads(c, y), k, v, c.wants(3) ? scores[2] : undefined];
}

/** cos or sin rows [max, R] at positions [B, L], as [B, 1, L, R]. */
const anglesAt = (c: ConvertContext, cache: Value, positions: Value): Value =>
  unsqueeze(c.b, gather(c.b, cache, positions, 0), [1]);

/**
 * Grouped queries with a cache that is a buffer: sequence b holds `seqlens_k[b] + 1` keys after this call, of which
 * the last L are new. Queries at place p see keys p - window … p.
 */
function groupQueryAttention(c: ConvertContext): readonly (Value | undefined)[] {
  for (const i of [12, 13]) if (c.has(i)) c.unsupported('a quantised cache of keys and values');
  const [heads, keyHeads] = [c.int('num_heads'), c.int('kv_num_heads')];
  const [batch, rows, width] = c.ranked(0, 3);
  let [q, k, v] = [c.input(0), c.inputs[1], c.inputs[2]];
  if (k === undefined || v === undefined) {
    const size = c.concreteDim(width) / (heads + 2 * keyHeads);
    [q, k, v] = parts(c, q, 2, [heads * size, keyHeads * size, keyHeads * size]);
  }
  [q, k, v] = [splitHeads(c, q, heads), splitHeads(c, k, keyHeads), splitHeads(c, v, keyHeads)];
  const totals = reshape(c.b, binaryC(c.b, 'add', cast(c.b, c.input(5), 'i64'), 1), [batch, 1, 1, 1]);
  // A prompt that is padded at its end starts at 0.
  const behind = binary(c.b, 'max', binaryC(c.b, 'sub', totals, c.concreteDim(rows)), scalar(c.b, 0, 'i64'));
  if (c.flag('do_rotary')) {
    const row = iota(c.b, 'i64', [1, rows], 1);
    const places = c.has(9)
      ? cast(c.b, c.input(9), 'i64')
      : broadcastTo(c.b, add(c.b, reshape(c.b, behind, [batch, 1]), row), [batch, rows]);
    const [cosine, sine] = [anglesAt(c, c.input(7), places), anglesAt(c, c.input(8), places)];
    const interleaved = c.flag('rotary_interleaved');
    [q, k] = [rotate(c, q, cosine, sine, interleaved), rotate(c, k, cosine, sine, interleaved)];
  }
  const known: Dim = c.has(3) ? c.ranked(3, 4)[2] : 0;
  const columns = maxDims(known, c.dim(6));
  const present = (fresh: Value, i: number): Value => {
    const shape = [batch, keyHeads, columns, fresh.type.shape[3]];
    const missing = c.concreteDim(subDims(columns, known), 3);
    const zero = scalar(c.b, 0, fresh.type.dtype);
    const buffer = c.has(i)
      ? missing === 0
        ? c.input(i)
        : pad(c.b, c.input(i), [0, 0, 0, 0], [0, 0, missing, 0], zero)
      : full(c.b, 0, fresh.type.dtype, shape);
    const places = add(c.b, behind, iota(c.b, 'i64', [1, 1, rows, 1], 2));
    return scatterElements(c.b, buffer, broadcastTo(c.b, places, fresh.type.shape), fresh, 2);
  };
  const [keys, values] = [present(k, 3), present(v, 4)];
  const { dtype } = q.type;
  const column = iota(c.b, 'i64', [1, 1, 1, columns], 3);
  const place = add(c.b, behind, iota(c.b, 'i64', [1, 1, rows, 1], 2));
  let seen = binary(c.b, 'le', column, place);
  const window = c.int('local_window_size', -1);
  if (window >= 0) seen = binary(c.b, 'and', seen, binary(c.b, 'gt', column, binaryC(c.b, 'sub', place, window)));
  const hidden = select3(c.b, seen, scalar(c.b, 0, dtype), scalar(c.b, Number.NEGATIVE_INFINITY, dtype));
  const logits: readonly Dim[] = [batch, heads, rows, 1];
  const sink = c.has(11)
    ? broadcastTo(c.b, reshape(c.b, c.input(11), [1, heads, 1, 1]), logits)
    : c.flag('smooth_softmax')
      ? full(c.b, 0, dtype, logits)
      : undefined;
  const { y, scores } = scaledDotProduct(c, {
    q,
    k: keys,
    v: values,
    scale: scaleOf(c),
    cap: c.float('softcap', 0),
    bias: sum(c, [hidden, c.has(10) ? c.input(10) : undefined]),
    sink,
  });
  const shown = c.int('qk_output', 0) === 2 ? scores[3] : scores[2];
  return [joinHeads(c, y), keys, values, c.wants(3) ? shown : undefined];
}

/** (x, position_ids, cos_cache, sin_cache); positions are one start [1] or one place each [B, L]. */
function rotaryEmbedding(c: ConvertContext): Value {
  const three = c.ranked(0, 3, 4).length === 3;
  const half = c.concreteDim(c.ranked(2, 2)[1]);
  const count = c.int('num_heads', 0);
  const heads = count === 0 ? floorDivDims(c.shape(0)[2], 2 * half) : count;
  const x = three ? splitHeads(c, c.input(0), c.concreteDim(heads)) : c.input(0);
  const rows = x.type.shape[2];
  const given = cast(c.b, c.input(1), 'i64');
  const places =
    given.type.shape.length === 1 ? add(c.b, reshape(c.b, given, [1, 1]), iota(c.b, 'i64', [1, rows], 1)) : given;
  const y = rotate(c, x, anglesAt(c, c.input(2), places), anglesAt(c, c.input(3), places), c.flag('interleaved'));
  return three ? joinHeads(c, y) : y;
}

export const contribAttentions: readonly Conversion[] = [
  { domain, op: 'Attention', since: 1, convert: attention },
  { domain, op: 'QAttention', since: 1, convert: quantisedAttention },
  { domain, op: 'MultiHeadAttention', since: 1, convert: multiHeadAttention },
  { domain, op: 'GroupQueryAttention', since: 1, convert: groupQueryAttention },
  { domain, op: 'RotaryEmbedding', since: 1, convert: rotaryEmbedding },
];
