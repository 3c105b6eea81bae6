// Tensors that stay on the device: outputs that are the inputs of the next run, and bindings.
import { afterEach, describe, expect, it } from 'vitest';
import { Session } from '../../runtime/session.js';
import { Tensor } from '../../runtime/tensor.js';
import { interpreterDevice } from '../support/interpreter_device.js';
import { f32, type ModelInit, model, node, value } from '../support/onnx_model.js';

const open: { close(): Promise<void> }[] = [];
async function sessionOf(init: ModelInit) {
  const handle = interpreterDevice();
  const session = await Session.create(model(init), { device: handle });
  open.push(session);
  return { session, device: handle.device };
}
afterEach(async () => {
  for (const session of open.splice(0)) await session.close();
});

/** A filter with a state: y = x + h/2, and the next h is y. */
const filter: ModelInit = {
  inputs: [value('x', 'f32', [3]), value('h', 'f32', [3])],
  initializers: { half: f32([], 0.5) },
  nodes: [node('scaled = Mul(h, half)'), node('y = Add(x, scaled)'), node('next = Identity(y)')],
  outputs: ['y', 'next'],
};
const reference = (steps: number): number[] => {
  let h = [0, 0, 0];
  for (let i = 0; i < steps; i++) h = h.map((v, k) => k + i + v / 2);
  return h;
};
const chunk = (i: number) => [0, 1, 2].map((k) => k + i);

describe('outputs on the device', () => {
  it('are inputs of the next run, without the host in between', async () => {
    const { session } = await sessionOf(filter);
    let h = await session.tensor('float32', [3]);
    for (let i = 0; i < 6; i++) {
      const { y, next } = await session.run({ x: chunk(i), h }, { outputs: { y: 'cpu', next: 'device' } });
      expect(y.location).toBe('cpu');
      expect(next.location).toBe('device');
      expect(() => next.data).toThrow(/on a device.*getData/);
      h.dispose();
      h = next;
      expect([...(y.data as Float32Array)]).toEqual(reference(i + 1));
    }
    expect([...((await h.getData()) as Float32Array)]).toEqual(reference(6));
    h.dispose();
  });

  it('take no more memory after the first runs', async () => {
    const { session } = await sessionOf(filter);
    let h = await session.tensor('float32', [3], [0, 0, 0]);
    const bytes: number[] = [];
    for (let i = 0; i < 8; i++) {
      const { next } = await session.run({ x: chunk(i), h }, { outputs: { next: 'device' } });
      h.dispose();
      h = next;
      bytes.push(session.memory.deviceBytes);
    }
    expect(new Set(bytes.slice(2)).size).toBe(1);
    h.dispose();
  });

  it('are given back when they are disposed, kept when the host takes them over', async () => {
    const { session } = await sessionOf(filter);
    const { y, next } = await session.run({ x: chunk(0), h: [0, 0, 0] }, { outputs: 'device' });
    const copy = await y.getData(true);
    expect(y.location).toBe('cpu');
    expect(y.data).toBe(copy);
    const view = next.reshape([1, 3]);
    next.dispose();
    expect(() => next.data).toThrow(/disposed/);
    expect([...((await view.getData()) as Float32Array)]).toEqual(reference(1));
    view.dispose();
    await expect(next.getData()).rejects.toThrow(/disposed/);
    await expect(session.run({ x: chunk(0), h: next })).rejects.toThrow(/disposed/);
  });

  it('outlive runs that they go into', async () => {
    const { session } = await sessionOf(filter);
    const h = await session.tensor('float32', [3], [2, 4, 6]);
    const run = session.run({ x: [0, 0, 0], h });
    h.dispose();
    expect([...((await run).y.data as Float32Array)]).toEqual([1, 2, 3]);
  });

  it('may be several inputs at once, and outputs that are inputs', async () => {
    const { session } = await sessionOf({
      inputs: [value('a', 'f32', [2]), value('b', 'f32', [2])],
      nodes: [node('sum = Add(a, b)'), node('same = Identity(a)')],
      outputs: ['sum', 'same'],
    });
    const t = await Tensor.empty(session, 'float32', [2]);
    const u = await session.tensor('float32', [2], [3, 4]);
    const first = await session.run({ a: u, b: u }, { outputs: 'device' });
    expect([...((await first.sum.getData()) as Float32Array)]).toEqual([6, 8]);
    expect([...((await first.same.getData()) as Float32Array)]).toEqual([3, 4]);
    const second = await session.run({ a: first.sum, b: t }, { outputs: { sum: 'device', same: 'cpu' } });
    expect([...((await second.sum.getData()) as Float32Array)]).toEqual([6, 8]);
    expect([...(second.same.data as Float32Array)]).toEqual([6, 8]);
    // A state in place, beside an output that is the input.
    const binding = await session.bind({ inputs: { a: u, b: first.sum }, outputs: { sum: u, same: 'cpu' } });
    await binding.run();
    const { same } = await binding.run();
    expect([...(same.data as Float32Array)]).toEqual([9, 12]);
    expect([...((await u.getData()) as Float32Array)]).toEqual([15, 20]);
    binding.dispose();
    for (const tensor of [t, u, first.sum, first.same, second.sum]) tensor.dispose();
  });

  it('of another device are refused', async () => {
    const [one, two] = [await sessionOf(filter), await sessionOf(filter)];
    const h = await one.session.tensor('float32', [3]);
    await expect(two.session.run({ x: chunk(0), h })).rejects.toMatchObject({
      code: 'E_INPUT',
      message: /another device/,
    });
    h.dispose();
  });

  it('may go to another session of the device', async () => {
    const handle = interpreterDevice();
    const shared = { ...handle, release: async () => undefined };
    const [one, two] = await Promise.all([1, 2].map(() => Session.create(model(filter), { device: shared })));
    for (const scale of [1, 2, 3]) {
      const [foreign, own] = [
        await one.tensor('float32', [3], [scale, scale, scale]),
        await two.tensor('float32', [3], [-scale, -scale, -scale]),
      ];
      for (const [h, sign] of [
        [foreign, 1],
        [own, -1],
      ] as const) {
        const { y } = await two.run({ x: [0, 0, 0], h });
        expect([...(y.data as Float32Array)]).toEqual([0.5, 0.5, 0.5].map((v) => v * scale * sign));
      }
      foreign.dispose();
      own.dispose();
    }
    await Promise.all([one.close(), two.close()]);
    await handle.release();
  });

  it('hold what constants are, too', async () => {
    const { session } = await sessionOf({
      inputs: [value('x', 'f32', [1])],
      initializers: { c: f32([2], 1, 2) },
      nodes: [node('y = Neg(x)'), node('k = Neg(c)')],
      outputs: ['y', 'k'],
    });
    const { k } = await session.run({ x: [1] }, { outputs: 'device' });
    expect(k.location).toBe('device');
    expect([...((await k.getData()) as Float32Array)]).toEqual([-1, -2]);
    k.dispose();
  });
});

describe('bindings', () => {
  it('run in place, with one submission a run', async () => {
    const { session, device } = await sessionOf(filter);
    const state = await session.tensor('float32', [3]);
    const binding = await session.bind({ inputs: { x: chunk(0), h: state }, outputs: { y: 'cpu', next: state } });
    for (let i = 0; i < 5; i++) {
      await binding.write('x', chunk(i));
      const before = device.counts.submissions;
      const { y, next } = await binding.run();
      expect(device.counts.submissions).toBe(before + 1);
      expect([...(y.data as Float32Array)]).toEqual(reference(i + 1));
      expect(next).toBe(state);
    }
    expect([...((await state.getData()) as Float32Array)]).toEqual(reference(5));
    binding.dispose();
    state.dispose();
  });

  it('keep large inputs on the device and take small ones along; parameters are not read back', async () => {
    const { session, device } = await sessionOf({
      inputs: [value('x', 'f32', [600]), value('s', 'i64', [2])],
      nodes: [node('r = Reshape(x, s)'), node('y = Neg(r)')],
      outputs: ['y'],
    });
    const data = Float32Array.from({ length: 600 }, (_, i) => i);
    const binding = await session.bind({ inputs: { x: data, s: [20n, 30n] } });
    for (const [rows, columns] of [
      [20, 30],
      [30, 20],
      [20, 30],
    ]) {
      await binding.write('s', [BigInt(rows), BigInt(columns)]);
      const before = device.counts.submissions;
      const { y } = await binding.run();
      expect(y.dims).toEqual([rows, columns]);
      expect(y.data).toEqual(data.map((v) => -v));
      // The second program uploads nothing but its kernels.
      expect(device.counts.submissions).toBe(before + 1);
    }
    expect(session.report().stages).toMatchObject({ run: 3, valuesRead: 0 });
    binding.dispose();
  });

  it('say what does not fit', async () => {
    const { session } = await sessionOf(filter);
    const wrong = await session.tensor('float32', [4]);
    const inputs = { x: chunk(0), h: [0, 0, 0] };
    const message = /next: .*another type; expected f32\[3\], found f32\[4\]/;
    const binding = await session.bind({ inputs, outputs: { next: wrong } });
    await expect(binding.run()).rejects.toThrow(message);
    binding.dispose();
    await expect(session.bind({ inputs, outputs: { nothing: 'cpu' } })).rejects.toThrow(/no such output/);
    await expect(session.bind({ inputs: { z: [1] } })).rejects.toThrow(/no such input/);
    const elsewhere = await (await sessionOf(filter)).session.tensor('float32', [3]);
    await expect(session.bind({ inputs, outputs: { next: elsewhere } })).rejects.toThrow(/next: .*does not lie/);
    elsewhere.dispose();
    wrong.dispose();
  });
});
