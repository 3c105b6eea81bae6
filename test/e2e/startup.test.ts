// A model's second start: nothing is planned or compiled, nothing is read that is stored, and what is damaged is made anew.
import { copyFileSync, mkdtempSync, readdirSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { ModelBuilder } from '../../compiler/builder/index.js';
import { exportOnnx } from '../../compiler/frontends/onnx/index.js';
import { devices } from '../../runtime/device.js';
import { Session } from '../../runtime/session.js';
import { Tensor } from '../../runtime/tensor.js';

const { devices: found } = await devices({ backends: ['cpu'] });

let folder: string;
let before: string | undefined;
beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), 'tutti-start-'));
  before = process.env.TUTTI_CACHE;
  process.env.TUTTI_CACHE = join(folder, 'cache');
});
afterEach(() => {
  if (before === undefined) delete process.env.TUTTI_CACHE;
  else process.env.TUTTI_CACHE = before;
  rmSync(folder, { recursive: true, force: true });
});

/** Large enough to be worth storing; `seed` makes other weights of the same shapes. */
function model(seed = 0): Uint8Array {
  const g = new ModelBuilder('chain');
  const weights = (count: number, layer: number): Float32Array =>
    Float32Array.from({ length: count }, (_, i) => Math.sin(i * 0.37 + layer + seed) / 8);
  let x = g.input('x', 'f32', ['batch', 4, 12, 12]);
  for (let layer = 0; layer < 6; layer++) {
    const [from, to] = [4 + layer, 5 + layer];
    x = g.relu(g.conv(x, g.constant(weights(from * to * 9, layer), [to, from, 3, 3]), { padding: 1 }));
  }
  g.output('y', g.softmax(g.flatten(x)));
  return exportOnnx(g.build());
}

/** Files must not be younger than their file system can tell. */
async function write(path: string, bytes: Uint8Array): Promise<void> {
  writeFileSync(path, bytes);
  await new Promise((resolve) => setTimeout(resolve, 120));
}

interface Start {
  readonly y: Float32Array;
  readonly times: Readonly<Record<string, number>>;
}

async function start(path: string, batch = 1): Promise<Start> {
  const session = await Session.create(path, { device: 'cpu' });
  const x = Tensor.from(
    Float32Array.from({ length: batch * 4 * 144 }, (_, i) => Math.cos(i)),
    [batch, 4, 12, 12],
  );
  const { y } = await session.run({ x });
  const [{ times }] = session.report().specialisations;
  await session.close();
  return { y: y.data as Float32Array, times };
}

const entries = (): readonly string[] => {
  const programs = join(folder, 'cache', 'programs');
  return readdirSync(programs).map((name) => join(programs, name));
};

describe.skipIf(found.length === 0)('a second start', () => {
  it('plans nothing and gives the same', async () => {
    const path = join(folder, 'model.onnx');
    await write(path, model());
    const first = await start(path);
    expect(first.times.plan).toBeGreaterThan(0);
    const second = await start(path);
    expect(second.times).toMatchObject({ cache: expect.any(Number) });
    expect(second.times.plan).toBeUndefined();
    expect(second.times.hostCompiler).toBeUndefined();
    expect(second.y).toEqual(first.y);
  });

  it('finds the program of a copy, and plans other shapes', async () => {
    const [path, copy] = [join(folder, 'model.onnx'), join(folder, 'copy.onnx')];
    await write(path, model());
    await start(path);
    copyFileSync(path, copy);
    expect((await start(copy)).times.plan).toBeUndefined();
    expect((await start(path, 2)).times.plan).toBeGreaterThan(0);
  });

  it('sees that the file is another one', async () => {
    const path = join(folder, 'model.onnx');
    await write(path, model());
    const first = await start(path);
    const { size } = statSync(path);
    await write(path, model(1));
    expect(statSync(path).size).toBe(size);
    const second = await start(path);
    expect(second.times.plan).toBeGreaterThan(0);
    expect(second.y).not.toEqual(first.y);
  });

  it('makes anew what is damaged, wherever it is', async () => {
    const path = join(folder, 'model.onnx');
    await write(path, model());
    const first = await start(path);
    const [entry] = entries();
    const good = readFileSync(entry);
    const damages: ((bytes: Buffer) => Buffer)[] = [
      (bytes) => bytes.subarray(0, bytes.length - 7),
      () => Buffer.alloc(0),
      // Within the first constant, and within the document.
      (bytes) => Buffer.concat([Buffer.from([bytes[0] ^ 0x55]), bytes.subarray(1)]),
      (bytes) =>
        Buffer.concat([bytes.subarray(0, -100), Buffer.from([bytes[bytes.length - 100] ^ 1]), bytes.subarray(-99)]),
    ];
    for (const damage of damages) {
      writeFileSync(entry, damage(Buffer.from(good)));
      const again = await start(path);
      expect(again.times.plan).toBeGreaterThan(0);
      expect(again.y).toEqual(first.y);
      expect(readFileSync(entry).equals(good)).toBe(true);
    }
  });

  it('does without a folder that cannot be written', async () => {
    const path = join(folder, 'model.onnx');
    await write(path, model());
    const first = await start(path);
    rmSync(join(folder, 'cache', 'programs'), { recursive: true, force: true });
    writeFileSync(join(folder, 'cache', 'programs'), 'not a folder');
    expect((await start(path)).y).toEqual(first.y);
  });

  it('needs no model file once all of it is stored', async () => {
    const path = join(folder, 'model.onnx');
    await write(path, model());
    const first = await start(path);
    // The same state of the file, but nobody may look into it.
    const session = await Session.create(path, { device: 'cpu' });
    const load = session.model.load;
    session.model.load = () => {
      throw new Error('the graph was read');
    };
    const { y } = await session.run({
      x: Tensor.from(
        Float32Array.from({ length: 576 }, (_, i) => Math.cos(i)),
        [1, 4, 12, 12],
      ),
    });
    session.model.load = load;
    await session.close();
    expect(y.data).toEqual(first.y);
  });

  it('refuses to go on with a file that is another one by now', async () => {
    const path = join(folder, 'model.onnx');
    await write(path, model());
    await start(path);
    const session = await Session.create(path, { device: 'cpu' });
    await write(path, model(1));
    const x = Tensor.from(new Float32Array(2 * 576), [2, 4, 12, 12]);
    await expect(session.run({ x })).rejects.toMatchObject({ code: 'E_IO' });
    await session.close();
  });
});
