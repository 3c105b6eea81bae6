/** Contractions in the forms that use matrix units, run on a device: right at ragged sizes. */
import { expect, it } from 'vitest';
import type { Backend, Device } from '../../backends/backend.js';
import { elementsOf } from '../../compiler/graph/ops/reference/data.js';
import type { TileScalar } from '../../compiler/kernel/engines.js';
import { legalize } from '../../compiler/kernel/legalize.js';
import { verify } from '../../compiler/kernel/verify.js';
import { built, type ContractionCase, type Execute, runForm } from './contractions.js';
import { runReference } from './run_groups.js';

type Renders = Pick<Backend, 'render'>;

/** Runs kernels on a device: their buffers are made, filled and read back around one dispatch. */
const on =
  (backend: Renders, device: Device): Execute =>
  async (scheduled, memories) => {
    const { target } = device;
    const kernel = legalize(scheduled, target);
    verify(kernel, { stage: 'legal', target });
    const [loaded] = await device.loadKernels([backend.render(kernel, target)]);
    const buffers = memories.map(({ length }) => device.allocate(Math.ceil(length / 16) * 16));
    const whole = buffers.map((buffer, i) => ({ buffer, offset: 0, bytes: memories[i].length }));
    const bindings = buffers.map((buffer) => ({ buffer, offset: 0, bytes: buffer.bytes }));
    const list = await device.record([{ kind: 'dispatch', kernel: loaded, grid: kernel.grid, bindings }]);
    await device.queue.submit({
      list,
      writes: whole.map((to, i) => ({ to, data: memories[i].slice() })),
      reads: whole.map((from, i) => ({ from, into: memories[i] })),
    });
    list.release();
    for (const buffer of buffers) buffer.free();
    loaded.release();
  };

/**
 * Registers a test for each case: its first form of that kind on the device, against the reference. Skipped where no
 * unit of the device takes `operands`, and where it has no warpgroups if they are asked for.
 */
export function testContractions(
  suite: string,
  cases: readonly ContractionCase[],
  backend: Renders,
  device: () => Device,
  operands?: TileScalar,
  kind: 'matrix' | 'warpgroups' = 'matrix',
): void {
  for (const example of cases) {
    it(`${suite}: ${example.name}`, async (context) => {
      const { matrixUnits = [], features } = device().target;
      if (kind === 'warpgroups' && !features.has(kind)) return context.skip('no warpgroups');
      if (operands && !matrixUnits.some(({ a }) => a === operands)) return context.skip(`no unit takes ${operands}`);
      const made = built(example);
      const got = await runForm(
        made,
        device().target,
        (forms) => forms.find(({ name }) => name.startsWith(kind)),
        on(backend, device()),
      );
      const want = runReference(made.graph, made.inputs).get('y');
      expect(got && [...elementsOf(got)].map(Number)).toEqual(want && [...elementsOf(want)].map(Number));
    }, 120_000);
  }
}
