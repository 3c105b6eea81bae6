// What the verifier finds in graphs that were put together wrongly.
import { describe, expect, it } from 'vitest';
import { GraphBuilder } from '../../compiler/graph/builder.js';
import type { Graph, Node, Value } from '../../compiler/graph/types.js';
import { verifyGraph } from '../../compiler/graph/verify.js';
import { emptyTensor } from '../../compiler/tensor.js';
import { errorOf } from '../support/errors.js';

/** x → neg → exp → out, plus a constant. */
function sample(): { readonly graph: Graph; readonly nodes: readonly Node[] } {
  const b = new GraphBuilder('g');
  const x = b.input('x', 'f32', [2]);
  const c = b.constant(emptyTensor('f32', [2]), 'c');
  const [sum] = b.op('add', [x, c], {}, ['sum'], { node: 'Add_1' });
  const [power] = b.op('exp', [sum], {}, ['power'], { node: 'Exp_2' });
  b.output('out', power);
  const graph = b.finish();
  return { graph, nodes: graph.nodes };
}

const refuse = (graph: Graph, ...patterns: readonly RegExp[]) => {
  const error = errorOf(() => verifyGraph(graph));
  expect(error.code).toBe('E_IR');
  for (const pattern of patterns) expect(error.message).toMatch(pattern);
};
const retyped = (node: Node, type: Partial<Value['type']>): Node =>
  ({ ...node, outputs: node.outputs.map((value) => ({ ...value, type: { ...value.type, ...type } })) }) as Node;

describe('verifyGraph', () => {
  it('accepts what the builder makes', () => {
    verifyGraph(sample().graph);
  });

  it('finds wrong order and cycles', () => {
    const {
      graph,
      nodes: [add, exp],
    } = sample();
    refuse({ ...graph, nodes: [exp, add] }, /Exp_2/, /before it is defined/);
    const cyclic = { ...add, inputs: [exp.outputs[0], add.inputs[1]] } as Node;
    refuse({ ...graph, nodes: [cyclic, exp] }, /Add_1/, /cycle/);
    refuse({ ...graph, nodes: [exp] }, /nothing defines/);
  });

  it('finds values and names defined twice', () => {
    const {
      graph,
      nodes: [add, exp],
    } = sample();
    refuse({ ...graph, nodes: [add, add, exp] }, /Add_1/, /defined twice/);
    const named = { ...exp, outputs: [{ ...exp.outputs[0], name: 'x' }] } as Node;
    refuse({ ...graph, nodes: [add, named] }, /Exp_2/, /one name/);
    refuse({ ...graph, outputs: [...graph.outputs, ...graph.outputs] }, /two outputs/);
  });

  it('finds types that the op does not give', () => {
    const {
      graph,
      nodes: [add, exp],
    } = sample();
    refuse({ ...graph, nodes: [add, retyped(exp, { shape: [3] })] }, /Exp_2/, /f32\[2\]/, /f32\[3\]/);
    refuse({ ...graph, nodes: [retyped(add, { dtype: 'f16' }), exp] }, /Add_1/, /f16/);
    refuse({ ...graph, nodes: [retyped(add, { shape: [-1] }), exp] }, /Add_1/);
    refuse({ ...graph, nodes: [add, { ...exp, outputs: [] } as unknown as Node] }, /Exp_2/, /number of results/);
    refuse({ ...graph, nodes: [{ ...add, op: 'exp' } as Node, exp] }, /Add_1/, /1 input/);
    refuse({ ...graph, nodes: [{ ...add, op: 'magic' } as unknown as Node, exp] }, /unknown op/);
    const stale = { ...exp, inputs: [{ ...exp.inputs[0], type: { dtype: 'f32', shape: [5] } }] } as unknown as Node;
    refuse({ ...graph, nodes: [add, stale] }, /Exp_2/, /another version/);
  });

  it('finds attributes out of range', () => {
    const b = new GraphBuilder();
    const [y] = b.op('softmax', [b.input('x', 'f32', [2, 3])], { axes: [1], log: false }, [], { node: 'Softmax_0' });
    b.output('y', y);
    const graph = b.finish();
    refuse(
      { ...graph, nodes: [{ ...graph.nodes[0], attrs: { axes: [2], log: false } } as Node] },
      /Softmax_0/,
      /0 to 1/,
    );
    refuse({ ...graph, nodes: [{ ...graph.nodes[0], attrs: { axes: [1, 1], log: false } } as Node] }, /repeat/);
  });

  it('finds attributes of another form', () => {
    const b = new GraphBuilder();
    const [y] = b.op('reduce', [b.input('x', 'f32', [2])], { fn: 'sum', axes: [0], keep: false }, [], {
      node: 'Sum_0',
    });
    b.output('y', y);
    const graph = b.finish();
    const withAttrs = (attrs: object) => ({ ...graph, nodes: [{ ...graph.nodes[0], attrs } as unknown as Node] });
    refuse(withAttrs({ fn: 'median', axes: [0], keep: false }), /Sum_0/, /one of sum, prod/, /median/);
    refuse(withAttrs({ fn: 'sum', axes: [0.5], keep: false }), /list of integers/);
    refuse(withAttrs({ fn: 'sum', axes: 0, keep: false }), /list of integers/);
    refuse(withAttrs({ fn: 'sum', axes: [0] }), /keep/, /true or false/);
    refuse(withAttrs({ fn: 'sum', axes: [0], keep: false, axis: 1 }), /no attribute axis/);
  });

  it('finds wrong constants, outputs and bounds', () => {
    const { graph } = sample();
    const [id] = graph.constants.keys();
    const data = { dtype: 'f32', shape: [9], load: () => emptyTensor('f32', [9]) } as const;
    refuse({ ...graph, constants: new Map([[id, data]]) }, /constant c/, /f32\[9\]/);
    refuse({ ...graph, constants: new Map() }, /nothing defines/);
    refuse(
      { ...graph, outputs: [{ name: 'o', value: { id: 99, name: 'ghost', type: { dtype: 'f32', shape: [] } } }] },
      /ghost/,
    );
    refuse({ ...graph, dims: new Map([['n', { min: 3, max: 2 }]]) }, /bounds/);
  });
});
