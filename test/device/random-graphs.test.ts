// Random graphs of several ops on every device: what comes out is what the reference evaluation gives. Failures are
// shrunk; the text of the smallest graph goes into random-graphs/, from where it is run ever after.
import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import fc from 'fast-check';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { compareTensors } from '../../compiler/compare.js';
import { evaluateGraph } from '../../compiler/graph/evaluate.js';
import { parseGraph } from '../../compiler/graph/parse.js';
import { printGraph } from '../../compiler/graph/print.js';
import type { Graph } from '../../compiler/graph/types.js';
import { compile, devices, Session, Tensor } from '../../index.js';
import { type DeviceHandle, openDevice } from '../../runtime/device.js';
import { repository } from '../support/data.js';
import { chooserOf } from '../support/graph_cases.js';
import { inputsFor, randomGraph } from '../support/random_graphs.js';
import { useVirtualDevices } from '../support/virtual_devices.js';

useVirtualDevices();
const { devices: present } = await devices();
/** `TUTTI_RANDOM_GRAPHS=1000` looks for more. */
const runs = Number(process.env.TUTTI_RANDOM_GRAPHS ?? 25);
const tolerance = { rtol: 1e-3, atol: 1e-4 };
const kept = join(repository, 'test', 'device', 'random-graphs');

async function check(graph: Graph, device: DeviceHandle, seed: number): Promise<void> {
  const inputs = inputsFor(graph, seed);
  const expected = evaluateGraph(graph, inputs);
  await using session = await Session.create(await compile(graph), { device });
  const feeds = Object.fromEntries(Object.entries(inputs).map(([name, tensor]) => [name, Tensor.fromHost(tensor)]));
  const results = await session.run(feeds);
  for (const [name, tensor] of expected) {
    const { ok, reason } = compareTensors(results[name].toHost(), tensor, tolerance);
    if (!ok) throw new Error(`${name}: ${reason}\n${printGraph(graph)}`);
  }
}

for (const { id } of present) {
  describe(`random graphs on ${id}`, () => {
    let device: DeviceHandle;
    beforeAll(async () => {
      device = await openDevice(id);
    });
    afterAll(async () => {
      await device.release();
    });

    it(`${runs} of them`, { timeout: 3_600_000 }, async () => {
      const property = fc.asyncProperty(fc.gen(), fc.nat(1000), (g, seed) =>
        check(randomGraph(chooserOf(g), 9), device, seed),
      );
      await fc.assert(property, { numRuns: runs, seed: Number(process.env.TUTTI_RANDOM_SEED ?? 11) });
    });

    it.each(readdirSync(kept).filter((name) => name.endsWith('.graph')))('%s', async (name) => {
      const graph = parseGraph(readFileSync(join(kept, name), 'utf8'));
      expect(graph.outputs.length).toBeGreaterThan(0);
      for (const seed of [0, 1]) await check(graph, device, seed);
    });
  });
}
