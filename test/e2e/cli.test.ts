// The command from end to end on the cpu device: verbs, files in and out, JSON documents, exit codes.
import { createHash } from 'node:crypto';
import { existsSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { decode, encode } from 'fast-png';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { readNpy, writeNpy } from '../../cli/npy.js';
import { ModelBuilder } from '../../compiler/builder/index.js';
import { exportOnnx } from '../../compiler/frontends/onnx/index.js';
import {
  denseGraph,
  denseReference,
  negativeGraph,
  scratch,
  tutti,
  tuttiJson,
  unknownOperator,
} from '../support/cli.js';

interface RunDocument {
  readonly outputs: readonly { readonly data?: readonly number[]; readonly ok?: boolean; readonly sha256: string }[];
  readonly [key: string]: unknown;
}

const { path, remove } = scratch();
const dense = path('dense.onnx');
const picture = path('picture.png');
const rows = Float32Array.of(1, 2, 3, -1, 0.5, 4);

beforeAll(() => {
  writeFileSync(dense, exportOnnx(denseGraph()));
  writeFileSync(path('negative.onnx'), exportOnnx(negativeGraph()));
  writeFileSync(path('unknown.onnx'), unknownOperator());
  writeFileSync(path('x.npy'), writeNpy({ dtype: 'f32', shape: [2, 3], data: rows }, 'x'));
  const expected = Float32Array.from([...denseReference([1, 2, 3]), ...denseReference([-1, 0.5, 4])]);
  writeFileSync(path('y.npy'), writeNpy({ dtype: 'f32', shape: [2, 2], data: expected }, 'y'));
  const wrong = expected.map((value, i) => (i === 3 ? value + 0.01 : value));
  writeFileSync(path('wrong.npy'), writeNpy({ dtype: 'f32', shape: [2, 2], data: wrong }, 'y'));
  const data = Uint8Array.from({ length: 5 * 4 * 3 }, (_, i) => (i * 37) % 256);
  writeFileSync(picture, encode({ width: 5, height: 4, data, depth: 8, channels: 3 }));
});
afterAll(remove);

describe('help and version', () => {
  it('prints the version of the package', async () => {
    const { code, stdout } = await tutti(['--version']);
    expect(code).toBe(0);
    expect(stdout).toMatch(/^\d+\.\d+\.\d+\n$/);
  });

  for (const verb of ['', 'devices', 'compile', 'run', 'bench', 'tune', 'inspect', 'doctor', 'conformance']) {
    it(`explains ${verb === '' ? 'itself' : verb}`, async () => {
      const { code, stdout } = await tutti([...(verb === '' ? [] : [verb]), '--help']);
      expect(code).toBe(0);
      expect(stdout).toContain(`Usage: tutti${verb === '' ? '' : ` ${verb}`}`);
    });
  }
});

describe('devices', () => {
  it('prints its document', async () => {
    const document = await tuttiJson<{ devices: Record<string, unknown>[]; missing: unknown[] }>(['devices', '--json']);
    expect(Object.keys(document).sort()).toEqual(['devices', 'missing']);
    const cpu = document.devices.find(({ id }) => id === 'cpu');
    expect(cpu).toMatchObject({
      id: 'cpu',
      backend: 'cpu',
      name: expect.any(String),
      driver: expect.any(String),
      virtual: false,
      memoryBytes: expect.any(Number),
      features: expect.any(Array),
      limits: expect.any(Object),
    });
  });
});

describe('run', () => {
  const base = ['run', dense, '--device', 'cpu'];

  it('prints its document, with the digest of the output', async () => {
    const document = await tuttiJson<RunDocument>([
      ...base,
      '--input',
      'x=1,2,3',
      '--output',
      'y=-',
      '--repeat',
      '2',
      '--json',
    ]);
    expect(document).toMatchObject({
      model: dense,
      device: 'cpu',
      numerics: 'precise',
      firstRunMs: expect.any(Number),
      medianMs: expect.any(Number),
      kernels: expect.any(Number),
      arenaBytes: expect.any(Number),
      outputs: [{ name: 'y', dtype: 'f32', shape: [1, 2], data: denseReference([1, 2, 3]) }],
    });
    const bytes = new Uint8Array(Float32Array.from(denseReference([1, 2, 3])).buffer);
    expect(document.outputs[0].sha256).toBe(createHash('sha256').update(bytes).digest('hex'));
  });

  it('takes the only input without its name, reads and writes .npy', async () => {
    const { code, stderr } = await tutti([
      ...base,
      '--input',
      `@${path('x.npy')}`,
      '--output',
      `y=@${path('out.npy')}`,
    ]);
    expect(stderr).toBe('');
    expect(code).toBe(0);
    const { shape, data } = readNpy(readFileSync(path('out.npy')), 'out');
    expect(shape).toEqual([2, 2]);
    expect([...(data as Float32Array)]).toEqual([...denseReference([1, 2, 3]), ...denseReference([-1, 0.5, 4])]);
  });

  it('says yes or no to an expectation', async () => {
    const yes = await tutti([...base, '--input', `@${path('x.npy')}`, '--expect', `y=@${path('y.npy')}`]);
    expect(yes.code).toBe(0);
    const no = await tuttiJson<RunDocument>(
      [...base, '--input', `@${path('x.npy')}`, '--expect', `y=@${path('wrong.npy')}`, '--json'],
      1,
    );
    expect(no.outputs[0]).toMatchObject({
      ok: false,
      maxAbsDiff: expect.closeTo(0.01, 4),
      maxRelDiff: expect.any(Number),
    });
    const loose = [...base, '--input', `@${path('x.npy')}`, '--expect', `y=@${path('wrong.npy')}`, '--atol', '0.02'];
    expect((await tutti(loose)).code).toBe(0);
  });

  it('makes the same random input from the same seed', async () => {
    const digest = async (seed: number) =>
      (await tuttiJson<RunDocument>([...base, '--dim', 'batch=64', '--input', `x=random:${seed}`, '--json'])).outputs[0]
        .sha256;
    const first = await digest(1);
    expect(await digest(1)).toBe(first);
    expect(await digest(2)).not.toBe(first);
  });

  it('turns a picture into a picture', async () => {
    const out = path('negative.png');
    const args = ['--input', `image=@${picture}:nchw,0..1`, '--output', `negative=@${out}`];
    expect((await tutti(['run', path('negative.onnx'), '--device', 'cpu', ...args])).code).toBe(0);
    const [before, after] = [decode(readFileSync(picture)), decode(readFileSync(out))];
    expect([after.width, after.height, after.channels]).toEqual([5, 4, 3]);
    expect([...after.data]).toEqual([...before.data].map((value) => 255 - value));
  });

  it('scales a picture to the range asked for', async () => {
    const args = ['--input', `image=@${picture}:nchw,-1..1,bgr`, '--output', '-', '--json'];
    const document = await tuttiJson<RunDocument>(['run', path('negative.onnx'), '--device', 'cpu', ...args]);
    const { data } = decode(readFileSync(picture));
    // 1 - (2·v/255 - 1), planes in the order blue, green, red.
    const expected = [2, 1, 0].flatMap((c) => Array.from({ length: 20 }, (_, i) => 2 - (2 * data[3 * i + c]) / 255));
    for (const [i, value] of (document.outputs[0].data ?? []).entries()) expect(value).toBeCloseTo(expected[i], 5);
    expect(document.outputs[0].data).toHaveLength(60);
  });

  it('compares all devices', async () => {
    const document = await tuttiJson<{ devices?: { device: string; outputs: { ok?: boolean }[] }[]; device: string }>([
      'run',
      dense,
      '--device',
      'cpu',
      '--device',
      'cpu',
      '--input',
      'x=1,2,3',
      '--json',
    ]);
    expect(document.device).toBe('cpu');
    expect(document.devices).toHaveLength(2);
    expect(document.devices?.[1].outputs[0]).toMatchObject({ ok: true, maxAbsDiff: 0 });
  });

  it('writes a trace that Chrome reads', async () => {
    const trace = path('trace.json');
    expect((await tutti([...base, '--input', 'x=1,2,3', '--profile', trace, '--strict-device'])).code).toBe(0);
    const { traceEvents } = JSON.parse(readFileSync(trace, 'utf8')) as {
      traceEvents: { ph: string; cat: string; dur?: number }[];
    };
    expect(traceEvents.some(({ cat }) => cat === 'compile')).toBe(true);
    expect(traceEvents.filter(({ cat }) => cat === 'dispatch').length).toBeGreaterThan(0);
    expect(traceEvents.every(({ ph, dur }) => ph === 'M' || (ph === 'X' && Number(dur) >= 0))).toBe(true);
  });
});

describe('compile', () => {
  it('writes an artifact that gives the same bits, kernels and IR', async () => {
    const artifact = path('dense.tutti');
    const args = [
      '-o',
      artifact,
      '--target',
      'cpu',
      '--target',
      'webgpu',
      '--emit',
      path('kernels'),
      '--dump-ir',
      path('ir'),
    ];
    const { code, stderr } = await tutti(['compile', dense, ...args]);
    expect(stderr).not.toContain('error');
    expect(code).toBe(0);
    const run = async (model: string) =>
      (await tuttiJson<RunDocument>(['run', model, '--device', 'cpu', '--input', 'x=1,2,3', '--json'])).outputs[0]
        .sha256;
    expect(await run(artifact)).toBe(await run(dense));
    expect(readdirSync(path('kernels', 'cpu')).every((name) => name.endsWith('.c'))).toBe(true);
    expect(readFileSync(path('kernels', 'webgpu', readdirSync(path('kernels', 'webgpu'))[0]), 'utf8')).toContain(
      '@compute',
    );
    expect(readdirSync(path('ir')).length).toBeGreaterThan(5);
  });

  it('bounds a named dim', async () => {
    const artifact = path('bounded.tutti');
    expect((await tutti(['compile', dense, '-o', artifact, '--dim', 'batch=1..2'])).code).toBe(0);
    expect((await tutti(['run', artifact, '--device', 'cpu', '--input', `@${path('x.npy')}`])).code).toBe(0);
    const { code, stderr } = await tutti(['run', artifact, '--device', 'cpu', '--input', '1,2,3,4,5,6,7,8,9']);
    expect([code, stderr]).toEqual([2, expect.stringContaining('E_INPUT')]);
  });

  it('names targets that it does not know', async () => {
    const { code, stderr } = await tutti(['compile', dense, '-o', path('no.tutti'), '--target', 'abacus']);
    expect([code, stderr]).toEqual([2, expect.stringMatching(/E_USAGE.*cpu.*abacus/)]);
    expect(existsSync(path('no.tutti'))).toBe(false);
  });
});

describe('inspect and doctor', () => {
  it('prints the document of inspect', async () => {
    const document = await tuttiJson<Record<string, unknown>>(['inspect', dense, '--json']);
    expect(document).toMatchObject({
      inputs: [{ name: 'x', dtype: 'f32', shape: ['batch', 3] }],
      outputs: [{ name: 'y', dtype: 'f32', shape: ['batch', 2] }],
      assumed: { batch: 1 },
      placement: expect.any(Array),
    });
    for (const key of [
      'nodes',
      'groups',
      'kernels',
      'arenaBytes',
      'largestLiveBytes',
      'weightsBytes',
      'constantsFolded',
    ]) {
      expect(document[key], key).toEqual(expect.any(Number));
    }
  });

  it('writes a page in which names of the model are only text', async () => {
    const page = path('page.html');
    expect((await tutti(['inspect', dense, '--html', page])).code).toBe(0);
    const html = readFileSync(page, 'utf8');
    expect(html).toContain('<code>y</code>');
    expect(html).not.toContain('<script');
  });

  it('prints types', async () => {
    const { stdout } = await tutti(['inspect', dense, '--types']);
    expect(stdout).toContain("readonly x: Tensor & { readonly type: 'float32'; readonly data: Float32Array };");
  });

  it('doctor says yes', async () => {
    const document = await tuttiJson<{ devices: unknown[] }>(['doctor', dense, '--device', 'cpu', '--json']);
    expect(document.devices).toMatchObject([{ device: 'cpu', supported: true, problems: [] }]);
  });

  it('doctor names the operator that is missing', async () => {
    const args = ['doctor', path('unknown.onnx'), '--device', 'cpu', '--json'];
    const document = await tuttiJson<Record<string, unknown>>(args, 1);
    expect(document).toMatchObject({
      unsupportedOperators: [{ operator: 'NoSuchOperator', nodes: 1 }],
      problems: [{ code: 'E_UNSUPPORTED', message: expect.stringContaining('node_7') }],
    });
  });
});

describe('tune', () => {
  interface TuneDocument {
    readonly file: string;
    readonly entries: number;
    readonly measured: number;
    readonly left: number;
    readonly kernels: readonly { readonly form: string; readonly microseconds: Record<string, number | null> }[];
  }
  const file = path('tuning.json');
  const wide = path('wide.onnx');
  const tune = (...more: string[]) =>
    tuttiJson<TuneDocument>(['tune', wide, '--device', 'cpu', '--output', file, '--json', ...more]);

  beforeAll(() => {
    const g = new ModelBuilder('wide');
    const weights = Float32Array.from({ length: 48 * 80 }, (_, i) => Math.sin(i));
    g.output('y', g.matmul(g.input('x', 'f32', [64, 48]), g.constant(weights, [48, 80])));
    writeFileSync(wide, exportOnnx(g.build()));
  });

  it('measures once, keeps what it found, and adds what is merged', async () => {
    const first = await tune('--budget', '30');
    expect(first).toMatchObject({ file, left: 0, measured: 1 });
    expect(first.kernels).toHaveLength(1);
    for (const { form, microseconds } of first.kernels) expect(microseconds[form]).toBeGreaterThan(0);
    expect(await tune('--budget', '30')).toMatchObject({ measured: 0, entries: first.entries });
    const foreign = path('foreign.json');
    const [entry] = [{ device: 'x', driver: 'y', target: 'z', kernel: 'k', name: 'n', form: 'f', measured: '2026' }];
    const document = { format: 'tutti tuning 1', entries: [{ ...entry, microseconds: { f: 1 } }] };
    writeFileSync(foreign, JSON.stringify(document));
    expect(await tune('--merge', foreign)).toMatchObject({ measured: 0, entries: first.entries + 1 });
  });

  it('gives run a file to read, and refuses what is none', async () => {
    const args = ['run', dense, '--device', 'cpu', '--input', `x=@${path('x.npy')}`, '--expect', `y=@${path('y.npy')}`];
    expect((await tutti([...args, '--tuning', file])).code).toBe(0);
    const { code, stderr } = await tutti([...args, '--tuning', path('x.npy')]);
    expect(code).toBe(2);
    expect(stderr).toContain('not a tuning file');
  });
});

describe('bench', () => {
  it('prints both medians from one run and their ratio', async () => {
    const flags = ['--peer', 'onnxruntime', '--warmup', '2', '--iterations', '20', '--duration', '0.2', '--json'];
    const document = await tuttiJson<Record<string, Record<string, number>>>([
      'bench',
      dense,
      '--device',
      'cpu',
      ...flags,
    ]);
    const timing = { medianMs: expect.any(Number), p10Ms: expect.any(Number), p90Ms: expect.any(Number) };
    expect(document).toMatchObject({
      device: 'cpu',
      numerics: 'precise',
      warmup: 2,
      ours: timing,
      peer: { name: 'onnxruntime', version: expect.stringMatching(/^\d/), ...timing },
      ratio: expect.any(Number),
      roof: { flops: expect.any(Number), bytes: expect.any(Number), percent: expect.any(Number) },
      compileMs: expect.any(Number),
      kernels: expect.any(Number),
      arenaBytes: expect.any(Number),
      peakRssBytes: expect.any(Number),
    });
    expect(document.ratio).toBeCloseTo(document.peer.medianMs / document.ours.medianMs, 6);
    expect(document.iterations).toBeGreaterThanOrEqual(20);
  });
});
