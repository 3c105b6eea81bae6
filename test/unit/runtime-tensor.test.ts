// Tensors: types follow from data, mismatches are refused, nothing is copied without need.
import { describe, expect, it } from 'vitest';
import { dtypes } from '../../compiler/dtype.js';
import { emptyTensor } from '../../compiler/tensor.js';
import { dtypeOfType, Tensor, typeOfDType } from '../../runtime/tensor.js';

const refused = (make: () => unknown, pattern: RegExp) => {
  expect(make).toThrow(pattern);
  expect(make).toThrow(expect.objectContaining({ name: 'TuttiError', code: 'E_INPUT' }));
};

describe('Tensor', () => {
  it('takes the type from the array', () => {
    expect(new Tensor(new Float32Array(6), [2, 3]).type).toBe('float32');
    expect(new Tensor(new BigInt64Array(2)).type).toBe('int64');
    expect(new Tensor(new Uint16Array(2)).type).toBe('uint16');
    expect(new Tensor([1, 2, 3]).type).toBe('float32');
    expect(new Tensor([1n, 2n]).type).toBe('int64');
    expect(new Tensor([true, false]).data).toEqual(Uint8Array.of(1, 0));
    expect(new Tensor(['a', 'b']).type).toBe('string');
  });

  it('takes typed arrays in place and converts plain ones', () => {
    const data = Float32Array.of(1, 2, 3);
    expect(Tensor.from(data, [3, 1]).data).toBe(data);
    expect(new Tensor('float16', [1, -2, 65504]).data).toEqual(Uint16Array.of(0x3c00, 0xc000, 0x7bff));
    expect(new Tensor('bfloat16', [1]).data).toEqual(Uint16Array.of(0x3f80));
    expect(new Tensor('int64', [1, 2]).data).toEqual(BigInt64Array.of(1n, 2n));
    expect(new Tensor('int4', [1, -1, 7], [3]).data).toEqual(Uint8Array.of(0xf1, 0x07));
    expect(new Tensor('uint4', [1, 15]).dims).toEqual([2]);
    expect(new Tensor('uint8', new Uint8ClampedArray([1, 2])).data).toEqual(Uint8Array.of(1, 2));
  });

  it('is a scalar with dims []', () => {
    const scalar = new Tensor([5], []);
    expect(scalar.size).toBe(1);
    expect(scalar.dims).toEqual([]);
  });

  it('refuses what does not fit', () => {
    refused(() => new Tensor(new Float32Array(5), [2, 3]), /expected 6 elements, found 5/);
    refused(() => new Tensor('int32', new Float32Array(1)), /expected Int32Array, found Float32Array/);
    refused(() => new Tensor('float32', ['a'] as never), /expected numbers/);
    refused(() => new Tensor('int64', [1.5]), /expected integers/);
    refused(() => new Tensor('int4', [9]), /integers from -8 to 7/);
    refused(() => new Tensor(new Float32Array(1), [-1]), /bad dims/);
    refused(() => new Tensor('float33' as never, [1]), /unknown tensor type/);
    refused(() => new Tensor(undefined as never), /missing/);
    refused(() => new Tensor('string', [1] as never), /array of strings/);
  });

  it('goes to the compiler and back for every dtype', () => {
    for (const dtype of dtypes) {
      expect(dtypeOfType(typeOfDType(dtype))).toBe(dtype);
      const host = emptyTensor(dtype, [2, 3]);
      expect(Tensor.fromHost(host).toHost()).toEqual(host);
    }
  });

  it('lets go of its data', async () => {
    const tensor = new Tensor([1]);
    expect(await tensor.getData()).toEqual(Float32Array.of(1));
    tensor.dispose();
    refused(() => tensor.data, /disposed/);
  });
});
