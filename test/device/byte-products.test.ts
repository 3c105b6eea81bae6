/**
 * Products of four bytes on every device that has the instruction, or takes it apart: kernels of `dot4` against the
 * interpreter, and every form of contraction of words against the reference. Targets say that it is fast, so that
 * software devices are given it too.
 */
import { afterAll, describe, expect, it } from 'vitest';
import type { Backend, Device, Target } from '../../backends/backend.js';
import { cudaBackend } from '../../backends/cuda/index.js';
import { vulkanBackend } from '../../backends/vulkan/index.js';
import { webgpuBackend } from '../../backends/webgpu/index.js';
import { elementsOf } from '../../compiler/graph/ops/reference/data.js';
import type { ByteMix } from '../../compiler/kernel/target.js';
import { on } from '../support/contraction_suite.js';
import { built, byteCases, randomByteCase, runForm } from '../support/contractions.js';
import { cudaDevices, openCuda } from '../support/cuda.js';
import { compareRuns, dot4Runs } from '../support/kernel_runs.js';
import { runReference } from '../support/run_groups.js';
import { openFirst, softwareDrivers } from '../support/vulkan.js';
import { openWebGpu } from '../support/webgpu.js';

interface Place {
  readonly name: string;
  readonly backend: Pick<Backend, 'render'>;
  readonly mixes: readonly ByteMix[];
  open(): Promise<Device | undefined>;
}
const all: readonly ByteMix[] = ['i8·i8', 'u8·u8', 'i8·u8'];
const places: readonly Place[] = [
  ...softwareDrivers.map(([name, icd]) => ({ name, backend: vulkanBackend, mixes: all, open: () => openFirst(icd) })),
  {
    name: 'webgpu',
    backend: webgpuBackend,
    mixes: ['i8·i8', 'u8·u8'],
    open: async () => {
      const opened = await openWebGpu();
      return 'device' in opened ? opened.device : undefined;
    },
  },
  ...(await cudaDevices()).map(([name, library]) => ({
    ...{ name, backend: cudaBackend, mixes: all },
    open: () => openCuda(library),
  })),
];

/** How Vulkan and WGSL name it. */
const named = ['shaderIntegerDotProduct', 'packed_4x8_integer_dot_product'];
const random = [3, 8, 14, 20].map(randomByteCase);
/** Barriers make kernels that take software long to compile. */
const examples = {
  'software-gpu': [byteCases[1], ...byteCases.slice(3), ...random],
  simt: [byteCases[4], random[0], random[2]],
} as const;

for (const { name, backend, mixes, open } of places) {
  describe(name, async () => {
    const device = await open().catch(() => undefined);
    afterAll(() => device?.close());
    const multiplies =
      device?.target.byteDots !== undefined || named.some((feature) => device?.info.features.includes(feature));
    const targetOf = (style: Target['style']): Target => ({
      ...(device as Device).target,
      style,
      byteDots: new Set(mixes),
    });

    it.skipIf(!multiplies)('computes dot4 as the interpreter does', async () => {
      expect(await compareRuns(backend, device as Device, dot4Runs(), {}, targetOf('simt'))).toEqual([]);
    });

    for (const style of ['software-gpu', 'simt'] as const) {
      for (const example of examples[style]) {
        it.skipIf(!multiplies)(`${style}: ${example.name}`, async () => {
          const target = targetOf(style);
          const made = built(example);
          const want = runReference(made.graph, made.inputs).get('y');
          let tried = 0;
          for (let at = 0; at < (style === 'simt' ? 2 : 1); at++) {
            let form = '';
            const choose: Parameters<typeof runForm>[2] = (forms) => {
              const chosen = forms.filter((other) => other.name.startsWith('bytes'))[at];
              form = chosen?.name ?? '';
              return chosen;
            };
            const got = await runForm(made, target, choose, on(backend, device as Device, target));
            if (!got) continue;
            tried++;
            expect([...elementsOf(got)].map(Number), form).toEqual(want && [...elementsOf(want)].map(Number));
          }
          expect(tried).toBeGreaterThan(0);
        });
      }
    }
  });
}
