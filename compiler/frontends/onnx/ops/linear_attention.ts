/**
 * LinearAttention: a state of keys by values, updated token by token. The tokens are the iterations of a scan; few of
 * them are written out.
 */
import { GraphBuilder } from '../../../graph/builder.js';
import {
  add,
  binaryC,
  broadcastTo,
  cast,
  full,
  mul,
  reshape,
  slice1,
  stack,
  sub,
  transpose,
  unary,
} from '../../../graph/compose/index.js';
import type { Value } from '../../../graph/types.js';
import type { Conversion, ConvertContext } from '../context.js';

/** Up to this many tokens (decoding, short tests) are written out. */
const unrolled = 4;

/** What one token brings: query [B, Hq, K], key [B, H, K], value [B, H, V], decay [B, H, K or 1], rate [B, H or 1, 1]. */
interface Token {
  readonly query: Value;
  readonly key: Value;
  readonly value: Value;
  readonly decay?: Value;
  readonly rate?: Value;
}

/** Σ over the keys' axis: x [B, H, …, K] with the state [B, H, K, V] gives [B, H, …, V]. */
const read = (b: GraphBuilder, x: Value, state: Value): Value =>
  b.op('dot', [x, state], {
    lhsBatch: [0, 1],
    rhsBatch: [0, 1],
    lhsContract: [x.type.shape.length - 1],
    rhsContract: [2],
    dtype: state.type.dtype,
  })[0];

/** The state [B, H, K, V] after a token, and what its queries read from it [B, Hq, V], not scaled. */
function step(b: GraphBuilder, before: Value, token: Token): readonly [state: Value, output: Value] {
  const { query, key, decay, rate } = token;
  const [batch, heads, keys, values] = before.type.shape.map(Number);
  const column = (x: Value): Value => reshape(b, x, [...x.type.shape, 1]);
  const decayed = decay === undefined ? before : mul(b, before, column(decay));
  const change = rate === undefined ? token.value : mul(b, sub(b, token.value, read(b, key, decayed)), rate);
  const written = mul(b, column(key), reshape(b, change, [batch, heads, 1, values]));
  const state = add(b, decayed, written);
  const queries = Number(query.type.shape[1]);
  const grouped = reshape(b, query, [batch, heads, queries / heads, keys]);
  return [state, reshape(b, read(b, grouped, state), [batch, queries, values])];
}

function linearAttention(c: ConvertContext): readonly (Value | undefined)[] {
  const [batch, tokens, width] = c.concreteDims(c.ranked(0, 3));
  const [queries, heads] = [c.int('q_num_heads'), c.int('kv_num_heads')];
  if (heads < 1 || queries % heads !== 0)
    c.fail('q_num_heads must be a multiple of kv_num_heads', `a multiple of ${heads}`, String(queries));
  const rule = c.choice('update_rule', ['linear', 'gated', 'delta', 'gated_delta'] as const, 'gated_delta');
  const [gated, corrected] = [rule.startsWith('gated'), rule.endsWith('delta')];
  if (c.has(4) !== gated) c.fail(`update rule ${rule} ${gated ? 'needs' : 'takes no'} decay`);
  if (c.has(5) !== corrected) c.fail(`update rule ${rule} ${corrected ? 'needs' : 'takes no'} beta`);
  const dtype = c.dtype(0) === 'f64' ? 'f64' : 'f32';
  /** Input [B, T, parts · n] with the tokens first: [T, B, parts, n]. */
  const byToken = (i: number, parts: number): Value => {
    const [, , size] = c.concreteDims(c.ranked(i, 3), i);
    if (size % parts !== 0) c.fail(`input ${i} does not divide into heads`, `a multiple of ${parts}`, String(size));
    const apart = reshape(c.b, cast(c.b, c.input(i), dtype), [batch, tokens, parts, size / parts]);
    return transpose(c.b, apart, [1, 0, 2, 3]);
  };
  const keys = width / queries;
  const values = c.concreteShape(2)[2] / heads;
  // The last axis of beta holds a number a head, or one for all of them.
  const rates = corrected ? c.concreteShape(5)[2] : 0;
  const arrays = [
    byToken(0, queries),
    byToken(1, heads),
    byToken(2, heads),
    ...(gated ? [unary(c.b, 'exp', byToken(4, heads))] : []),
    ...(corrected ? [byToken(5, rates)] : []),
  ];
  const tokenOf = ([query, key, value, ...rest]: readonly Value[]): Token => ({
    query,
    key,
    value,
    ...(gated ? { decay: rest[0] } : {}),
    ...(corrected ? { rate: rest[gated ? 1 : 0] } : {}),
  });
  const stateType = c.has(3) ? c.dtype(3) : c.dtype(0);
  let state = c.has(3)
    ? broadcastTo(c.b, cast(c.b, c.input(3), dtype), [batch, heads, keys, values])
    : full(c.b, 0, dtype, [batch, heads, keys, values]);
  let outputs: Value;
  if (tokens <= unrolled) {
    const rows = Array.from({ length: tokens }, (_, t) => {
      const slices = arrays.map((array) => reshape(c.b, slice1(c.b, array, 0, t, 1), array.type.shape.slice(1)));
      const [next, output] = step(c.b, state, tokenOf(slices));
      state = next;
      return output;
    });
    outputs = rows.length > 0 ? stack(c.b, rows, 0) : full(c.b, 0, dtype, [0, batch, queries, values]);
  } else {
    const body = new GraphBuilder('token');
    body.source = c.operator.source;
    const before = body.input('state', dtype, state.type.shape);
    const slices = arrays.map((array, i) => body.input(`slice${i}`, dtype, array.type.shape.slice(1)));
    const [next, output] = step(body, before, tokenOf(slices));
    body.output('state', next);
    body.output('output', output);
    [state, outputs] = c.b.op('scan', [state, ...arrays], {
      body: body.finish(),
      trips: tokens,
      carried: 1,
      iteration: false,
      scanned: arrays.map(() => false),
      stacked: [false],
    });
  }
  const scale = c.float('scale', 0);
  const scaled = binaryC(c.b, 'mul', outputs, scale === 0 ? 1 / Math.sqrt(keys) : scale);
  const packed = reshape(c.b, transpose(c.b, scaled, [1, 0, 2, 3]), [batch, tokens, queries * values]);
  return [cast(c.b, packed, c.dtype(0)), cast(c.b, state, stateType)];
}

export const linearAttentions: readonly Conversion[] = [{ op: 'LinearAttention', since: 27, convert: linearAttention }];
