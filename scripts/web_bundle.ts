/**
 * Bundles browser code: TypeScript sources in, one ES module out. What browsers must not load is named once, in the
 * `browser` field of package.json, which the bundlers of our users read too; there the paths are those of dist/.
 */
import { existsSync, readFileSync } from 'node:fs';
import { dirname, join, resolve } from 'node:path';
import { fileURLToPath } from 'node:url';
import { gzipSync } from 'node:zlib';

export const root = rootOf(dirname(fileURLToPath(import.meta.url)));

export interface BundleOptions {
  readonly minify?: boolean;
  /** Default `es`; `iife` for a classic script. */
  readonly format?: 'es' | 'iife';
  /** The global that an `iife` leaves its exports in. */
  readonly name?: string;
  /** Specifiers that stay imports, for the page to resolve. */
  readonly external?: readonly string[];
}

export interface Bundle {
  readonly code: string;
  readonly bytes: number;
  /** As servers send it. */
  readonly gzipBytes: number;
  /** Sources in it, relative to the root. */
  readonly modules: readonly string[];
  /** What it still imports: empty unless something of Node leaked in. */
  readonly imports: readonly string[];
}

/** Absolute paths of the sources that browsers get an empty module for. */
export function nodeOnlySources(): ReadonlySet<string> {
  const { browser } = JSON.parse(readFileSync(join(root, 'package.json'), 'utf8')) as {
    readonly browser: Readonly<Record<string, false>>;
  };
  return new Set(
    Object.keys(browser).map((path) => join(root, path.replace(/^\.\/dist\//, '').replace(/\.js$/, '.ts'))),
  );
}

/** @param entry A source file, or the text of one, whose imports are then relative to the root. */
export async function bundleForBrowser(
  entry: { readonly file: string } | { readonly text: string },
  { minify = false, format = 'es', name, external = [] }: BundleOptions = {},
): Promise<Bundle> {
  const { rolldown } = await import('rolldown');
  const nodeOnly = nodeOnlySources();
  const textEntry = join(root, 'entry-of-this-bundle.ts');
  const absent = '\0absent';
  const build = await rolldown({
    input: 'file' in entry ? resolve(root, entry.file) : textEntry,
    platform: 'browser',
    external: [...external],
    resolve: { extensionAlias: { '.js': ['.ts', '.js'] } },
    transform: { target: 'es2022' },
    plugins: [
      {
        name: 'tutti-browser',
        resolveId(id, importer) {
          if (id === textEntry) return id;
          if (importer === undefined || !id.startsWith('.')) return undefined;
          return nodeOnly.has(resolve(dirname(importer), id.replace(/\.js$/, '.ts'))) ? absent : undefined;
        },
        load(id) {
          if (id === absent) return 'export {};';
          return id === textEntry && 'text' in entry ? { code: entry.text, moduleType: 'ts' } : undefined;
        },
      },
    ],
    onLog(level, log, defaultHandler) {
      // Builtins would be left as imports that no browser can resolve.
      if (log.code === 'UNRESOLVED_IMPORT') throw new Error(log.message);
      if (level !== 'info') defaultHandler(level, log);
    },
  });
  try {
    const { output } = await build.generate({ format, name, minify, codeSplitting: false });
    const [{ code, fileName, imports, dynamicImports, moduleIds }] = output;
    return {
      code,
      bytes: Buffer.byteLength(code),
      gzipBytes: gzipSync(code).byteLength,
      modules: moduleIds.filter((id) => id.startsWith(root)).map((id) => id.slice(root.length + 1)),
      // What was imported on demand lies in the same file.
      imports: [...imports, ...dynamicImports].filter((name) => name !== fileName),
    };
  } finally {
    await build.close();
  }
}

/** The folder of package.json: this file runs as scripts/*.ts and as dist/scripts/*.js. */
function rootOf(folder: string): string {
  return existsSync(join(folder, 'package.json')) ? folder : rootOf(dirname(folder));
}
