/** Matrix tiles as cooperative matrices: what modules say, whether validators agree, and which devices have units. */
import { describe, expect, it } from 'vitest';
import type { DeviceInfo } from '../../backends/backend.js';
import { vulkanApi } from '../../backends/vulkan/driver.js';
import { vulkanBackend } from '../../backends/vulkan/index.js';
import { isMatrixFeature, withoutMatrices } from '../../backends/vulkan/matrices.js';
import { trialKernel } from '../../backends/vulkan/trial.js';
import { legalize } from '../../compiler/kernel/legalize.js';
import type { KernelFunction } from '../../compiler/kernel/types.js';
import { verify } from '../../compiler/kernel/verify.js';
import { forms } from '../../compiler/schedule/attend/index.js';
import { schedules } from '../../compiler/schedule/contract/index.js';
import { fuse } from '../../compiler/schedule/fuse.js';
import { built as attention, attentionCases } from '../support/attentions.js';
import { built, byteCases, floatCases } from '../support/contractions.js';
import { emulated } from '../support/cooperative_matrices.js';
import { withEnvironment } from '../support/environment.js';
import { inOlderTerms } from '../support/older_matrices.js';
import { decodeModule, encodeModule } from '../support/spirv_modules.js';
import { hasSpirvVal, spirvVal } from '../support/spirv_val.js';
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
    maxPerStageDescriptorStorageBuffers: 64,
    maxComputeWorkGroupInvocations: 1024,
    maxComputeWorkGroupSizeX: 1024,
    ...limits,
  },
  ...change,
});
const full = vulkanBackend.describe(device());

const complaints = (words: Uint32Array): string => spirvVal(words, 'vulkan1.3').output;
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
  it.skipIf(!hasSpirvVal)(
    'are valid in older terms and when emulated',
    () => {
      const kernels = [
        ...tileRuns(full, [16]).map(({ kernel }) => kernel),
        ...(full.matrixUnits ?? []).map((unit) => trialKernel(unit, 32)),
        ...kernelsOf(floatCases('f16').slice(1, 9)),
        ...kernelsOf(floatCases('bf16').slice(0, 3)),
        ...kernelsOf(byteCases.slice(1)),
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

describe('what modules say', () => {
  const mulAdd = 4459;
  const signsOf = (a: 'i8' | 'u8', b: 'i8' | 'u8', list: readonly string[]): number | undefined => {
    const target = vulkanBackend.describe(device(list));
    const unit = target.matrixUnits?.find((candidate) => candidate.a === a && candidate.b === b);
    if (!unit) return undefined;
    const { kernel } = product(unit);
    return decodeModule(wordsOf(legalize(kernel, target), target)).find(({ op }) => op === mulAdd)?.operands[5] ?? 0;
  };
  const squares = ['i8:i8', 'u8:u8', 'i8:u8', 'u8:i8'].map((types) => `16x16x16:${types}:i32`);

  it('which integers are signed: of a, of b, of addends and sums', () => {
    expect(signsOf('i8', 'i8', squares)).toBe(1 + 2 + 4 + 8);
    expect(signsOf('u8', 'u8', squares)).toBe(4 + 8);
    expect(signsOf('i8', 'u8', squares)).toBe(1 + 4 + 8);
    expect(signsOf('u8', 'i8', squares)).toBe(2 + 4 + 8);
    expect(signsOf('u8', 'u8', ['16x16x32:u8:u8:u32'])).toBe(0);
    expect(signsOf('u8', 'u8', ['16x16x32:u8:u8:u32', '16x16x32:u8:u8:i32'])).toBe(4 + 8);
    expect(signsOf('u8', 'i8', products)).toBeUndefined();
  });

  it('nothing of tiles that are not aligned, which Vulkan does not load', () => {
    const { kernel } = product(full.matrixUnits?.[0] as never, { padding: 3 });
    expect(() => wordsOf(kernel)).toThrow('not aligned');
  });

  it('the checks of this file find what is wrong', (context) => {
    const words = wordsOf(product(full.matrixUnits?.[0] as never).kernel);
    const changed = (change: (op: number, operands: readonly number[]) => readonly number[]): Uint32Array =>
      encodeModule(
        words,
        decodeModule(words).map(({ op, operands }) => ({ op, operands: change(op, operands) })),
        words[3],
      );
    const swapped = changed((op, operands) => (op === mulAdd ? [0, 1, 3, 2, 4].map((i) => operands[i]) : operands));
    expect(() => emulated(swapped)).toThrow('do not fit');
    const memoryModel = 14;
    const plain = changed((op, operands) => (op === memoryModel ? [0, 1] : operands));
    expect(() => inOlderTerms(plain)).toThrow('memory model');
    if (!hasSpirvVal) return context.skip();
    // A product whose sums are of the type of a.
    const typed = changed((op, operands) => {
      if (op !== mulAdd) return operands;
      const load = decodeModule(words).find((inst) => inst.op === 61 && inst.operands[1] === operands[2]);
      return [load?.operands[0] ?? 0, ...operands.slice(1)];
    });
    expect(complaints(inOlderTerms(typed))).not.toBe('');
  });
});

describe('devices with cooperative matrices', () => {
  const unitsOf = (info: DeviceInfo) =>
    vulkanBackend.describe(info).matrixUnits?.map(({ m, n, k, a, b }) => `${m}x${n}x${k} ${a} ${b}`);

  it('have a unit for each pair of types, of the best shape', () => {
    expect(unitsOf(device())).toEqual(['16x16x16 f16 f16', '16x16x16 bf16 bf16', '16x16x32 i8 i8', '16x16x32 u8 u8']);
    const shapes = ['8x8x16', '16x8x8', '16x16x64', '16x16x32', '16x16x8', '32x32x32'];
    expect(unitsOf(device(shapes.map((shape) => `${shape}:i8:i8:i32`)))).toEqual(['16x16x32 i8 i8']);
    expect(unitsOf(device(['16x8x8:f16:f16:f32', '16x8x16:f16:f16:f32']))).toEqual(['16x8x16 f16 f16']);
  });

  it('do not tell who holds what', () => {
    expect(full.features).not.toContain('fragments');
    expect(full.features).not.toContain('async_copy');
    const [group] = fuse(attention(attentionCases[0].build, 'f16').graph, full).filter(
      ({ family }) => family === 'attend',
    );
    const names = forms(group, full).map(({ name }) => name);
    expect(names).toContain('shared');
    expect(names).not.toContain('tiles');
    expect(names).not.toContain('warpgroups');
  });

  it('have none where the device lacks what kernels need', () => {
    const without = (feature: string): DeviceInfo => ({
      ...device(),
      features: device().features.filter((name) => name !== feature),
    });
    expect(unitsOf(without('vulkanMemoryModel'))).toBeUndefined();
    expect(unitsOf(without('subgroups'))).toBeUndefined();
    expect(unitsOf(without('shaderInt8'))).toEqual(['16x16x16 f16 f16', '16x16x16 bf16 bf16']);
    expect(unitsOf(without('shaderBFloat16CooperativeMatrix'))).not.toContain('16x16x16 bf16 bf16');
    expect(unitsOf(device(products, { software: true }))).toBeUndefined();
    expect(unitsOf(device(['16x16x16:f16:f16:f16', '12x12x12:f16:f16:f32', 'nonsense', '16x16:f16']))).toBeUndefined();
  });

  it('have none where the environment says so', async () => {
    const found = device().features;
    const used = (value: string | undefined) =>
      withEnvironment({ TUTTI_VULKAN_COOPERATIVE_MATRIX: value }, async () => vulkanApi.features?.(found));
    expect(await used('1')).toEqual(found);
    expect(await used('0')).toEqual(features);
  });

  it('have none where the width of their subgroups is not known', () => {
    const widths = (minSubgroupSize: number, maxSubgroupSize: number) =>
      unitsOf(device(products, {}, { minSubgroupSize, maxSubgroupSize }));
    expect(widths(32, 64)).toBeDefined();
    expect(widths(16, 16)).toBeDefined();
    expect(widths(8, 32)).toBeUndefined();
    const info = device(products, {}, { minSubgroupSize: 32, maxSubgroupSize: 64 });
    const fixed = info.features.filter((name) => name !== 'subgroupSizeControl');
    expect(unitsOf({ ...info, features: fixed })).toBeUndefined();
  });

  it('lose the units that fail, and are another target then', () => {
    const [half, , bytes] = full.matrixUnits ?? [];
    const info = withoutMatrices(device(), [half, bytes]);
    expect(unitsOf(info)).toEqual(['16x16x16 bf16 bf16', '16x16x32 u8 u8']);
    expect(vulkanBackend.describe(info).arch).not.toBe(full.arch);
    expect(info.features.filter(isMatrixFeature)).not.toContain('cooperativeMatrix:16x8x16:f16:f16:f32');
  });
});
