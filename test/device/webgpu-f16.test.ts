// f16 in WGSL. No software adapter offers it, so kernels are compiled by Dawn's null backend, and the rounding to f16,
// which is integer code, runs on the adapter that is there.
import { describe, expect, it } from 'vitest';
import type { KernelCode } from '../../backends/backend.js';
import { webgpuBackend } from '../../backends/webgpu/index.js';
import { libraryName, libraryText } from '../../backends/webgpu/wgsl.js';
import { KernelBuilder } from '../../compiler/kernel/builder.js';
import type { Target } from '../../compiler/kernel/target.js';
import {
  type BinaryFn,
  type ExactUnaryFn,
  type KernelFunction,
  ktype,
  type Lanes,
} from '../../compiler/kernel/types.js';
import { f32ToF16 } from '../../compiler/numeric.js';
import { bytesOfView, openWebGpu, whole } from '../support/webgpu.js';

const unary: readonly ExactUnaryFn[] = ['neg', 'abs', 'floor', 'ceil', 'round', 'trunc', 'sqrt'];
const binary: readonly BinaryFn[] = ['add', 'sub', 'mul', 'div', 'rem', 'min', 'max'];

/** Every op on f16, packed from and to u32 words. */
function everyOp(lanes: Lanes): KernelFunction {
  const k = new KernelBuilder();
  const words = k.buffer('words', 'u32', 64, 'readwrite');
  const shared = k.array('tile', 'shared', 'f16', 16);
  const pair = k.bitcast(k.load(words, k.constant(0)), ktype('f16', 2));
  const narrow = (at: number) => k.convert(k.bitcast(k.load(words, k.constant(at)), ktype('f32')), 'f16');
  const spread = (at: number) => (lanes === 1 ? narrow(at) : k.splat(narrow(at), lanes));
  const [x, y] = [spread(1), spread(2)];
  const values = [
    ...unary.map((fn) => k.unary(fn, x)),
    ...binary.map((fn) => k.binary(fn, x, y)),
    k.fma(x, y, x),
    k.select(k.compare('lt', x, y), x, y),
    k.select(k.compare('ne', x, x), y, x),
    ...[0.1, Number.NaN, Number.POSITIVE_INFINITY, -0, 2 ** -24, 65504, 1e9].map((c) => k.constant(c, 'f16', lanes)),
    k.convert(k.convert(x, 'i32'), 'f16'),
    k.convert(k.convert(x, 'u32'), 'f16'),
    k.convert(k.convert(x, 'bool'), 'f16'),
  ];
  k.store(shared, k.constant(0), k.extract(pair, 1));
  const sum = values.reduce((a, b) => k.add(a, b));
  const wide = k.convert(k.extract(sum, lanes - 1), 'f32');
  k.store(words, k.constant(3), k.bitcast(wide, ktype('u32')));
  k.store(words, k.constant(4), k.bitcast(k.build([k.extract(x, 0), k.load(shared, k.constant(0))]), ktype('u32')));
  return k.finish({ name: `f16x${lanes}`, grid: [1, 1, 1], workgroup: [1, 1, 1] });
}

const dawn = await import('webgpu').then(
  (module) => module,
  () => undefined,
);

describe('f16', () => {
  it.skipIf(dawn === undefined)('compiles for every op and width', async () => {
    const gpu = dawn?.create(['backend=null']) as GPU;
    (globalThis as { nullGpu?: GPU }).nullGpu = gpu; // Dawn must not be collected while its device lives
    const gpuDevice = await (await gpu.requestAdapter())?.requestDevice({ requiredFeatures: ['shader-f16'] });
    const driver = await webgpuBackend.driver({ gpuDevice });
    const device = await driver.open((await driver.enumerate())[0].id);
    expect(device.target.arithmetic.has('f16')).toBe(true);
    const codes = ([1, 2, 4] as const).map((lanes) => webgpuBackend.render(everyOp(lanes), device.target));
    for (const { text } of codes) expect(text).toContain('enable f16;');
    expect(await device.loadKernels(codes)).toHaveLength(3);
    await device.close();
  });

  it('rounds f32 to f16 to nearest even, overflow, subnormals and NaN included', async (context) => {
    const opened = await openWebGpu();
    if ('missing' in opened) return context.skip(opened.missing);
    const { device } = opened;
    const type = ktype('f32');
    const count = 1 << 16;
    // All upper halves with the lower halves that matter: exact, just below, at and just above every tie.
    for (const low of [0, 1, 0x0fff, 0x1000, 0x1001, 0x2fff, 0x3000, 0x3001, 0x8000, 0xffff]) {
      const code: KernelCode = {
        name: 'f16_bits',
        entry: 'main',
        workgroup: [64, 1, 1],
        bindings: ['readwrite'],
        scalarBytes: 0,
        sharedBytes: 0,
        text: `${libraryText('f16_bits', type, libraryName)}
@group(0) @binding(0) var<storage, read_write> words: array<u32>;
@compute @workgroup_size(64) fn main(@builtin(global_invocation_id) id: vec3<u32>) {
  words[id.x] = ${libraryName('f16_bits', type)}(bitcast<f32>(words[id.x]));
}`,
      };
      const [kernel] = await device.loadKernels([code]);
      const buffer = device.allocate(count * 4);
      const words = Uint32Array.from({ length: count }, (_, high) => ((high << 16) | low) >>> 0);
      const floats = new Float32Array(words.slice().buffer);
      const list = await device.record([
        { kind: 'dispatch', kernel, grid: [count / 64, 1, 1], bindings: [whole(buffer)] },
      ]);
      await device.queue.submit({
        list,
        writes: [{ to: whole(buffer), data: bytesOfView(words.slice()) }],
        reads: [{ from: whole(buffer), into: bytesOfView(words) }],
      });
      const wrong = words.findIndex((bits, i) =>
        Number.isNaN(floats[i]) ? (bits & 0x7fff) <= 0x7c00 : bits !== f32ToF16(floats[i]),
      );
      if (wrong >= 0)
        expect.fail(`${floats[wrong]}: ${words[wrong].toString(16)}, expected ${f32ToF16(floats[wrong]).toString(16)}`);
      list.release();
      buffer.free();
    }
    await device.close();
  });
});

// Text for a device that has f16 but no GPU here.
it('declares f16 only where it is used', () => {
  const k = new KernelBuilder();
  const b = k.buffer('b', 'f32', 1, 'write');
  k.store(b, k.constant(0), k.constant(1, 'f32'));
  const kernel = k.finish({ name: 'plain', grid: [1, 1, 1], workgroup: [1, 1, 1] });
  expect(webgpuBackend.render(kernel, webgpuBackend.target('wgsl+f16') as Target).text).not.toContain('enable');
});
