/**
 * Forms for real GPUs (shared memory, barriers) on whatever Vulkan device is here: a software device executes them
 * slowly, but executes them. Small integers keep sums exact, so that results must be equal.
 */
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import type { Device, Driver } from '../../backends/backend.js';
import { vulkanBackend } from '../../backends/vulkan/index.js';
import { GraphBuilder } from '../../compiler/graph/builder.js';
import * as c from '../../compiler/graph/compose/index.js';
import type { Graph, Value } from '../../compiler/graph/types.js';
import { legalize } from '../../compiler/kernel/legalize.js';
import type { Target } from '../../compiler/kernel/target.js';
import { schedules } from '../../compiler/schedule/contract/index.js';
import { fuse } from '../../compiler/schedule/fuse.js';
import type { Binding } from '../../compiler/schedule/lowered.js';
import { bytesOfTensor, emptyTensor, type HostTensor, sizeOf } from '../../compiler/tensor.js';
import { runReference } from '../support/run_groups.js';

function integers(shape: readonly number[], seed: number): HostTensor {
  let state = seed * 7919;
  const data = Float32Array.from({ length: sizeOf(shape) }, () => {
    state = (Math.imul(state, 1103515245) + 12345) & 0x7fffffff;
    return ((state >> 16) % 9) - 4;
  });
  return { dtype: 'f32', shape, data };
}

type Make = (shape: readonly number[]) => Value;
const attrs = {
  strides: [1, 1],
  padLow: [1, 1],
  padHigh: [1, 1],
  dilations: [1, 1],
  inputDilation: [1, 1],
  groups: 1,
  dtype: 'f32' as const,
};
const cases: readonly { readonly name: string; readonly build: (b: GraphBuilder, x: Make, w: Make) => Value }[] = [
  { name: 'product', build: (b, x) => c.matmul(b, x([150, 72]), x([72, 200])) },
  { name: 'odd product', build: (b, x) => c.matmul(b, x([131, 37]), x([37, 141])) },
  {
    name: 'transposed product with weights',
    build: (b, x, w) => c.relu(b, c.matmul(b, x([2, 70, 40]), c.transpose(b, w([90, 40]), [1, 0]))),
  },
  {
    name: 'conv',
    build: (b, x, w) =>
      c.relu(b, c.add(b, b.op('conv', [x([1, 10, 13, 12]), w([70, 10, 3, 3])], attrs)[0], w([70, 1, 1]))),
  },
  {
    name: 'strided grouped conv',
    build: (b, x, w) =>
      b.op('conv', [x([1, 12, 15, 17]), w([80, 6, 3, 3])], { ...attrs, groups: 2, strides: [2, 2] })[0],
  },
  {
    name: 'transposed conv',
    build: (b, x, w) =>
      b.op('conv', [x([1, 12, 7, 9]), w([16, 12, 4, 4])], {
        ...attrs,
        inputDilation: [2, 2],
        padLow: [2, 2],
        padHigh: [2, 2],
      })[0],
  },
];

describe('contraction on a Vulkan device', () => {
  let driver: Driver;
  let device: Device | undefined;

  beforeAll(async () => {
    driver = await vulkanBackend.driver({});
    if (!(await driver.probe()).ok) return;
    const [info] = await driver.enumerate();
    if (info) device = await driver.open(info.id);
  });
  afterAll(async () => device?.close());

  async function run(
    graph: Graph,
    target: Target,
    at: number,
    inputs: Readonly<Record<string, HostTensor>>,
    open: Device,
  ) {
    const [group] = fuse(graph, target);
    const schedule = schedules(group, target)[at];
    if (!schedule) return undefined;
    const lowered = schedule.lower();
    const output = graph.outputs[0].value;
    const result = emptyTensor('f32', output.type.shape as readonly number[]);
    const buffers = new Map<Binding, ReturnType<Device['allocate']>>();
    const writes: {
      to: { buffer: ReturnType<Device['allocate']>; offset: number; bytes: number };
      data: Uint8Array;
    }[] = [];
    for (const binding of lowered.flatMap(({ bindings }) => bindings)) {
      if (buffers.has(binding)) continue;
      const data =
        'kind' in binding
          ? binding.kind === 'temporary'
            ? new Uint8Array(binding.bytes)
            : bytesOfTensor(binding.data.load())
          : binding === output
            ? bytesOfTensor(result)
            : bytesOfTensor(inputs[binding.name] ?? (graph.constants.get(binding.id)?.load() as HostTensor));
      const buffer = open.allocate(data.byteLength);
      buffers.set(binding, buffer);
      writes.push({ to: { buffer, offset: 0, bytes: data.byteLength }, data });
    }
    const kernels = lowered.map(({ kernel }) => legalize(kernel, target));
    const loaded = await open.loadKernels(kernels.map((kernel) => vulkanBackend.render(kernel, target)));
    const whole = (binding: Binding) => {
      const buffer = buffers.get(binding) as ReturnType<Device['allocate']>;
      return { buffer, offset: 0, bytes: buffer.bytes };
    };
    const list = await open.record(
      lowered.flatMap(({ bindings }, i) => [
        { kind: 'dispatch' as const, kernel: loaded[i], grid: kernels[i].grid, bindings: bindings.map(whole) },
        { kind: 'barrier' as const },
      ]),
    );
    await open.queue.submit({ list, writes, reads: [{ from: whole(output), into: bytesOfTensor(result) }] });
    list.release();
    for (const buffer of buffers.values()) buffer.free();
    return { form: schedule.name, result };
  }

  for (const { name, build } of cases) {
    it(name, async (context) => {
      if (!device) return context.skip();
      const b = new GraphBuilder(name);
      const inputs: Record<string, HostTensor> = {};
      let count = 0;
      b.output(
        'y',
        build(
          b,
          (shape) => {
            const input = `x${++count}`;
            inputs[input] = integers(shape, count);
            return b.input(input, 'f32', shape);
          },
          (shape) => b.constant(integers(shape, ++count)),
        ),
      );
      const graph = b.finish();
      const want = runReference(graph, inputs).get('y') as HostTensor;
      const forms: string[] = [];
      const target: Target = { ...device.target, style: 'simt' };
      for (let at = 0; at < 8; at++) {
        const done = await run(graph, target, at, inputs, device);
        if (!done) break;
        forms.push(done.form.split(' ')[0]);
        expect(done.result.data, done.form).toEqual(want.data);
      }
      expect(new Set(forms)).toEqual(
        new Set(name === 'transposed conv' ? ['registers', 'direct'] : ['registers', 'shared', 'direct']),
      );
    });
  }
});
