/** Inputs for measuring a model: given ones, those that lie beside it, random ones. */
import { existsSync } from 'node:fs';
import { join } from 'node:path';
import type { SessionModel } from '../runtime/session_model.js';
import type { Tensor } from '../runtime/tensor.js';
import { parseInputs, randomTensor, readInput } from './values.js';

/** From the flags, else from the model's first data set, else random. Named dims without a size are 1. */
export async function feedsOf(
  model: SessionModel,
  texts: readonly string[],
  folder: string | undefined,
): Promise<Record<string, Tensor>> {
  const specs = parseInputs(texts, model.inputs);
  const feeds: Record<string, Tensor> = {};
  const sized = specs.size < model.inputs.length ? withSizes(model) : model;
  for (const [k, info] of model.inputs.entries()) {
    const spec = specs.get(info.name);
    const sample = folder === undefined ? undefined : join(folder, 'test_data_set_0', `input_${k}.pb`);
    if (spec !== undefined) feeds[info.name] = await readInput(spec, info);
    else if (sample !== undefined && existsSync(sample)) {
      feeds[info.name] = await readInput({ kind: 'file', path: sample, type: 'pb', image: {} }, info);
    } else feeds[info.name] = randomTensor(sized.inputs[k], k + 1);
  }
  return feeds;
}

function withSizes(model: SessionModel): SessionModel {
  const dims = Object.fromEntries([...model.dims].map(([name, { min }]) => [name, Math.max(1, min)]));
  return model.with({ dims });
}
