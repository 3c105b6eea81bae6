// What browsers load: one module that needs nothing of Node, and no backend but webgpu.
import { existsSync } from 'node:fs';
import { builtinModules } from 'node:module';
import { join } from 'node:path';
import { runInNewContext } from 'node:vm';
import { beforeAll, describe, expect, it } from 'vitest';
import { nodeBackends } from '../../backends/node.js';
import { type Bundle, bundleForBrowser, nodeOnlySources } from '../../scripts/web_bundle.js';
import { repository } from '../support/data.js';
import { readSources } from '../support/imports.js';

const pureFolders = ['index.ts', 'compiler', 'backends', 'runtime', 'web'];

describe('sources', () => {
  const sources = new Map(readSources(repository, pureFolders).map((source) => [source.path, source]));
  const nodeOnly = new Set([...nodeOnlySources()].map((path) => path.slice(repository.length + 1)));

  it('names only files that exist as Node-only', () => {
    expect(nodeOnly.size).toBeGreaterThan(0);
    expect([...nodeOnly].filter((path) => !existsSync(join(repository, path)))).toEqual([]);
  });

  it('reaches no Node module, not even on demand, except through the files named Node-only', () => {
    const reached = new Set(['web/index.ts']);
    const offences: string[] = [];
    for (const path of reached) {
      for (const { specifier, file, kind } of sources.get(path)?.imports ?? []) {
        if (kind === 'type') continue;
        if (specifier.startsWith('node:') || builtinModules.includes(specifier)) offences.push(`${path}: ${specifier}`);
        if (file !== undefined && !nodeOnly.has(file)) reached.add(file);
      }
    }
    expect(reached.size).toBeGreaterThan(50);
    expect(offences).toEqual([]);
  });
});

describe('bundle', () => {
  let plain: Bundle;
  let minified: Bundle;
  beforeAll(async () => {
    plain = await bundleForBrowser({ file: 'web/index.ts' });
    minified = await bundleForBrowser({ file: 'web/index.ts' }, { minify: true });
  });

  it('is one module without imports', () => {
    expect(plain.imports).toEqual([]);
    expect(minified.imports).toEqual([]);
    const leftovers = minified.code.match(/(?:\b(?:require|import)\([^)]{0,40}|['"`]node:[a-z])/g) ?? [];
    expect(leftovers).toEqual([]);
  });

  it('holds the webgpu backend and no other', () => {
    const backends = plain.modules.filter((path) => path.startsWith('backends/'));
    expect(backends).toContain('backends/webgpu/render.ts');
    const others = Object.keys(nodeBackends);
    expect(others.length).toBeGreaterThan(1);
    expect(backends.filter((path) => others.includes(path.split('/')[1]))).toEqual([]);
    expect(plain.modules.filter((path) => path.endsWith('/node.ts'))).toEqual([]);
  });

  it('stays small', () => {
    expect(minified.bytes).toBeLessThan(1_500_000);
    expect(minified.gzipBytes).toBeLessThan(450_000);
  });

  it('refuses what no browser can resolve', async () => {
    await expect(
      bundleForBrowser({ text: "import { readFileSync } from 'node:fs'; readFileSync('x');" }),
    ).rejects.toThrow(/node:fs/);
  });

  it('evaluates where there is neither process nor Buffer', async () => {
    const { code } = await bundleForBrowser(
      { text: "export { Tensor, TuttiError, compile, devices } from './web/index.js';" },
      { format: 'iife', name: 'tutti' },
    );
    const context = {
      TextEncoder,
      TextDecoder,
      performance,
      MessageChannel,
      AbortSignal,
      DOMException,
      Blob,
      result: undefined as unknown,
      list: undefined as unknown,
    };
    runInNewContext(`${code}\nresult = tutti.Tensor.from([1, 2], [2]).dims; list = tutti.devices();`, context);
    expect(Array.from(context.result as number[])).toEqual([2]);
    expect(await context.list).toMatchObject({
      devices: [],
      missing: [{ backend: 'webgpu', reason: expect.stringContaining('no WebGPU') }],
    });
  });
});
