/** Work along one axis, bound by memory: softmax, normalisation, reductions, scans. */
import type { ModelBuilder } from '../../compiler/builder/index.js';
import type { DType } from '../../compiler/dtype.js';
import type { Value } from '../../compiler/graph/types.js';
import { normal } from '../random.js';
import { type Case, graphOf, type RowsKind, type Scale } from './types.js';

const kinds = {
  softmax: (g, x) => g.softmax(x),
  logsoftmax: (g, x) => g.logSoftmax(x),
  layernorm: (g, x) => {
    const columns = Number(x.type.shape[1]);
    const [scale, bias] = [3, 4].map((seed) => g.cast(g.constant(normal(columns, seed)), x.type.dtype));
    return g.layerNorm(x, { scale, bias });
  },
  rmsnorm: (g, x) => g.rmsNorm(x, { scale: g.cast(g.constant(normal(Number(x.type.shape[1]), 3)), x.type.dtype) }),
  sum: (g, x) => g.sum(x, { axes: 1 }),
  max: (g, x) => g.reduceMax(x, { axes: 1 }),
  argmax: (g, x) => g.argMax(x, 1),
  cumsum: (g, x) => g.cumulativeSum(x, 1),
  columnsum: (g, x) => g.sum(x, { axes: 0 }),
} satisfies Readonly<Record<RowsKind, (g: ModelBuilder, x: Value) => Value>>;

/** Many short rows, rows that fit a cache, few long ones: 4 Mi elements each. */
const shapes = [
  [65536, 64],
  [4096, 1024],
  [64, 65536],
] as const;

export function rowsCases({ quick, gpu, software }: Scale): readonly Case[] {
  const all = Object.keys(kinds) as RowsKind[];
  if (quick || software) return all.map((kind) => rows(kind, 256, 256, 'f32'));
  if (!gpu) {
    return all.flatMap((kind) => {
      // The first three at all shapes, the others at the middle one.
      const which = kind === 'softmax' || kind === 'layernorm' || kind === 'sum' ? shapes : shapes.slice(1, 2);
      return which.map(([count, columns]) => rows(kind, count, columns, 'f32'));
    });
  }
  const wide = shapes.map(([count, columns]) => [16 * count, columns] as const);
  return all.flatMap((kind) =>
    wide.flatMap(([count, columns]) => [rows(kind, count, columns, 'f32'), rows(kind, count, columns, 'bf16')]),
  );
}

const rows = (kind: RowsKind, count: number, columns: number, dtype: DType): Case => ({
  name: `${dtype} ${kind} ${count}×${columns}`,
  spec: { op: 'rows', kind, rows: count, columns, dtype },
  cold: true,
  graph: () => graphOf(kind, (g) => kinds[kind](g, g.input('x', dtype, [count, columns]))),
});
