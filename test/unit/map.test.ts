/**
 * Maps on CPUs against the reference evaluator: operands that run across the result, in squares and strips, ragged, in
 * several tasks; strided slices, casts and chains on the way.
 */
import { describe, expect, test } from 'vitest';
import { GraphBuilder } from '../../compiler/graph/builder.js';
import * as c from '../../compiler/graph/compose/index.js';
import { elementsOf } from '../../compiler/graph/ops/reference/data.js';
import type { Value } from '../../compiler/graph/types.js';
import type { KBlock, KernelFunction } from '../../compiler/kernel/types.js';
import { blocksOf } from '../../compiler/kernel/walk.js';
import { type HostTensor, sizeOf } from '../../compiler/tensor.js';
import { runGroups, runReference } from '../support/run_groups.js';
import { testTargets } from '../support/targets.js';

type Shape = readonly number[];
type Build = (b: GraphBuilder, x: (shape: Shape) => Value) => Value | readonly Value[];

function run(build: Build, lanes: 4 | 8 | 16 = 16): readonly KernelFunction[] {
  const b = new GraphBuilder('map');
  const inputs: Record<string, HostTensor> = {};
  const built = build(b, (shape) => {
    const name = `x${Object.keys(inputs).length}`;
    const data = Float32Array.from({ length: sizeOf(shape) }, (_, i) => Math.sin(1 + i) * 100);
    inputs[name] = { dtype: 'f32', shape, data };
    return b.input(name, 'f32', shape);
  });
  [built].flat().forEach((value, i) => {
    b.output(`y${i}`, value as Value);
  });
  const graph = b.finish();
  const { outputs, kernels } = runGroups(graph, { ...testTargets.cpu, vectorLanes: lanes }, inputs);
  for (const [name, tensor] of runReference(graph, inputs)) {
    const [got, want] = [elementsOf(outputs.get(name) as HostTensor), elementsOf(tensor)];
    expect(got).toEqual(want);
  }
  return kernels;
}

/** Loads of one element, loops or not. */
function scalarLoads({ body }: KernelFunction): number {
  const count = (block: KBlock): number =>
    block.instructions.reduce(
      (sum, inst) =>
        sum +
        (inst.op === 'load' && inst.result.type.lanes === 1 ? 1 : 0) +
        blocksOf(inst)
          .map(count)
          .reduce((p, q) => p + q, 0),
      0,
    );
  return count(body);
}

const turns: readonly (readonly [Shape, Shape])[] = [
  [
    [16, 16],
    [1, 0],
  ],
  [
    [33, 70],
    [1, 0],
  ],
  [
    [130, 140],
    [1, 0],
  ],
  [
    [9, 300],
    [1, 0],
  ],
  [
    [2, 12, 5, 7],
    [0, 2, 3, 1],
  ],
  [
    [2, 5, 7, 12],
    [0, 3, 1, 2],
  ],
  [
    [1, 3, 20, 30],
    [0, 2, 3, 1],
  ],
  [
    [2, 20, 31, 3],
    [0, 3, 1, 2],
  ],
  [
    [1, 5, 9, 21],
    [0, 2, 3, 1],
  ],
  [
    [3, 8, 1, 40],
    [0, 3, 2, 1],
  ],
  [
    [4, 6, 10, 20],
    [3, 1, 2, 0],
  ],
  [
    [2, 3, 4, 5, 6],
    [4, 2, 0, 3, 1],
  ],
  [
    [40, 3, 200],
    [2, 1, 0],
  ],
];

describe.each(turns)('%j turned to %j', (shape, permutation) => {
  test.each([4, 8, 16] as const)('%i lanes', (lanes) => {
    run((b, x) => c.transpose(b, x(shape), permutation), lanes);
  });
  test('with operands that do not turn', () => {
    const turned = permutation.map((d) => shape[d]);
    run((b, x) => {
      const y = c.mul(b, c.transpose(b, x(shape), permutation), x(turned));
      return c.sub(b, y, x([turned[turned.length - 1]]));
    });
  });
  test('of both operands, cast', () => {
    run((b, x) => {
      const sum = c.add(b, c.transpose(b, x(shape), permutation), c.transpose(b, x(shape), permutation));
      return c.cast(b, sum, 'i32');
    });
  });
  test('of a slice', () => {
    run((b, x) =>
      c.transpose(
        b,
        c.slice1(
          b,
          x([...shape.slice(0, -1), 3 + (shape.at(-1) as number)]),
          shape.length - 1,
          2,
          shape.at(-1) as number,
        ),
        permutation,
      ),
    );
  });
});

test('whole vectors: no element of a transpose is loaded alone', () => {
  for (const shape of [
    [64, 96],
    [33, 70],
    [500, 3],
  ]) {
    const kernels = run((b, x) => c.transpose(b, x(shape), [1, 0]));
    expect(kernels.map(scalarLoads)).toEqual([0]);
  }
});

test('two results, one on the way to the other', () => {
  run((b, x) => {
    const turned = c.transpose(b, x([40, 50]), [1, 0]);
    const y = c.add(b, turned, x([50, 40]));
    return [y, c.mul(b, y, y)];
  });
});

const pools = [
  { shape: [2, 3, 9, 40], window: [3, 3], strides: [1, 1], low: [1, 1], high: [1, 1], dilations: [1, 1] },
  { shape: [1, 2, 10, 41], window: [3, 3], strides: [2, 2], low: [1, 1], high: [0, 1], dilations: [1, 1] },
  { shape: [1, 2, 7, 7], window: [5, 5], strides: [1, 1], low: [2, 2], high: [2, 2], dilations: [1, 1] },
  { shape: [1, 1, 5, 6], window: [5, 13], strides: [1, 1], low: [2, 6], high: [2, 6], dilations: [1, 1] },
  { shape: [1, 2, 12, 60], window: [2, 3], strides: [3, 1], low: [0, 2], high: [1, 3], dilations: [2, 3] },
  { shape: [3, 2, 11, 33], window: [2, 2], strides: [2, 2], low: [0, 0], high: [1, 1], dilations: [1, 1] },
  { shape: [40, 2, 20, 33], window: [3, 1], strides: [1, 1], low: [1, 0], high: [1, 0], dilations: [1, 1] },
];
describe.each(pools)('windows $window of $shape', ({ shape, ...attrs }) => {
  const spread = (by: readonly number[], other: number) => [other, other, ...by];
  const window = {
    window: spread(attrs.window, 1),
    strides: spread(attrs.strides, 1),
    dilations: spread(attrs.dilations, 1),
    padLow: spread(attrs.low, 0),
    padHigh: spread(attrs.high, 0),
  };
  test.each(['max', 'min'] as const)('%s', (fn) => {
    run((b, x) => b.op('reduce_window', [x(shape)], { fn, ...window })[0]);
    run((b, x) => c.transpose(b, b.op('reduce_window', [x(shape)], { fn, ...window })[0], [0, 2, 3, 1]));
    run((b, x) => c.relu(b, b.op('reduce_window', [c.transpose(b, x(shape), [0, 1, 2, 3])], { fn, ...window })[0]), 8);
  });
  test('the number of taps inside', () => {
    run((b, x) => {
      const ones = c.cast(b, c.binary(b, 'eq', x(shape), x(shape)), 'f32');
      return b.op('reduce_window', [ones], { fn: 'sum', ...window })[0];
    });
  });
});

test('a window of a number', () => {
  const none = { window: [], strides: [], dilations: [], padLow: [], padHigh: [] };
  run((b, x) => b.op('reduce_window', [x([])], { fn: 'sum', ...none })[0]);
});

test.each([
  { shape: [3, 5], low: [0, 2], high: [0, 1] },
  { shape: [2, 3, 20, 37], low: [0, 0, 1, 1], high: [0, 0, 1, 1] },
  { shape: [2, 3, 20, 37], low: [1, 0, 2, 0], high: [0, 4, 0, 19] },
])('padding of $shape, $low before and $high after', ({ shape, low, high }) => {
  const padded = (b: GraphBuilder, x: Value): Value => {
    const fill = c.scalar(b, 0.5, 'f32');
    return b.op('pad', [x, fill], { low, high, mode: 'constant' })[0];
  };
  run((b, x) => padded(b, x(shape)));
  run((b, x) => padded(b, c.relu(b, x(shape))));
  run((b, x) => c.relu(b, padded(b, x(shape))));
});

test.each([2, 3, 4, 5, 7, 8, 9])('every element of a slice in steps of %i', (step) => {
  run((b, x) => c.slice1(b, x([3, 40 * step]), 1, 1, 37, step));
  run((b, x) => c.slice1(b, x([40 * step, 5]), 0, 1, 37, step));
});

test.each([
  ['parts of which one is shorter than there are tasks', [20], [20000]],
  ['shares of which the last are empty', [16 * 17 + 5], [66000]],
] as const)('a last vector that overlaps is of the task before it: %s', (_, short, long) => {
  run((b, x) => {
    const [first, second] = [x(short), x(long)];
    return c.concat(b, [first, second, second], 0);
  });
});

test('so it is where what lies across is turned', () => {
  run((b, x) => c.transpose(b, x([147, 450]), [1, 0]));
  run((b, x) => c.transpose(b, x([450, 147]), [1, 0]));
});
