// `tutti conformance` over a small folder: what passes, what does not, and what crashes or hangs.
import { mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import type { HostTensor } from '../../compiler/tensor.js';
import { denseGraph, denseReference, scratch, tutti, unknownOperator, writeCase } from '../support/cli.js';

interface Report {
  readonly device: string;
  readonly numerics: string;
  readonly passed: number;
  readonly failed: number;
  readonly unsupported: number;
  readonly hostNodes: number;
  readonly cases: readonly {
    readonly name: string;
    readonly status: string;
    readonly reason?: string;
    readonly ms: number;
  }[];
}

const { path, remove } = scratch();
const f32 = (shape: number[], ...values: number[]): HostTensor => ({
  dtype: 'f32',
  shape,
  data: Float32Array.from(values),
});
const set = (row: readonly number[], error = 0) => ({
  inputs: [f32([1, 3], ...row)],
  outputs: [f32([1, 2], ...denseReference(row).map((value) => value + error))],
});

beforeAll(() => {
  const cases = path('cases');
  writeCase(`${cases}/a_good`, denseGraph(), [set([1, 2, 3]), set([4, 5, 6])]);
  writeCase(`${cases}/b_crash`, denseGraph(), [set([1, 2, 3])]);
  writeCase(`${cases}/c_hang`, denseGraph(), [set([1, 2, 3])]);
  writeCase(`${cases}/deep/er/d_wrong`, denseGraph(), [set([1, 2, 3]), set([1, 2, 3], 0.1)]);
  writeCase(`${cases}/e_unsupported`, unknownOperator(), [{ inputs: [f32([2], 1, 2)], outputs: [f32([2], 1, 2)] }]);
  writeCase(`${cases}/f_nan`, denseGraph(), [
    { inputs: [f32([1, 3], 1, 2, 3)], outputs: [f32([1, 2], Number.NaN, 4.5)] },
  ]);
  writeCase(`${cases}/g_lenient`, denseGraph(), [set([1, 2, 3], 0.1)]);
  writeFileSync(`${cases}/g_lenient/README.json`, JSON.stringify({ recommended_tolerance: { rtol: 0, atol: 0.2 } }));
  writeCase(`${cases}/h_last`, denseGraph(), [set([7, 8, 9])]);
  mkdirSync(`${cases}/not_a_case`);
  // Loaded into the processes of the command: kills or stops the one that is given these cases. Listening to 'message'
  // here would take the first ones away from the worker, which is not loaded yet.
  writeFileSync(
    path('fault.mjs'),
    `const emit = process.emit;
    process.emit = function (event, message, ...rest) {
      if (event === 'message' && message.job?.name === 'b_crash') process.kill(process.pid, 'SIGSEGV');
      if (event === 'message' && message.job?.name === 'c_hang') for (;;);
      return emit.call(this, event, message, ...rest);
    };`,
  );
});
afterAll(remove);

describe('conformance', () => {
  it('counts a crash and a hang and goes on', async () => {
    const file = path('report.json');
    const { code, stdout } = await tutti(
      ['conformance', path('cases'), '--device', 'cpu', '--timeout', '6', '--json', file],
      { NODE_OPTIONS: `--import ${path('fault.mjs')}` },
    );
    expect(code).toBe(1);
    const report = JSON.parse(readFileSync(file, 'utf8')) as Report;
    expect(Object.keys(report).sort()).toEqual([
      'cases',
      'device',
      'failed',
      'hostNodes',
      'numerics',
      'passed',
      'unsupported',
    ]);
    expect(report).toMatchObject({
      device: 'cpu',
      numerics: 'precise',
      passed: 3,
      failed: 4,
      unsupported: 1,
      hostNodes: 0,
    });
    const statuses = Object.fromEntries(report.cases.map(({ name, status }) => [name, status]));
    expect(statuses).toEqual({
      a_good: 'passed',
      b_crash: 'failed',
      c_hang: 'failed',
      'deep/er/d_wrong': 'failed',
      e_unsupported: 'unsupported',
      f_nan: 'failed',
      g_lenient: 'passed',
      h_last: 'passed',
    });
    const reason = (name: string) => report.cases.find((entry) => entry.name === name)?.reason ?? '';
    expect(reason('b_crash')).toContain('SIGSEGV');
    expect(reason('c_hang')).toContain('no answer within 6 s');
    expect(reason('deep/er/d_wrong')).toContain('test_data_set_1, output y');
    expect(reason('e_unsupported')).toContain('NoSuchOperator');
    expect(stdout).toContain('3 of 8 passed');
    expect(report.cases.every(({ ms }) => ms >= 0)).toBe(true);
  });

  it('is content if all that fails is listed, and prints one document', async () => {
    const list = path('expectations.txt');
    writeFileSync(list, 'deep/er/d_wrong # the reference is wrong\n\n# nothing but a remark\nf_nan\n');
    const filter = ['--filter', 'good|wrong|nan|last'];
    const base = ['conformance', path('cases'), '--device', 'cpu', '--json', ...filter];
    const { code, stdout } = await tutti([...base, '--expectations', list]);
    expect(JSON.parse(stdout)).toMatchObject({ passed: 2, failed: 2 });
    expect(code).toBe(0);
    writeFileSync(list, 'f_nan\n');
    expect((await tutti([...base, '--expectations', list])).code).toBe(1);
  });

  it('compares by scale where asked', async () => {
    const args = [
      'conformance',
      path('cases'),
      '--device',
      'cpu',
      '--filter',
      'wrong|nan',
      '--json',
      '--scaled',
      '0.05',
    ];
    // 0.1 of a largest value of 4.5 is within 5 %; NaN is never close.
    expect(JSON.parse((await tutti(args)).stdout)).toMatchObject({ passed: 1, failed: 1 });
  });
});
