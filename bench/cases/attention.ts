/** softmax(q·kᵀ/√d)·v of whole sequences and of one new token. */
import type { DType } from '../../compiler/dtype.js';
import { type Case, graphOf, type Scale } from './types.js';

interface Shape {
  readonly name: string;
  readonly batch?: number;
  readonly heads: number;
  readonly queries: number;
  readonly keys: number;
  readonly width: number;
  readonly causal?: true;
}

const small: readonly Shape[] = [
  { name: 'BERT', heads: 12, queries: 128, keys: 128, width: 64 },
  { name: 'BERT long', heads: 12, queries: 512, keys: 512, width: 64 },
  { name: 'GPT-2', heads: 12, queries: 1024, keys: 1024, width: 64, causal: true },
  { name: 'GPT-2 decode', heads: 12, queries: 1, keys: 1024, width: 64 },
  { name: 'Llama', heads: 8, queries: 512, keys: 512, width: 128, causal: true },
  { name: 'Llama decode', heads: 32, queries: 1, keys: 2048, width: 128 },
  { name: 'ragged', heads: 5, queries: 77, keys: 131, width: 40 },
];

const large: readonly Shape[] = [
  { name: 'BERT', batch: 32, heads: 12, queries: 512, keys: 512, width: 64 },
  { name: 'Llama', heads: 32, queries: 4096, keys: 4096, width: 128, causal: true },
  { name: 'Llama', batch: 4, heads: 32, queries: 2048, keys: 2048, width: 128 },
  { name: 'Llama long', heads: 32, queries: 16384, keys: 16384, width: 128, causal: true },
  { name: 'Llama decode', batch: 16, heads: 32, queries: 1, keys: 4096, width: 128 },
  { name: 'ragged', heads: 5, queries: 1023, keys: 1999, width: 80 },
];

export function attentionCases({ quick, gpu, software }: Scale): readonly Case[] {
  if (quick || software) return [small[0], small[3], small[6]].map((shape) => attention(shape, 'f32'));
  if (!gpu) return small.map((shape) => attention(shape, 'f32'));
  return large.flatMap((shape) => [attention(shape, 'bf16'), attention(shape, 'f16')]);
}

function attention(shape: Shape, dtype: DType): Case {
  const { name, batch = 1, heads, queries, keys, width, causal = false } = shape;
  return {
    name: `${dtype} ${name}, ${batch}×${heads} heads, ${queries}×${keys}×${width}${causal ? ' causal' : ''}`,
    spec: { op: 'attention', batch, heads, queries, keys, width, causal, dtype },
    cold: false,
    graph: () =>
      graphOf('attention', (g) => {
        const q = g.input('q', dtype, [batch, heads, queries, width]);
        const k = g.input('k', dtype, [batch, heads, keys, width]);
        const v = g.input('v', dtype, [batch, heads, keys, width]);
        return g.attention(q, k, v, { causal });
      }),
  };
}
