// The layers of docs/architecture.md, enforced: who may import whom, and what runs where there is no Node.
import { execFileSync } from 'node:child_process';
import { existsSync, readFileSync } from 'node:fs';
import { builtinModules } from 'node:module';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { repository } from '../support/data.js';
import { type Import, importsOf, readSources, type SourceFile } from '../support/imports.js';

/** A folder may import its own layer and those below. */
const layers: readonly (readonly string[])[] = [
  ['compiler'],
  ['backends'],
  ['runtime'],
  ['index.ts', 'cli', 'serve', 'network', 'web', 'examples', 'bench', 'scripts'],
];

/** What the compiler may take from npm: it runs in a browser tab, so each must be pure JavaScript. */
const compilerPackages = ['@bufbuild/protobuf'];

/** In backends/, only files of these names may need Node; the others also run in a browser. */
const nodeFiles = ['driver.ts', 'gpu_driver.ts', 'native.ts', 'node.ts'];

const sources = readSources(repository, layers.flat());
const byPath = new Map(sources.map((source) => [source.path, source]));
const top = (path: string) => path.split('/')[0];
const layerOf = (path: string) => layers.findIndex((folders) => folders.includes(top(path)));
const isBuiltin = (specifier: string) => specifier.startsWith('node:') || builtinModules.includes(specifier);
const packageOf = (specifier: string) =>
  specifier
    .split('/')
    .slice(0, specifier.startsWith('@') ? 2 : 1)
    .join('/');

/** `path imports specifier` for every import that `forbidden` says yes to. */
function offences(
  files: readonly SourceFile[],
  forbidden: (source: SourceFile, imported: Import) => boolean,
): string[] {
  return files.flatMap((source) =>
    source.imports.filter((i) => forbidden(source, i)).map((i) => `${source.path} imports ${i.specifier}`),
  );
}

const inFolder = (folder: string) => sources.filter((source) => source.path.startsWith(`${folder}/`));

describe('dependency direction', () => {
  it('reads imports of every form', () => {
    const text = `
      import a, { type B } from './b.js';
      import type { C } from "../c.js";
      import './d.js';
      export * from './e.js';
      export {
        f,
      } from './f.js';
      // import g from './g.js';
      /* import h from './h.js'; */
      const i = await import('./i.js');
      import fs from 'node:fs';
    `;
    expect(importsOf('/r', 'x/y.ts', text).map((i) => [i.file ?? i.specifier, i.kind])).toEqual([
      ['x/b.ts', 'static'],
      ['c.ts', 'type'],
      ['x/d.ts', 'static'],
      ['x/e.ts', 'static'],
      ['x/f.ts', 'static'],
      ['x/i.ts', 'dynamic'],
      ['node:fs', 'static'],
    ]);
  });

  it('points down only: entry points → runtime → backends → compiler', () => {
    const upwards = offences(sources, (source, { file }) => {
      if (file === undefined) return false;
      const layer = layerOf(file);
      return layer < 0 || layer > layerOf(source.path);
    });
    expect(upwards).toEqual([]);
  });

  it('has no cycle between top-level folders', () => {
    const edges = new Map<string, Set<string>>();
    for (const { path, imports } of sources) {
      for (const { file } of imports) {
        if (file === undefined || top(file) === top(path)) continue;
        edges.set(top(path), (edges.get(top(path)) ?? new Set()).add(top(file)));
      }
    }
    const reaches = (from: string, to: string, seen = new Set<string>()): boolean =>
      [...(edges.get(from) ?? [])].some((next) => {
        if (next === to) return true;
        if (seen.has(next)) return false;
        seen.add(next);
        return reaches(next, to, seen);
      });
    expect([...edges.keys()].filter((folder) => reaches(folder, folder))).toEqual([]);
  });

  it('keeps backends apart from one another: they share backends/common only', () => {
    const folderOf = (path: string) => path.match(/^backends\/([^/]+)\//)?.[1];
    const crossing = offences(inFolder('backends'), (source, { file }) => {
      const own = folderOf(source.path);
      const other = file === undefined ? undefined : folderOf(file);
      return own !== undefined && other !== undefined && own !== other && other !== 'common';
    });
    expect(crossing).toEqual([]);
  });

  it('imports only files that exist', () => {
    const dangling = offences(
      sources,
      (_, { file }) => file !== undefined && !byPath.has(file) && !existsSync(join(repository, file)),
    );
    expect(dangling).toEqual([]);
  });
});

describe('what runs without Node', () => {
  it('compiler/ imports nothing from Node and only listed packages', () => {
    const foreign = offences(
      inFolder('compiler'),
      (_, { specifier, file }) => file === undefined && !compilerPackages.includes(packageOf(specifier)),
    );
    expect(foreign).toEqual([]);
  });

  it(`backends/ needs Node only in files named ${nodeFiles.join(', ')}`, () => {
    const others = inFolder('backends').filter(({ path }) => !nodeFiles.includes(path.split('/').at(-1) ?? ''));
    expect(offences(others, (_, { specifier }) => isBuiltin(specifier))).toEqual([]);
  });

  it('web/ reaches nothing that needs Node before it is asked for', () => {
    const reached = new Set(inFolder('web').map(({ path }) => path));
    for (const path of reached) {
      for (const { file, kind } of byPath.get(path)?.imports ?? []) {
        if (file !== undefined && kind === 'static') reached.add(file);
      }
    }
    const files = [...reached].flatMap((path) => byPath.get(path) ?? []);
    expect(offences(files, (_, { specifier, kind }) => kind === 'static' && isBuiltin(specifier))).toEqual([]);
  });
});

describe('package', () => {
  const manifest = JSON.parse(readFileSync(join(repository, 'package.json'), 'utf8'));

  it('declares every package it imports', () => {
    const declared = Object.keys(manifest.dependencies);
    const development = Object.keys(manifest.devDependencies);
    const forDevelopment = ['bench', 'scripts'];
    const undeclared = offences(sources, (source, { specifier, file, kind }) => {
      if (file !== undefined || isBuiltin(specifier)) return false;
      // Examples import this package by its name, as users do.
      if ([...declared, manifest.name].includes(packageOf(specifier))) return false;
      // Users do not have development packages: the shipped folders may only ask for one when they need it.
      const optional = kind !== 'static' || forDevelopment.includes(top(source.path));
      return !(optional && development.includes(packageOf(specifier)));
    });
    expect(undeclared).toEqual([]);
  });

  it('names no package registry', () => {
    const registry = new RegExp(['registry', String.raw`(npmjs|yarnpkg|npmmirror)\.(org|com)`].join(String.raw`\.`));
    const listed = existsSync(join(repository, '.git'))
      ? execFileSync('git', ['ls-files', '-z'], { cwd: repository, encoding: 'utf8' }).split('\0').filter(Boolean)
      : ['package-lock.json', '.npmrc'];
    const text = (file: string) => {
      const path = join(repository, file);
      return existsSync(path) ? readFileSync(path, 'utf8') : '';
    };
    expect(listed.filter((file) => registry.test(text(file)))).toEqual([]);
    expect(text('package-lock.json')).not.toContain('"resolved": "http');
  });
});
