// Groups that are alike are lowered once: each keeps its own memory, weights and numbers that are built in.
import { describe, expect, it } from 'vitest';
import { cpuBackend } from '../../backends/cpu/index.js';
import { ModelBuilder, type Value } from '../../compiler/builder/index.js';
import { plan } from '../../compiler/compile.js';
import { evaluateGraph } from '../../compiler/graph/evaluate.js';
import type { Graph } from '../../compiler/graph/types.js';
import type { Target } from '../../compiler/kernel/target.js';
import type { HostTensor } from '../../compiler/tensor.js';
import { Session } from '../../runtime/session.js';
import { Tensor } from '../../runtime/tensor.js';
import { interpreterDevice } from '../support/interpreter_device.js';

const cpu = cpuBackend.target() as Target;
const byteTarget: Target = { ...cpu, byteDots: new Set(['u8i8', 'i8i8'] as never) };

const weights = (count: number, seed: number): Float32Array =>
  Float32Array.from({ length: count }, (_, i) => Math.sin(i * 1.3 + seed) / 3);

function chain(blocks: number, block: (g: ModelBuilder, x: Value, i: number) => Value): Graph {
  const g = new ModelBuilder('chain');
  let x = g.input('x', 'f32', [1, 8, 6, 6]);
  for (let i = 0; i < blocks; i++) x = block(g, x, i);
  g.output('y', x);
  return g.build();
}

const conv = (seed: (i: number) => number) => (g: ModelBuilder, x: Value, i: number) =>
  g.relu(g.conv(x, g.constant(weights(8 * 8 * 9, seed(i)), [8, 8, 3, 3]), { padding: 1 }));

/** How often forms were looked for, and how many groups there were. */
function lowerings(graph: Graph, target: Target) {
  let [visited, lowered] = [0, 0];
  const planned = plan(graph, target, {
    visit: (group) => void (visited += group.family === 'contract' ? 1 : 0),
    prefer: (_, forms) => {
      lowered++;
      return forms;
    },
  });
  return { visited, lowered, planned };
}

async function check(graph: Graph): Promise<void> {
  const data = weights(8 * 36, 0.5);
  const expected = evaluateGraph(graph, { x: { dtype: 'f32', shape: [1, 8, 6, 6], data } }).get('y') as HostTensor;
  const session = await Session.create(graph, { device: interpreterDevice() });
  const { y } = await session.run({ x: Tensor.from(data, [1, 8, 6, 6]) });
  await session.close();
  const actual = y.data as Float32Array;
  for (const [i, value] of [...(expected.data as Float32Array)].entries()) expect(actual[i]).toBeCloseTo(value, 4);
}

describe('groups that are alike', () => {
  it('are lowered once and read their own weights', async () => {
    const graph = chain(
      5,
      conv((i) => i),
    );
    const { visited, lowered, planned } = lowerings(graph, cpu);
    expect(visited).toBeGreaterThan(4);
    // The first and the last may see another layout.
    expect(lowered).toBeLessThanOrEqual(3);
    const packed = planned.constants.map(({ data }) => Array.from(data.load().data as Float32Array).join());
    expect(new Set(packed).size).toBe(packed.length);
    expect(new Set(planned.constants.map(({ name }) => name)).size).toBe(packed.length);
    await check(graph);
  });

  it('differ by numbers that are built in', async () => {
    const graph = chain(3, (g, x, i) => g.add(g.mul(g.sigmoid(x), g.constant([i === 2 ? 2 : 3])), g.constant([1])));
    await check(graph);
    const parted = chain(3, (g, x, i) => g.softmax(g.mul(x, g.constant([i === 2 ? 2 : 3])), 3));
    await check(parted);
  });

  it('differ by shape', () => {
    const graph = chain(4, (g, x, i) => (i === 2 ? g.concat([x, x], 1) : x));
    expect(lowerings(graph, cpu).lowered).toBe(0);
  });

  it('are weights of bytes or others, where that decides the form', async () => {
    const integers = Float32Array.from({ length: 8 * 8 * 9 }, (_, i) => (i % 7) - 3);
    const mixed = (odd: Float32Array) =>
      chain(6, (g, x, i) => {
        const data = i === 3 ? odd : weights(8 * 8 * 9, i);
        return g.relu(g.conv(x, g.constant(data, [8, 8, 3, 3]), { padding: 1 }));
      });
    const [same, other] = [mixed(weights(8 * 8 * 9, 3)), mixed(integers)];
    expect(lowerings(other, cpu).lowered).toBe(lowerings(same, cpu).lowered);
    expect(lowerings(other, byteTarget).lowered).toBe(lowerings(same, byteTarget).lowered + 1);
    await check(other);
  });
});
