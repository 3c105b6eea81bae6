/** Latency of real models beside onnxruntime, each in a process of its own. */
import { execFile } from 'node:child_process';
import { existsSync, readdirSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import type { BenchResult } from '../cli/bench.js';
import { formatMs, table } from '../cli/output.js';

const command = fileURLToPath(new URL('../cli/main.js', import.meta.url));

export interface ModelsOptions {
  /** Folder that holds a folder for each model. */
  readonly root: string;
  /** Default: all. */
  readonly names: readonly string[];
  readonly device: string;
  readonly peer: string | undefined;
  /** More flags for `tutti bench`. */
  readonly flags: readonly string[];
  readonly onRow: (row: ModelRow) => void;
}

export type ModelRow = ({ readonly name: string } & BenchResult) | { readonly name: string; readonly error: string };

export const modelNames = (root: string): string[] =>
  existsSync(root)
    ? readdirSync(root)
        .filter((name) => existsSync(join(root, name, 'model.onnx')))
        .sort()
    : [];

export async function benchModels({ root, names, device, peer, flags, onRow }: ModelsOptions): Promise<ModelRow[]> {
  const rows: ModelRow[] = [];
  for (const name of names.length > 0 ? names : modelNames(root)) {
    const args = ['bench', join(root, name), '--device', device, '--json', ...flags];
    const row = await one(name, peer === undefined ? args : [...args, '--peer', peer]);
    rows.push(row);
    onRow(row);
  }
  return rows;
}

const one = (name: string, args: readonly string[]): Promise<ModelRow> =>
  new Promise((resolve) => {
    const options = { maxBuffer: 2 ** 26, timeout: 600_000 };
    execFile(process.execPath, [command, ...args], options, (error, stdout, stderr) => {
      if (error) resolve({ name, error: stderr.trim().split('\n')[0] || error.message });
      else resolve({ ...(JSON.parse(stdout) as BenchResult), name, model: name });
    });
  });

export function modelsTable(rows: readonly ModelRow[]): string {
  return table(
    ['MODEL', 'OURS', 'PEER', 'RATIO', 'ROOF %', 'KERNELS', 'COMPILE'],
    rows.map((row) => {
      if ('error' in row) return [row.name, row.error.slice(0, 90)];
      const { ours, peer, ratio, roof, dispatches, compileMs } = row;
      const ratioText = ratio === undefined ? '' : ratio.toFixed(3);
      return [
        row.name,
        formatMs(ours.medianMs),
        peer === undefined ? '' : formatMs(peer.medianMs),
        ratioText,
        roof.percent.toFixed(1),
        String(dispatches),
        formatMs(compileMs),
      ];
    }),
    ['left', 'right', 'right', 'right', 'right', 'right', 'right'],
  );
}
