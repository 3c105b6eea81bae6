// Builds the virtual devices of the test suite (build/virtual) where cmake and a C++ compiler are there. Where they are
// not, or the build fails, says so and goes on: the tests that need them are skipped.
import { spawnSync } from 'node:child_process';
import { existsSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';

const root = dirname(dirname(fileURLToPath(import.meta.url)));
const built = ['libcuda.so.1', 'libmetal.so'].every((name) => existsSync(join(root, 'build', 'virtual', name)));
const say = (text) => process.stderr.write(`${text}\n`);

const run = (...args) => spawnSync('cmake', args, { cwd: root, encoding: 'utf8', stdio: ['ignore', 'pipe', 'pipe'] });
if (!built) say('› virtual devices of the tests: building with cmake (about a minute)');
const start = performance.now();
let result = run('-S', 'test/virtual', '-B', 'build/virtual/cmake');
if (result.status === 0) result = run('--build', 'build/virtual/cmake', '-j', '2');
if (result.status === 0) {
  if (!built) say(`✓ virtual devices (${((performance.now() - start) / 1000).toFixed(1)} s)`);
} else {
  const reason = result.error?.message ?? `${result.stdout}\n${result.stderr}`.trim().split('\n').slice(-5).join('\n');
  say(`✗ virtual devices could not be built: the tests on them are skipped\n${reason}`);
}
