/** Contractions in the forms that use matrix units, run on a device: right at ragged sizes. */
import { expect, it } from 'vitest';
import type { Backend, Device } from '../../backends/backend.js';
import { elementsOf } from '../../compiler/graph/ops/reference/data.js';
import type { TileScalar } from '../../compiler/kernel/engines.js';
import { legalize } from '../../compiler/kernel/legalize.js';
import type { Target } from '../../compiler/kernel/target.js';
import { verify } from '../../compiler/kernel/verify.js';
import { built, type ContractionCase, type Execute, runForm } from './contractions.js';
import { runReference } from './run_groups.js';

type Renders = Pick<Backend, 'render'>;

/** Runs kernels on a device: their buffers are made, filled and read back around one dispatch. */
export const on =
  (backend: Renders, device: Device, target: Target): Execute =>
  async (scheduled, memories) => {
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

export interface ContractionOptions {
  /** Operands that a unit of the device must take; the cases are skipped where none does. */
  readonly operands?: TileScalar;
  /** Which forms: `warpgroups` are skipped where the device has none. */
  readonly kind?: 'matrix' | 'warpgroups';
  /** Default: the device's own. */
  readonly target?: Target | (() => Target);
}

/** Registers a test for each case: its first form of a kind on the device, against the reference. */
export function testContractions(
  suite: string,
  cases: readonly ContractionCase[],
  backend: Renders,
  device: () => Device,
  options: ContractionOptions = {},
): void {
  const { operands, kind = 'matrix' } = options;
  for (const example of cases) {
    it(`${suite}: ${example.name}`, async (context) => {
      const given = typeof options.target === 'function' ? options.target() : options.target;
      const target = given ?? device().target;
      const { matrixUnits = [], features } = target;
      if (kind === 'warpgroups' && !features.has(kind)) return context.skip('no warpgroups');
      if (operands && !matrixUnits.some(({ a }) => a === operands)) return context.skip(`no unit takes ${operands}`);
      const made = built(example);
      const got = await runForm(
        made,
        target,
        (forms) => forms.find(({ name }) => name.startsWith(kind)),
        on(backend, device(), target),
      );
      const want = runReference(made.graph, made.inputs).get('y');
      expect(got && [...elementsOf(got)].map(Number)).toEqual(want && [...elementsOf(want)].map(Number));
    }, 120_000);
  }
}
