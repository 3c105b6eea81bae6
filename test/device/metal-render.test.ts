/** Rendered MSL against the interpreter, bit for bit, on every Metal device there is. */
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import type { Device } from '../../backends/backend.js';
import { metalBackend } from '../../backends/metal/index.js';
import { legalize } from '../../compiler/kernel/legalize.js';
import { testContractions } from '../support/contraction_suite.js';
import { floatCases } from '../support/contractions.js';
import { numberTypes } from '../support/kernel_data.js';
import { compareRuns } from '../support/kernel_runs.js';
import { metalDevices, openMetal } from '../support/metal.js';
import { testRendered } from '../support/render_suite.js';
import { product, tileRuns } from '../support/tiles.js';

// Apple's GPUs flush subnormal f32, and so does the virtual device unless told: bit for bit shows more.
process.env.TUTTI_VIRTUAL_METAL_SUBNORMALS = 'keep';

const devices = await metalDevices();
if (devices.length === 0)
  describe.skip('metal: no Metal and no virtual device (npm run build:virtual)', () =>
    it('is not here', () => undefined));

for (const [name, library] of devices) {
  describe(`metal kernels on ${name}`, () => {
    let device: Device;
    beforeAll(async () => {
      device = await openMetal(library);
    });
    afterAll(async () => {
      await device?.close();
    });

    testRendered(
      metalBackend,
      () => device,
      numberTypes.filter((scalar) => scalar !== 'f64'),
      () => (device.info.virtual ? {} : { flush: true }),
    );

    it('multiplies matrix tiles of every type that the device has, in every layout', async (context) => {
      const runs = tileRuns(device.target);
      if (runs.length === 0) return context.skip('the device has no matrix units');
      expect(await compareRuns(metalBackend, device, runs)).toEqual([]);
    });

    for (const dtype of ['f16', 'bf16', 'f32'] as const) {
      testContractions(`contracts ${dtype} by matrix tiles`, floatCases(dtype), metalBackend, () => device, {
        operands: dtype,
      });
    }

    it('multiplies tiles of several simdgroup matrices', async (context) => {
      if (!device.target.matrixUnits) return context.skip('the device has no matrix units');
      const runs = ([16, 32] as const).map((m) => {
        const { kernel, lengthA, lengthB, lengthC } = product(
          { m, n: 24, k: 16, a: 'f32', b: 'f32', accumulator: 'f32' },
          { layoutA: 'column', subgroups: 2 },
        );
        const integers = (length: number): Uint8Array =>
          new Uint8Array(Float32Array.from({ length }, (_, i) => ((i * 37) % 11) - 5).buffer);
        return {
          what: `${m}×24×16`,
          kernel: legalize(kernel, device.target),
          inputs: [lengthA, lengthB, lengthC].map(integers),
        };
      });
      expect(await compareRuns(metalBackend, device, runs)).toEqual([]);
    });
  });
}
