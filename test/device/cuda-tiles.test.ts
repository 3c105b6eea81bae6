/** Matrix tiles and asynchronous copies as PTX: against the interpreter on every device, and accepted by ptxas. */
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import type { Backend, Device } from '../../backends/backend.js';
import { cudaBackend } from '../../backends/cuda/index.js';
import type { MatrixUnit } from '../../compiler/kernel/engines.js';
import { legalize } from '../../compiler/kernel/legalize.js';
import type { Target } from '../../compiler/kernel/target.js';
import { verify } from '../../compiler/kernel/verify.js';
import { cudaDevices, openCuda } from '../support/cuda.js';
import { compareRuns, type Run } from '../support/kernel_runs.js';
import { assemble, ptxasKnows, ptxasMissing } from '../support/ptxas.js';
import { encoded, product, stagedCopies } from '../support/tiles.js';

const targetOf = (arch: string): Target => cudaBackend.target(arch) as Target;
const layouts = ['row', 'column'] as const;
const name = ({ a, b, accumulator }: MatrixUnit): string => `${a}×${b}→${accumulator}`;

/** Bytes of small integers in the type, so that sums are exact in any order. */
function values(scalar: MatrixUnit['a'], length: number, seed: number): Uint8Array {
  const low = scalar === 'u8' ? 0 : -5;
  const view = encoded(
    scalar,
    Array.from({ length }, (_, i) => low + (((i + seed) * 37) % 11)),
  );
  return new Uint8Array(view.buffer, view.byteOffset, view.byteLength);
}

/** Every unit of the target in every layout, from both memories, aligned and not, legal for it. */
function runs(target: Target): Run[] {
  const found: Run[] = [];
  for (const unit of target.matrixUnits ?? []) {
    for (const layoutA of layouts) {
      for (const layoutB of layouts) {
        for (const space of ['buffer', 'shared'] as const) {
          for (const padding of [16, 3]) {
            const layoutC = layoutA === layoutB ? 'row' : 'column';
            const made = product(unit, { layoutA, layoutB, layoutC, space, padding, subgroups: 2 });
            const kernel = legalize(made.kernel, target);
            verify(kernel, { stage: 'legal', target });
            found.push({
              what: `${name(unit)}, a ${layoutA}, b ${layoutB}, ${space}, padded by ${padding}`,
              kernel,
              inputs: [
                values(unit.a, made.lengthA, 1),
                values(unit.b, made.lengthB, 2),
                values(unit.accumulator, made.lengthC, 3),
              ],
            });
          }
        }
      }
    }
  }
  if (target.features.has('async_copy')) {
    const kernel = legalize(stagedCopies(), target);
    found.push({ what: 'asynchronous copies', kernel, inputs: [values('f16', 512, 1)] });
  }
  return found;
}

describe('ptxas accepts tiles', () => {
  for (const arch of ['sm_75', 'sm_80', 'sm_90a', 'sm_100']) {
    it.skipIf(ptxasMissing !== undefined || !ptxasKnows(arch))(
      arch,
      async () => {
        const target = targetOf(arch);
        const kernels = runs(target).map(({ kernel }) => kernel);
        const codes = kernels.map((kernel) => cudaBackend.render(kernel, target));
        expect(await assemble(codes, arch, ['--warn-on-spills'])).toEqual([]);
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
        expect(await compareRuns(backend, device, runs(target))).toEqual([]);
      }, 240_000);
    }
  });
}
