// The virtual CUDA device for tests: builds it when its sources are newer, runs commands on it through its runner
// (test/virtual/cuda/runner.cc lists them), and wraps PTX snippets as kernels that `ptxas` must accept too.
import { spawnSync } from 'node:child_process';
import { fromHex, onPath, SourceFolder, toHex, VirtualLibrary, type Width } from './virtual_library.js';

export { fromHex, toHex, type Width };

const library = new VirtualLibrary('cuda', 'libcuda.so.1', 'virtual_cuda_runner');

/** The stand-in for libcuda.so.1, as TUTTI_CUDA_LIBRARY names it. */
export const virtualCudaLibrary = library.path;

/** NVIDIA's assembler, where it is installed: what it refuses, no test may use. */
export const ptxas = onPath('ptxas', '/usr/local/cuda/bin');

/** Why the virtual device cannot be built here, or undefined. */
export const virtualCudaMissing = VirtualLibrary.missing;

/** Builds build/virtual if a source is newer than the library (a fraction of a second when nothing is). */
export const buildVirtualCuda = (): void => library.build();

/** A folder of PTX files for one test run. */
export class PtxFolder {
  readonly #files = new SourceFolder('ptx');

  /** Writes a module; `ptxas` must accept it for its own target. Returns the file. */
  write(text: string, options: { readonly assemble?: boolean } = {}): string {
    const path = this.#files.write(text);
    if (ptxas !== undefined && options.assemble !== false) {
      const arch = /\.target\s+(\w+)/.exec(text)?.[1] ?? 'sm_75';
      const result = spawnSync(ptxas, [`-arch=${arch}`, path, '-o', '/dev/null'], { encoding: 'utf8' });
      if (result.status !== 0)
        throw new Error(`ptxas refuses the test's PTX:\n${result.stderr}${result.stdout}\n${text}`);
    }
    return path;
  }

  remove(): void {
    this.#files.remove();
  }
}

/** Runs commands in one process; one answer per command, `ok …` or `error …`. */
export const virtualCuda = (commands: readonly string[], env: Readonly<Record<string, string>> = {}): string[] =>
  library.run(commands, env);

/** As `virtualCuda`, for commands that must all succeed; returns the values. */
export const virtualCudaOk = (commands: readonly string[], env: Readonly<Record<string, string>> = {}): string[] =>
  library.values(commands, env);

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
