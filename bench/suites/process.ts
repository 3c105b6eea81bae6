/** Suites that start processes: the time to a first result, cold and from caches, and the memory that a process takes. */
import { execFile } from 'node:child_process';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { note } from '../../cli/output.js';
import { versionOf } from '../../cli/peers.js';
import { quantile } from '../../cli/statistics.js';
import type { ChildResult } from '../child.js';
import { type Context, isWanted } from '../context.js';
import { modelNamed } from '../models.js';
import {
  exactly,
  failureOf,
  firstLine,
  type Measurement,
  measurementOfTimes,
  type PeerResult,
  peerResult,
  type Row,
  skipped,
} from '../record.js';
import { describeRow } from './kernels.js';

const program = fileURLToPath(new URL('../child.js', import.meta.url));
const peer = 'onnxruntime';

export const child = (runtime: string, folder: string, device: string, cache?: string): Promise<ChildResult> =>
  new Promise((resolve, reject) => {
    const env = cache === undefined ? process.env : { ...process.env, TUTTI_CACHE: cache };
    execFile(
      process.execPath,
      [program, runtime, folder, device],
      { env, timeout: 300_000 },
      (error, stdout, stderr) => {
        if (error) reject(failureOf(error, stderr));
        else resolve(JSON.parse(stdout) as ChildResult);
      },
    );
  });

const hasPeer = ({ peers }: Context): boolean => peers.some(({ name }) => name === peer);

async function eachModel(
  context: Context,
  names: readonly string[],
  bench: (name: string, folder: string) => Promise<readonly Row[]>,
): Promise<Row[]> {
  const rows: Row[] = [];
  for (const name of names.filter((candidate) => isWanted(context, candidate))) {
    try {
      rows.push(...(await bench(name, modelNamed(name).folder())));
    } catch (error) {
      rows.push({ name, error: firstLine(error) });
    }
    note(`  ${describeRow(rows[rows.length - 1])}`);
  }
  return rows;
}

/** From nothing to the first result, Node's own start included: with an empty cache, and with what that run has left. */
export function runStartup(context: Context): Promise<Row[]> {
  const { handle, scale } = context;
  const device = handle.device.info.id;
  const names = scale.quick
    ? ['mnist-cnn8']
    : ['mnist-cnn8', 'mobilenetv2-fp32-derived', 'silero-vad-v5', 'light_resnet50'];
  return eachModel(context, names, async (name, folder) => {
    const cold: ChildResult[] = [];
    const warm: number[] = [];
    const theirs: number[] = [];
    let refusal: unknown;
    for (let i = 0; i < (scale.quick ? 1 : 3); i++) {
      const cache = mkdtempSync(join(tmpdir(), 'tutti-bench-'));
      try {
        cold.push(await child('tutti', folder, device, cache));
        for (let j = 0; j < 3; j++) {
          warm.push((await child('tutti', folder, device, cache)).firstResultMs);
          if (!hasPeer(context) || refusal !== undefined) continue;
          const started = await child(peer, folder, device).catch((error: unknown) => error as Error);
          if (started instanceof Error) refusal = started;
          else theirs.push(started.firstResultMs);
        }
      } finally {
        rmSync(cache, { recursive: true, force: true });
      }
    }
    const row = (how: string, values: readonly number[], facts?: Readonly<Record<string, number>>): Row => {
      const ours = measurementOfTimes(values);
      const peers = !hasPeer(context) ? [] : [beside(theirs, ours, refusal)];
      return { name: `${name}, ${how}`, unit: 'ms', ours, peers, ...(facts === undefined ? {} : { facts }) };
    };
    const times = cold.map(({ firstResultMs }) => firstResultMs);
    const host = quantile(
      cold.map(({ hostCompilerMs = 0 }) => hostCompilerMs),
      0.5,
    );
    const share = { hostCompilerMs: host, hostCompilerShare: host / quantile(times, 0.5) };
    return [row('empty cache', times, share), row('from the cache', warm)];
  });
}

const beside = (theirs: readonly number[], ours: Measurement, refusal: unknown): PeerResult =>
  theirs.length === 0
    ? skipped(peer, refusal)
    : peerResult(peer, versionOf('onnxruntime-node'), measurementOfTimes(theirs), ours);

/** Largest resident memory of a process that loads a model and runs it, and how close the arena is to its least size. */
export function runMemory(context: Context): Promise<Row[]> {
  const device = context.handle.device.info.id;
  const names = context.scale.quick
    ? ['mnist-cnn8']
    : [
        'mnist-cnn8',
        'mobilenetv2-fp32-derived',
        'yolox-nano',
        'mobilenetv2-int8-qdq',
        'superres-espcn-x3',
        'gtcrn-simple',
        'silero-vad-v5',
        'light_squeezenet',
        'light_resnet50',
        'light_densenet121',
        'light_zfnet512',
        'light_vgg19',
      ];
  return eachModel(context, names, async (name, folder) => {
    // The first plans, compiles and stores: that happens once, and is a fact beside the figure.
    const first = await child('tutti', folder, device);
    const own = await child('tutti', folder, device);
    const ours = exactly(own.peakRssBytes);
    const peers: PeerResult[] = [];
    if (hasPeer(context)) {
      const theirs = await child(peer, folder, device).catch((error: unknown) => error as Error);
      peers.push(
        theirs instanceof Error
          ? skipped(peer, theirs)
          : peerResult(peer, versionOf('onnxruntime-node'), exactly(theirs.peakRssBytes), ours),
      );
    }
    const { arenaBytes = 0, largestLiveBytes = 0 } = own;
    const facts = {
      arenaBytes,
      largestLiveBytes,
      arenaRatio: arenaBytes / Math.max(1, largestLiveBytes),
      firstProcessBytes: first.peakRssBytes,
    };
    return [{ name, unit: 'bytes', ours, peers, facts }];
  });
}
