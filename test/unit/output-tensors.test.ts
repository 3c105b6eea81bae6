// Outputs that are written to tensors of the caller's: on the host and on the device, by runs and by bindings.
import { afterEach, describe, expect, it } from 'vitest';
import type { RunOptions } from '../../runtime/api.js';
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

/** sum = a + b, same = a, twice the sum, and a constant. */
const sums: ModelInit = {
  inputs: [value('a', 'f32', [3]), value('b', 'f32', [3])],
  initializers: { c: f32([2], 1, 2) },
  nodes: [node('sum = Add(a, b)'), node('same = Identity(a)'), node('twice = Add(sum, sum)'), node('k = Neg(c)')],
  outputs: ['sum', 'same', 'twice', 'k'],
};
const numbers = (...values: number[]) => Tensor.from(Float32Array.from(values), [values.length]);
const floats = (tensor: Tensor) => [...(tensor.data as Float32Array)];
const zeros = (length = 3) => numbers(...new Array<number>(length).fill(0));

/** Runs one after the other, so that the later ones go the short way. */
const rounds = [1, 2, 3, 4];

describe('tensors of the host', () => {
  it('are overwritten and come back', async () => {
    const { session } = await sessionOf(sums);
    const [sum, k] = [zeros(), zeros(2)];
    const memory = sum.data;
    for (const n of rounds) {
      const found = await session.run(
        { a: numbers(n, 2, 3), b: numbers(1, 1, 1) },
        { outputs: { sum, k, twice: 'cpu' } },
      );
      expect(Object.keys(found)).toEqual(['sum', 'k', 'twice']);
      expect(found.sum).toBe(sum);
      expect(sum.data).toBe(memory);
      expect(floats(sum)).toEqual([n + 1, 3, 4]);
      expect(found.k).toBe(k);
      expect(floats(k)).toEqual([-1, -2]);
      expect(floats(found.twice)).toEqual([2 * n + 2, 6, 8]);
      (k.data as Float32Array).fill(0);
    }
  });

  it('are written where they begin in their array', async () => {
    const { session } = await sessionOf(sums);
    const memory = new Float32Array(9).fill(7);
    const sum = Tensor.from(memory.subarray(2, 5), [3]);
    for (const n of rounds) {
      await session.run({ a: numbers(n, 2, 3), b: numbers(0, 0, 0) }, { outputs: { sum } });
      expect([...memory]).toEqual([7, 7, n, 2, 3, 7, 7, 7, 7]);
    }
  });

  it('may be other ones in each run, beside runs without any', async () => {
    const { session } = await sessionOf(sums);
    const feeds = (n: number) => ({ a: numbers(n, 0, 0), b: numbers(0, n, 0) });
    const targets = rounds.map(() => zeros());
    for (const [i, sum] of targets.entries()) {
      await session.run(feeds(i), { outputs: { sum } });
      const { sum: other } = await session.run(feeds(9), { outputs: ['sum'] });
      expect(other).not.toBe(sum);
      expect(floats(other)).toEqual([9, 9, 0]);
    }
    expect(targets.map(floats)).toEqual(rounds.map((_, i) => [i, i, 0]));
  });

  it('may be inputs of the same run: all outputs are of what went in', async () => {
    const { session } = await sessionOf(sums);
    const a = numbers(1, 2, 3);
    for (const n of rounds) {
      const before = floats(a);
      const found = await session.run({ a, b: numbers(n, n, n) }, { outputs: { sum: a, same: 'cpu', twice: 'cpu' } });
      expect(found.sum).toBe(a);
      expect(floats(found.same)).toEqual(before);
      expect(floats(a)).toEqual(before.map((x) => x + n));
      expect(floats(found.twice)).toEqual(before.map((x) => 2 * (x + n)));
    }
  });

  it('may overlap one another: later ones win', async () => {
    const { session } = await sessionOf(sums);
    const memory = new Float32Array(5);
    const [sum, twice] = [Tensor.from(memory.subarray(0, 3), [3]), Tensor.from(memory.subarray(2), [3])];
    for (const n of rounds) {
      await session.run({ a: numbers(n, n, n), b: numbers(1, 2, 3) }, { outputs: { sum, twice } });
      expect([...memory]).toEqual([n + 1, n + 2, 2 * n + 2, 2 * n + 4, 2 * n + 6]);
    }
  });

  it('hold one output, not others that are the same', async () => {
    const { session } = await sessionOf({
      inputs: [value('x', 'f32', [2])],
      nodes: [node('y = Neg(x)'), node('z = Identity(y)')],
      outputs: ['y', 'z'],
    });
    const [y, z] = [zeros(2), zeros(2)];
    for (const n of rounds) {
      const one = await session.run({ x: numbers(n, 1) }, { outputs: { y, z: 'cpu' } });
      expect(one.z.data).not.toBe(y.data);
      expect([floats(y), floats(one.z)]).toEqual([
        [-n, -1],
        [-n, -1],
      ]);
      await session.run({ x: numbers(n, 2) }, { outputs: { y, z } });
      expect([floats(y), floats(z)]).toEqual([
        [-n, -2],
        [-n, -2],
      ]);
      await session.run({ x: numbers(n, 3) }, { outputs: { z: 'device', y } }).then((found) => found.z.dispose());
      expect([floats(y), floats(z)]).toEqual([
        [-n, -3],
        [-n, -2],
      ]);
    }
  });

  it('are not touched after the run was given up', async () => {
    const { session } = await sessionOf(sums);
    const sum = zeros();
    const feeds = { a: numbers(1, 2, 3), b: numbers(1, 1, 1) };
    const kept = new AbortController();
    await session.run(feeds, { outputs: { sum }, signal: kept.signal });
    expect(floats(sum)).toEqual([2, 3, 4]);
    (sum.data as Float32Array).fill(0);
    const controller = new AbortController();
    const running = session.run(feeds, { outputs: { sum }, signal: controller.signal });
    controller.abort();
    await expect(running).rejects.toMatchObject({ code: 'E_ABORTED' });
    await session.run(feeds);
    expect(floats(sum)).toEqual([0, 0, 0]);
  });

  it('take outputs of bindings', async () => {
    const { session } = await sessionOf(sums);
    const [sum, twice] = [zeros(), await session.tensor('float32', [3])];
    const binding = await session.bind({
      inputs: { a: zeros(), b: numbers(1, 1, 1) },
      outputs: { sum, twice, same: 'cpu' },
    });
    for (const n of rounds) {
      await binding.write('a', Float32Array.of(n, n, 0));
      const found = await binding.run();
      expect(found).toEqual({ sum, twice, same: expect.anything() });
      expect(floats(sum)).toEqual([n + 1, n + 1, 1]);
      expect(floats(found.same)).toEqual([n, n, 0]);
      expect([...((await twice.getData()) as Float32Array)]).toEqual([2 * n + 2, 2 * n + 2, 2]);
    }
    // Disposed by the caller: the binding goes on with the memory that it was given.
    twice.dispose();
    await binding.run();
    expect(floats(sum)).toEqual([5, 5, 1]);
    binding.dispose();
  });
});

describe('tensors of the device', () => {
  it('are overwritten by runs', async () => {
    const { session } = await sessionOf(sums);
    const [sum, k] = [await session.tensor('float32', [3]), await session.tensor('float32', [2])];
    for (const n of rounds) {
      const found = await session.run({ a: numbers(n, 2, 3), b: numbers(1, 1, 1) }, { outputs: { sum, k } });
      expect(found.sum).toBe(sum);
      expect(found.k).toBe(k);
      expect([...((await sum.getData()) as Float32Array)]).toEqual([n + 1, 3, 4]);
      expect([...((await k.getData()) as Float32Array)]).toEqual([-1, -2]);
    }
    const next = await session.run({ a: sum, b: sum }, { outputs: { sum } });
    expect(next.sum).toBe(sum);
    expect([...((await sum.getData()) as Float32Array)]).toEqual([10, 6, 8]);
    sum.dispose();
    k.dispose();
    const bytes = session.memory.deviceBytes;
    await session.run({ a: zeros(), b: zeros() });
    expect(session.memory.deviceBytes).toBe(bytes);
  });
});

describe('what does not fit', () => {
  const run = async (outputs: RunOptions['outputs']) => {
    const { session } = await sessionOf(sums);
    const feeds = { a: zeros(), b: zeros() };
    const failures: unknown[] = [];
    for (const _ of rounds.slice(0, 2)) {
      failures.push(await session.run(feeds, { outputs }).catch((error: unknown) => error));
      expect(floats((await session.run(feeds)).sum)).toEqual([0, 0, 0]);
    }
    expect(String(failures[1])).toBe(String(failures[0]));
    expect(failures[0]).toMatchObject({ code: 'E_INPUT' });
    return String(failures[0]);
  };

  it('is said of the output', async () => {
    expect(await run({ sum: zeros(4) })).toMatch(/sum: .*another type; expected f32\[3\], found f32\[4\]/);
    expect(await run({ same: zeros(4) })).toMatch(/same: .*expected f32\[3\], found f32\[4\]/);
    expect(await run({ k: zeros(4) })).toMatch(/k: .*expected f32\[2\], found f32\[4\]/);
    const ints = Tensor.from(new Int32Array(3), [3]);
    expect(await run({ sum: 'cpu', twice: ints })).toMatch(/twice: .*expected f32\[3\], found i32\[3\]/);
    expect(await run({ sum: Tensor.from(new Float32Array(3), [1, 3]) })).toMatch(/sum: .*found f32\[1, 3\]/);
    expect(await run({ sum: new Tensor('string', ['a', 'b', 'c'], [3]) })).toMatch(/sum: strings/);
    expect(await run({ nothing: zeros() })).toMatch(/nothing: the model has no such output/);
    expect(await run({ sum: 'here' as 'cpu' })).toMatch(/sum: .*found here/);
    const gone = zeros();
    gone.dispose();
    expect(await run({ sum: gone })).toMatch(/disposed/);
    const moved = zeros();
    structuredClone(moved.data, { transfer: [(moved.data as Float32Array).buffer as ArrayBuffer] });
    expect(await run({ sum: moved })).toMatch(/sum: .*expected 12 bytes, found 0 bytes/);
    const { session } = await sessionOf(sums);
    const elsewhere = await session.tensor('float32', [3]);
    expect(await run({ sum: elsewhere })).toMatch(/sum: .*does not lie on the device/);
    elsewhere.dispose();
  });

  it('is a sequence', async () => {
    const { session } = await sessionOf({
      inputs: [value('x', 'f32', ['n'])],
      nodes: [node('parts = SplitToSequence(x)', { axis: 0, keepdims: 1 })],
      outputs: ['parts'],
    });
    await expect(session.run({ x: zeros(4) }, { outputs: { parts: zeros(4) } })).rejects.toThrow(
      /parts: .*not one tensor; found a list of 4/,
    );
  });
});
