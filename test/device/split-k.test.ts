/**
 * Contractions cut along k on every device of this machine: partial sums in each kind of form, and plans that split
 * because their target says that the device has many units.
 */
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import type { Backend, Device } from '../../backends/backend.js';
import { cpuBackend } from '../../backends/cpu/index.js';
import { cudaBackend } from '../../backends/cuda/index.js';
import { metalBackend } from '../../backends/metal/index.js';
import { vulkanBackend } from '../../backends/vulkan/index.js';
import { webgpuBackend } from '../../backends/webgpu/index.js';
import { plan } from '../../compiler/compile.js';
import { GraphBuilder } from '../../compiler/graph/builder.js';
import * as c from '../../compiler/graph/compose/index.js';
import { elementsOf, tensorOfNumbers } from '../../compiler/graph/ops/reference/data.js';
import type { Graph } from '../../compiler/graph/types.js';
import type { Target } from '../../compiler/kernel/target.js';
import { fuse } from '../../compiler/schedule/fuse.js';
import type { HostTensor } from '../../compiler/tensor.js';
import { ConstantStore } from '../../runtime/constants.js';
import { Executable } from '../../runtime/executable.js';
import { whenDone } from '../../runtime/steps.js';
import { on } from '../support/contraction_suite.js';
import { built, runForm } from '../support/contractions.js';
import { cudaDevices, openCuda } from '../support/cuda.js';
import { metalDevices, openMetal } from '../support/metal.js';
import { runReference } from '../support/run_groups.js';
import { splitByteCases, splitCases, splitForms } from '../support/split_cases.js';
import { openFirst, softwareDrivers } from '../support/vulkan.js';
import { openWebGpu } from '../support/webgpu.js';

interface Place {
  readonly name: string;
  readonly backend: Pick<Backend, 'render'>;
  open(): Promise<Device>;
}

async function openBrowsers(): Promise<Device> {
  const opened = await openWebGpu();
  if ('missing' in opened) throw new Error(opened.missing);
  return opened.device;
}

const places: readonly Place[] = [
  { name: 'cpu', backend: cpuBackend, open: async () => (await cpuBackend.driver({})).open('cpu') },
  ...softwareDrivers.map(([name, icd]) => ({ name, backend: vulkanBackend, open: () => openFirst(icd) })),
  ...('device' in (await probeWebGpu()) ? [{ name: 'webgpu', backend: webgpuBackend, open: openBrowsers }] : []),
  ...(await cudaDevices()).map(([name, library]) => ({
    name: `cuda, ${name}`,
    backend: cudaBackend,
    open: () => openCuda(library),
  })),
  ...(await metalDevices()).map(([name, library]) => ({
    name: `metal, ${name}`,
    backend: metalBackend,
    open: () => openMetal(library),
  })),
];

async function probeWebGpu(): Promise<object> {
  const opened = await openWebGpu().catch(() => ({}));
  if ('device' in opened) await opened.device.close();
  return opened;
}

const cases = [...splitCases('f32'), ...splitCases('f16').slice(0, 4), ...splitByteCases];

const numbers = (tensor: HostTensor | undefined): readonly number[] =>
  tensor ? [...elementsOf(tensor)].map(Number) : [];

/** Of `4 slices, matrix f16 …`: matrix. */
const kindOf = (name: string): string => name.split(' ')[2];

/** A product and a convolution with results of few tiles, and what comes after them. */
function network(): { readonly graph: Graph; readonly inputs: Readonly<Record<string, HostTensor>> } {
  const b = new GraphBuilder('network');
  const wave = (shape: readonly number[], step: number): HostTensor =>
    tensorOfNumbers(
      'f32',
      shape,
      Array.from({ length: shape.reduce((p, d) => p * d, 1) }, (_, i) => Math.sin(i * step) / 4),
    );
  const [x, image] = [b.input('x', 'f32', [2, 3001]), b.input('image', 'f32', [1, 384, 4, 4])];
  const y = c.relu(b, c.add(b, c.matmul(b, x, b.constant(wave([3001, 24], 0.7))), b.constant(wave([24], 0.3))));
  const again = c.matmul(b, y, b.constant(wave([24, 8], 0.9)));
  const attrs = { strides: [1, 1], padLow: [1, 1], padHigh: [1, 1], dilations: [1, 1], inputDilation: [1, 1] };
  const z = b.op('conv', [image, b.constant(wave([32, 384, 3, 3], 1.1))], { ...attrs, groups: 1, dtype: 'f32' })[0];
  b.output('y', again);
  b.output('z', c.relu(b, z));
  return { graph: b.finish(), inputs: { x: wave([2, 3001], 0.11), image: wave([1, 384, 4, 4], 0.13) } };
}

for (const { name, backend, open } of places) {
  describe(name, () => {
    let device: Device;
    beforeAll(async () => {
      device = await open();
    });
    afterAll(() => device?.close());

    const styles = name === 'cpu' ? (['cpu'] as const) : (['software-gpu', 'simt'] as const);
    const here = (style: Target['style']): Target => ({ ...device.target, style });
    for (const style of styles) {
      for (const [i, example] of cases.entries()) {
        // Blocks through shared memory take software devices seconds to compile.
        if (style === 'simt' && i % 3 !== 1) continue;
        it(`${style}: ${example.name} (${i})`, async () => {
          const target = here(style);
          const made = built(example);
          const want = numbers(runReference(made.graph, made.inputs).get('y'));
          const group = fuse(made.graph, target).find(({ family }) => family === 'contract');
          const [count, left] = [2 + (i % 5), i % 3];
          const all = group ? splitForms(group, target, count, left) : [];
          // The best of each kind.
          const names = new Map([...all].reverse().map(({ name: form }) => [kindOf(form), form]));
          expect(names.size).toBeGreaterThan(0);
          for (const form of names.values()) {
            const choose: Parameters<typeof runForm>[2] = (_, of) =>
              splitForms(of, target, count, left).find((other) => other.name === form);
            expect(numbers(await runForm(made, target, choose, on(backend, device, target))), form).toEqual(want);
          }
        }, 120_000);
      }
    }

    it.skipIf(name === 'cpu')(
      'a plan that splits gives the same bits again and again',
      async () => {
        const { graph, inputs } = network();
        const rates = { copyGBs: 2000, gflops: 20_000, dispatchMicroseconds: 1 };
        const target: Target = { ...device.target, style: 'simt', parallelism: 64, rates };
        const planned = plan(graph, target);
        const parts = planned.kernels.filter((kernel) => kernel.name.includes('_part'));
        expect(parts.length).toBe(2);
        const codes = planned.kernels.map((kernel) => backend.render(kernel, target));
        const executable = await Executable.create('network', device, planned, codes, new ConstantStore(device));
        const submit = device.queue.submit.bind(device.queue);
        const run = () =>
          whenDone(executable.run({ inputs: graph.inputs.map(({ name: input }) => inputs[input]), submit }));
        const first = (await run()).map(numbers);
        const want = runReference(graph, inputs);
        for (const [i, output] of ['y', 'z'].entries()) {
          const expected = numbers(want.get(output));
          first[i].forEach((value, at) => void expect(Math.abs(value - expected[at])).toBeLessThan(1e-4));
        }
        for (let again = 0; again < 3; again++) expect((await run()).map(numbers)).toEqual(first);
        await executable.dispose();
      },
      120_000,
    );
  });
}
