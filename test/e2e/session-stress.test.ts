// A session on every real device under use and abuse: overlap, abort, many runs, many shapes.
import { setFlagsFromString } from 'node:v8';
import { runInNewContext } from 'node:vm';
import { afterAll, describe, expect, it, vi } from 'vitest';
import { ModelBuilder } from '../../compiler/builder/index.js';
import { devices, Session, Tensor } from '../../index.js';
import { openDevice } from '../../runtime/index.js';

/** y = tanh(x·w) summed with its reverse, z = rows of maxima: a few kernels that depend on one another. */
function network(rows: number | string) {
  const g = new ModelBuilder('stress');
  const x = g.input('x', 'f32', [rows, 64]);
  const w = g.constant(
    Float32Array.from({ length: 64 * 64 }, (_, i) => Math.sin(i) / 8),
    [64, 64],
  );
  const y = g.tanh(g.matmul(x, w));
  const mixed = g.softmax(g.add(g.matmul(y, w), g.flip(y, 1)));
  g.output('y', mixed);
  g.output('z', g.reduceMax(mixed, { axes: 1 }));
  return g.build();
}

const input = (rows: number, seed: number) =>
  Tensor.from(
    Float32Array.from({ length: rows * 64 }, (_, i) => Math.cos(i * 0.37 + seed)),
    [rows, 64],
  );

// What is garbage must not count, whatever flags the process was started with.
setFlagsFromString('--expose-gc');
const collectGarbage = runInNewContext('gc') as () => void;

const { devices: present } = await devices();
const open: { release(): Promise<void> }[] = [];
afterAll(async () => {
  for (const handle of open) await handle.release();
});

for (const { id } of present) {
  describe(`a session on ${id}`, () => {
    it('keeps overlapping runs of several shapes apart', async () => {
      await using session = await Session.create(network('n'), { device: id, cacheSize: 2 });
      const jobs = Array.from({ length: 24 }, (_, i) => ({ rows: 1 + (i % 3) * 5, seed: i }));
      const alone: Tensor[] = [];
      for (const { rows, seed } of jobs) alone.push((await session.run({ x: input(rows, seed) })).y);
      const together = await Promise.all(jobs.map(({ rows, seed }) => session.run({ x: input(rows, seed) })));
      for (const [i, outputs] of together.entries()) {
        expect(outputs.y.data).toEqual(alone[i].data);
        expect(outputs.y.dims).toEqual([jobs[i].rows, 64]);
      }
    });

    it('stays healthy through aborted runs', async () => {
      await using session = await Session.create(network(16), { device: id });
      const expected = (await session.run({ x: input(16, 1) })).z.data;
      for (let i = 0; i < 30; i++) {
        const controller = new AbortController();
        const runs = [0, 1, 2].map(() => session.run({ x: input(16, 1) }, { signal: controller.signal }));
        const start = performance.now();
        if (i % 2 === 0) controller.abort();
        else setTimeout(() => controller.abort(), i % 5);
        for (const result of await Promise.allSettled(runs)) {
          if (result.status === 'rejected') expect(result.reason).toMatchObject({ code: 'E_ABORTED' });
          else expect(result.value.z.data).toEqual(expected);
        }
        expect(performance.now() - start).toBeLessThan(5000);
      }
      expect((await session.run({ x: input(16, 1) })).z.data).toEqual(expected);
    });

    it('leaves nothing behind: many runs, many shapes, many sessions', async () => {
      const handle = await openDevice(id);
      open.push(handle);
      const before = handle.device.memory().allocatedBytes;
      const software = handle.device.info.software;
      await using session = await Session.create(network('n'), { device: handle, cacheSize: 3 });
      const collect = async () => {
        collectGarbage();
        await new Promise((resolve) => setTimeout(resolve, 20));
        return process.memoryUsage().heapUsed;
      };
      const feeds = [1, 2, 3].map((rows) => ({ x: input(rows, rows) }));
      const runs = async (count: number) => {
        for (let i = 0; i < count; i++) await session.run(feeds[i % 3]);
      };
      await runs(500);
      const heap = await collect();
      const device = handle.device.memory().allocatedBytes;
      await runs(software ? 500 : 10_000);
      expect(handle.device.memory().allocatedBytes).toBe(device);
      expect((await collect()) - heap).toBeLessThan(4 << 20);
      for (let rows = 4; rows < 14; rows++) await session.run({ x: input(rows, rows) });
      expect(session.report().specialisations.length).toBeLessThanOrEqual(3);
      await session.close();
      // The thread of a driver may let go of a finished list a moment after it said so.
      await vi.waitFor(() => expect(handle.device.memory().allocatedBytes).toBe(before));
      for (let i = 0; i < 5; i++) await (await Session.create(network(4), { device: handle })).close();
      await vi.waitFor(() => expect(handle.device.memory().allocatedBytes).toBe(before));
    });
  });
}
