/** Elementwise work and movement, bound by memory. */
import type { ModelBuilder } from '../../compiler/builder/index.js';
import type { DType } from '../../compiler/dtype.js';
import type { Value } from '../../compiler/graph/types.js';
import { normal } from '../random.js';
import { type Case, graphOf, type MapKind, type Scale } from './types.js';

interface Body {
  readonly inputs: 1 | 2;
  readonly build: (g: ModelBuilder, x: Value, y: Value) => Value;
}

const bodies: Readonly<Record<MapKind, Body>> = {
  saxpy: { inputs: 2, build: (g, x, y) => g.add(g.mul(x, 1.5), y) },
  gelu: { inputs: 1, build: (g, x) => g.gelu(x) },
  // Eight ops that one kernel can do in one pass.
  chain: {
    inputs: 2,
    build: (g, x, y) => g.mul(g.sigmoid(g.add(g.mul(x, y), 0.5)), g.max(g.sub(g.abs(y), g.mul(x, 0.25)), 0)),
  },
  bias: {
    inputs: 1,
    build: (g, x) => g.relu(g.add(x, g.cast(g.constant(normal(Number(x.type.shape[1]), 3)), x.type.dtype))),
  },
  transpose: { inputs: 1, build: (g, x) => g.transpose(x, [1, 0]) },
  concat: { inputs: 2, build: (g, x, y) => g.concat([x, y], 1) },
  widen: { inputs: 1, build: (g, x) => g.cast(g.cast(x, 'f16'), 'f32') },
};

export function mapCases({ quick, gpu, software }: Scale): readonly Case[] {
  const kinds = Object.keys(bodies) as MapKind[];
  if (quick || software) return kinds.map((kind) => map(kind, [256, 256], 'f32'));
  if (!gpu) return kinds.map((kind) => map(kind, [4096, 2048], 'f32'));
  return kinds.flatMap((kind) => [map(kind, [16384, 16384], 'f32'), map(kind, [16384, 16384], 'bf16')]);
}

const map = (kind: MapKind, shape: readonly number[], dtype: DType): Case => ({
  name: `${dtype} ${kind} ${shape.join('×')}`,
  spec: { op: 'map', kind, shape, dtype },
  cold: true,
  graph: () =>
    graphOf(kind, (g) => {
      const { inputs, build } = bodies[kind];
      const a = g.input('a', dtype, shape);
      return build(g, a, inputs === 2 ? g.input('b', dtype, shape) : a);
    }),
});
