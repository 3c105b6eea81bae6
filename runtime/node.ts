/**
 * All that the runtime does with files, apart so that a browser build never reaches node:fs: whoever needs it imports
 * it dynamically.
 */
import { createHash, randomBytes } from 'node:crypto';
import { closeSync, fstatSync, openSync, readdirSync, readFileSync, readSync, realpathSync, statSync } from 'node:fs';
import { mkdir, open, rename, rm } from 'node:fs/promises';
import { homedir } from 'node:os';
import { basename, dirname, isAbsolute, join, relative, resolve, sep } from 'node:path';
import { fileURLToPath } from 'node:url';
import { isNativeAddon, loadNative } from '../backends/native.js';
import type { CreateHasher } from '../compiler/artifact/sha256.js';
import { TuttiError } from '../compiler/error.js';
import { Descriptions, stampOf } from './descriptions.js';
import { log } from './environment.js';
import { ProgramCache } from './program_cache.js';
import type { FileStamp } from './session_model.js';
import { parseTuning, type Tuning } from './tuning.js';

export { stampOf };

/** Folder of the caches: TUTTI_CACHE, else where the platform keeps caches. */
export function cacheDirectory(): string {
  if (process.env.TUTTI_CACHE) return resolve(process.env.TUTTI_CACHE);
  if (process.platform === 'darwin') return join(homedir(), 'Library', 'Caches', 'tutti');
  if (process.platform === 'win32') {
    return join(process.env.LOCALAPPDATA || join(homedir(), 'AppData', 'Local'), 'tutti', 'cache');
  }
  return join(process.env.XDG_CACHE_HOME || join(homedir(), '.cache'), 'tutti');
}

/**
 * False only where no GPU can be reached: on Linux every driver needs a device node (DRM, NVIDIA, AMD's KFD, WSL's dxg,
 * and those of embedded GPUs). Spares loading drivers that could only find software devices.
 */
export function mayHaveGpu(): boolean {
  if (process.platform !== 'linux') return true;
  const names = (folder: string): readonly string[] => {
    try {
      return readdirSync(folder);
    } catch {
      return [];
    }
  };
  const gpuNode = /^(nvidia\d+|nvidiactl|kfd|dxg|mali\d*|kgsl-3d\d+|nvhost-gpu|nvmap|pvr_sync|galcore)$/;
  return (
    names('/dev').some((name) => gpuNode.test(name)) || names('/dev/dri').some((name) => name.startsWith('renderD'))
  );
}

export const pathOf = (source: string | URL): string => (source instanceof URL ? fileURLToPath(source) : source);

/** @throws TuttiError E_IO */
export async function readFile(path: string): Promise<Uint8Array> {
  try {
    const file = await open(path, 'r');
    try {
      const info = await file.stat();
      if (!info.isFile()) throw new TuttiError('E_IO', 'is not a file', { subject: path });
      // In pieces: one call reads at most 2 GiB.
      const bytes = new Uint8Array(info.size);
      let done = 0;
      while (done < bytes.byteLength) {
        const { bytesRead } = await file.read(bytes, done, Math.min(bytes.byteLength - done, 1 << 28), done);
        if (bytesRead === 0) break;
        done += bytesRead;
      }
      return bytes.subarray(0, done);
    } finally {
      await file.close();
    }
  } catch (error) {
    if (error instanceof TuttiError) throw error;
    throw ioError(path, 'cannot be read', error);
  }
}

/** Smaller files are read at once: what is held of them is little. */
const smallFileBytes = 1 << 20;

/** A file that is read part by part as long as it is of use. */
export interface OpenFile {
  /** Bytes. */
  readonly size: number;
  /** Fills `into` with the bytes from `offset` on. @throws TuttiError E_IO, also if the file is no longer what it was. */
  read(offset: number, into: Uint8Array): void;
}

const closing = new FinalizationRegistry<number>((descriptor) => closeSync(descriptor));

/** Undefined for small files. It may be renamed or deleted, but not written to. @throws TuttiError E_IO */
export function openLarge(path: string): OpenFile | undefined {
  let descriptor: number;
  try {
    descriptor = openSync(path, 'r');
  } catch (error) {
    throw ioError(path, 'cannot be read', error);
  }
  const { size, mtimeMs } = fstatSync(descriptor);
  if (size < smallFileBytes) {
    closeSync(descriptor);
    return undefined;
  }
  const file: OpenFile = {
    size,
    read(offset, into) {
      const now = fstatSync(descriptor);
      let done = now.size === size && now.mtimeMs === mtimeMs ? 0 : -1;
      while (done >= 0 && done < into.byteLength) {
        const length = Math.min(into.byteLength - done, 1 << 28);
        const count = readSync(descriptor, into, done, length, offset + done);
        done = count === 0 ? -1 : done + count;
      }
      if (done >= 0) return;
      throw new TuttiError('E_IO', 'the file was changed while the model was in use', {
        subject: path,
        remedy: 'Write the new model to another file and rename it, or load it anew.',
      });
    },
  };
  closing.register(file, descriptor);
  return file;
}

/** An artifact's bytes, mapped into memory where that is possible: weights are read when they are used. @throws TuttiError E_IO */
export async function mapFile(path: string): Promise<Uint8Array> {
  const native = loadNative();
  if (isNativeAddon(native)) {
    try {
      return new Uint8Array(native.files.map(path));
    } catch {
      // Whatever is wrong, reading tells it in the same words as for other files.
    }
  }
  return readFile(path);
}

/**
 * Writes beside the target and renames, so that no reader ever sees half a file.
 * @throws TuttiError E_IO
 */
export async function writeFile(path: string, chunks: Iterable<Uint8Array> | AsyncIterable<Uint8Array>): Promise<void> {
  const temporary = join(dirname(path), `.${basename(path)}.${process.pid}.${randomBytes(6).toString('hex')}.tmp`);
  try {
    await mkdir(dirname(path), { recursive: true });
    const file = await open(temporary, 'wx');
    try {
      for await (const chunk of chunks) {
        for (let done = 0; done < chunk.byteLength; ) {
          done += (await file.write(chunk, done, Math.min(chunk.byteLength - done, 1 << 26))).bytesWritten;
        }
      }
      await file.sync();
    } finally {
      await file.close();
    }
    await rename(temporary, path);
  } catch (error) {
    await rm(temporary, { force: true });
    if (error instanceof TuttiError) throw error;
    throw ioError(path, 'cannot be written', error);
  }
}

/** Of all code that makes programs: its files, so that a rebuilt one is another. Read once. */
let version: string | undefined;
function compilerVersion(): string {
  version ??= (() => {
    const root = fileURLToPath(new URL('..', import.meta.url));
    const states: string[] = [];
    const visit = (folder: string): void => {
      for (const entry of readdirSync(join(root, folder), { withFileTypes: true })) {
        const path = `${folder}/${entry.name}`;
        if (entry.isDirectory()) visit(path);
        else if (/(?<!\.d)\.[jt]s$/.test(path)) {
          const { size, mtimeMs } = statSync(join(root, path));
          states.push(`${path} ${size} ${mtimeMs}`);
        }
      }
    };
    for (const folder of ['compiler', 'backends']) visit(folder);
    return createHash('sha256').update(states.sort().join('\n')).digest('hex');
  })();
  return version;
}

/** Where measured forms are kept unless somebody says otherwise. */
export const defaultTuning = (): string => join(cacheDirectory(), 'tuning.json');

/** Of the default file, which need not be there, or of one that must. @throws TuttiError E_IO, E_INPUT for the latter */
export function readTuning(path?: string): Tuning {
  const file = path ?? defaultTuning();
  try {
    return parseTuning(readFileSync(file, 'utf8'), file);
  } catch (error) {
    if (path === undefined) {
      if ((error as NodeJS.ErrnoException).code !== 'ENOENT') log('info', () => `${file} is of no use: ${error}`);
      return [];
    }
    throw error instanceof TuttiError ? error : ioError(path, 'cannot be read', error);
  }
}

/** Stored programs. */
export const programs = (): ProgramCache => new ProgramCache(join(cacheDirectory(), 'programs'), compilerVersion());
/** What is noted of models whose programs are stored. */
export const descriptions = (): Descriptions => new Descriptions(join(cacheDirectory(), 'models'), compilerVersion());

/** OpenSSL's SHA-256, which uses the processor's instructions for it. */
export const createHasher: CreateHasher = () => {
  const hash = createHash('sha256');
  return { update: (bytes) => void hash.update(bytes), digest: () => hash.digest('hex') };
};

export interface ExternalFile {
  /** Bytes. */
  readonly size: number;
  read(offset: number, length: number): Uint8Array;
  readInto(offset: number, into: Uint8Array): void;
}

/**
 * Opens files that a model names as places of its tensors. Only files inside the folder of the model: neither absolute
 * paths nor `..` nor symbolic links may lead out of it. Content is read when it is asked for.
 */
export function externalFiles(
  modelPath: string,
  onOpen: (stamp: FileStamp) => void = () => undefined,
): (location: string) => ExternalFile {
  const folder = realpathSync(dirname(resolve(modelPath)));
  const known = new Map<string, ExternalFile>();
  return (location) => {
    let file = known.get(location);
    if (file === undefined) known.set(location, (file = openExternal(folder, location, onOpen)));
    return file;
  };
}

function openExternal(folder: string, location: string, onOpen: (stamp: FileStamp) => void): ExternalFile {
  const refuse = (message: string, cause?: unknown): TuttiError =>
    new TuttiError('E_EXTERNAL_DATA', message, {
      subject: location,
      expected: `a file inside ${folder}`,
      remedy: 'Place the data file beside the model.',
      cause,
    });
  if (location === '' || location.includes('\0') || isAbsolute(location)) throw refuse('bad path of external data');
  let path: string;
  try {
    path = realpathSync(resolve(folder, location));
  } catch (cause) {
    throw refuse('file of external data not found', cause);
  }
  const inside = relative(folder, path);
  if (inside === '' || inside === '..' || inside.startsWith(`..${sep}`) || isAbsolute(inside)) {
    throw refuse('external data outside the folder of the model');
  }
  onOpen(stampOf(path));
  const withFile = <T>(use: (descriptor: number, size: number) => T): T => {
    let descriptor: number;
    try {
      descriptor = openSync(path, 'r');
    } catch (cause) {
      throw refuse('file of external data cannot be read', cause);
    }
    try {
      const info = fstatSync(descriptor);
      if (!info.isFile()) throw refuse('external data is not a file');
      return use(descriptor, info.size);
    } finally {
      closeSync(descriptor);
    }
  };
  const readInto = (offset: number, into: Uint8Array): void =>
    withFile((descriptor, size) => {
      const length = into.byteLength;
      if (offset < 0 || offset + length > size) {
        throw refuse(`external data [${offset}, ${offset + length}) lies outside the file of ${size} bytes`);
      }
      for (let done = 0; done < length; ) {
        const count = readSync(descriptor, into, done, Math.min(length - done, 1 << 30), offset + done);
        if (count === 0) throw refuse('file of external data ended early');
        done += count;
      }
    });
  return {
    size: withFile((_, size) => size),
    read: (offset, length) => {
      if (length < 0) throw refuse(`external data of ${length} bytes`);
      const bytes = new Uint8Array(length);
      readInto(offset, bytes);
      return bytes;
    },
    readInto,
  };
}

function ioError(path: string, message: string, cause: unknown): TuttiError {
  const code = (cause as NodeJS.ErrnoException).code;
  const reason = code === 'ENOENT' ? 'no such file' : cause instanceof Error ? cause.message : String(cause);
  return new TuttiError('E_IO', message, { subject: path, found: reason, cause });
}
