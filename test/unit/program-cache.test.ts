// Programs and descriptions of models on disk: what comes back is what was stored, and whatever is wrong is a miss.
import {
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  truncateSync,
  utimesSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import type { Backend } from '../../backends/backend.js';
import { cpuBackend } from '../../backends/cpu/index.js';
import { vulkanBackend } from '../../backends/vulkan/index.js';
import { ModelBuilder } from '../../compiler/builder/index.js';
import { plan } from '../../compiler/compile.js';
import { addDims, dimName, floorDivDims } from '../../compiler/graph/dims.js';
import type { Plan } from '../../compiler/plan.js';
import { Descriptions, type ModelDescription, stampOf } from '../../runtime/descriptions.js';
import { ProgramCache } from '../../runtime/program_cache.js';
import { DamagedProgram, type RenderedProgram } from '../../runtime/program_format.js';
import type { ModelFile } from '../../runtime/session_model.js';

let folder: string;
beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), 'tutti-programs-'));
});
afterEach(() => rmSync(folder, { recursive: true, force: true }));

function example(backend: Backend = cpuBackend): RenderedProgram {
  const g = new ModelBuilder('example');
  const x = g.input('x', 'f32', [4, 8]);
  const weights = g.constant(
    Float32Array.from({ length: 64 }, (_, i) => i / 7),
    [8, 8],
  );
  g.output('y', g.relu(g.matmul(x, weights)));
  g.output('z', g.constant(['a', 'b'], [2]));
  const target = backend.target();
  if (target === undefined) throw new Error('no target');
  const program = plan(g.build(), target);
  return { program, codes: program.kernels.map((kernel) => backend.render(kernel, target)) };
}

const key = { identity: { model: 'example', bounds: new Map([['n', [1, 2]]]) }, features: new Set(['b', 'a']) };
const onlyEntry = (): string => join(folder, readdirSync(folder)[0]);

async function filled(rendered = example()): Promise<ProgramCache> {
  const cache = new ProgramCache(folder, 'v1');
  cache.store(key, rendered);
  await cache.settled();
  return cache;
}

describe('programs', () => {
  it.each([cpuBackend, vulkanBackend])('come back as they were ($name)', async (backend) => {
    const rendered = example(backend);
    const found = (await filled(rendered)).find(key);
    const { target: _target, kernels, constants, outputs, ...rest } = rendered.program as Plan;
    expect(found?.program).toMatchObject(
      JSON.parse(JSON.stringify({ ...rest, report: { ...rest.report, times: {} } })),
    );
    expect(found?.program.kernels).toEqual(kernels.map(({ name, grid }) => ({ name, grid })));
    expect(found?.codes).toEqual(rendered.codes);
    expect(found?.program.constants.map(({ data }) => data.load())).toEqual(constants.map(({ data }) => data.load()));
    expect(found?.program.outputs[1].constant?.load()).toEqual(outputs[1].constant?.load());
  });

  it('are one file each, with nothing left beside it', async () => {
    await filled();
    expect(readdirSync(folder)).toEqual([expect.stringMatching(/^[0-9a-f]{64}\.program$/)]);
  });

  it('are found whatever order the key is written in', async () => {
    const cache = await filled();
    const other = { features: new Set(['a', 'b']), identity: { bounds: new Map([['n', [1, 2]]]), model: 'example' } };
    expect(cache.has(other)).toBe(true);
    expect(cache.find(other)).toBeDefined();
  });

  it('are not found under another key or by another version', async () => {
    const cache = await filled();
    expect(cache.find({ ...key, features: new Set(['a']) })).toBeUndefined();
    expect(new ProgramCache(folder, 'v2').find(key)).toBeUndefined();
  });

  it('give parts of constants', async () => {
    const found = (await filled()).find(key);
    const data = found?.program.constants[0].data;
    const whole = data?.load().data as Float32Array;
    const part = new Float32Array(5);
    data?.readPart?.(3, part);
    expect(part).toEqual(whole.slice(3, 8));
  });

  it('that are cut short are not found', async () => {
    const cache = await filled();
    const { size } = statSync(onlyEntry());
    for (const length of [size - 1, size >> 1, 10, 0]) {
      truncateSync(onlyEntry(), length);
      expect(cache.find(key)).toBeUndefined();
    }
  });

  it('with a damaged document are not found', async () => {
    const cache = await filled();
    const bytes = readFileSync(onlyEntry());
    bytes[bytes.length - 200] ^= 1;
    writeFileSync(onlyEntry(), bytes);
    expect(cache.find(key)).toBeUndefined();
  });

  it('with damaged constants say so when these are read, whole or in parts', async () => {
    const cache = await filled();
    const bytes = readFileSync(onlyEntry());
    bytes[5] ^= 1;
    writeFileSync(onlyEntry(), bytes);
    const data = cache.find(key)?.program.constants[0].data;
    expect(() => data?.load()).toThrow(DamagedProgram);
    const half = new Float32Array((data?.shape[0] ?? 0) >> 1);
    expect(() => {
      data?.readPart?.(0, half);
      data?.readPart?.(half.length, half);
    }).toThrow(DamagedProgram);
  });

  it('stay readable when they are replaced', async () => {
    const cache = await filled();
    const found = cache.find(key);
    await cache.remove(key);
    expect(cache.find(key)).toBeUndefined();
    expect(found?.program.constants[0].data.load().data.length).toBeGreaterThan(0);
  });
});

describe('descriptions of models', () => {
  const description = (): ModelDescription => {
    const dims = new Map([['n', { min: 1, max: 8 }]]);
    const shape = [dimName('n'), addDims(floorDivDims(dimName('n'), 2), 3), 4];
    const input = { id: 0, name: 'x', type: { dtype: 'f32' as const, shape } };
    const signature = { name: 'example', inputs: [input], outputs: [{ name: 'y', value: input }], dims };
    return { signature, nodes: 1, weightsBytes: 2, waits: false, digest: 'd', stated: {} };
  };
  const aged = (name: string): string => {
    const path = join(folder, name);
    writeFileSync(path, name);
    const stamp = stampOf(path);
    expect(stamp.settled).toBe(false);
    return path;
  };
  const fileOf = (path: string): ModelFile => ({
    path,
    stamps: [{ ...stampOf(path), settled: true }],
    asked: { dims: { n: 2 } },
    stated: {},
  });

  it('come back for the same files and the same request', () => {
    const path = aged('a.onnx');
    const store = new Descriptions(join(folder, 'models'), 'v1');
    store.store(fileOf(path), description());
    expect(store.find(path, { dims: { n: 2 } })).toEqual(description());
    expect(store.find(path, {})).toBeUndefined();
    expect(new Descriptions(join(folder, 'models'), 'v2').find(path, { dims: { n: 2 } })).toBeUndefined();
  });

  it('are of no use once a file has changed or is gone', () => {
    const path = aged('a.onnx');
    const store = new Descriptions(join(folder, 'models'), 'v1');
    store.store(fileOf(path), description());
    utimesSync(path, new Date(), new Date(0));
    expect(store.find(path, { dims: { n: 2 } })).toBeUndefined();
    store.store(fileOf(path), description());
    rmSync(path);
    expect(store.find(path, { dims: { n: 2 } })).toBeUndefined();
  });

  it('are not noted of files that have just been written', () => {
    const path = aged('a.onnx');
    const store = new Descriptions(join(folder, 'models'), 'v1');
    store.store({ ...fileOf(path), stamps: [stampOf(path)] }, description());
    expect(store.find(path, { dims: { n: 2 } })).toBeUndefined();
  });
});
