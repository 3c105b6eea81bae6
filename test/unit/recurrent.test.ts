// RNN, GRU and LSTM with all their options, against the specification written down as loops.
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import type { DType } from '../../compiler/dtype.js';
import { importOnnx } from '../../compiler/frontends/onnx/index.js';
import { evaluateGraph } from '../../compiler/graph/evaluate.js';
import type { Graph } from '../../compiler/graph/types.js';
import { emptyTensor, type HostTensor } from '../../compiler/tensor.js';
import { errorOf } from '../support/errors.js';
import { runInterpreted } from '../support/interpreted.js';
import { bind } from '../support/onnx_cases.js';
import { model, node, value } from '../support/onnx_model.js';
import { expectClose, modelOf, type Trial, toleranceOf, trials } from '../support/recurrent_cases.js';
import { testTargets } from '../support/targets.js';

function graphOf(trial: Trial): { graph: Graph; inputs: Record<string, HostTensor> } {
  const { bytes, inputs } = modelOf(trial);
  const graph = importOnnx(bytes);
  return { graph: bind(graph, Object.values(inputs)), inputs };
}

describe.each(['RNN', 'GRU', 'LSTM'] as const)('%s', (kind) => {
  it('means what the specification says', () => {
    fc.assert(
      fc.property(trials(kind, 5), (trial) => {
        const { graph, inputs } = graphOf(trial);
        expectClose(evaluateGraph(graph, inputs), trial, toleranceOf(trial.dtype));
      }),
      { numRuns: 150 },
    );
  });

  it.each(Object.entries(testTargets))('is computed by kernels for %s', { timeout: 120_000 }, async (_, target) => {
    await fc.assert(
      fc.asyncProperty(trials(kind, 6), async (trial) => {
        const { graph, inputs } = graphOf(trial);
        const results = await runInterpreted(target, graph, inputs);
        expectClose(new Map(Object.entries(results)), trial, toleranceOf(trial.dtype));
      }),
      { numRuns: 15 },
    );
  });
});

describe('what is wrong', () => {
  const right = { X: [2, 1, 2], W: [1, 8, 2], R: [1, 8, 2], B: [1, 16], L: [1], H: [1, 1, 2], C: [1, 1, 2], P: [1, 6] };

  /** An LSTM of zeros with these shapes and attributes, specialised. */
  function specialised(
    shapes: Readonly<Record<string, readonly number[]>>,
    attrs: Parameters<typeof node>[1],
    dtype: DType = 'f32',
  ): Graph {
    const tensors = Object.entries({ ...right, ...shapes }).map(([name, shape]): [string, HostTensor] => [
      name,
      emptyTensor(name === 'L' ? 'i32' : dtype, shape),
    ]);
    const bytes = model({
      opset: 14,
      inputs: tensors.map(([name, tensor]) => value(name, tensor.dtype, tensor.shape)),
      nodes: [node('Y = LSTM(X, W, R, B, L, H, C, P)', attrs)],
      outputs: ['Y'],
    });
    return bind(
      importOnnx(bytes),
      tensors.map(([, tensor]) => tensor),
    );
  }

  it('would be right otherwise', () => {
    expect(specialised({}, {}).outputs[0].value.type.shape).toEqual([2, 1, 1, 2]);
  });

  it.each([
    ['unknown activation', {}, { activations: ['Sigmoid', 'Cube', 'Tanh'] }],
    ['number of activations', {}, { activations: ['Sigmoid'] }],
    ['invalid layout', {}, { layout: 2n }],
    ['invalid attribute direction', {}, { direction: 'sideways' }],
    ['shape of the recurrence weights', {}, { hidden_size: 3n }],
    ['shape of the recurrence weights', {}, { direction: 'bidirectional' }],
    ['shape of the weights', { X: [2, 1, 3] }, {}],
    ['shape of the biases', { B: [1, 8] }, {}],
    ['shape of the lengths of sequences', { L: [2] }, {}],
    ['shape of the initial hidden state', { H: [1, 2, 2] }, {}],
    ['shape of the initial cell state', { C: [1, 1, 3] }, {}],
    ['shape of the peepholes', { P: [1, 8] }, {}],
    ['rank of input 0', { X: [2, 2] }, {}],
  ])('%s', (message, shapes, attrs) => {
    const error = errorOf(() => specialised(shapes, attrs));
    expect(error.code).toBe('E_MODEL_INVALID');
    expect(error.message).toContain(message);
  });

  it('integers', () => {
    expect(errorOf(() => specialised({}, {}, 'i32')).message).toContain('element type');
  });
});
