// The text form of graphs: exact round trips, and errors that name the line.
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { isGraph, schemas } from '../../compiler/graph/attributes.js';
import { GraphBuilder } from '../../compiler/graph/builder.js';
import {
  addDims,
  type Dim,
  dimEquals,
  dimName,
  floorDivDims,
  maxDims,
  minDims,
  modDims,
  mulDims,
  subDims,
} from '../../compiler/graph/dims.js';
import { opKinds } from '../../compiler/graph/ops/index.js';
import { parseGraph } from '../../compiler/graph/parse.js';
import { printGraph } from '../../compiler/graph/print.js';
import type { ConstantData, Graph } from '../../compiler/graph/types.js';
import { bytesOfTensor, emptyTensor, type HostTensor, tensorFromBytes } from '../../compiler/tensor.js';
import { errorOf } from '../support/errors.js';
import { caseKinds, chooserOf, graphOf, randomCase, tensor } from '../support/graph_cases.js';

/** Prints and reads back, with constants in a store; checks that nothing changes. */
function roundTrip(graph: Graph): Graph {
  const store = new Map<string, ConstantData>();
  const keyOf = (data: ConstantData, name: string) => {
    store.set(`key of ${name}`, data);
    return `key of ${name}`;
  };
  const text = printGraph(graph, { keyOf });
  const back = parseGraph(text, (key) => store.get(key));
  expect(printGraph(back, { keyOf })).toBe(text);
  return back;
}

/** Bodies by what they say: their constants hold functions. */
const comparable = (attrs: object): object =>
  Object.fromEntries(Object.entries(attrs).map(([name, value]) => [name, isGraph(value) ? printGraph(value) : value]));

describe('text', () => {
  it('has a schema for every op', () => {
    expect(new Set(Object.keys(schemas))).toEqual(new Set(opKinds));
  });

  it('reads as intended', () => {
    const b = new GraphBuilder('tiny model');
    b.dim('batch', { min: 1, max: 64 });
    const x = b.input('x', 'f32', [dimName('batch'), 3]);
    const w = b.constant({ dtype: 'f32', shape: [3, 8], data: new Float32Array(24) }, 'fc.weight');
    const two = b.constant({ dtype: 'i64', shape: [1], data: BigInt64Array.of(-2n) }, 'shape of y');
    b.source = { node: 'MatMul_0', op: 'MatMul' };
    const [y] = b.op('dot', [x, w], { lhsBatch: [], rhsBatch: [], lhsContract: [1], rhsContract: [0], dtype: 'f32' }, [
      'y',
    ]);
    const [z] = b.op('reshape', [y], { shape: [mulDims(dimName('batch'), 8)] }, ['z']);
    b.output('out', z);
    b.output('two', two);
    expect(printGraph(b.finish())).toBe(`tutti graph 1
graph "tiny model"
dim batch in [1, 64]
input %x: f32[batch, 3]
constant %fc.weight: f32[3, 8] = data "fc.weight"
constant %"shape of y": i64[1] = [-2]
%y: f32[batch, 8] = dot(%x, %fc.weight) {lhsBatch: [], rhsBatch: [], lhsContract: [1], rhsContract: [0], dtype: f32} @ "MatMul_0" op "MatMul"
%z: f32[8*batch] = reshape(%y) {shape: [8*batch]} @ "MatMul_0" op "MatMul"
output "out" = %z
output "two" = %"shape of y"
`);
    roundTrip(b.finish());
  });

  for (const kind of caseKinds) {
    it(`keeps ${kind}`, () => {
      fc.assert(
        fc.property(fc.gen(), (g) => {
          const node = randomCase(chooserOf(g), kind);
          const [after] = roundTrip(graphOf(node)).nodes;
          expect(after.op).toBe(kind);
          expect(comparable(after.attrs)).toEqual(comparable(node.attrs));
        }),
        { numRuns: 25 },
      );
    });
  }

  it('keeps constants of every type to the bit', () => {
    fc.assert(
      fc.property(fc.gen(), fc.uint8Array({ minLength: 64, maxLength: 64 }), (g, bytes) => {
        const b = new GraphBuilder();
        const values: HostTensor[] = (
          [
            'f64',
            'f32',
            'f16',
            'bf16',
            'f8e4m3',
            'f8e5m2',
            'i64',
            'i32',
            'i8',
            'u64',
            'u32',
            'u16',
            'i4',
            'u4',
          ] as const
        ).map((dtype) => tensorFromBytes(dtype, [4], bytes.slice()));
        values.push(
          tensor(chooserOf(g), 'bool', [3]),
          tensor(chooserOf(g), 'string', [2, 1]),
          emptyTensor('f32', [0, 7]),
          emptyTensor('i32', []),
        );
        values.forEach((value, i) => {
          b.output(`${i}`, b.constant(value, `c ${i}`));
        });
        const back = roundTrip(b.finish());
        [...back.constants.values()].forEach((data, i) => {
          const loaded = data.load();
          expect([loaded.dtype, loaded.shape]).toEqual([values[i].dtype, values[i].shape]);
          if (loaded.dtype === 'string') expect(loaded.data).toEqual(values[i].data);
          else expect(bytesOfTensor(loaded)).toEqual(bytesOfTensor(values[i]));
        });
      }),
    );
  });

  it('keeps names, dims and attributes of source ops whatever they are', () => {
    const text = fc.string({ unit: 'binary', maxLength: 12 });
    fc.assert(
      fc.property(
        text,
        text,
        text,
        fc.double({ noNaN: true }),
        fc.bigInt({ min: -(2n ** 63n), max: 2n ** 63n - 1n }),
        (a, c, d, number, big) => {
          const b = new GraphBuilder(a);
          b.dim(c, { min: 0, max: 7 });
          b.source = { node: d, op: a };
          const x = b.input(a, 'f32', [dimName(c), addDims(dimName(d), 1)]);
          const attrs = {
            n: number,
            b: big,
            s: c,
            l: [number, 1],
            bl: [big],
            sl: [a, d],
            t: emptyTensor('f32', [40]),
            one: emptyTensor('i8', []),
            none: [],
          };
          const [y] = b.node(
            'source_op',
            [x],
            { domain: c, name: d, opset: 13, attrs, present: [true, false] },
            [{ dtype: 'f32', shape: [], unknown: true }],
            [c],
          );
          b.output(d, y);
          const graph = b.finish();
          const back = roundTrip(graph);
          expect(back.nodes[0].attrs).toEqual(graph.nodes[0].attrs);
          expect(back.nodes[0].source).toEqual(graph.nodes[0].source);
          expect(back.inputs[0].name).toBe(graph.inputs[0].name);
          expect(back.dims).toEqual(graph.dims);
          expect(back.nodes[0].outputs[0].type.unknown).toBe(true);
        },
      ),
    );
  });

  it('keeps dims', () => {
    const names = ['n', 'h', 'batch size', 'floordiv', 'Infinity'];
    const { dim } = fc.letrec<{ dim: Dim }>((tie) => ({
      dim: fc.oneof(
        { maxDepth: 4 },
        fc.constantFrom(...names).map(dimName),
        fc.integer({ min: 0, max: 20 }),
        fc
          .tuple(fc.constantFrom(addDims, subDims, mulDims, minDims, maxDims), tie('dim'), tie('dim'))
          .map(([fn, p, q]) => fn(p, q)),
        fc
          .tuple(fc.constantFrom(floorDivDims, modDims), tie('dim'), fc.integer({ min: 1, max: 9 }))
          .map(([fn, p, q]) => fn(p, q)),
        fc.tuple(tie('dim'), fc.constantFrom(...names)).map(([p, name]) => floorDivDims(p, dimName(name))),
      ),
    }));
    fc.assert(
      fc.property(
        dim.filter((d) => typeof d !== 'number'),
        (d) => {
          const b = new GraphBuilder();
          b.input('x', 'f32', [d]);
          const [value] = roundTrip(b.finish()).inputs;
          expect(dimEquals(value.type.shape[0], d)).toBe(true);
        },
      ),
      { numRuns: 500 },
    );
  });

  it('takes comments, blank lines and attributes in any order', () => {
    const graph = parseGraph(`tutti graph 1
# a comment

graph "g"   # named
input %x: f32[2, n]
  %y : f32 [2] = reduce ( %x ) { keep: false , axes:[1], fn : sum } @ "node"
output "y"=%y
`);
    expect(graph.nodes[0].attrs).toEqual({ fn: 'sum', axes: [1], keep: false });
    expect(graph.inputs[0].type.shape.map(String)).toEqual(['2', 'n']);
  });
});

describe('errors of the text', () => {
  const header = 'tutti graph 1\ngraph "g"\ninput %x: f32[2, 3]\n';
  const refuse = (body: string, line: number, pattern: RegExp) => {
    const error = errorOf(() => parseGraph(header + body));
    expect(error.code).toBe('E_IR');
    expect(error.message).toMatch(pattern);
    expect(error.message).toContain(`line ${line + 3}`);
  };

  it('name the line', () => {
    expect(errorOf(() => parseGraph('')).message).toMatch(/tutti graph 1/);
    expect(errorOf(() => parseGraph('tutti graph 2\n')).message).toMatch(/tutti graph 2/);
    refuse('%y: f32[2, 3] = frobnicate(%x) @ "n"', 1, /unknown op.*frobnicate/);
    refuse('\n%y: f32[2, 3] = neg(%z) @ "n"', 2, /not defined yet.*%z/);
    refuse('%y: f32[2, 3] = neg(%x) {axis: 1} @ "n"', 1, /unknown attribute/);
    refuse('%y: f32[2, 3] = reduce(%x) {fn: sum, axes: [0]} @ "n"', 1, /'keep' is missing/);
    refuse('%y: f32[2, 3] = reduce(%x) {fn: median, axes: [0], keep: true} @ "n"', 1, /unknown word.*median/);
    refuse('%y: f32[2, 3] = reduce(%x) {fn: sum, axes: [0.5], keep: true} @ "n"', 1, /integer/);
    refuse('%y: f32[2, 3] = reduce(%x) {fn: sum, axes: [7], keep: true} @ "n"', 1, /out of range/);
    refuse('%y: f32[3, 2] = neg(%x) @ "n"', 1, /type of y/);
    refuse('%x: f32[2, 3] = neg(%x) @ "n"', 1, /defined twice/);
    refuse('%y: f32[2, 3] = neg(%x)', 1, /'@'/);
    refuse('%y: f99[2, 3] = neg(%x) @ "n"', 1, /unknown element type/);
    refuse('constant %c: f32[1000000000000] = [1]', 1, /wrong number of elements/);
    refuse('constant %c: f32[99999999, 99999999, 99999999] = [1]', 1, /too many elements/);
    refuse('constant %c: i8[1] = [300]', 1, /out of range of i8/);
    refuse('constant %c: f32[2] = data "missing"', 1, /no data under this key/);
    refuse('constant %c: f32[n] = [1]', 1, /names in it/);
    refuse('input %i: f32[1e99]', 1, /2\^53/);
    refuse('input %i: f32[9007199254740993]', 1, /2\^53/);
    refuse('input %i: f32[9007199254740991 + n + 9007199254740991]', 1, /too large/);
    refuse('input %i: f32[floordiv(n, 0)]', 1, /divisor/);
    refuse(`input %i: f32[${'min('.repeat(50)}n${', 1)'.repeat(50)}]`, 1, /too deeply/);
    refuse(
      `input %i: f32[${Array.from({ length: 12 }, (_, i) => `floordiv(2*a${i} + 2*b${i}, 2)`).join('*')}]`,
      1,
      /too many terms/,
    );
    refuse('input %i: f32[2] trailing', 1, /end of the line/);
    refuse('output "o" = %nothing', 1, /not defined/);
    refuse('what is this', 1, /unknown statement/);
    refuse('input %"unclosed', 1, /unexpected character/);
    refuse('graph "again"', 1, /twice/);
    refuse('dim n in [1]', 1, /min, max/);
  });

  it('check data that is found under a key', () => {
    const data: ConstantData = { dtype: 'f32', shape: [3], load: () => emptyTensor('f32', [3]) };
    const text = `${header}constant %c: f32[2] = data "k"`;
    expect(errorOf(() => parseGraph(text, () => data)).message).toMatch(/expected f32\[2\], found f32\[3\]/);
  });
});
