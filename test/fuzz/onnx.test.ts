// Damaged and invented model files: the importer answers with a model or a TuttiError, soon, and nothing else.
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { TuttiError } from '../../compiler/error.js';
import { decode, importOnnx, resolveOnnx, tensorOf } from '../../compiler/frontends/onnx/index.js';
import { specialise } from '../../compiler/passes/specialise.js';
import { f32, i64, model, node, value } from '../support/onnx_model.js';

const valid = model({
  inputs: [value('x', 'f32', ['n', 3, 8, 8])],
  initializers: {
    w: f32([2, 3, 3, 3], ...Array.from({ length: 54 }, (_, i) => i / 54)),
    b: f32([2], 1, 2),
    zero: { ...i64(0), shape: [] },
    axis: i64(0),
    rest: i64(-1),
    scales: f32([4], 1, 1, 2, 2),
    starts: i64(0, 0),
    ends: i64(1, 4),
  },
  nodes: [
    node('c = Conv(x, w, b)', { pads: [1n, 1n, 1n, 1n], strides: [2n, 2n] }),
    node('r = LeakyRelu(c)', { alpha: 0.1 }),
    node('p = MaxPool(r)', { kernel_shape: [2n, 2n] }),
    node('z = Resize(p, , scales)', { mode: 'nearest' }),
    node('s = Shape(z)'),
    node('n = Gather(s, zero)'),
    node('u = Unsqueeze(n, axis)'),
    node('t = Concat(u, rest)', { axis: 0n }),
    node('f = Reshape(z, t)'),
    node('k = Slice(f, starts, ends)'),
    node('m = ReduceMean(k, axis)'),
    node('i = If(flag)', {
      then_branch: { name: 'a', node: [node('q = Softmax(m)')], output: [{ name: 'q' }] },
      else_branch: { name: 'b', node: [node('q = Neg(m)')], output: [{ name: 'q' }] },
    }),
    node('y = Double(i)', {}, { domain: 'my' }),
  ],
  graph: {},
  functions: [
    {
      name: 'Double',
      domain: 'my',
      input: ['a'],
      output: ['r'],
      opsetImport: [{ domain: '', version: 21n }],
      node: [node('r = Add(a, a)')],
    },
  ],
  outputs: ['y', 'k'],
});
const whole = model({
  inputs: [value('x', 'f32', ['n', 4])],
  initializers: { w: f32([4, 2], 1, 2, 3, 4, 5, 6, 7, 8) },
  nodes: [node('y = MatMul(x, w)')],
  outputs: ['y'],
});

/** Imports and, where that works, specialises. Errors other than TuttiError pass through and fail the property. */
function attempt(bytes: Uint8Array): 'ok' | TuttiError {
  try {
    const graph = importOnnx(bytes, { readExternal: () => ({ size: 8, read: (_, length) => new Uint8Array(length) }) });
    const dims = Object.fromEntries([...graph.dims.keys()].map((name) => [name, 2]));
    specialise(graph, { dims }, new Map([['', resolveOnnx]]));
    return 'ok';
  } catch (error) {
    if (error instanceof TuttiError) return error;
    throw error;
  }
}

function mutate(bytes: Uint8Array, edits: readonly { at: number; kind: number; byte: number }[]): Uint8Array {
  let list = [...bytes];
  for (const { at, kind, byte } of edits) {
    const place = Math.floor(at * list.length);
    if (kind === 0) list[place] = byte;
    else if (kind === 1) list[place] ^= 1 << (byte & 7);
    else if (kind === 2) list.splice(place, 1 + (byte & 15));
    else if (kind === 3) list.splice(place, 0, ...list.slice(place, place + byte));
    else list = list.slice(0, place);
  }
  return Uint8Array.from(list);
}

const edits = fc.array(
  fc.record({
    at: fc.double({ min: 0, max: 0.999999, noNaN: true }),
    kind: fc.integer({ min: 0, max: 4 }),
    byte: fc.nat(255),
  }),
  { minLength: 1, maxLength: 6 },
);

describe('fuzzed ONNX files', () => {
  it('the undamaged model imports up to its one flaw', () => {
    expect(attempt(whole)).toBe('ok');
    expect(attempt(valid)).toMatchObject({ code: 'E_MODEL_INVALID' });
  });

  it('mutations of valid files give a model or a TuttiError', () => {
    fc.assert(
      fc.property(fc.constantFrom(valid, whole), edits, (bytes, list) => {
        attempt(mutate(bytes, list));
      }),
      { numRuns: 4000 },
    );
  });

  it('random bytes give a TuttiError', () => {
    fc.assert(
      fc.property(fc.uint8Array({ maxLength: 200 }), (bytes) => {
        expect(attempt(bytes)).toBeInstanceOf(TuttiError);
      }),
      { numRuns: 2000 },
    );
  });

  it('random bytes after the header of a graph give a model or a TuttiError', () => {
    fc.assert(
      fc.property(fc.uint8Array({ maxLength: 100 }), (bytes) => {
        attempt(Uint8Array.of(0x42, 2, 0x10, 21, 0x3a, bytes.length, ...bytes));
      }),
      { numRuns: 2000 },
    );
  });

  it('damaged tensors give a tensor or a TuttiError', () => {
    const bytes = decode('ModelProto', whole).graph?.initializer.length;
    expect(bytes).toBe(1);
    fc.assert(
      fc.property(fc.uint8Array({ maxLength: 60 }), (data) => {
        try {
          tensorOf(decode('TensorProto', data), 'fuzz');
        } catch (error) {
          expect(error).toBeInstanceOf(TuttiError);
        }
      }),
      { numRuns: 3000 },
    );
  });
});
