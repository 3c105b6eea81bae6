/**
 * Kernels as text: what the compiler makes of key ops for fixed targets, in bench/golden. A change of the compiler that
 * is not meant to change them shows; `npm run bench -- guards --update` takes what is so now.
 */
import { existsSync, mkdirSync, readdirSync, readFileSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { findTarget } from '../cli/compile.js';
import { writeOutput } from '../cli/files.js';
import { plan } from '../compiler/compile.js';
import type { Graph } from '../compiler/graph/types.js';
import { print } from '../compiler/kernel/print.js';
import { graphOf } from './cases/types.js';
import { normal } from './random.js';
import { root } from './record.js';

const folder = join(root, 'bench', 'golden');

const targets = ['cpu:x86-64-v3', 'webgpu:wgsl', 'cuda:sm_90a'] as const;

const channels = 32;
/** Small, ragged where raggedness makes code. */
const cases: Readonly<Record<string, () => Graph>> = {
  'matrix-product': () =>
    graphOf('gemm', (g) => g.matmul(g.input('a', 'f32', [65, 67]), g.input('b', 'f32', [67, 66]))),
  'half-product': () =>
    graphOf('gemm', (g) => g.matmul(g.input('a', 'bf16', [128, 64]), g.input('b', 'bf16', [64, 128]))),
  convolutions: () =>
    graphOf('conv', (g) => {
      const weights = (outputs: number, each: number) =>
        g.constant(normal(outputs * each * 9, 7), [outputs, each, 3, 3]);
      const first = g.relu(
        g.conv(g.input('x', 'f32', [1, 3, 15, 15]), weights(channels, 3), { strides: 2, padding: 1 }),
      );
      const deep = g.relu(g.conv(first, weights(channels, 1), { padding: 1, groups: channels }));
      return g.conv(deep, weights(channels, channels), { padding: 1 });
    }),
  softmax: () => graphOf('softmax', (g) => g.softmax(g.input('x', 'f32', [33, 100]))),
  'layer-norm': () => graphOf('layernorm', (g) => g.layerNorm(g.input('x', 'f32', [33, 100]))),
  transpose: () => graphOf('transpose', (g) => g.transpose(g.input('x', 'f32', [33, 100]), [1, 0])),
};

/** The file of a case and a target. */
const fileOf = (name: string, target: string): string => join(folder, `${name}.${target.replace(':', '-')}.txt`);

async function textOf(graph: Graph, targetName: string): Promise<string> {
  const { target } = await findTarget(targetName);
  return plan(graph, target)
    .kernels.map((kernel) => print(kernel))
    .join('\n');
}

/** Every file as it would be now. */
async function* golden(): AsyncGenerator<{ readonly path: string; readonly text: string }> {
  for (const [name, graph] of Object.entries(cases)) {
    for (const target of targets) yield { path: fileOf(name, target), text: await textOf(graph(), target) };
  }
}

/** Files whose kernels are no longer those, in words. */
export async function goldenFaults(): Promise<string[]> {
  const faults: string[] = [];
  for await (const { path, text } of golden()) {
    if (!existsSync(path)) faults.push(`${path} is missing`);
    else if (readFileSync(path, 'utf8') !== text) faults.push(`${path}: the kernels are others now`);
  }
  return faults;
}

/** @returns what has been written, in words */
export async function writeGolden(): Promise<string[]> {
  mkdirSync(folder, { recursive: true });
  const known = new Set<string>();
  const lines: string[] = [];
  for await (const { path, text } of golden()) {
    known.add(path);
    if (existsSync(path) && readFileSync(path, 'utf8') === text) continue;
    writeOutput(path, text);
    lines.push(`${path} is written`);
  }
  for (const name of readdirSync(folder)) if (!known.has(join(folder, name))) rmSync(join(folder, name));
  return lines;
}
