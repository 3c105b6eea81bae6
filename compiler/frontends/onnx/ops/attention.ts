/** Attention and what goes with it: rotary embeddings, caches, causal convolution with state. */
import { type DType, isFloat } from '../../../dtype.js';
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
  mul,
  pad,
  reduce,
  reshape,
  scalar,
  scatterElements,
  select3,
  sigmoid,
  slice1,
  sub,
  transpose,
  unary,
  unsqueeze,
  wide,
} from '../../../graph/compose/index.js';
import { addDims, type Dim, floorDivDims, mulDims, subDims } from '../../../graph/dims.js';
import type { Value } from '../../../graph/types.js';
import type { Conversion, ConvertContext } from '../context.js';
import { dtypeOf } from '../tensors.js';

/** [B, L, H·D] as [B, H, L, D]; four axes are that already. */
function heads(c: ConvertContext, i: number, count: string): Value {
  const x = c.input(i);
  if (x.type.shape.length === 4) return x;
  if (x.type.shape.length !== 3) c.fail(`wrong rank of input ${i}`, '3 or 4 axes', String(x.type.shape.length));
  return splitHeads(c, x, c.int(count));
}

const infinite = Number.NEGATIVE_INFINITY;

/** What is added to the scores: the mask, the causal triangle, the padding of keys. Undefined if nothing is. */
function bias(c: ConvertContext, dtype: Value['type']['dtype'], rows: Dim, columns: Dim, past: Dim): Value | undefined {
  const hidden = (kept: Value): Value => select3(c.b, kept, scalar(c.b, 0, dtype), scalar(c.b, infinite, dtype));
  const parts: Value[] = [];
  if (c.has(3)) {
    const given = c.input(3);
    c.ranked(3, 1, 4);
    let mask = isFloat(given.type.dtype) ? cast(c.b, given, dtype) : hidden(cast(c.b, given, 'bool'));
    const rank = mask.type.shape.length;
    const missing = subDims(columns, mask.type.shape[rank - 1]);
    // Keys beyond the mask are hidden.
    if (missing !== 0 && mask.type.shape[rank - 1] !== 1) {
      const last = (dim: Dim) => mask.type.shape.map((_, axis): Dim => (axis === rank - 1 ? dim : 0));
      mask = pad(c.b, mask, last(0), last(c.concreteDim(missing, 3)), scalar(c.b, infinite, dtype));
    }
    parts.push(mask);
  }
  const lengths = c.has(6) ? reshape(c.b, cast(c.b, c.input(6), 'i64'), [c.ranked(6, 1)[0], 1, 1, 1]) : undefined;
  if (c.flag('is_causal')) {
    // Queries stand at the end of the keys that are there: after the past, or as the last of those that count.
    const last = lengths && binaryC(c.b, 'sub', lengths, c.concreteDim(rows));
    const before = past === 0 ? last : scalar(c.b, c.concreteDim(past, 4), 'i64');
    const row = iota(c.b, 'i64', [rows, 1], 0);
    const column = iota(c.b, 'i64', [1, columns], 1);
    parts.push(hidden(binary(c.b, 'ge', before === undefined ? row : add(c.b, row, before), column)));
  }
  if (lengths !== undefined) {
    parts.push(hidden(binary(c.b, 'lt', iota(c.b, 'i64', [1, 1, 1, columns], 3), lengths)));
  }
  return parts.length === 0 ? undefined : parts.reduce((x, y) => add(c.b, x, y));
}

/** y, and 0 for queries that all keys are hidden from: their weights are no numbers. */
function whereSeeing(c: ConvertContext, added: Value, y: Value): Value {
  const { dtype } = added.type;
  const best = reduce(c.b, 'max', added, [added.type.shape.length - 1], true);
  const sees = binary(c.b, 'ne', best, broadcastTo(c.b, scalar(c.b, infinite, dtype), best.type.shape));
  return select3(c.b, sees, y, scalar(c.b, 0, dtype));
}

/** What attention is computed from: q [B, H, L, D], k [B, K, S, D], v [B, K, S, W], where K divides H. */
export interface AttentionParts {
  readonly q: Value;
  readonly k: Value;
  readonly v: Value;
  /** By default 1/√D. */
  readonly scale?: number;
  /** Scores are cap · tanh(score / cap); 0: as they are. */
  readonly cap?: number;
  /** Added to the scores; broadcasts to [B, H, L, S]. */
  readonly bias?: Value;
  /** A further logit per head, [B, H, L, 1], that takes part in the softmax alone. */
  readonly sink?: Value;
  /** Type in which the softmax is computed. */
  readonly inner?: DType;
}

export interface AttentionResult {
  /** [B, H, L, W] */
  readonly y: Value;
  /** The scores [B, H, L, S]: scaled, capped, with the bias, and after the softmax. */
  readonly scores: readonly [raw: Value, capped: Value, biased: Value, weights: Value];
}

/** softmax(softcap(q · k' · scale) + bias) · v. Query heads that share a key head are an axis; keys are not repeated. */
export function scaledDotProduct(c: ConvertContext, parts: AttentionParts): AttentionResult {
  const { q, k, v, cap = 0, bias, sink } = parts;
  const { dtype } = q.type;
  const [batch, queryHeads, rows, size] = q.type.shape;
  const [, keyHeads, columns] = k.type.shape;
  const group = floorDivDims(queryHeads, keyHeads);
  const scale = parts.scale ?? 1 / Math.sqrt(c.concreteDim(size));
  const grouped = group === 1 ? q : reshape(c.b, q, [batch, keyHeads, group, rows, size]);
  const shared = (x: Value): Value => (group === 1 ? x : unsqueeze(c.b, x, [2]));
  const axes = group === 1 ? [0, 1, 3, 2] : [0, 1, 2, 4, 3];
  const half = Math.sqrt(Math.abs(scale));
  const keys = transpose(c.b, shared(k), axes);
  const product = matmul(c.b, binaryC(c.b, 'mul', grouped, Math.sign(scale) * half), binaryC(c.b, 'mul', keys, half));
  const raw = reshape(c.b, product, [batch, queryHeads, rows, columns]);
  const capped = cap === 0 ? raw : binaryC(c.b, 'mul', unary(c.b, 'tanh', binaryC(c.b, 'div', raw, cap)), cap);
  const biased = bias === undefined ? capped : broadcastTo(c.b, add(c.b, capped, bias), raw.type.shape);
  const logits = cast(c.b, sink === undefined ? biased : concat(c.b, [biased, sink], 3), parts.inner ?? dtype);
  const all = cast(c.b, c.op('softmax', [logits], { axes: [3], log: false }), dtype);
  const weights = sink === undefined ? all : slice1(c.b, all, 3, 0, columns);
  const regrouped = group === 1 ? weights : reshape(c.b, weights, [batch, keyHeads, group, rows, columns]);
  const y = reshape(c.b, matmul(c.b, regrouped, shared(v)), [batch, queryHeads, rows, v.type.shape[3]]);
  return { y, scores: [raw, capped, biased, weights] };
}

/** [B, H, L, W] as [B, L, H·W]. */
export function joinHeads(c: ConvertContext, x: Value): Value {
  const [batch, count, rows, width] = x.type.shape;
  return reshape(c.b, transpose(c.b, x, [0, 2, 1, 3]), [batch, rows, mulDims(count, width)]);
}

/** [B, L, H·D] as [B, H, L, D]. */
export function splitHeads(c: ConvertContext, x: Value, count: number): Value {
  const [batch, length, width] = x.type.shape;
  return transpose(c.b, reshape(c.b, x, [batch, length, count, floorDivDims(width, count)]), [0, 2, 1, 3]);
}

/** Attention of ai.onnx: grouped heads, a mask, a cache. */
function attention(c: ConvertContext): readonly (Value | undefined)[] {
  const q = heads(c, 0, 'q_num_heads');
  let k = heads(c, 1, 'kv_num_heads');
  let v = heads(c, 2, 'kv_num_heads');
  const past: Dim = c.has(4) ? c.ranked(4, 4)[2] : 0;
  if (k.type.shape.length !== 4 || v.type.shape.length !== 4)
    c.fail('keys and values must have as many axes as queries');
  if (c.has(4)) k = concat(c.b, [c.input(4), k], 2);
  if (c.has(5)) v = concat(c.b, [c.input(5), v], 2);
  const precision = c.int('softmax_precision', 0);
  const added = bias(c, q.type.dtype, q.type.shape[2], k.type.shape[2], past);
  const { y, scores } = scaledDotProduct(c, {
    q,
    k,
    v,
    scale: c.hasAttr('scale') ? c.float('scale') : undefined,
    cap: c.float('softcap', 0),
    bias: added,
    inner: precision === 0 ? undefined : dtypeOf(precision, c.operator.source.node),
  });
  // The triangle alone leaves every query a key.
  const seeing = added !== undefined && (c.has(3) || c.has(6)) ? whereSeeing(c, added, y) : y;
  const mode = c.int('qk_matmul_output_mode', 0);
  const shown = scores[mode] ?? c.fail('invalid qk_matmul_output_mode', '0 to 3', String(mode));
  return [c.rank(0) === 3 ? joinHeads(c, seeing) : seeing, k, v, c.wants(3) ? shown : undefined];
}

/**
 * Rotates pairs of the first 2·R features of x [B, H, L, D] by angles whose cosines and sines [B or 1, 1, L, R] are
 * given; the pairs are neighbours (`interleaved`) or R apart.
 */
export function rotate(c: ConvertContext, x: Value, cosine: Value, sine: Value, interleaved: boolean): Value {
  const width = x.type.shape[3];
  const half = c.concreteDim(cosine.type.shape[3]);
  const part = (which: 0 | 1): Value =>
    interleaved ? slice1(c.b, x, 3, which, half, 2) : slice1(c.b, x, 3, which * half, half);
  const [a, b] = [part(0), part(1)];
  const real = sub(c.b, mul(c.b, cosine, a), mul(c.b, sine, b));
  const imaginary = add(c.b, mul(c.b, sine, a), mul(c.b, cosine, b));
  const rotated = interleaved
    ? reshape(c.b, concat(c.b, [unsqueeze(c.b, real, [4]), unsqueeze(c.b, imaginary, [4])], 4), [
        ...x.type.shape.slice(0, 3),
        2 * half,
      ])
    : concat(c.b, [real, imaginary], 3);
  const rest = subDims(width, 2 * half);
  return rest === 0 ? rotated : concat(c.b, [rotated, slice1(c.b, x, 3, 2 * half, rest)], 3);
}

function rotaryEmbedding(c: ConvertContext): Value {
  const three = c.ranked(0, 3, 4).length === 3;
  const x = three ? heads(c, 0, 'num_heads') : c.input(0);
  const given = c.int('rotary_embedding_dim', 0);
  const half = (given === 0 ? c.concreteDim(x.type.shape[3]) : given) / 2;
  const cache = (i: number): Value => {
    const rows = c.has(3) ? gather(c.b, c.input(i), c.input(3), 0) : c.input(i);
    return unsqueeze(c.b, slice1(c.b, rows, 2, 0, half), [1]);
  };
  const y = rotate(c, x, cache(1), cache(2), c.flag('interleaved'));
  return three ? joinHeads(c, y) : y;
}

/** Writes a run of rows into a cache, from a place per batch entry on. */
function tensorScatter(c: ConvertContext): Value {
  const [cache, update] = [c.input(0), c.input(1)];
  const rank = c.rank(0);
  const axis = c.axis(c.int('axis', -2), rank);
  const along = (dim: Dim, at: number) => Array.from({ length: rank }, (_, i): Dim => (i === at ? dim : 1));
  let places = iota(c.b, 'i64', along(update.type.shape[axis], axis), axis);
  if (c.has(2)) places = add(c.b, places, reshape(c.b, cast(c.b, c.input(2), 'i64'), along(c.ranked(2, 1)[0], 0)));
  if (c.choice('mode', ['linear', 'circular'] as const, 'linear') === 'circular') {
    places = binary(c.b, 'rem', places, scalar(c.b, c.concreteDim(cache.type.shape[axis]), 'i64'));
  }
  return scatterElements(c.b, cache, broadcastTo(c.b, places, update.type.shape), update, axis);
}

/** A depthwise convolution along time that carries its last inputs from call to call. */
function causalConv(c: ConvertContext): readonly Value[] {
  const [batch, channels, length] = c.ranked(0, 3);
  const taps = c.concreteDim(c.ranked(1, 3)[2], 1);
  const state = c.has(3) ? c.input(3) : full(c.b, 0, c.dtype(0), [batch, channels, taps - 1]);
  const padded = taps === 1 ? c.input(0) : concat(c.b, [state, c.input(0)], 2);
  const convolved = c.op('conv', [padded, c.input(1)], {
    strides: [1],
    padLow: [0],
    padHigh: [0],
    dilations: [1],
    inputDilation: [1],
    groups: c.concreteDim(channels),
    dtype: c.dtype(0),
  });
  const y = c.has(2) ? add(c.b, convolved, reshape(c.b, c.input(2), [1, channels, 1])) : convolved;
  const name = c.choice('activation', ['none', 'silu', 'swish'] as const, 'none');
  const activated = name === 'none' ? y : wide(c.b, y, (x) => mul(c.b, x, sigmoid(c.b, x)));
  const total = addDims(length, taps - 1);
  return [activated, slice1(c.b, padded, 2, taps === 1 ? 0 : subDims(total, taps - 1), taps - 1)];
}

export const attentions: readonly Conversion[] = [
  { op: 'Attention', since: 23, convert: attention },
  { op: 'RotaryEmbedding', since: 23, convert: rotaryEmbedding },
  { op: 'TensorScatter', since: 24, convert: tensorScatter },
  { op: 'CausalConvWithState', since: 27, convert: causalConv },
];
