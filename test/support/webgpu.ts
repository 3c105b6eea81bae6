// One WebGPU device for the tests of a file, and kernels run on it beside the interpreter.

import type { BufferRange, Command, Device, DeviceBuffer } from '../../backends/backend.js';
import { webgpuBackend } from '../../backends/webgpu/index.js';
import { interpret } from '../../compiler/kernel/interpreter.js';
import type { KernelFunction } from '../../compiler/kernel/types.js';

export type Opened = { readonly device: Device } | { readonly missing: string };

/** The first WebGPU device of this machine, or why there is none. */
export async function openWebGpu(): Promise<Opened> {
  const driver = await webgpuBackend.driver({});
  const probe = await driver.probe();
  if (!probe.ok) return { missing: probe.reason };
  const [info] = await driver.enumerate();
  return { device: await driver.open(info.id) };
}

export const whole = (buffer: DeviceBuffer): BufferRange => ({ buffer, offset: 0, bytes: buffer.bytes });

export const bytesOfView = (view: ArrayBufferView): Uint8Array =>
  new Uint8Array(view.buffer, view.byteOffset, view.byteLength);

/** Runs a kernel on the device; `buffers` (one a buffer parameter, in order) are updated in place. */
export async function runOnDevice(
  device: Device,
  kernel: KernelFunction,
  buffers: readonly ArrayBufferView[],
  scalars?: Uint8Array,
): Promise<void> {
  const [loaded] = await device.loadKernels([webgpuBackend.render(kernel, device.target)]);
  const memories = buffers.map((view) => device.allocate(view.byteLength));
  const dispatch: Command = {
    kind: 'dispatch',
    kernel: loaded,
    grid: kernel.grid,
    bindings: memories.map(whole),
    scalars,
  };
  const list = await device.record([dispatch]);
  await device.queue.submit({
    list,
    writes: buffers.map((view, i) => ({ to: whole(memories[i]), data: bytesOfView(view) })),
    reads: buffers.map((view, i) => ({ from: whole(memories[i]), into: bytesOfView(view) })),
  });
  list.release();
  for (const memory of memories) memory.free();
  loaded.release();
}

type Words = Int32Array | Uint32Array | Float32Array;

/** The same kernel on copies of the same buffers, on the device and in the interpreter. */
export async function runBoth<T extends Words>(
  device: Device,
  kernel: KernelFunction,
  buffers: readonly T[],
  scalars: readonly number[] = [],
  scalarBytes?: Uint8Array,
): Promise<{ readonly device: readonly T[]; readonly interpreter: readonly T[] }> {
  const ours = buffers.map((buffer) => buffer.slice() as T);
  const reference = buffers.map((buffer) => buffer.slice() as T);
  interpret(kernel, reference, scalars);
  await runOnDevice(device, kernel, ours, scalarBytes);
  return { device: ours, interpreter: reference };
}
