/** Matrix tiles and asynchronous copies as PTX: against the interpreter on every device, and accepted by ptxas. */
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import type { Backend, Device } from '../../backends/backend.js';
import { cudaBackend } from '../../backends/cuda/index.js';
import type { Target } from '../../compiler/kernel/target.js';
import { cudaDevices, openCuda } from '../support/cuda.js';
import { compareRuns } from '../support/kernel_runs.js';
import { assemble, ptxasKnows, ptxasMissing } from '../support/ptxas.js';
import { tileRuns } from '../support/tiles.js';

const targetOf = (arch: string): Target => cudaBackend.target(arch) as Target;

describe('ptxas accepts tiles', () => {
  for (const arch of ['sm_75', 'sm_80', 'sm_90a', 'sm_100']) {
    it.skipIf(ptxasMissing !== undefined || !ptxasKnows(arch))(
      arch,
      async () => {
        const target = targetOf(arch);
        const kernels = tileRuns(target).map(({ kernel }) => kernel);
        const codes = kernels.map((kernel) => cudaBackend.render(kernel, target));
        expect(await assemble(codes, arch, ['--warn-on-spills', '--warning-as-error'])).toEqual([]);
      },
      120_000,
    );
  }
});

for (const [where, library] of await cudaDevices()) {
  describe(`tiles on ${where}`, () => {
    let device: Device;
    beforeAll(async () => {
      device = await openCuda(library);
    });
    afterAll(() => device?.close());

    for (const arch of ['sm_75', 'sm_80', 'sm_90a']) {
      it(`code for ${arch}`, async (context) => {
        const target = targetOf(arch);
        const runnable = device.target.arch === arch || (!arch.endsWith('a') && target.arch <= device.target.arch);
        if (!runnable) return context.skip(`${device.target.arch} does not run it`);
        const backend: Backend = { ...cudaBackend, render: (kernel) => cudaBackend.render(kernel, target) };
        expect(await compareRuns(backend, device, tileRuns(target))).toEqual([]);
      }, 240_000);
    }
  });
}
