// Attention on every device, virtual ones included: what comes out is what the reference evaluation gives.
import { afterAll, beforeAll, describe, it } from 'vitest';
import { compareTensors } from '../../compiler/compare.js';
import { evaluateGraph } from '../../compiler/graph/evaluate.js';
import { compile, devices, Session, Tensor } from '../../index.js';
import { type DeviceHandle, openDevice } from '../../runtime/device.js';
import { attentionCases, built } from '../support/attentions.js';
import { useVirtualDevices } from '../support/virtual_devices.js';

useVirtualDevices();
const { devices: present } = await devices();

for (const { id } of present) {
  describe(`attention on ${id}`, () => {
    let device: DeviceHandle;
    beforeAll(async () => {
      device = await openDevice(id);
    });
    afterAll(async () => {
      await device.release();
    });

    it.each(attentionCases)('$name', { timeout: 600_000 }, async ({ build, dtype, tolerance = 1e-4 }) => {
      const { graph, inputs } = built(build, dtype);
      const expected = evaluateGraph(graph, inputs);
      await using session = await Session.create(await compile(graph), { device });
      const feeds = Object.fromEntries(Object.entries(inputs).map(([name, tensor]) => [name, Tensor.fromHost(tensor)]));
      const results = await session.run(feeds);
      for (const [name, tensor] of expected) {
        const { ok, reason } = compareTensors(results[name].toHost(), tensor, { rtol: tolerance, atol: tolerance });
        if (!ok) throw new Error(`${name}: ${reason}`);
      }
    });
  });
}
