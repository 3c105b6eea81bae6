/** Random networks of images: convolutions of all kinds with what stands between them in real ones. */
import { GraphBuilder } from '../../compiler/graph/builder.js';
import * as c from '../../compiler/graph/compose/index.js';
import type { Graph, Value } from '../../compiler/graph/types.js';
import { range } from '../../compiler/schedule/tensors.js';
import { type HostTensor, sizeOf } from '../../compiler/tensor.js';
import type { Chooser } from './graph_cases.js';
import { constantOf } from './plans.js';

const one = <T>(choose: Chooser, list: readonly T[]): T => list[choose.int(0, list.length - 1)];
const shapeOf = (value: Value) => value.type.shape as readonly number[];

/** Small integers: sums of products stay exact, so that every order of summation gives the same. */
export function integers(shape: readonly number[], seed: number): HostTensor {
  let state = (seed + 1) * 7919;
  const data = Float32Array.from({ length: sizeOf(shape) }, () => {
    state = (Math.imul(state, 1103515245) + 12345) & 0x7fffffff;
    return ((state >> 16) % 5) - 2;
  });
  return { dtype: 'f32', shape, data };
}

/** One to three spatial dims, two most often; one input `x` and one or two results. */
export function imageNetwork(choose: Chooser): Graph {
  const b = new GraphBuilder('image');
  const int = (low: number, high: number): number => choose.int(low, high);
  let seed = 0;
  const weights = (shape: readonly number[]): Value => b.constant(constantOf(integers(shape, seed++)));
  const images = int(1, 2);
  const channels = (): number => one(choose, [1, 3, 5, 8, 16, 17, 24, 33, 40] as const);
  const rank = one(choose, [1, 2, 2, 3] as const);
  const spatial = range(rank).map((d) => int(3, rank < 3 ? 13 : d === 0 ? 4 : 7));
  const axes = range(rank).map((d) => d + 2);
  const values: Value[] = [b.input('x', 'f32', [images, channels(), ...spatial])];
  const conv = (x: Value, outputs: number, groups: number): Value => {
    const [, inputs, ...extents] = shapeOf(x);
    const kernel = extents.map((extent) => int(1, Math.min(3, extent)));
    const dilations = kernel.map((k) => (k === 1 ? 1 : int(1, 2)));
    const pads = kernel.map((k, d) => int(0, (k - 1) * dilations[d]));
    const spans = kernel.map((k, d) => (k - 1) * dilations[d] + 1);
    const highs = extents.map((extent, d) => Math.max(int(0, 1), spans[d] - extent - pads[d]));
    const [y] = b.op('conv', [x, weights([outputs, inputs / groups, ...kernel])], {
      strides: axes.map(() => int(1, 2)),
      padLow: pads,
      padHigh: highs,
      dilations,
      inputDilation: axes.map(() => 1),
      groups,
      dtype: 'f32',
    });
    return c.clamp(b, y, -3, 3);
  };
  const steps: readonly ((x: Value) => Value)[] = [
    (x) => conv(x, channels(), 1),
    (x) => c.relu(b, c.add(b, conv(x, channels(), 1), weights([1, 1, ...axes.map(() => 1)]))),
    (x) => conv(x, shapeOf(x)[1], shapeOf(x)[1]),
    (x) => {
      const bias = weights([1, shapeOf(x)[1], ...axes.map(() => 1)]);
      return c.relu(b, c.add(b, x, bias));
    },
    (x) => {
      const other = values.filter((value) => String(shapeOf(value)) === String(shapeOf(x)));
      return c.clamp(b, c.add(b, x, one(choose, other)), -3, 3);
    },
    (x) => {
      const fits = (value: Value) => shapeOf(value).every((extent, d) => d === 1 || extent === shapeOf(x)[d]);
      return c.concat(b, [x, one(choose, values.filter(fits))], 1);
    },
    (x) => {
      const [y] = b.op('reduce_window', [x], {
        fn: one(choose, ['max', 'sum'] as const),
        window: [1, 1, ...axes.map(() => 2)],
        strides: [1, 1, ...axes.map(() => int(1, 2))],
        padLow: [0, 0, ...axes.map(() => int(0, 1))],
        padHigh: [0, 0, ...axes.map(() => 1)],
        dilations: [1, 1, ...axes.map(() => 1)],
      });
      // Windows of padding alone have a maximum of minus infinity.
      return c.clamp(b, y, -3, 3);
    },
    (x) => c.mul(b, x, c.clamp(b, c.reduce(b, 'sum', x, axes, true), -1, 1)),
  ];
  for (let left = int(2, 7); left > 0; left--) values.push(one(choose, steps)(values[values.length - 1]));
  const last = values[values.length - 1];
  b.output('y', choose.int(0, 1) === 0 ? last : c.reduce(b, 'max', last, axes, false));
  const inner = one(choose, values.slice(1));
  if (inner !== last && choose.int(0, 3) === 0) b.output('z', inner);
  return b.finish();
}
