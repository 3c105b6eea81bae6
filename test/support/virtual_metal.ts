// The virtual Metal device for tests: builds it when its sources are newer, runs commands on it through its runner
// (test/virtual/metal/runner.cc lists them), and evaluates expressions of the Metal Shading Language on it.
import { spawnSync } from 'node:child_process';
import { fromHex, onPath, SourceFolder, toHex, VirtualLibrary, type Width } from './virtual_library.js';

export { fromHex, toHex, type Width };

const library = new VirtualLibrary('metal', 'libmetal.so', 'virtual_metal_runner');

/** The stand-in for Metal, as TUTTI_METAL_LIBRARY names it. */
export const virtualMetalLibrary = library.path;

const clangNames = process.env.TUTTI_CLANG
  ? [process.env.TUTTI_CLANG]
  : ['clang-16', 'clang-17', 'clang-18', 'clang-19', 'clang-15', 'clang'];
const hasClang = clangNames.some((name) => {
  if (!name.includes('/') && !onPath(name)) return false;
  const version = /clang version (\d+)/.exec(spawnSync(name, ['--version'], { encoding: 'utf8' }).stdout ?? '');
  return version !== null && Number(version[1]) >= 15;
});

/** Why the virtual device cannot be built or cannot compile kernels here, or undefined. */
export const virtualMetalMissing: string | undefined =
  VirtualLibrary.missing ??
  (hasClang ? undefined : 'no clang of version 15 or newer (apt-get install clang-16, or TUTTI_CLANG)');

/** Builds build/virtual if a source is newer than the library (a fraction of a second when nothing is). */
export const buildVirtualMetal = (): void => library.build();
export const startVirtualMetal = library.start.bind(library);
export const virtualMetal = library.run.bind(library);
export const virtualMetalOk = library.values.bind(library);

export class MetalFolder extends SourceFolder {
  constructor() {
    super('metal');
  }
}

/** A library: the standard header and the text. */
export const msl = (text: string): string => `#include <metal_stdlib>\nusing namespace metal;\n${text}`;

export interface Expression {
  /** Of a, b and c, one element of each input; must convert to `output`. */
  readonly code: string;
  readonly output: string;
  readonly outputWidth: Width;
  readonly inputs: readonly {
    readonly type: string;
    readonly width: Width;
    readonly values: readonly (number | bigint)[];
  }[];
  /** Text before the kernel. */
  readonly declare?: string;
}

/** Bits of each expression at each element of its inputs; all in one library and one process. */
export function evaluate(
  folder: SourceFolder,
  expressions: readonly Expression[],
  env: Readonly<Record<string, string>> = {},
): bigint[][] {
  const names = ['a', 'b', 'c'];
  const kernels = expressions.map(({ code, output, inputs, declare = '' }, k) => {
    const parameters = inputs.map(({ type }, i) => `device const ${type}* in${i} [[buffer(${i + 1})]]`);
    const values = inputs.map(({ type }, i) => `  ${type} ${names[i]} = in${i}[i];`);
    return [
      declare,
      `kernel void k${k}(device ${output}* out [[buffer(0)]], ${[...parameters, 'uint i [[thread_position_in_grid]]'].join(', ')}) {`,
      ...values,
      `  out[i] = ${code};`,
      '}',
    ].join('\n');
  });
  const commands = [`library L ${folder.write(msl(kernels.join('\n')))}`];
  const reads: { readonly at: number; readonly width: Width }[] = [];
  expressions.forEach(({ inputs, outputWidth }, k) => {
    const threads = inputs[0]?.values.length ?? 1;
    commands.push(`pipeline p${k} L k${k}`, `buffer o${k} ${(threads * outputWidth) / 8}`);
    inputs.forEach(({ values, width }, i) => {
      commands.push(`buffer i${k}_${i} ${(values.length * width) / 8}`, `put i${k}_${i} 0 ${toHex(values, width)}`);
    });
    commands.push(`run p${k} ${threads} 1 1 1 1 1 @o${k} ${inputs.map((_, i) => `@i${k}_${i}`).join(' ')}`);
    reads.push({ at: commands.length, width: outputWidth });
    commands.push(`get o${k} 0 ${(threads * outputWidth) / 8}`);
  });
  const answers = virtualMetalOk(commands, env);
  return reads.map(({ at, width }) => fromHex(answers[at] ?? '', width));
}
