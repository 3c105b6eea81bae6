/**
 * Every form of contraction that GPUs are given, on the software devices of this machine: those of software devices, and
 * those of real GPUs (shared memory, barriers, slices of k) by a target that says it is one.
 */
import { afterAll, describe, expect, it } from 'vitest';
import type { Device, Target } from '../../backends/backend.js';
import { vulkanBackend } from '../../backends/vulkan/index.js';
import { webgpuBackend } from '../../backends/webgpu/index.js';
import * as c from '../../compiler/graph/compose/index.js';
import { elementsOf } from '../../compiler/graph/ops/reference/data.js';
import { on } from '../support/contraction_suite.js';
import { built, type ContractionCase, runForm } from '../support/contractions.js';
import { runReference } from '../support/run_groups.js';
import { openFirst, softwareDrivers } from '../support/vulkan.js';
import { openWebGpu } from '../support/webgpu.js';

const attrs = {
  strides: [1, 1],
  padLow: [1, 1],
  padHigh: [1, 1],
  dilations: [1, 1],
  inputDilation: [1, 1],
  groups: 1,
  dtype: 'f32' as const,
};
const cases: readonly ContractionCase[] = [
  { name: 'product', build: (b, x) => c.matmul(b, x('f32', [37, 44]), x('f32', [44, 132])) },
  { name: 'product, odd', build: (b, x) => c.matmul(b, x('f32', [33, 19]), x('f32', [19, 101])) },
  { name: 'few rows', build: (b, x) => c.matmul(b, x('f32', [3, 131]), x('f32', [131, 40])) },
  { name: 'one row by weights', build: (b, x, w) => c.matmul(b, x('f32', [1, 256]), w('f32', [256, 37])) },
  { name: 'conv', build: (b, x, w) => b.op('conv', [x('f32', [1, 5, 9, 40]), w('f32', [18, 5, 3, 3])], attrs)[0] },
  {
    name: 'depthwise',
    build: (b, x, w) => b.op('conv', [x('f32', [1, 9, 13, 16]), w('f32', [9, 1, 3, 3])], { ...attrs, groups: 9 })[0],
  },
  {
    name: 'depthwise, odd and strided',
    build: (b, x, w) =>
      b.op('conv', [x('f32', [2, 5, 11, 13]), w('f32', [5, 1, 5, 5])], { ...attrs, groups: 5, strides: [2, 2] })[0],
  },
];

type Choose = Parameters<typeof runForm>[2];

interface Place {
  readonly name: string;
  readonly backend: typeof vulkanBackend;
  open(): Promise<Device | undefined>;
}
const places: readonly Place[] = [
  ...softwareDrivers.map(([name, icd]) => ({ name, backend: vulkanBackend, open: () => openFirst(icd) })),
  {
    name: 'webgpu',
    backend: webgpuBackend,
    open: async () => {
      const opened = await openWebGpu();
      return 'device' in opened ? opened.device : undefined;
    },
  },
];

for (const { name, backend, open } of places) {
  describe(name, async () => {
    const device = await open().catch(() => undefined);
    afterAll(() => device?.close());
    for (const style of ['software-gpu', 'simt'] as const) {
      for (const example of cases) {
        it.skipIf(device === undefined)(`${style}: ${example.name}`, async () => {
          const target: Target = { ...(device as Device).target, style };
          const made = built(example);
          const want = runReference(made.graph, made.inputs).get('y');
          let tried = 0;
          // The others differ in the size of their blocks only.
          for (let at = 0; at < (style === 'simt' ? 2 : 3); at++) {
            let form = '';
            const choose: Choose = (forms) => {
              form = forms[at]?.name ?? '';
              return forms[at];
            };
            const got = await runForm(made, target, choose, on(backend, device as Device, target));
            if (!got) continue;
            tried++;
            expect([...elementsOf(got)].map(Number), form).toEqual(want && [...elementsOf(want)].map(Number));
          }
          expect(tried).toBeGreaterThan(1);
        });
      }
    }
  });
}
