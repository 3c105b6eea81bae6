// The virtual CUDA device for tests: builds it when its sources are newer, runs commands on it through its runner
// (test/virtual/cuda/runner.cc lists them), and wraps PTX snippets as kernels that `ptxas` must accept too.
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

const sources = join(repository, 'test', 'virtual', 'cuda');
const built = join(repository, 'build', 'virtual');

/** The stand-in for libcuda.so.1, as TUTTI_CUDA_LIBRARY names it. */
export const virtualCudaLibrary = join(built, 'libcuda.so.1');
const runner = join(built, 'virtual_cuda_runner');

const onPath = (name: string) =>
  [...(process.env.PATH ?? '').split(delimiter), '/usr/local/cuda/bin']
    .map((folder) => join(folder, name))
    .find((path) => folderHas(path));
const folderHas = (path: string) => existsSync(path) && statSync(path).isFile();

/** NVIDIA's assembler, where it is installed: what it refuses, no test may use. */
export const ptxas = onPath('ptxas');

/** Why the virtual device cannot be built here, or undefined. */
export const virtualCudaMissing =
  process.platform !== 'linux'
    ? 'Linux only'
    : !onPath('cmake') || !(onPath('c++') ?? onPath('g++'))
      ? 'no cmake or C++ compiler'
      : undefined;

/** Builds build/virtual if a source is newer than the library (a fraction of a second when nothing is). */
export function buildVirtualCuda(): void {
  const lock = join(repository, 'build', 'virtual.lock');
  mkdirSync(join(repository, 'build'), { recursive: true });
  // Test files run in processes of their own: one builds, the others wait for it.
  for (;;) {
    if (upToDate()) return;
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
    for (const path of [virtualCudaLibrary, runner]) utimesSync(path, now, now);
  } finally {
    rmSync(lock, { force: true });
  }
}

function upToDate(): boolean {
  const newest = Math.max(...readdirSync(sources).map((name) => statSync(join(sources, name)).mtimeMs));
  return [virtualCudaLibrary, runner].every((path) => existsSync(path) && statSync(path).mtimeMs > newest);
}

/** A folder of PTX files for one test run. */
export class PtxFolder {
  readonly #folder = mkdtempSync(join(tmpdir(), 'tutti-ptx-'));
  #count = 0;

  /** Writes a module; `ptxas` must accept it for its own target. Returns the file. */
  write(text: string, options: { readonly assemble?: boolean } = {}): string {
    const path = join(this.#folder, `${this.#count++}.ptx`);
    writeFileSync(path, text);
    if (ptxas !== undefined && options.assemble !== false) {
      const arch = /\.target\s+(\w+)/.exec(text)?.[1] ?? 'sm_75';
      const result = spawnSync(ptxas, [`-arch=${arch}`, path, '-o', '/dev/null'], { encoding: 'utf8' });
      if (result.status !== 0)
        throw new Error(`ptxas refuses the test's PTX:\n${result.stderr}${result.stdout}\n${text}`);
    }
    return path;
  }

  remove(): void {
    rmSync(this.#folder, { recursive: true, force: true });
  }
}

/** Runs commands in one process; one answer per command, `ok …` or `error …`. */
export function virtualCuda(commands: readonly string[], env: Readonly<Record<string, string>> = {}): string[] {
  const result = spawnSync(runner, [virtualCudaLibrary], {
    input: `${commands.join('\n')}\n`,
    encoding: 'utf8',
    env: { ...process.env, ...env },
    maxBuffer: 1 << 28,
    timeout: 100_000,
  });
  if (result.status !== 0) throw new Error(`the runner ended with ${result.status ?? result.signal}: ${result.stderr}`);
  return result.stdout.trimEnd().split('\n');
}

/** As `virtualCuda`, for commands that must all succeed; returns the values. */
export function virtualCudaOk(commands: readonly string[], env: Readonly<Record<string, string>> = {}): string[] {
  return virtualCuda(commands, env).map((answer, i) => {
    if (!answer.startsWith('ok')) throw new Error(`${commands[i]}: ${answer}`);
    return answer.slice(3);
  });
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

export interface Operands {
  readonly width: Width;
  readonly values: readonly (number | bigint)[];
}

export interface Snippet {
  /** Instructions that read %a, %b, %c (by the widths of `inputs`) and write %d (and %e). */
  readonly code: string;
  readonly inputs: readonly Operands[];
  readonly output: Width;
  readonly second?: Width;
  readonly declare?: string;
  readonly target?: string;
  readonly version?: string;
  readonly assemble?: boolean;
}

const header = (snippet: Snippet) =>
  `.version ${snippet.version ?? '8.4'}\n.target ${snippet.target ?? 'sm_90a'}\n.address_size 64\n`;

/** A module with one kernel `main(out, second, in…)`; one thread per element, in one block. */
export function snippetModule(snippet: Snippet): string {
  const names = ['a', 'b', 'c'];
  const width = (bits: Width) => (bits === 8 ? 16 : bits);
  const parameters = ['out', 'second', ...snippet.inputs.map((_, i) => `in${i}`)]
    .map((name) => `.param .u64 ${name}`)
    .join(', ');
  const lines = [
    `${header(snippet)}.visible .entry main(${parameters})`,
    '{',
    '.reg .pred %p, %q; .reg .b64 %addr, %index, %off; .reg .b32 %t; .reg .b16 %h<8>; .reg .b32 %r<16>; .reg .b64 %rd<8>; .reg .f32 %f<16>; .reg .f64 %fd<8>;',
    `.reg .b${width(snippet.output)} %d; .reg .b${width(snippet.second ?? 32)} %e;`,
    ...snippet.inputs.map((input, i) => `.reg .b${width(input.width)} %${names[i]};`),
    snippet.declare ?? '',
    'mov.u32 %t, %tid.x;',
    'cvt.u64.u32 %index, %t;',
    ...snippet.inputs.flatMap((input, i) => [
      `ld.param.u64 %addr, [in${i}];`,
      `mul.lo.u64 %off, %index, ${input.width / 8};`,
      'add.u64 %addr, %addr, %off;',
      `ld.global.${input.width === 8 ? 'u8' : `b${input.width}`} %${names[i]}, [%addr];`,
    ]),
    snippet.code,
    'ld.param.u64 %addr, [out];',
    `mul.lo.u64 %off, %index, ${snippet.output / 8};`,
    'add.u64 %addr, %addr, %off;',
    `st.global.${snippet.output === 8 ? 'u8' : `b${snippet.output}`} [%addr], %d;`,
  ];
  if (snippet.second !== undefined)
    lines.push(
      'ld.param.u64 %addr, [second];',
      `mul.lo.u64 %off, %index, ${snippet.second / 8};`,
      'add.u64 %addr, %addr, %off;',
      `st.global.b${snippet.second} [%addr], %e;`,
    );
  return `${lines.join('\n')}\nret;\n}\n`;
}

/** Runs a snippet over its inputs, an element per thread; returns the bits of the outputs. */
export function evaluate(
  folder: PtxFolder,
  snippet: Snippet,
  threads = snippet.inputs[0]?.values.length ?? 32,
): { first: bigint[]; second: bigint[] } {
  const file = folder.write(snippetModule(snippet), { assemble: snippet.assemble ?? true });
  const commands = [
    `module M ${file}`,
    `alloc out ${(threads * snippet.output) / 8}`,
    `alloc second ${(threads * (snippet.second ?? 32)) / 8}`,
  ];
  snippet.inputs.forEach((input, i) => {
    commands.push(
      `alloc in${i} ${(input.values.length * input.width) / 8}`,
      `put in${i} 0 ${toHex(input.values, input.width)}`,
    );
  });
  const buffers = ['@out', '@second', ...snippet.inputs.map((_, i) => `@in${i}`)].join(' ');
  commands.push(
    `launch M main 1 1 1 ${threads} 1 1 0 0 ${buffers}`,
    `get out 0 ${(threads * snippet.output) / 8}`,
    `get second 0 ${(threads * (snippet.second ?? 32)) / 8}`,
  );
  const answers = virtualCudaOk(commands);
  return {
    first: fromHex(answers.at(-2) ?? '', snippet.output),
    second: fromHex(answers.at(-1) ?? '', snippet.second ?? 32),
  };
}
