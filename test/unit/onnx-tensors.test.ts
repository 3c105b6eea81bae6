// TensorProto ↔ HostTensor: all element types, raw and typed fields, external data and what it must not do.
import { describe, expect, it, vi } from 'vitest';
import { numbersOf } from '../../compiler/compare.js';
import { bitsOf, type DType, dtypes } from '../../compiler/dtype.js';
import { decode, type ExternalFile, encode, protoOf, tensorOf } from '../../compiler/frontends/onnx/index.js';
import type { MessageInit } from '../../compiler/frontends/onnx/proto.js';
import { constantOf, denseOf, onnxTypeOf } from '../../compiler/frontends/onnx/tensors.js';
import { tensorFromBytes } from '../../compiler/tensor.js';

const read = (init: MessageInit<'TensorProto'>, shift = 0) => {
  const bytes = encode('TensorProto', init);
  // Data at any alignment, in a Buffer as file reads give it.
  const shifted = Buffer.alloc(bytes.length + shift);
  shifted.set(bytes, shift);
  return tensorOf(decode('TensorProto', shifted.subarray(shift)), 'test');
};
const code = (name: string) => expect.objectContaining({ code: name });

describe('tensors of ONNX models', () => {
  it.each(dtypes.filter((dtype) => dtype !== 'string'))('%s as raw bytes, at any alignment', (dtype) => {
    const bytes = Uint8Array.from({ length: 48 }, (_, i) => (dtype === 'bool' ? i % 2 : i * 37));
    const count = (48 * 8) / bitsOf(dtype);
    const tensor = tensorFromBytes(dtype, [count], bytes.slice());
    for (const shift of [0, 1, 2, 3, 4, 5, 6, 7]) expect(read(protoOf(tensor), shift)).toEqual(tensor);
  });

  it.each<[DType, MessageInit<'TensorProto'>, readonly number[]]>([
    ['f32', { floatData: [1.5, -2] }, [1.5, -2]],
    ['f64', { doubleData: [1.5, -2] }, [1.5, -2]],
    ['i64', { int64Data: [-5n, 7n] }, [-5, 7]],
    ['u64', { uint64Data: [5n, 7n] }, [5, 7]],
    ['u32', { uint64Data: [5n, 4294967295n] }, [5, 4294967295]],
    ['i32', { int32Data: [-5, 7] }, [-5, 7]],
    ['i16', { int32Data: [-5, 7] }, [-5, 7]],
    ['u16', { int32Data: [65535, 7] }, [65535, 7]],
    ['i8', { int32Data: [-5, 7] }, [-5, 7]],
    ['u8', { int32Data: [255, 7] }, [255, 7]],
    ['bool', { int32Data: [1, 0] }, [1, 0]],
    ['f16', { int32Data: [0x3e00, 0xc000] }, [1.5, -2]],
    ['bf16', { int32Data: [0x3fc0, 0xc000] }, [1.5, -2]],
    ['f8e5m2', { int32Data: [0x3c, 0xc0] }, [1, -2]],
    ['f8e4m3fnuz', { int32Data: [0x40, 0xc8] }, [1, -2]],
    ['f8e5m2fnuz', { int32Data: [0x40, 0xc4] }, [1, -2]],
    ['f8e8m0', { int32Data: [0x7f, 0x81] }, [1, 4]],
    ['f4e2m1', { int32Data: [0xc2] }, [1, -2]],
    ['i4', { int32Data: [0x7f] }, [-1, 7]],
    ['i2', { int32Data: [0x0b] }, [-1, -2]],
    ['u2', { int32Data: [0x0b] }, [3, 2]],
    ['u4', { int32Data: [0x7f] }, [15, 7]],
  ])('%s in its typed field', (dtype, data, expected) => {
    const tensor = read({ dims: [2n], dataType: onnxTypeOf(dtype), ...data });
    expect([tensor.dtype, tensor.shape, [...numbersOf(tensor)]]).toEqual([dtype, [2], expected]);
  });

  it('strings', () => {
    const strings = { dtype: 'string', shape: [2], data: ['naïve', ''] } as const;
    expect(read(protoOf(strings))).toEqual(strings);
  });

  it('any other byte of a bool is true', () => {
    expect(read({ dims: [3n], dataType: 9, rawData: Uint8Array.of(0, 2, 255) }).data).toEqual(Uint8Array.of(0, 1, 1));
  });

  it('refuses data that do not fit the shape, before allocating', () => {
    const huge = { dims: [100_000n, 100_000n], dataType: 1, rawData: new Uint8Array(8) };
    expect(() => read(huge)).toThrow(code('E_MODEL_FORMAT'));
    expect(() => read({ dims: [2n], dataType: 1, floatData: [1, 2, 3] })).toThrow(code('E_MODEL_FORMAT'));
    expect(() => read({ dims: [1n << 62n, 1n << 62n], dataType: 1 })).toThrow(code('E_MODEL_INVALID'));
    expect(() => read({ dims: [-1n], dataType: 1 })).toThrow(code('E_MODEL_INVALID'));
    expect(() => read({ dims: [], dataType: 99, rawData: new Uint8Array(4) })).toThrow(code('E_MODEL_INVALID'));
    expect(() => read({ dims: [], dataType: 14, rawData: new Uint8Array(8) })).toThrow(code('E_UNSUPPORTED'));
  });

  it('makes sparse tensors dense', () => {
    const sparse = (indices: MessageInit<'TensorProto'>) =>
      denseOf(
        decode(
          'SparseTensorProto',
          encode('SparseTensorProto', {
            dims: [2n, 3n],
            values: { dims: [2n], dataType: 1, floatData: [5, 6] },
            indices,
          }),
        ),
        'test',
      );
    const dense = Float32Array.of(0, 5, 0, 0, 0, 6);
    expect(sparse({ dims: [2n], dataType: 7, int64Data: [1n, 5n] }).data).toEqual(dense);
    expect(sparse({ dims: [2n, 2n], dataType: 7, int64Data: [0n, 1n, 1n, 2n] }).data).toEqual(dense);
    expect(() => sparse({ dims: [2n], dataType: 7, int64Data: [1n, 6n] })).toThrow(code('E_MODEL_INVALID'));
    expect(() => sparse({ dims: [2n, 2n], dataType: 7, int64Data: [0n, 4n, 1n, -1n] })).toThrow(
      code('E_MODEL_INVALID'),
    );
  });
});

describe('external data', () => {
  const proto = (location: string, more: Readonly<Record<string, string>> = {}, dims = [2n]) =>
    decode(
      'TensorProto',
      encode('TensorProto', {
        dims,
        dataType: 1,
        dataLocation: 1,
        name: 'w',
        externalData: Object.entries({ location, ...more }).map(([key, value]) => ({ key, value })),
      }),
    );
  const file = (size: number) => {
    const read = vi.fn(
      (offset: number, length: number) => new Uint8Array(Float32Array.of(0, 1, 2, 3).buffer, offset, length),
    );
    return { size, read } satisfies ExternalFile;
  };

  it('is read when first asked for, at its offset', () => {
    const data = file(16);
    const constant = constantOf(proto('sub/w.bin', { offset: '4', length: '8' }), 'w', () => data);
    expect(data.read).not.toHaveBeenCalled();
    expect(constant.load().data).toEqual(Float32Array.of(1, 2));
    expect(data.read).toHaveBeenCalledWith(4, 8);
  });

  it.each([
    '',
    '/etc/passwd',
    '../w.bin',
    'a/../../w.bin',
    'a/..',
    '..',
    'C:/w.bin',
    'C:w.bin',
    'a\\b',
    '\\\\host\\share',
    'file:///x',
    '.',
    './',
    'a\0b',
  ])('location %j is refused before the file is opened', (location) => {
    const open = vi.fn(() => file(16));
    expect(() => constantOf(proto(location), 'w', open)).toThrow(code('E_EXTERNAL_DATA'));
    expect(open).not.toHaveBeenCalled();
  });

  it('is checked against the shape and the file', () => {
    const fails = (more: Readonly<Record<string, string>>, dims = [2n]) =>
      expect(() => constantOf(proto('w.bin', more, dims), 'w', () => file(16))).toThrow(code('E_EXTERNAL_DATA'));
    fails({ offset: '12' });
    fails({ offset: '-4' });
    fails({ offset: '1e1' });
    fails({ offset: '99999999999999999999' });
    fails({ length: '4' });
    fails({}, [1_000_000_000n]);
  });

  it('names the tensor and the file where it is missing or cannot be read', () => {
    expect(() => constantOf(proto('w.bin'), 'initialiser w')).toThrow(/initialiser w.*w\.bin/);
    const missing = () => {
      throw new Error('no such file');
    };
    expect(() => constantOf(proto('w.bin'), 'initialiser w', missing)).toThrow(/initialiser w.*w\.bin.*no such file/);
  });
});
