// Models that exportOnnx writes must be good ONNX for others: ONNX Runtime loads and runs them with equal results.
import { existsSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { numbersOf } from '../../compiler/compare.js';
import { exportOnnx, importOnnx } from '../../compiler/frontends/onnx/index.js';
import { modelsData } from '../support/data.js';
import { bind, readTensor } from '../support/onnx_cases.js';

const runtime = await import('onnxruntime-node').catch(() => undefined);

const models = [
  'mnist-cnn8',
  'mobilenetv2-fp32-derived',
  'yunet-dynamic',
  'transformer-encoder-tiny',
  'superres-espcn-x3',
  'basic-pitch',
  'dtln-1',
  'gtcrn-simple',
];

describe.skipIf(modelsData.missing !== undefined || runtime === undefined)('exported models in ONNX Runtime', () => {
  it.each(models)('%s', { timeout: 300_000 }, async (name) => {
    if (runtime === undefined) return;
    const folder = join(modelsData.path, name);
    const set = join(folder, 'test_data_set_0');
    const inputs = Array.from({ length: 8 }, (_, k) => join(set, `input_${k}.pb`))
      .filter(existsSync)
      .map(readTensor);
    const graph = bind(importOnnx(readFileSync(join(folder, 'model.onnx'))), inputs);
    const session = await runtime.InferenceSession.create(exportOnnx(graph), { graphOptimizationLevel: 'disabled' });
    try {
      const feeds = Object.fromEntries(
        graph.inputs.map((input, i) => {
          const { dtype, data, shape } = inputs[i];
          const type = ({ f32: 'float32', i64: 'int64', i32: 'int32' } as const)[dtype as 'f32' | 'i64' | 'i32'];
          return [input.name, new runtime.Tensor(type, data as Float32Array, shape)];
        }),
      );
      const results = await session.run(feeds);
      graph.outputs.forEach(({ name: output }, k) => {
        const expected = numbersOf(readTensor(join(set, `output_${k}.pb`)));
        const actual = results[output].data as Float32Array;
        let [difference, size] = [0, 1e-6];
        for (let i = 0; i < expected.length; i++) {
          difference = Math.max(difference, Math.abs(actual[i] - expected[i]));
          size = Math.max(size, Math.abs(expected[i]));
        }
        expect(difference / size).toBeLessThanOrEqual(1e-4);
      });
    } finally {
      await session.release();
    }
  });
});
