// Sequences and optionals: what the conformance cases leave open.
import { describe, expect, it } from 'vitest';
import { importOnnx } from '../../compiler/frontends/onnx/index.js';
import { resolvers } from '../../compiler/frontends/resolvers.js';
import { parseGraph } from '../../compiler/graph/parse.js';
import { printGraph } from '../../compiler/graph/print.js';
import { evaluateStages } from '../../compiler/passes/evaluate_stages.js';
import type { Tree } from '../../compiler/passes/mapped.js';
import type { HostTensor } from '../../compiler/tensor.js';
import { errorOf } from '../support/errors.js';
import { f32, i64, type ModelInit, model, node, value } from '../support/onnx_model.js';

const run = (init: ModelInit, inputs: Readonly<Record<string, Tree<HostTensor>>> = {}): Tree<HostTensor> => {
  const graph = importOnnx(model(init));
  const again = parseGraph(printGraph(graph));
  expect(printGraph(again)).toBe(printGraph(graph));
  return [...evaluateStages(graph, inputs, resolvers).outputs.values()][0];
};
const scalar = (x: number): HostTensor => ({ ...i64(x), shape: [] });
const sequenceOf = (name: string): NonNullable<ModelInit['inputs']>[number] => ({
  name,
  type: { sequenceType: { elemType: { tensorType: { elemType: 1 } } } },
});
const [a, b, c] = [f32([2], 1, 2), f32([1], 3), f32([3], 4, 5, 6)];

describe('sequences', () => {
  it.each([
    ['inserted at the end', 'y = SequenceInsert(s, x)', undefined, [a, b, c]],
    ['inserted in front', 'y = SequenceInsert(s, x, at)', 0, [c, a, b]],
    ['inserted before the last', 'y = SequenceInsert(s, x, at)', -1, [a, c, b]],
    ['without the last', 'y = SequenceErase(s)', undefined, [a]],
    ['without the first', 'y = SequenceErase(s, at)', -2, [b]],
  ])('%s', (_, text, place, expected) => {
    const at = scalar(place ?? 0);
    const inputs = [sequenceOf('s'), value('x', 'f32', [3])];
    expect(run({ inputs, initializers: { at }, nodes: [node(text)], outputs: ['y'] }, { s: [a, b], x: c })).toEqual(
      expected,
    );
  });

  it('take their place from the data of a model input', () => {
    const inputs = [sequenceOf('s'), value('at', 'i64', [])];
    const init = { inputs, nodes: [node('y = SequenceAt(s, at)')], outputs: ['y'] };
    for (const [i, expected] of [a, b, c].entries())
      expect(run(init, { s: [a, b, c], at: scalar(i) })).toEqual(expected);
    expect(errorOf(() => run(init, { s: [a], at: scalar(1) })).code).toBe('E_MODEL_INVALID');
  });

  it('take their place from what is computed', () => {
    const inputs = [sequenceOf('s'), value('w', 'f32', ['n'])];
    const nodes = [node('m = ArgMax(w)', { keepdims: 0n }), node('y = SequenceAt(s, m)')];
    expect(run({ inputs, nodes, outputs: ['y'] }, { s: [a, b, c], w: f32([3], 0, 1, 9) })).toEqual(c);
  });

  it('may be empty, and have a length', () => {
    const nodes = [node('s = SequenceEmpty()'), node('y = SequenceLength(s)')];
    expect(run({ nodes, outputs: ['y'] })).toEqual(scalar(0));
  });

  it('are split off and joined again', () => {
    const x = f32([5, 2], 0, 1, 2, 3, 4, 5, 6, 7, 8, 9);
    const inputs = [value('x', 'f32', ['n', 2])];
    const split = (more: string, attrs = {}) => [node(`s = SplitToSequence(x${more})`, attrs)];
    const shapes = (nodes: ModelInit['nodes'], initializers = {}) =>
      (run({ inputs, initializers, nodes, outputs: ['s'] }, { x }) as readonly HostTensor[]).map(({ shape }) => shape);
    expect(shapes(split(', n'), { n: scalar(2) })).toEqual([
      [2, 2],
      [2, 2],
      [1, 2],
    ]);
    expect(shapes(split(', n'), { n: i64(1, 4) })).toEqual([
      [1, 2],
      [4, 2],
    ]);
    expect(shapes(split('', { axis: 1n }))).toEqual([
      [5, 1],
      [5, 1],
    ]);
    expect(shapes(split('', { axis: 1n, keepdims: 0n }))).toEqual([[5], [5]]);
    expect(errorOf(() => shapes(split(', n'), { n: i64(1, 3) })).message).toContain('make up the axis');
    const joined = [...split(', n'), node('y = ConcatFromSequence(s)', { axis: 0n })];
    expect(run({ inputs, initializers: { n: scalar(2) }, nodes: joined, outputs: ['y'] }, { x })).toEqual(x);
  });

  it('hold tensors of one type', () => {
    const nodes = [node('s = SequenceConstruct(x, k)')];
    const init = { inputs: [value('x', 'f32', [1])], initializers: { k: i64(1) }, nodes, outputs: ['s'] };
    expect(errorOf(() => run(init, { x: b })).message).toContain('differ in type');
  });

  it('need to be given', () => {
    const init = { inputs: [sequenceOf('s')], nodes: [node('y = SequenceLength(s)')], outputs: ['y'] };
    expect(errorOf(() => run(init)).code).toBe('E_INPUT');
    expect(errorOf(() => run(init, { s: null })).message).toContain('cannot be absent');
  });
});

describe('optionals', () => {
  const optional: NonNullable<ModelInit['inputs']>[number] = {
    name: 'o',
    type: { optionalType: { elemType: { tensorType: { elemType: 1 } } } },
  };
  const has = { inputs: [optional], nodes: [node('y = OptionalHasElement(o)')], outputs: ['y'] };
  const get = { inputs: [optional], nodes: [node('y = OptionalGetElement(o)')], outputs: ['y'] };
  it('may hold something', () => {
    expect((run(has, { o: a }) as HostTensor).data).toEqual(Uint8Array.of(1));
    expect(run(get, { o: a })).toEqual(a);
  });
  it('or nothing', () => {
    expect((run(has, { o: null }) as HostTensor).data).toEqual(Uint8Array.of(0));
    expect(errorOf(() => run(get, { o: null })).message).toContain('the optional is empty');
    expect(run({ nodes: [node('y = Optional()')], outputs: ['y'] })).toBe(null);
  });
  it('decide branches', () => {
    const branch = (name: string, made: ReturnType<typeof node>) => ({ node: [made], output: [{ name }], name });
    const nodes = [
      node('h = OptionalHasElement(o)'),
      node('y = If(h)', {
        then_branch: branch('t', node('t = OptionalGetElement(o)')),
        else_branch: branch('e', node('e = Identity(standard)')),
      }),
    ];
    const init = { inputs: [optional], initializers: { standard: c }, nodes, outputs: ['y'] };
    expect(run(init, { o: a })).toEqual(a);
    expect(run(init, { o: null })).toEqual(c);
  });
});
