/** Latency of whole models beside ONNX Runtime: `tutti bench` in a process for each, so that none warms another's caches. */
import { execFile } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import type { BenchResult } from '../../cli/bench.js';
import { feedsOf } from '../../cli/feeds.js';
import { note } from '../../cli/output.js';
import { compile } from '../../runtime/model.js';
import { Session } from '../../runtime/session.js';
import type { Work } from '../cases/types.js';
import { type Context, isWanted } from '../context.js';
import { type BenchModel, benchModels } from '../models.js';
import { failureOf, firstLine, measurementOf, peerResult, type Row, skipped } from '../record.js';
import { leastTime } from '../roof.js';
import { benchSession, describeRow } from './kernels.js';

const command = fileURLToPath(new URL('../../cli/main.js', import.meta.url));
const timeoutMs = 600_000;

export async function runModels(context: Context): Promise<Row[]> {
  const rows: Row[] = [];
  for (const model of benchModels(context.scale.quick)) {
    if (!isWanted(context, model.name)) continue;
    // An accelerator's peers are other processes anyway.
    rows.push(await (context.scale.gpu ? benchBound(context, model) : benchModel(context, model)));
    note(`  ${describeRow(rows[rows.length - 1])}`);
  }
  return rows;
}

async function benchModel(context: Context, model: BenchModel): Promise<Row> {
  const { handle, schedule, roof, peers } = context;
  const { name } = model;
  try {
    const folder = model.folder();
    const args = ['bench', folder, '--device', handle.device.info.id, '--json'];
    args.push('--warmup', String(schedule.warmup), '--iterations', String(schedule.iterations));
    args.push('--duration', String(schedule.duration / 1000));
    if (schedule.limit !== undefined) args.push('--limit', String(schedule.limit / 1000));
    // The other peers know no models.
    const peer = peers.find((candidate) => candidate.name.startsWith('onnxruntime'))?.name;
    const beside =
      peer === undefined ? undefined : await tutti([...args, '--peer', peer]).catch((error: unknown) => error);
    // A peer that cannot run the model is no reason to have no row.
    const result = isResult(beside) ? beside : await tutti(args);
    const ours = measurementOf(result.ours);
    const work = { flops: result.roof.flops, bytes: result.roof.bytes };
    const least = leastTime(roof.rates, work, 'f32');
    const theirs = result.peer;
    return {
      name,
      unit: 'ms',
      ours,
      peers:
        theirs !== undefined
          ? [peerResult(theirs.name, theirs.version, measurementOf(theirs), ours)]
          : peer === undefined
            ? []
            : [skipped(peer, beside)],
      work,
      roof: { percent: (100 * least.ms) / ours.median, limit: least.limit },
      facts: {
        kernels: result.kernels,
        dispatches: result.dispatches,
        arenaBytes: result.arenaBytes,
        compileMs: result.compileMs,
      },
    };
  } catch (error) {
    return { name, error: firstLine(error) };
  }
}

async function benchBound(context: Context, { name, folder }: BenchModel): Promise<Row> {
  try {
    const path = join(folder(), 'model.onnx');
    const model = await compile(path);
    const feeds = await feedsOf(model, [], folder());
    const session = await Session.create(model, { device: context.handle });
    try {
      const work: Work = { name, spec: { op: 'model', model: name, dtype: 'f32' }, cold: false };
      return await benchSession(context, work, session, [feeds], () => readFileSync(path));
    } finally {
      await session.close();
    }
  } catch (error) {
    return { name, error: firstLine(error) };
  }
}

const isResult = (value: unknown): value is BenchResult =>
  typeof value === 'object' && value !== null && !(value instanceof Error);

const tutti = (args: readonly string[]): Promise<BenchResult> =>
  new Promise((resolve, reject) => {
    const options = { maxBuffer: 2 ** 26, timeout: timeoutMs };
    execFile(process.execPath, [command, ...args], options, (error, stdout, stderr) => {
      if (error) reject(failureOf(error, stderr));
      else resolve(JSON.parse(stdout) as BenchResult);
    });
  });
