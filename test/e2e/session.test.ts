// From a graph or a file to numbers on a device, through the public entry point.
import { describe, expect, it } from 'vitest';
import { GraphBuilder } from '../../compiler/graph/builder.js';
import { dimName } from '../../compiler/graph/dims.js';
import type { Graph } from '../../compiler/graph/types.js';
import { compile, devices, Session, Tensor } from '../../index.js';
import { interpreterDevice } from '../support/interpreter_device.js';

/** relu(x·w + b) then softmax, over [n, 3] → [n, 5]. */
function dense(): Graph {
  const g = new GraphBuilder('dense');
  const n = dimName('n');
  const x = g.input('x', 'f32', [n, 3]);
  const w = g.constant(
    { dtype: 'f32', shape: [3, 5], data: Float32Array.from({ length: 15 }, (_, i) => Math.sin(i)) },
    'w',
  );
  const b = g.constant({ dtype: 'f32', shape: [5], data: Float32Array.of(0.1, -0.2, 0.3, -0.4, 0.5) }, 'b');
  const [product] = g.op('dot', [x, w], {
    lhsBatch: [],
    rhsBatch: [],
    lhsContract: [1],
    rhsContract: [0],
    dtype: 'f32',
  });
  const [bias] = g.op('broadcast', [b], { shape: [n, 5] });
  const [sum] = g.op('add', [product, bias], {});
  const [relu] = g.op('clamp', [sum], { min: 0, max: null });
  const [probabilities] = g.op('softmax', [relu], { axes: [1], log: false });
  g.output('hidden', relu);
  g.output('probabilities', probabilities);
  return g.finish();
}

function reference(x: Float32Array): { hidden: number[]; probabilities: number[] } {
  const hidden: number[] = [];
  const probabilities: number[] = [];
  for (let row = 0; row < x.length / 3; row++) {
    const values = [0.1, -0.2, 0.3, -0.4, 0.5].map((bias, j) =>
      Math.max(
        0,
        [0, 1, 2].reduce((sum, k) => sum + x[3 * row + k] * Math.sin(5 * k + j), bias),
      ),
    );
    const total = values.reduce((sum, value) => sum + Math.exp(value), 0);
    hidden.push(...values);
    probabilities.push(...values.map((value) => Math.exp(value) / total));
  }
  return { hidden, probabilities };
}

const close = (actual: Tensor, expected: readonly number[]) => {
  expect(actual.size).toBe(expected.length);
  for (const [i, value] of expected.entries()) expect(Number(actual.data[i])).toBeCloseTo(value, 5);
};

const present = await devices();

describe('a dense layer', () => {
  const targets: readonly [string, () => string | object][] = [
    ['interpreter', () => interpreterDevice()],
    ...present.devices.map((info): [string, () => string] => [info.id, () => info.id]),
  ];
  for (const [name, device] of targets) {
    it(`runs at several batch sizes on ${name}`, async () => {
      const model = await compile(dense());
      await using session = await Session.create(model, { device: device() });
      for (const n of [1, 4, 33, 1]) {
        const x = Float32Array.from({ length: 3 * n }, (_, i) => Math.cos(i * 7));
        const outputs = await session.run({ x: Tensor.from(x, [n, 3]) });
        const expected = reference(x);
        expect(outputs.probabilities.dims).toEqual([n, 5]);
        close(outputs.hidden, expected.hidden);
        close(outputs.probabilities, expected.probabilities);
      }
      const { specialisations } = session.report();
      expect(specialisations).toHaveLength(3);
      expect(session.memory.constantBytes).toBeGreaterThan(0);
    });
  }
});
