// Test projects by folder: unit needs nothing but this checkout; device, conformance and e2e need a backend.
import { defineConfig } from 'vitest/config';

const project = (name: string, ...include: string[]) => ({ extends: true as const, test: { name, include } });

export default defineConfig({
  // Node 20 has no `using` syntax: lower it as tsc does.
  oxc: { target: 'es2022' },
  test: {
    pool: 'forks',
    maxWorkers: 2,
    testTimeout: 120_000,
    hookTimeout: 120_000,
    reporters: ['default', ['json', { outputFile: 'build/test-results.json' }]],
    projects: [
      project('unit', 'test/*.test.ts', 'test/unit/**/*.test.ts'),
      project('golden', 'test/golden/**/*.test.ts'),
      project('fuzz', 'test/fuzz/**/*.test.ts'),
      project('device', 'test/device/**/*.test.ts'),
      project('virtual', 'test/virtual/**/*.test.ts'),
      project('conformance', 'test/conformance/**/*.test.ts'),
      project('e2e', 'test/e2e/**/*.test.ts'),
    ],
  },
});
