// The importer: shapes that are symbolic, functions, branches, what waits for specialisation, and clear errors.
import { describe, expect, it } from 'vitest';
import { TuttiError } from '../../compiler/error.js';
import { type ImportOptions, importOnnx, resolveOnnx } from '../../compiler/frontends/onnx/index.js';
import { printShape } from '../../compiler/graph/dims.js';
import { evaluateGraph } from '../../compiler/graph/evaluate.js';
import type { Graph, NodeOf } from '../../compiler/graph/types.js';
import { type Bindings, specialise } from '../../compiler/passes/specialise.js';
import type { HostTensor } from '../../compiler/tensor.js';
import { f32, i64, type ModelInit, model, node, value } from '../support/onnx_model.js';

const load = (init: ModelInit, options: ImportOptions = {}): Graph => importOnnx(model(init), options);
const bind = (graph: Graph, bindings: Bindings): Graph => specialise(graph, bindings, new Map([['', resolveOnnx]]));
const run = (graph: Graph, inputs: Record<string, HostTensor>): HostTensor => {
  const shapes = Object.fromEntries(Object.entries(inputs).map(([name, { shape }]) => [name, shape]));
  return [...evaluateGraph(bind(graph, { shapes, values: inputs }), inputs).values()][0];
};
const shapeOf = (graph: Graph, output = 0): string => printShape(graph.outputs[output].value.type.shape);
const kinds = (graph: Graph): string[] => graph.nodes.map(({ op }) => op);

function errorOf(body: () => unknown): TuttiError {
  try {
    body();
  } catch (error) {
    if (error instanceof TuttiError) return error;
    throw error;
  }
  throw new Error('no error');
}

describe('names', () => {
  const graph = load({
    inputs: [value('x', 'f32', [2])],
    nodes: [node('h = Relu(x)', {}, { name: 'features.3' }), node('y = Neg(h)')],
    outputs: ['y'],
  });
  it('of nodes and values survive', () => {
    expect(graph.nodes.map(({ source }) => source)).toEqual([
      { node: 'features.3', op: 'Relu' },
      { node: 'Neg_1', op: 'Neg' },
    ]);
    expect(graph.nodes.flatMap(({ outputs }) => outputs.map(({ name }) => name))).toEqual(['h', 'y']);
    expect(graph.outputs[0].name).toBe('y');
  });
});

describe('symbolic shapes', () => {
  const flatten: ModelInit = {
    // The shape arithmetic that exporters write for x.view(x.size(0), -1).
    inputs: [value('x', 'f32', ['batch', 3, 'w'])],
    initializers: { zero: { ...i64(0), shape: [] }, axis: i64(0), minus: i64(-1) },
    nodes: [
      node('s = Shape(x)'),
      node('n = Gather(s, zero)'),
      node('u = Unsqueeze(n, axis)'),
      node('t = Concat(u, minus)', { axis: 0n }),
      node('y = Reshape(x, t)'),
    ],
    outputs: ['y'],
  };

  it('arithmetic on shapes is settled at import and leaves no nodes', () => {
    const graph = load(flatten);
    expect(shapeOf(graph)).toBe('[batch, 3*w]');
    expect(kinds(graph)).toEqual(['reshape']);
    expect([...graph.dims.keys()].sort()).toEqual(['batch', 'w']);
    expect(shapeOf(bind(graph, { dims: { batch: 4, w: 5 } }))).toBe('[4, 15]');
    expect(shapeOf(bind(graph, { shapes: { x: [2, 3, 7] } }))).toBe('[2, 21]');
  });

  it('follows division, slices, comparisons and selections', () => {
    const graph = load({
      inputs: [value('x', 'f32', ['n', 'm'])],
      initializers: { one: i64(1), two: i64(2), zero: i64(0), three: i64(3), minus: i64(-1) },
      nodes: [
        node('s = Shape(x)'),
        node('m = Slice(s, one, two, zero)'),
        node('half = Div(m, two)'),
        node('double = Mul(half, two)'),
        node('c = Equal(minus, m)'),
        node('pick = Where(c, one, half)'),
        node('first = Slice(s, zero, one)'),
        node('t = Concat(first, pick)', { axis: 0n }),
        node('e = ConstantOfShape(t)'),
        node('p = Slice(x, zero, half, one)'),
        node('y = Add(e, p)'),
      ],
      outputs: ['y', 'p'],
    });
    expect(shapeOf(graph)).toBe('[n, floordiv(m, 2)]');
    expect(kinds(graph)).not.toContain('source_op');
    const concrete = bind(graph, { dims: { n: 2, m: 7 } });
    expect([shapeOf(concrete), shapeOf(concrete, 1)]).toEqual(['[2, 3]', '[2, 3]']);
  });

  it('undecided broadcasts wait for numbers', () => {
    const graph = load({
      inputs: [value('x', 'f32', ['n']), value('y', 'f32', ['m'])],
      nodes: [node('z = Add(x, y)')],
      outputs: ['z'],
    });
    expect(kinds(graph)).toEqual(['source_op']);
    expect(run(graph, { x: f32([1], 10), y: f32([2], 1, 2) })).toEqual(f32([2], 11, 12));
    expect(run(graph, { x: f32([2], 10, 20), y: f32([1], 1) })).toEqual(f32([2], 11, 21));
    expect(errorOf(() => bind(graph, { dims: { n: 2, m: 3 } }))).toMatchObject({ code: 'E_SHAPE' });
  });

  it('everything after an unknown shape waits too', () => {
    const graph = load({
      inputs: [value('x', 'f32', ['n', 'n'])],
      nodes: [node('s = Squeeze(x)'), node('y = Relu(s)')],
      outputs: ['y'],
    });
    expect(kinds(graph)).toEqual(['source_op', 'source_op']);
    expect(shapeOf(bind(graph, { dims: { n: 1 } }))).toBe('[]');
    expect(shapeOf(bind(graph, { dims: { n: 2 } }))).toBe('[2, 2]');
  });

  it('a shape that is needed as data is a constant once sizes are known', () => {
    const graph = load({ inputs: [value('x', 'f32', ['n', 3])], nodes: [node('y = Shape(x)')], outputs: ['y'] });
    expect(kinds(graph)).toEqual(['shape_of']);
    const concrete = bind(graph, { dims: { n: 5 } });
    expect(kinds(concrete)).toEqual([]);
    expect(run(graph, { x: f32([2, 3], 1, 2, 3, 4, 5, 6) })).toEqual(i64(2, 3));
  });

  it('inputs without a shape take any', () => {
    const graph = load({ inputs: [value('x', 'f32')], nodes: [node('y = Softmax(x)')], outputs: ['y'] });
    expect(run(graph, { x: f32([2, 1], 3, 4) })).toEqual(f32([2, 1], 1, 1));
    expect(errorOf(() => bind(graph, {})).message).toContain('--shape x=');
  });

  it('dims without names get names from their input', () => {
    const graph = load({ inputs: [value('data', 'f32', [null, 3])], nodes: [node('y = Relu(data)')], outputs: ['y'] });
    expect(shapeOf(graph)).toBe('[data_d0, 3]');
  });
});

describe('shapes and dims from the user', () => {
  const init: ModelInit = {
    inputs: [value('x', 'f32', ['n', 3]), value('y', 'f32', ['n', 3])],
    nodes: [node('z = Add(x, y)')],
    outputs: ['z'],
  };

  it('fix dims everywhere, and may be repeated later', () => {
    expect(shapeOf(load(init, { dims: { n: 4 } }))).toBe('[4, 3]');
    const graph = load(init, { shapes: { x: [5, 3] } });
    expect(shapeOf(graph)).toBe('[5, 3]');
    expect(shapeOf(bind(graph, { dims: { n: 5 }, shapes: { y: [5, 3] } }))).toBe('[5, 3]');
    expect(errorOf(() => bind(graph, { dims: { n: 6 } })).code).toBe('E_INPUT');
  });

  it.each<[string, ImportOptions, RegExp]>([
    ['an unknown input', { shapes: { q: [1, 3] } }, /no input q.*x, y/],
    ['an unknown dim', { dims: { q: 1 } }, /no dim q.*n/],
    ['another rank', { shapes: { x: [1, 3, 1] } }, /x.*rank/],
    ['a fixed dim', { shapes: { x: [1, 4] } }, /input x.*dim 1.*expected 3, found 4/],
    ['two sizes of one dim', { shapes: { x: [1, 3], y: [2, 3] } }, /dim n.*expected 1, found 2/],
    ['a negative size', { dims: { n: -1 } }, /dim n/],
  ])('%s is refused by name', (_, options, message) => {
    const error = errorOf(() => load(init, options));
    expect(error.code).toBe('E_INPUT');
    expect(error.message).toMatch(message);
  });

  it('sizes outside given bounds are refused when they are bound', () => {
    const graph = load(init, { dims: { n: { min: 1, max: 8 } } });
    expect(shapeOf(bind(graph, { dims: { n: 8 } }))).toBe('[8, 3]');
    expect(errorOf(() => bind(graph, { dims: { n: 9 } })).message).toMatch(/expected 1 to 8, found 9/);
    expect(errorOf(() => bind(graph, {})).message).toMatch(/--dim n=/);
  });
});

describe('parameters from data', () => {
  const graph = load({
    inputs: [value('x', 'f32', [4]), value('s', 'i64', [2])],
    nodes: [node('y = Reshape(x, s)')],
    outputs: ['y'],
  });

  it('are taken from given input data, which are reported', () => {
    const used: string[] = [];
    const values = { s: i64(2, -1), x: f32([4], 1, 2, 3, 4) };
    expect(shapeOf(bind(graph, { values, onUse: (name) => used.push(name) }))).toBe('[2, 2]');
    expect(new Set(used)).toEqual(new Set(['s']));
  });

  it('are refused by name without', () => {
    const error = errorOf(() => bind(graph, {}));
    expect(error.code).toBe('E_UNSUPPORTED');
    expect(error.message).toMatch(/Reshape_0.*input 1 \(s\)/);
  });
});

describe('functions', () => {
  const scaled = {
    name: 'Scaled',
    domain: 'my',
    input: ['a', 'bias'],
    output: ['r'],
    attribute: ['alpha'],
    opsetImport: [
      { domain: '', version: 18n },
      { domain: 'my', version: 1n },
    ],
    attributeProto: [{ name: 'beta', type: 1, f: 2 }],
    node: [
      node('h = LeakyRelu(a)', {}, { attribute: [{ name: 'alpha', type: 1, refAttrName: 'alpha' }] }),
      node('k = Constant()', {}, { attribute: [{ name: 'value_float', type: 1, refAttrName: 'beta' }] }),
      node('m = Mul(h, k)'),
      node('r = Sum(m, m)'),
    ],
  };
  const call = (attrs: Parameters<typeof node>[1]): Graph =>
    load({
      inputs: [value('x', 'f32', [2])],
      functions: [scaled],
      outputs: ['y'],
      nodes: [node('y = Scaled(x)', attrs, { domain: 'my', name: 'call' })],
    });

  it('are inlined with attributes of the call and defaults', () => {
    expect(run(call({ alpha: 0.5 }), { x: f32([2], -4, 1) })).toEqual(f32([2], -8, 4));
    expect(run(call({ alpha: 0.5, beta: 3 }), { x: f32([2], -4, 1) })).toEqual(f32([2], -12, 6));
    // An attribute that neither gives has the operator's default.
    expect([...(run(call({}), { x: f32([2], -100, 1) }).data as Float32Array)]).toEqual([expect.closeTo(-4, 5), 4]);
    expect(call({}).nodes[0].source.node).toBe('call/LeakyRelu_0');
  });

  it('that call themselves are refused', () => {
    const endless = {
      name: 'F',
      domain: 'my',
      input: ['a'],
      output: ['r'],
      opsetImport: scaled.opsetImport,
      node: [node('r = F(a)', {}, { domain: 'my' })],
    };
    const error = errorOf(() =>
      load({
        inputs: [value('x', 'f32', [1])],
        functions: [endless],
        nodes: [node('y = F(x)', {}, { domain: 'my' })],
        outputs: ['y'],
      }),
    );
    expect(error).toMatchObject({ code: 'E_MODEL_INVALID' });
  });
});

describe('control flow', () => {
  const branches = {
    then_branch: { name: 't', node: [node('a = Neg(x)')], output: [{ name: 'a' }] },
    else_branch: { name: 'e', node: [node('b = Abs(x)')], output: [{ name: 'b' }] },
  };
  it('If of a constant is one branch', () => {
    const init: ModelInit = {
      inputs: [value('x', 'f32', [1])],
      nodes: [node('y = If(c)', branches)],
      outputs: ['y'],
      initializers: { c: { dtype: 'bool', shape: [], data: Uint8Array.of(1) } },
    };
    expect(kinds(load(init))).toEqual(['neg']);
  });
  it('If of data selects where both branches have one shape', () => {
    const graph = load({
      inputs: [value('x', 'f32', [1]), value('c', 'bool', [])],
      nodes: [node('y = If(c)', branches)],
      outputs: ['y'],
    });
    const flag = (bit: number): HostTensor => ({ dtype: 'bool', shape: [], data: Uint8Array.of(bit) });
    expect(run(graph, { x: f32([1], 3), c: flag(1) })).toEqual(f32([1], -3));
    expect(run(graph, { x: f32([1], 3), c: flag(0) })).toEqual(f32([1], 3));
  });
  it('bodies become graphs that say what they take from outside', () => {
    const body = {
      name: 'b',
      input: [{ name: 'i' }, { name: 'c' }, { name: 'h' }],
      node: [node('n = Add(h, x)'), node('d = Identity(c)')],
      output: [{ name: 'd' }, { name: 'n' }],
    };
    const graph = load({
      inputs: [value('x', 'f32', [1]), value('trips', 'i64', [])],
      nodes: [node('y = Loop(trips, , x)', { body }, { name: 'again' })],
      outputs: ['y'],
    });
    const [loop] = graph.nodes as readonly NodeOf<'source_op'>[];
    expect(loop.inputs.map(({ name }) => name)).toEqual(['trips', 'x', 'x']);
    expect((loop.attrs.attrs.body as Graph).inputs.map(({ name }) => name)).toEqual(['i', 'c', 'h', 'x']);
    const trips = (n: number): HostTensor => ({ dtype: 'i64', shape: [], data: BigInt64Array.of(BigInt(n)) });
    expect(run(graph, { x: f32([1], 3), trips: trips(4) })).toEqual(f32([1], 15));
    expect(run(graph, { x: f32([1], 3), trips: trips(0) })).toEqual(f32([1], 3));
  });
  it('a body that uses what is nowhere is refused by name', () => {
    const body = {
      name: 'b',
      input: [{ name: 'i' }, { name: 'c' }, { name: 'h' }],
      node: [node('d = Not(nowhere)')],
      output: [{ name: 'd' }, { name: 'h' }],
    };
    const error = errorOf(() =>
      load({
        inputs: [value('x', 'f32', [1])],
        nodes: [node('y = Loop(, , x)', { body }, { name: 'again' })],
        outputs: ['y'],
      }),
    );
    expect(error.code).toBe('E_MODEL_INVALID');
    expect(error.message).toMatch(/nowhere/);
  });
});

describe('old opsets', () => {
  it('broadcast only where asked, aligned at an axis', () => {
    const graph = load({
      opset: 6,
      inputs: [value('x', 'f32', [2, 2]), value('b', 'f32', [2])],
      nodes: [node('y = Add(x, b)', { broadcast: 1n, axis: 0n })],
      outputs: ['y'],
    });
    expect(run(graph, { x: f32([2, 2], 1, 2, 3, 4), b: f32([2], 10, 20) })).toEqual(f32([2, 2], 11, 12, 23, 24));
  });
  it('softmax flattens before opset 13', () => {
    const softmax = (opset: number) =>
      run(
        load({
          opset,
          inputs: [value('x', 'f32', [1, 2, 2])],
          nodes: [node('y = Softmax(x)', { axis: 1n })],
          outputs: ['y'],
        }),
        {
          x: f32([1, 2, 2], 0, 0, 0, 0),
        },
      );
    expect(softmax(12)).toEqual(f32([1, 2, 2], 0.25, 0.25, 0.25, 0.25));
    expect(softmax(13)).toEqual(f32([1, 2, 2], 0.5, 0.5, 0.5, 0.5));
  });
});

describe('models that are not valid', () => {
  const x = value('x', 'f32', [2, 3]);
  const relu = node('y = Relu(x)');
  it.each<[string, ModelInit, string, RegExp]>([
    [
      'a cycle',
      { inputs: [x], nodes: [node('a = Add(x, b)'), node('b = Relu(a)')], outputs: ['b'] },
      'E_MODEL_INVALID',
      /cycle.*Add_0, Relu_1/,
    ],
    [
      'a value defined twice',
      { inputs: [x], nodes: [relu, node('y = Neg(x)')], outputs: ['y'] },
      'E_MODEL_INVALID',
      /Neg_1.*y is defined twice/,
    ],
    [
      'an input defined by a node',
      { inputs: [x], nodes: [node('x = Neg(x)')], outputs: ['x'] },
      'E_MODEL_INVALID',
      /x is defined twice/,
    ],
    [
      'an undefined input',
      { inputs: [x], nodes: [node('y = Add(x, q)')], outputs: ['y'] },
      'E_MODEL_INVALID',
      /Add_0.*input q/,
    ],
    ['an undefined output', { inputs: [x], nodes: [relu], outputs: ['q'] }, 'E_MODEL_INVALID', /output q/],
    ['no outputs', { inputs: [x], nodes: [relu], outputs: [] }, 'E_MODEL_INVALID', /no outputs/],
    [
      'an input given twice',
      { inputs: [x, x], nodes: [relu], outputs: ['y'] },
      'E_MODEL_INVALID',
      /input x is given twice/,
    ],
    [
      'an input without a type',
      { inputs: [{ name: 'x' }], nodes: [relu], outputs: ['y'] },
      'E_MODEL_INVALID',
      /input x.*type/,
    ],
    [
      'a missing operator input',
      { inputs: [x], nodes: [node('y = MatMul(x)')], outputs: ['y'] },
      'E_MODEL_INVALID',
      /MatMul_0.*input 1/,
    ],
    [
      'an unknown operator',
      { inputs: [x], nodes: [node('y = Frobnicate(x)', {}, { name: 'f7' })], outputs: ['y'] },
      'E_UNSUPPORTED',
      /f7.*Frobnicate/,
    ],
    [
      'an unknown domain',
      { inputs: [x], nodes: [node('y = Relu(x)', {}, { domain: 'com.acme' })], outputs: ['y'] },
      'E_UNSUPPORTED',
      /com\.acme\.Relu/,
    ],
    ['a later opset', { opset: 28, inputs: [x], nodes: [relu], outputs: ['y'] }, 'E_UNSUPPORTED', /opset 28.*7 to 27/],
    [
      'an operator newer than the opset',
      { opset: 13, inputs: [x], nodes: [node('y = RMSNormalization(x, x)')], outputs: ['y'] },
      'E_UNSUPPORTED',
      /opset 23.*found 13/,
    ],
    [
      'shapes that do not fit',
      {
        inputs: [x],
        initializers: { w: f32([2, 2], 1, 2, 3, 4) },
        nodes: [node('y = MatMul(x, w)', {}, { name: 'fc' })],
        outputs: ['y'],
      },
      'E_SHAPE',
      /fc/,
    ],
    [
      'a wrong attribute',
      { inputs: [x], nodes: [node('y = Transpose(x)', { perm: 'up' }, { name: 't' })], outputs: ['y'] },
      'E_MODEL_INVALID',
      /t.*perm/,
    ],
    [
      'an attribute given twice',
      {
        inputs: [x],
        nodes: [
          node(
            'y = Elu(x)',
            {},
            {
              attribute: [
                { name: 'alpha', type: 1, f: 1 },
                { name: 'alpha', type: 1, f: 2 },
              ],
            },
          ),
        ],
        outputs: ['y'],
      },
      'E_MODEL_INVALID',
      /alpha is given twice/,
    ],
    [
      'a sequence input',
      { inputs: [{ name: 'x', type: { sequenceType: { elemType: {} } } }], nodes: [relu], outputs: ['y'] },
      'E_UNSUPPORTED',
      /input x.*sequence/,
    ],
    [
      'an initialiser given twice',
      {
        nodes: [],
        outputs: ['c'],
        graph: {
          initializer: [
            { name: 'c', dims: [], dataType: 1, floatData: [1] },
            { name: 'c', dims: [], dataType: 1, floatData: [1] },
          ],
        },
      },
      'E_MODEL_INVALID',
      /initialiser c is given twice/,
    ],
    [
      'an initialiser that claims 10 GB',
      {
        nodes: [],
        outputs: ['c'],
        graph: { initializer: [{ name: 'c', dims: [50_000n, 50_000n], dataType: 1, rawData: new Uint8Array(16) }] },
      },
      'E_MODEL_FORMAT',
      /initialiser c.*10000000000 bytes.*16/,
    ],
  ])('%s', (_, init, code, message) => {
    const error = errorOf(() => load(init));
    expect(error.code).toBe(code);
    expect(error.message).toMatch(message);
  });

  it('unsorted nodes are sorted', () => {
    const graph = load({ inputs: [x], nodes: [node('y = Relu(h)'), node('h = Neg(x)')], outputs: ['y'] });
    expect(kinds(graph)).toEqual(['neg', 'clamp']);
  });

  it.each([
    ['nothing', new Uint8Array()],
    ['text', new TextEncoder().encode('this is not a model, it is a sentence')],
    ['zeros', new Uint8Array(100)],
    ['an empty message with an unknown field', Uint8Array.of(0xf8, 0x07, 1)],
  ])('%s is no model', (_, bytes) => {
    expect(errorOf(() => importOnnx(bytes)).code).toBe('E_MODEL_FORMAT');
  });

  it('a truncated model is refused at every length', () => {
    const whole = model({
      inputs: [x],
      initializers: { w: f32([3, 2], 1, 2, 3, 4, 5, 6) },
      nodes: [node('y = MatMul(x, w)')],
      outputs: ['y'],
    });
    for (let length = 0; length < whole.length; length++) {
      expect(errorOf(() => importOnnx(whole.subarray(0, length))).code).toMatch(/^E_MODEL_/);
    }
  });

  it('a chain of 20,000 shape operations does not run out of stack', () => {
    const nodes = [
      node('v0 = Shape(x)'),
      ...Array.from({ length: 20_000 }, (_, i) => node(`v${i + 1} = Add(v${i}, one)`)),
    ];
    const graph = load({
      inputs: [value('x', 'f32', ['n'])],
      initializers: { one: i64(1) },
      nodes: [...nodes, node('y = ConstantOfShape(v20000)')],
      outputs: ['y'],
    });
    expect(shapeOf(graph)).toBe('[n + 20000]');
    expect(
      shapeOf(
        load({
          inputs: [value('x', 'f32', [7])],
          initializers: { one: i64(1) },
          nodes: [...nodes, node('y = ConstantOfShape(v20000)')],
          outputs: ['y'],
        }),
      ),
    ).toBe('[20007]');
  });
  it('what no output needs is not looked at', () => {
    const graph = load({
      inputs: [value('x', 'f32', [1])],
      nodes: [node('n = NoSuchOperator(x)'), node('y = Neg(x)')],
      outputs: ['y'],
    });
    expect(kinds(graph)).toEqual(['neg']);
  });
});
