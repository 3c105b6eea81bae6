// Random ONNX models on every device: what comes out is what the reference evaluation of the imported graph gives, for
// all shapes in one session. Failures are shrunk.
import { afterAll, beforeAll, describe, it } from 'vitest';
import { devices } from '../../index.js';
import { type DeviceHandle, openDevice } from '../../runtime/device.js';
import { checkOnDevice, huntedFamilies, huntModels, modelRuns } from '../support/model_hunt.js';
import { useVirtualDevices } from '../support/virtual_devices.js';

useVirtualDevices();
const { devices: present } = await devices();
const wanted = process.env.TUTTI_RANDOM_DEVICES?.split(',');

for (const { id } of present.filter((device) => wanted?.some((name) => device.id.startsWith(name)) ?? true)) {
  describe(`random models on ${id}`, () => {
    let device: DeviceHandle;
    beforeAll(async () => {
      device = await openDevice(id);
    });
    afterAll(async () => {
      await device.release();
    });

    it.each(huntedFamilies)(`${modelRuns} of %s`, { timeout: 36_000_000 }, async (family) => {
      await huntModels(family, modelRuns, (model) => checkOnDevice(model, device));
    });
  });
}
