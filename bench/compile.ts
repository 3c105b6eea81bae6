/** How long the compiler takes from a model's bytes to rendered kernels, and what comes out. */
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { findTarget } from '../cli/compile.js';
import { formatBytes, formatMs, table } from '../cli/output.js';
import { median } from '../cli/statistics.js';
import { plan } from '../compiler/compile.js';
import { importOnnx } from '../compiler/frontends/onnx/index.js';

export interface CompileRow {
  readonly name: string;
  readonly target: string;
  /** Medians of five in a warm process, in milliseconds. */
  readonly importMs: number;
  readonly planMs: number;
  readonly renderMs: number;
  readonly totalMs: number;
  readonly msPerKernel: number;
  readonly nodes: number;
  readonly groups: number;
  readonly kernels: number;
  readonly dispatches: number;
  readonly arenaBytes: number;
  readonly largestLiveBytes: number;
  /** Arena ÷ largest live: 1 is the least there can be. */
  readonly arenaRatio: number;
}

const repetitions = 5;

export async function benchCompile(root: string, name: string, targetName: string): Promise<CompileRow> {
  const { backend, target } = await findTarget(targetName);
  const bytes = readFileSync(join(root, name, 'model.onnx'));
  const samples: { importMs: number; planMs: number; renderMs: number }[] = [];
  let report: ReturnType<typeof plan>['report'] | undefined;
  for (let i = 0; i < repetitions + 2; i++) {
    const start = performance.now();
    const graph = importOnnx(bytes);
    const imported = performance.now();
    // Dims without a size are 1.
    const dims = Object.fromEntries([...graph.dims].map(([dim, { min }]) => [dim, Math.max(1, min)]));
    const planned = plan(graph, target, { dims });
    const planning = performance.now();
    for (const kernel of planned.kernels) backend.render(kernel, planned.target);
    const end = performance.now();
    report = planned.report;
    // The first two warm the process.
    if (i >= 2) samples.push({ importMs: imported - start, planMs: planning - imported, renderMs: end - planning });
  }
  if (report === undefined) throw new Error('nothing was measured');
  const of = (key: 'importMs' | 'planMs' | 'renderMs'): number => median(samples.map((sample) => sample[key]));
  const totalMs = median(samples.map((sample) => sample.importMs + sample.planMs + sample.renderMs));
  const { nodes, groups, kernels, dispatches, arenaBytes, largestLiveBytes } = report;
  return {
    name,
    target: targetName,
    importMs: of('importMs'),
    planMs: of('planMs'),
    renderMs: of('renderMs'),
    totalMs,
    msPerKernel: (of('planMs') + of('renderMs')) / Math.max(1, kernels),
    nodes,
    groups,
    kernels,
    dispatches,
    arenaBytes,
    largestLiveBytes,
    arenaRatio: arenaBytes / Math.max(1, largestLiveBytes),
  };
}

export const compileTable = (rows: readonly CompileRow[]): string =>
  table(
    ['MODEL', 'TARGET', 'IMPORT', 'PLAN', 'RENDER', 'TOTAL', 'PER KERNEL', 'GROUPS', 'KERNELS', 'ARENA', 'ARENA/LIVE'],
    rows.map((row) => [
      row.name,
      row.target,
      formatMs(row.importMs),
      formatMs(row.planMs),
      formatMs(row.renderMs),
      formatMs(row.totalMs),
      formatMs(row.msPerKernel),
      String(row.groups),
      String(row.kernels),
      formatBytes(row.arenaBytes),
      row.arenaRatio.toFixed(3),
    ]),
    ['left', 'left', 'right', 'right', 'right', 'right', 'right', 'right', 'right', 'right', 'right'],
  );
