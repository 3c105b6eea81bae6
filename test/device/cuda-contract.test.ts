/** Contractions on tensor cores, as PTX: right on every device at ragged sizes, assembled without spills. */
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import type { Device } from '../../backends/backend.js';
import { cudaBackend } from '../../backends/cuda/index.js';
import * as c from '../../compiler/graph/compose.js';
import { legalize } from '../../compiler/kernel/legalize.js';
import type { Target } from '../../compiler/kernel/target.js';
import { verify } from '../../compiler/kernel/verify.js';
import { schedules } from '../../compiler/schedule/contract/index.js';
import { fuse } from '../../compiler/schedule/fuse.js';
import { testContractions } from '../support/contraction_suite.js';
import { built, byteCases, type ContractionCase, floatCases } from '../support/contractions.js';
import { cudaDevices, openCuda } from '../support/cuda.js';
import { assemble, ptxasKnows, ptxasMissing } from '../support/ptxas.js';

const targetOf = (arch: string): Target => cudaBackend.target(arch) as Target;
const isMatrix = ({ name }: { readonly name: string }): boolean => name.startsWith('matrix');

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
      testContractions(suite, cases, cudaBackend, () => device);
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
