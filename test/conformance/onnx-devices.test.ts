// ONNX's backend tests on every device of this machine, through the command: a tenth of the cases, spread evenly by
// name, and all of them with TUTTI_CONFORMANCE=all. What the committed results say passes must pass.
import { existsSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { conformanceDevices } from '../../scripts/conformance_devices.js';
import { tutti } from '../support/cli.js';
import { onnxData, repository } from '../support/data.js';
import { caseNames } from '../support/onnx_cases.js';

interface Report {
  readonly hostNodes: number;
  readonly cases: readonly {
    readonly suite: string;
    readonly name: string;
    readonly status: string;
    readonly reason?: string;
  }[];
}

const suites = ['node', 'simple', 'pytorch-converted', 'pytorch-operator', 'ort-graphs'];

/** FNV-1a. */
function hash(text: string): number {
  let h = 0x811c9dc5;
  for (let i = 0; i < text.length; i++) h = Math.imul(h ^ text.charCodeAt(i), 0x01000193);
  return h >>> 0;
}

const all = process.env.TUTTI_CONFORMANCE === 'all';
const present = suites.filter((suite) => existsSync(join(onnxData.path, suite)));
const selected = present.flatMap((suite) =>
  caseNames(join(onnxData.path, suite)).flatMap((name) =>
    all || hash(name) % 10 === 0 ? [join(onnxData.path, suite, name)] : [],
  ),
);

/** Cases that the committed results of a device list as not passed. */
function listed(name: string): ReadonlySet<string> {
  const path = join(repository, 'bench', 'results', `conformance-${name}.json`);
  const { cases } = JSON.parse(readFileSync(path, 'utf8')) as Report;
  return new Set(cases.flatMap((one) => (one.status === 'passed' ? [] : [one.name])));
}

describe.skipIf(onnxData.missing)("ONNX's backend tests on devices", () => {
  for (const { name, device, env, missing } of conformanceDevices(repository)) {
    it(name, { timeout: 3_600_000 }, async (context) => {
      if (missing !== undefined) context.skip(missing);
      const args = ['conformance', ...selected, '--device', device, '--json'];
      const { stdout, stderr, code } = await tutti(args, env);
      if (stdout === '' && stderr.includes('E_DEVICE')) context.skip(stderr.trim());
      expect(stdout, `${code}: ${stderr}`).not.toBe('');
      const { hostNodes, cases } = JSON.parse(stdout) as Report;
      expect(cases).toHaveLength(selected.length);
      expect(hostNodes).toBe(0);
      const expected = listed(name);
      const wrong = cases.filter((one) => one.status !== 'passed' && !expected.has(one.name));
      expect(wrong.map((one) => `${one.name}: ${one.status}, ${one.reason}`)).toEqual([]);
      // A list that is too long hides what breaks later.
      const surprising = cases.filter((one) => one.status === 'passed' && expected.has(one.name));
      expect(surprising.map((one) => one.name)).toEqual([]);
    });
  }
});
