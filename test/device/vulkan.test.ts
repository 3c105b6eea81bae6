/** The vulkan driver's contract on every software driver installed, with direct and with staged transfers. */
import { mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import type { BufferRange, CommandList, Device, DeviceBuffer, Kernel } from '../../backends/backend.js';
import { vulkanBackend } from '../../backends/vulkan/index.js';
import { KernelBuilder } from '../../compiler/kernel/builder.js';
import type { KernelFunction } from '../../compiler/kernel/types.js';
import { driverFor, openFirst, softwareDrivers } from '../support/vulkan.js';

const whole = (buffer: DeviceBuffer): BufferRange => ({ buffer, offset: 0, bytes: buffer.bytes });
const range = (buffer: DeviceBuffer, offset: number, bytes: number): BufferRange => ({ buffer, offset, bytes });
const bytes = (array: ArrayBufferView): Uint8Array => new Uint8Array(array.buffer, array.byteOffset, array.byteLength);

/** y[i] = x[i] · factor + y[i], `factor` a scalar parameter. */
function multiplyAdd(length: number, grid: number): KernelFunction {
  const b = new KernelBuilder();
  const x = b.buffer('x', 'i32', length, 'read');
  const y = b.buffer('y', 'i32', length, 'readwrite');
  const factor = b.scalar('factor', 'i32');
  const index = b.add(b.mulc(b.builtin('workgroup_id', 0, grid), 64), b.builtin('local_id', 0, 64));
  b.if(b.compare('lt', index, b.constant(length)), () => {
    b.store(y, index, b.add(b.mul(b.load(x, index), factor), b.load(y, index)));
  });
  return b.finish({ name: 'multiply_add', grid: [grid, 1, 1], workgroup: [64, 1, 1] });
}

/** Keeps the device busy: workgroups that each run a linear congruential generator 50,000 times, one after the other. */
function spin(steps: number): KernelFunction {
  const b = new KernelBuilder();
  const out = b.buffer('out', 'u32', 1, 'readwrite');
  const grid = Math.ceil(steps / 50_000);
  const start = b.convert(b.builtin('workgroup_id', 0, grid), 'u32');
  const [last] = b.for(0, 50_000, 1, [start], (_, [x]) => [
    b.add(b.mul(x, b.constant(1664525, 'u32')), b.constant(1013904223, 'u32')),
  ]);
  b.atomic('add', out, b.constant(0), last);
  return b.finish({ name: 'spin', grid: [grid, 1, 1], workgroup: [1, 1, 1] });
}

async function load(device: Device, kernel: KernelFunction): Promise<Kernel> {
  const [loaded] = await device.loadKernels([vulkanBackend.render(kernel, device.target)]);
  return loaded;
}
const word = (value: number): Uint8Array => bytes(Int32Array.of(value));

describe('vulkan driver', () => {
  it('says in words why an ICD does not work, and lists nothing', async () => {
    const driver = await driverFor('/nowhere/icd.json');
    const probed = await driver.probe();
    expect(probed).toMatchObject({ ok: false, reason: expect.stringContaining('/nowhere/icd.json') });
    expect(await driver.enumerate()).toEqual([]);
    await expect(driver.open('vulkan:00')).rejects.toMatchObject({ code: 'E_DEVICE' });
  });
  it('finds the software drivers that this suite needs', () => {
    if (softwareDrivers.length === 0) console.warn('no software Vulkan driver: device tests are skipped');
  });
});

for (const [name, icd] of softwareDrivers) {
  for (const staging of [false, true]) {
    describe(`vulkan on ${name}${staging ? ', staged transfers' : ''}`, () => {
      let device: Device;
      beforeAll(async () => {
        device = await openFirst(icd, { staging });
      });
      afterAll(async () => {
        await device?.close();
      });

      const read = async (buffer: DeviceBuffer): Promise<Uint8Array> => {
        const into = new Uint8Array(buffer.bytes);
        await device.queue.submit({ reads: [{ from: whole(buffer), into }] });
        return into;
      };

      it('has a stable id and refuses unknown ones', async () => {
        const driver = await driverFor(icd);
        const [first] = await driver.enumerate();
        expect(first.id).toMatch(/^vulkan:[0-9a-f]{32}$/);
        expect(first).toEqual((await driver.enumerate())[0]);
        expect(first.software).toBe(true);
        await expect(driver.open('vulkan:ff')).rejects.toMatchObject({ code: 'E_DEVICE_UNKNOWN' });
      });

      it('allocates zeroed buffers of any size and accounts for them', async () => {
        const before = device.memory().allocatedBytes;
        for (const size of [1, 3, 4, 65_537, 40_000_001]) {
          // Fill and free, so that a second allocation would see old bytes if any.
          const first = device.allocate(size);
          await device.queue.submit({ list: await device.record([{ kind: 'fill', to: whole(first), byte: 0xab }]) });
          expect((await read(first)).every((byte) => byte === 0xab)).toBe(true);
          first.free();
          const buffer = device.allocate(size);
          expect((await read(buffer)).every((byte) => byte === 0)).toBe(true);
          expect(device.memory().allocatedBytes).toBeGreaterThanOrEqual(before + size);
          buffer.free();
        }
      });

      it('refuses what does not fit, with both numbers', () => {
        const { totalBytes } = device.memory();
        expect(() => device.allocate(totalBytes + 1)).toThrow(expect.objectContaining({ code: 'E_OUT_OF_MEMORY' }));
        expect(() => device.allocate(totalBytes + 1)).toThrow(new RegExp(`${totalBytes + 1} bytes.*at most \\d+`));
      });

      it('writes, copies, fills and reads any byte range and nothing else', async () => {
        const size = 4099;
        const [a, b] = [device.allocate(size), device.allocate(size)];
        const model = [new Uint8Array(size), new Uint8Array(size)];
        let seed = 7;
        const random = (below: number): number => {
          seed = (Math.imul(seed, 1103515245) + 12345) & 0x7fffffff;
          return (seed >>> 8) % below;
        };
        for (let round = 0; round < 60; round++) {
          const length = round % 3 === 0 ? random(9) : random(600);
          const [from, to] = [random(size - length), random(size - length)];
          if (round % 3 === 0) {
            const data = Uint8Array.from({ length }, () => random(256));
            await device.queue.submit({ writes: [{ to: range(a, to, length), data }] });
            model[0].set(data, to);
          } else if (round % 3 === 1) {
            const list = await device.record([
              { kind: 'copy', from: range(a, from, length), to: range(b, to, length) },
            ]);
            await device.queue.submit({ list });
            model[1].set(model[0].subarray(from, from + length), to);
            list.release();
          } else {
            const list = await device.record([{ kind: 'fill', to: range(a, to, length), byte: round }]);
            await device.queue.submit({ list });
            model[0].fill(round, to, to + length);
            list.release();
          }
        }
        expect(await read(a)).toEqual(model[0]);
        expect(await read(b)).toEqual(model[1]);
        a.free();
        b.free();
      });

      it('moves data larger than its staging memory', async () => {
        const size = 70_000_003;
        const buffer = device.allocate(size);
        const data = new Uint8Array(size);
        for (let i = 0; i < size; i += 997) data[i] = (i * 31) & 0xff;
        const into = new Uint8Array(size);
        await device.queue.submit({ writes: [{ to: whole(buffer), data }], reads: [{ from: whole(buffer), into }] });
        expect(Buffer.compare(into, data)).toBe(0);
        buffer.free();
      });

      it('dispatches with scalars and bindings at offsets, and leaves the bytes around alone', async () => {
        const length = 1000;
        const align = device.target.limits.storageAlignment;
        const kernel = await load(device, multiplyAdd(length, 16));
        const x = device.allocate(align + 4 * length);
        const y = device.allocate(2 * align + 4 * length + 64);
        const data = Int32Array.from({ length }, (_, i) => i * 3 - 500);
        const list = await device.record([
          { kind: 'fill', to: whole(y), byte: 0x5a },
          { kind: 'barrier' },
          { kind: 'fill', to: range(y, 2 * align, 4 * length), byte: 0 },
          { kind: 'barrier' },
          ...[3, 5].flatMap((factor) => [
            {
              kind: 'dispatch' as const,
              kernel,
              grid: [16, 1, 1] as const,
              scalars: word(factor),
              bindings: [range(x, align, 4 * length), range(y, 2 * align, 4 * length)],
            },
            { kind: 'barrier' as const },
          ]),
        ]);
        for (let replay = 0; replay < 3; replay++) {
          const into = new Uint8Array(y.bytes);
          const { dispatchMicroseconds } = await device.queue.submit({
            list,
            writes: [{ to: range(x, align, 4 * length), data: bytes(data) }],
            reads: [{ from: whole(y), into }],
            profile: replay === 1,
          });
          expect(dispatchMicroseconds?.length).toBe(replay === 1 ? 2 : undefined);
          if (dispatchMicroseconds) expect(Math.min(...dispatchMicroseconds)).toBeGreaterThan(0);
          expect(new Int32Array(into.slice(2 * align, 2 * align + 4 * length).buffer)).toEqual(data.map((v) => v * 8));
          expect(into.subarray(0, 2 * align).every((byte) => byte === 0x5a)).toBe(true);
          expect(into.subarray(2 * align + 4 * length).every((byte) => byte === 0x5a)).toBe(true);
        }
        for (const resource of [list as CommandList, kernel]) resource.release();
        x.free();
        y.free();
      });

      it('runs a thousand submissions in order', async () => {
        const kernel = await load(device, multiplyAdd(1, 1));
        const [x, y] = [device.allocate(4), device.allocate(4)];
        const list = await device.record([
          { kind: 'dispatch', kernel, grid: [1, 1, 1], bindings: [whole(x), whole(y)], scalars: word(1) },
        ]);
        const results = Array.from({ length: 1000 }, () => new Int32Array(1));
        const order: number[] = [];
        await Promise.all(
          results.map((into, i) =>
            device.queue
              .submit({
                list,
                ...(i % 2 === 0 ? { writes: [{ to: whole(x), data: word(i) }] } : {}),
                reads: [{ from: whole(y), into: bytes(into) }],
              })
              .then(() => order.push(i)),
          ),
        );
        let sum = 0;
        for (let i = 0; i < 1000; i++) {
          sum += i - (i % 2);
          expect(results[i][0]).toBe(sum);
        }
        expect(order).toEqual(Array.from({ length: 1000 }, (_, i) => i));
        list.release();
        kernel.release();
        x.free();
        y.free();
      });

      it('leaves the event loop alone while the device works', async () => {
        const work = spin(100_000_000);
        const kernel = await load(device, work);
        const out = device.allocate(4);
        const list = await device.record([{ kind: 'dispatch', kernel, grid: work.grid, bindings: [whole(out)] }]);
        await device.queue.submit({ writes: [{ to: whole(out), data: word(1) }] });
        let busy = true;
        const started = performance.now();
        const running = device.queue.submit({ list }).finally(() => {
          busy = false;
        });
        const delays: number[] = [];
        while (busy) {
          const at = performance.now();
          await new Promise((resolve) => setTimeout(resolve, 1));
          delays.push(performance.now() - at - 1);
        }
        await running;
        delays.sort((p, q) => p - q);
        if (performance.now() - started > 50) expect(delays.length).toBeGreaterThan(5);
        // The median: other processes of a busy machine make single late ticks.
        expect(delays[delays.length >> 1] ?? 0).toBeLessThan(20);
        list.release();
        kernel.release();
        out.free();
      });

      it('rejects at once when aborted and goes on working', async () => {
        const work = spin(30_000_000);
        const kernel = await load(device, work);
        const out = device.allocate(4);
        const list = await device.record([{ kind: 'dispatch', kernel, grid: work.grid, bindings: [whole(out)] }]);
        const controller = new AbortController();
        const reason = new Error('enough');
        const into = new Uint8Array(4);
        const running = device.queue.submit({ list, reads: [{ from: whole(out), into }], signal: controller.signal });
        const later = device.queue.submit({ list });
        controller.abort(reason);
        await expect(running).rejects.toBe(reason);
        await expect(device.queue.submit({ list, signal: controller.signal })).rejects.toBe(reason);
        await later;
        expect(into).toEqual(new Uint8Array(4));
        expect((await read(out)).some((byte) => byte !== 0)).toBe(true);
        list.release();
        kernel.release();
        out.free();
      });

      it('names the kernel whose SPIR-V does not fit the device', async () => {
        const code = vulkanBackend.render(multiplyAdd(1, 1), device.target);
        await expect(device.loadKernels([{ ...code, name: 'odd', subgroupSize: 3 }])).rejects.toMatchObject({
          code: 'E_KERNEL',
          message: expect.stringContaining('odd'),
        });
      });

      it('compiles many kernels at once, in order', async () => {
        const codes = Array.from({ length: 12 }, (_, i) => ({
          ...vulkanBackend.render(multiplyAdd(i + 1, 1), device.target),
          name: `kernel${i}`,
        }));
        const kernels = await device.loadKernels(codes);
        expect(kernels.map((kernel) => kernel.name)).toEqual(codes.map((code) => code.name));
        for (const kernel of kernels) kernel.release();
      });

      it('closes with work in flight: what was submitted ends, later calls are refused', async () => {
        const other = await openFirst(icd, { staging });
        const work = spin(5_000_000);
        const kernel = await load(other, work);
        const out = other.allocate(4);
        const list = await other.record([{ kind: 'dispatch', kernel, grid: work.grid, bindings: [whole(out)] }]);
        const results = Array.from({ length: 5 }, () => new Uint8Array(4));
        const settled = results.map((into) => other.queue.submit({ list, reads: [{ from: whole(out), into }] }));
        const closed = other.close();
        await expect(Promise.allSettled(settled)).resolves.toEqual(
          settled.map(() => ({ status: 'fulfilled', value: {} })),
        );
        await closed;
        await other.close();
        expect(results.every((into) => into.some((byte) => byte !== 0))).toBe(true);
        expect(() => other.allocate(4)).toThrow(expect.objectContaining({ code: 'E_DEVICE_CLOSED' }));
        await expect(other.queue.submit({ list })).rejects.toMatchObject({ code: 'E_DEVICE_CLOSED' });
        await expect(other.record([])).rejects.toMatchObject({ code: 'E_DEVICE_CLOSED' });
        out.free();
        list.release();
        kernel.release();
      });
    });
  }

  describe(`pipeline cache of ${name}`, () => {
    it('is written whole, and a damaged one is neither believed nor fatal', async () => {
      const folder = mkdtempSync(join(tmpdir(), 'tutti-vulkan-'));
      try {
        const once = async (): Promise<void> => {
          const device = await openFirst(icd, { cacheDirectory: folder });
          await load(device, multiplyAdd(77, 2));
          await device.close();
        };
        await once();
        const files = (): string[] => readdirSync(join(folder, 'vulkan'));
        const [file] = files();
        if (file === undefined) return; // a driver that keeps no cache
        expect(file).toMatch(/^[0-9a-f]{32}-[0-9a-f]+\.bin$/);
        const path = join(folder, 'vulkan', file);
        const good = readFileSync(path);
        for (const bad of [
          good.subarray(0, good.length / 2),
          Buffer.alloc(0),
          Buffer.from(good).fill(0xff, 40, 80),
          Buffer.from('x'),
        ]) {
          writeFileSync(path, bad);
          await once();
        }
        expect(readFileSync(path).subarray(0, 8).toString()).toBe('TUTTIVP1');
        expect(files()).toEqual([file]);
      } finally {
        rmSync(folder, { recursive: true, force: true });
      }
    });
  });
}
