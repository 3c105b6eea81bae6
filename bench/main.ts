/**
 * Benchmarks: `npm run bench -- models [name…]` and `npm run bench -- compile [name…]`. Rows go to bench/results/ with
 * the machine and the date, so that they can be compared later.
 */
import { execFileSync } from 'node:child_process';
import { mkdirSync } from 'node:fs';
import { cpus, loadavg, release } from 'node:os';
import { join, resolve } from 'node:path';
import { Command } from 'commander';
import { packageRoot } from '../backends/native.js';
import { writeOutput } from '../cli/files.js';
import { collect } from '../cli/options.js';
import { describeError, exitCodeOf, note, print } from '../cli/output.js';
import { benchCompile, type CompileRow, compileTable } from './compile.js';
import { benchModels, modelNames, modelsTable } from './models.js';

const root = packageRoot() ?? process.cwd();
/** Reference models: TUTTI_MODELS, or where the tests look for them. */
const models = resolve(root, process.env.TUTTI_MODELS || '../shared/models');

interface Flags {
  readonly device: string;
  readonly peer: string | false;
  readonly target?: readonly string[];
  readonly iterations: string;
  readonly duration: string;
}

/** Without these, figures mean little. */
function circumstances(): Record<string, unknown> {
  let commit: string | undefined;
  try {
    commit = execFileSync('git', ['rev-parse', 'HEAD'], {
      cwd: root,
      encoding: 'utf8',
      stdio: ['ignore', 'pipe', 'ignore'],
    }).trim();
  } catch {
    // Not a checkout.
  }
  const [first] = cpus();
  return {
    date: new Date().toISOString(),
    commit,
    node: process.version,
    cpu: first?.model,
    cores: cpus().length,
    kernel: release(),
    // Others at work falsify timings, and not of all runtimes alike.
    loadAverage: loadavg()[0],
  };
}

function save(name: string, rows: readonly unknown[]): void {
  const folder = join(root, 'bench', 'results');
  mkdirSync(folder, { recursive: true });
  writeOutput(join(folder, `${name}.json`), `${JSON.stringify({ ...circumstances(), rows }, null, 1)}\n`);
  note(`rows: bench/results/${name}.json`);
}

async function runModels(names: readonly string[], flags: Flags): Promise<void> {
  const more = ['--iterations', flags.iterations, '--duration', flags.duration];
  const peer = flags.peer === false ? undefined : flags.peer;
  const rows = await benchModels({
    root: models,
    names,
    device: flags.device,
    peer,
    flags: more,
    onRow: ({ name }) => note(`  ${name}`),
  });
  print(modelsTable(rows));
  save(`models-${flags.device.replaceAll(/[^\w.-]+/g, '_')}`, rows);
}

async function runCompile(names: readonly string[], flags: Flags): Promise<void> {
  const rows: CompileRow[] = [];
  for (const name of names.length > 0 ? names : ['mobilenetv2-fp32-derived']) {
    for (const target of flags.target ?? ['cpu', 'vulkan', 'webgpu'])
      rows.push(await benchCompile(models, name, target));
  }
  print(compileTable(rows));
  save('compile', rows);
}

const program = new Command('bench').description(
  `models in ${models}: ${modelNames(models).join(', ') || 'none found; set TUTTI_MODELS'}`,
);
program
  .command('models')
  .argument('[name...]')
  .option('--device <id>', 'device id or backend', 'cpu')
  .option('--peer <name>', 'runtime beside it', 'onnxruntime')
  .option('--no-peer', 'ours alone')
  .option('--iterations <n>', 'runs, at least', '30')
  .option('--duration <seconds>', 'measuring time, at least', '2')
  .action(runModels);
program
  .command('compile')
  .argument('[name...]')
  .option('--target <backend>', 'target (repeatable)', collect)
  .action(runCompile);
program.parseAsync().then(
  () => process.exit(0),
  (error: unknown) => {
    note(describeError(error, true));
    process.exit(exitCodeOf(error));
  },
);
