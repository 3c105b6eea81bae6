/** `tutti conformance`: folders in the format of ONNX's backend tests, on a device. */
import { existsSync, readFileSync, statSync } from 'node:fs';
import type { Command } from 'commander';
import { TuttiError } from '../../compiler/error.js';
import type { Numerics } from '../../runtime/api.js';
import { checkWritable, writeOutput } from '../files.js';
import { numericsFlag, positive, tolerance } from '../options.js';
import { note, Progress, print, printJson, table } from '../output.js';
import type { Verb } from '../verb.js';
import { type CaseJob, type CaseResult, findCases } from './case.js';
import { runCases } from './pool.js';

interface Flags {
  readonly device?: string;
  readonly filter?: string;
  readonly numerics?: Numerics;
  /** A file, or true for stdout. */
  readonly json?: string | true;
  readonly scaled?: number | true;
  readonly rtol?: number;
  readonly atol?: number;
  readonly jobs: number;
  readonly timeout: number;
  readonly expectations?: string;
}

export interface ConformanceReport {
  readonly device: string;
  readonly numerics: Numerics;
  readonly passed: number;
  readonly failed: number;
  readonly unsupported: number;
  readonly hostNodes: number;
  readonly cases: readonly (Omit<CaseResult, 'hostNodes' | 'code'> & { readonly suite: string })[];
}

/** The bound that `--scaled` means where it says none: what the reference models ask. */
const defaultScaled = 1e-4;

const help = `
A case is a folder with model.onnx and test_data_set_N/{input,output}_K.pb. Tolerances by element type: f32 1e-3/1e-5,
f16 and bf16 1e-2/1e-3, f64 1e-7/1e-9, everything else exact, or recommended_tolerance of a README.json beside the
model; NaN and infinities must match. The file of expectations has a line for each case that may fail: name, # reason.

Examples:
  $ tutti conformance onnx/backend/test/data/node --device vulkan
  $ tutti conformance tests/ --filter 'conv|pool' --json results.json
  $ tutti conformance models/ --scaled`;

export const conformanceVerb: Verb = (program, wrap) => {
  const command: Command = program.command('conformance');
  command
    .description("run folders in the format of ONNX's backend tests")
    .argument('<dir...>', 'folders that hold cases, at any depth')
    .option('-d, --device <id>', 'device id, backend or auto')
    .option('--filter <regexp>', 'only cases whose name matches')
    .option('--numerics <profile>', 'fast, precise or strict (default: precise)', numericsFlag)
    .option('--json [file]', 'write one JSON document, to stdout without a file')
    .option(
      '--scaled [limit]',
      `compare max|d| / max|ref| with a limit (default ${defaultScaled})`,
      tolerance('--scaled'),
    )
    .option('--rtol <number>', 'relative tolerance for all floats', tolerance('--rtol'))
    .option('--atol <number>', 'absolute tolerance for all floats', tolerance('--atol'))
    .option('--jobs <n>', 'worker processes', positive('--jobs'), 1)
    .option('--timeout <seconds>', 'for one case', positive('--timeout', false), 60)
    .option('--expectations <file>', 'cases that may fail')
    .addHelpText('after', help)
    .action(wrap((folders: string[], flags: Flags) => conformance(folders, flags)));
};

async function conformance(folders: readonly string[], flags: Flags): Promise<number> {
  const cases = selectCases(folders, flags.filter);
  const expectations = flags.expectations === undefined ? new Set<string>() : readExpectations(flags.expectations);
  const file = typeof flags.json === 'string' ? checkWritable(flags.json) : undefined;
  const progress = new Progress('conformance', cases.length);
  const scaled = flags.scaled === true ? defaultScaled : flags.scaled;
  const { device, results } = await runCases(cases, {
    ...(flags.device === undefined ? {} : { device: flags.device }),
    options: { numerics: flags.numerics, rtol: flags.rtol, atol: flags.atol, scaled },
    jobs: flags.jobs,
    timeout: flags.timeout * 1000,
    onResult: ({ name }) => progress.step(name),
  });
  progress.end();
  const report = reportOf(device, flags.numerics ?? 'precise', cases, results);
  if (file !== undefined) writeOutput(file, `${JSON.stringify(report, null, 1)}\n`);
  if (flags.json === true) printJson(report);
  else printSummary(report, results);
  const unexpected = results.filter(({ name, status }) => status !== 'passed' && !expectations.has(name));
  const surprising = results.filter(({ name, status }) => status === 'passed' && expectations.has(name));
  if (surprising.length > 0) note(`listed as failing, but passed: ${surprising.map(({ name }) => name).join(', ')}`);
  if (expectations.size > 0) note(`${unexpected.length} cases that are not listed did not pass`);
  return unexpected.length === 0 ? 0 : 1;
}

/** @throws TuttiError E_IO, E_USAGE */
function selectCases(folders: readonly string[], filter: string | undefined): CaseJob[] {
  let pattern: RegExp | undefined;
  try {
    pattern = filter === undefined ? undefined : new RegExp(filter);
  } catch (cause) {
    throw new TuttiError('E_USAGE', 'not a regular expression', { subject: '--filter', found: filter, cause });
  }
  const cases = folders.flatMap((folder) => {
    if (!existsSync(folder)) throw new TuttiError('E_IO', 'no such folder', { subject: folder });
    if (!statSync(folder).isDirectory()) throw new TuttiError('E_IO', 'is not a folder', { subject: folder });
    const found = findCases(folder);
    if (found.length > 0) return found;
    throw new TuttiError('E_IO', 'holds no case', {
      subject: folder,
      expected: 'folders with model.onnx and test_data_set_0',
    });
  });
  const selected = cases.filter(({ name }) => pattern === undefined || pattern.test(name));
  if (selected.length === 0) {
    throw new TuttiError('E_USAGE', 'matches no case', {
      subject: '--filter',
      found: filter,
      expected: `one of ${cases.length} names`,
    });
  }
  return selected;
}

function readExpectations(path: string): Set<string> {
  let text: string;
  try {
    text = readFileSync(path, 'utf8');
  } catch (cause) {
    throw new TuttiError('E_IO', 'cannot be read', { subject: path, found: (cause as Error).message, cause });
  }
  return new Set(
    text
      .split('\n')
      .map((line) => line.replace(/#.*$/, '').trim())
      .filter((line) => line !== ''),
  );
}

function reportOf(
  device: string,
  numerics: Numerics,
  jobs: readonly CaseJob[],
  results: readonly CaseResult[],
): ConformanceReport {
  const count = (status: CaseResult['status']): number => results.filter((result) => result.status === status).length;
  return {
    device,
    numerics,
    passed: count('passed'),
    failed: count('failed'),
    unsupported: count('unsupported'),
    hostNodes: results.reduce((sum, { hostNodes = 0 }) => sum + hostNodes, 0),
    cases: results.map(({ name, status, reason, maxAbsDiff, ops, dtypes, ms }, i) => ({
      suite: jobs[i].suite,
      name,
      status,
      ...(reason === undefined ? {} : { reason }),
      ...(maxAbsDiff === undefined ? {} : { maxAbsDiff }),
      ...(ops === undefined ? {} : { ops }),
      ...(dtypes === undefined ? {} : { dtypes }),
      ms,
    })),
  };
}

function printSummary(report: ConformanceReport, results: readonly CaseResult[]): void {
  const failed = results.filter(({ status }) => status === 'failed');
  for (const { name, reason = '' } of failed) print(`failed  ${name}: ${reason.slice(0, 300)}`);
  const groups = new Map<string, string[]>();
  for (const result of results) {
    if (result.status !== 'unsupported') continue;
    const key = subjectOf(result);
    groups.set(key, [...(groups.get(key) ?? []), result.name]);
  }
  if (groups.size > 0) {
    if (failed.length > 0) print();
    const rows = [...groups].sort((a, b) => b[1].length - a[1].length || (a[0] < b[0] ? -1 : 1));
    print(
      table(
        ['UNSUPPORTED', 'CASES', 'FOR INSTANCE'],
        rows.map(([key, names]) => [key, String(names.length), names[0]]),
        ['left', 'right'],
      ),
    );
    print();
  }
  const { device, numerics, passed, unsupported, hostNodes } = report;
  const share = ((100 * passed) / results.length).toFixed(1);
  print(
    `${device}, ${numerics}: ${passed} of ${results.length} passed (${share} %), ${failed.length} failed, ` +
      `${unsupported} unsupported, ${hostNodes} nodes on the host`,
  );
}

/** What is missing, in a few words: the operator if that is it, else the reason without names of values. */
function subjectOf({ reason = '', ops = [] }: CaseResult): string {
  const operator = /operator (\S+) is not supported(?: in (opset \d+))?/.exec(reason);
  if (operator) return operator[2] === undefined ? operator[1] : `${operator[1]} (${operator[2]})`;
  const about = reason
    .replace(/^[^:]*: /, '')
    .replace(/[;.] ?(expected|found|remedy|Supported|Convert).*$/s, '')
    .replaceAll(/\([^)]*\)/g, '')
    .replaceAll(/\s+/g, ' ')
    .slice(0, 70);
  return ops.length === 1 ? `${ops[0]}: ${about}` : about;
}
