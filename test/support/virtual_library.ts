// A virtual device of test/virtual: builds its library when its sources are newer, and runs commands on it through its
// runner, a program that reads a command a line and answers each with a line (`ok …` or `error …`).
import { execFileSync, spawnSync } from 'node:child_process';
import {
  closeSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  openSync,
  readdirSync,
  rmSync,
  statSync,
  utimesSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { delimiter, join } from 'node:path';
import { repository } from './data.js';

const built = join(repository, 'build', 'virtual');
const isFile = (path: string) => existsSync(path) && statSync(path).isFile();

/** The first program of that name on PATH or in the folders. */
export const onPath = (name: string, ...folders: readonly string[]): string | undefined =>
  [...(process.env.PATH ?? '').split(delimiter), ...folders].map((folder) => join(folder, name)).find(isFile);

export class VirtualLibrary {
  readonly path: string;
  readonly #sources: string;
  readonly #runner: string;

  /** `folder` of test/virtual, and the names of what is built from it. */
  constructor(folder: string, library: string, runner: string) {
    this.#sources = join(repository, 'test', 'virtual', folder);
    this.path = join(built, library);
    this.#runner = join(built, runner);
  }

  /** Why no virtual device can be built here, or undefined. */
  static readonly missing: string | undefined =
    process.platform !== 'linux'
      ? 'Linux only'
      : !onPath('cmake') || !(onPath('c++') ?? onPath('g++'))
        ? 'no cmake or C++ compiler'
        : undefined;

  /** Builds build/virtual if a source is newer than the library (a fraction of a second when nothing is). */
  build(): void {
    const lock = join(repository, 'build', 'virtual.lock');
    mkdirSync(join(repository, 'build'), { recursive: true });
    // Test files run in processes of their own: one builds, the others wait for it.
    for (;;) {
      if (this.#upToDate()) return;
      try {
        closeSync(openSync(lock, 'wx'));
        break;
      } catch {
        const age = existsSync(lock) ? Date.now() - statSync(lock).mtimeMs : 0;
        if (age > 900_000) rmSync(lock, { force: true });
        else Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, 200);
      }
    }
    try {
      execFileSync('npm', ['run', '-s', 'build:virtual'], {
        cwd: repository,
        stdio: ['ignore', 'ignore', 'pipe'],
        maxBuffer: 1 << 26,
      });
      const now = new Date();
      for (const path of [this.path, this.#runner]) utimesSync(path, now, now);
    } finally {
      rmSync(lock, { force: true });
    }
  }

  #upToDate(): boolean {
    const newest = Math.max(...readdirSync(this.#sources).map((name) => statSync(join(this.#sources, name)).mtimeMs));
    return [this.path, this.#runner].every((path) => existsSync(path) && statSync(path).mtimeMs > newest);
  }

  /** Runs commands in one process: its answers, what it wrote to stderr, and how it ended. */
  start(commands: readonly string[], env: Readonly<Record<string, string>> = {}) {
    const result = spawnSync(this.#runner, [this.path], {
      input: `${commands.join('\n')}\n`,
      encoding: 'utf8',
      env: { ...process.env, ...env },
      maxBuffer: 1 << 28,
      timeout: 100_000,
    });
    const answers = result.stdout.trimEnd();
    return {
      answers: answers === '' ? [] : answers.split('\n'),
      stderr: result.stderr,
      ended: result.status ?? result.signal,
    };
  }

  /** As `start`, for commands that do not end the process. */
  run(commands: readonly string[], env: Readonly<Record<string, string>> = {}): string[] {
    const { answers, stderr, ended } = this.start(commands, env);
    if (ended !== 0) throw new Error(`the runner ended with ${ended}: ${stderr}`);
    return answers;
  }

  /** As `run`, for commands that must all succeed; returns the values. */
  values(commands: readonly string[], env: Readonly<Record<string, string>> = {}): string[] {
    return this.run(commands, env).map((answer, i) => {
      if (!answer.startsWith('ok')) throw new Error(`${commands[i]}: ${answer}`);
      return answer.slice(3);
    });
  }
}

/** A folder of source files for one test run. */
export class SourceFolder {
  readonly #folder = mkdtempSync(join(tmpdir(), 'tutti-virtual-'));
  readonly #extension: string;
  #count = 0;

  constructor(extension: string) {
    this.#extension = extension;
  }
  /** Where a file of that name is. */
  path(name: string): string {
    return join(this.#folder, name);
  }
  write(text: string): string {
    const path = this.path(`${this.#count++}.${this.#extension}`);
    writeFileSync(path, text);
    return path;
  }
  remove(): void {
    rmSync(this.#folder, { recursive: true, force: true });
  }
}

export type Width = 8 | 16 | 32 | 64;

/** Little-endian hex of values of a width. */
export function toHex(values: readonly (number | bigint)[], width: Width): string {
  return values
    .map((value) => {
      let bits = BigInt.asUintN(width, BigInt(value));
      let text = '';
      for (let i = 0; i < width; i += 8, bits >>= 8n) text += (bits & 255n).toString(16).padStart(2, '0');
      return text;
    })
    .join('');
}

export function fromHex(text: string, width: Width): bigint[] {
  const values: bigint[] = [];
  const digits = width / 4;
  for (let at = 0; at < text.length; at += digits) {
    let value = 0n;
    for (let i = digits - 2; i >= 0; i -= 2)
      value = (value << 8n) | BigInt(Number.parseInt(text.slice(at + i, at + i + 2), 16));
    values.push(value);
  }
  return values;
}
