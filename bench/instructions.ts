/**
 * Instructions that key CPU kernels execute, by callgrind: the same on every run, so that a lost vectorisation or a
 * division in an inner loop shows without a clock. valgrind knows AVX2 and not AVX-512, so kernels are made for
 * x86-64-v3; they run as plain C, all workgroups in one thread.
 */
import { execFileSync } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { cpuBackend } from '../backends/cpu/index.js';
import { compilerFlags } from '../backends/cpu/node.js';
import { plan } from '../compiler/compile.js';
import type { Graph } from '../compiler/graph/types.js';
import { flatSteps, type Location, type Plan } from '../compiler/plan.js';
import { bytesOfTensor } from '../compiler/tensor.js';
import { graphOf } from './cases/types.js';
import { normal } from './random.js';

export interface InstructionCase {
  readonly name: string;
  /** Multiply-adds or elements. */
  readonly units: number;
  graph(): Graph;
}

const product = (m: number, n: number, k: number): InstructionCase => ({
  name: `gemm ${m}×${n}×${k}, a multiply-add`,
  units: m * n * k,
  graph: () => graphOf('gemm', (g) => g.matmul(g.input('a', 'f32', [m, k]), g.input('b', 'f32', [k, n]))),
});

/** Of one head of 64. */
const attention = (queries: number, keys: number): InstructionCase => ({
  name: `attention ${queries}×${keys}×64, a multiply-add`,
  units: 2 * queries * keys * 64,
  graph: () =>
    graphOf('attention', (g) => {
      const rows = (name: string, count: number) => g.input(name, 'f32', [1, count, 64]);
      return g.attention(rows('q', queries), rows('k', keys), rows('v', keys));
    }),
});

const rows = 64;
const columns = 1024;
const input = (name: string, build: Parameters<typeof graphOf>[1]): InstructionCase => ({
  name: `${name} ${rows}×${columns}, an element`,
  units: rows * columns,
  graph: () => graphOf(name, build),
});

export const instructionCases: readonly InstructionCase[] = [
  product(192, 192, 192),
  product(65, 67, 129),
  product(1, 1024, 512),
  attention(128, 128),
  attention(1, 1024),
  input('gelu', (g) => g.gelu(g.input('x', 'f32', [rows, columns]))),
  input('softmax', (g) => g.softmax(g.input('x', 'f32', [rows, columns]))),
  input('layernorm', (g) => g.layerNorm(g.input('x', 'f32', [rows, columns]))),
  input('sum', (g) => g.sum(g.input('x', 'f32', [rows, columns]), { axes: 1 })),
  input('transpose', (g) => g.transpose(g.input('x', 'f32', [rows, columns]), [1, 0])),
  {
    name: 'conv 3×3 of 32 channels at 28, a multiply-add',
    units: 28 * 28 * 32 * 32 * 9,
    graph: () =>
      graphOf('conv', (g) => {
        const weights = g.constant(normal(32 * 32 * 9, 7), [32, 32, 3, 3]);
        return g.relu(g.conv(g.input('x', 'f32', [1, 32, 28, 28]), weights, { padding: 1 }));
      }),
  },
  {
    name: 'depthwise 3×3 of 64 channels at 28, a multiply-add',
    units: 28 * 28 * 64 * 9,
    graph: () =>
      graphOf('conv', (g) => {
        const weights = g.constant(normal(64 * 9, 7), [64, 1, 3, 3]);
        return g.relu(g.conv(g.input('x', 'f32', [1, 64, 28, 28]), weights, { padding: 1, groups: 64 }));
      }),
  },
];

/** Why instructions cannot be counted here, if so. */
export function missingTools(): string | undefined {
  if (process.arch !== 'x64') return 'kernels for x86-64 do not run here';
  for (const tool of ['cc', 'valgrind']) {
    try {
      execFileSync(tool, ['--version'], { stdio: 'ignore' });
    } catch {
      return `${tool} is not installed`;
    }
  }
  return undefined;
}

/** Instructions of all kernels of the case, for each unit of its work. @throws where compiling or running fails */
export async function countInstructions({ graph, units }: InstructionCase): Promise<number> {
  const target = cpuBackend.target('x86-64-v3');
  if (target === undefined) throw new Error('the cpu backend knows no x86-64-v3');
  const planned = plan(graph(), target);
  const folder = mkdtempSync(join(tmpdir(), 'tutti-instructions-'));
  try {
    const [source, program, data] = ['kernels.c', 'kernels', 'pools.bin'].map((name) => join(folder, name));
    writeFileSync(source, programOf(planned));
    writeFileSync(data, contentOf(planned));
    const flags = compilerFlags([], process.arch).filter((flag) => !['-fPIC', '-shared'].includes(flag));
    const portable = flags.map((flag) => (flag === '-march=native' ? '-march=x86-64-v3' : flag));
    execFileSync('cc', [...portable, source, '-o', program, '-lm'], { stdio: ['ignore', 'ignore', 'pipe'] });
    const options = ['--tool=callgrind', '--toggle-collect=measured', `--callgrind-out-file=${join(folder, 'out')}`];
    // The count is in what valgrind says at the end, on stderr.
    const log = join(folder, 'log');
    execFileSync('valgrind', [...options, `--log-file=${log}`, program, data], { stdio: 'ignore' });
    const text = readFileSync(log, 'utf8');
    const count = /Collected\s*:\s*(\d+)/.exec(text)?.[1];
    if (count === undefined) throw new Error(`callgrind counted nothing: ${text.slice(-500)}`);
    return Number(count) / units;
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
}

const round = (bytes: number): number => Math.ceil(Math.max(bytes, 64) / 64) * 64;

/** The pools one after another: constants as they are, all else small normal numbers. */
function contentOf({ pools, constants }: Plan): Uint8Array {
  const offsets = pools.map((_, i) => pools.slice(0, i).reduce((sum, pool) => sum + round(pool.bytes), 0));
  const total = pools.reduce((sum, pool) => sum + round(pool.bytes), 0);
  const bytes = new Uint8Array(normal(total / 4, 11).buffer, 0, total).slice();
  for (const { data, location } of constants) {
    bytes.set(bytesOfTensor(data.load()), offsets[location.pool] + location.offset);
  }
  return bytes;
}

/** One C program: the kernels, and `measured`, which runs the plan's steps. */
function programOf(planned: Plan): string {
  const codes = planned.kernels.map((kernel) => cpuBackend.render(kernel, planned.target));
  const scratch = Math.max(64, ...codes.map((code) => code.sharedBytes));
  const place = ({ pool, offset }: Location): string => `pools[${pool}] + ${offset}`;
  const steps = [...flatSteps(planned.steps)].flatMap(({ step }): string[] => {
    switch (step.kind) {
      case 'barrier':
        return [];
      case 'copy':
        return [`  memmove(${place(step.to)}, ${place(step.from)}, ${step.to.bytes});`];
      case 'fill':
        return [`  memset(${place(step.to)}, ${step.byte}, ${step.to.bytes});`];
      case 'dispatch': {
        const grid = planned.kernels[step.kernel].grid;
        const groups = grid.reduce((all, size) => all * size, 1);
        const buffers = `void *buffers[] = {${step.bindings.map(place).join(', ')}}`;
        const sizes = `const uint32_t grid[] = {${grid.join(', ')}}`;
        return [`  { ${buffers}; ${sizes}; ${codes[step.kernel].entry}(buffers, 0, scratch, grid, 0, ${groups}); }`];
      }
      default:
        return step satisfies never;
    }
  });
  return [
    '#include <stdint.h>',
    '#include <stdio.h>',
    '#include <stdlib.h>',
    '#include <string.h>',
    ...codes.map(({ text }) => text ?? ''),
    `static char *pools[${planned.pools.length}];`,
    'static unsigned char *scratch;',
    '__attribute__((noinline)) void measured(void) {',
    ...steps,
    '}',
    'int main(int count, char **words) {',
    '  FILE *file = fopen(words[count - 1], "rb");',
    '  if (file == NULL) return 2;',
    `  const size_t sizes[] = {${planned.pools.map(({ bytes }) => round(bytes)).join(', ')}};`,
    `  for (int i = 0; i < ${planned.pools.length}; i++) {`,
    '    pools[i] = aligned_alloc(64, sizes[i]);',
    '    if (fread(pools[i], 1, sizes[i], file) != sizes[i]) return 3;',
    '  }',
    `  scratch = aligned_alloc(64, ${round(scratch)});`,
    '  measured();',
    '  return 0;',
    '}',
    '',
  ].join('\n');
}
