// Real models and full topologies on devices, against their reference outputs: the quick ones always, all of them with
// TUTTI_MODELS_ALL=1 (TUTTI_MODELS_DEVICES names the devices; CUDA and Metal are the virtual ones where there are no others).
import { existsSync, readdirSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { numbersOf } from '../../compiler/compare.js';
import type { HostTensor } from '../../compiler/tensor.js';
import { compile, devices, Session, Tensor } from '../../index.js';
import { modelsData, onnxData } from '../support/data.js';
import { lightModel, lightModels } from '../support/light_models.js';
import { readTensor } from '../support/onnx_cases.js';
import { useVirtualDevices } from '../support/virtual_devices.js';

const all = process.env.TUTTI_MODELS_ALL !== undefined;
const wanted = (process.env.TUTTI_MODELS_DEVICES ?? 'cpu,vulkan,webgpu,cuda,metal').split(',');
useVirtualDevices();
const { devices: present, missing } = await devices();
const found = wanted.filter((name) => present.some(({ backend }) => backend === name));
for (const { backend, reason } of missing) {
  if (wanted.includes(backend)) console.log(`models are not run on ${backend}: ${reason}`);
}

const quick = [
  'mnist-cnn8',
  'mnist-cnn-bn',
  'magika-v1',
  'transformer-encoder-tiny',
  'bert-toy',
  'gpt2-attention-block-768',
  'dtln-1',
  'dtln-2',
  'lstm-loop-4l',
];
const others = [
  'mobilenetv2-fp32-derived',
  'mobilenetv2-int8-qdq',
  'superres-espcn-x3',
  'ultraface-rfb320',
  'yolox-nano',
  'fastestdet',
  'yunet-dynamic',
  'ppocr-cls-v2',
  'ppocr-det-v3-en',
  'dnsmos-p835',
  'basic-pitch',
  'gtcrn-simple',
];

/** Elements that are further off than the tolerance, and the largest difference. */
function compare(actual: HostTensor, expected: HostTensor, rtol: number, atol: number): { bad: number; worst: number } {
  const [a, e] = [numbersOf(actual), numbersOf(expected)];
  let [bad, worst] = [0, 0];
  for (let i = 0; i < e.length; i++) {
    const difference = Math.abs(a[i] - e[i]);
    worst = Math.max(worst, difference);
    if (!(difference <= atol + rtol * Math.abs(e[i]))) bad++;
  }
  return { bad, worst };
}

/** The quantised model flips where sums are ties: its reference is judged as its README says. */
function expectQuantised(actual: HostTensor, expected: HostTensor): void {
  const [a, e] = [numbersOf(actual), numbersOf(expected)];
  let [dot, aa, ee, topA, topE] = [0, 0, 0, 0, 0];
  for (let i = 0; i < e.length; i++) {
    dot += a[i] * e[i];
    aa += a[i] * a[i];
    ee += e[i] * e[i];
    if (a[i] > a[topA]) topA = i;
    if (e[i] > e[topE]) topE = i;
  }
  expect(dot / Math.sqrt(aa * ee)).toBeGreaterThanOrEqual(0.999);
  expect(topA).toBe(topE);
}

const tensors = (folder: string, kind: string): HostTensor[] =>
  Array.from({ length: 16 }, (_, k) => join(folder, `${kind}_${k}.pb`))
    .filter((path) => existsSync(path))
    .map(readTensor);

for (const device of found) {
  describe.skipIf(modelsData.missing)(`models on ${device}`, () => {
    for (const name of all ? [...quick, ...others] : quick) {
      it(name, { timeout: 900_000 }, async () => {
        const folder = join(modelsData.path, name);
        await using session = await Session.create(await compile(join(folder, 'model.onnx')), { device });
        for (const set of readdirSync(folder).filter((entry) => entry.startsWith('test_data_set'))) {
          const inputs = tensors(join(folder, set), 'input');
          const outputs = await session.run(
            Object.fromEntries(session.inputNames.map((input, i) => [input, Tensor.fromHost(inputs[i])])),
          );
          for (const [k, expected] of tensors(join(folder, set), 'output').entries()) {
            const actual = outputs[session.outputNames[k]].toHost();
            expect(actual.shape).toEqual(expected.shape);
            if (name === 'mobilenetv2-int8-qdq') expectQuantised(actual, expected);
            else expect(compare(actual, expected, 1e-3, 1e-4), session.outputNames[k]).toMatchObject({ bad: 0 });
          }
        }
      });
    }
  });
}

describe.skipIf(onnxData.missing !== undefined || !found.includes('cpu'))('topologies on cpu', () => {
  for (const name of all ? lightModels : lightModels.filter((each) => each.includes('squeezenet'))) {
    it(name, { timeout: 900_000 }, async () => {
      const { bytes, input, expected } = lightModel(onnxData.path, name);
      await using session = await Session.create(await compile(bytes), { device: 'cpu' });
      const outputs = await session.run({ [session.inputNames[0]]: Tensor.fromHost(input) });
      for (const [k, tensor] of expected.entries()) {
        const { worst } = compare(outputs[session.outputNames[k]].toHost(), tensor, 0, 0);
        const scale = Array.from(numbersOf(tensor), Math.abs).reduce((p, q) => Math.max(p, q), 0);
        expect(worst / scale, session.outputNames[k]).toBeLessThanOrEqual(1e-3);
      }
    });
  }
});
