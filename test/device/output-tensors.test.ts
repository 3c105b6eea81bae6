// Outputs that are written to tensors of the caller's on the CPU, where kernels work on the host's memory; and what becomes
// of the memory of results that nobody holds any more.
import { execFile } from 'node:child_process';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { ModelBuilder } from '../../compiler/builder/index.js';
import { Session, Tensor } from '../../index.js';
import { type DeviceHandle, openDevice } from '../../runtime/device.js';

let device: DeviceHandle;
beforeAll(async () => {
  device = await openDevice('cpu');
});
afterAll(async () => {
  await device.release();
});

/** y = x · x + x: kernels that read all of x when parts of y are written; same = x. */
async function square(length: number): Promise<Session> {
  const g = new ModelBuilder('square');
  const x = g.input('x', 'f32', [length, length]);
  g.output('y', g.add(g.matmul(x, x), x));
  g.output('same', x);
  return Session.create(g.build(), { device });
}
const matrix = (length: number, seed: number) =>
  Tensor.from(
    Float32Array.from({ length: length * length }, (_, i) => Math.sin(i + seed)),
    [length, length],
  );

describe.each([3, 61, 256])('a tensor for a result of %i rows', (length) => {
  it('is filled by run and runSync, wherever it begins', async () => {
    await using session = await square(length);
    const memory = new Float32Array(length * length + 16);
    for (const [round, offset] of [0, 1, 7, 16, 3].entries()) {
      const x = matrix(length, round);
      const { y: expected } = await session.run({ x });
      const y = Tensor.from(memory.subarray(offset, offset + length * length), [length, length]);
      for (const run of [
        () => session.run({ x }, { outputs: { y } }),
        () => session.runSync({ x }, { outputs: { y } }),
      ]) {
        memory.fill(-7);
        expect((await run()).y).toBe(y);
        expect(y.data).toEqual(expected.data);
        expect([...memory.subarray(0, offset), ...memory.subarray(offset + length * length)]).toEqual(
          new Array(16).fill(-7),
        );
      }
    }
  });

  it('may be the input', async () => {
    await using session = await square(length);
    const state = matrix(length, 1);
    let expected = matrix(length, 1);
    for (let round = 0; round < 4; round++) {
      const before = expected;
      expected = (await session.run({ x: expected })).y;
      const outputs = { y: state, same: 'cpu' } as const;
      const found =
        round % 2 === 0 ? await session.run({ x: state }, { outputs }) : session.runSync({ x: state }, { outputs });
      expect(found.y).toBe(state);
      expect(state.data).toEqual(expected.data);
      expect(found.same.data).toEqual(before.data);
    }
  });

  it('may be bound, and overlapping runs leave it as the last of them', async () => {
    await using session = await square(length);
    const [x, y] = [matrix(length, 1), matrix(length, 2)];
    const { y: expected } = await session.run({ x });
    const binding = await session.bind({ inputs: { x }, outputs: { y } });
    await Promise.all(Array.from({ length: 20 }, () => binding.run()));
    expect(y.data).toEqual(expected.data);
    (y.data as Float32Array).fill(0);
    expect(binding.runSync().y).toBe(y);
    expect(y.data).toEqual(expected.data);
    binding.dispose();
  });
});

/** Pages that the system gives a process for each of the results that it makes and lets go, of so many bytes. */
const churn = (addon: string, bytes: number, results: number) => `
  const { cpu } = require(${JSON.stringify(addon)});
  const device = cpu.open(1, 2 ** 30);
  const buffer = cpu.allocate(device, ${bytes});
  const result = () => {
    const into = new Uint8Array(Buffer.allocUnsafeSlow(${bytes}).buffer);
    cpu.submitSync(device, null, [], [buffer, 0, into, false], false);
    return into;
  };
  for (let i = 0; i < 100; i++) result();
  const before = process.resourceUsage().minorPageFault;
  for (let i = 0; i < ${results}; i++) result();
  process.stdout.write(String((process.resourceUsage().minorPageFault - before) / ${results}));
`;

it('memory of results comes back without a turn of the event loop', { timeout: 60_000 }, async ({ skip }) => {
  const report = process.report?.getReport() as { readonly header?: { readonly glibcVersionRuntime?: string } };
  if (report?.header?.glibcVersionRuntime === undefined) skip('the C library is not GNU’s');
  const addon = fileURLToPath(new URL('../../build/Release/tutti_native.node', import.meta.url));
  const pages = 256;
  const { stdout } = await promisify(execFile)(process.execPath, ['-e', churn(addon, pages * 4096, 1000)]);
  expect(Number(stdout)).toBeLessThan(pages / 4);
});
