// Bad input to the command: the right code, the right exit code, no stack trace, nothing left behind.
import { existsSync, mkdirSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { writeNpy } from '../../cli/npy.js';
import { exportOnnx } from '../../compiler/frontends/onnx/index.js';
import { denseGraph, externalWeight, scratch, tutti, unknownOperator } from '../support/cli.js';
import { model, node, value } from '../support/onnx_model.js';

const { path, remove } = scratch();

beforeAll(async () => {
  mkdirSync(path('in'));
  const onnx = exportOnnx(denseGraph());
  writeFileSync(path('in', 'good.onnx'), onnx);
  writeFileSync(path('in', 'truncated.onnx'), onnx.subarray(0, onnx.length - 20));
  writeFileSync(path('in', 'empty.onnx'), '');
  writeFileSync(
    path('in', 'noise.onnx'),
    Uint8Array.from({ length: 4096 }, (_, i) => (i * i * 31 + 7 * i) % 251),
  );
  writeFileSync(path('in', 'text.onnx'), 'this is no model');
  writeFileSync(path('in', 'unknown.onnx'), unknownOperator());
  const anyRank = { nodes: [node('y = Relu(x)')], inputs: [value('x', 'f32')], outputs: ['y'] };
  writeFileSync(path('in', 'any-rank.onnx'), model(anyRank));
  writeFileSync(path('in', 'missing-data.onnx'), externalWeight('weights.bin'));
  writeFileSync(path('in', 'escape.onnx'), externalWeight('../../etc/passwd'));
  const npy = (name: string, dtype: 'f32' | 'f64', shape: number[]) => {
    const data = new (dtype === 'f32' ? Float32Array : Float64Array)(shape.reduce((a, b) => a * b, 1));
    writeFileSync(path('in', name), writeNpy({ dtype, shape, data }, name));
  };
  npy('x.npy', 'f32', [1, 3]);
  npy('rank.npy', 'f32', [3]);
  npy('size.npy', 'f32', [1, 4]);
  npy('f64.npy', 'f64', [1, 3]);
  writeFileSync(path('in', 'cut.npy'), readFileSync(path('in', 'x.npy')).subarray(0, 132));
  writeFileSync(path('in', 'bad.png'), 'no picture');
  await tutti(['compile', path('in', 'good.onnx'), '-o', path('in', 'good.tutti')]);
  const artifact = readFileSync(path('in', 'good.tutti'));
  writeFileSync(path('in', 'cut.tutti'), artifact.subarray(0, 3000));
  artifact[artifact.length >> 1] ^= 0x40;
  writeFileSync(path('in', 'flipped.tutti'), artifact);
});
afterAll(remove);

const input = (name: string) => path('in', name);
const run = (model: string, ...args: string[]) => ['run', input(model), '--device', 'cpu', ...args];
const good = (...args: string[]) => run('good.onnx', ...args);

/** What is done, the error's code, the exit code, and what the message must name. */
const cases: readonly (readonly [title: string, args: () => string[], code: string, exit: number, names: RegExp])[] = [
  ['no such file', () => run('none.onnx', '--input', 'x=zeros'), 'E_IO', 2, /none\.onnx.*no such file/],
  ['a folder', () => ['run', path('in'), '--device', 'cpu'], 'E_IO', 2, /not a file/],
  ['a truncated model', () => run('truncated.onnx', '--input', 'x=1,2,3'), 'E_MODEL_FORMAT', 1, /truncated/],
  ['an empty model', () => run('empty.onnx', '--input', 'x=1,2,3'), 'E_MODEL_FORMAT', 1, /empty/],
  ['random bytes', () => run('noise.onnx', '--input', 'x=1,2,3'), 'E_MODEL_FORMAT', 1, /ONNX/],
  ['text', () => run('text.onnx', '--input', 'x=1,2,3'), 'E_MODEL_FORMAT', 1, /ONNX/],
  ['an unknown operator', () => run('unknown.onnx', '--input', 'x=1,2'), 'E_UNSUPPORTED', 1, /node_7.*NoSuchOperator/],
  ['missing external data', () => run('missing-data.onnx', '--input', 'x=1,2'), 'E_EXTERNAL_DATA', 1, /weights\.bin/],
  ['external data elsewhere', () => run('escape.onnx', '--input', 'x=1,2'), 'E_EXTERNAL_DATA', 1, /etc\/passwd/],
  ['a cut artifact', () => run('cut.tutti', '--input', 'x=1,2,3'), 'E_ARTIFACT', 1, /./],
  ['a flipped bit', () => run('flipped.tutti', '--input', 'x=1,2,3'), 'E_ARTIFACT', 1, /./],
  [
    'an unknown device',
    () => ['run', input('good.onnx'), '--device', 'abacus', '--input', 'x=1,2,3'],
    'E_DEVICE_UNKNOWN',
    2,
    /abacus.*one of.*cpu/,
  ],
  ['an unknown input', () => good('--input', 'z=1,2,3'), 'E_INPUT', 2, /one of x.*found z/],
  ['a missing input', () => good(), 'E_INPUT', 2, /x: input is missing.*--input x=/],
  ['a missing input of any rank', () => run('any-rank.onnx'), 'E_INPUT', 2, /float32 of a shape of any rank/],
  ['random data of any rank', () => run('any-rank.onnx', '--input', 'x=random:1'), 'E_INPUT', 2, /--shape x=2x3/],
  ['an unknown output', () => good('--input', 'x=1,2,3', '--output', 'z=-'), 'E_INPUT', 2, /one of y/],
  ['the wrong element type', () => good('--input', `x=@${input('f64.npy')}`), 'E_INPUT', 2, /float32.*float64/],
  ['the wrong rank', () => good('--input', `x=@${input('rank.npy')}`), 'E_INPUT', 2, /rank.*2 dims/],
  ['the wrong size', () => good('--input', `x=@${input('size.npy')}`), 'E_INPUT', 2, /x.*3.*4/],
  ['too few values', () => good('--input', 'x=1,2'), 'E_INPUT', 2, /multiple of 3/],
  ['a random input of unknown shape', () => good('--input', 'x=random:1'), 'E_INPUT', 2, /--dim batch=/],
  ['a cut .npy file', () => good('--input', `x=@${input('cut.npy')}`), 'E_INPUT', 2, /cut off/],
  ['a PNG that is none', () => good('--input', `x=@${input('bad.png')}`), 'E_INPUT', 2, /PNG/],
  ['a form of input that there is not', () => good('--input', 'x=@a.jpg'), 'E_USAGE', 2, /@x\.npy/],
  ['a bad shape', () => good('--shape', 'x=1xtwo', '--input', 'x=zeros'), 'E_USAGE', 2, /--shape/],
  ['a dim that there is not', () => good('--dim', 'depth=2', '--input', 'x=zeros'), 'E_INPUT', 2, /depth/],
  ['bad numerics', () => good('--numerics', 'sloppy', '--input', 'x=zeros'), 'E_USAGE', 2, /fast, precise or strict/],
  [
    'an output in no folder',
    () => good('--input', 'x=1,2,3', '--output', `y=@${path('none', 'y.npy')}`),
    'E_IO',
    2,
    /folder does not exist/,
  ],
  ['an artifact in no folder', () => ['compile', input('good.onnx'), '-o', path('none', 'm.tutti')], 'E_IO', 2, /none/],
  ['an artifact over a folder', () => ['compile', input('good.onnx'), '-o', path('in')], 'E_IO', 2, /folder/],
  ['a page in no folder', () => ['inspect', input('good.onnx'), '--html', path('none', 'p.html')], 'E_IO', 2, /none/],
  ['conformance of no folder', () => ['conformance', path('none')], 'E_IO', 2, /none/],
  ['conformance without cases', () => ['conformance', path('in')], 'E_IO', 2, /no case/],
];

describe('bad input', () => {
  for (const [title, args, code, exit, names] of cases) {
    it(`${title}: ${code}`, async () => {
      const before = readdirSync(path('in'));
      const result = await tutti(args());
      expect(result.stderr).toContain(`error ${code}: `);
      expect(result.stderr).toMatch(names);
      expect(result.stderr).not.toMatch(/\n\s+at /);
      expect(result.stdout).toBe('');
      expect(result.code).toBe(exit);
      expect(readdirSync(path('in'))).toEqual(before);
      expect(existsSync(path('none'))).toBe(false);
    });
  }

  it('shows the stack with --debug', async () => {
    expect((await tutti([...run('empty.onnx'), '--debug'])).stderr).toMatch(/\n\s+at /);
  });

  it('keeps an artifact that is there when a later compilation fails', async () => {
    const artifact = path('kept.tutti');
    expect((await tutti(['compile', input('good.onnx'), '-o', artifact])).code).toBe(0);
    const before = readFileSync(artifact);
    expect((await tutti(['compile', input('truncated.onnx'), '-o', artifact])).code).toBe(1);
    expect(readFileSync(artifact).equals(before)).toBe(true);
  });
});

describe('wrong usage', () => {
  for (const args of [
    [],
    ['dance'],
    ['run'],
    ['run', 'a.onnx', '--colour'],
    ['compile', 'a.onnx'],
    ['bench', 'a.onnx', '--warmup', 'x'],
  ]) {
    it(`tutti ${args.join(' ')}`, async () => {
      const { code, stdout } = await tutti(args);
      expect(code).toBe(2);
      expect(stdout).toBe('');
    });
  }
});
