// The protobuf layer: what is written is read again, and damaged bytes are refused, never believed.
import { BinaryWriter, WireType } from '@bufbuild/protobuf/wire';
import { describe, expect, it } from 'vitest';
import { decode, encode } from '../../compiler/frontends/onnx/index.js';
import { attribute, f32, model, node, value } from '../support/onnx_model.js';

const format = expect.objectContaining({ code: 'E_MODEL_FORMAT' });

describe('ONNX protobuf', () => {
  it('reads what it writes', () => {
    const bytes = model({
      inputs: [value('x', 'f32', [2, 'n', null])],
      nodes: [
        node(
          'y = Foo(x, c)',
          { i: -3n, f: 0.5, s: 'ü', list: [1n, -2n], t: f32([1], 7) },
          { name: 'foo', docString: 'doc' },
        ),
      ],
      outputs: ['y'],
      initializers: { c: f32([2], 1, 2) },
    });
    const { graph, opsetImport } = decode('ModelProto', bytes);
    expect(opsetImport).toEqual([{ domain: '', version: 21n }]);
    const [foo] = graph?.node ?? [];
    expect(foo).toMatchObject({ name: 'foo', opType: 'Foo', input: ['x', 'c'], output: ['y'] });
    const [i, f, s, list, t] = foo.attribute;
    expect([i.i, f.f, new TextDecoder().decode(s.s), list.ints]).toEqual([-3n, 0.5, 'ü', [1n, -2n]]);
    expect(t.t?.dims).toEqual([1n]);
    expect(graph?.input[0].type?.tensorType?.shape?.dim).toEqual([{ dimValue: 2n }, { dimParam: 'n' }, {}]);
  });

  it('keeps byte fields as views into the file', () => {
    const bytes = model({
      nodes: [],
      outputs: ['c'],
      initializers: { c: f32([1024], ...new Array<number>(1024).fill(1)) },
    });
    const raw = decode('ModelProto', bytes).graph?.initializer[0].rawData as Uint8Array;
    expect(raw.byteLength).toBe(4096);
    expect(raw.buffer).toBe(bytes.buffer);
  });

  it('reads packed and unpacked numbers alike and skips unknown fields', () => {
    const writer = new BinaryWriter();
    writer.tag(8, WireType.Varint).int64(1);
    writer.tag(8, WireType.LengthDelimited).fork().int64(2).int64(-1).join();
    writer.tag(7, WireType.Bit32).float(0.5);
    writer.tag(7, WireType.LengthDelimited).fork().float(1.5).join();
    writer.tag(999, WireType.LengthDelimited).string('later versions');
    writer.tag(998, WireType.StartGroup).tag(1, WireType.Varint).int32(1).tag(998, WireType.EndGroup);
    const { ints, floats } = decode('AttributeProto', writer.finish());
    expect(ints).toEqual([1n, 2n, -1n]);
    expect(floats).toEqual([0.5, 1.5]);
  });

  it('refuses every proper prefix of a message that cuts a field', () => {
    const bytes = encode('NodeProto', { name: 'a name', opType: 'Relu', attribute: [attribute('alpha', 0.5)] });
    let refused = 0;
    for (let length = 1; length < bytes.length; length++) {
      const cut = bytes.subarray(0, length);
      try {
        decode('NodeProto', cut);
        // Only between fields is a prefix a message too.
        expect(encode('NodeProto', decode('NodeProto', cut)).length).toBe(length);
      } catch (error) {
        expect(error).toEqual(format);
        refused++;
      }
    }
    expect(refused).toBeGreaterThan(bytes.length / 2);
  });

  it('refuses lengths beyond the enclosing message and wrong wire types', () => {
    const inner = new BinaryWriter().tag(1, WireType.LengthDelimited).uint32(50).finish();
    const outer = new BinaryWriter()
      .tag(7, WireType.LengthDelimited)
      .bytes(inner)
      .tag(6, WireType.LengthDelimited)
      .string('x'.repeat(100))
      .finish();
    expect(() => decode('ModelProto', outer)).toThrow(format);
    expect(() => decode('ModelProto', new BinaryWriter().tag(7, WireType.Varint).int32(1).finish())).toThrow(format);
  });

  it('refuses messages nested too deeply, without running out of stack', () => {
    let message: Uint8Array = new Uint8Array();
    for (let depth = 0; depth < 20_000; depth++) {
      message = new BinaryWriter().tag(7, WireType.LengthDelimited).bytes(message).finish();
    }
    expect(() => decode('OptionalProto', message)).toThrow(format);
  });
});
