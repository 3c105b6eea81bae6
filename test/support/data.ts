// Where the shared test data lies, which is too large for the repository: the ONNX backend tests and real models.
// A test that needs them asks here and is skipped, with the reason, on machines that do not have them.
import { existsSync } from 'node:fs';
import { dirname, join, resolve } from 'node:path';
import { fileURLToPath } from 'node:url';
import type { TestContext } from 'vitest';

/** The folder that holds package.json. */
export const repository = dirname(dirname(dirname(fileURLToPath(import.meta.url))));

export interface SharedData {
  readonly path: string;
  /** Why tests that need this data are skipped; undefined where the data is there. */
  readonly missing?: string;
}

/** ONNX's backend tests: node/, simple/, light/ and so on. `TUTTI_ONNX_DATA`, or ../shared/onnx. */
export const onnxData = locate('ONNX backend tests', 'TUTTI_ONNX_DATA', '../shared/onnx');

/** Real models with reference outputs, a folder each. `TUTTI_MODELS`, or ../shared/models. */
export const modelsData = locate('reference models', 'TUTTI_MODELS', '../shared/models');

/**
 * The path of something in shared data; skips the running test where it is missing.
 * For whole suites: `describe.skipIf(modelsData.missing)(…)`.
 */
export function dataPath(context: TestContext, data: SharedData, ...parts: string[]): string {
  if (data.missing !== undefined) context.skip(data.missing);
  const path = join(data.path, ...parts);
  if (!existsSync(path)) context.skip(`${path} is missing`);
  return path;
}

function locate(what: string, variable: string, standard: string): SharedData {
  const path = resolve(repository, process.env[variable] || standard);
  if (existsSync(path)) return { path };
  return { path, missing: `${what} not found at ${path}; set ${variable} to their folder` };
}
