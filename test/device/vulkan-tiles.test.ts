/**
 * Matrix tiles as SPIR-V, executed: no driver here has cooperative matrices, so modules are rewritten as plain SPIR-V
 * (cooperative_matrices.ts) and run on the software drivers, against the interpreter and at ragged sizes.
 */
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import type { Backend, Device } from '../../backends/backend.js';
import type { NativeGpu } from '../../backends/common/gpu_device.js';
import { loadNative, type NativeAddon } from '../../backends/native.js';
import { openVulkan } from '../../backends/vulkan/driver.js';
import { vulkanBackend } from '../../backends/vulkan/index.js';
import { archOfMatrices, matricesOf } from '../../backends/vulkan/matrices.js';
import { numbersOf } from '../../compiler/graph/ops/reference/data.js';
import type { Target } from '../../compiler/kernel/target.js';
import type { KBlock } from '../../compiler/kernel/types.js';
import type { HostTensor } from '../../compiler/tensor.js';
import { attentionCases, built } from '../support/attentions.js';
import { on, testContractions } from '../support/contraction_suite.js';
import { byteCases, type ContractionCase, floatCases, runForm } from '../support/contractions.js';
import { emulated } from '../support/cooperative_matrices.js';
import { compareRuns } from '../support/kernel_runs.js';
import { runReference } from '../support/run_groups.js';
import { decodeModule, encodeModule } from '../support/spirv_modules.js';
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

/** The module with products that take no integers for signed. */
function withoutSigns(words: Uint32Array): Uint32Array {
  const mulAdd = 4459;
  const stripped = decodeModule(words).map(({ op, operands }) =>
    op === mulAdd ? { op, operands: operands.slice(0, 5) } : { op, operands },
  );
  return encodeModule(words, stripped, words[3]);
}

const isAligned = (block: KBlock): boolean =>
  block.instructions.every((inst) => !(inst.op === 'tile_load' || inst.op === 'tile_store') || inst.aligned);

/** Renders for a target with matrices; what subgroups do, each invocation does. */
const emulating = (target: Target): Pick<Backend, 'render'> => ({
  render(kernel) {
    const rendered = vulkanBackend.render(kernel, target);
    if (kernel.tiles.length === 0) return rendered;
    const { subgroupSize, ...code } = rendered;
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
        // Vulkan wants all of them aligned.
        const all = tileRuns(target, [16]).filter(({ kernel }) => isAligned(kernel.body));
        expect(all.length).toBeGreaterThanOrEqual(4 * names.length);
        // All of the first list; of others a few of every unit, in all layouts together.
        const runs = list === 'deep bytes' ? all : all.filter((_, i) => i % 3 === 0);
        expect(await compareRuns(emulating(target), device, runs)).toEqual([]);
      }, 240_000);
    }

    describe('a trial at opening', () => {
      /** Opens the device as if its driver had matrices; `rewrite` is what that driver makes of modules. */
      async function claiming(list: readonly string[], rewrite: (words: Uint32Array) => Uint32Array) {
        const native = (loadNative() as NativeAddon).vulkan as NativeGpu;
        const handle = await native.open(icd, device.info.id.slice('vulkan:'.length), '', false);
        const loadKernels: NativeGpu['loadKernels'] = (on, sources) =>
          native.loadKernels(
            on,
            sources.map((source) => ({ ...source, words: rewrite(source.words as Uint32Array), subgroupSize: 0 })),
          );
        const features = [...device.info.features, ...list.map((claimed) => `cooperativeMatrix:${claimed}`)];
        // Trials are remembered by device and driver.
        const driver = `test ${++count}`;
        const info = { ...device.info, driver, software: false, features };
        const told: string[] = [];
        const opened = await openVulkan({ ...native, loadKernels }, handle, info, (_, text) => told.push(text()));
        return { opened, told };
      }
      let count = 0;
      const list = ['16x16x16:f16:f16:f32', '16x16x32:i8:i8:i32'];

      it('keeps what is right', async (context) => {
        if (!device.info.features.includes('shaderInt8')) return context.skip('the driver has no small types');
        const { opened: kept, told } = await claiming(list, emulated);
        expect(told).toEqual([]);
        expect(kept.target.matrixUnits?.map(({ a }) => a)).toEqual(['f16', 'i8']);
        expect(kept.memory().allocatedBytes).toBe(device.memory().allocatedBytes);
        await kept.close();
      }, 60_000);

      it('leaves out what is wrong or does not compile, and the device works', async (context) => {
        if (!device.info.features.includes('shaderInt8')) return context.skip('the driver has no small types');
        // A driver that takes all bytes for unsigned.
        const { opened: unsigned, told } = await claiming(list, (words) => emulated(withoutSigns(words)));
        expect(told).toHaveLength(1);
        expect(told[0]).toContain('matrices of i8 and i8, 16×16×32, are left out: it gives wrong numbers');
        expect(unsigned.target.matrixUnits?.map(({ a }) => a)).toEqual(['f16']);
        await unsigned.close();
        const { opened: refusing, told: refusals } = await claiming(list, () => {
          throw new Error('no such instruction');
        });
        expect(refusing.target).toMatchObject({ backend: 'vulkan' });
        expect(refusing.target.matrixUnits).toBeUndefined();
        expect(refusals).toHaveLength(list.length);
        refusing.allocate(64).free();
        await refusing.close();
      }, 60_000);
    });

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
    // A few of the cases: what emulates matrices takes seconds to compile.
    const some = (cases: readonly ContractionCase[], ...names: readonly string[]) =>
      cases.filter(({ name: of }) => names.includes(of));
    const [ragged, large] = ['17×33×65', '129×257×63'];
    const floats = [ragged, large, 'transposed, odd', 'batched, bias and relu', 'strided conv in groups'];
    const bytes = [
      '17×33×65 of i8',
      'u8 with a zero point by constant i8 held in i32',
      'conv of u8 with a zero point, held in f32',
      'batched, transposed u8 by u8',
    ];
    contractions('deep bytes', 'f16', some(floatCases('f16'), ...floats));
    contractions('deep bytes', 'bf16', some(floatCases('bf16'), ragged));
    contractions('flat tiles', 'f16', some(floatCases('f16'), ragged));
    contractions('squares', 'bytes', some(byteCases, ...bytes));

    for (const attention of attentionCases.filter(({ name: of }) => ['ragged', 'causal'].includes(of))) {
      it(`attention of f16, its products on matrices: ${attention.name}`, async () => {
        const found = withMatrices(device, lists.squares);
        // With few buffers, attention is two products and a softmax.
        const target = { ...found, limits: { ...found.limits, storageBuffers: 4 } };
        const made = built(attention.build, 'f16');
        const names: string[] = [];
        const choose = <F extends { readonly name: string }>(forms: readonly F[]): F | undefined => {
          const form = forms.find((one) => one.name.startsWith('matrix f16'));
          names.push(form?.name ?? '');
          return form;
        };
        const got = await runForm(made, target, choose, on(emulating(target), device, target));
        expect(names).toHaveLength(2);
        const want = [...numbersOf(runReference(made.graph, made.inputs).get('y') as HostTensor)];
        const worst = Math.max(...[...numbersOf(got as HostTensor)].map((x, i) => Math.abs(x - want[i])));
        expect(worst).toBeLessThan(4e-3);
      }, 120_000);
    }
  });
}
