/** Weights on their way from a file to a device: read in parts, packed in parts, handed over in pieces. */
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import fc from 'fast-check';
import { afterAll, describe, expect, it } from 'vitest';
import type { BufferRange, DeviceBuffer, Queue } from '../../backends/backend.js';
import { createSha256, sha256 } from '../../compiler/artifact/index.js';
import { encode, importOnnx, protoOf, readOutline } from '../../compiler/frontends/onnx/index.js';
import { GraphBuilder } from '../../compiler/graph/builder.js';
import * as c from '../../compiler/graph/compose/index.js';
import type { ConstantData, Value } from '../../compiler/graph/types.js';
import { foldConstants } from '../../compiler/passes/fold.js';
import { packConstant, packedLength } from '../../compiler/schedule/contract/packing.js';
import { largeBytes, storedConstant } from '../../compiler/stored.js';
import { bytesOfTensor, dataArrays, type HostTensor, sizeOf } from '../../compiler/tensor.js';
import { compile } from '../../runtime/model.js';
import { openLarge } from '../../runtime/node.js';
import { digestOf, uploadConstants } from '../../runtime/upload.js';

const folder = mkdtempSync(join(tmpdir(), 'tutti-weights-'));
afterAll(() => rmSync(folder, { recursive: true, force: true }));

/** Numbers that tell where they come from. */
const numbered = (shape: readonly number[]): HostTensor => ({
  dtype: 'f32',
  shape,
  data: Float32Array.from({ length: sizeOf(shape) }, (_, i) => i + 1),
});
const constant = (tensor: HostTensor): ConstantData => ({ ...tensor, load: () => tensor });

/** Of long arrays; deep comparison of them takes seconds. */
const sameBytes = (a: Uint8Array, b: Uint8Array): boolean => Buffer.compare(a, b) === 0;

/** Bytes at an odd address, and a record of what was read of them. */
function stored(tensor: HostTensor) {
  const bytes = bytesOfTensor(tensor);
  const reads: number[] = [];
  const read = (offset: number, into: Uint8Array): void => {
    reads.push(into.byteLength);
    into.set(bytes.subarray(offset, offset + into.byteLength));
  };
  return { data: storedConstant(tensor.dtype as 'f32', tensor.shape, { read }), reads };
}

describe('stored constants', () => {
  it('read any part, and nothing else', () => {
    const tensor = numbered([200, 100]);
    const { data, reads } = stored(tensor);
    const part = new Float32Array(7);
    data.readPart?.(123, part);
    expect([...part]).toEqual([124, 125, 126, 127, 128, 129, 130]);
    expect(reads).toEqual([28]);
    expect(sameBytes(bytesOfTensor(data.load()), bytesOfTensor(tensor))).toBe(true);
  });

  it('keep what is small and read anew what is large', () => {
    const small = stored(numbered([10]));
    expect(small.data.load()).toBe(small.data.load());
    expect(small.reads).toHaveLength(1);
    const large = stored(numbered([20_000]));
    expect(large.data.load()).not.toBe(large.data.load());
    expect(large.reads).toHaveLength(2);
  });

  it('make bools 0 and 1, also in parts', () => {
    const bytes = new Uint8Array(largeBytes).fill(7);
    bytes[1] = 0;
    const read = (offset: number, into: Uint8Array): void => into.set(bytes.subarray(offset, offset + into.length));
    for (const data of [
      storedConstant('bool', [largeBytes], { read }),
      storedConstant('bool', [largeBytes], { read, bytes }),
    ]) {
      const part = new Uint8Array(3);
      data.readPart?.(0, part);
      expect([...part]).toEqual([1, 0, 1]);
      expect([...(data.load().data as Uint8Array).subarray(0, 3)]).toEqual([1, 0, 1]);
    }
    expect(bytes[0]).toBe(7);
  });
});

describe('views of stored constants', () => {
  const shape = [6, 5, 40, 300];
  const view = (make: (b: GraphBuilder, x: Value) => Value) => {
    const { data, reads } = stored(numbered(shape));
    const b = new GraphBuilder();
    b.output('y', make(b, b.constant(data)));
    const { graph } = foldConstants(b.finish());
    return { data: graph.constants.get(graph.outputs[0].value.id) as ConstantData, reads };
  };
  const cases: [string, (b: GraphBuilder, x: Value) => Value][] = [
    ['another shape', (b, x) => c.reshape(b, x, [30, 12_000])],
    ['a range of the first axis', (b, x) => c.slice1(b, x, 0, 2, 3)],
    ['a range of an inner axis', (b, x) => c.slice1(b, x, 2, 7, 20)],
    ['ranges of several axes', (b, x) => c.slice1(b, c.slice1(b, x, 2, 7, 20), 1, 1, 3)],
    ['a box', (b, x) => c.slice(b, x, [1, 2, 3, 0], [4, 3, 30, 300], [1, 1, 1, 1])],
  ];
  it.each(cases)('are read in parts: %s', (_, make) => {
    const { data, reads } = view(make);
    const whole = bytesOfTensor(data.load());
    const found = new Float32Array(sizeOf(data.shape));
    reads.length = 0;
    for (let at = 0; at < found.length; at += 1777) data.readPart?.(at, found.subarray(at, at + 1777));
    expect(sameBytes(new Uint8Array(found.buffer), whole)).toBe(true);
    expect(Math.max(...reads)).toBeLessThanOrEqual(1777 * 4);
  });

  it('are loaded where what lies side by side is short', () => {
    expect(view((b, x) => c.slice1(b, x, 3, 1, 200)).data.readPart).toBeUndefined();
    expect(view((b, x) => c.slice(b, x, [0, 0, 0, 0], [6, 5, 20, 300], [1, 1, 2, 1])).data.readPart).toBeUndefined();
  });
});

describe('packed weights', () => {
  const shapes = fc.record({
    batches: fc.integer({ min: 1, max: 3 }),
    rows: fc.integer({ min: 1, max: 40 }),
    k: fc.integer({ min: 1, max: 30 }),
    width: fc.integer({ min: 1, max: 17 }),
    along: fc.constantFrom('k', 'row', 'reversed', 'spread'),
  });

  it('property: parts in any order are the whole', () => {
    fc.assert(
      fc.property(shapes, fc.integer({ min: 1, max: 200 }), fc.boolean(), ({ along, ...shape }, piece, inParts) => {
        const { batches, rows, k, width } = shape;
        const spread = along === 'spread' ? 9 : 1;
        const strides = {
          offset: along === 'reversed' ? (rows - 1) * k : 0,
          batch: rows * k * spread,
          row: along === 'row' ? 1 : along === 'reversed' ? -k : k * spread,
          k: along === 'row' ? rows : spread,
        };
        const source = numbered([batches * rows * k * spread]);
        const entries = source.data as Float32Array;
        const readPart = (start: number, into: Parameters<NonNullable<ConstantData['readPart']>>[1]): void =>
          (into as Float32Array).set(entries.subarray(start, start + into.length));
        const given = inParts ? { ...constant(source), readPart } : constant(source);
        const { data } = packConstant({ name: 'w' } as Value, given, shape, strides);
        const expected = new Float32Array(packedLength(shape));
        let at = 0;
        for (let b = 0; b < batches; b++)
          for (let first = 0; first < rows; first += width)
            for (let step = 0; step < k; step++)
              for (let row = first; row < first + width; row++, at++)
                if (row < rows)
                  expected[at] = entries[strides.offset + b * strides.batch + row * strides.row + step * strides.k];
        expect(data.load().data).toEqual(expected);
        const found = new Float32Array(expected.length).fill(Number.NaN);
        for (let start = 0; start < found.length; start += piece)
          data.readPart?.(start, found.subarray(start, start + piece));
        expect(found).toEqual(expected);
        const ordered = new Float32Array(expected.length).fill(Number.NaN);
        for (const { start, length } of data.parts?.(piece) ?? [{ start: 0, length: ordered.length }])
          data.readPart?.(start, ordered.subarray(start, start + length));
        expect(ordered).toEqual(expected);
      }),
    );
  });

  it.each([
    ['rows side by side', { row: 1, k: 1000 }],
    ['rows one after the other', { row: 1000, k: 1 }],
  ])('are made of little at once: %s', (_, strides) => {
    const { data: source, reads } = stored(numbered([1000, 1000]));
    const shape = { batches: 1, rows: 1000, k: 1000, width: 32 };
    const { data } = packConstant({ name: 'w' } as Value, source, shape, { offset: 0, batch: 0, ...strides });
    for (const { start, length } of data.parts?.(1 << 16) ?? [{ start: 0, length: 1024 * 1000 }]) {
      for (let at = start; at < start + length; at += 1 << 16)
        data.readPart?.(at, new Float32Array(Math.min(1 << 16, start + length - at)));
    }
    // A few pieces each, and hardly more than everything once.
    expect(Math.max(...reads)).toBeLessThan(5 * 4 * (1 << 16));
    expect(reads.reduce((sum, bytes) => sum + bytes, 0)).toBeLessThan(2 * 4e6);
  });

  it('refuse strides that lead out of the constant', () => {
    const shape = { batches: 1, rows: 4, k: 4, width: 4 };
    const { data } = packConstant({ name: 'w' } as Value, constant(numbered([15])), shape, {
      offset: 0,
      batch: 0,
      row: 4,
      k: 1,
    });
    expect(() => data.load()).toThrow(RangeError);
  });
});

describe('upload', () => {
  /** Takes over what is written when a submission is served, some time later. */
  function device(bytes: number) {
    const memory = new Uint8Array(bytes);
    let inFlight = 0;
    const seen = { most: 0, submissions: 0 };
    const queue: Queue = {
      async submit({ writes = [] }) {
        const size = writes.reduce((sum, { data }) => sum + data.byteLength, 0);
        seen.submissions++;
        seen.most = Math.max(seen.most, (inFlight += size));
        await new Promise((resolve) => setTimeout(resolve, 1));
        for (const { to, data } of writes) memory.set(data, to.offset);
        inFlight -= size;
        return {};
      },
    };
    const range = (offset: number, length: number): BufferRange => ({
      buffer: {} as DeviceBuffer,
      offset,
      bytes: length,
    });
    return { memory, queue, seen, range };
  }

  it('puts every constant in its place, in pieces', async () => {
    const tensors = [numbered([3]), numbered([2_500_000]), numbered([1]), numbered([1000, 1000]), numbered([17])];
    const { memory, queue, seen, range } = device(20 << 20);
    let at = 0;
    const uploads = tensors.map((tensor, i) => {
      const bytes = 4 * sizeOf(tensor.shape);
      const to = range(at, bytes);
      at += Math.ceil(bytes / 64) * 64;
      const own = i % 2 === 0 ? constant(tensor) : stored(tensor).data;
      const shape = { batches: 1, rows: 1000, k: 1000, width: 8 };
      const data =
        i === 3 ? packConstant({ name: 'w' } as Value, own, shape, { offset: 0, batch: 0, row: 1, k: 1000 }).data : own;
      return { name: `w${i}`, data, to };
    });
    await uploadConstants(queue, uploads);
    for (const { data, to } of uploads)
      expect(sameBytes(memory.subarray(to.offset, to.offset + to.bytes), bytesOfTensor(data.load()))).toBe(true);
    expect(seen.submissions).toBeGreaterThan(2);
    expect(seen.most).toBeLessThan(17 << 20);
  });

  it('takes over what the last submission says', async () => {
    const queue: Queue = { submit: () => Promise.reject(new Error('the device is gone')) };
    const data = constant(numbered([4]));
    const to = { buffer: {} as DeviceBuffer, offset: 0, bytes: 16 };
    await expect(uploadConstants(queue, [{ name: 'w', data, to }])).rejects.toThrow('the device is gone');
  });

  it('refuses data of another size than planned', async () => {
    const { queue, range } = device(64);
    const bad = { name: 'w', data: constant(numbered([4])), to: range(0, 12) };
    await expect(uploadConstants(queue, [bad])).rejects.toThrow('constant w: 16 bytes, planned 12');
  });

  it('digests parts as the whole', () => {
    const tensor = numbered([1_500_000]);
    const { data, reads } = stored(tensor);
    expect(digestOf(data, createSha256)).toBe(sha256(bytesOfTensor(tensor)));
    expect(Math.max(...reads)).toBeLessThan(bytesOfTensor(tensor).byteLength);
    expect(digestOf(constant(tensor), createSha256)).toBe(sha256(bytesOfTensor(tensor)));
  });
});

describe('files of models', () => {
  const big = numbered([300, 300]);
  const small = numbered([300]);
  const flags: HostTensor = { dtype: 'bool', shape: [70_000], data: new Uint8Array(70_000).map((_, i) => i % 3) };
  const model = (): Uint8Array =>
    encode('ModelProto', {
      irVersion: 8n,
      opsetImport: [{ domain: '', version: 17n }],
      graph: {
        name: 'g',
        node: [
          { opType: 'MatMul', input: ['x', 'big'], output: ['product'] },
          { opType: 'Add', input: ['product', 'small'], output: ['y'] },
          { opType: 'Not', input: ['flags'], output: ['z'] },
        ],
        initializer: [protoOf(big, 'big'), protoOf(small, 'small'), protoOf(flags, 'flags'), protoOf(big, 'again')],
        input: [
          { name: 'x', type: { tensorType: { elemType: 1, shape: { dim: [{ dimValue: 1n }, { dimValue: 300n }] } } } },
        ],
        output: [{ name: 'y' }, { name: 'z' }, { name: 'again' }],
      },
    });

  function fileOf(bytes: Uint8Array) {
    const reads = { bytes: 0 };
    const read = (offset: number, into: Uint8Array): void => {
      reads.bytes += into.byteLength;
      into.set(bytes.subarray(offset, offset + into.byteLength));
    };
    return { file: { size: bytes.byteLength, read }, reads };
  }

  it('are imported without their large weights, which are read when they are needed', () => {
    const bytes = model();
    const { file, reads } = fileOf(bytes);
    const { bytes: outline, leftOut } = readOutline(file);
    expect(outline.byteLength).toBe(bytes.byteLength);
    expect(reads.bytes).toBeLessThan(100_000);
    const loaded = (graph: ReturnType<typeof importOnnx>) =>
      [...graph.constants.values()].map((data) => [data.dtype, data.shape, sha256(bytesOfTensor(data.load()))]);
    expect(loaded(importOnnx(outline, { leftOut }))).toEqual(loaded(importOnnx(bytes)));
    expect(reads.bytes).toBeGreaterThan(2 * 360_000);
  });

  it('are read whole where they are not as expected', () => {
    const bytes = model();
    for (const end of [bytes.length - 1, bytes.length - 100_000, 400_000, 100]) {
      const cut = bytes.slice(0, end);
      const { bytes: outline, leftOut } = readOutline(fileOf(cut).file);
      expect(sameBytes(outline, cut)).toBe(true);
      expect(() => importOnnx(outline, { leftOut })).toThrow(expect.objectContaining({ code: 'E_MODEL_FORMAT' }));
    }
  });

  it('property: whatever the bytes are, what is not left out is there', () => {
    const tiny = encode('ModelProto', { graph: { name: 'g', initializer: [protoOf(small, 'small')] } });
    fc.assert(
      fc.property(fc.array(fc.tuple(fc.nat(tiny.length - 1), fc.nat(255)), { maxLength: 4 }), (changes) => {
        const bytes = tiny.slice();
        for (const [at, byte] of changes) bytes[at] = byte;
        expect(readOutline(fileOf(bytes).file).bytes).toEqual(bytes);
      }),
    );
  });

  const large = (): Uint8Array =>
    encode('ModelProto', {
      opsetImport: [{ domain: '', version: 17n }],
      graph: { initializer: [protoOf(numbered([500_000]), 'w')], output: [{ name: 'w' }] },
    });

  it('may be deleted, but not written to, while the model is in use', async () => {
    const path = join(folder, 'model.onnx');
    writeFileSync(path, large());
    const model = await compile(path);
    const [weights] = model.graph.constants.values();
    const part = new Float32Array(2);
    weights.readPart?.(1000, part);
    expect([...part]).toEqual([1001, 1002]);
    expect(model.sourceDigest).toBe(sha256(large()));
    writeFileSync(path, large().subarray(0, 1_500_000));
    expect(() => weights.load()).toThrow(expect.objectContaining({ code: 'E_IO' }));
    writeFileSync(path, large());
    const second = await compile(path);
    rmSync(path);
    const [again] = second.graph.constants.values();
    expect((again.load().data as Float32Array)[499_999]).toBe(500_000);
  });

  it('that are small are held', () => {
    const path = join(folder, 'small.onnx');
    writeFileSync(path, model().subarray(0, 1000));
    expect(openLarge(path)).toBeUndefined();
    expect(() => openLarge(join(folder, 'none.onnx'))).toThrow(expect.objectContaining({ code: 'E_IO' }));
  });
});

it('arrays of all types hold whole elements in a piece', () => {
  for (const array of Object.values(dataArrays)) expect((4 << 20) % array.BYTES_PER_ELEMENT).toBe(0);
});
