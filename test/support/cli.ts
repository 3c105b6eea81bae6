/** Runs the built command as a user would, on small models made here. */
import { spawn } from 'node:child_process';
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import { ModelBuilder } from '../../compiler/builder/index.js';
import { encode, exportOnnx, protoOf } from '../../compiler/frontends/onnx/index.js';
import type { Graph } from '../../compiler/graph/types.js';
import type { HostTensor } from '../../compiler/tensor.js';
import { repository } from './data.js';

export interface CliResult {
  readonly code: number;
  readonly stdout: string;
  readonly stderr: string;
}

/** The build that `npm test` has made; TUTTI_TEST_DIST names another one. */
export const command = resolve(repository, process.env.TUTTI_TEST_DIST || 'dist', 'cli', 'main.js');

/** `tutti …` in a process of its own. */
export function tutti(args: readonly string[], environment: Readonly<Record<string, string>> = {}): Promise<CliResult> {
  return new Promise((resolve, reject) => {
    const child = spawn(process.execPath, [command, ...args], {
      env: { ...process.env, ...environment },
      stdio: ['ignore', 'pipe', 'pipe'],
    });
    let [stdout, stderr] = ['', ''];
    child.stdout.on('data', (chunk) => void (stdout += chunk));
    child.stderr.on('data', (chunk) => void (stderr += chunk));
    child.on('error', reject);
    child.on('close', (code) => resolve({ code: code ?? -1, stdout, stderr }));
  });
}

/** The one document on stdout; anything else there fails the test. */
export async function tuttiJson<T>(args: readonly string[], code = 0): Promise<T> {
  const result = await tutti(args);
  if (result.code !== code) throw new Error(`exit code ${result.code}: ${result.stderr}${result.stdout}`);
  return JSON.parse(result.stdout) as T;
}

/** A folder that is gone when the tests of the file are over. */
export function scratch(): { readonly path: (...names: string[]) => string; readonly remove: () => void } {
  const folder = mkdtempSync(join(tmpdir(), 'tutti-cli-'));
  return {
    path: (...names) => join(folder, ...names),
    remove: () => rmSync(folder, { recursive: true, force: true }),
  };
}

/** y = relu(x·w + b) for x [batch, 3]. */
export function denseGraph(): Graph {
  const g = new ModelBuilder('dense');
  const x = g.input('x', 'f32', ['batch', 3]);
  const weights = g.constant([1, 0, -1, 2, 1, 0.5], [3, 2]);
  g.output('y', g.relu(g.add(g.matmul(x, weights), g.constant([0.5, -1]))));
  return g.build();
}

/** What it gives for one row. */
export const denseReference = ([a, b, c]: readonly number[]): number[] => [
  Math.max(0, a - b + c + 0.5),
  Math.max(0, 2 * b + 0.5 * c - 1),
];

/** Turns a picture [1, 3, h, w] around: negative = 1 - image. */
export function negativeGraph(): Graph {
  const g = new ModelBuilder('negative');
  g.output('negative', g.sub(1, g.input('image', 'f32', [1, 3, 'h', 'w'])));
  return g.build();
}

/** A model of one operator that ONNX does not have. */
export function unknownOperator(op = 'NoSuchOperator'): Uint8Array {
  const type = { tensorType: { elemType: 1, shape: { dim: [{ dimValue: 2n }] } } };
  return encode('ModelProto', {
    irVersion: 8n,
    opsetImport: [{ domain: '', version: 17n }],
    graph: {
      name: 'unknown',
      node: [{ name: 'node_7', opType: op, input: ['x'], output: ['y'] }],
      input: [{ name: 'x', type }],
      output: [{ name: 'y', type }],
    },
  });
}

/** A model whose weight is in a file beside it. */
export function externalWeight(location: string): Uint8Array {
  const type = { tensorType: { elemType: 1, shape: { dim: [{ dimValue: 2n }] } } };
  return encode('ModelProto', {
    irVersion: 8n,
    opsetImport: [{ domain: '', version: 17n }],
    graph: {
      name: 'external',
      node: [{ name: 'sum', opType: 'Add', input: ['x', 'w'], output: ['y'] }],
      initializer: [
        { name: 'w', dims: [2n], dataType: 1, dataLocation: 1, externalData: [{ key: 'location', value: location }] },
      ],
      input: [{ name: 'x', type }],
      output: [{ name: 'y', type }],
    },
  });
}

/** Writes a case of ONNX's backend tests. */
export function writeCase(
  folder: string,
  model: Graph | Uint8Array,
  sets: readonly { inputs: readonly HostTensor[]; outputs: readonly HostTensor[] }[],
): void {
  mkdirSync(folder, { recursive: true });
  writeFileSync(join(folder, 'model.onnx'), model instanceof Uint8Array ? model : exportOnnx(model));
  for (const [n, { inputs, outputs }] of sets.entries()) {
    const set = join(folder, `test_data_set_${n}`);
    mkdirSync(set, { recursive: true });
    const write = (kind: string, tensors: readonly HostTensor[]): void => {
      for (const [k, tensor] of tensors.entries()) {
        writeFileSync(join(set, `${kind}_${k}.pb`), encode('TensorProto', protoOf(tensor)));
      }
    };
    write('input', inputs);
    write('output', outputs);
  }
}
