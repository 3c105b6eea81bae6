/**
 * Attention's forms for real GPUs (shared memory, barriers) on the software devices that are here: they execute them
 * slowly, but execute them.
 */
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import type { Backend, Device, Driver } from '../../backends/backend.js';
import { vulkanBackend } from '../../backends/vulkan/index.js';
import { webgpuBackend } from '../../backends/webgpu/index.js';
import { compareTensors } from '../../compiler/compare.js';
import type { Target } from '../../compiler/kernel/target.js';
import type { HostTensor } from '../../compiler/tensor.js';
import { attentionCases, built } from '../support/attentions.js';
import { on } from '../support/contraction_suite.js';
import { runForm } from '../support/contractions.js';
import { runReference } from '../support/run_groups.js';

const backends: readonly Backend[] = [vulkanBackend, webgpuBackend];
/** One of each kind; every device runs all of them in the form that it prefers. */
const names = ['ragged', 'one query of one head', 'causal', 'window', 'grouped heads', 'repeated heads, one query'];

for (const backend of backends) {
  describe(`forms of attention on ${backend.name}`, () => {
    let device: Device | undefined;
    beforeAll(async () => {
      const found: Driver = await backend.driver({});
      if (!(await found.probe()).ok) return;
      const [info] = await found.enumerate();
      if (info) device = await found.open(info.id);
    });
    afterAll(async () => device?.close());

    for (const { name, build } of attentionCases.filter((one) => names.includes(one.name))) {
      it(name, { timeout: 300_000 }, async (context) => {
        if (!device) return context.skip();
        const target: Target = { ...device.target, style: 'simt' };
        const made = built(build);
        const got = await runForm(made, target, ([form]) => form, on(backend, device, target));
        const want = runReference(made.graph, made.inputs).get('y') as HostTensor;
        const { reason } = compareTensors(got as HostTensor, want, { rtol: 1e-4, atol: 1e-4 });
        expect(reason ?? '').toBe('');
      });
    }
  });
}
