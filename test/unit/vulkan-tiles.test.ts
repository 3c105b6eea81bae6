/** Matrix tiles as cooperative matrices: what modules say, whether validators agree, and which devices have units. */
import { spawnSync } from 'node:child_process';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import type { DeviceInfo } from '../../backends/backend.js';
import { vulkanBackend } from '../../backends/vulkan/index.js';
import { withoutMatrices } from '../../backends/vulkan/matrices.js';
import { legalize } from '../../compiler/kernel/legalize.js';
import type { KernelFunction } from '../../compiler/kernel/types.js';
import { verify } from '../../compiler/kernel/verify.js';
import { schedules } from '../../compiler/schedule/contract/index.js';
import { fuse } from '../../compiler/schedule/fuse.js';
import { built, byteCases, floatCases } from '../support/contractions.js';
import { emulated, inOlderTerms } from '../support/cooperative_matrices.js';
import { product, tileRuns } from '../support/tiles.js';

const products = [
  '16x16x16:f16:f16:f32',
  '16x16x16:f16:f16:f16',
  '16x8x16:f16:f16:f32',
  '16x16x16:bf16:bf16:f32',
  '16x16x32:i8:i8:i32',
  '16x16x32:u8:u8:u32',
];
const features = [
  'shaderInt16',
  'shaderFloat16',
  'shaderInt8',
  'shaderBFloat16CooperativeMatrix',
  'storageBuffer16BitAccess',
  'storageBuffer8BitAccess',
  'signedZeroInfNanPreserve16',
  'signedZeroInfNanPreserve32',
  'roundingModeRTE16',
  'roundingModeRTE32',
  'subgroups',
  'subgroupSizeControl',
  'vulkanMemoryModel',
];
const device = (
  found: readonly string[] = products,
  change: Partial<DeviceInfo> = {},
  limits: Readonly<Record<string, number>> = {},
): DeviceInfo => ({
  id: 'vulkan:test',
  backend: 'vulkan',
  name: 'test',
  driver: 'test',
  virtual: false,
  software: false,
  memoryBytes: 2 ** 30,
  features: [...features, ...found.map((name) => `cooperativeMatrix:${name}`)],
  limits: {
    subgroupSize: 32,
    maxComputeSharedMemorySize: 48 << 10,
    maxComputeWorkGroupInvocations: 1024,
    maxComputeWorkGroupSizeX: 1024,
    ...limits,
  },
  ...change,
});
const full = vulkanBackend.describe(device());

const hasValidator = spawnSync('spirv-val', ['--version']).status === 0;
let folder: string;
beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), 'tutti-tiles-'));
});
afterAll(() => {
  rmSync(folder, { recursive: true, force: true });
});
function complaints(words: Uint32Array): string {
  const file = join(folder, 'module.spv');
  writeFileSync(file, words);
  const { stdout, stderr } = spawnSync('spirv-val', ['--target-env', 'vulkan1.3', file], { encoding: 'utf8' });
  return stdout + stderr;
}
const wordsOf = (kernel: KernelFunction, target = full): Uint32Array =>
  vulkanBackend.render(kernel, target).words as Uint32Array;

/** Kernels of every matrix form of a contraction. */
function kernelsOf(cases: typeof byteCases, target = full): KernelFunction[] {
  return cases.flatMap((example) => {
    const group = fuse(built(example).graph, target).find(({ family }) => family === 'contract');
    const forms = group ? schedules(group, target).filter(({ name }) => name.startsWith('matrix')) : [];
    return forms
      .flatMap((form) => form.lower())
      .map(({ kernel }) => {
        const legal = legalize(kernel, target);
        verify(legal, { stage: 'legal', target });
        return legal;
      });
  });
}

describe('modules with cooperative matrices', () => {
  it.skipIf(!hasValidator)(
    'are valid in older terms and when emulated',
    () => {
      const kernels = [
        ...tileRuns(full).map(({ kernel }) => kernel),
        ...kernelsOf(floatCases('f16')),
        ...kernelsOf(floatCases('bf16').slice(0, 3)),
        ...kernelsOf(byteCases),
      ];
      expect(kernels.length).toBeGreaterThan(100);
      for (const kernel of kernels) {
        const words = wordsOf(kernel);
        expect({ kernel: kernel.name, says: complaints(inOlderTerms(words)) }).toEqual({
          kernel: kernel.name,
          says: '',
        });
        expect({ kernel: kernel.name, says: complaints(emulated(words)) }).toEqual({ kernel: kernel.name, says: '' });
      }
    },
    300_000,
  );
});
