// The light topologies with seeded weights: all import and specialise, the smallest is computed on the host.
import { describe, expect, it } from 'vitest';
import { numbersOf } from '../../compiler/compare.js';
import { importOnnx } from '../../compiler/frontends/onnx/index.js';
import { evaluateGraph } from '../../compiler/graph/evaluate.js';
import { onnxData } from '../support/data.js';
import { lightModel, lightModels } from '../support/light_models.js';
import { bind } from '../support/onnx_cases.js';

describe.skipIf(onnxData.missing)('light topologies', () => {
  const all = process.env.TUTTI_MODELS_ALL !== undefined;
  it.each(lightModels)('%s', { timeout: 900_000 }, (name) => {
    const { bytes, input, expected } = lightModel(onnxData.path, name);
    const graph = bind(importOnnx(bytes), [input]);
    expect(graph.nodes.some(({ op }) => op === 'source_op')).toBe(false);
    expect(graph.outputs.map(({ value }) => value.type.shape)).toEqual(expected.map(({ shape }) => shape));
    if (!all && name !== 'light_squeezenet') return;
    const results = [...evaluateGraph(graph, { [graph.inputs[0].name]: input }).values()];
    expected.forEach((tensor, k) => {
      const [actual, reference] = [numbersOf(results[k]), numbersOf(tensor)];
      let [difference, size] = [0, 0];
      for (let i = 0; i < reference.length; i++) {
        difference = Math.max(difference, Math.abs(actual[i] - reference[i]));
        size = Math.max(size, Math.abs(reference[i]));
      }
      if (process.env.TUTTI_VERBOSE) console.log(name, k, difference, size);
      expect(difference / size).toBeLessThanOrEqual(1e-3);
    });
  });
});
