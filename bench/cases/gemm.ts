/** Matrix products: squares, the shapes of transformers, vectors, ragged edges, batches. */
import type { DType } from '../../compiler/dtype.js';
import { normal } from '../random.js';
import { type Case, graphOf, type Scale } from './types.js';

interface Shape {
  readonly m: number;
  readonly n: number;
  readonly k: number;
  readonly batch?: number;
  /** B is a constant [n, k], as layers store weights: packing it beforehand is allowed. */
  readonly weights?: true;
  /** What the weights are stored as, where that is not the type of the product. */
  readonly stored?: 'f16';
}

const squares = (...sizes: number[]): Shape[] => sizes.map((size) => ({ m: size, n: size, k: size }));

const transformers: readonly Shape[] = [
  { m: 1, n: 4096, k: 4096, weights: true },
  { m: 1, n: 4096, k: 4096, weights: true, stored: 'f16' },
  { m: 1, n: 3072, k: 768, weights: true },
  { m: 8, n: 3072, k: 768, weights: true },
  { m: 128, n: 768, k: 768, weights: true },
  { m: 128, n: 3072, k: 768, weights: true },
  { m: 128, n: 768, k: 3072, weights: true },
];

const awkward: readonly Shape[] = [
  { m: 511, n: 513, k: 517 },
  { m: 4096, n: 64, k: 64 },
  { m: 64, n: 4096, k: 64 },
  { m: 64, n: 64, k: 16384 },
  { m: 2048, n: 16, k: 256 },
  { m: 17, n: 1000, k: 2048 },
  { batch: 96, m: 64, n: 64, k: 64 },
  { batch: 12, m: 128, n: 128, k: 64 },
];

const large: readonly Shape[] = [
  ...squares(1024, 2048, 4096, 8192),
  { m: 4096, n: 11008, k: 4096, weights: true },
  { m: 4096, n: 4096, k: 11008, weights: true },
  { m: 1, n: 4096, k: 4096, weights: true },
  { m: 1, n: 11008, k: 4096, weights: true },
  { m: 16, n: 4096, k: 4096, weights: true },
  { m: 4095, n: 4097, k: 4099 },
  { m: 64, n: 64, k: 65536 },
  { batch: 512, m: 128, n: 128, k: 128 },
];

export function gemmCases({ quick, gpu, software }: Scale): readonly Case[] {
  if (quick) return [...squares(64, 256), transformers[2], awkward[0]].map((shape) => gemm(shape, 'f32'));
  if (software) return [...squares(128, 256, 512, 768), ...awkward.slice(0, 3)].map((shape) => gemm(shape, 'f32'));
  if (!gpu) {
    return [
      ...[...squares(256, 512, 1024, 2048), ...transformers, ...awkward].map((shape) => gemm(shape, 'f32')),
      ...squares(512, 1024).map((shape) => gemm(shape, 'i8')),
    ];
  }
  return [
    ...large.flatMap((shape) => [gemm(shape, 'bf16'), gemm(shape, 'f16')]),
    ...large.slice(0, 4).flatMap((shape) => [gemm(shape, 'f32'), gemm(shape, 'i8')]),
  ];
}

function gemm({ m, n, k, batch = 1, weights, stored }: Shape, dtype: DType): Case {
  const lead = batch > 1 ? [batch] : [];
  return {
    name: `${dtype} ${batch > 1 ? `${batch}×` : ''}${m}×${n}×${k}${weights ? ' weights' : ''}${stored ? ` in ${stored}` : ''}`,
    spec: { op: 'gemm', batch, m, n, k, dtype, transposed: weights === true },
    cold: false,
    graph: () =>
      graphOf('gemm', (g) => {
        const a = g.input('a', dtype, [...lead, m, k]);
        if (weights) {
          const held = g.constant(normal(n * k, 7), [n, k]);
          if (stored) return g.linear(a, g.cast(g.cast(held, stored), dtype));
          return g.linear(a, dtype === 'f32' ? held : g.cast(held, dtype));
        }
        const b = g.input('b', dtype, [...lead, k, n]);
        return dtype === 'i8' ? g.matmul(a, b, 'i32') : g.matmul(a, b);
      }),
  };
}
