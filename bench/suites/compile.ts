/**
 * From a model's bytes to rendered kernels for a target, without a device, in a warm process and (`coldMs`) in a new one;
 * ONNX Runtime's session creation beside it.
 */
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { findTarget } from '../../cli/compile.js';
import { note } from '../../cli/output.js';
import { versionOf } from '../../cli/peers.js';
import { quantile } from '../../cli/statistics.js';
import { plan } from '../../compiler/compile.js';
import { importOnnx } from '../../compiler/frontends/onnx/index.js';
import type { Plan } from '../../compiler/plan.js';
import { type Context, isWanted } from '../context.js';
import { modelNamed } from '../models.js';
import { firstLine, measurementOfTimes, peerResult, type Row, skipped } from '../record.js';
import { describeRow } from './kernels.js';
import { child } from './process.js';

const models = ['mobilenetv2-fp32-derived', 'light_resnet50', 'bert-qa-24l-tiny', 'yolox-nano'];
const quickModels = ['mnist-cnn8'];
const targets = ['cpu', 'vulkan', 'webgpu', 'cuda:sm_90a', 'metal'];

interface Sample {
  readonly importMs: number;
  readonly planMs: number;
  readonly renderMs: number;
  readonly planned: Plan;
}

/** Not of a device: rows are by target. */
export async function runCompile(context: Context): Promise<Row[]> {
  const rows: Row[] = [];
  const names = context.scale.quick ? quickModels : models;
  for (const name of names.filter((model) => isWanted(context, model))) {
    for (const target of targets) {
      try {
        rows.push(await benchCompile(context, name, target));
      } catch (error) {
        rows.push({ name: `${name} for ${target}`, error: firstLine(error) });
      }
      note(`  ${describeRow(rows[rows.length - 1])}`);
    }
  }
  return rows;
}

async function benchCompile({ scale, peers }: Context, name: string, targetName: string): Promise<Row> {
  const folder = modelNamed(name).folder();
  const bytes = readFileSync(join(folder, 'model.onnx'));
  const cold: number[] = [];
  for (let i = 0; i < (scale.quick ? 1 : 3); i++) cold.push((await child('plan', folder, targetName)).firstResultMs);
  const { backend, target } = await findTarget(targetName);
  const once = (): Sample => {
    const start = performance.now();
    const graph = importOnnx(bytes);
    const imported = performance.now();
    // Dims without a size are 1.
    const dims = Object.fromEntries([...graph.dims].map(([dim, { min }]) => [dim, Math.max(1, min)]));
    const planned = plan(graph, target, { dims });
    const planning = performance.now();
    for (const kernel of planned.kernels) backend.render(kernel, planned.target);
    const end = performance.now();
    return { importMs: imported - start, planMs: planning - imported, renderMs: end - planning, planned };
  };
  const repetitions = scale.quick ? 3 : 7;
  // The first two warm the process: what is shown is the compiler's work, not the engine's.
  once();
  const first = peers.some((peer) => peer.name.startsWith('onnxruntime')) ? await ortCreation(bytes) : undefined;
  once();
  const samples: Sample[] = [];
  const theirs: number[] = [];
  let reason: unknown;
  for (let i = 0; i < repetitions; i++) {
    samples.push(once());
    if (first === undefined) continue;
    const created = await ortCreation(bytes);
    if (typeof created === 'number') theirs.push(created);
    else reason = created;
  }
  const of = (key: 'importMs' | 'planMs' | 'renderMs'): number =>
    quantile(
      samples.map((sample) => sample[key]),
      0.5,
    );
  const ours = measurementOfTimes(samples.map((sample) => sample.importMs + sample.planMs + sample.renderMs));
  const { report } = samples[0].planned;
  const peer = 'onnxruntime session';
  return {
    name: `${name} for ${targetName}`,
    unit: 'ms',
    ours,
    peers:
      first === undefined
        ? []
        : theirs.length > 0
          ? [peerResult(peer, versionOf('onnxruntime-node'), measurementOfTimes(theirs), ours)]
          : [skipped(peer, reason)],
    facts: {
      /** In processes that have compiled nothing before. */
      coldMs: quantile(cold, 0.5),
      importMs: of('importMs'),
      planMs: of('planMs'),
      renderMs: of('renderMs'),
      nodes: report.nodes,
      groups: report.groups,
      kernels: report.kernels,
      dispatches: report.dispatches,
      msPerKernel: (of('planMs') + of('renderMs')) / Math.max(1, report.kernels),
    },
  };
}

/** Milliseconds to a session of ONNX Runtime's on the CPU, or why there is none. */
async function ortCreation(bytes: Uint8Array): Promise<number | Error> {
  try {
    const { InferenceSession } = await import('onnxruntime-node');
    const start = performance.now();
    const session = await InferenceSession.create(bytes, { graphOptimizationLevel: 'all', logSeverityLevel: 3 });
    const time = performance.now() - start;
    await session.release();
    return time;
  } catch (error) {
    return error as Error;
  }
}
