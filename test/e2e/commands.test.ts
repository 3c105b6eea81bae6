// Commands of the checkout beside the CLI refuse what a user mistypes as the CLI does: code, exit code 2, no stack.
import { spawn } from 'node:child_process';
import { existsSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { afterAll, describe, expect, it } from 'vitest';
import { type CliResult, command, scratch } from '../support/cli.js';
import { repository } from '../support/data.js';

const dist = dirname(dirname(command));
const { path, remove } = scratch();
afterAll(remove);

const run = (file: string, args: readonly string[], environment: Readonly<Record<string, string>> = {}) =>
  new Promise<CliResult>((resolve, reject) => {
    const child = spawn(process.execPath, [file, ...args], { env: { ...process.env, ...environment } });
    let [stdout, stderr] = ['', ''];
    child.stdout.on('data', (chunk) => void (stdout += chunk));
    child.stderr.on('data', (chunk) => void (stderr += chunk));
    child.on('error', reject);
    child.on('close', (code) => resolve({ code: code ?? -1, stdout, stderr }));
  });

const bench = join(dist, 'bench', 'main.js');
const script = (name: string) => join(dist, 'scripts', name);
const setup = join(repository, 'scripts', 'setup.mjs');
const quick = ['--quick', '--no-peers', '--out', path('rows')];

type Mistake = readonly [
  what: string,
  file: string,
  args: readonly string[],
  says: string,
  environment?: Readonly<Record<string, string>>,
];

const mistakes: readonly Mistake[] = [
  ['bench: a suite', bench, ['nosuch'], "'nosuch' is invalid"],
  ['bench: a flag', bench, ['gemm', '--nosuch'], "unknown option '--nosuch'"],
  ['bench: a device', bench, ['gemm', '--device', 'nosuch'], 'error E_DEVICE_UNKNOWN: nosuch'],
  ['bench: a case', bench, ['gemm', 'nosuch', ...quick], 'error E_USAGE: gemm: nothing was measured'],
  ['bench: cases over the results of a suite', bench, ['gemm', '128'], 'error E_USAGE: some of the cases'],
  ['bench: a tolerance', bench, ['compare', '--tolerance', 'much'], 'error E_USAGE: --tolerance: bad value'],
  ['bench: a folder of results', bench, ['compare', path('none'), path('none')], 'error E_USAGE: '],
  ['docs: a flag', script('docs.js'), ['--chek'], "unknown option '--chek'"],
  ['build:web: a flag', script('build_web.js'), ['--nosuch'], "unknown option '--nosuch'"],
  ['web: a flag', script('serve_web.js'), ['--nosuch'], "unknown option '--nosuch'"],
  ['web: a port', script('serve_web.js'), ['--port', 'many'], 'error E_USAGE: --port: bad value'],
  ['conformance: a folder', script('conformance.js'), [path('none')], 'none'],
  [
    'conformance: no data',
    script('conformance.js'),
    [],
    'error E_USAGE: TUTTI_ONNX_DATA',
    { TUTTI_ONNX_DATA: path('x') },
  ],
  ['setup: a flag', setup, ['--nosuch'], 'error E_USAGE: unknown option'],
];

describe('a mistake of the user', () => {
  for (const [what, file, args, says, environment] of mistakes) {
    it(what, async () => {
      const { code, stderr } = await run(file, args, environment);
      expect(stderr).toContain(says);
      expect(stderr).not.toMatch(/^\s+at /m);
      expect(stderr).not.toContain('internal error');
      expect(code).toBe(2);
      expect(existsSync(path('rows'))).toBe(false);
    });
  }

  it('has its stack where that is asked for', async () => {
    const { code, stderr } = await run(bench, ['gemm', '--device', 'nosuch', '--debug']);
    expect(stderr).toMatch(/^\s+at /m);
    expect(code).toBe(2);
  });
});
