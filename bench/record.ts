/**
 * What benchmarks leave behind: one file of rows for a suite on a device, in bench/results/. Rows carry ratios to peers
 * that ran beside us, so that files of different machines and days can be compared; a time without a ratio is no result.
 */
import { execFileSync } from 'node:child_process';
import { existsSync, mkdirSync, readdirSync, readFileSync } from 'node:fs';
import { cpus, loadavg, release } from 'node:os';
import { join } from 'node:path';
import { packageRoot } from '../backends/native.js';
import { writeOutput } from '../cli/files.js';
import type { Timing } from '../cli/measure.js';
import { quantile } from '../cli/statistics.js';

export const root = packageRoot() ?? process.cwd();
export const resultsFolder = join(root, 'bench', 'results');
/** For what can be made again: models with seeded weights, programs, results of quick runs. */
export const scratchFolder = join(root, 'build', 'bench');

const format = 'tutti-bench-1';

export type Unit = 'ms' | 'bytes';

/** In the row's unit. Less is better. */
export interface Measurement {
  readonly median: number;
  readonly q1: number;
  readonly q3: number;
  readonly samples: number;
}

export type PeerResult =
  | {
      readonly name: string;
      readonly version: string;
      readonly measured: Measurement;
      /** peer ÷ ours: above 1 we are better. */
      readonly ratio: number;
    }
  | { readonly name: string; readonly skipped: string };

export type Row =
  | {
      readonly name: string;
      readonly unit: Unit;
      readonly ours: Measurement;
      readonly peers: readonly PeerResult[];
      /** Counted from the graph: arithmetic of contractions, and bytes that no implementation can do without. */
      readonly work?: { readonly flops: number; readonly bytes: number };
      /**
       * Least time for the work, as a percentage of our median, and what limits it: the median of the same work by a
       * program, `measured` in turns with us, or else what the rates say that were measured before.
       */
      readonly roof?: { readonly percent: number; readonly limit: Limit; readonly measured?: Measurement };
      readonly facts?: Readonly<Record<string, number>>;
    }
  | { readonly name: string; readonly error: string };

export interface Circumstances {
  readonly date: string;
  readonly commit?: string;
  /** Whether files differed from the commit. */
  readonly modified?: boolean;
  readonly node: string;
  readonly cpu?: string;
  readonly cores: number;
  readonly kernel: string;
  /** Before the suite began. Others at work falsify timings, and not of all runtimes alike. */
  readonly loadAverage: number;
}

export interface DeviceFacts {
  readonly id: string;
  readonly backend: string;
  readonly name: string;
  readonly driver: string;
}

export type Limit = 'arithmetic' | 'memory';

/** What a machine can do at best, as measured. */
export interface Roof {
  /** A C program, the maker's libraries, or our own kernels. */
  readonly source: 'program' | 'libraries' | 'own kernels';
  /** Bytes read and written, per nanosecond. */
  readonly copyGBs: number;
  /** 2 a multiply-add, 1e9 a second, by element type. */
  readonly gflops: Readonly<Record<string, number>>;
}

export interface Results extends Circumstances {
  readonly format: typeof format;
  readonly suite: string;
  /** Few repetitions and small shapes: says that the suite works, and little of speed. */
  readonly quick: boolean;
  readonly device: DeviceFacts;
  readonly roof?: Roof;
  /** Geometric means of the ratios, by peer. */
  readonly geomeans: readonly Geomean[];
  readonly rows: readonly Row[];
}

export interface Geomean {
  readonly peer: string;
  readonly ratio: number;
  readonly rows: number;
}

export const measurementOf = ({ medianMs, q1Ms, q3Ms, samples }: Timing): Measurement => ({
  median: medianMs,
  q1: q1Ms,
  q3: q3Ms,
  samples,
});

export const measurementOfTimes = (times: readonly number[]): Measurement => ({
  median: quantile(times, 0.5),
  q1: quantile(times, 0.25),
  q3: quantile(times, 0.75),
  samples: times.length,
});

/** A quantity that does not vary. */
export const exactly = (value: number): Measurement => ({ median: value, q1: value, q3: value, samples: 1 });

export const peerResult = (name: string, version: string, measured: Measurement, ours: Measurement): PeerResult => ({
  name,
  version,
  measured,
  ratio: measured.median / ours.median,
});

export const skipped = (name: string, reason: unknown): PeerResult => ({ name, skipped: firstLine(reason) });

export const firstLine = (reason: unknown): string =>
  (reason instanceof Error ? reason.message : String(reason)).trim().split('\n')[0];

/** What a process of ours that failed says of it: drivers may have written to stderr too. */
export const failureOf = (error: Error, stderr: string): Error =>
  new Error(stderr.split('\n').find((line) => /^(internal error|error E_|\w*Error)\b/.test(line)) ?? firstLine(error));

/** By peer, in the order in which they first occur. */
export function geomeansOf(rows: readonly Row[]): Geomean[] {
  const ratios = new Map<string, number[]>();
  for (const row of rows) {
    if ('error' in row) continue;
    for (const peer of row.peers) {
      if ('ratio' in peer) ratios.set(peer.name, [...(ratios.get(peer.name) ?? []), peer.ratio]);
    }
  }
  return [...ratios].map(([peer, values]) => ({
    peer,
    ratio: Math.exp(values.reduce((sum, ratio) => sum + Math.log(ratio), 0) / values.length),
    rows: values.length,
  }));
}

const git = (...args: string[]): string | undefined => {
  try {
    return execFileSync('git', args, { cwd: root, encoding: 'utf8', stdio: ['ignore', 'pipe', 'ignore'] }).trim();
  } catch {
    // Not a checkout.
    return undefined;
  }
};

export function circumstances(): Circumstances {
  const [first] = cpus();
  const commit = git('rev-parse', 'HEAD');
  return {
    date: new Date().toISOString(),
    ...(commit === undefined
      ? {}
      : { commit, modified: git('status', '--porcelain', '--', ':!bench/results', ':!docs') !== '' }),
    node: process.version,
    cpu: first?.model,
    cores: cpus().length,
    kernel: release(),
    loadAverage: loadavg()[0],
  };
}

export function resultsOf(
  parts: Pick<Results, 'suite' | 'quick' | 'device' | 'roof' | 'rows'> & { readonly at: Circumstances },
): Results {
  const { at, suite, quick, device, roof, rows } = parts;
  return { format, suite, quick, device, ...at, ...(roof && { roof }), geomeans: geomeansOf(rows), rows };
}

/** `gemm-cpu`, `models-cuda`: a device's backend names its file, for ids name one machine's hardware. */
export const resultsName = ({ suite, device }: Pick<Results, 'suite' | 'device'>): string =>
  `${suite}-${device.backend}`;

export function saveResults(folder: string, results: Results): string {
  mkdirSync(folder, { recursive: true });
  const path = join(folder, `${resultsName(results)}.json`);
  writeOutput(path, `${JSON.stringify(results, null, 1)}\n`);
  return path;
}

export function parseResults(text: string): Results | undefined {
  const document = JSON.parse(text) as Partial<Results>;
  return document.format === format ? (document as Results) : undefined;
}

/** All files of a folder that hold rows, by name. */
export function readResults(folder: string): Results[] {
  if (!existsSync(folder)) return [];
  return readdirSync(folder)
    .filter((name) => name.endsWith('.json'))
    .sort()
    .flatMap((name) => parseResults(readFileSync(join(folder, name), 'utf8')) ?? []);
}
