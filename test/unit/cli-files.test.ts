// The command's own file formats: .npy and PNG, there and back, and what is wrong with them.

import fc from 'fast-check';
import { encode } from 'fast-png';
import { describe, expect, it } from 'vitest';
import { parseImageOptions } from '../../cli/image_options.js';
import { readPng, writePng } from '../../cli/images.js';
import { readNpy, writeNpy } from '../../cli/npy.js';
import { TuttiError } from '../../compiler/error.js';
import { emptyTensor, type HostTensor } from '../../compiler/tensor.js';
import { errorOf } from '../support/errors.js';

/** A file as NumPy would write it. */
function npy(header: string, data: Uint8Array, version = 1): Uint8Array {
  const start = version === 1 ? 10 : 12;
  const file = new Uint8Array(start + header.length + data.length);
  file.set([0x93, 0x4e, 0x55, 0x4d, 0x50, 0x59, version, 0]);
  const view = new DataView(file.buffer);
  if (version === 1) view.setUint16(8, header.length, true);
  else view.setUint32(8, header.length, true);
  file.set(new TextEncoder().encode(header), start);
  file.set(data, start + header.length);
  return file;
}
const bytes = (array: ArrayBufferView): Uint8Array => new Uint8Array(array.buffer, array.byteOffset, array.byteLength);

describe('.npy', () => {
  const dtypes = ['f64', 'f32', 'f16', 'i64', 'i32', 'i16', 'i8', 'u64', 'u32', 'u16', 'u8', 'bool'] as const;

  it('comes back as it went', () => {
    const tensors = fc.record({
      dtype: fc.constantFrom(...dtypes),
      shape: fc.array(fc.integer({ min: 0, max: 4 }), { maxLength: 4 }),
      seed: fc.integer(),
    });
    fc.assert(
      fc.property(tensors, ({ dtype, shape, seed }) => {
        const tensor = emptyTensor(dtype, shape);
        const raw = bytes(tensor.data as Uint8Array);
        for (let i = 0; i < raw.length; i++) raw[i] = dtype === 'bool' ? (seed + i) & 1 : (seed * 31 + i * 17) & 255;
        const back = readNpy(writeNpy(tensor, 'x'), 'x');
        expect([back.dtype, back.shape]).toEqual([dtype, shape]);
        expect(bytes(back.data as Uint8Array)).toEqual(raw);
      }),
    );
  });

  it('keeps strings beyond the basic plane', () => {
    const tensor: HostTensor = { dtype: 'string', shape: [2, 2], data: ['', 'ab', 'ü', '𝄞!'] };
    expect(readNpy(writeNpy(tensor, 'x'), 'x')).toEqual(tensor);
  });

  it('puts the data at a multiple of 64 bytes, as NumPy does', () => {
    const file = writeNpy({ dtype: 'f32', shape: [3], data: Float32Array.of(1, 2, 3) }, 'x');
    expect((file.length - 12) % 64).toBe(0);
    expect(new TextDecoder('latin1').decode(file.subarray(10, 128))).toContain(
      "{'descr': '<f4', 'fortran_order': False, 'shape': (3,), }",
    );
  });

  it('reads big-endian, Fortran order, scalars and later versions', () => {
    const order = "{'descr': '>i2', 'fortran_order': True, 'shape': (2, 3), }\n";
    const data = Uint8Array.of(0, 1, 0, 4, 0, 2, 0, 5, 0, 3, 1, 6);
    expect(readNpy(npy(order, data, 2), 'x')).toEqual({
      dtype: 'i16',
      shape: [2, 3],
      data: Int16Array.of(1, 2, 3, 4, 5, 262),
    });
    const scalar = "{'descr': '<f8', 'fortran_order': False, 'shape': (), }\n";
    expect(readNpy(npy(scalar, bytes(Float64Array.of(2.5)), 3), 'x')).toEqual({
      dtype: 'f64',
      shape: [],
      data: Float64Array.of(2.5),
    });
  });

  it('refuses what it cannot hold', () => {
    const complex = npy("{'descr': '<c8', 'fortran_order': False, 'shape': (1,), }\n", new Uint8Array(8));
    expect(errorOf(() => readNpy(complex, 'x')).code).toBe('E_UNSUPPORTED');
    const huge = npy("{'descr': '<f4', 'fortran_order': False, 'shape': (99999999999,), }\n", new Uint8Array(8));
    expect(errorOf(() => readNpy(huge, 'x')).code).toBe('E_INPUT');
    expect(errorOf(() => writeNpy({ dtype: 'bf16', shape: [1], data: new Uint16Array(1) }, 'x')).code).toBe(
      'E_UNSUPPORTED',
    );
  });

  it('throws nothing but TuttiError on damaged files', () => {
    const valid = writeNpy({ dtype: 'f32', shape: [2, 3], data: new Float32Array(6) }, 'x');
    const change = fc.record({ at: fc.nat(valid.length - 1), to: fc.nat(255), cut: fc.nat(valid.length) });
    fc.assert(
      fc.property(change, ({ at, to, cut }) => {
        const damaged = valid.slice(0, cut);
        if (at < cut) damaged[at] = to;
        try {
          readNpy(damaged, 'x');
        } catch (error) {
          expect(error).toBeInstanceOf(TuttiError);
        }
      }),
      { numRuns: 2000 },
    );
  });
});

describe('PNG', () => {
  const rgb = (width: number, height: number): Uint8Array =>
    Uint8Array.from({ length: 3 * width * height }, (_, i) => (i * 53) % 256);

  for (const [layout, shape] of [
    ['nchw', [1, 3, 2, 5]],
    ['nhwc', [1, 2, 5, 3]],
    ['chw', [3, 2, 5]],
    ['hwc', [2, 5, 3]],
  ] as const) {
    for (const range of ['0..1', '0..255', '-1..1']) {
      it(`comes back through ${layout} in ${range}`, () => {
        const data = rgb(5, 2);
        const options = parseImageOptions(`${layout},${range}`, 'x');
        const tensor = readPng(
          encode({ width: 5, height: 2, data, depth: 8, channels: 3 }),
          'f32',
          shape,
          options,
          'x',
        );
        expect(tensor.shape).toEqual(shape);
        const again = readPng(writePng(tensor, options, 'x'), 'u8', [2, 5, 3], { layout: 'hwc' }, 'x');
        expect(again.data).toEqual(data);
      });
    }
  }

  it('guesses the layout from where the channels stand', () => {
    const file = encode({ width: 5, height: 2, data: rgb(5, 2), depth: 8, channels: 3 });
    expect(readPng(file, 'u8', ['n', 'h', 'w', 3], {}, 'x').shape).toEqual([1, 2, 5, 3]);
    expect(readPng(file, 'u8', ['n', 3, 'h', 'w'], {}, 'x').shape).toEqual([1, 3, 2, 5]);
  });

  it('reads 16 bits, grey, alpha and palettes', () => {
    const deep = encode({ width: 2, height: 1, data: Uint16Array.of(0, 65535), depth: 16, channels: 1 });
    expect([...(readPng(deep, 'f32', [1, 1, 1, 2], {}, 'x').data as Float32Array)]).toEqual([0, 1]);
    const alpha = encode({ width: 1, height: 1, data: Uint8Array.of(10, 20, 30, 40), depth: 8, channels: 4 });
    expect(readPng(alpha, 'u8', [1, 3, 1, 1], {}, 'x').data).toEqual(Uint8Array.of(10, 20, 30));
    expect(readPng(alpha, 'u8', [1, 4, 1, 1], {}, 'x').data).toEqual(Uint8Array.of(10, 20, 30, 40));
    const colour = encode({ width: 1, height: 1, data: Uint8Array.of(255, 0, 0), depth: 8, channels: 3 });
    expect((readPng(colour, 'f32', [1, 1, 1, 1], {}, 'x').data as Float32Array)[0]).toBeCloseTo(0.2126, 6);
  });

  it('clamps, and makes NaN black', () => {
    const tensor: HostTensor = { dtype: 'f32', shape: [1, 4], data: Float32Array.of(-3, 7, Number.NaN, 0.5) };
    const again = readPng(writePng(tensor, {}, 'x'), 'u8', [1, 4], { layout: 'hw' }, 'x');
    expect(again.data).toEqual(Uint8Array.of(0, 255, 0, 128));
  });

  it('refuses tensors that are no picture and files that are none', () => {
    const batch: HostTensor = { dtype: 'f32', shape: [2, 3, 4, 4], data: new Float32Array(96) };
    expect(errorOf(() => writePng(batch, {}, 'x')).code).toBe('E_INPUT');
    expect(errorOf(() => readPng(Uint8Array.of(1, 2, 3), 'f32', [1, 3, 4, 4], {}, 'x')).code).toBe('E_INPUT');
    expect(errorOf(() => parseImageOptions('sideways', 'x')).code).toBe('E_USAGE');
  });
});
