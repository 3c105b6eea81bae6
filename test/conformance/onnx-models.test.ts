// Real models through the frontend: all import and specialise; the small ones are evaluated on the host.
import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { compareTensors, numbersOf } from '../../compiler/compare.js';
import { importOnnx } from '../../compiler/frontends/onnx/index.js';
import { isConcrete } from '../../compiler/graph/dims.js';
import { evaluateGraph } from '../../compiler/graph/evaluate.js';
import type { HostTensor } from '../../compiler/tensor.js';
import { modelsData } from '../support/data.js';
import { bind, readTensor } from '../support/onnx_cases.js';

const small = [
  'mnist-cnn8',
  'mnist-cnn-bn',
  'magika-v1',
  'transformer-encoder-tiny',
  'bert-toy',
  'ppocr-cls-v2',
  'fastestdet',
  'gpt2-attention-block-768',
] as const;
const large = [
  'mobilenetv2-fp32-derived',
  'mobilenetv2-int8-qdq',
  'superres-espcn-x3',
  'ultraface-rfb320',
  'yolox-nano',
  'yunet-dynamic',
  'ppocr-det-v3-en',
  'dnsmos-p835',
  'basic-pitch',
] as const;

const tensors = (folder: string, kind: string): HostTensor[] =>
  Array.from({ length: 16 }, (_, k) => join(folder, `${kind}_${k}.pb`))
    .filter((path) => existsSync(path))
    .map(readTensor);

describe.skipIf(modelsData.missing)('real models on the host', () => {
  const all = process.env.TUTTI_MODELS_ALL !== undefined;
  for (const name of [...small, ...large]) {
    const evaluate = all || (small as readonly string[]).includes(name);
    it(`${name} imports and specialises${evaluate ? ' and computes its reference outputs' : ''}`, {
      timeout: 900_000,
    }, () => {
      const folder = join(modelsData.path, name);
      const graph = importOnnx(readFileSync(join(folder, 'model.onnx')));
      for (const set of readdirSync(folder).filter((entry) => entry.startsWith('test_data_set'))) {
        const inputs = tensors(join(folder, set), 'input');
        const concrete = bind(graph, inputs);
        const kinds = new Map<string, number>();
        for (const node of concrete.nodes) kinds.set(node.op, (kinds.get(node.op) ?? 0) + 1);
        expect(kinds.has('source_op') || kinds.has('shape_of')).toBe(false);
        expect(concrete.nodes.every((node) => node.outputs.every(({ type }) => isConcrete(type.shape)))).toBe(true);
        if (process.env.TUTTI_VERBOSE)
          console.log(name, concrete.nodes.length, JSON.stringify(Object.fromEntries(kinds)));
        if (!evaluate) continue;
        const results = evaluateGraph(concrete, new Map(concrete.inputs.map((input, i) => [input.name, inputs[i]])));
        for (const [k, expected] of tensors(join(folder, set), 'output').entries()) {
          const actual = results.get(concrete.outputs[k].name) as HostTensor;
          const { maxDifference, maxExpected, reason } = compareTensors(actual, expected, { rtol: 1e-3, atol: 1e-4 });
          if (process.env.TUTTI_VERBOSE) console.log(name, set, k, maxDifference, maxExpected);
          expect(actual.shape, reason).toEqual(expected.shape);
          if (name.includes('int8')) expect(cosine(actual, expected)).toBeGreaterThan(0.999);
          else expect(maxDifference / Math.max(maxExpected, 1e-6), reason).toBeLessThanOrEqual(1e-4);
        }
      }
    });
  }
});

function cosine(a: HostTensor, b: HostTensor): number {
  const [x, y] = [numbersOf(a), numbersOf(b)];
  let [xy, xx, yy] = [0, 0, 0];
  for (let i = 0; i < x.length; i++) {
    xy += x[i] * y[i];
    xx += x[i] * x[i];
    yy += y[i] * y[i];
  }
  return xy / Math.sqrt(xx * yy);
}
