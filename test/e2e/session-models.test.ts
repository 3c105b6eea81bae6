// Real models, from their files and from artifacts made of them: same outputs as their references.
import { mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, describe, expect, it } from 'vitest';
import { decode, tensorOf } from '../../compiler/frontends/onnx/index.js';
import { compile, type Model, Session, Tensor } from '../../index.js';
import { dataPath, modelsData } from '../support/data.js';

const scratch = mkdtempSync(join(tmpdir(), 'session-models-'));
afterAll(() => rmSync(scratch, { recursive: true }));

function tensors(folder: string, prefix: string): Tensor[] {
  return readdirSync(folder)
    .filter((file) => file.startsWith(`${prefix}_`))
    .sort((a, b) => Number.parseInt(a.slice(prefix.length + 1), 10) - Number.parseInt(b.slice(prefix.length + 1), 10))
    .map((file) => Tensor.fromHost(tensorOf(decode('TensorProto', readFileSync(join(folder, file))), file)));
}

async function check(model: Model, folder: string): Promise<Float32Array[]> {
  await using session = await Session.create(model, { device: 'cpu' });
  const inputs = tensors(folder, 'input');
  const feeds = Object.fromEntries(session.inputNames.map((name, i) => [name, inputs[i]]));
  const outputs = await session.run(feeds);
  const expected = tensors(folder, 'output');
  return session.outputNames.map((name, i) => {
    const actual = outputs[name];
    expect(actual.dims).toEqual(expected[i].dims);
    const reference = Array.from(expected[i].data as Float32Array, Number);
    const largest = reference.reduce((most, value) => Math.max(most, Math.abs(value)), 0);
    const worst = reference.reduce((most, value, at) => Math.max(most, Math.abs(Number(actual.data[at]) - value)), 0);
    expect(worst / largest).toBeLessThan(1e-4);
    return actual.data as Float32Array;
  });
}

describe.skipIf(modelsData.missing)('models', () => {
  for (const name of ['mnist-cnn8', 'mobilenetv2-fp32-derived', 'bert-toy', 'superres-espcn-x3']) {
    it(`${name} from file and from artifact`, async (context) => {
      const path = dataPath(context, modelsData, name, 'model.onnx');
      const data = dataPath(context, modelsData, name, 'test_data_set_0');
      const model = await compile(path);
      const fromFile = await check(model, data);
      const artifact = join(scratch, `${name}.tutti`);
      await model.save(artifact);
      const loaded = await compile(artifact);
      expect(loaded.inputs).toEqual(model.inputs);
      expect(loaded.sourceDigest).toBe(model.sourceDigest);
      expect(await check(loaded, data)).toEqual(fromFile);
    });
  }
});
