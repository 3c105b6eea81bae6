/**
 * The host's C compiler and the compiled kernels on disk: what of the driver needs processes and files.
 *
 * Objects are `<folder>/<sha256 of the content>.so`; for each kernel, `<key>.kernel` names the object that holds it.
 * A key covers the kernel's text, flags, compiler and processor. An object is used only if its bytes hash to its
 * name, so truncated or foreign files are misses, never crashes.
 */
import { spawn } from 'node:child_process';
import { createHash, randomBytes } from 'node:crypto';
import { mkdirSync, readFileSync, realpathSync, renameSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { mkdir, readFile, rename, rm, writeFile } from 'node:fs/promises';
import { availableParallelism } from 'node:os';
import { delimiter, dirname, join } from 'node:path';
import { TuttiError } from '../../compiler/error.js';
import type { HostCompilerWork, KernelCode } from '../backend.js';

export interface HostCompiler {
  /** Program and leading arguments (`$CC` may hold both). */
  readonly command: readonly string[];
  /** First line of `--version`. */
  readonly version: string;
}

export interface CompilerResult {
  readonly code: number | null;
  readonly output: string;
}

/**
 * IEEE arithmetic as Kernel IR has it: nothing contracted or reassociated, but no errno and no floating-point traps to
 * preserve, which vectorisation needs. Signed overflow is undefined: the renderer computes what may wrap unsigned.
 */
export function compilerFlags(features: readonly string[], architecture: string): readonly string[] {
  const arm = architecture === 'arm64' || architecture === 'aarch64';
  return [
    '-std=gnu17',
    '-O3',
    arm ? '-mcpu=native' : '-march=native',
    '-ffp-contract=off',
    '-fno-math-errno',
    '-fno-trapping-math',
    '-fno-strict-aliasing',
    '-fPIC',
    '-shared',
    '-fvisibility=hidden',
    '-w',
    // Compilers default to 256 bits for fear of lower clocks, which later processors do not have.
    ...(features.includes('avx512f') ? ['-mprefer-vector-width=512'] : []),
  ];
}

/** Tried in this order. */
function candidates(): readonly (readonly string[])[] {
  const chosen = process.env.CC?.trim();
  const list = [['cc'], ['gcc'], ['clang']];
  return chosen ? [chosen.split(/\s+/), ...list] : list;
}

/**
 * The first compiler that answers, or the reason why there is none.
 * @param cache Folder in which answers are kept: a program that is the same file as before is not asked again.
 */
export async function findCompiler(cache?: string): Promise<HostCompiler | { readonly reason: string }> {
  const tried: string[] = [];
  for (const command of candidates()) {
    const note = cache === undefined ? undefined : noteOf(command, join(cache, 'cpu'));
    const version = note === undefined ? undefined : readNote(note);
    if (version !== undefined) return { command, version };
    try {
      const { code, output } = await runCompiler(command, ['--version']);
      if (code === 0) {
        const version = output.split('\n', 1)[0].trim();
        if (note !== undefined) writeNote(note, version);
        return { command, version };
      }
      tried.push(`${command.join(' ')} (exit code ${code})`);
    } catch (error) {
      tried.push(`${command.join(' ')} (${(error as NodeJS.ErrnoException).code ?? String(error)})`);
    }
  }
  return {
    reason: `no C compiler found, tried ${tried.join(', ')}: install gcc or clang (Debian: apt install gcc; macOS: xcode-select --install) or set CC`,
  };
}

interface Note {
  readonly path: string;
  /** What the answer holds for. */
  readonly state: string;
}

/** Undefined where the program cannot be found: then it is asked. */
function noteOf(command: readonly string[], folder: string): Note | undefined {
  const places = /[/\\]/.test(command[0])
    ? [command[0]]
    : (process.env.PATH ?? '').split(delimiter).map((place) => join(place, command[0]));
  for (const place of places) {
    try {
      const path = realpathSync(place);
      const { dev, ino, size, mtimeMs, ctimeMs } = statSync(path);
      const state = [...command, path, dev, ino, size, mtimeMs, ctimeMs].join(' ');
      return { path: join(folder, `${sha256(command.join(' '))}.compiler`), state };
    } catch {
      // Not here: perhaps in the next folder.
    }
  }
  return undefined;
}

function readNote({ path, state }: Note): string | undefined {
  try {
    const [known, version] = readFileSync(path, 'utf8').split('\n');
    return known === state && version ? version : undefined;
  } catch {
    return undefined;
  }
}

function writeNote({ path, state }: Note, version: string): void {
  const temporary = `${path}.${process.pid}.${randomBytes(6).toString('hex')}`;
  try {
    mkdirSync(dirname(path), { recursive: true });
    writeFileSync(temporary, `${state}\n${version}\n`);
    renameSync(temporary, path);
  } catch {
    // Asked again next time.
    rmSync(temporary, { force: true });
  }
}

/** Runs the compiler with `input` on stdin. Rejects only if it cannot be started. */
export function runCompiler(command: readonly string[], args: readonly string[], input = ''): Promise<CompilerResult> {
  return new Promise((resolve, reject) => {
    const child = spawn(command[0], [...command.slice(1), ...args], { stdio: ['pipe', 'pipe', 'pipe'] });
    let output = '';
    const collect = (chunk: string) => {
      output += chunk;
    };
    child.stdout.setEncoding('utf8').on('data', collect);
    child.stderr.setEncoding('utf8').on('data', collect);
    child.once('error', reject);
    child.once('close', (code) => resolve({ code, output }));
    child.stdin.on('error', () => undefined); // it ended before it read everything: its exit code tells
    child.stdin.end(input);
  });
}

/** Where a kernel's function is. */
export interface CompiledKernel {
  readonly path: string;
  readonly entry: string;
}

/** Texts up to this are compiled together: each object costs a start of the compiler now, and a file to load later. */
const BATCH_CHARACTERS = 100_000;

const sha256 = (data: string | Uint8Array): string => createHash('sha256').update(data).digest('hex');

export class KernelLibrary {
  readonly #verified = new Set<string>();
  #work: HostCompilerWork = { kernels: 0, milliseconds: 0 };

  constructor(
    readonly folder: string,
    readonly compiler: HostCompiler,
    readonly flags: readonly string[],
    /** Model and features: `-march=native` means something else elsewhere. */
    readonly processor: string,
  ) {}

  /** Places of the kernels in the same order; compiles those that are not there yet. */
  async load(codes: readonly KernelCode[]): Promise<readonly CompiledKernel[]> {
    const unique = [...new Map(codes.map((code) => [code.entry, code])).values()];
    const objects = new Map<string, string>();
    await mkdir(this.folder, { recursive: true });
    for (const code of unique) {
      const object = this.#find(code);
      if (object !== undefined) objects.set(code.entry, object);
    }
    const missing = unique.filter((code) => !objects.has(code.entry));
    for (const [entry, object] of await this.#compileAll(missing)) objects.set(entry, object);
    return codes.map(({ entry }) => ({ entry, path: this.#path(objects.get(entry) as string) }));
  }

  /** What was compiled so far. */
  get work(): HostCompilerWork {
    return this.#work;
  }

  #path(object: string): string {
    return join(this.folder, `${object}.so`);
  }

  #key(code: KernelCode): string {
    return sha256(
      [code.text, this.flags.join(' '), this.compiler.command.join(' '), this.compiler.version, this.processor].join(
        '\0',
      ),
    );
  }

  /** Small files, many of them: read in place, a promise for each would cost more. */
  #find(code: KernelCode): string | undefined {
    try {
      const object = readFileSync(join(this.folder, `${this.#key(code)}.kernel`), 'utf8').trim();
      if (!/^[0-9a-f]{64}$/.test(object)) return undefined;
      if (!this.#verified.has(object)) {
        if (sha256(readFileSync(this.#path(object))) !== object) return undefined;
        this.#verified.add(object);
      }
      return object;
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code === 'ENOENT') return undefined;
      throw new TuttiError('E_IO', `the kernel cache cannot be read: ${(error as Error).message}`, {
        subject: this.folder,
        remedy: 'Check the folder’s permissions, or choose another with TUTTI_CACHE.',
        cause: error,
      });
    }
  }

  async #compileAll(codes: readonly KernelCode[]): Promise<ReadonlyMap<string, string>> {
    const objects = new Map<string, string>();
    const batches = makeBatches(codes);
    let failure: unknown;
    const worker = async () => {
      for (let batch = batches.shift(); batch !== undefined && failure === undefined; batch = batches.shift()) {
        try {
          const object = await this.#compile(batch);
          for (const code of batch) objects.set(code.entry, object);
        } catch (error) {
          failure ??= error;
        }
      }
    };
    const start = performance.now();
    await Promise.all(Array.from({ length: Math.min(availableParallelism(), batches.length) }, worker));
    const { kernels, milliseconds } = this.#work;
    this.#work = {
      kernels: kernels + codes.length,
      milliseconds: milliseconds + (codes.length === 0 ? 0 : performance.now() - start),
    };
    if (failure !== undefined) throw failure;
    return objects;
  }

  /** Compiles kernels into one object and files it. Nothing half-written stays under a name that is looked up. */
  async #compile(batch: readonly KernelCode[]): Promise<string> {
    const temporary = join(this.folder, `tmp-${process.pid}-${randomBytes(6).toString('hex')}`);
    const source = batch.map((code) => code.text).join('\n');
    try {
      const { code, output } = await runCompiler(
        this.compiler.command,
        [...this.flags, '-x', 'c', '-', '-o', temporary, '-lm'],
        source,
      );
      if (code !== 0) {
        if (batch.length === 1) throw this.#refused(batch[0], code, output);
        // Which one was it? Alone, it says so itself.
        for (const single of batch) await this.#compile([single]);
        throw this.#refused(batch[0], code, output);
      }
      const object = sha256(await readFile(temporary));
      await rename(temporary, this.#path(object));
      for (const kernel of batch) {
        const note = `${temporary}-note`;
        await writeFile(note, `${object}\n`);
        await rename(note, join(this.folder, `${this.#key(kernel)}.kernel`));
      }
      this.#verified.add(object);
      return object;
    } finally {
      await rm(temporary, { force: true });
    }
  }

  #refused(code: KernelCode, exit: number | null, output: string): TuttiError {
    const words = output.trim().slice(0, 4000) || `exit code ${exit}`;
    return new TuttiError('E_KERNEL', `${this.compiler.command.join(' ')} refused the kernel: ${words}`, {
      subject: code.name,
    });
  }
}

/** Largest first into the emptiest of enough batches, so that parallel compilers end together. */
function makeBatches(codes: readonly KernelCode[]): KernelCode[][] {
  const length = (code: KernelCode) => code.text?.length ?? 0;
  const total = codes.reduce((sum, code) => sum + length(code), 0);
  const parallel = availableParallelism();
  // Several for each core, so that they end together.
  const count = Math.min(codes.length, Math.max(2 * parallel, Math.ceil(total / BATCH_CHARACTERS)));
  const batches = Array.from({ length: count }, () => ({ load: 0, codes: [] as KernelCode[] }));
  for (const code of [...codes].sort((a, b) => length(b) - length(a))) {
    const emptiest = batches.reduce((best, batch) => (batch.load < best.load ? batch : best));
    emptiest.codes.push(code);
    emptiest.load += length(code);
  }
  return batches.sort((a, b) => b.load - a.load).map((batch) => batch.codes);
}
