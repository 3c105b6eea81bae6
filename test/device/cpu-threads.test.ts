// The queue and the thread pool of the cpu driver, compiled with the sanitizers of the host's compiler.
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
