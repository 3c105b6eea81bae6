// The WebGPU driver: buffers, copies and fills of any offset and size, dispatches, errors, the end of a device.
import { execFile } from 'node:child_process';
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { promisify } from 'node:util';
import fc from 'fast-check';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import type { Command, Device, DeviceBuffer, Kernel, KernelCode } from '../../backends/backend.js';
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

  const fresh = async (): Promise<Device> => {
    const driver = await webgpuBackend.driver({});
    return driver.open(device.info.id);
  };
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
    const driver = await webgpuBackend.driver({});
    expect((await rejection(driver.open('webgpu:none'))).code).toBe('E_DEVICE_UNKNOWN');
  });

  it('allocates zeros and keeps account', async () => {
    const before = device.memory().allocatedBytes;
    const buffers = [0, 1, 3, 5, 4096].map((bytes) => device.allocate(bytes));
    for (const buffer of buffers) expect(await readAll(buffer)).toEqual(new Uint8Array(buffer.bytes));
    expect(device.memory().allocatedBytes).toBeGreaterThanOrEqual(before + 4105);
    for (const buffer of buffers) buffer.free();
    expect(device.memory().allocatedBytes).toBe(before);
  });

  it('refuses what does not fit, with both numbers', () => {
    const { bufferBytes } = device.target.limits;
    expect(() => device.allocate(bufferBytes + 4)).toThrow(new RegExp(`${bufferBytes + 4}.*${bufferBytes}`));
    expect(() => device.allocate(bufferBytes + 4)).toThrow(expect.objectContaining({ code: 'E_OUT_OF_MEMORY' }));
  });

  it('writes, copies, fills and reads any bytes, and no others', async () => {
    const SIZE = 1030;
    const range = fc
      .tuple(fc.nat(SIZE), fc.nat(300))
      .map(([offset, bytes]) => ({ offset, bytes: Math.min(bytes, SIZE - offset) }));
    const op = fc.record({
      kind: fc.constantFrom('write', 'copy', 'fill'),
      a: fc.nat(1),
      b: fc.nat(1),
      range,
      from: fc.nat(SIZE),
      byte: fc.nat(255),
      aligned: fc.boolean(),
    });
    await fc.assert(
      fc.asyncProperty(fc.array(op, { minLength: 1, maxLength: 12 }), async (ops) => {
        const buffers = [device.allocate(SIZE), device.allocate(SIZE)];
        const model = buffers.map((_, n) => Uint8Array.from({ length: SIZE }, (_, i) => (i * 7 + n * 13 + 1) & 255));
        await device.queue.submit({
          writes: buffers.map((buffer, n) => ({ to: whole(buffer), data: model[n].slice() })),
        });
        // Writes come before the list of their submission, so each write starts a new one.
        let commands: Command[] = [];
        const flush = async (): Promise<void> => {
          const list = await device.record(commands);
          await device.queue.submit({ list });
          list.release();
          commands = [];
        };
        for (const { kind, a, b, range: wanted, from: start, byte, aligned } of ops) {
          const { offset, bytes } = aligned
            ? { offset: wanted.offset & ~3, bytes: Math.min(wanted.bytes & ~3, SIZE - (wanted.offset & ~3)) }
            : wanted;
          const to = { buffer: buffers[a], offset, bytes };
          if (kind === 'fill') {
            commands.push({ kind, to, byte: aligned ? 0 : byte });
            model[a].fill(aligned ? 0 : byte, offset, offset + bytes);
          } else if (kind === 'copy') {
            const source = Math.min(aligned ? start & ~3 : start, SIZE - bytes);
            if (a === b && source < offset + bytes && offset < source + bytes) continue;
            commands.push({ kind, from: { buffer: buffers[b], offset: source, bytes }, to });
            model[a].set(model[b].slice(source, source + bytes), offset);
          } else {
            await flush();
            const data = Uint8Array.from({ length: bytes }, (_, i) => (byte + i * 3) & 255);
            const around = {
              offset: Math.max(offset - 1, 0),
              bytes: Math.min(bytes + 2, SIZE - Math.max(offset - 1, 0)),
            };
            const into = new Uint8Array(around.bytes);
            await device.queue.submit({
              writes: [{ to, data }],
              reads: [{ from: { buffer: buffers[a], ...around }, into }],
            });
            model[a].set(data, offset);
            expect(into).toEqual(model[a].slice(around.offset, around.offset + around.bytes));
          }
        }
        await flush();
        for (const [n, buffer] of buffers.entries()) expect(await readAll(buffer)).toEqual(model[n]);
        for (const buffer of buffers) buffer.free();
      }),
      { numRuns: 60 },
    );
  });

  it('moves ranges larger than a scratch piece within one buffer', async () => {
    const half = (17 << 20) + 3;
    const buffer = device.allocate(2 * half + 6);
    const data = new Uint8Array(half);
    for (let i = 0; i < half; i++) data[i] = (i * 31 + (i >> 12)) & 255;
    const list = await device.record([
      { kind: 'copy', from: { buffer, offset: 1, bytes: half }, to: { buffer, offset: half + 2, bytes: half } },
    ]);
    const into = new Uint8Array(buffer.bytes);
    await device.queue.submit({
      list,
      writes: [{ to: { buffer, offset: 1, bytes: half }, data }],
      reads: [{ from: whole(buffer), into }],
    });
    expect(into[0]).toBe(0);
    expect(Buffer.compare(into.subarray(1, half + 1), data)).toBe(0);
    expect(into[half + 1]).toBe(0);
    expect(Buffer.compare(into.subarray(half + 2, 2 * half + 2), data)).toBe(0);
    expect([...into.subarray(2 * half + 2)]).toEqual([0, 0, 0, 0]);
    list.release();
    buffer.free();
  });

  it('replays a list with scalars of its own for each dispatch, in order', async () => {
    const [kernel] = await device.loadKernels([scaleCode(device, 100)]);
    const [a, b] = [device.allocate(400), device.allocate(400)];
    const step = (from: DeviceBuffer, to: DeviceBuffer, factor: number, offset: number): Command => ({
      kind: 'dispatch',
      kernel,
      grid: [2, 1, 1],
      bindings: [whole(from), whole(to)],
      scalars: floats(factor, offset),
    });
    const list = await device.record([
      step(a, b, 2, 1),
      { kind: 'barrier' },
      step(b, a, 3, 0),
      { kind: 'barrier' },
      { kind: 'copy', from: whole(a), to: whole(b) },
      { kind: 'barrier' },
      step(b, a, 1, 0.5),
    ]);
    for (let round = 0; round < 3; round++) {
      const input = Float32Array.from({ length: 100 }, (_, i) => i + round);
      const into = new Float32Array(100);
      await device.queue.submit({
        list,
        writes: [{ to: whole(a), data: bytesOfView(input) }],
        reads: [{ from: whole(a), into: bytesOfView(into) }],
      });
      expect(into).toEqual(input.map((x) => (x * 2 + 1) * 3 + 0.5));
    }
    list.release();
    kernel.release();
    a.free();
    b.free();
  });

  it('binds one arena several times and writes nothing beside its ranges', async () => {
    const [kernel] = await device.loadKernels([scaleCode(device, 50)]);
    const arena = device.allocate(1024);
    const data = new Uint8Array(1024).fill(0xab);
    data.set(bytesOfView(new Float32Array(50).fill(1.5)), 512);
    const list = await device.record([
      {
        kind: 'dispatch',
        kernel,
        grid: [1, 1, 1],
        scalars: floats(2, 0),
        bindings: [
          { buffer: arena, offset: 512, bytes: 200 },
          { buffer: arena, offset: 256, bytes: 200 },
        ],
      },
    ]);
    const into = new Uint8Array(1024);
    await device.queue.submit({ list, writes: [{ to: whole(arena), data }], reads: [{ from: whole(arena), into }] });
    const expected = data.slice();
    expected.set(bytesOfView(new Float32Array(50).fill(3)), 256);
    expect(into).toEqual(expected);
    list.release();
    arena.free();
  });

  it('says what is wrong with a dispatch', async () => {
    const [kernel] = await device.loadKernels([scaleCode(device, 64)]);
    const buffer = device.allocate(1024);
    const record = (change: Partial<Extract<Command, { kind: 'dispatch' }>>) =>
      device.record([
        {
          kind: 'dispatch',
          kernel,
          grid: [1, 1, 1],
          scalars: floats(1, 0),
          bindings: [
            { buffer, offset: 0, bytes: 256 },
            { buffer, offset: 256, bytes: 256 },
          ],
          ...change,
        },
      ]);
    expect((await rejection(record({ grid: [65536, 1, 1] }))).message).toMatch(/kernel scale.*65535.*65536/);
    expect((await rejection(record({ bindings: [whole(buffer)] }))).message).toMatch(/number of buffers.*2.*1/);
    expect((await rejection(record({ scalars: undefined }))).message).toMatch(/8 bytes.*0 bytes/);
    expect(
      (
        await rejection(
          record({
            bindings: [
              { buffer, offset: 4, bytes: 256 },
              { buffer, offset: 512, bytes: 256 },
            ],
          }),
        )
      ).message,
    ).toMatch(/multiple of/);
    expect(
      (
        await rejection(
          record({
            bindings: [
              { buffer, offset: 0, bytes: 2048 },
              { buffer, offset: 512, bytes: 256 },
            ],
          }),
        )
      ).message,
    ).toMatch(/1024 bytes/);
    const twice = { buffer, offset: 0, bytes: 256 };
    expect((await rejection(record({ bindings: [twice, twice] }))).message).toMatch(/overlap/);
    // No workgroup at all is no work; a range too small for the kernel is found by WebGPU itself.
    await device.queue.submit({ list: await record({ grid: [0, 1, 1] }) });
    const small = await record({
      bindings: [
        { buffer, offset: 0, bytes: 4 },
        { buffer, offset: 256, bytes: 256 },
      ],
    });
    expect((await rejection(device.queue.submit({ list: small }))).code).toBe('E_DEVICE');
    expect(await readAll(buffer)).toEqual(new Uint8Array(1024)); // and the device still works
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

  it('keeps a thousand submissions in order', async () => {
    const [kernel] = await device.loadKernels([scaleCode(device, 1)]);
    const [a, b] = [device.allocate(4), device.allocate(4)];
    const list = await device.record([
      { kind: 'dispatch', kernel, grid: [1, 1, 1], bindings: [whole(a), whole(b)], scalars: floats(1, 1) },
      { kind: 'barrier' },
      { kind: 'copy', from: whole(b), to: whole(a) },
    ]);
    const results = Array.from({ length: 1000 }, () => new Float32Array(1));
    const order: number[] = [];
    await Promise.all(
      results.map((result, i) =>
        device.queue.submit({ list, reads: [{ from: whole(a), into: bytesOfView(result) }] }).then(() => order.push(i)),
      ),
    );
    expect(results.map(([x]) => x)).toEqual(results.map((_, i) => i + 1));
    expect(order).toEqual(results.map((_, i) => i));
    list.release();
  });

  it('gives the time of each dispatch', async (context) => {
    if (!device.target.features.has('timestamps')) context.skip('no timestamps');
    const [kernel] = await device.loadKernels([scaleCode(device, 65536)]);
    const [a, b] = [device.allocate(65536 * 4), device.allocate(65536 * 4)];
    const dispatch = (groups: number): Command => ({
      kind: 'dispatch',
      kernel,
      grid: [groups, 1, 1],
      bindings: [whole(a), whole(b)],
      scalars: floats(1, 1),
    });
    const list = await device.record([dispatch(1024), { kind: 'fill', to: whole(a), byte: 1 }, dispatch(1)]);
    const { dispatchMicroseconds: times } = await device.queue.submit({ list, profile: true });
    expect(times?.length).toBe(2);
    expect(times?.[0]).toBeGreaterThan(0);
    expect((await device.queue.submit({ list })).dispatchMicroseconds).toBeUndefined();
    list.release();
  });

  it('aborts at once and leaves the array alone', async () => {
    const buffer = device.allocate(64);
    const controller = new AbortController();
    const into = new Uint8Array(64).fill(9);
    const running = device.queue.submit({
      writes: [{ to: whole(buffer), data: new Uint8Array(64).fill(3) }],
      reads: [{ from: whole(buffer), into }],
      signal: controller.signal,
    });
    controller.abort(new Error('enough'));
    expect((await rejection(running)).message).toBe('enough');
    expect((await rejection(device.queue.submit({ signal: controller.signal }))).message).toBe('enough');
    expect(await readAll(buffer)).toEqual(new Uint8Array(64).fill(3));
    expect(into).toEqual(new Uint8Array(64).fill(9));
  });

  it('keeps a buffer that a list holds', async () => {
    const buffer = device.allocate(16);
    const other = device.allocate(16);
    const list = await device.record([
      { kind: 'fill', to: whole(buffer), byte: 7 },
      { kind: 'copy', from: whole(buffer), to: whole(other) },
    ]);
    buffer.free();
    await device.queue.submit({ list });
    expect(await readAll(other)).toEqual(new Uint8Array(16).fill(7));
    expect(
      (await rejection(device.queue.submit({ reads: [{ from: whole(buffer), into: new Uint8Array(16) }] }))).code,
    ).toBe('E_USAGE');
    list.release();
    expect((await rejection(device.queue.submit({ list }))).code).toBe('E_USAGE');
  });

  it('closes with work in flight, then refuses', async () => {
    const own = await fresh();
    const buffer = own.allocate(1 << 20);
    const into = new Uint8Array(1 << 20);
    const running = own.queue.submit({
      writes: [{ to: whole(buffer), data: new Uint8Array(1 << 20).fill(5) }],
      reads: [{ from: whole(buffer), into }],
    });
    await own.close();
    await running;
    expect(into[12345]).toBe(5);
    expect(own.memory().allocatedBytes).toBe(0);
    expect(() => own.allocate(4)).toThrow(expect.objectContaining({ code: 'E_DEVICE_CLOSED' }));
    expect((await rejection(own.queue.submit({}))).code).toBe('E_DEVICE_CLOSED');
    expect((await rejection(own.loadKernels([]))).code).toBe('E_DEVICE_CLOSED');
    await own.close();
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
