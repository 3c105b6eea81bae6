// The ONNX backend tests through the frontend and the reference evaluator: what the ops mean, without any device.
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { exportOnnx, importOnnx } from '../../compiler/frontends/onnx/index.js';
import type { Graph } from '../../compiler/graph/types.js';
import type { HostTensor } from '../../compiler/tensor.js';
import { onnxData } from '../support/data.js';
import { bind, caseNames, type Outcome, runCase, takesTensors } from '../support/onnx_cases.js';

/** Floors, to be raised as operators come: cases that pass, of all in the folder. */
const suites: readonly { folder: string; least: number }[] = [
  { folder: 'node', least: 0.84 },
  { folder: 'simple', least: 0.1 },
  { folder: 'pytorch-converted', least: 0.9 },
  { folder: 'pytorch-operator', least: 0.9 },
  { folder: 'ort-graphs', least: 0.9 },
];

describe.skipIf(onnxData.missing)('ONNX backend tests on the host', () => {
  for (const { folder, least } of suites) {
    it(`${folder}: at least ${least * 100} % pass, none crashes`, { timeout: 600_000 }, () => {
      const root = join(onnxData.path, folder);
      const filter = process.env.TUTTI_ONNX_FILTER;
      const names = caseNames(root).filter((name) => filter === undefined || new RegExp(filter).test(name));
      const outcomes = names.map((name) => runCase(root, name));
      const report = process.env.TUTTI_ONNX_REPORT;
      if (report) writeFileSync(`${report}-${folder}.json`, JSON.stringify(outcomes, null, 1));
      const count = (verdict: Outcome['verdict']): number => outcomes.filter((o) => o.verdict === verdict).length;
      console.log(
        `${folder}: ${count('passed')} of ${names.length} passed, ${count('failed')} failed, ` +
          `${count('unsupported')} unsupported, ${count('crashed')} crashed`,
      );
      expect(outcomes.filter((o) => o.verdict === 'crashed').map((o) => `${o.name}: ${o.reason}`)).toEqual([]);
      if (filter === undefined) expect(count('passed') / names.length).toBeGreaterThanOrEqual(least);
    });
  }

  it('models written by exportOnnx and read again compute the same', { timeout: 600_000 }, () => {
    const root = join(onnxData.path, 'node');
    const again = (graph: Graph, inputs: readonly HostTensor[]): Graph => {
      const concrete = bind(graph, inputs);
      return bind(importOnnx(exportOnnx(concrete)), inputs);
    };
    const filter = process.env.TUTTI_ONNX_FILTER;
    const names = caseNames(root).filter((name) => filter === undefined || new RegExp(filter).test(name));
    const outcomes = names
      .filter((name) => takesTensors(root, name) && runCase(root, name).verdict === 'passed')
      .map((name) => runCase(root, name, again));
    const report = process.env.TUTTI_ONNX_REPORT;
    if (report) writeFileSync(`${report}-export.json`, JSON.stringify(outcomes, null, 1));
    const passed = outcomes.filter(({ verdict }) => verdict === 'passed').length;
    console.log(`export: ${passed} of ${outcomes.length} passed`);
    expect(outcomes.filter(({ verdict }) => verdict === 'failed' || verdict === 'crashed')).toEqual([]);
    expect(passed / outcomes.length).toBeGreaterThan(0.95);
  });
});
