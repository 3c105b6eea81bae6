// What is WebGPU's own in its driver: errors of its validation, the caller's devices, loss, the end of the process.
import { execFile } from 'node:child_process';
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import type { Device, DeviceBuffer, Kernel, KernelCode } from '../../backends/backend.js';
import { webgpuBackend } from '../../backends/webgpu/index.js';
import { nodeGpu } from '../../backends/webgpu/node.js';
import { KernelBuilder } from '../../compiler/kernel/builder.js';
import { repository } from '../support/data.js';
import { bytesOfView, openWebGpu, whole } from '../support/webgpu.js';

const opened = await openWebGpu();
const missing = 'missing' in opened ? opened.missing : undefined;
if (missing) console.warn(`webgpu tests skipped: ${missing}`);

/** out[i] = in[i] * factor + offset, both scalars, for `count` elements in workgroups of 64. */
function scaleCode(device: Device, count: number): KernelCode {
  const k = new KernelBuilder();
  const [input, out] = [k.buffer('in', 'f32', count, 'read'), k.buffer('out', 'f32', count, 'write')];
  const [factor, offset] = [k.scalar('factor', 'f32'), k.scalar('offset', 'f32')];
  const groups = Math.ceil(count / 64);
  const i = k.add(k.mulc(k.builtin('workgroup_id', 0, groups), 64), k.builtin('local_id', 0, 64));
  k.if(k.compare('lt', i, k.constant(count)), () => k.store(out, i, k.add(k.mul(k.load(input, i), factor), offset)));
  return webgpuBackend.render(k.finish({ name: 'scale', grid: [groups, 1, 1], workgroup: [64, 1, 1] }), device.target);
}
const floats = (...values: number[]) => bytesOfView(Float32Array.from(values));

describe.skipIf(missing !== undefined)('webgpu driver', () => {
  let device: Device;
  beforeAll(() => {
    if ('device' in opened) device = opened.device;
  });
  afterAll(async () => {
    await device?.close();
  });

  async function readAll(buffer: DeviceBuffer): Promise<Uint8Array> {
    const into = new Uint8Array(buffer.bytes);
    await device.queue.submit({ reads: [{ from: whole(buffer), into }] });
    return into;
  }
  const rejection = async (promise: Promise<unknown>): Promise<{ code?: string; message: string }> => {
    try {
      await promise;
    } catch (error) {
      return error as { code?: string; message: string };
    }
    throw new Error('it should have been rejected');
  };

  it('describes the device', async () => {
    expect(device.info.id).toMatch(/^webgpu:[a-z0-9-]+$/);
    const { limits, style } = device.target;
    expect(limits.storageBuffers).toBeGreaterThanOrEqual(8);
    expect(limits.storageBindingBytes).toBeGreaterThanOrEqual(2 ** 27);
    expect(limits.workgroupCount[0]).toBeGreaterThanOrEqual(65535);
    expect(style).toBe(device.info.software ? 'software-gpu' : 'simt');
  });

  it('reports a range too small for its kernel, which WebGPU itself finds, and goes on', async () => {
    const [kernel] = await device.loadKernels([scaleCode(device, 64)]);
    const buffer = device.allocate(1024);
    const bindings = [
      { buffer, offset: 0, bytes: 4 },
      { buffer, offset: 256, bytes: 256 },
    ];
    const list = await device.record([{ kind: 'dispatch', kernel, grid: [1, 1, 1], scalars: floats(1, 0), bindings }]);
    expect((await rejection(device.queue.submit({ list }))).code).toBe('E_DEVICE');
    expect(await readAll(buffer)).toEqual(new Uint8Array(1024));
    buffer.free();
  });

  it('reports a kernel that does not compile, with its name and the line', async () => {
    const good = scaleCode(device, 64);
    const bad: KernelCode = { ...good, name: 'broken_7', text: `${good.text}\nfn oops() -> f32 { return 1u; }` };
    const error = await rejection(device.loadKernels([good, bad]));
    expect(error.code).toBe('E_KERNEL');
    expect(error.message).toMatch(/broken_7.*line \d+:\d+/s);
    expect((await device.loadKernels([good, good])).map((kernel: Kernel) => kernel.name)).toEqual(['scale', 'scale']);
  });

  it('works on a device of the caller, and fails clearly when it is lost', async () => {
    const source = await nodeGpu();
    if ('reason' in source) throw new Error(source.reason);
    const gpuDevice = await (await source.gpu.requestAdapter())?.requestDevice();
    if (!gpuDevice) throw new Error('no device');
    const driver = await webgpuBackend.driver({ gpuDevice });
    const [info] = await driver.enumerate();
    const borrowed = await driver.open(info.id);
    expect(borrowed.target.limits.storageBuffers).toBe(gpuDevice.limits.maxStorageBuffersPerShaderStage);
    const buffer = borrowed.allocate(8);
    const into = new Uint8Array(8);
    await borrowed.queue.submit({
      writes: [{ to: whole(buffer), data: new Uint8Array(8).fill(1) }],
      reads: [{ from: whole(buffer), into }],
    });
    expect(into).toEqual(new Uint8Array(8).fill(1));
    const running = borrowed.queue.submit({ reads: [{ from: whole(buffer), into }] });
    const failed = rejection(running);
    gpuDevice.destroy();
    expect((await borrowed.lost).reason).toBeTruthy();
    expect((await failed).code).toBe('E_DEVICE_LOST');
    expect((await rejection(borrowed.queue.submit({}))).code).toBe('E_DEVICE_LOST');
    await borrowed.close();
  });

  it('leaves the environment as it was', () => {
    expect(process.env.VK_ICD_FILENAMES).toBeUndefined();
    expect(process.env.VK_DRIVER_FILES).toBeUndefined();
  });

  it.each([
    ['closed', 'await device.close();'],
    ['left open', ''],
    ['left open with work in flight', 'device.queue.submit({}).catch(() => {});'],
  ])('lets the process end by itself: %s', async (_, ending) => {
    const { rolldown } = await import('rolldown');
    const folder = await mkdtemp(join(tmpdir(), 'tutti-exit-'));
    try {
      const entry = join(folder, 'entry.ts');
      await writeFile(
        entry,
        `
        import { openWebGpu, runOnDevice } from '${join(repository, 'test/support/webgpu.ts')}';
        import { KernelBuilder } from '${join(repository, 'compiler/kernel/builder.ts')}';
        const opened = await openWebGpu();
        if ('missing' in opened) throw new Error(opened.missing);
        const { device } = opened;
        const k = new KernelBuilder();
        const out = k.buffer('out', 'u32', 4, 'write');
        k.store(out, k.builtin('local_id', 0, 4), k.constant(42, 'u32'));
        const words = new Uint32Array(4);
        await runOnDevice(device, k.finish({ name: 'one', grid: [1, 1, 1], workgroup: [4, 1, 1] }), [words]);
        console.log(words.join());
        ${ending}
      `,
      );
      const bundle = await rolldown({
        input: entry,
        platform: 'node',
        external: ['webgpu'],
        resolve: { extensionAlias: { '.js': ['.ts', '.js'] } },
        logLevel: 'silent',
      });
      // Beside node_modules, so that the bundle finds the package.
      const file = join(repository, 'node_modules', '.cache', `tutti-exit-${process.pid}-${Date.now()}.mjs`);
      await bundle.write({ file, format: 'esm', codeSplitting: false });
      try {
        const { stdout } = await promisify(execFile)(process.execPath, [file], { timeout: 30_000 });
        expect(stdout.trim()).toBe('42,42,42,42');
      } finally {
        await rm(file, { force: true });
      }
    } finally {
      await rm(folder, { recursive: true });
    }
  });
});
