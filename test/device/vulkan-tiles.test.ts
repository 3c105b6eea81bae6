/**
 * Matrix tiles as SPIR-V, executed: no driver here has cooperative matrices, so modules are rewritten as plain SPIR-V
 * (cooperative_matrices.ts) and run on the software drivers, against the interpreter and at ragged sizes.
 */
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import type { Backend, Device } from '../../backends/backend.js';
import { vulkanBackend } from '../../backends/vulkan/index.js';
import { archOfMatrices, matricesOf } from '../../backends/vulkan/matrices.js';
import type { Target } from '../../compiler/kernel/target.js';
import { testContractions } from '../support/contraction_suite.js';
import { byteCases, type ContractionCase, floatCases } from '../support/contractions.js';
import { emulated } from '../support/cooperative_matrices.js';
import { compareRuns } from '../support/kernel_runs.js';
import { tileRuns } from '../support/tiles.js';
import { openFirst, softwareDrivers } from '../support/vulkan.js';

/** As drivers of NVIDIA, of AMD, and of Intel's later devices list them; sums of bytes without signs in the first. */
const lists: Readonly<Record<string, readonly string[]>> = {
  'deep bytes': ['16x16x16:f16:f16:f32', '16x16x16:bf16:bf16:f32', '16x16x32:i8:i8:i32', '16x16x32:u8:u8:u32'],
  squares: ['16x16x16:f16:f16:f32', ...['i8:i8', 'u8:u8', 'i8:u8', 'u8:i8'].map((types) => `16x16x16:${types}:i32`)],
  'flat tiles': ['8x16x16:f16:f16:f32', '8x16x32:i8:i8:i32', '8x16x32:u8:u8:i32'],
};

/** The device with matrices, as one that is no software. */
function withMatrices({ target, info }: Device, list: readonly string[]): Target {
  const claimed = list.map((name) => `cooperativeMatrix:${name}`);
  const features = [...info.features, 'shaderBFloat16CooperativeMatrix', ...claimed];
  const matrices = matricesOf({ ...info, software: false, features });
  const arch = target.arch + archOfMatrices(matrices);
  return { ...target, arch, style: 'simt', matrixUnits: matrices.map(({ unit }) => unit) };
}

/** Renders for a target with matrices; what subgroups do, each invocation does. */
const emulating = (target: Target): Pick<Backend, 'render'> => ({
  render(kernel) {
    const { subgroupSize, ...code } = vulkanBackend.render(kernel, target);
    return { ...code, words: emulated(code.words as Uint32Array) };
  },
});

for (const [name, icd] of softwareDrivers) {
  describe(`tiles emulated on ${name}`, () => {
    let device: Device;
    beforeAll(async () => {
      device = await openFirst(icd);
    });
    afterAll(() => device?.close());

    for (const [list, names] of Object.entries(lists)) {
      it(`every layout and memory: ${list}`, async (context) => {
        const target = withMatrices(device, names);
        if (!target.matrixUnits?.length) return context.skip('the driver has no small types');
        expect(target.matrixUnits.length).toBe(names.length);
        const runs = tileRuns(target);
        expect(runs.length).toBe(16 * names.length);
        expect(await compareRuns(emulating(target), device, runs)).toEqual([]);
      }, 240_000);
    }

    if (name !== 'lavapipe') return;
    const contractions = (list: string, suite: string, cases: readonly ContractionCase[]): void =>
      testContractions(
        `${suite}, ${list}`,
        cases,
        { render: (...of) => emulating(of[1]).render(...of) },
        () => device,
        {
          target: () => withMatrices(device, lists[list]),
        },
      );
    contractions('deep bytes', 'f16', floatCases('f16'));
    contractions('deep bytes', 'bf16', floatCases('bf16').slice(1, 2));
    contractions('flat tiles', 'f16', floatCases('f16').slice(1, 3));
    contractions('squares', 'bytes', byteCases);
  });
}
