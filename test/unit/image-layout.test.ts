// Layouts: networks of images give what the reference gives, whichever values lie with their channels last.
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { GraphBuilder } from '../../compiler/graph/builder.js';
import * as c from '../../compiler/graph/compose.js';
import type { Graph } from '../../compiler/graph/types.js';
import { fuse } from '../../compiler/schedule/fuse.js';
import { assignLayouts } from '../../compiler/schedule/layout.js';
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

  it(`${runs} random networks`, { timeout: 3_600_000 }, () => {
    fc.assert(
      fc.property(fc.gen(), fc.nat(1000), (g, seed) => check(imageNetwork(chooserOf(g)), seed)),
      { numRuns: runs, seed: Number(process.env.TUTTI_RANDOM_SEED ?? 5) },
    );
  });
});
