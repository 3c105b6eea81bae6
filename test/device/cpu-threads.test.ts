// The threads of the cpu driver: queue and pool compiled with the sanitizers of the host's compiler, and the end of
// JavaScript threads that wait for them.
import { execFile } from 'node:child_process';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import { afterAll, describe, expect, it } from 'vitest';

const run = promisify(execFile);
const root = fileURLToPath(new URL('../../', import.meta.url));
const folder = mkdtempSync(join(tmpdir(), 'tutti-threads-'));
afterAll(() => rmSync(folder, { recursive: true, force: true }));

const compile = (sanitizer: string, sources: readonly string[], program: string) =>
  run('c++', ['-std=c++20', '-O1', '-g', `-fsanitize=${sanitizer}`, ...sources, '-o', program, '-pthread', '-ldl']);

/** Some compilers come without the sanitizers' libraries, and some systems forbid the address space that these want. */
async function works(sanitizer: string): Promise<boolean> {
  const [source, program] = [join(folder, `${sanitizer}.cc`), join(folder, `${sanitizer}-probe`)];
  writeFileSync(source, '#include <thread>\nint main() { std::thread([] {}).join(); }\n');
  try {
    await compile(sanitizer, [source], program);
    await run(program);
    return true;
  } catch {
    return false;
  }
}

describe.each(['thread', 'address,undefined'])('%s sanitizer', (sanitizer) => {
  it('finds nothing in the queue and the pool', { timeout: 300_000 }, async ({ skip }) => {
    if (process.platform === 'win32' || !(await works(sanitizer))) skip(`no ${sanitizer} sanitizer here`);
    const sources = ['test/native/cpu_threads.cc', 'native/cpu/device.cc', 'native/cpu/pool.cc'];
    const program = join(folder, `${sanitizer}-threads`);
    await compile(
      sanitizer,
      sources.map((source) => join(root, source)),
      program,
    );
    const { stdout } = await run(program, { env: { ...process.env, TSAN_OPTIONS: 'halt_on_error=1' } });
    const [, here] = stdout.match(/^(\d+) of 300 runs in the calling thread$/m) ?? [];
    expect(Number(here)).toBeGreaterThanOrEqual(43);
  });
});

/** A worker that always waits for the queue, ended from outside, over and over. */
const endless = (addon: string) => `
  const { Worker } = require('node:worker_threads');
  const wait = \`
    const { parentPort } = require('node:worker_threads');
    const { cpu } = require(${JSON.stringify(addon)});
    const device = cpu.open(2, 2 ** 30);
    const bytes = 2 ** 24;
    const buffer = cpu.allocate(device, bytes);
    const data = new Uint8Array(bytes);
    const submit = () => cpu.submit(device, null, [buffer, 0, data, false], [buffer, 0, data, false], false, null, false);
    (async () => {
      await submit();
      parentPort.postMessage('started');
      for (;;) await Promise.all([submit(), submit(), submit()]);
    })();
  \`;
  (async () => {
    for (let i = 0; i < 6; i++) {
      const worker = new Worker(wait, { eval: true });
      await new Promise((resolve, reject) => worker.once('message', resolve).once('error', reject));
      if (i % 2 === 1) await new Promise((resolve) => setTimeout(resolve, 7 * i));
      await worker.terminate();
    }
    process.stdout.write('ended');
  })();
`;

it('workers that wait for the queue may be ended', { timeout: 120_000 }, async () => {
  const addon = join(root, 'build/Release/tutti_native.node');
  const { stdout } = await run(process.execPath, ['-e', endless(addon)]);
  expect(stdout).toBe('ended');
});
