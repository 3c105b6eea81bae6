/** Random operators of com.microsoft, as exporters of transformers and quantisers write them. */
import { type Draft, flag, list, type Made, one, rarely } from './draft.js';

export function contributed(d: Draft): Made {
  return one(d.c, [multiHead, groupedQueries, skipNorm, fewBits, dynamicProduct, fusedProduct, activation])(d);
}

const sizes = [4, 1, 3, 8, 9, 16] as const;

function multiHead(d: Draft): Made {
  const { c } = d;
  const [batch, rows, columns] = [c.int(1, 2), one(c, sizes), one(c, sizes)];
  const [heads, width] = [c.int(1, 3), one(c, [4, 2, 8, 12])];
  const all = heads * width;
  const part = (length: number): Made => d.data('f32', [batch, length, all], { as: 'input' });
  const bias = flag(c) ? d.data('f32', [3 * all]) : undefined;
  const mask = rarely(c, 3) ? d.data('i32', [batch, columns], { low: 0, high: 1 }) : undefined;
  const extra = rarely(c, 3) ? d.data('f32', [one(c, [1, batch]), one(c, [1, heads]), rows, columns]) : undefined;
  const attrs = {
    num_heads: BigInt(heads),
    ...(flag(c) ? { scale: 0.5 } : {}),
    ...(rarely(c, 4) && rows === columns ? { unidirectional: 1n } : {}),
  };
  return d.contributed(
    'MultiHeadAttention',
    [part(rows), part(columns), part(columns), bias, mask, extra],
    [batch, rows, all],
    attrs,
  );
}

function groupedQueries(d: Draft): Made {
  const { c } = d;
  const [batch, shared, group, width] = [c.int(1, 2), c.int(1, 2), one(c, [1, 2, 3]), one(c, [8, 16])];
  const past = rarely(c, 2) ? 0 : c.int(1, 9);
  const rows = past === 0 ? one(c, sizes) : 1;
  const heads = shared * group;
  const total = past + rows;
  const part = (count: number): Made => d.data('f32', [batch, rows, count * width], { as: 'input' });
  const cache = (): Made => d.data('f32', [batch, shared, past, width], { as: 'input' });
  const lengths = d.numbers(
    'i32',
    [batch],
    list(batch, () => total - 1),
  );
  const attrs = {
    num_heads: BigInt(heads),
    kv_num_heads: BigInt(shared),
    ...(flag(c) ? { scale: 0.25 } : {}),
    ...(rarely(c, 3) ? { local_window_size: BigInt(c.int(1, 5)) } : {}),
  };
  const inputs = [part(heads), part(shared), part(shared), cache(), cache(), lengths, d.numbers('i32', [], [total])];
  const [y, keys] = d.several(
    'GroupQueryAttention',
    inputs,
    attrs,
    [
      { dtype: 'f32', shape: [batch, rows, heads * width] },
      { dtype: 'f32', shape: [batch, shared, total, width] },
      { dtype: 'f32', shape: [batch, shared, total, width] },
    ],
    'com.microsoft',
  );
  if (flag(c)) d.output(keys);
  return y;
}

function skipNorm(d: Draft): Made {
  const { c } = d;
  const shape = [c.int(1, 2), c.int(1, 5), one(c, [8, 3, 17, 64])];
  const last = [shape[2]];
  const simple = flag(c);
  const parts = [d.data('f32', shape, { as: 'input' }), d.data('f32', shape, { as: 'input' }), d.data('f32', last)];
  const offsets = simple ? [] : [flag(c) ? d.data('f32', last) : undefined];
  const bias = flag(c) ? d.data('f32', last) : undefined;
  const op = simple ? 'SkipSimplifiedLayerNormalization' : 'SkipLayerNormalization';
  return d.contributed(op, [...parts, ...offsets, bias], shape, { epsilon: 0.1 });
}

function fewBits(d: Draft): Made {
  const { c } = d;
  const [block, blocks, n] = [one(c, [16, 32]), c.int(1, 3), one(c, [8, 1, 17, 40])];
  const k = block * blocks - (rarely(c, 3) ? 3 : 0);
  const rows = one(c, [1, 3, 9]);
  const x = d.data('f32', [rows, k], { as: 'input' });
  const w = d.data('u8', [n, blocks, block / 2], { as: 'constant', low: 0, high: 255 });
  const scales = d.numbers(
    'f32',
    [n * blocks],
    list(n * blocks, () => one(c, [0.25, 0.5, 1])),
  );
  const zeros = flag(c) ? d.data('u8', [n * Math.ceil(blocks / 2)], { as: 'constant', low: 0, high: 255 }) : undefined;
  const attrs = { K: BigInt(k), N: BigInt(n), bits: 4n, block_size: BigInt(block) };
  return d.contributed('MatMulNBits', [x, w, scales, zeros], [rows, n], attrs);
}

function dynamicProduct(d: Draft): Made {
  const { c } = d;
  const [rows, k, n] = [c.int(1, 5), one(c, [8, 3, 17, 40]), one(c, [4, 1, 9, 33])];
  const x = d.data('f32', [rows, k], { as: 'input' });
  const w = d.data(one(c, ['i8', 'u8'] as const), [k, n], { as: 'constant', low: -9, high: 9 });
  const perColumn = flag(c);
  const scale = d.numbers(
    'f32',
    perColumn ? [n] : [],
    list(perColumn ? n : 1, () => one(c, [0.25, 0.5])),
  );
  const bias = flag(c) ? d.data('f32', [n]) : undefined;
  return d.contributed('DynamicQuantizeMatMul', [x, w, scale, undefined, bias], [rows, n], {});
}

function fusedProduct(d: Draft): Made {
  const { c } = d;
  const [batch, m, k, n] = [c.int(1, 2), one(c, sizes), one(c, sizes), one(c, sizes)];
  const [transA, transB] = [flag(c), flag(c)];
  const x = d.data('f32', transA ? [batch, k, m] : [batch, m, k], { as: 'input' });
  const y = d.data('f32', transB ? [batch, n, k] : [batch, k, n]);
  const attrs = { transA: transA ? 1n : 0n, transB: transB ? 1n : 0n, alpha: one(c, [1, 0.5]) };
  return d.contributed('FusedMatMul', [x, y], [batch, m, n], attrs);
}

function activation(d: Draft): Made {
  const { c } = d;
  const shape = [c.int(1, 3), one(c, [8, 3, 17])];
  const x = d.data('f32', shape, { as: 'input' });
  if (flag(c)) return d.contributed('QuickGelu', [x], shape, { alpha: 1.5 });
  const bias = d.data('f32', [shape[1]]);
  return d.contributed(one(c, ['BiasGelu', 'FastGelu']), [x, bias], shape, {});
}
