// Runs in the calling thread, and kernels that work on the host's memory.
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { ModelBuilder } from '../../compiler/builder/index.js';
import type { DType } from '../../compiler/dtype.js';
import type { Graph } from '../../compiler/graph/types.js';
import { compile, Session, Tensor } from '../../index.js';
import { type DeviceHandle, openDevice } from '../../runtime/device.js';
import type { NumericArray } from '../../runtime/tensor.js';
import { grow, growth } from '../support/control_cases.js';
import { interpreterDevice } from '../support/interpreter_device.js';
import { f32, model } from '../support/onnx_model.js';

let device: DeviceHandle;
beforeAll(async () => {
  device = await openDevice('cpu');
});
afterAll(async () => {
  await device.release();
});

/** y = x · w + b, s = softmax(y). */
function dense(batch: number | string): Graph {
  const g = new ModelBuilder('dense');
  const weights = Float32Array.from({ length: 64 * 32 }, (_, i) => Math.sin(i) / 8);
  const y = g.add(g.matmul(g.input('x', 'f32', [batch, 64]), g.constant(weights, [64, 32])), 0.5);
  g.output('y', y);
  g.output('s', g.softmax(y, -1));
  return g.build();
}

/** The state that comes out is the state that went in, and one. */
function counter(length: number): Graph {
  const g = new ModelBuilder('counter');
  g.output('next', g.add(g.input('state', 'f32', [length]), 1));
  return g.build();
}

const create = (graph: Graph) => Session.create(graph, { device });
const ramp = (rows: number, seed = 1) =>
  Tensor.from(
    Float32Array.from({ length: rows * 64 }, (_, i) => Math.cos(i * seed)),
    [rows, 64],
  );
const thrown = (work: () => unknown): unknown => {
  try {
    work();
  } catch (error) {
    return error;
  }
  return undefined;
};

describe('runSync', () => {
  it('gives what run gives, each time in memory of its own', async () => {
    await using session = await create(dense(4));
    const results = [];
    for (let seed = 1; seed <= 5; seed++) {
      const expected = await session.run({ x: ramp(4, seed) });
      const found = session.runSync({ x: ramp(4, seed) });
      expect(Object.keys(found)).toEqual(['y', 's']);
      for (const name of ['y', 's']) {
        expect(found[name].dims).toEqual([4, 32]);
        expect(found[name].data).toEqual(expected[name].data);
      }
      results.push(found);
    }
    const copies = results.map(({ y }) => (y.data as Float32Array).slice());
    (results[0].y.data as Float32Array).fill(9);
    results.slice(1).forEach(({ y }, i) => {
      expect(y.data).toEqual(copies[i + 1]);
    });
    expect(
      new Set(results.flatMap(({ y, s }) => [y.data, s.data].map((data) => (data as Float32Array).buffer))).size,
    ).toBe(10);
  });

  it('checks what it is given, before and after it was given right', async () => {
    await using session = await create(dense(4));
    const code = (feeds: object) => thrown(() => session.runSync(feeds as Record<string, Tensor>));
    for (let round = 0; round < 2; round++) {
      expect(code({})).toMatchObject({ code: 'E_INPUT' });
      expect(code({ x: ramp(4), more: ramp(4) })).toMatchObject({ code: 'E_INPUT' });
      expect(code({ x: ramp(3) })).toMatchObject({ code: 'E_INPUT' });
      expect(code({ x: new Tensor('float64', new Float64Array(256), [4, 64]) })).toMatchObject({ code: 'E_INPUT' });
      const gone = ramp(4);
      gone.dispose();
      expect(code({ x: gone })).toMatchObject({ code: 'E_INPUT' });
      expect(thrown(() => session.runSync(null as never))).toMatchObject({ code: 'E_INPUT' });
      expect(thrown(() => session.runSync({ x: ramp(4) }, { signal: AbortSignal.abort() }))).toMatchObject({
        code: 'E_ABORTED',
      });
      expect(session.runSync({ x: ramp(4).data as Float32Array }).y.dims).toEqual([4, 32]);
      expect(session.runSync({ x: ramp(4) }).y.dims).toEqual([4, 32]);
    }
    await session.close();
    expect(code({ x: ramp(4) })).toMatchObject({ code: 'E_DEVICE_CLOSED' });
  });

  it('refuses what is not compiled, and runs it when it is', async () => {
    await using session = await create(dense('batch'));
    for (const rows of [2, 5]) {
      const refused = thrown(() => session.runSync({ x: ramp(rows) }));
      expect(refused).toMatchObject({ code: 'E_NOT_READY' });
      expect(String(refused)).toContain('session.run');
      const { y } = await session.run({ x: ramp(rows) });
      expect(session.runSync({ x: ramp(rows) }).y.data).toEqual(y.data);
    }
    expect(session.runSync({ x: ramp(2) }).y.dims).toEqual([2, 32]);
  });

  it('gives the outputs asked for, where they are wanted, and times of kernels', async () => {
    await using session = await create(dense(4));
    const expected = session.runSync({ x: ramp(4) });
    expect(Object.keys(session.runSync({ x: ramp(4) }, { outputs: ['s'] }))).toEqual(['s']);
    const { y } = session.runSync({ x: ramp(4) }, { outputs: { y: 'device' } });
    expect(y.location).toBe('device');
    expect(await y.getData()).toEqual(expected.y.data);
    y.dispose();
    let kernels = 0;
    session.runSync({ x: ramp(4) }, { profile: ({ dispatches }) => (kernels = dispatches.length) });
    expect(kernels).toBeGreaterThan(0);
  });

  it('comes after runs that were started before it', async () => {
    await using session = await create(counter(5000));
    const state = await session.tensor('float32', [5000]);
    const binding = await session.bind({ inputs: { state }, outputs: { next: state } });
    const first = async (): Promise<number> => Number((await state.getData())[0]);
    await binding.run();
    for (let round = 0; round < 20; round++) {
      const started = [binding.run(), binding.run()];
      const own = binding.runSync();
      const after = binding.run();
      expect(own.next).toBe(state);
      await Promise.all([...started, after]);
    }
    expect(await first()).toBe(81);
    expect(binding.runSync().next).toBe(state);
    expect(await first()).toBe(82);
    binding.dispose();
    state.dispose();
  });

  it('takes and updates tensors on the device', async () => {
    await using session = await create(counter(1000));
    let state = await session.tensor('float32', [1000]);
    for (let i = 0; i < 4; i++) {
      const { next } = session.runSync({ state }, { outputs: 'device' });
      state.dispose();
      state = next;
    }
    expect((await state.getData()).slice(0, 3)).toEqual(Float32Array.of(4, 4, 4));
    const binding = await session.bind({ inputs: { state: new Float32Array(1000).fill(7) } });
    expect(binding.runSync().next.data[999]).toBe(8);
    await binding.write('state', new Float32Array(1000).fill(9));
    expect(binding.runSync().next.data[999]).toBe(10);
    binding.dispose();
    state.dispose();
  });

  it('goes through stages that were compiled, and refuses between those of another run', {
    timeout: 60_000,
  }, async () => {
    await using session = await Session.create(model(growth), { device });
    const feeds = (limit: number) => ({
      h: Tensor.fromHost(f32([3], 1, 2, 3)),
      x: Tensor.fromHost(f32([3], 1, 1, 1)),
      limit: Tensor.fromHost(f32([], limit)),
      trips: new Tensor('int64', [9n], []),
    });
    expect(thrown(() => session.runSync(feeds(60)))).toMatchObject({ code: 'E_NOT_READY' });
    const running = session.run(feeds(60));
    expect(thrown(() => session.runSync(feeds(60)))).toMatchObject({ code: 'E_NOT_READY' });
    const { last } = await running;
    expect(session.runSync(feeds(60)).last.data).toEqual(last.data);
    expect(Array.from(last.data as Float32Array)).toEqual(grow([1, 2, 3], [1, 1, 1], 60, 9).last);
  });

  it('is refused by devices that do not run in the calling thread', async () => {
    const elsewhere = interpreterDevice();
    await using session = await Session.create(await compile(counter(4)), { device: elsewhere });
    const refused = thrown(() => session.runSync({ state: new Float32Array(4) }));
    expect(refused).toMatchObject({ code: 'E_UNSUPPORTED' });
    expect(String(refused)).toContain('Use run');
    const binding = await session.bind({ inputs: { state: new Float32Array(4) } });
    expect(thrown(() => binding.runSync())).toMatchObject({ code: 'E_UNSUPPORTED' });
  });
});

describe('run', () => {
  it('lets the event loop turn, however short the runs are', async () => {
    await using session = await create(counter(4));
    let turns = 0;
    const timer = setInterval(() => turns++, 1);
    const end = performance.now() + 10_000;
    while (turns < 5 && performance.now() < end) await session.run({ state: new Float32Array(4) });
    clearInterval(timer);
    expect(turns).toBeGreaterThanOrEqual(5);
  });

  it('settles in the order of calls', async () => {
    await using session = await create(counter(20_000));
    const settled: number[] = [];
    const runs = Array.from({ length: 300 }, async (_, i) => {
      const { next } = await session.run({ state: new Float32Array(20_000).fill(i) });
      settled.push(i);
      expect(next.data[19_999]).toBe(i + 1);
    });
    await Promise.all(runs);
    expect(settled).toEqual(settled.map((_, i) => i));
  });
});

describe("the host's memory", () => {
  const arrays = {
    f32: Float32Array,
    f64: Float64Array,
    i64: BigInt64Array,
    i16: Int16Array,
    u8: Uint8Array,
  } as const satisfies Partial<Record<DType, unknown>>;

  it.each(Object.keys(arrays) as (keyof typeof arrays)[])(
    'inputs of %s lie anywhere and stay as they are',
    async (dtype) => {
      const length = 5000;
      const g = new ModelBuilder('sum');
      const [a, b] = [g.input('a', dtype, [length]), g.input('b', dtype, [length])];
      g.output('sum', g.add(a, b));
      g.output('same', a);
      await using session = await create(g.build());
      const type = arrays[dtype];
      const numbers = (from: number) => Array.from({ length }, (_, i) => (from + i * 7) % 100);
      const fill = (values: readonly number[]) =>
        dtype === 'i64' ? BigInt64Array.from(values.map(BigInt)) : (type as typeof Float32Array).from(values);
      for (const [at, bt] of [
        [0, 0],
        [1, 3],
        [7, 16],
        [8, 5],
      ]) {
        const place = (values: readonly number[], offset: number): NumericArray => {
          const whole = new type(length + 64);
          const part = whole.subarray(offset, offset + length) as NumericArray;
          (part as Float32Array).set(fill(values) as Float32Array);
          return part;
        };
        const [left, right] = [place(numbers(3), at), place(numbers(5), bt)];
        const feeds = { a: Tensor.from(left, [length]), b: Tensor.from(right, [length]) };
        const sum = fill(numbers(3).map((value, i) => value + numbers(5)[i]));
        for (const outputs of [await session.run(feeds), session.runSync(feeds), await session.run(feeds)]) {
          expect(outputs.sum.data).toEqual(sum);
          expect(outputs.same.data).toEqual(fill(numbers(3)));
          (outputs.same.data as Float32Array).set(fill(numbers(9)) as Float32Array);
          expect(left).toEqual(fill(numbers(3)));
          expect(right).toEqual(fill(numbers(5)));
        }
      }
    },
  );

  it('one array may be two inputs, and an input that is updated in place keeps its data', async () => {
    const g = new ModelBuilder('chain');
    const [a, b] = [g.input('a', 'f32', [64, 64]), g.input('b', 'f32', [64, 64])];
    g.output('y', g.add(g.matmul(g.relu(g.add(a, b)), b), a));
    await using session = await create(g.build());
    const data = Float32Array.from({ length: 4096 }, (_, i) => Math.sin(i));
    const before = data.slice();
    const apart = await session.run({ a: Tensor.from(data, [64, 64]), b: Tensor.from(data.slice(), [64, 64]) });
    const both = Tensor.from(data, [64, 64]);
    for (let i = 0; i < 3; i++) {
      expect((await session.run({ a: both, b: both })).y.data).toEqual(apart.y.data);
      expect(session.runSync({ a: both, b: both }).y.data).toEqual(apart.y.data);
    }
    expect(data).toEqual(before);
  });

  it('a run after one that passed its input by reads its own', async () => {
    await using session = await create(counter(4096));
    const host = new Float32Array(4096).fill(3);
    const state = await session.tensor('float32', [4096], new Float32Array(4096).fill(20));
    for (let i = 0; i < 3; i++) {
      expect(session.runSync({ state: host }).next.data[5]).toBe(4);
      expect(session.runSync({ state }).next.data[5]).toBe(21);
      const { next } = session.runSync({ state: host }, { outputs: 'device' });
      expect((await next.getData())[5]).toBe(4);
      next.dispose();
    }
    state.dispose();
  });
});
