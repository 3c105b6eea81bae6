/**
 * One model in a process of its own, which prints what that took as JSON: time from the start of the process to the
 * first result, and the largest resident memory. `node child.js tutti|onnxruntime|plan FOLDER DEVICE`; `plan` is the
 * compiler alone, without a device: DEVICE is then a target.
 *
 * Each loads what it needs and nothing of the other: loading is part of starting.
 */
import { existsSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import type * as ort from 'onnxruntime-node';

export interface ChildResult {
  /** From the start of the process. */
  readonly firstResultMs: number;
  readonly peakRssBytes: number;
  readonly arenaBytes?: number;
  readonly largestLiveBytes?: number;
  /** Of the time to the first result, what the compiler of the host took. */
  readonly hostCompilerMs?: number;
}

/** After the first: the memory of a server, not of one answer. */
const moreRuns = 3;

async function tutti(folder: string, device: string): Promise<Omit<ChildResult, 'peakRssBytes'>> {
  const { feedsOf } = await import('../cli/feeds.js');
  const { openModel } = await import('../runtime/stored_model.js');
  const { Session } = await import('../runtime/session.js');
  const model = await openModel(join(folder, 'model.onnx'));
  const feeds = await feedsOf(model, [], folder);
  const session = await Session.create(model, { device });
  await session.run(feeds);
  const firstResultMs = performance.now();
  for (let i = 0; i < moreRuns; i++) await session.run(feeds);
  const { specialisations } = session.report();
  const plans = specialisations.map(({ plan }) => plan);
  const hostCompilerMs = specialisations.reduce((sum, { times }) => sum + (times.hostCompiler ?? 0), 0);
  // What the next process finds is written by then.
  await session.close();
  const largest = plans.reduce((a, b) => (b.arenaBytes > a.arenaBytes ? b : a));
  const { arenaBytes, largestLiveBytes } = largest;
  return { firstResultMs, arenaBytes, largestLiveBytes, hostCompilerMs };
}

/** From the bytes of the model to rendered kernels, once, in a process that has compiled nothing before. */
async function planned(folder: string, targetName: string): Promise<Omit<ChildResult, 'peakRssBytes'>> {
  const { findTarget } = await import('../cli/compile.js');
  const { plan } = await import('../compiler/compile.js');
  const { importOnnx } = await import('../compiler/frontends/onnx/index.js');
  const { backend, target } = await findTarget(targetName);
  const bytes = readFileSync(join(folder, 'model.onnx'));
  const start = performance.now();
  const graph = importOnnx(bytes);
  const dims = Object.fromEntries([...graph.dims].map(([dim, { min }]) => [dim, Math.max(1, min)]));
  const { kernels } = plan(graph, target, { dims });
  for (const kernel of kernels) backend.render(kernel, target);
  return { firstResultMs: performance.now() - start };
}

/** The model is not loaded into our compiler here, for that memory would count as the peer's. */
async function onnxruntime(folder: string): Promise<Omit<ChildResult, 'peakRssBytes'>> {
  const { InferenceSession, Tensor } = await import('onnxruntime-node');
  const { decode } = await import('../compiler/frontends/onnx/proto.js');
  const { tensorOf } = await import('../compiler/frontends/onnx/tensors.js');
  const { normal } = await import('./random.js');
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
const work = { tutti, plan: planned, onnxruntime }[runtime] ?? tutti;
const result = await work(folder, device);
const peakRssBytes = process.resourceUsage().maxRSS * 1024;
process.stdout.write(`${JSON.stringify({ ...result, peakRssBytes } satisfies ChildResult)}\n`);
process.exit(0);
