/** Attention on tensor cores, as PTX: right on every device at ragged sizes, assembled without spills. */
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import type { Device, KernelCode } from '../../backends/backend.js';
import { cudaBackend } from '../../backends/cuda/index.js';
import { compareTensors } from '../../compiler/compare.js';
import type { DType } from '../../compiler/dtype.js';
import { legalize } from '../../compiler/kernel/legalize.js';
import type { Target } from '../../compiler/kernel/target.js';
import { verify } from '../../compiler/kernel/verify.js';
import { forms } from '../../compiler/schedule/attend/index.js';
import { fuse } from '../../compiler/schedule/fuse.js';
import type { HostTensor } from '../../compiler/tensor.js';
import { attentionCases, built, causal, plain } from '../support/attentions.js';
import { on } from '../support/contraction_suite.js';
import { runForm } from '../support/contractions.js';
import { cudaDevices, openCuda } from '../support/cuda.js';
import { assemble, ptxasKnows, ptxasMissing } from '../support/ptxas.js';
import { runReference } from '../support/run_groups.js';

const targetOf = (arch: string): Target => cudaBackend.target(arch) as Target;
const halves = ['f16', 'bf16'] as const satisfies readonly DType[];
const kinds = ['tiles', 'warpgroups'] as const;

for (const [where, library] of await cudaDevices()) {
  describe(`attention on ${where}`, () => {
    let device: Device;
    beforeAll(async () => {
      device = await openCuda(library);
    });
    afterAll(() => device?.close());
    for (const kind of kinds) {
      for (const dtype of halves) {
        for (const { name, build } of attentionCases.filter((one) => one.dtype === undefined)) {
          it(`${kind}, ${dtype}: ${name}`, async (context) => {
            const { target } = device;
            const made = built(build, dtype);
            const got = await runForm(
              made,
              target,
              (all) => all.find((form) => form.name === kind),
              on(cudaBackend, device, target),
            );
            if (!got) return context.skip('the form is not for it');
            const want = runReference(made.graph, made.inputs).get('y') as HostTensor;
            const tolerance = dtype === 'f16' ? 4e-3 : 3e-2;
            expect(compareTensors(got, want, { rtol: tolerance, atol: tolerance }).reason ?? '').toBe('');
          }, 120_000);
        }
      }
    }
  });
}

/** Heads of usual and unusual widths. */
const widths = [32, 64, 80, 128, 256];

function codesOf(target: Target, kind: (typeof kinds)[number]): KernelCode[] {
  return halves.flatMap((dtype) =>
    widths.flatMap((width) =>
      [false, true].flatMap((isCausal) => {
        const { graph } = built(
          plain([2, 4, 300, width], 300, width, (b, scores) => (isCausal ? causal(b, scores) : scores)),
          dtype,
        );
        const group = fuse(graph, target).find(({ family }) => family === 'attend');
        const form = group && forms(group, target).find(({ name }) => name === kind);
        return (form?.lower() ?? []).map(({ kernel }) => {
          verify(kernel, { stage: 'scheduled', target });
          return cudaBackend.render(legalize(kernel, target), target);
        });
      }),
    ),
  );
}

describe('ptxas takes attention without spills', () => {
  const strictly = ['--warn-on-spills', '--warn-on-local-memory-usage', '--warning-as-error'];
  it.skipIf(ptxasMissing !== undefined || !ptxasKnows('sm_90a'))(
    'warpgroups for sm_90a, in parallel',
    async () => {
      const codes = codesOf(targetOf('sm_90a'), 'warpgroups');
      expect(codes.length).toBe(halves.length * widths.filter((width) => width <= 128).length * 2);
      // What it says of products that would run one after another is a warning too.
      expect(await assemble(codes, 'sm_90a', strictly)).toEqual([]);
    },
    300_000,
  );
  for (const arch of ['sm_80', 'sm_90a', 'sm_100']) {
    it.skipIf(ptxasMissing !== undefined || !ptxasKnows(arch))(
      arch,
      async () => {
        const codes = codesOf(targetOf(arch), 'tiles');
        expect(codes.length).toBe(halves.length * widths.length * 2);
        expect(await assemble(codes, arch, strictly)).toEqual([]);
      },
      300_000,
    );
  }
});
