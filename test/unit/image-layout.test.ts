// Layouts: networks of images give what the reference gives, whichever values lie with their channels last.
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { normal } from '../../bench/random.js';
import { compareTensors } from '../../compiler/compare.js';
import { GraphBuilder } from '../../compiler/graph/builder.js';
import * as c from '../../compiler/graph/compose/index.js';
import type { Graph, Value } from '../../compiler/graph/types.js';
import { schedules } from '../../compiler/schedule/contract/index.js';
import { fuse } from '../../compiler/schedule/fuse.js';
import { assignLayouts } from '../../compiler/schedule/layout.js';
import { type HostTensor, sizeOf } from '../../compiler/tensor.js';
import { chooserOf } from '../support/graph_cases.js';
import { imageNetwork, integers } from '../support/image_networks.js';
import { constantOf } from '../support/plans.js';
import { runGroups, runReference } from '../support/run_groups.js';
import { testTargets } from '../support/targets.js';

const runs = Number(process.env.TUTTI_RANDOM_GRAPHS ?? 40);

function check(graph: Graph, seed: number): void {
  const [{ name, type }] = graph.inputs;
  const inputs = { [name]: integers(type.shape as readonly number[], seed) };
  const expected = runReference(graph, inputs);
  const { outputs } = runGroups(graph, testTargets.cpu, inputs);
  for (const [output, tensor] of expected) expect(outputs.get(output)?.data, output).toEqual(tensor.data);
}

const attrs = {
  strides: [1, 1],
  padLow: [1, 1],
  padHigh: [1, 1],
  dilations: [1, 1],
  inputDilation: [1, 1],
  groups: 1,
  dtype: 'f32' as const,
};

/** Convolutions after each other, a shortcut around the second, and a mean. */
function residual(): Graph {
  const b = new GraphBuilder('residual');
  const weights = (...shape: number[]) => b.constant(constantOf(integers(shape, shape.length)));
  const first = c.clamp(b, b.op('conv', [b.input('x', 'f32', [1, 3, 9, 9]), weights(24, 3, 3, 3)], attrs)[0], -3, 3);
  const second = c.clamp(b, b.op('conv', [first, weights(24, 24, 3, 3)], attrs)[0], -3, 3);
  const sum = c.relu(b, c.add(b, second, first));
  b.output('y', c.reduce(b, 'sum', sum, [2, 3], false));
  return b.finish();
}

describe('layouts of images', () => {
  it('channels are last between convolutions, for inputs and results they stay where they are', () => {
    const graph = residual();
    const groups = assignLayouts(fuse(graph, testTargets.cpu), graph, testTargets.cpu);
    expect(groups.map(({ writes }) => String(writes[0].type.shape))).toEqual(['1,9,9,24', '1,9,9,24', '1,24']);
    expect(groups[0].reads).toContain(graph.inputs[0]);
    check(graph, 1);
  });

  it('are for targets whose kernels gain by them', () => {
    const graph = residual();
    const groups = fuse(graph, testTargets.simt);
    expect(assignLayouts(groups, graph, testTargets.simt)).toBe(groups);
  });

  it.each([
    { size: [24, 24], channels: 33, outputs: 40, pad: 1, images: 1 },
    { size: [25, 31], channels: 32, outputs: 32, pad: 0, images: 1 },
    { size: [21, 23], channels: 48, outputs: 37, pad: 2, images: 2 },
  ])('3×3 windows by minimal filtering: $size, $channels to $outputs', ({ size, channels, outputs, pad, images }) => {
    const b = new GraphBuilder('filtered');
    const random = (...shape: number[]): HostTensor => ({
      dtype: 'f32',
      shape,
      data: normal(sizeOf(shape), shape.length),
    });
    const weights = (...shape: number[]) => b.constant(constantOf(random(...shape)));
    const conv = (x: Value, w: Value, groups: number, padding: number) =>
      b.op('conv', [x, w], { ...attrs, groups, padLow: [padding, padding], padHigh: [padding, padding] })[0];
    const inputs = { x: random(images, channels, ...size) };
    const first = conv(b.input('x', 'f32', inputs.x.shape), weights(channels, 1, 1, 1), channels, 0);
    const filtered = c.relu(b, c.add(b, conv(first, weights(outputs, channels, 3, 3), 1, pad), weights(outputs, 1, 1)));
    b.output('y', conv(filtered, weights(outputs, 1, 1, 1), outputs, 0));
    const graph = b.finish();
    const groups = assignLayouts(fuse(graph, testTargets.cpu), graph, testTargets.cpu);
    expect(schedules(groups[1], testTargets.cpu)[0].name).toBe('winograd');
    const y = runGroups(graph, testTargets.cpu, inputs).outputs.get('y') as HostTensor;
    const expected = runReference(graph, inputs).get('y') as HostTensor;
    // Sums of so many products of normal numbers, times one.
    const tolerance = { rtol: 1e-4, atol: 1e-5 * Math.sqrt(9 * channels) };
    expect(compareTensors(y, expected, tolerance).reason).toBeUndefined();
  });

  it(`${runs} random networks`, { timeout: 3_600_000 }, () => {
    fc.assert(
      fc.property(fc.gen(), fc.nat(1000), (g, seed) => check(imageNetwork(chooserOf(g)), seed)),
      { numRuns: runs, seed: Number(process.env.TUTTI_RANDOM_SEED ?? 5) },
    );
  });
});
