/** Contractions on tensor cores, as PTX: right on every device at ragged sizes, assembled without spills. */
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import type { Device } from '../../backends/backend.js';
import { cudaBackend } from '../../backends/cuda/index.js';
import * as c from '../../compiler/graph/compose.js';
import { elementsOf } from '../../compiler/graph/ops/reference/data.js';
import { legalize } from '../../compiler/kernel/legalize.js';
import type { Target } from '../../compiler/kernel/target.js';
import { verify } from '../../compiler/kernel/verify.js';
import { schedules } from '../../compiler/schedule/contract/index.js';
import { fuse } from '../../compiler/schedule/fuse.js';
import { built, byteCases, type ContractionCase, type Execute, floatCases, runForm } from '../support/contractions.js';
import { cudaDevices, openCuda } from '../support/cuda.js';
import { assemble, ptxasKnows, ptxasMissing } from '../support/ptxas.js';
import { runReference } from '../support/run_groups.js';

const targetOf = (arch: string): Target => cudaBackend.target(arch) as Target;
const isMatrix = ({ name }: { readonly name: string }): boolean => name.startsWith('matrix');

/** Runs kernels on a device: their buffers are made, filled and read back around one dispatch. */
const on =
  (device: Device, target: Target): Execute =>
  async (scheduled, memories) => {
    const kernel = legalize(scheduled, target);
    verify(kernel, { stage: 'legal', target });
    const [loaded] = await device.loadKernels([cudaBackend.render(kernel, target)]);
    const buffers = memories.map(({ length }) => device.allocate(Math.ceil(length / 16) * 16));
    const whole = buffers.map((buffer, i) => ({ buffer, offset: 0, bytes: memories[i].length }));
    const bindings = buffers.map((buffer) => ({ buffer, offset: 0, bytes: buffer.bytes }));
    const list = await device.record([{ kind: 'dispatch', kernel: loaded, grid: kernel.grid, bindings }]);
    await device.queue.submit({
      list,
      writes: whole.map((to, i) => ({ to, data: memories[i].slice() })),
      reads: whole.map((from, i) => ({ from, into: memories[i] })),
    });
    list.release();
    for (const buffer of buffers) buffer.free();
    loaded.release();
  };

const suites: readonly (readonly [string, readonly ContractionCase[]])[] = [
  ['f16', floatCases('f16')],
  ['bf16', floatCases('bf16')],
  ['tf32', floatCases('f32')],
  ['bytes', byteCases],
];

for (const [where, library] of await cudaDevices()) {
  describe(`contractions on ${where}`, () => {
    let device: Device;
    beforeAll(async () => {
      device = await openCuda(library);
    });
    afterAll(() => device?.close());
    for (const [suite, cases] of suites) {
      for (const example of cases) {
        it(`${suite}: ${example.name}`, async () => {
          const made = built(example);
          const execute = on(device, device.target);
          const got = await runForm(made, device.target, (forms) => forms.find(isMatrix), execute);
          const want = runReference(made.graph, made.inputs).get('y');
          expect(got && [...elementsOf(got)].map(Number)).toEqual(want && [...elementsOf(want)].map(Number));
        }, 120_000);
      }
    }
  });
}

describe('ptxas takes every block without spills', () => {
  const large: readonly ContractionCase[] = [
    ...(['f16', 'bf16', 'f32'] as const).map(
      (dtype) =>
        ({
          name: `product of ${dtype}`,
          build: (b, x) =>
            c.relu(b, c.add(b, c.matmul(b, x(dtype, [1000, 520]), x(dtype, [520, 1080])), x(dtype, [1080]))),
        }) satisfies ContractionCase,
    ),
    floatCases('f16')[6],
    floatCases('bf16')[8],
    ...byteCases.slice(2),
  ];
  for (const arch of ['sm_75', 'sm_80', 'sm_90a', 'sm_100']) {
    it.skipIf(ptxasMissing !== undefined || !ptxasKnows(arch))(
      arch,
      async () => {
        const target = targetOf(arch);
        const codes = large.flatMap((example) => {
          const group = fuse(built(example).graph, target).find(({ family }) => family === 'contract');
          const forms = group ? schedules(group, target).filter(isMatrix) : [];
          return forms
            .flatMap((form) => form.lower())
            .map(({ kernel }) => {
              verify(kernel, { stage: 'scheduled', target });
              return cudaBackend.render(legalize(kernel, target), target);
            });
        });
        expect(codes.length).toBeGreaterThan(arch === 'sm_75' ? 10 : 40);
        expect(await assemble(codes, arch, ['--warn-on-spills', '--warn-on-local-memory-usage'])).toEqual([]);
      },
      300_000,
    );
  }
});
