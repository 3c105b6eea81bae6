/** What is Metal's own in its driver: reasons, archives, faults, recorded lists, references. The contract is in suite.ts. */
import { execFileSync } from 'node:child_process';
import { mkdtempSync, readdirSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import type { BufferRange, Command, Device, DeviceBuffer, Kernel } from '../../backends/backend.js';
import { metalBackend } from '../../backends/metal/index.js';
import { KernelBuilder } from '../../compiler/kernel/builder.js';
import type { KernelFunction } from '../../compiler/kernel/types.js';
import { repository } from '../support/data.js';
import { withEnvironment } from '../support/environment.js';
import { metalDevices, metalDriver, openMetal } from '../support/metal.js';

/** The virtual device's memory: small, so that it can run out. */
const virtualMebibytes = 512;
process.env.TUTTI_VIRTUAL_METAL_MEMORY_MB = String(virtualMebibytes);

const devices = await metalDevices();
if (devices.length === 0)
  describe.skip('metal: no Metal and no virtual device (npm run build:virtual)', () =>
    it('is not here', () => undefined));

const words = 64;

/** y[i] = x[i] · factor + y[i] over i32, one workgroup an element. */
function multiplyAdd(name = 'multiply_add'): KernelFunction {
  const b = new KernelBuilder();
  const [x, y] = [b.buffer('x', 'i32', words, 'read'), b.buffer('y', 'i32', words, 'readwrite')];
  const factor = b.scalar('factor', 'i32');
  const i = b.builtin('workgroup_id', 0, words);
  b.store(y, i, b.add(b.mul(b.load(x, i), factor), b.load(y, i)));
  return b.finish({ name, grid: [words, 1, 1], workgroup: [1, 1, 1] });
}

/** Stores far outside its buffer. */
function fault(): KernelFunction {
  const b = new KernelBuilder();
  const out = b.buffer('out', 'u32', 2 ** 28, 'write');
  b.store(out, b.constant(2 ** 28 - 1), b.constant(1, 'u32'));
  return b.finish({ name: 'fault', grid: [1, 1, 1], workgroup: [1, 1, 1] });
}

const whole = (buffer: DeviceBuffer): BufferRange => ({ buffer, offset: 0, bytes: buffer.bytes });
const word = (value: number): Uint8Array => new Uint8Array(Int32Array.of(value).buffer);
const barrier: Command = { kind: 'barrier' };

async function load(device: Device, kernel: KernelFunction): Promise<Kernel> {
  const [loaded] = await device.loadKernels([metalBackend.render(kernel, device.target)]);
  return loaded;
}

describe('metal driver', () => {
  it('says why there is no device', async () => {
    const driver = await metalDriver('/nowhere/libmetal.so');
    expect(await driver.probe()).toMatchObject({
      ok: false,
      reason: expect.stringMatching(/TUTTI_METAL_LIBRARY.*nowhere/),
    });
    expect(await driver.enumerate()).toEqual([]);
    await expect(driver.open('metal:1')).rejects.toMatchObject({ code: 'E_DEVICE' });
  });

  it('names what a library lacks that is not Metal', async () => {
    const libc = process.platform === 'darwin' ? '/usr/lib/libz.1.dylib' : 'libc.so.6';
    const probed = await (await metalDriver(libc)).probe();
    if (process.platform === 'win32') expect(probed.ok).toBe(false);
    else expect(probed).toMatchObject({ ok: false, reason: expect.stringMatching(/has no .*MTLCopyAllDevices/) });
  });

  it.skipIf(process.platform === 'darwin')('says where Metal is, elsewhere', async () => {
    expect(await (await metalDriver('')).probe()).toEqual({ ok: false, reason: 'Metal is part of macOS' });
  });
});

for (const [name, library] of devices) {
  describe(`metal on ${name}`, () => {
    let device: Device;
    let virtual: boolean;
    beforeAll(async () => {
      device = await openMetal(library);
      virtual = device.info.virtual;
    });
    afterAll(async () => {
      await device?.close();
    });

    it('has an id, a family, limits and what the system says of it', async () => {
      const driver = await metalDriver(library);
      const [info] = await driver.enumerate();
      expect(info.id).toMatch(/^metal:\d+$/);
      expect(device.target.arch).toMatch(/^(apple\d+|mac2)$/);
      expect(info.virtual).toBe(info.name.startsWith('Tutti Virtual'));
      expect(info.driver).toMatch(/^Metal, macOS Version \d+/);
      expect(info.memoryBytes).toBeGreaterThan(2 ** 28);
      expect(info.features).toContain(device.target.arch);
      expect(info.limits).toMatchObject({
        maxThreadgroupMemoryLength: expect.any(Number),
        maxThreadsPerThreadgroupWidth: expect.any(Number),
        maxBufferLength: expect.any(Number),
      });
    });

    it('names devices that are too old', async (context) => {
      if (!virtual) return context.skip('only the virtual device can be made old');
      const probed = await withEnvironment({ TUTTI_VIRTUAL_METAL_WITHOUT: 'families' }, async () =>
        (await metalDriver(library)).probe(),
      );
      expect(probed).toMatchObject({
        ok: false,
        reason: expect.stringMatching(/Tutti Virtual Metal.*families.*apple7/),
      });
    });

    it('runs out of memory in words and numbers, and finds what is about to be freed', async (context) => {
      if (!virtual) return context.skip('would take all memory of a real device');
      const half = (virtualMebibytes * 2 ** 20 * 5) / 8;
      const other = await openMetal(library);
      const mine = device.allocate(half);
      expect(() => other.allocate(half)).toThrow(
        expect.objectContaining({
          code: 'E_OUT_OF_MEMORY',
          message: expect.stringMatching(`${half} bytes.*at most`),
        }),
      );
      expect(other.memory().allocatedBytes).toBe(0);
      mine.free();
      const again = device.allocate(half);
      expect(device.memory().allocatedBytes).toBe(half);
      again.free();
      await other.close();
    });

    it('gives the words and lines of the compiler for a kernel it refuses', async () => {
      const code = metalBackend.render(multiplyAdd(), device.target);
      const refused = (change: object, message: RegExp) =>
        expect(device.loadKernels([code, { ...code, name: 'odd', ...change }])).rejects.toMatchObject({
          code: 'E_KERNEL',
          message: expect.stringMatching(message),
        });
      await refused(
        { text: `${code.text}\nint twice(int x) { return x + undeclared; }` },
        /odd.*:\d+:\d+.*undeclared/s,
      );
      await refused({ entry: 'nobody' }, /odd.*nobody/);
      await refused({ workgroup: [1024, 1024, 1] }, /odd.*1048576/s);
    });

    it('keeps machine code on disk by content; a damaged archive is neither believed nor fatal', async () => {
      const cacheDirectory = mkdtempSync(join(tmpdir(), 'tutti-metal-'));
      const folder = join(cacheDirectory, 'metal');
      const once = async (...kernels: string[]): Promise<readonly string[]> => {
        const cached = await openMetal(library, { cacheDirectory });
        for (const kernel of kernels) await load(cached, multiplyAdd(kernel));
        await cached.close();
        return readdirSync(folder).sort();
      };
      try {
        const files = await once('first', 'second');
        expect(files).toHaveLength(2);
        for (const file of files) expect(file).toMatch(/^[0-9a-f]{32}\.metalarchive$/);
        const good = files.map((file) => readFileSync(join(folder, file)));
        const written = () => files.map((file) => statSync(join(folder, file)).mtimeMs);
        const before = written();
        expect(await once('second', 'first')).toEqual(files);
        // What is found is not written again; what is damaged is.
        expect(written()).toEqual(before);
        expect(await once('third')).toHaveLength(3);
        for (const bad of [good[0].subarray(0, good[0].length / 2), Buffer.alloc(0), Buffer.from('x')]) {
          for (const file of files) writeFileSync(join(folder, file), bad);
          await once('first', 'second');
          for (const [i, file] of files.entries())
            expect(readFileSync(join(folder, file)).length).toBeGreaterThan(good[i].length / 2);
        }
      } finally {
        rmSync(cacheDirectory, { recursive: true, force: true });
      }
    });

    it('is lost when a kernel faults, says so, and opens anew', async (context) => {
      if (!virtual) return context.skip('may stop all work of the process on a real device');
      const doomed = await openMetal(library);
      const kernel = await load(doomed, fault());
      const buffer = doomed.allocate(256);
      const dispatch: Command = { kind: 'dispatch', kernel, grid: [1, 1, 1], bindings: [whole(buffer)] };
      const list = await doomed.record([dispatch]);
      const running = doomed.queue.submit({ list });
      const behind = doomed.queue.submit({ list });
      await expect(running).rejects.toMatchObject({
        code: 'E_DEVICE_LOST',
        message: expect.stringMatching(/running on the device failed: .*Fault/),
      });
      await expect(behind).rejects.toMatchObject({ code: 'E_DEVICE_LOST' });
      expect((await doomed.lost).reason).toMatch(/Fault/);
      await expect(doomed.queue.submit({})).rejects.toMatchObject({ code: 'E_DEVICE_LOST' });
      await doomed.close();
      expect(await mixed(device)).toEqual(await expected());
    });

    it('is lost when the device is taken away', async (context) => {
      if (!virtual) return context.skip('needs hands');
      const doomed = await openMetal(library, { staging: true });
      const buffer = doomed.allocate(256);
      const into = new Uint8Array(256);
      await doomed.queue.submit({ reads: [{ from: whole(buffer), into }] });
      await withEnvironment({ TUTTI_VIRTUAL_METAL_REMOVED: '1' }, () =>
        expect(doomed.queue.submit({ reads: [{ from: whole(buffer), into }] })).rejects.toMatchObject({
          code: 'E_DEVICE_LOST',
        }),
      );
      expect((await doomed.lost).reason).toMatch(/removed/i);
      await expect(doomed.queue.submit({})).rejects.toMatchObject({ code: 'E_DEVICE_LOST' });
      await doomed.close();
    });

    /** What a list of everything leaves in its buffers, replayed twice, and its times. */
    async function mixed(on: Device, mode: 'replayed' | 'profiled' | 'one by one' = 'replayed'): Promise<Uint8Array[]> {
      const [first, second] = [await load(on, multiplyAdd('first')), await load(on, multiplyAdd('second'))];
      const [a, b, c] = [0, 1, 2].map(() => on.allocate(4 * words));
      const step = (kernel: Kernel, x: DeviceBuffer, y: DeviceBuffer, factor: number, groups = words): Command => ({
        kind: 'dispatch',
        kernel,
        grid: [groups, 1, 1],
        bindings: [whole(x), whole(y)],
        scalars: word(factor),
      });
      const piece = (buffer: DeviceBuffer, offset: number, bytes: number): BufferRange => ({ buffer, offset, bytes });
      const commands: Command[] = [
        barrier,
        { kind: 'fill', to: piece(a, 3, 118), byte: 2 },
        barrier,
        step(first, a, b, 3),
        step(second, a, c, -7, 40),
        barrier,
        step(second, b, c, 11),
        step(first, c, a, 5, 0),
        barrier,
        barrier,
        step(first, c, a, 13),
        barrier,
        { kind: 'copy', from: piece(a, 1, 100), to: piece(b, 130, 100) },
        { kind: 'copy', from: piece(a, 102, 90), to: piece(c, 6, 90) },
        barrier,
        step(first, b, c, 2),
        barrier,
        { kind: 'fill', to: piece(b, 0, 2), byte: 255 },
        step(second, c, a, 1),
        barrier,
      ];
      const data = new Uint8Array(Int32Array.from({ length: words }, (_, i) => i * i - 99).buffer);
      await on.queue.submit({ writes: [a, b, c].map((buffer) => ({ to: whole(buffer), data })) });
      const parts = mode === 'one by one' ? commands.map((command) => [command]) : [commands];
      const lists = await Promise.all(parts.map((part) => on.record(part)));
      for (let replay = 0; replay < 2; replay++) {
        for (const list of lists) {
          const { dispatchMicroseconds } = await on.queue.submit({ list, profile: mode === 'profiled' });
          if (mode !== 'profiled') continue;
          expect(dispatchMicroseconds).toHaveLength(7);
          for (const [i, time] of dispatchMicroseconds?.entries() ?? []) {
            if (i === 3) expect(time).toBe(0);
            else expect(time).toBeGreaterThan(0);
            expect(time).toBeLessThan(1e7);
          }
        }
      }
      const results = [a, b, c].map(() => new Uint8Array(4 * words));
      const reads = [a, b, c].map((buffer, i) => ({ from: whole(buffer), into: results[i] }));
      await on.queue.submit({ reads });
      for (const resource of [...lists, first, second]) resource.release();
      for (const buffer of [a, b, c]) buffer.free();
      return results;
    }
    const expected = () => mixed(device, 'one by one');

    it('replays recorded lists of all commands as if they came one by one', async () => {
      expect(await mixed(device)).toEqual(await expected());
      expect(await mixed(device, 'profiled')).toEqual(await expected());
    });

    for (const [what, environment, staging] of [
      ['with transfers through commands', {}, true],
      ['without indirect command buffers', { TUTTI_VIRTUAL_METAL_WITHOUT: 'indirect' }, false],
      ['without counters', { TUTTI_VIRTUAL_METAL_WITHOUT: 'counters' }, false],
      ['of its own memory', { TUTTI_VIRTUAL_METAL_WITHOUT: 'unified,counters' }, false],
    ] as const) {
      it(`does the same on a device ${what}`, (context) =>
        withEnvironment(environment, async () => {
          if (!virtual && !staging) return context.skip('only the virtual device can have less');
          const other = await openMetal(library, { staging });
          if (environment.TUTTI_VIRTUAL_METAL_WITHOUT?.includes('counters'))
            expect(other.info.features).not.toContain('counters');
          const wanted = await expected();
          expect(await mixed(other)).toEqual(wanted);
          expect(await mixed(other, 'profiled')).toEqual(wanted);
          await other.close();
        }));
    }

    it('records more dispatches than one indirect command buffer takes', async () => {
      const kernel = await load(device, multiplyAdd());
      const [x, y] = [device.allocate(4 * words), device.allocate(4 * words)];
      const count = 16_500;
      const step: Command = {
        kind: 'dispatch',
        kernel,
        grid: [1, 1, 1],
        bindings: [whole(x), whole(y)],
        scalars: word(2),
      };
      const list = await device.record(Array.from({ length: count }, () => [step, barrier]).flat());
      const into = new Int32Array(words);
      const read = { from: whole(y), into: new Uint8Array(into.buffer) };
      const writes = [{ to: whole(x), data: new Uint8Array(Int32Array.from({ length: words }, () => 3).buffer) }];
      await device.queue.submit({ list, writes, reads: [read] });
      expect([...into.subarray(0, 2)]).toEqual([6 * count, 0]);
      // More, too, than one buffer of counter samples.
      const { dispatchMicroseconds: times } = await device.queue.submit({ list, reads: [read], profile: true });
      expect(into[0]).toBe(12 * count);
      expect(times).toHaveLength(count);
      expect(times?.every((time) => time > 0)).toBe(true);
      list.release();
      kernel.release();
      for (const buffer of [x, y]) buffer.free();
    });

    it('leaves no object behind', (context) => {
      if (!virtual) return context.skip('only the virtual device counts its objects');
      const folder = mkdtempSync(join(tmpdir(), 'tutti-metal-'));
      try {
        for (const staging of [false, true]) {
          for (const release of [false, true]) {
            const report = join(folder, 'live');
            const said = execFileSync(process.execPath, ['--input-type=module', '-e', useEverything], {
              cwd: repository,
              encoding: 'utf8',
              env: { ...process.env, TUTTI_VIRTUAL_METAL_LIVE: report, TUTTI_METAL_LIBRARY: library },
              input: JSON.stringify({ staging, release, cache: folder }),
              stdio: ['pipe', 'pipe', 'pipe'],
            });
            expect(said).toBe('E_KERNEL E_KERNEL 20');
            expect(readFileSync(report, 'utf8')).toBe('0: ');
          }
        }
      } finally {
        rmSync(folder, { recursive: true, force: true });
      }
    });
  });
}

/** A process that does a bit of everything through the add-on, and ends with or without releasing what it has. */
const useEverything = `
  import { readFileSync } from 'node:fs';
  import { createRequire } from 'node:module';
  const { staging, release, cache } = JSON.parse(readFileSync(0, 'utf8'));
  const { metal } = createRequire(process.cwd() + '/')('./build/Release/tutti_native.node');
  const library = process.env.TUTTI_METAL_LIBRARY;
  const [facts] = await metal.enumerate(library);
  const device = await metal.open(library, facts.id, cache, staging);
  const text = [
    '#include <metal_stdlib>',
    'using namespace metal;',
    'struct Scalars { int s0; };',
    'kernel void add(device int* x [[buffer(0)]], constant Scalars& scalars [[buffer(1)]],',
    '                uint3 group [[threadgroup_position_in_grid]]) { x[group.x] += scalars.s0; }',
  ].join('\\n');
  const source = {
    name: 'add', entry: 'add', text, workgroup: [1, 1, 1], bindings: 1, scalarBytes: 4, subgroupSize: 0, dynamicShared: 0, tensorMaps: [],
  };
  const said = [];
  for (const change of [{ text: 'nonsense(' }, { entry: 'none' }])
    await metal.loadKernels(device, [{ ...source, ...change }]).catch((error) => said.push(error.code));
  const [kernel] = await metal.loadKernels(device, [source]);
  const buffer = metal.allocate(device, 400);
  const numbers = [];
  for (let i = 0; i < 10; i++) numbers.push(0, 0, 100, 1, 1, 1, 1, 0, 400, 0, 4, 3);
  numbers.push(2, 1, 1, 6, 7, 3);
  const list = await metal.record(device, Float64Array.from(numbers), [kernel, buffer], Uint8Array.of(2, 0, 0, 0));
  const into = new Uint8Array(400);
  for (let i = 0; i < 4; i++)
    await metal.submit(device, list, [buffer, 0, new Uint8Array(400), false], [buffer, 0, into, false], i % 2 === 1, null);
  said.push(into[8]);
  if (release) for (const handle of [kernel, buffer, list]) metal.release(handle);
  await metal.close(device);
  process.stdout.write(said.join(' '));
`;
