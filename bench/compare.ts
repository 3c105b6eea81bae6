/**
 * Two sets of results: which ratios to peers have got worse. Times are never compared, for they depend on the machine
 * and its mood; ratios were measured in turns and hold elsewhere.
 */
import { execFileSync } from 'node:child_process';
import { parseResults, type Results, type Row, resultsName, root } from './record.js';

export interface Change {
  readonly what: string;
  readonly before: number;
  readonly after: number;
}

export interface Comparison {
  readonly compared: number;
  readonly worse: readonly Change[];
  readonly better: readonly Change[];
  /** Measured before, and now failing or absent though its suite ran. */
  readonly lost: readonly string[];
}

interface Ratio {
  readonly value: number;
  /** What chance alone may change, as a fraction: of both sides half the spread between the quartiles, as errors add. */
  readonly noise: number;
}

/** By suite and device, name and peer. */
function ratiosOf(results: readonly Results[]): Map<string, Ratio> {
  const ratios = new Map<string, Ratio>();
  for (const file of results) {
    for (const row of file.rows)
      for (const [peer, ratio] of ratiosOfRow(row)) ratios.set(`${keyOf(file)}: ${row.name}, ${peer}`, ratio);
  }
  return ratios;
}

const keyOf = (file: Results): string => `${resultsName(file)}${file.quick ? ' (quick)' : ''}`;

function ratiosOfRow(row: Row): (readonly [string, Ratio])[] {
  if ('error' in row) return [];
  const spread = ({ median, q1, q3 }: { median: number; q1: number; q3: number }): number =>
    median > 0 ? (q3 - q1) / (2 * median) : 0;
  return row.peers.flatMap((peer) =>
    'ratio' in peer
      ? [[peer.name, { value: peer.ratio, noise: Math.hypot(spread(row.ours), spread(peer.measured)) }] as const]
      : [],
  );
}

/** @param tolerance fraction of a ratio that may be lost beyond the spread of the measurements */
export function compareResults(before: readonly Results[], after: readonly Results[], tolerance: number): Comparison {
  const [old, now] = [ratiosOf(before), ratiosOf(after)];
  // Suites that did not run this time have lost nothing.
  const ran = new Set(after.map(keyOf));
  const worse: Change[] = [];
  const better: Change[] = [];
  const lost: string[] = [];
  let compared = 0;
  for (const [what, was] of old) {
    const is = now.get(what);
    if (is === undefined) {
      if (ran.has(what.slice(0, what.indexOf(': ')))) lost.push(what);
      continue;
    }
    compared += 1;
    const allowed = tolerance + Math.hypot(was.noise, is.noise);
    const change: Change = { what, before: was.value, after: is.value };
    if (!(is.value >= was.value * (1 - allowed))) worse.push(change);
    else if (is.value > was.value * (1 + allowed)) better.push(change);
  }
  const byLoss = (a: Change, b: Change): number => a.after / a.before - b.after / b.before;
  return { compared, worse: worse.sort(byLoss), better: better.sort(byLoss), lost };
}

export const describeChange = ({ what, before, after }: Change): string =>
  `${what}: ${before.toFixed(3)} → ${after.toFixed(3)} (${((100 * after) / before - 100).toFixed(0)} %)`;

/** The results that the last commit has. @throws where there is no checkout */
export function committedResults(): Results[] {
  const git = (...args: string[]): string =>
    execFileSync('git', args, { cwd: root, encoding: 'utf8', maxBuffer: 2 ** 28 });
  return git('ls-tree', '--name-only', 'HEAD', 'bench/results/')
    .split('\n')
    .filter((path) => path.endsWith('.json'))
    .flatMap((path) => parseResults(git('show', `HEAD:${path}`)) ?? []);
}
