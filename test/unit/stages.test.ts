// Specialisation in stages: where it cuts, what it keeps, what stays off the host.
import { describe, expect, it } from 'vitest';
import { readArtifact, writeArtifact } from '../../compiler/artifact/index.js';
import { plan } from '../../compiler/compile.js';
import { importOnnx } from '../../compiler/frontends/onnx/index.js';
import { resolvers } from '../../compiler/frontends/resolvers.js';
import { withBodies } from '../../compiler/graph/bodies.js';
import { evaluateGraph } from '../../compiler/graph/evaluate.js';
import { parseGraph } from '../../compiler/graph/parse.js';
import { printGraph } from '../../compiler/graph/print.js';
import type { ConstantData, Graph } from '../../compiler/graph/types.js';
import { evaluateStages } from '../../compiler/passes/evaluate_stages.js';
import { firstStage, type Held, type Stage } from '../../compiler/passes/stages.js';
import type { HostTensor } from '../../compiler/tensor.js';
import { errorOf } from '../support/errors.js';
import { interpreterTarget } from '../support/interpreter_device.js';
import { f32, i64, type ModelInit, model, node, value } from '../support/onnx_model.js';

const load = (init: ModelInit): Graph => importOnnx(model(init));
const run = (graph: Graph, inputs: Readonly<Record<string, HostTensor>>) => evaluateStages(graph, inputs, resolvers);
const bool = (bit: number): HostTensor => ({ dtype: 'bool', shape: [], data: Uint8Array.of(bit) });
const ops = (graph: Graph): string[] => graph.nodes.map(({ op }) => op);
const names = (list: string) => list.split(' ').map((name) => ({ name }));
const begin = (graph: Graph, values: Readonly<Record<string, HostTensor>>): Stage => {
  const shapes = Object.fromEntries(Object.entries(values).map(([name, { shape }]) => [name, shape]));
  return firstStage(graph, { shapes, values }, resolvers);
};
function cutOf(stage: Stage) {
  if (stage.next.kind !== 'cut') throw new Error('the stage is the last one');
  return stage.next;
}
const namesOf = (held: Iterable<Held>): string[] => [...held].map(({ name }) => name).sort();

describe('where the host looks', () => {
  const shaped = (nodes: ModelInit['nodes'], type: 'i64' | 'f32' = 'i64'): Graph =>
    load({ inputs: [value('x', 'f32', [4]), value('s', type, [2])], nodes, outputs: ['y', 'd'] });
  const x = f32([4], 1, 2, 3, 4);

  it('integer arithmetic on small inputs is its own, for parameters and nothing else', () => {
    const graph = shaped([node('d = Add(s, s)'), node('y = Reshape(x, d)')]);
    const stage = begin(graph, { x, s: i64(1, 1) });
    expect(stage.next.kind).toBe('done');
    expect([...stage.looked]).toEqual(['s']);
    // What was looked at for a shape is still computed on the device as a result.
    expect(ops(stage.graph)).toEqual(['add', 'reshape']);
    expect(stage.graph.constants.size).toBe(0);
    expect(run(graph, { x, s: i64(1, 1) }).outputs.get('y')).toEqual(f32([2, 2], 1, 2, 3, 4));
  });

  it("arithmetic on floats is the device's, and the host reads the result", () => {
    const nodes = [node('t = Add(s, s)'), node('d = Cast(t)', { to: 7n }), node('y = Reshape(x, d)')];
    const graph = shaped(nodes, 'f32');
    const values = { x, s: f32([2], 0.5, 2) };
    const stage = begin(graph, values);
    expect(stage.looked.size).toBe(0);
    expect(ops(stage.graph)).toEqual(['add', 'cast']);
    const { demanded, live, source, what } = cutOf(stage);
    expect([source, what]).toEqual(['Reshape_2', 'input 1 (d)']);
    expect(namesOf(demanded)).toHaveLength(1);
    // x is an input of the model, and d is known to the host from now on.
    expect(namesOf(live)).toEqual(['out.0', 'x']);
    const { outputs, stages } = run(graph, values);
    expect(outputs.get('y')).toEqual(f32([1, 4], 1, 2, 3, 4));
    expect(outputs.get('d')).toEqual(i64(1, 4));
    expect(stages).toBe(2);
  });

  it('what is asked for itself may be of any type', () => {
    const graph = load({
      inputs: [value('a', 'f32', []), value('b', 'f32', []), value('c', 'f32', [])],
      nodes: [node('y = Range(a, b, c)')],
      outputs: ['y'],
    });
    const values = { a: f32([], 1), b: f32([], 2), c: f32([], 0.25) };
    const stage = begin(graph, values);
    expect(stage.next.kind).toBe('done');
    expect([...stage.looked].sort()).toEqual(['a', 'b', 'c']);
    expect(run(graph, values).outputs.get('y')).toEqual(f32([4], 1, 1.25, 1.5, 1.75));
  });

  it('large inputs are not computed with', () => {
    const graph = load({
      inputs: [value('x', 'i64', [100]), value('y', 'f32', [4])],
      nodes: [node('n = ReduceMax(x)', { keepdims: 0n }), node('k = Reshape(n, one)'), node('z = Expand(y, k)')],
      initializers: { one: i64(1) },
      outputs: ['z'],
    });
    const data = {
      dtype: 'i64',
      shape: [100],
      data: BigInt64Array.from({ length: 100 }, (_, i) => (i === 7 ? 4n : 1n)),
    } as const;
    const stage = begin(graph, { x: data, y: x });
    expect(cutOf(stage).demanded).toHaveLength(1);
    expect(run(graph, { x: data, y: x }).outputs.get('z')).toEqual(x);
  });

  it('without inputs to look at, it is what a single stage cannot do', () => {
    const graph = shaped([node('d = Add(s, s)'), node('y = Reshape(x, d)')]);
    const stage = firstStage(graph, {}, resolvers);
    expect(namesOf(cutOf(stage).demanded)).toHaveLength(1);
  });
});

describe('elements that data selects', () => {
  const selecting = load({
    inputs: [value('x', 'f32', ['n'])],
    nodes: [
      node('t = NonZero(x)'),
      node('c = Cast(x)', { to: 9n }),
      node('y = Compress(x, c)', { axis: 0n }),
      node('z = Neg(y)'),
    ],
    outputs: ['t', 'z'],
  });

  it('are counted by the device, and found by it', () => {
    const x = f32([6], 0, 3, 0, -1, 0, Number.NaN);
    const { outputs, graphs } = run(selecting, { x });
    expect(outputs.get('t')).toEqual({ dtype: 'i64', shape: [1, 3], data: BigInt64Array.of(1n, 3n, 5n) });
    expect(outputs.get('z')).toEqual(f32([3], -3, 1, Number.NaN));
    // No stage holds what was computed from the data as a constant.
    const floats = graphs.flatMap(({ constants }) => [...constants.values()].filter(({ dtype }) => dtype === 'f32'));
    expect(floats.every(({ shape }) => shape.length === 0)).toBe(true);
  });

  it('may be none', () => {
    const { outputs } = run(selecting, { x: f32([3], 0, 0, 0) });
    expect(outputs.get('t')).toMatchObject({ shape: [1, 0] });
    expect(outputs.get('z')).toMatchObject({ shape: [0] });
    expect(run(selecting, { x: f32([0]) }).outputs.get('z')).toMatchObject({ shape: [0] });
  });
});

describe('a stage that was cut', () => {
  const graph = load({
    inputs: [value('x', 'f32', [2]), value('unused', 'f32', [2])],
    nodes: [
      node('a = Neg(x)'),
      node('n = ReduceSum(a)', { keepdims: 0n }),
      node('k = Cast(n)', { to: 7n }),
      node('one = Constant()', { value: i64(1) }),
      node('s = Reshape(k, one)'),
      node('e = Expand(half, s)'),
      node('y = Concat(a, e)', { axis: 0n }),
    ],
    initializers: { half: f32([1], 0.5) },
    outputs: ['y'],
  });

  it('goes on with any answer, as often as one likes', () => {
    const stage = begin(graph, { x: f32([2], -1, -1), unused: f32([2], 0, 0) });
    const { resume, demanded, live } = cutOf(stage);
    expect(demanded).toHaveLength(1);
    expect(namesOf(live)).toEqual(['half', 'out.0', 'out.1']);
    expect(stage.inputs.map(({ name }) => name)).toEqual(['x']);
    for (const count of [3, 0, 3, 5]) {
      const next = resume([i64(count)]);
      expect(next.next.kind).toBe('done');
      expect(next.graph.outputs[0].value.type.shape).toEqual([2 + count]);
      const [taken] = next.graph.inputs;
      expect(evaluateGraph(next.graph, { [taken.name]: f32([2], 1, 2) }).get('y')).toEqual(
        f32([2 + count], 1, 2, ...new Array<number>(count).fill(0.5)),
      );
    }
    expect(printGraph(resume([i64(3)]).graph)).toBe(printGraph(resume([i64(3)]).graph));
  });
});

describe('a plan without data', () => {
  it('ends where data decides how to go on, and says so', () => {
    const graph = load({
      inputs: [value('x', 'f32', [8])],
      nodes: [node('a = Neg(x)'), node('t = NonZero(a)'), node('y = Cast(t)', { to: 1n })],
      outputs: ['y'],
    });
    const { report, outputs } = plan(graph, interpreterTarget);
    expect(report.waits).toEqual({ source: 'NonZero_1', what: 'count' });
    expect(report.kernels).toBeGreaterThan(0);
    expect(outputs).toHaveLength(2);
    const whole = load({ inputs: [value('x', 'f32', [8])], nodes: [node('y = Neg(x)')], outputs: ['y'] });
    expect(plan(whole, interpreterTarget).report.waits).toBeUndefined();
  });
});

describe('branches', () => {
  const branching = (nodes: number): ModelInit => ({
    inputs: [value('x', 'f32', [2]), value('c', 'f32', [])],
    nodes: [
      node('b = Cast(c)', { to: 9n }),
      node('y = If(b)', {
        then_branch: { name: 't', node: [node('a = Concat(x, x)', { axis: 0n })], output: names('a') },
        else_branch: {
          name: 'e',
          node: Array.from({ length: nodes }, (_, i) => node(`e${i + 1} = Neg(${i === 0 ? 'x' : `e${i}`})`)),
          output: names(`e${nodes}`),
        },
      }),
    ],
    outputs: ['y'],
  });

  it('of different shapes wait for the condition, and one is computed', () => {
    const graph = load(branching(3));
    const taken = run(graph, { x: f32([2], 1, 2), c: f32([], 1) });
    expect(taken.outputs.get('y')).toEqual(f32([4], 1, 2, 1, 2));
    expect(taken.graphs.map(ops)).toEqual([['cast'], ['concat']]);
    const other = run(graph, { x: f32([2], 1, 2), c: f32([], 0) });
    expect(other.outputs.get('y')).toEqual(f32([2], -1, -2));
    expect(other.graphs.map(ops)).toEqual([['cast'], ['neg', 'neg', 'neg']]);
  });
});

describe('nested graphs', () => {
  /** Counts in the inner loop as often as the outer one has run; uses a weight from outside of both. */
  const init: ModelInit = {
    inputs: [value('x', 'f32', [40]), value('n', 'i64', [])],
    initializers: { w: f32([40], ...Array.from({ length: 40 }, (_, i) => i / 4)), go: bool(1) },
    nodes: [
      node('y = Loop(n, go, x)', {
        body: {
          name: 'outer',
          input: names('i c h'),
          node: [
            node('inner = Loop(i, c, h)', {
              body: {
                name: 'inner',
                input: names('j d g'),
                node: [node('e = Add(g, w)'), node('k = Identity(d)')],
                output: names('k e'),
              },
            }),
            node('o = Identity(c)'),
          ],
          output: names('o inner'),
        },
      }),
    ],
    outputs: ['y'],
  };
  const inputs = (n: number) => ({
    x: f32([40], ...new Array<number>(40).fill(1)),
    n: { dtype: 'i64', shape: [], data: BigInt64Array.of(BigInt(n)) } as const,
  });
  const expected = (n: number) => f32([40], ...Array.from({ length: 40 }, (_, i) => 1 + (((n * (n - 1)) / 2) * i) / 4));

  it('compute what they should', () => {
    for (const n of [0, 1, 4]) expect(run(load(init), inputs(n)).outputs.get('y')).toEqual(expected(n));
  });

  it('are the same after they were text, and after they were an artifact', () => {
    const graph = load(init);
    expect([...withBodies(graph)]).toHaveLength(3);
    const store = new Map<string, ConstantData>();
    const keyOf = (data: ConstantData, name: string): string => {
      store.set(name, data);
      return name;
    };
    const text = printGraph(graph, { keyOf });
    const again = parseGraph(text, (key) => store.get(key));
    expect(printGraph(again, { keyOf: (_, name) => name })).toBe(text);
    expect(run(again, inputs(3)).outputs.get('y')).toEqual(expected(3));
    const bytes = Buffer.concat([...writeArtifact({ graph, numerics: 'precise', shapes: {}, dims: {} })]);
    const stored = readArtifact(new Uint8Array(bytes)).graph;
    expect(run(stored, inputs(3)).outputs.get('y')).toEqual(expected(3));
    // The weight is stored once, however many graphs use it.
    expect(bytes.byteLength).toBeLessThan(20_000);
  });
});

describe('names that are defined twice', () => {
  it('of constants: the later one holds everywhere', () => {
    const graph = load({
      inputs: [value('x', 'f32', [1])],
      nodes: [
        node('c = Constant()', { value: f32([1], 1) }),
        node('y = Add(x, c)'),
        node('c = Constant()', { value: f32([1], 10) }, { name: 'again' }),
      ],
      outputs: ['y'],
    });
    expect(run(graph, { x: f32([1], 5) }).outputs.get('y')).toEqual(f32([1], 15));
  });
  it('of anything else: nobody knows which is meant', () => {
    const error = errorOf(() =>
      load({ inputs: [value('x', 'f32', [1])], nodes: [node('y = Neg(x)'), node('y = Abs(x)')], outputs: ['y'] }),
    );
    expect(error.message).toMatch(/value y is defined twice/);
  });
});
