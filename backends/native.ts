// Finds and loads the native add-on. It is the same file for every driver; whoever wants one of them casts its
// sub-object in its own driver.ts. Never throws: a machine without the add-on keeps its other backends.
import { existsSync, readFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';

/** What the add-on exports: one object a driver. Each driver.ts knows the shape of its own. */
export interface NativeAddon {
  readonly files: {
    /** The file's bytes, mapped into memory. Throws an Error with `code`. */
    map(path: string): ArrayBuffer;
  };
  readonly cpu: unknown;
  readonly vulkan: unknown;
  readonly cuda: unknown;
  readonly metal: unknown;
}

export interface NativeUnavailable {
  /** Why there is no add-on, and what to do about it. */
  readonly reason: string;
}

let loaded: NativeAddon | NativeUnavailable | undefined;

/** The add-on, or the reason for its absence. Loaded at the first call, then remembered. */
export function loadNative(): NativeAddon | NativeUnavailable {
  loaded ??= load();
  return loaded;
}

export function isNativeAddon(native: NativeAddon | NativeUnavailable): native is NativeAddon {
  return !('reason' in native);
}

/** The folder that holds our package.json: the same from the sources as from dist/. */
export function packageRoot(from = dirname(fileURLToPath(import.meta.url))): string | undefined {
  for (let folder = from; ; folder = dirname(folder)) {
    const manifest = join(folder, 'package.json');
    if (existsSync(manifest) && JSON.parse(readFileSync(manifest, 'utf8')).name === 'tutti') return folder;
    if (folder === dirname(folder)) return undefined;
  }
}

function load(): NativeAddon | NativeUnavailable {
  const require = createRequire(import.meta.url);
  const reasons: string[] = [];
  for (const candidate of candidates()) {
    try {
      return require(candidate) as NativeAddon;
    } catch (error) {
      if (!isMissing(error, candidate)) reasons.push(`${candidate}: ${firstLine(error)}`);
    }
  }
  if (reasons.length > 0) return { reason: `the native add-on could not be loaded: ${reasons.join('; ')}` };
  return { reason: 'the native add-on is not built; run `npm run build` (needs cmake and a C++20 compiler)' };
}

/** A build in this checkout first, then the prebuilt package for this platform. */
function candidates(): string[] {
  const root = packageRoot();
  const prebuilt = `@tutti/native-${process.platform}-${process.arch}`;
  return root === undefined ? [prebuilt] : [join(root, 'build', 'Release', 'tutti_native.node'), prebuilt];
}

function isMissing(error: unknown, candidate: string): boolean {
  const code = (error as NodeJS.ErrnoException).code;
  return code === 'MODULE_NOT_FOUND' && String(error).includes(candidate);
}

function firstLine(error: unknown): string {
  return (error instanceof Error ? error.message : String(error)).split('\n')[0];
}
