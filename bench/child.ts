/**
 * One model in a process of its own, which prints what that took as JSON: time from the start of the process to the
 * first result, and the largest resident memory. `node child.js tutti|onnxruntime FOLDER DEVICE`
 */
import { existsSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import type * as ort from 'onnxruntime-node';
import { feedsOf } from '../cli/bench.js';
import { decode, tensorOf } from '../compiler/frontends/onnx/index.js';
import { compile } from '../runtime/model.js';
import { Session } from '../runtime/session.js';
import { normal } from './random.js';

export interface ChildResult {
  /** From the start of the process. */
  readonly firstResultMs: number;
  readonly peakRssBytes: number;
  readonly arenaBytes?: number;
  readonly largestLiveBytes?: number;
}

/** After the first: the memory of a server, not of one answer. */
const moreRuns = 3;

async function tutti(folder: string, device: string): Promise<Omit<ChildResult, 'peakRssBytes'>> {
  const model = await compile(join(folder, 'model.onnx'));
  const feeds = await feedsOf(model, [], folder);
  const session = await Session.create(model, { device });
  await session.run(feeds);
  const firstResultMs = performance.now();
  for (let i = 0; i < moreRuns; i++) await session.run(feeds);
  const plans = session.report().specialisations.map(({ plan }) => plan);
  // What the next process finds is written by then.
  await session.close();
  const largest = plans.reduce((a, b) => (b.arenaBytes > a.arenaBytes ? b : a));
  return { firstResultMs, arenaBytes: largest.arenaBytes, largestLiveBytes: largest.largestLiveBytes };
}

/** The model is not loaded into our compiler here, for that memory would count as the peer's. */
async function onnxruntime(folder: string): Promise<Omit<ChildResult, 'peakRssBytes'>> {
  const { InferenceSession, Tensor } = await import('onnxruntime-node');
  const session = await InferenceSession.create(join(folder, 'model.onnx'), { graphOptimizationLevel: 'all' });
  const feeds: Record<string, ort.Tensor> = {};
  for (const [k, info] of session.inputMetadata.entries()) {
    if (!info.isTensor) throw new Error(`${info.name} is no tensor`);
    const sample = join(folder, 'test_data_set_0', `input_${k}.pb`);
    const given = existsSync(sample) ? tensorOf(decode('TensorProto', readFileSync(sample)), info.name) : undefined;
    const dims = given ? [...given.shape] : info.shape.map((dim) => (typeof dim === 'number' && dim > 0 ? dim : 1));
    const count = dims.reduce((product, dim) => product * dim, 1);
    const data = given?.data ?? (info.type === 'int64' ? new BigInt64Array(count).fill(1n) : normal(count, 1));
    feeds[info.name] = new Tensor(info.type as 'float32', data as Float32Array, dims);
  }
  await session.run(feeds);
  const firstResultMs = performance.now();
  for (let i = 0; i < moreRuns; i++) await session.run(feeds);
  return { firstResultMs };
}

const [runtime, folder, device] = process.argv.slice(2);
const result = await (runtime === 'tutti' ? tutti(folder, device) : onnxruntime(folder));
const peakRssBytes = process.resourceUsage().maxRSS * 1024;
process.stdout.write(`${JSON.stringify({ ...result, peakRssBytes } satisfies ChildResult)}\n`);
process.exit(0);
