/** Packed element types: elements of a byte on the host, through ONNX, artifacts and tensors of users. */
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { compareTensors, numbersOf } from '../../compiler/compare.js';
import {
  bitsOf,
  bytesOf,
  dtypes,
  isInt,
  isMiniFloat,
  isPacked,
  type PackedDType,
  perByte,
} from '../../compiler/dtype.js';
import { decode, encode, protoOf, tensorOf } from '../../compiler/frontends/onnx/index.js';
import { onnxTypeOf } from '../../compiler/frontends/onnx/tensors.js';
import {
  elementsOf,
  filledTensor,
  tensorOfElements,
  tensorOfNumbers,
} from '../../compiler/graph/ops/reference/data.js';
import { emptyTensor } from '../../compiler/tensor.js';
import { Tensor, typeOfDType } from '../../runtime/tensor.js';

const packed = dtypes.filter(isPacked);
const narrow = dtypes.filter((dtype) => isPacked(dtype) || isMiniFloat(dtype));

/** The field of element `i` by the letter of the standard: elements from the low bits of each byte on. */
const fieldAt = (bytes: Uint8Array, dtype: PackedDType, i: number): number => {
  const digits = Array.from(bytes, (byte) => byte.toString(2).padStart(8, '0'))
    .reverse()
    .join('');
  const bits = bitsOf(dtype);
  return Number.parseInt(digits.slice(digits.length - (i + 1) * bits, digits.length - i * bits), 2);
};
const signedOf = (field: number, bits: number): number => (field >= 2 ** (bits - 1) ? field - 2 ** bits : field);

describe.each(packed)('%s', (dtype) => {
  const bits = bitsOf(dtype);

  it('property: elements unpack as the standard says and pack back into the same bytes', () => {
    fc.assert(
      fc.property(fc.uint8Array({ maxLength: 9 }), fc.nat(3), (source, cut) => {
        const count = Math.max(0, source.length * perByte(dtype) - (cut % perByte(dtype)));
        const tensor = { dtype, shape: [count], data: source };
        const elements = Array.from(elementsOf(tensor) as Uint8Array);
        const expected = Array.from({ length: count }, (_, i) => {
          const field = fieldAt(source, dtype, i);
          return dtype.startsWith('i') ? signedOf(field, bits) : field;
        });
        expect(elements).toEqual(expected);
        const back = tensorOfElements(dtype, [count], elementsOf(tensor));
        expect(back.data.length).toBe(bytesOf(dtype, count));
        expect(Array.from(elementsOf(back) as Uint8Array)).toEqual(expected);
      }),
    );
  });

  it('comes in raw bytes or in the int32 field, a byte an entry', () => {
    const [count, needed] = [2 * perByte(dtype) - 1, 2];
    const bytes = Uint8Array.of(0xb4, 0x27);
    const dims = [BigInt(count)];
    const read = (data: object) =>
      tensorOf(decode('TensorProto', encode('TensorProto', { dims, dataType: onnxTypeOf(dtype), ...data })), 'x');
    const raw = read({ rawData: bytes });
    expect(raw).toEqual({ dtype, shape: [count], data: bytes });
    expect(read({ int32Data: [...bytes] })).toEqual(raw);
    expect(() => read({ int32Data: [0, 0, 0] })).toThrow(`${needed} elements`);
    expect(tensorOf(decode('TensorProto', encode('TensorProto', protoOf(raw))), 'x')).toEqual(raw);
  });

  it('a tensor of plain numbers has one an element', () => {
    const values = isInt(dtype) ? [1, 0, 1, 1, 0] : [1, -6, 0.5, 3, 2];
    const tensor = new Tensor(typeOfDType(dtype), values, [5]);
    expect(tensor.data.length).toBe(bytesOf(dtype, 5));
    expect([...numbersOf(tensor.toHost())]).toEqual(values);
    expect(tensor.toHost()).toEqual(tensorOfNumbers(dtype, [5], values));
    // Bytes are taken as they are, and count for several elements.
    expect(new Tensor(typeOfDType(dtype), Uint8Array.of(1, 2)).dims).toEqual([2 * perByte(dtype)]);
    if (isInt(dtype)) {
      expect(() => new Tensor(typeOfDType(dtype), [2 ** bits])).toThrow(expect.objectContaining({ code: 'E_INPUT' }));
    }
  });
});

describe.each(narrow)('%s is compared exactly', (dtype) => {
  it('one different element is enough, whatever the tolerance', () => {
    const [zero, one] = [filledTensor(dtype, [7], 1), filledTensor(dtype, [7], 1)];
    expect(compareTensors(zero, one, { rtol: 1, atol: 1 }).ok).toBe(true);
    const elements = elementsOf(one) as Uint8Array;
    elements[6] = isInt(dtype) ? 0 : elements[6] + 1;
    const other = tensorOfElements(dtype, [7], elements);
    expect(compareTensors(other, zero, { rtol: 1, atol: 1 })).toMatchObject({ ok: false, mismatches: 1 });
    expect(compareTensors(emptyTensor(dtype, [6]), zero, { rtol: 1, atol: 1 }).ok).toBe(false);
  });
});
