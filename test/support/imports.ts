// Reads what a TypeScript file imports, without a compiler: enough for the rules in test/unit/architecture.test.ts.
import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { dirname, join, relative, resolve } from 'node:path';

export interface Import {
  /** As written: `../kernel/index.js`, `node:fs`, `@bufbuild/protobuf/wire`. */
  readonly specifier: string;
  /** For a relative import: the file it means, relative to the root, with `/`. */
  readonly file?: string;
  /** `static` runs with the importing file, `dynamic` when it is asked for, `type` leaves no trace at run time. */
  readonly kind: 'static' | 'dynamic' | 'type';
}

export interface SourceFile {
  /** Relative to the root, with `/`. */
  readonly path: string;
  readonly imports: readonly Import[];
}

/** Every .ts file below `folders` (a file may be named itself), with its imports. */
export function readSources(root: string, folders: readonly string[]): SourceFile[] {
  return folders
    .flatMap((folder) => listTypeScript(root, folder))
    .map((path) => ({ path, imports: importsOf(root, path, readFileSync(join(root, path), 'utf8')) }));
}

function listTypeScript(root: string, path: string): string[] {
  if (path.endsWith('.ts')) return existsSync(join(root, path)) ? [path] : [];
  if (!existsSync(join(root, path))) return [];
  return readdirSync(join(root, path), { withFileTypes: true }).flatMap((entry) =>
    entry.isDirectory() || entry.name.endsWith('.ts') ? listTypeScript(root, `${path}/${entry.name}`) : [],
  );
}

// One pattern over comments, declarations and calls: a comment is consumed before anything in it can match.
const pattern = new RegExp(
  [
    String.raw`\/\*[\s\S]*?\*\/|^\s*\/\/.*$`,
    String.raw`(?:^|;)\s*(?<word>import|export)\s+(?<type>type\s)?(?:[\w*\s{},$]+?\sfrom\s*)?(['"])(?<from>[^'"\n]+)\3`,
    String.raw`\b(?:import|require)\(\s*(['"])(?<call>[^'"\n]+)\5`,
  ].join('|'),
  'gm',
);

export function importsOf(root: string, path: string, text: string): Import[] {
  return [...text.matchAll(pattern)].flatMap(({ groups }) => {
    const specifier = groups?.from ?? groups?.call;
    if (specifier === undefined) return [];
    const kind = groups?.call !== undefined ? 'dynamic' : groups?.type !== undefined ? 'type' : 'static';
    return [{ specifier, kind, file: fileOf(root, path, specifier) } as const];
  });
}

function fileOf(root: string, from: string, specifier: string): string | undefined {
  if (!specifier.startsWith('.')) return undefined;
  const path = resolve(root, dirname(from), specifier).replace(/\.js$/, '.ts');
  return relative(root, path).replaceAll('\\', '/');
}
