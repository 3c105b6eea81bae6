// Convolutions by the channels-last forms alone, of images that lie with their channels first: any number of spatial
// dims, strides, dilations and padding, and machines of several widths with much or little scratch memory.
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { normal } from '../../bench/random.js';
import { compareTensors } from '../../compiler/compare.js';
import { GraphBuilder } from '../../compiler/graph/builder.js';
import * as c from '../../compiler/graph/compose/index.js';
import type { Graph } from '../../compiler/graph/types.js';
import type { Target } from '../../compiler/kernel/target.js';
import { schedules } from '../../compiler/schedule/contract/index.js';
import type { lowerGroup } from '../../compiler/schedule/family.js';
import { under } from '../../compiler/schedule/numerics.js';
import { range } from '../../compiler/schedule/tensors.js';
import type { HostTensor } from '../../compiler/tensor.js';
import { type Chooser, chooserOf } from '../support/graph_cases.js';
import { integers } from '../support/image_networks.js';
import { constantOf } from '../support/plans.js';
import { runGroups, runReference } from '../support/run_groups.js';
import { testTargets } from '../support/targets.js';

const runs = Number(process.env.TUTTI_RANDOM_GRAPHS ?? 60);
const { cpu } = testTargets;

interface Convolution {
  readonly input: readonly number[];
  readonly weights: readonly number[];
  readonly strides: readonly number[];
  readonly padLow: readonly number[];
  readonly padHigh: readonly number[];
  readonly dilations: readonly number[];
  readonly groups: number;
}

function graphOf({ input, weights, ...attrs }: Convolution, fill: (shape: readonly number[]) => HostTensor): Graph {
  const b = new GraphBuilder('convolution');
  const constant = (...shape: number[]) => b.constant(constantOf(fill(shape)));
  const inputDilation = attrs.strides.map(() => 1);
  const [y] = b.op('conv', [b.input('x', 'f32', input), constant(...weights)], {
    ...attrs,
    inputDilation,
    dtype: 'f32',
  });
  const bias = constant(weights[0], ...attrs.strides.map(() => 1));
  b.output('y', c.clamp(b, c.add(b, y, bias), -40, 40));
  return b.finish();
}

/** Takes nothing but the named form. */
const only =
  (name: string): typeof lowerGroup =>
  (group, target) => {
    const schedule = schedules(group, target).find((form) => form.name === name);
    const kernels = schedule?.lower() ?? [];
    expect(kernels.length, `${name} has room`).toBe(1);
    return kernels;
  };

function randomConvolution(choose: Chooser): Convolution {
  const { int } = choose;
  const one = <T>(list: readonly T[]): T => list[int(0, list.length - 1)];
  const spatial = range(int(1, 3)).map((d, _, { length }) => (length === 3 && d < 2 ? int(1, 6) : int(1, 24)));
  const isDepthwise = int(0, 3) === 0;
  const channels = one([1, 3, 5, 8, 12, 16, 19]);
  const outputs = one([8, 9, 16, 17, 24, 40]);
  // Pointwise ones have another form.
  const kernel = spatial.map((_, d) => int(d === 0 ? 2 : 1, 4));
  const dilations = kernel.map(() => int(1, 2));
  const padLow = kernel.map(() => int(-1, 3));
  const strides = kernel.map(() => int(1, 3));
  // At least one output, and at most some of padding alone.
  const padHigh = spatial.map((extent, d) =>
    Math.max(int(-1, 3), (kernel[d] - 1) * dilations[d] + 1 - extent - padLow[d]),
  );
  const images = int(1, 2);
  return {
    input: [images, isDepthwise ? outputs : channels, ...spatial],
    weights: [outputs, isDepthwise ? 1 : channels, ...kernel],
    strides,
    padLow,
    padHigh,
    dilations,
    groups: isDepthwise ? outputs : 1,
  };
}

const targets: readonly Target[] = [
  cpu,
  { ...cpu, vectorLanes: 16, vectorRegisters: 32, parallelism: 3 },
  // Boxes of parts of rows.
  {
    ...cpu,
    limits: { ...cpu.limits, sharedBytes: 40 << 10 },
    caches: [
      { bytes: 4 << 10, shared: false },
      { bytes: 6 << 10, shared: false },
    ],
  },
  { ...cpu, vectorLanes: 4, features: new Set(['vectors']) },
];

describe('channels-last forms of images with their channels first', () => {
  it(`${runs} random convolutions`, { timeout: 3_600_000 }, () => {
    fc.assert(
      fc.property(fc.gen(), fc.nat(1000), fc.constantFrom(...targets), (g, seed, target) => {
        const convolution = randomConvolution(chooserOf(g));
        const graph = graphOf(convolution, (shape) => integers(shape, seed + shape.length));
        const inputs = { x: integers(convolution.input, seed) };
        const { outputs } = runGroups(graph, target, inputs, undefined, only('image'));
        expect(outputs.get('y')?.data).toEqual(runReference(graph, inputs).get('y')?.data);
      }),
      { numRuns: runs, seed: Number(process.env.TUTTI_RANDOM_SEED ?? 7) },
    );
  });

  it.each([
    { size: [24, 24], channels: 33, outputs: 40, pad: 1, images: 1 },
    { size: [25, 31], channels: 32, outputs: 35, pad: 0, images: 2 },
    // Few tiles: tasks share channels.
    { size: [14, 14], channels: 32, outputs: 70, pad: 1, images: 1 },
  ])('minimal filtering: $size, $channels to $outputs', ({ size, channels, outputs, pad, images }) => {
    const [ones, pads] = [size.map(() => 1), size.map(() => pad)];
    const convolution: Convolution = {
      input: [images, channels, ...size],
      weights: [outputs, channels, 3, 3],
      strides: ones,
      padLow: pads,
      padHigh: pads,
      dilations: ones,
      groups: 1,
    };
    const fill = (shape: readonly number[]): HostTensor => ({
      dtype: 'f32',
      shape,
      data: normal(
        shape.reduce((all, extent) => all * extent, 1),
        shape.length,
      ),
    });
    const graph = graphOf(convolution, fill);
    const inputs = { x: fill(convolution.input) };
    const y = runGroups(graph, { ...cpu, parallelism: 3 }, inputs, undefined, only('winograd')).outputs.get(
      'y',
    ) as HostTensor;
    const expected = runReference(graph, inputs).get('y') as HostTensor;
    const tolerance = { rtol: 1e-4, atol: 2e-5 * Math.sqrt(9 * channels) };
    expect(compareTensors(y, expected, tolerance).reason).toBeUndefined();
  });

  it('are taken where sums are long, and for three spatial dims', () => {
    const best = (input: number[], weights: number[], groups = 1, on = cpu): string => {
      const spatial = input.slice(2);
      const [zeros, ones] = [spatial.map(() => 0), spatial.map(() => 1)];
      const attrs = { strides: ones, padLow: zeros, padHigh: zeros, dilations: ones, groups };
      const graph = graphOf({ input, weights, ...attrs }, (shape) => integers(shape, 1));
      let name = '';
      runGroups(graph, on, { x: integers(input, 1) }, undefined, (group, target) => {
        const [first] = schedules(group, target);
        name = first.name;
        return first.lower();
      });
      return name;
    };
    expect(best([1, 32, 9, 9], [32, 32, 3, 3])).toBe('image');
    expect(best([1, 32, 18, 18], [32, 32, 3, 3])).toBe('winograd');
    expect(best([1, 32, 18, 18], [32, 32, 3, 3], 1, under('strict', cpu))).toBe('image');
    expect(best([1, 32, 5, 9, 9], [32, 32, 3, 3, 3])).toBe('image');
    expect(best([1, 2, 5, 9, 9], [8, 2, 3, 3, 3])).toBe('image');
    expect(best([1, 16, 5, 9, 9], [16, 1, 3, 3, 3], 16)).toBe('image');
    expect(best([1, 3, 9, 9], [32, 3, 3, 3])).toBe('staged');
    expect(best([1, 16, 9, 9], [16, 1, 3, 3], 16)).toBe('staged');
  });
});
