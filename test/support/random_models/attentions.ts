/** Random attention: spelled out as exporters do, and by the operator of ai.onnx; masks, caches, grouped heads. */
import type { DType } from '../../../compiler/dtype.js';
import { big, type Draft, type Extent, flag, type Made, one, rarely } from './draft.js';

const widths = [8, 4, 3, 1, 5, 7, 12, 16, 20, 33, 64, 72] as const;
const lengths = [1, 2, 3, 5, 8, 9, 16, 17, 31, 40, 65] as const;

/** [B, H, L, D], as it is or out of [B, L, H·D] or [B, L, H, D]. */
function heads(d: Draft, dtype: DType, batch: Extent, count: number, length: Extent, width: number): Made {
  const { c } = d;
  const shape = [batch, count, length, width];
  switch (c.int(0, 2)) {
    case 0:
      return d.data(dtype, shape, { as: 'input' });
    case 1: {
      const x = d.data(dtype, [batch, length, count, width], { as: 'input' });
      return d.op('Transpose', [x], shape, { perm: big([0, 2, 1, 3]) });
    }
    default: {
      const x = d.data(dtype, [batch, length, count * width], { as: 'input' });
      const split = d.op('Reshape', [x, d.integers([0, 0, count, width])], [batch, length, count, width]);
      return d.op('Transpose', [split], shape, { perm: big([0, 2, 1, 3]) });
    }
  }
}

const maskShapes = (batch: Extent, count: number, rows: Extent, columns: Extent): (readonly Extent[])[] => [
  [rows, columns],
  [1, 1, rows, columns],
  [batch, 1, 1, columns],
  [batch, 1, rows, columns],
  [batch, count, rows, columns],
  [1, count, rows, columns],
  [count, 1, columns],
  [columns],
];

export function spelledAttention(d: Draft): Made {
  const { c } = d;
  const dtype: DType = one(c, ['f32', 'f32', 'f32', 'f16'] as const);
  const [batch, count] = [d.vary(c.int(1, 2)), c.int(1, 3)];
  const [rows, columns] = [d.vary(one(c, lengths)), d.vary(one(c, lengths))];
  const [width, out] = [one(c, widths), one(c, widths)];
  const q = heads(d, dtype, batch, count, rows, width);
  const k = heads(d, dtype, batch, count, columns, width);
  const v = heads(d, dtype, batch, count, columns, out);
  const scale = d.numbers(dtype, flag(c) ? [] : [1], [one(c, [0.25, 0.5, 1])]);
  const place = c.int(0, 3);
  const scaled = (x: Made): Made => d.map(flag(c) ? 'Mul' : 'Div', x, {}, scale);
  const turned = d.op('Transpose', [place === 1 ? scaled(k) : k], [batch, count, width, columns], {
    perm: big([0, 1, 3, 2]),
  });
  const shape = [batch, count, rows, columns];
  let scores = d.op('MatMul', [place === 0 ? scaled(q) : q, turned], shape);
  if (place === 2) scores = scaled(scores);
  const masks = maskShapes(batch, count, rows, columns);
  if (rarely(c, 3)) {
    const kept = d.data('bool', one(c, masks));
    const value = d.numbers(dtype, [], [one(c, [-1000, -65504])]);
    scores = flag(c)
      ? d.op('Where', [kept, scores, value], shape, {}, dtype)
      : d.op('Where', [kept, value, scores], shape, {}, dtype);
  } else if (flag(c)) scores = d.map('Add', scores, {}, d.data(dtype, one(c, masks)));
  const weights = d.map('Softmax', scores, { axis: rarely(c, 6) ? 2n : -1n });
  if (rarely(c, 6)) d.output(weights);
  const y = d.op('MatMul', [weights, v], [batch, count, rows, out]);
  if (flag(c)) return y;
  const joined = d.op('Transpose', [y], [batch, rows, count, out], { perm: big([0, 2, 1, 3]) });
  return flag(c) ? joined : d.op('Reshape', [joined, d.integers([0, 0, count * out])], [batch, rows, count * out]);
}

export function attentionOperator(d: Draft): Made {
  const { c } = d;
  const dtype: DType = one(c, ['f32', 'f32', 'f32', 'f16'] as const);
  const [batch, shared, group] = [d.vary(c.int(1, 2)), c.int(1, 2), one(c, [1, 1, 2, 3])];
  const count = shared * group;
  const rows = d.vary(one(c, lengths));
  const past = rarely(c, 3) ? one(c, [1, 3, 8, 16]) : 0;
  const [width, out] = [one(c, widths), one(c, widths)];
  const causal = flag(c);
  const fresh = causal || past > 0 ? rows : d.vary(one(c, lengths));
  const joined = flag(c);
  const side = (heads: number, length: Extent, size: number): Made =>
    d.data(dtype, joined ? [batch, length, heads * size] : [batch, heads, length, size], { as: 'input' });
  const [q, k, v] = [side(count, rows, width), side(shared, fresh, width), side(shared, fresh, out)];
  const columns: Extent = past === 0 ? fresh : typeof fresh === 'number' ? fresh + past : -1;
  const masked = columns !== -1 && flag(c);
  const masks = maskShapes(batch, count, rows, columns).filter(({ length }) => length === 2 || length === 4);
  const mask = masked ? d.data(one(c, ['bool', dtype]), one(c, masks)) : undefined;
  const cache = (size: number): Made | undefined =>
    past === 0 ? undefined : d.data(dtype, [batch, shared, past, size], { as: 'input' });
  const attrs = {
    ...(joined ? { q_num_heads: BigInt(count), kv_num_heads: BigInt(shared) } : {}),
    ...(causal ? { is_causal: 1n } : {}),
    ...(flag(c) ? { scale: one(c, [0.25, 0.5]) } : {}),
    ...(rarely(c, 6) ? { softcap: 2 } : {}),
  };
  const shape = joined ? [batch, rows, count * out] : [batch, count, rows, out];
  if (past === 0) return d.op('Attention', [q, k, v, mask], shape, attrs);
  const [y, keys] = d.several('Attention', [q, k, v, mask, cache(width), cache(out)], attrs, [
    { dtype, shape },
    { dtype, shape: [batch, shared, columns, width] },
    { dtype, shape: [batch, shared, columns, out] },
  ]);
  if (flag(c)) d.output(keys);
  return y;
}
