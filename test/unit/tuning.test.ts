// Tuning: signatures, files, what a chosen form changes in a plan, and measuring on a device without surprises.
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { cpuBackend } from '../../backends/cpu/index.js';
import { ModelBuilder } from '../../compiler/builder/index.js';
import { plan } from '../../compiler/compile.js';
import type { Graph } from '../../compiler/graph/types.js';
import type { Target } from '../../compiler/kernel/target.js';
import { preferring, signatureOf } from '../../compiler/schedule/forms.js';
import { choicesOf, planTrial } from '../../compiler/trials.js';
import type { DeviceInfo } from '../../runtime/api.js';
import { compile } from '../../runtime/model.js';
import { Session } from '../../runtime/session.js';
import { Tensor } from '../../runtime/tensor.js';
import { tuneModel } from '../../runtime/tuner.js';
import {
  chosenFor,
  chosenOn,
  deviceName,
  mergeTuning,
  parseTuning,
  printTuning,
  type TuningEntry,
} from '../../runtime/tuning.js';
import { interpreterDevice } from '../support/interpreter_device.js';

const target = cpuBackend.target() as Target;

function dense(name: string, n: number, seed = 0): Graph {
  const g = new ModelBuilder(name);
  const x = g.input(`${name}.x`, 'f32', [8, 32]);
  const weights = Float32Array.from({ length: 32 * n }, (_, i) => Math.sin(i + seed));
  g.output(`${name}.y`, g.relu(g.matmul(x, g.constant(weights, [32, n]))));
  return g.build();
}

const signaturesOf = (graph: Graph): readonly string[] =>
  choicesOf(graph, target, {}).map(({ signature }) => signature);

describe('signatures', () => {
  it('look at types and structure, not at names and data', () => {
    const [signature] = signaturesOf(dense('a', 16));
    expect(signature).toMatch(/^[0-9a-f]{32}$/);
    expect(signaturesOf(dense('b', 16, 7))).toEqual([signature]);
    expect(signaturesOf(dense('a', 24))).not.toEqual([signature]);
  });

  it('count groups that are alike', () => {
    const g = new ModelBuilder('twice');
    let x = g.input('x', 'f32', [8, 32]);
    for (let i = 0; i < 3; i++) {
      const weights = Float32Array.from({ length: 32 * 32 }, (_, k) => Math.sin(k + i) / 8);
      x = g.relu(g.matmul(x, g.constant(weights, [32, 32])));
    }
    g.output('y', x);
    expect(choicesOf(g.build(), target, {}).map(({ count }) => count)).toEqual([3]);
  });
});

describe('chosen forms', () => {
  const graph = dense('a', 16);
  const [choice] = choicesOf(graph, target, {});
  const [first, second] = choice.forms;
  const textsOf = (chosen: ReadonlyMap<string, string>): readonly string[] => {
    const planned = plan(graph, target, { prefer: preferring(chosen) });
    return planned.kernels.map((kernel) => cpuBackend.render(kernel, target).text ?? '');
  };

  it('are taken, and nothing else is', () => {
    const plain = textsOf(new Map());
    expect(textsOf(new Map([[choice.signature, first.name]]))).toEqual(plain);
    expect(textsOf(new Map([[choice.signature, second.name]]))).not.toEqual(plain);
  });

  it('that are no longer there, or of other kernels, change nothing', () => {
    expect(textsOf(new Map([[choice.signature, 'a form of last year']]))).toEqual(textsOf(new Map()));
    expect(textsOf(new Map([['0'.repeat(32), second.name]]))).toEqual(textsOf(new Map()));
  });

  it('are planned alone, on random data', () => {
    for (const form of choice.forms) {
      const trial = planTrial(choice.group, form, target);
      expect(trial?.outputs.map(({ shape }) => shape)).toEqual([[8, 16]]);
      expect(trial?.inputs).toEqual([]);
      // The weights, perhaps packed, and the input.
      expect(trial?.constants.length).toBe(2);
    }
    expect(signatureOf(choice.group)).toBe(choice.signature);
  });
});

const entry = (changes: Partial<TuningEntry> = {}): TuningEntry => ({
  device: 'cpu: X, 2 threads',
  driver: 'cc 1',
  target: 'cpu:x86-64-v4',
  kernel: 'k',
  name: 'n',
  form: 'packed',
  microseconds: { packed: 1, direct: null },
  measured: '2026-01-01T00:00:00.000Z',
  ...changes,
});
const info = {
  backend: 'cpu',
  name: 'X',
  driver: 'cc 1',
  limits: { threads: 2 },
} as unknown as DeviceInfo;

describe('files', () => {
  it('come back as they were written', () => {
    const tuning = [entry(), entry({ kernel: 'l' })];
    expect(parseTuning(printTuning(tuning), 'x.json')).toEqual(tuning);
  });

  it.each(['', '{}', '[]', 'null', '{"format":"tutti tuning 1"}', '{"format":"tutti tuning 2","entries":[]}'])(
    'refuse %j',
    (text) => {
      expect(() => parseTuning(text, 'x.json')).toThrow(/x\.json: not a tuning file/);
    },
  );

  it('refuse entries that are none', () => {
    const bad = [{ ...entry(), form: 3 }, { ...entry(), microseconds: { packed: 'fast' } }, null, {}];
    for (const one of bad) {
      const text = JSON.stringify({ format: 'tutti tuning 1', entries: [entry(), one] });
      expect(() => parseTuning(text, 'x.json')).toThrow(/a bad entry 1/);
    }
  });

  it('merge: of one kernel on one device the latest', () => {
    const old = entry({ form: 'direct' });
    const late = entry({ form: 'staged', measured: '2026-02-01T00:00:00.000Z' });
    const foreign = entry({ device: 'cpu: Y', form: 'direct' });
    for (const merged of [mergeTuning([old, foreign], [late]), mergeTuning([late], [foreign, old])]) {
      expect(merged).toHaveLength(2);
      expect(chosenOn(merged, info)).toEqual(new Map([['k', 'staged']]));
    }
  });

  it('hold for their device and driver alone, or for a target', () => {
    const tuning = [entry()];
    expect(deviceName(info)).toBe('cpu: X, 2 threads');
    expect(chosenOn(tuning, { ...info, driver: 'cc 2' }).size).toBe(0);
    expect(chosenOn(tuning, { ...info, limits: { threads: 1 } }).size).toBe(0);
    expect(chosenFor(tuning, { ...target, backend: 'cpu', arch: 'x86-64-v4' }).get('k')).toBe('packed');
    expect(chosenFor(tuning, { ...target, backend: 'cpu', arch: 'aarch64' }).size).toBe(0);
  });
});

describe('measuring', () => {
  const options = { budget: 60_000, timeout: 20_000, candidates: 3 };

  it('tells the time of forms that agree, and which is fastest', async () => {
    const handle = interpreterDevice();
    const model = await compile(dense('a', 16));
    const { tuned, left } = await tuneModel(model, handle, options);
    expect(left).toBe(0);
    expect(tuned).toHaveLength(1);
    const [{ entry: found, before, count }] = tuned;
    expect(count).toBe(1);
    expect(found).toMatchObject({ device: deviceName(handle.device.info), driver: handle.device.info.driver });
    expect(Object.keys(found.microseconds).length).toBeGreaterThan(1);
    expect(found.microseconds[before]).toBeGreaterThan(0);
    const times = Object.values(found.microseconds).filter((time) => time !== null);
    expect(found.microseconds[found.form]).toBeLessThanOrEqual((found.microseconds[before] as number) + 0);
    expect(Math.min(...times)).toBeGreaterThan(0);
  });

  it('leaves out what is known, and what there is no time for', async () => {
    const handle = interpreterDevice();
    const model = await compile(dense('a', 16));
    const { tuned } = await tuneModel(model, handle, options);
    const known = new Set([tuned[0].entry.kernel]);
    expect(await tuneModel(model, handle, { ...options, known })).toEqual({ tuned: [], left: 0 });
    expect(await tuneModel(model, handle, { ...options, budget: 0 })).toEqual({ tuned: [], left: 1 });
  });

  it('gives up forms that take too long', async () => {
    const handle = interpreterDevice();
    const { device } = handle;
    const load = device.loadKernels.bind(device);
    let calls = 0;
    device.loadKernels = async (codes) => {
      // The first is what the others are compared with.
      if (++calls === 2) await new Promise((resolve) => setTimeout(resolve, 3000));
      return load(codes);
    };
    const model = await compile(dense('a', 16));
    const { tuned } = await tuneModel(model, handle, { ...options, timeout: 1500 });
    const { microseconds } = tuned[0].entry;
    expect(Object.values(microseconds).filter((time) => time === null)).toHaveLength(1);
    expect(microseconds[tuned[0].entry.form]).toBeGreaterThan(0);
  });

  it('says so where a form does not end in many times its time', async () => {
    const handle = interpreterDevice();
    handle.device.loadKernels = () => new Promise(() => undefined);
    const model = await compile(dense('a', 16));
    await expect(tuneModel(model, handle, { ...options, timeout: 5 })).rejects.toMatchObject({ code: 'E_DEVICE' });
  });

  it('gives sessions forms that change no result', async () => {
    const handle = interpreterDevice();
    const graph = dense('a', 16);
    const [choice] = choicesOf(graph, handle.device.target, {});
    const folder = mkdtempSync(join(tmpdir(), 'tutti-tuning-'));
    const file = join(folder, 'tuning.json');
    const x = Tensor.from(
      Float32Array.from({ length: 256 }, (_, i) => Math.cos(i)),
      [8, 32],
    );
    const run = async (tuning: string | false) => {
      const session = await Session.create(graph, { device: handle, tuning });
      const y = (await session.run({ 'a.x': x }))['a.y'].data as Float32Array;
      const kernels = session.report().specialisations[0].plan.placement.map(({ kernel }) => kernel);
      await session.close();
      return { y, kernels };
    };
    try {
      const plain = await run(false);
      for (const { name } of choice.forms) {
        const own = { device: deviceName(handle.device.info), driver: handle.device.info.driver };
        writeFileSync(file, printTuning([entry({ ...own, kernel: choice.signature, form: name })]));
        const { y } = await run(file);
        for (const [i, value] of plain.y.entries()) expect(y[i]).toBeCloseTo(value, 4);
      }
      writeFileSync(file, 'not JSON');
      await expect(run(file)).rejects.toMatchObject({ code: 'E_INPUT' });
      await expect(run(join(folder, 'absent.json'))).rejects.toMatchObject({ code: 'E_IO' });
    } finally {
      rmSync(folder, { recursive: true, force: true });
    }
  });
});
