// ONNX's backend tests on every device of this machine, through the command. A tenth of the cases, spread evenly by
// name; all of them with TUTTI_CONFORMANCE=all.
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { devices } from '../../index.js';
import { tutti } from '../support/cli.js';
import { onnxData } from '../support/data.js';
import { caseNames } from '../support/onnx_cases.js';

interface Report {
  readonly passed: number;
  readonly failed: number;
  readonly unsupported: number;
  readonly hostNodes: number;
  readonly cases: readonly { readonly name: string; readonly status: string; readonly reason?: string }[];
}

/** To be raised as operators come: the share of cases that pass. */
const least = 0.75;
/** Of all cases; those that fail are to be mended, not listed. */
const mostFailed = 0.02;

/** FNV-1a. */
function hash(text: string): number {
  let h = 0x811c9dc5;
  for (let i = 0; i < text.length; i++) h = Math.imul(h ^ text.charCodeAt(i), 0x01000193);
  return h >>> 0;
}

const all = process.env.TUTTI_CONFORMANCE === 'all';
const present = await devices();

describe.skipIf(onnxData.missing)("ONNX's backend tests on devices", () => {
  for (const { id } of present.devices) {
    it(`${id}: at least ${100 * least} % pass`, { timeout: 3_600_000 }, async () => {
      const root = join(onnxData.path, 'node');
      const names = all ? [] : caseNames(root).filter((name) => hash(name) % 10 === 0);
      const folders = all ? [root] : names.map((name) => join(root, name));
      const { stdout, stderr } = await tutti(['conformance', ...folders, '--device', id, '--json']);
      expect(stdout, stderr).not.toBe('');
      const { passed, failed, unsupported, hostNodes, cases } = JSON.parse(stdout) as Report;
      const total = passed + failed + unsupported;
      console.log(`${id}: ${passed} of ${total} passed, ${failed} failed, ${unsupported} unsupported`);
      for (const { name, status, reason } of cases) if (status === 'failed') console.log(`  ${name}: ${reason}`);
      expect(cases).toHaveLength(total);
      expect(hostNodes).toBe(0);
      expect(cases.filter(({ status, reason }) => status === 'unsupported' && !reason)).toEqual([]);
      expect(passed / total).toBeGreaterThanOrEqual(least);
      expect(failed / total).toBeLessThanOrEqual(mostFailed);
    });
  }
});
