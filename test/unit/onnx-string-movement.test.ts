/** Strings that are only moved about: they stay with the host, whatever decides where they go. */
import { describe, expect, it } from 'vitest';
import type { HostTensor } from '../../compiler/tensor.js';
import { compile } from '../../index.js';
import { Session } from '../../runtime/session.js';
import { Tensor } from '../../runtime/tensor.js';
import { interpreterDevice } from '../support/interpreter_device.js';
import { f32, i64, type ModelInit, model, node, value } from '../support/onnx_model.js';

const strings = (...data: readonly string[]): HostTensor => ({ dtype: 'string', shape: [data.length], data });

async function run(init: ModelInit, feeds: Readonly<Record<string, HostTensor>>): Promise<Record<string, unknown>> {
  await using session = await Session.create(await compile(model(init)), { device: interpreterDevice() });
  const results: Record<string, unknown> = {};
  const given = Object.entries(feeds).map(([name, tensor]) => [name, Tensor.fromHost(tensor)]);
  for (const [name, tensor] of Object.entries(await session.run(Object.fromEntries(given)))) {
    results[name] = tensor.toHost().data;
  }
  return results;
}

const text = value('x', 'string', ['n']);

describe('strings of an input', () => {
  it('are results as they are, beside what a device computes', async () => {
    const init = { nodes: [node('y = Identity(x)'), node('z = Neg(f)')], outputs: ['y', 'x', 'z'] };
    const feeds = { x: strings('a', 'ß'), f: f32([1], 3) };
    const results = await run({ ...init, inputs: [text, value('f', 'f32', [1])] }, feeds);
    expect(results).toEqual({ y: ['a', 'ß'], x: ['a', 'ß'], z: Float32Array.of(-3) });
  });
  it('are joined, reshaped and gathered', async () => {
    const nodes = [node('j = Concat(x, x)', { axis: 0n }), node('g = Gather(j, i)'), node('y = Unsqueeze(g, a)')];
    const inputs = [text, value('i', 'i64', [2]), value('a', 'i64', [1])];
    const results = await run({ nodes, inputs, outputs: ['y'] }, { x: strings('a', 'b'), i: i64(3, 0), a: i64(0) });
    expect(results).toEqual({ y: ['b', 'a'] });
  });
  it('differ from run to run of one session', async () => {
    const bytes = model({ nodes: [node('y = Concat(x, x)', { axis: 0n })], inputs: [text], outputs: ['y'] });
    await using session = await Session.create(await compile(bytes), { device: interpreterDevice() });
    for (const word of ['a', 'b']) {
      const { y } = await session.run({ x: Tensor.fromHost(strings(word)) });
      expect(y.toHost().data).toEqual([word, word]);
    }
  });
});

it('labels are picked by places that a device finds', async () => {
  const nodes = [node('i = ArgMax(f)', { axis: -1n, keepdims: 0n }), node('y = Gather(labels, i)')];
  const initializers = { labels: strings('cat', 'dog', 'owl') };
  const init = { nodes, initializers, inputs: [value('f', 'f32', [2, 3])], outputs: ['y'] };
  expect(await run(init, { f: f32([2, 3], 1, 5, 2, 0, 1, 9) })).toEqual({ y: ['dog', 'owl'] });
});
