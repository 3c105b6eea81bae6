/**
 * Benchmarks: `npm run bench -- gemm`, `npm run bench -- models --device vulkan mobilenet`, `npm run bench -- all`.
 * Rows go to bench/results/<suite>-<backend>.json (quick runs: to build/bench/results/); `report` writes
 * docs/benchmarks.md from them, `compare` says which ratios have got worse, `guards` checks what does not depend on time.
 */
import { mkdirSync } from 'node:fs';
import { loadavg } from 'node:os';
import { join, resolve } from 'node:path';
import { Argument, Command, Option } from 'commander';
import { writeOutput } from '../cli/files.js';
import { tolerance } from '../cli/options.js';
import { formatBytes, formatMs, note, print, table } from '../cli/output.js';
import { leave, runProgram } from '../cli/program.js';
import { TuttiError } from '../compiler/error.js';
import { committedResults, compareResults, describeChange } from './compare.js';
import { closeContext, openContext } from './context.js';
import { checkGuards, writeGuards } from './guards.js';
import {
  circumstances,
  type Measurement,
  type Results,
  type Row,
  readResults,
  resultsFolder,
  resultsOf,
  root,
  saveResults,
  scratchFolder,
  type Unit,
} from './record.js';
import { benchmarkDocs } from './report.js';
import { type SuiteName, suiteNames, suites } from './suites/index.js';

interface Flags {
  readonly device: string;
  readonly quick?: true;
  readonly peers: boolean;
  readonly out?: string;
}

/** Above this, figures are mostly of other people's work. */
const quietLoad = 1;

async function runSuites(name: SuiteName | 'all', wanted: readonly string[], flags: Flags): Promise<void> {
  const quick = flags.quick === true;
  const folder = flags.out ?? (quick ? join(scratchFolder, 'results') : resultsFolder);
  if (!quick && loadavg()[0] > quietLoad) note(`the load is ${loadavg()[0].toFixed(1)}: timings will be off`);
  if (!quick && wanted.length > 0 && flags.out === undefined) {
    throw new TuttiError('E_USAGE', 'some of the cases are not the results of a suite', {
      found: wanted.join(' '),
      remedy: 'Say --quick, or give --out.',
    });
  }
  const context = await openContext(flags.device, { quick, peers: flags.peers, wanted });
  try {
    let measured = 0;
    for (const suite of name === 'all' ? suiteNames : [name]) {
      note(`${suite}: ${suites[suite].what}`);
      const at = circumstances();
      const rows = await suites[suite].run(context);
      if (rows.length === 0 && wanted.length > 0) continue;
      measured += rows.length;
      const { id, backend, name: deviceName, driver } = context.handle.device.info;
      const device = { id, backend, name: deviceName, driver };
      const results = resultsOf({ at, suite, quick, device, roof: context.roof.rates, rows });
      print(resultsTable(results));
      note(`rows: ${saveResults(folder, results)}`);
    }
    if (measured === 0 && wanted.length > 0) {
      throw new TuttiError('E_USAGE', 'nothing was measured: no case has such a name', {
        subject: name,
        found: wanted.join(' '),
        remedy: 'Without names all cases are measured, each with its name.',
      });
    }
  } finally {
    await closeContext(context);
  }
}

const formatMeasured = ({ median }: Measurement, unit: Unit): string =>
  unit === 'ms' ? formatMs(median) : formatBytes(median);

function resultsTable({ suite, device, rows, geomeans }: Results): string {
  const lines = rows.map((row: Row) => {
    if ('error' in row) return [row.name, row.error.slice(0, 80)];
    const { name, unit, ours, peers, roof } = row;
    const ratios = peers.map((peer) => ('ratio' in peer ? `${peer.name} ${peer.ratio.toFixed(2)}` : `${peer.name} -`));
    return [name, formatMeasured(ours, unit), roof ? `${roof.percent.toFixed(0)} %` : '', ratios.join(', ')];
  });
  const means = geomeans.map(({ peer, ratio, rows: count }) => `${peer} ${ratio.toFixed(3)} (${count} rows)`);
  return [
    table([`${suite} on ${device.backend}`, 'OURS', 'ROOF', 'PEER ÷ OURS'], lines, ['left', 'right', 'right', 'left']),
    `geometric means: ${means.join(', ') || 'no peer'}`,
  ].join('\n');
}

function report(): void {
  mkdirSync(join(root, 'docs', 'benchmarks'), { recursive: true });
  for (const [path, text] of benchmarkDocs(readResults(resultsFolder))) {
    writeOutput(join(root, 'docs', path), text);
    note(`docs/${path}`);
  }
}

/** Of a folder that the user names. */
function resultsIn(folder: string): Results[] {
  const found = readResults(resolve(folder));
  if (found.length > 0) return found;
  throw new TuttiError('E_USAGE', 'no results there', { subject: folder, expected: 'a folder that --out was given' });
}

function compare(
  base: string | undefined,
  current: string | undefined,
  { tolerance }: { readonly tolerance: number },
): void {
  const before = base === undefined ? committedResults() : resultsIn(base);
  const after = current === undefined ? readResults(resultsFolder) : resultsIn(current);
  const { worse, better, compared, lost } = compareResults(before, after, tolerance);
  for (const change of better) print(`better  ${describeChange(change)}`);
  for (const change of worse) print(`WORSE   ${describeChange(change)}`);
  for (const name of lost) print(`LOST    ${name}`);
  print(`${compared} ratios compared, ${worse.length} worse, ${lost.length} lost, ${better.length} better`);
  if (worse.length + lost.length > 0) process.exitCode = 1;
}

async function guards({ update }: { readonly update?: true }): Promise<void> {
  if (update) {
    for (const line of await writeGuards()) note(line);
    return;
  }
  const broken = await checkGuards();
  for (const line of broken) print(line);
  print(broken.length === 0 ? 'all guards hold' : `${broken.length} guards are broken`);
  if (broken.length > 0) process.exitCode = 1;
}

const program = new Command('bench').description('Measures beside peers, in turns; see docs/benchmarks.md.');
program
  .command('run', { isDefault: true })
  .description('measure a suite')
  .addArgument(new Argument('<suite>').choices([...suiteNames, 'all']))
  .argument('[name...]', 'only cases and models whose name contains one of these')
  .addOption(new Option('--device <id>', 'device id or backend').default('cpu'))
  .option('--quick', 'few repetitions, small shapes: whether it works')
  .option('--no-peers', 'ours alone')
  .option('--out <folder>', 'where rows go')
  .action(runSuites);
program.command('report').description('write docs/benchmarks.md from bench/results').action(report);
program
  .command('compare')
  .description('compare ratios; exit code 1 if one has got worse')
  .argument('[base]', 'folder of results (default: those of the last commit)')
  .argument('[current]', 'folder of results (default: bench/results)')
  .option(
    '--tolerance <fraction>',
    'what may be lost, beyond the spread of the measurements',
    tolerance('--tolerance'),
    0.1,
  )
  .action(compare);
program
  .command('guards')
  .description('check kernels, bytes moved and memory against bench/guards.json and the kernels in bench/golden')
  .option('--update', 'take what is measured now for expected')
  .action(guards);
leave(await runProgram(program));
