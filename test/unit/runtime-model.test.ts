// Loading models from files: external data stays inside the folder of the model; saving is all or nothing.
import { mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { pathToFileURL } from 'node:url';
import { afterAll, describe, expect, it, vi } from 'vitest';
import { ModelBuilder } from '../../compiler/builder/index.js';
import { encode } from '../../compiler/frontends/onnx/index.js';
import { compile, type Model } from '../../runtime/model.js';
import { cacheDirectory, externalFiles, writeFile } from '../../runtime/node.js';

const root = mkdtempSync(join(tmpdir(), 'runtime-model-'));
afterAll(() => rmSync(root, { recursive: true }));
const folder = join(root, 'model');
mkdirSync(folder);
mkdirSync(join(folder, 'parts'));
writeFileSync(join(root, 'secret.bin'), new Uint8Array(1024).fill(7));
writeFileSync(join(folder, 'weights.bin'), new Uint8Array(Float32Array.from({ length: 64 }, (_, i) => i).buffer));
writeFileSync(join(folder, 'parts', 'inner.bin'), new Uint8Array(256));
symlinkSync(join(root, 'secret.bin'), join(folder, 'link.bin'));
symlinkSync(root, join(folder, 'up'));
symlinkSync(join(folder, 'weights.bin'), join(folder, 'fine.bin'));

/** y = x + w, with w of 64 floats in a file. */
function onnx(location: string, offset = 0, length = 256): string {
  const name = (value: string) => new TextEncoder().encode(value);
  const entry = (key: string, value: string) => ({ key, value });
  const floats = (title: string) => ({
    name: title,
    type: { tensorType: { elemType: 1, shape: { dim: [{ dimValue: 64n }] } } },
  });
  const bytes = encode('ModelProto', {
    irVersion: 8n,
    opsetImport: [{ domain: '', version: 17n }],
    graph: {
      name: 'g',
      input: [floats('x')],
      output: [floats('y')],
      node: [{ opType: 'Add', name: 'sum', input: ['x', 'w'], output: ['y'] }],
      initializer: [
        {
          name: 'w',
          dataType: 1,
          dims: [64n],
          dataLocation: 1,
          externalData: [entry('location', location), entry('offset', String(offset)), entry('length', String(length))],
        },
      ],
    },
  } as never);
  const path = join(folder, `${Buffer.from(name(location)).toString('hex').slice(0, 40)}-${offset}-${length}.onnx`);
  writeFileSync(path, bytes);
  return path;
}

const weightsOf = (model: Model) => [...model.graph.constants.values()][0].load().data;

describe('external data', () => {
  it('is read from files inside the folder, links within it included', async () => {
    expect(weightsOf(await compile(onnx('weights.bin')))).toEqual(Float32Array.from({ length: 64 }, (_, i) => i));
    expect(weightsOf(await compile(onnx('fine.bin')))).toHaveLength(64);
    expect(weightsOf(await compile(pathToFileURL(onnx('parts/inner.bin'))))).toEqual(new Float32Array(64));
  });

  for (const location of [
    'link.bin',
    'up/secret.bin',
    '../secret.bin',
    join(root, 'secret.bin'),
    'missing.bin',
    'parts',
    '.',
  ]) {
    it(`is refused at ${location.replace(root, '/…')}`, async () => {
      await expect((async () => weightsOf(await compile(onnx(location))))()).rejects.toMatchObject({
        name: 'TuttiError',
        code: expect.stringMatching(/^E_(EXTERNAL_DATA|MODEL_INVALID)$/),
      });
    });
  }

  it('is refused beyond the end of the file', async () => {
    await expect((async () => weightsOf(await compile(onnx('weights.bin', 128, 256))))()).rejects.toMatchObject({
      code: 'E_EXTERNAL_DATA',
    });
    const file = externalFiles(join(folder, 'x.onnx'))('weights.bin');
    expect(file.size).toBe(256);
    expect(() => file.read(250, 7)).toThrow(/outside the file/);
    expect(() => file.read(-1, 7)).toThrow(/outside the file/);
  });

  it('is refused for models without a folder', async () => {
    const bytes = readFileSync(onnx('weights.bin'));
    await expect((async () => weightsOf(await compile(bytes)))()).rejects.toMatchObject({ code: 'E_EXTERNAL_DATA' });
  });
});

describe('files', () => {
  const graph = () => {
    const g = new ModelBuilder('saved');
    g.output('y', g.add(g.input('x', 'f32', ['n', 33]), g.constant(new Float32Array(33).fill(2))));
    return g.build();
  };

  it('are saved, loaded, and described alike', async () => {
    const model = await compile(graph(), { numerics: 'fast', dims: { n: 4 } });
    const path = join(root, 'deep', 'er', 'model.tutti');
    await model.save(path);
    const loaded = await compile(path);
    expect(loaded.numerics).toBe('fast');
    expect(loaded.inputs).toEqual([{ name: 'x', type: 'float32', dtype: 'f32', shape: [4, 33] }]);
    expect(loaded.outputs[0].shape).toEqual([4, 33]);
    expect((await compile(path, { numerics: 'fast', dims: { n: 5 } })).inputs[0].shape).toEqual([5, 33]);
    expect(readdirSync(join(root, 'deep', 'er'))).toEqual(['model.tutti']);
    expect(Buffer.concat([...loaded.artifact()]).equals(readFileSync(path))).toBe(true);
    expect(model.weightsBytes).toBe(132);
  });

  it('named as artifacts are artifacts, whatever is in them', async () => {
    const path = join(root, 'cut.tutti');
    writeFileSync(path, new Uint8Array(100));
    await expect(compile(path)).rejects.toMatchObject({ code: 'E_ARTIFACT' });
    writeFileSync(path, Buffer.concat([...(await compile(graph())).artifact()]).subarray(0, 300));
    await expect(compile(path)).rejects.toMatchObject({ code: 'E_ARTIFACT' });
  });

  it('are whole or not there', async () => {
    const path = join(root, 'half.tutti');
    const broken = function* () {
      yield new Uint8Array(10);
      throw new Error('no more');
    };
    await expect(writeFile(path, broken())).rejects.toMatchObject({ code: 'E_IO' });
    expect(readdirSync(root).filter((name) => name.includes('half'))).toEqual([]);
  });

  it('that are missing, folders or no models are refused', async () => {
    await expect(compile(join(root, 'nothing.onnx'))).rejects.toMatchObject({ code: 'E_IO', message: /no such file/ });
    await expect(compile(root)).rejects.toMatchObject({ code: 'E_IO' });
    await expect(compile(new Uint8Array(100))).rejects.toMatchObject({ name: 'TuttiError' });
    await expect(compile(5 as never)).rejects.toMatchObject({ code: 'E_USAGE' });
    await expect(compile(graph(), { numerics: 'exact' as never })).rejects.toMatchObject({ code: 'E_USAGE' });
  });
});

describe('cache folder', () => {
  it('follows the environment, then the platform', () => {
    vi.stubEnv('TUTTI_CACHE', '/somewhere/else');
    expect(cacheDirectory()).toBe('/somewhere/else');
    vi.stubEnv('TUTTI_CACHE', '');
    vi.stubEnv('XDG_CACHE_HOME', '/xdg');
    if (process.platform === 'linux') expect(cacheDirectory()).toBe('/xdg/tutti');
    vi.unstubAllEnvs();
    vi.stubEnv('TUTTI_CACHE', '');
    expect(cacheDirectory()).toMatch(/tutti/);
  });
});
