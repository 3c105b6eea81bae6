/** Every lowering family against the reference evaluator, on a target of each style. */
import { describe, expect, test } from 'vitest';
import { GraphBuilder } from '../../compiler/graph/builder.js';
import * as c from '../../compiler/graph/compose/index.js';
import { elementsOf } from '../../compiler/graph/ops/reference/data.js';
import type { Value } from '../../compiler/graph/types.js';
import { type HostTensor, sizeOf } from '../../compiler/tensor.js';
import { runGroups, runReference } from '../support/run_groups.js';
import { testTargets } from '../support/targets.js';

function random(shape: readonly number[], seed = 1): HostTensor {
  let a = seed * 0x9e3779b1;
  const data = new Float32Array(sizeOf(shape));
  for (let i = 0; i < data.length; i++) {
    a = (a + 0x6d2b79f5) | 0;
    let t = Math.imul(a ^ (a >>> 15), a | 1);
    t ^= t + Math.imul(t ^ (t >>> 7), t | 61);
    data[i] = (((t ^ (t >>> 14)) >>> 0) / 2 ** 32) * 4 - 2;
  }
  return { dtype: 'f32', shape, data };
}

type Build = (
  b: GraphBuilder,
  input: (shape: readonly number[]) => Value,
  weights: (shape: readonly number[]) => Value,
) => Value | Value[];
interface Case {
  readonly name: string;
  readonly build: Build;
  /** Kernels expected after fusion, where it matters; copies that a schedule makes for itself do not count. */
  readonly kernels?: number;
}

const pool = (padLow: number[], padHigh: number[], strides: number[], window: number[]) => ({
  window: [1, 1, ...window],
  strides: [1, 1, ...strides],
  padLow: [0, 0, ...padLow],
  padHigh: [0, 0, ...padHigh],
  dilations: [1, 1, 1, 1],
});
const convAttrs = {
  strides: [1, 1],
  padLow: [1, 1],
  padHigh: [1, 1],
  dilations: [1, 1],
  inputDilation: [1, 1],
  groups: 1,
  dtype: 'f32' as const,
};

const cases: Case[] = [
  {
    name: 'elementwise chain',
    kernels: 1,
    build: (b, x) => c.relu(b, c.add(b, c.mul(b, x([3, 5, 7]), x([5, 1])), x([7]))),
  },
  { name: 'silu', kernels: 1, build: (b, x) => c.silu(b, x([2, 33])) },
  {
    name: 'transpose and add',
    kernels: 1,
    build: (b, x) => c.add(b, c.transpose(b, x([4, 6, 8]), [2, 0, 1]), x([8, 4, 6])),
  },
  {
    name: 'reshape, slice, reverse',
    kernels: 1,
    build: (b, x) => c.reverse(b, c.slice1(b, c.reshape(b, x([6, 8]), [4, 12]), 1, 2, 5, 2), 0),
  },
  {
    name: 'concat',
    kernels: 1,
    build: (b, x) => c.concat(b, [c.relu(b, x([2, 3, 5])), x([2, 1, 5]), x([2, 4, 5])], 1),
  },
  {
    name: 'pad modes',
    build: (b, x) =>
      (['edge', 'reflect', 'wrap', 'constant'] as const).map((mode) => {
        const v = x([3, 17]);
        const fill = c.scalar(b, 0.5, 'f32');
        return b.op('pad', mode === 'constant' ? [v, fill] : [v], { low: [1, 2], high: [2, 1], mode })[0];
      }),
  },
  { name: 'reduce innermost', kernels: 1, build: (b, x) => c.reduce(b, 'sum', c.relu(b, x([5, 37])), [1]) },
  {
    name: 'reduce outer, keep',
    kernels: 1,
    build: (b, x) => c.unary(b, 'exp', c.reduce(b, 'max', x([9, 4, 8]), [0], true)),
  },
  { name: 'reduce all, long', kernels: 1, build: (b, x) => c.reduce(b, 'sum', x([2, 1031]), [1]) },
  { name: 'reduce all', kernels: 1, build: (b, x) => c.reduce(b, 'sum', x([300]), [0]) },
  { name: 'softmax', kernels: 1, build: (b, x) => c.softmax(b, c.mul(b, x([3, 70]), c.scalar(b, 0.5, 'f32')), [1]) },
  { name: 'log softmax outer', kernels: 1, build: (b, x) => c.softmax(b, x([2, 7, 16]), [1], true) },
  {
    name: 'normalize',
    kernels: 1,
    build: (b, x) => {
      const [y] = b.op('normalize', [x([4, 67])], { axes: [1], epsilon: 1e-5, center: true, statistics: false });
      return c.add(b, c.mul(b, y, x([67])), x([67]));
    },
  },
  {
    name: 'cumulative',
    build: (b, x) => b.op('cumulative', [x([3, 9])], { fn: 'sum', axis: 1, exclusive: true, reverse: true })[0],
  },
  {
    name: 'cumulative with an epilogue',
    kernels: 1,
    build: (b, x) => {
      const [sums] = b.op('cumulative', [x([3, 9])], { fn: 'sum', axis: 0, exclusive: false, reverse: true });
      return c.transpose(b, c.mul(b, sums, x([3, 9])), [1, 0]);
    },
  },
  {
    name: 'max pool',
    kernels: 1,
    build: (b, x) =>
      c.relu(b, b.op('reduce_window', [x([1, 2, 9, 20])], { fn: 'max', ...pool([1, 1], [1, 1], [2, 2], [3, 3]) })[0]),
  },
  {
    name: 'sum pool stride 1',
    kernels: 1,
    build: (b, x) =>
      b.op('reduce_window', [x([1, 2, 6, 33])], { fn: 'sum', ...pool([1, 1], [1, 1], [1, 1], [3, 3]) })[0],
  },
  {
    name: 'matmul, bias, relu',
    kernels: 1,
    build: (b, x) => c.relu(b, c.add(b, c.matmul(b, x([7, 19]), x([19, 23])), x([23]))),
  },
  { name: 'batched matmul', build: (b, x) => c.matmul(b, x([2, 3, 5, 6]), x([3, 6, 4])) },
  {
    name: 'matmul transposed',
    build: (b, x) => c.matmul(b, c.transpose(b, x([19, 40]), [1, 0]), c.transpose(b, x([33, 19]), [1, 0])),
  },
  { name: 'large matmul', build: (b, x) => c.matmul(b, x([65, 70]), x([70, 81])) },
  { name: 'gemv', build: (b, x) => c.matmul(b, x([1, 100]), x([100, 130])) },
  {
    name: 'conv 3x3',
    kernels: 1,
    build: (b, x) => c.relu(b, b.op('conv', [x([1, 3, 9, 18]), x([5, 3, 3, 3])], convAttrs)[0]),
  },
  {
    name: 'conv many channels',
    build: (b, x) => b.op('conv', [x([2, 16, 10, 11]), x([24, 16, 3, 3])], { ...convAttrs, strides: [2, 1] })[0],
  },
  {
    name: 'conv 1x1',
    build: (b, x) =>
      b.op('conv', [x([1, 32, 7, 7]), x([40, 32, 1, 1])], { ...convAttrs, padLow: [0, 0], padHigh: [0, 0] })[0],
  },
  {
    name: 'depthwise',
    build: (b, x) => b.op('conv', [x([1, 8, 12, 20]), x([8, 1, 3, 3])], { ...convAttrs, groups: 8 })[0],
  },
  {
    name: 'grouped, dilated',
    build: (b, x) =>
      b.op('conv', [x([1, 8, 14, 15]), x([12, 4, 3, 3])], {
        ...convAttrs,
        groups: 2,
        dilations: [2, 2],
        padLow: [2, 2],
        padHigh: [2, 2],
      })[0],
  },
  {
    name: 'conv transpose',
    build: (b, x) =>
      b.op('conv', [x([1, 4, 5, 6]), x([3, 4, 3, 3])], {
        ...convAttrs,
        inputDilation: [2, 2],
        padLow: [1, 1],
        padHigh: [2, 2],
      })[0],
  },
  {
    name: 'constant weights',
    kernels: 1,
    build: (b, x, w) =>
      c.relu(b, c.add(b, b.op('conv', [x([2, 12, 9, 16]), w([20, 12, 3, 3])], convAttrs)[0], w([20, 1, 1]))),
  },
  {
    name: 'constant grouped weights',
    build: (b, x, w) =>
      b.op('conv', [x([2, 12, 9, 10]), w([18, 6, 3, 3])], { ...convAttrs, groups: 2, strides: [2, 2] })[0],
  },
  {
    name: 'gemm with constant transposed weights',
    build: (b, x, w) => c.matmul(b, x([9, 30]), c.transpose(b, w([50, 30]), [1, 0])),
  },
  { name: 'long k', build: (b, x, w) => c.matmul(b, x([5, 2100]), w([2100, 37])) },
  {
    name: 'one column',
    build: (b, x, w) =>
      b.op('conv', [x([1, 40, 1, 1]), w([24, 40, 1, 1])], { ...convAttrs, padLow: [0, 0], padHigh: [0, 0] })[0],
  },
  {
    name: 'gemv with constant weights',
    build: (b, x, w) => c.relu(b, c.add(b, c.matmul(b, x([1, 70]), w([70, 149])), w([149]))),
  },
  {
    name: 'two rows, constant transposed weights',
    build: (b, x, w) => c.matmul(b, x([2, 70]), c.transpose(b, w([149, 70]), [1, 0])),
  },
  { name: 'one column of a product', build: (b, x) => c.matmul(b, x([77, 50]), x([50, 1])) },
  { name: 'gemv by transposed rows', build: (b, x) => c.matmul(b, x([1, 50]), c.transpose(b, x([77, 50]), [1, 0])) },
  { name: 'dot product', build: (b, x) => c.matmul(b, x([1, 333]), x([333, 1])) },
  { name: 'skinny, contiguous columns', build: (b, x) => c.matmul(b, x([3, 3, 20]), x([20, 45])) },
  {
    name: 'columns end in a part of a vector',
    build: (b, x) => [17, 23, 31, 33].map((n) => c.matmul(b, x([6, 20]), x([20, n]))),
  },
  {
    name: 'pointwise, odd image',
    build: (b, x, w) =>
      b.op('conv', [x([2, 33, 7, 7]), w([13, 33, 1, 1])], { ...convAttrs, padLow: [0, 0], padHigh: [0, 0] })[0],
  },
  {
    name: 'pointwise, stride 2',
    build: (b, x, w) =>
      b.op('conv', [x([1, 9, 11, 14]), w([13, 9, 1, 1])], {
        ...convAttrs,
        strides: [2, 2],
        padLow: [0, 0],
        padHigh: [0, 0],
      })[0],
  },
  {
    name: 'conv 7x7 stride 2',
    build: (b, x, w) =>
      b.op('conv', [x([1, 3, 23, 25]), w([10, 3, 7, 7])], {
        ...convAttrs,
        strides: [2, 2],
        padLow: [3, 3],
        padHigh: [3, 3],
      })[0],
  },
  {
    name: 'conv stride 3, dilated, uneven padding',
    build: (b, x, w) =>
      b.op('conv', [x([1, 4, 19, 22]), w([5, 4, 3, 4])], {
        ...convAttrs,
        strides: [3, 2],
        dilations: [2, 3],
        padLow: [0, 5],
        padHigh: [4, 1],
      })[0],
  },
  {
    name: 'conv beyond its padding',
    build: (b, x, w) =>
      b.op('conv', [x([1, 2, 3, 3]), w([3, 2, 3, 3])], { ...convAttrs, padLow: [4, 3], padHigh: [3, 5] })[0],
  },
  {
    name: 'conv 1d',
    build: (b, x, w) =>
      b.op('conv', [x([2, 6, 37]), w([9, 6, 5])], {
        strides: [1],
        padLow: [2],
        padHigh: [2],
        dilations: [1],
        inputDilation: [1],
        groups: 1,
        dtype: 'f32',
      })[0],
  },
  {
    name: 'conv 1d with a long kernel',
    build: (b, x, w) =>
      b.op('conv', [x([1, 1, 150]), w([20, 1, 67])], {
        strides: [3],
        padLow: [5],
        padHigh: [2],
        dilations: [1],
        inputDilation: [1],
        groups: 1,
        dtype: 'f32',
      })[0],
  },
  {
    name: 'conv with a long kernel',
    build: (b, x, w) =>
      b.op('conv', [x([1, 2, 9, 40]), w([9, 2, 5, 21])], { ...convAttrs, padLow: [2, 10], padHigh: [2, 10] })[0],
  },
  {
    name: 'conv of patches',
    build: (b, x, w) =>
      b.op('conv', [x([2, 3, 18, 24]), w([10, 3, 6, 6])], {
        ...convAttrs,
        strides: [6, 6],
        padLow: [0, 0],
        padHigh: [0, 0],
      })[0],
  },
  {
    name: 'conv transpose stride 5',
    build: (b, x, w) =>
      b.op('conv', [x([1, 4, 3, 3]), w([6, 4, 5, 5])], {
        ...convAttrs,
        inputDilation: [5, 5],
        padLow: [4, 4],
        padHigh: [4, 4],
      })[0],
  },
  {
    name: 'conv over height only',
    build: (b, x, w) =>
      b.op('conv', [x([2, 6, 37, 1]), w([9, 6, 5, 1])], { ...convAttrs, padLow: [2, 0], padHigh: [2, 0] })[0],
  },
  {
    name: 'conv 3d',
    build: (b, x, w) =>
      b.op('conv', [x([1, 2, 4, 5, 6]), w([3, 2, 2, 3, 3])], {
        strides: [1, 1, 1],
        padLow: [0, 1, 1],
        padHigh: [1, 1, 1],
        dilations: [1, 1, 1],
        inputDilation: [1, 1, 1],
        groups: 1,
        dtype: 'f32',
      })[0],
  },
  {
    name: 'depthwise stride 2, several images',
    build: (b, x, w) =>
      b.op('conv', [x([2, 10, 13, 17]), w([10, 1, 3, 3])], { ...convAttrs, strides: [2, 2], groups: 10 })[0],
  },
  {
    name: 'conv transpose 4x4 stride 2',
    build: (b, x, w) =>
      c.relu(
        b,
        b.op('conv', [x([1, 5, 6, 7]), w([4, 5, 4, 4])], {
          ...convAttrs,
          inputDilation: [2, 2],
          padLow: [2, 2],
          padHigh: [2, 2],
        })[0],
      ),
  },
  {
    name: 'conv transpose 2x2 stride 3',
    build: (b, x, w) =>
      b.op('conv', [x([1, 5, 6, 7]), w([4, 5, 2, 2])], {
        ...convAttrs,
        inputDilation: [3, 3],
        padLow: [1, 1],
        padHigh: [2, 2],
      })[0],
  },
  {
    name: 'residual',
    kernels: 2,
    build: (b, x) => {
      const a = x([1, 8, 6, 16]);
      const y = c.relu(b, b.op('conv', [a, x([8, 8, 3, 3])], convAttrs)[0]);
      return c.relu(b, c.add(b, b.op('conv', [y, x([8, 8, 3, 3])], convAttrs)[0], a));
    },
  },
  {
    name: 'conv then transpose',
    kernels: 1,
    build: (b, x) => c.transpose(b, b.op('conv', [x([1, 16, 6, 8]), x([20, 16, 3, 3])], convAttrs)[0], [0, 2, 3, 1]),
  },
];

for (const [style, target] of Object.entries(testTargets)) {
  describe(style, () => {
    for (const { name, build, kernels } of cases) {
      test(name, () => {
        const b = new GraphBuilder(name);
        const inputs: Record<string, HostTensor> = {};
        let count = 0;
        const input = (shape: readonly number[]) => {
          const named = `x${count++}`;
          inputs[named] = random(shape, count);
          return b.input(named, 'f32', shape);
        };
        const built = build(b, input, (shape) => b.constant(random(shape, ++count)));
        (Array.isArray(built) ? built : [built]).forEach((value, i) => {
          b.output(`y${i}`, value);
        });
        const graph = b.finish();
        const expected = runReference(graph, inputs);
        const run = runGroups(graph, target, inputs);
        for (const [output, tensor] of expected) {
          const [got, want] = [elementsOf(run.outputs.get(output) as HostTensor), elementsOf(tensor)];
          expect(got.length).toBe(want.length);
          for (let i = 0; i < want.length; i++) {
            expect(Math.abs(Number(got[i]) - Number(want[i])), `${output}[${i}]`).toBeLessThan(
              1e-4 * (1 + Math.abs(Number(want[i]))),
            );
          }
        }
        if (kernels !== undefined)
          expect(run.kernels.filter(({ name: kernel }) => !/_(copy|part)$/.test(kernel)).length).toBe(kernels);
      });
    }
  });
}
