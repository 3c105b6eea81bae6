/** Contractions on tensor cores, as PTX: right on every device at ragged sizes, assembled without spills. */
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import type { Device, KernelCode } from '../../backends/backend.js';
import { cudaBackend } from '../../backends/cuda/index.js';
import * as c from '../../compiler/graph/compose/index.js';
import { legalize } from '../../compiler/kernel/legalize.js';
import type { Target } from '../../compiler/kernel/target.js';
import { verify } from '../../compiler/kernel/verify.js';
import { schedules } from '../../compiler/schedule/contract/index.js';
import { fuse } from '../../compiler/schedule/fuse.js';
import { testContractions } from '../support/contraction_suite.js';
import { boxCases, built, byteCases, type ContractionCase, floatCases } from '../support/contractions.js';
import { cudaDevices, openCuda } from '../support/cuda.js';
import { assemble, ptxasKnows, ptxasMissing } from '../support/ptxas.js';

const targetOf = (arch: string): Target => cudaBackend.target(arch) as Target;
const startsWith =
  (kind: string) =>
  ({ name }: { readonly name: string }): boolean =>
    name.startsWith(kind);

const suites: readonly (readonly [string, 'matrix' | 'warpgroups', readonly ContractionCase[]])[] = [
  ['f16', 'matrix', floatCases('f16')],
  ['bf16', 'matrix', floatCases('bf16')],
  ['tf32', 'matrix', floatCases('f32')],
  ['bytes', 'matrix', byteCases],
  ['f16 by warpgroups', 'warpgroups', boxCases('f16')],
  ['bf16 by warpgroups', 'warpgroups', boxCases('bf16')],
];

for (const [where, library] of await cudaDevices()) {
  describe(`contractions on ${where}`, () => {
    let device: Device;
    beforeAll(async () => {
      device = await openCuda(library);
    });
    afterAll(() => device?.close());
    // Code for older devices runs on newer ones.
    const old = targetOf('sm_75');
    for (const [suite, , cases] of suites.filter(([suite]) => suite === 'f16' || suite === 'bytes'))
      testContractions(`${suite} as on sm_75`, cases, cudaBackend, () => device, { target: old });
    for (const [suite, kind, cases] of suites) {
      testContractions(suite, cases, cudaBackend, () => device, { kind });
    }
  });
}

/** Code of the chosen forms of each case's contraction. */
function codesOf(examples: readonly ContractionCase[], target: Target, kind: string): KernelCode[] {
  return examples.flatMap((example) => {
    const group = fuse(built(example).graph, target).find(({ family }) => family === 'contract');
    const forms = group ? schedules(group, target).filter(startsWith(kind)) : [];
    return forms
      .flatMap((form) => form.lower())
      .map(({ kernel }) => {
        verify(kernel, { stage: 'scheduled', target });
        return cudaBackend.render(legalize(kernel, target), target);
      });
  });
}
const strictly = ['--warn-on-spills', '--warn-on-local-memory-usage', '--warning-as-error'];

describe('ptxas takes every block without spills', () => {
  it.skipIf(ptxasMissing !== undefined || !ptxasKnows('sm_90a'))(
    'warpgroups for sm_90a, in parallel',
    async () => {
      const codes = codesOf([...boxCases('bf16'), ...boxCases('f16').slice(2, 7)], targetOf('sm_90a'), 'warpgroups');
      expect(codes.length).toBeGreaterThan(50);
      // What it says of products that would run one after another is a warning too.
      expect(await assemble(codes, 'sm_90a', strictly)).toEqual([]);
    },
    300_000,
  );

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
        const codes = codesOf(large, target, 'matrix');
        expect(codes.length).toBeGreaterThan(arch === 'sm_75' ? 10 : 40);
        expect(await assemble(codes, arch, strictly)).toEqual([]);
      },
      300_000,
    );
    it.skipIf(ptxasMissing !== undefined || !ptxasKnows(arch))(
      `words of bytes for ${arch}`,
      async () => {
        const codes = codesOf(byteCases.slice(1), targetOf(arch), 'bytes');
        expect(codes.filter(({ text }) => text?.includes('dp4a')).length).toBeGreaterThan(10);
        expect(await assemble(codes, arch, strictly)).toEqual([]);
      },
      300_000,
    );
  }
});
