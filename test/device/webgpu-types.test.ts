// Types that WGSL lacks and functions it leaves open: legalised and expanded kernels on the device against the
// interpreter running the kernel as it was written.
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import type { Device } from '../../backends/backend.js';
import { KernelBuilder } from '../../compiler/kernel/builder.js';
import { interpret } from '../../compiler/kernel/interpreter.js';
import { legalize } from '../../compiler/kernel/legalize.js';
import { expandMath } from '../../compiler/kernel/math.js';
import { type BinaryFn, type KValue, mathFns, type ScalarType, scalarBits } from '../../compiler/kernel/types.js';
import { openWebGpu, runOnDevice } from '../support/webgpu.js';

const opened = await openWebGpu();
const missing = 'missing' in opened ? opened.missing : undefined;
if (missing) console.warn(`webgpu tests skipped: ${missing}`);

const COUNT = 256;
const arrays: Partial<Record<ScalarType, (bytes: ArrayBuffer) => ArrayBufferView>> = {
  i8: (b) => new Int8Array(b),
  u8: (b) => new Uint8Array(b),
  i16: (b) => new Int16Array(b),
  u16: (b) => new Uint16Array(b),
  i64: (b) => new BigInt64Array(b),
  u64: (b) => new BigUint64Array(b),
  f16: (b) => new Uint16Array(b),
  bf16: (b) => new Uint16Array(b),
  f64: (b) => new Float64Array(b),
};

describe.skipIf(missing !== undefined)('legalised kernels', () => {
  let device: Device;
  beforeAll(() => {
    if ('device' in opened) device = opened.device;
  });
  afterAll(async () => {
    await device?.close();
  });

  /** out[i] = make(a[i], b[i]) for pseudo-random bit patterns that `fit` brings into a sensible range. */
  async function check(scalar: ScalarType, make: (k: KernelBuilder, x: KValue, y: KValue) => KValue): Promise<void> {
    const view = arrays[scalar] ?? ((b: ArrayBuffer) => new Uint8Array(b));
    const bytes = (COUNT * scalarBits[scalar]) / 8;
    const fill = (seed: number): ArrayBuffer => {
      const buffer = new ArrayBuffer(bytes);
      let state = seed;
      const next = (): number => {
        state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
        return state / 2 ** 32;
      };
      if (scalar === 'f64')
        new Float64Array(buffer).forEach((_, i, all) => {
          all[i] = (next() - 0.5) * 10 ** (i % 12);
        });
      else if (scalar === 'f16' || scalar === 'bf16') {
        // Small exponents both ways, either sign.
        const [bits, middle] = scalar === 'f16' ? [10, 15] : [7, 127];
        new Uint16Array(buffer).forEach((_, i, all) => {
          all[i] = (next() < 0.5 ? 0x8000 : 0) | ((middle - 3 + (i % 6)) << bits) | Math.floor(next() * 2 ** bits);
        });
      } else
        new Uint8Array(buffer).forEach((_, i, all) => {
          all[i] = Math.floor(next() * 256);
        });
      return buffer;
    };
    const k = new KernelBuilder();
    const [a, b] = [k.buffer('a', scalar, COUNT, 'read'), k.buffer('b', scalar, COUNT, 'read')];
    const out = k.buffer('out', scalar, COUNT, 'write');
    const at = k.mulc(k.add(k.mulc(k.builtin('workgroup_id', 0, 4), 16), k.builtin('local_id', 0, 16)), 4);
    k.store(out, at, make(k, k.load(a, at, 4, true), k.load(b, at, 4, true)), true);
    const kernel = k.finish({ name: `${scalar}_op`, grid: [4, 1, 1], workgroup: [16, 1, 1] });
    const buffers = () => [view(fill(1)), view(fill(2)), view(new ArrayBuffer(bytes))];
    const [ours, reference] = [buffers(), buffers()];
    interpret(expandMath(kernel), reference);
    await runOnDevice(device, legalize(expandMath(kernel), device.target), ours);
    expect(ours[2]).toEqual(reference[2]);
    expect(new Set(new Uint8Array(ours[2].buffer)).size).toBeGreaterThan(2); // something happened
  }

  const fns: readonly BinaryFn[] = ['add', 'sub', 'mul', 'min', 'max'];
  for (const scalar of ['i8', 'u8', 'i16', 'u16', 'i64', 'u64', 'f16', 'bf16', 'f64'] as const) {
    it(`${scalar}: ${fns.join(', ')}, compare and select`, async () => {
      for (const fn of fns) await check(scalar, (k, x, y) => k.binary(fn, x, y));
      await check(scalar, (k, x, y) => k.select(k.compare('lt', x, y), y, x));
    });
  }
  it.each(['i64', 'u64'] as const)('%s division', async (scalar) => {
    const positive = (k: KernelBuilder, y: KValue) =>
      k.binary('or', k.binary('shr', y, k.constant(33n, scalar, 4)), k.constant(1n, scalar, 4));
    await check(scalar, (k, x, y) => k.div(x, positive(k, y)));
    await check(scalar, (k, x, y) => k.rem(x, k.binary('and', positive(k, y), k.constant(0x7fffffffn, scalar, 4))));
  });
  it('f64 division and roots', async () => {
    await check('f64', (k, x, y) => k.div(x, y));
    await check('f64', (k, x) => k.unary('sqrt', k.unary('abs', x)));
  });
  it.each(mathFns)('f16 %s through f32', async (fn) => {
    await check('f16', (k, x) => k.convert(k.unary(fn, k.unary('abs', k.convert(x, 'f32'))), 'f16'));
  });
});
