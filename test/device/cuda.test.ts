/** Rendered PTX against the interpreter, bit for bit, and what is special of the CUDA driver. */
import { mkdtempSync, readdirSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import type { Device } from '../../backends/backend.js';
import { cudaBackend } from '../../backends/cuda/index.js';
import { KernelBuilder } from '../../compiler/kernel/builder.js';
import { cudaDevices, cudaDriver, openCuda } from '../support/cuda.js';
import { loops } from '../support/executed_kernels.js';
import { data, numberTypes } from '../support/kernel_data.js';
import { callingRun, compareRuns } from '../support/kernel_runs.js';
import { testRendered } from '../support/render_suite.js';

/** The virtual device's memory: small, so that it can run out. */
const virtualMebibytes = 512;
process.env.TUTTI_VIRTUAL_CUDA_MEMORY_MB = String(virtualMebibytes);

const devices = await cudaDevices();
if (devices.length === 0)
  describe.skip('cuda: no driver and no virtual device (npm run build:virtual)', () =>
    it('is not here', () => undefined));

describe('cuda driver', () => {
  it('says why there is no device', async () => {
    const probed = await (await cudaDriver('/nowhere/libcuda.so.1')).probe();
    expect(probed).toMatchObject({ ok: false, reason: expect.stringMatching(/TUTTI_CUDA_LIBRARY.*nowhere/) });
    const driver = await cudaDriver('/nowhere/libcuda.so.1');
    expect(await driver.enumerate()).toEqual([]);
    await expect(driver.open('cuda:GPU-0')).rejects.toMatchObject({ code: 'E_DEVICE' });
  });
});

for (const [name, library] of devices) {
  describe(`cuda on ${name}`, () => {
    let device: Device;
    beforeAll(async () => {
      device = await openCuda(library);
    });
    afterAll(async () => {
      await device?.close();
    });

    it('has an id, an architecture and what the driver says of it', async () => {
      const driver = await cudaDriver(library);
      const [info] = await driver.enumerate();
      expect(info.id).toMatch(/^cuda:GPU-[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$/);
      expect(device.target.arch).toMatch(/^sm_\d+a?$/);
      expect(info.virtual).toBe(info.name.startsWith('Tutti Virtual'));
      await expect(driver.open('cuda:GPU-none')).rejects.toMatchObject({ code: 'E_DEVICE_UNKNOWN' });
    });

    it('runs out of memory in words and numbers, and finds what is about to be freed', async (context) => {
      if (!device.info.virtual) return context.skip('would take all memory of a real device');
      const half = (virtualMebibytes * 2 ** 20 * 5) / 8;
      const other = await openCuda(library);
      const mine = device.allocate(half);
      const most = expect.objectContaining({
        code: 'E_OUT_OF_MEMORY',
        message: expect.stringMatching(`${half} bytes.*at most`),
      });
      // The other device's books do not show it; the driver knows.
      expect(() => other.allocate(half)).toThrow(most);
      expect(other.memory().allocatedBytes).toBe(0);
      // A released buffer is freed by a thread that has other things to do; asking again waits for it.
      mine.free();
      const again = device.allocate(half);
      expect(device.memory().allocatedBytes).toBe(half);
      again.free();
      await other.close();
    });

    it('moves more than its pinned memory holds, in many pieces at once', async () => {
      const bytes = 80 * 2 ** 20 + 3;
      const buffer = device.allocate(bytes);
      const sent = Uint8Array.from({ length: bytes }, (_, i) => (i * 31) ^ (i >> 11));
      const received = new Uint8Array(bytes);
      const small = Array.from({ length: 40 }, () => new Uint8Array(1 << 20));
      const whole = { buffer, offset: 0, bytes };
      await Promise.all([
        device.queue.submit({ writes: [{ to: whole, data: sent }] }),
        ...small.map((into, i) =>
          device.queue.submit({ reads: [{ from: { buffer, offset: i << 21, bytes: into.length }, into }] }),
        ),
        device.queue.submit({ reads: [{ from: whole, into: received }] }),
      ]);
      expect(Buffer.compare(received, sent)).toBe(0);
      for (const [i, into] of small.entries())
        expect(Buffer.compare(into, sent.subarray(i << 21, (i << 21) + into.length))).toBe(0);
      buffer.free();
    });

    it('is lost when a kernel faults, says so, and opens anew', async (context) => {
      if (!device.info.virtual) return context.skip('would end the work of others on a real device');
      const doomed = await openCuda(library);
      const b = new KernelBuilder();
      const out = b.buffer('out', 'u32', 2 ** 28, 'write');
      b.store(out, b.constant(2 ** 28 - 1), b.constant(1, 'u32'));
      const kernel = b.finish({ name: 'fault', grid: [1, 1, 1], workgroup: [1, 1, 1] });
      const [loaded] = await doomed.loadKernels([cudaBackend.render(kernel, doomed.target)]);
      const buffer = doomed.allocate(256);
      const list = await doomed.record([
        { kind: 'dispatch', kernel: loaded, grid: kernel.grid, bindings: [{ buffer, offset: 0, bytes: 256 }] },
      ]);
      const lost = expect.objectContaining({
        code: 'E_DEVICE_LOST',
        message: expect.stringMatching(/ILLEGAL_ADDRESS/),
      });
      await expect(doomed.queue.submit({ list })).rejects.toEqual(lost);
      expect((await doomed.lost).reason).toMatch(/ILLEGAL_ADDRESS/);
      await expect(doomed.queue.submit({})).rejects.toMatchObject({ code: 'E_DEVICE_LOST' });
      await doomed.close();
      // A fault takes the context, and with it every device of this process that shares it: all must close before one
      // opens again. (Of real drivers NVIDIA promises not even that.)
      await device.close();
      device = await openCuda(library);
      const [x] = await compareRuns(cudaBackend, device, [
        { what: 'after the loss', kernel: loops(), inputs: [data('i32', 5, 512)], scalars: [3] },
      ]);
      expect(x).toBeUndefined();
    });

    it('gives the words of the assembler for a kernel it refuses', async () => {
      const code = cudaBackend.render(loops(), device.target);
      const broken = { ...code, name: 'odd', text: code.text?.replace('ret;', 'nonsense.u32 %r0;\nret;') ?? '' };
      await expect(device.loadKernels([code, broken])).rejects.toMatchObject({
        code: 'E_KERNEL',
        message: expect.stringMatching(/odd.*nonsense|odd.*line/is),
      });
    });

    testRendered(cudaBackend, () => device, numberTypes);

    it('keeps machine code on disk, whole and checked', async () => {
      const folder = mkdtempSync(join(tmpdir(), 'tutti-cubins-'));
      const files = () => readdirSync(join(folder, 'cuda')).sort();
      const k = new KernelBuilder();
      const x = k.buffer('x', 'u32', 4, 'readwrite');
      const at = k.builtin('workgroup_id', 0, 4);
      k.store(x, at, k.addc(k.load(x, at), 7));
      const kernel = k.finish({ name: 'adds', sources: [], grid: [4, 1, 1], workgroup: [1, 1, 1] });
      const run = async (): Promise<Uint32Array> => {
        const opened = await openCuda(library, { cacheDirectory: folder });
        const [loaded] = await opened.loadKernels([cudaBackend.render(kernel, opened.target)]);
        const buffer = opened.allocate(16);
        const range = { buffer, offset: 0, bytes: 16 };
        const list = await opened.record([{ kind: 'dispatch', kernel: loaded, grid: kernel.grid, bindings: [range] }]);
        const into = new Uint8Array(16);
        await opened.queue.submit({ list, reads: [{ from: range, into }] });
        await opened.close();
        return new Uint32Array(into.buffer);
      };
      try {
        const sevens = Uint32Array.of(7, 7, 7, 7);
        expect(await run()).toEqual(sevens);
        const written = files();
        expect(written).toEqual([expect.stringMatching(/^[0-9a-f]{32}\.cubin$/)]);
        const path = join(folder, 'cuda', written[0]);
        const whole = readFileSync(path);
        const { mtimeMs } = statSync(path);
        expect(await run()).toEqual(sevens);
        expect(statSync(path).mtimeMs).toBe(mtimeMs);
        const flipped = Buffer.from(whole);
        flipped[flipped.length - 3] ^= 1;
        for (const damaged of [whole.subarray(0, 20), whole.subarray(0, whole.length - 1), flipped, Buffer.alloc(0)]) {
          writeFileSync(path, damaged);
          expect(await run()).toEqual(sevens);
          expect(readFileSync(path)).toEqual(whole);
        }
        expect(files()).toEqual(written);
      } finally {
        rmSync(folder, { recursive: true, force: true });
      }
    });

    it('renders what is called often as functions', () => {
      const { kernel } = callingRun('f32');
      expect(cudaBackend.render(kernel, device.target).text).toContain('call.uni');
    });
  });
}
