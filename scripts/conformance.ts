/**
 * `npm run conformance`: all of ONNX's backend tests on every device of this machine, results as data in
 * bench/results/conformance-<device>.json, from which `npm run docs` makes the support matrix. With arguments it is
 * `tutti conformance`. The tests are found at TUTTI_ONNX_DATA or ../shared/onnx.
 */
import { spawnSync } from 'node:child_process';
import { existsSync, readFileSync } from 'node:fs';
import { join, resolve } from 'node:path';
import { packageRoot } from '../backends/native.js';
import type { ConformanceReport } from '../cli/conformance/verb.js';
import { leave, runWork } from '../cli/program.js';
import { TuttiError } from '../compiler/error.js';
import { type ConformanceDevice, conformanceDevices } from './conformance_devices.js';

const root = packageRoot() ?? process.cwd();
const command = join(root, 'dist', 'cli', 'main.js');
/** Single operators, exported layers, and graphs of several operators. */
const suites = ['node', 'simple', 'pytorch-converted', 'pytorch-operator', 'ort-graphs'];

const tutti = (args: readonly string[], env: NodeJS.ProcessEnv = {}): number =>
  spawnSync(process.execPath, [command, 'conformance', ...args], { stdio: 'inherit', env: { ...process.env, ...env } })
    .status ?? 3;

/** Undefined where the device is not here. */
function runOn(
  { name, device, env, missing }: ConformanceDevice,
  folders: readonly string[],
): ConformanceReport | undefined {
  if (missing !== undefined) {
    process.stdout.write(`${name}: skipped, ${missing}\n`);
    return undefined;
  }
  const file = join(root, 'bench', 'results', `conformance-${name}.json`);
  process.stdout.write(`\n${name}\n`);
  const status = tutti([...folders, '--device', device, '--jobs', '2', '--json', file], env);
  if (status > 1) throw new Error(`tutti conformance on ${name} ended with ${status}`);
  return JSON.parse(readFileSync(file, 'utf8')) as ConformanceReport;
}

/** Passed of all, by suite. */
function summary(name: string, { cases }: ConformanceReport): string {
  const parts = suites.flatMap((suite) => {
    const own = cases.filter((one) => one.suite === suite);
    if (own.length === 0) return [];
    const passed = own.filter(({ status }) => status === 'passed').length;
    return [`${suite} ${passed} of ${own.length} (${((100 * passed) / own.length).toFixed(1)} %)`];
  });
  return `${name}: ${parts.join(', ')}`;
}

function runAll(): void {
  const data = resolve(root, process.env.TUTTI_ONNX_DATA || '../shared/onnx');
  const folders = suites.map((suite) => join(data, suite)).filter((folder) => existsSync(folder));
  if (folders.length === 0) {
    throw new TuttiError('E_USAGE', "ONNX's backend tests are not there", {
      subject: 'TUTTI_ONNX_DATA',
      expected: `a folder with one of ${suites.join(', ')}`,
      found: data,
    });
  }
  const lines = conformanceDevices(root).flatMap((device) => {
    const report = runOn(device, folders);
    return report === undefined ? [] : [summary(device.name, report)];
  });
  process.stdout.write(`\n${lines.join('\n')}\n\nnpm run docs writes the support matrix from these results.\n`);
}

const given = process.argv.slice(2);
leave(
  await runWork(() => {
    if (given.length > 0) process.exitCode = tutti(given);
    else runAll();
  }),
);
