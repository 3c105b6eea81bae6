// Random ONNX models in ONNX Runtime: what it computes is what the reference evaluation of the imported graph gives.
import { describe, it } from 'vitest';
import { type DType, dtypes } from '../../compiler/dtype.js';
import type { HostTensor } from '../../compiler/tensor.js';
import {
  compareResults,
  huntedFamilies,
  huntModels,
  isDecided,
  modelRuns,
  referenceOf,
} from '../support/model_hunt.js';
import type { RandomModel } from '../support/random_models/index.js';

const runtime = await import('onnxruntime-node').catch(() => undefined);

const names: Partial<Record<DType, string>> = {
  f32: 'float32',
  f64: 'float64',
  f16: 'float16',
  i64: 'int64',
  i32: 'int32',
  i8: 'int8',
  u8: 'uint8',
  bool: 'bool',
};
const typeOf = (name: string): DType | undefined => dtypes.find((dtype) => names[dtype] === name);

/** Undefined where it has no kernels for the model, or refuses what the standard allows. */
async function peerResults({
  bytes,
  feeds,
  hasEmpty,
}: RandomModel): Promise<readonly Record<string, HostTensor>[] | undefined> {
  if (runtime === undefined) return undefined;
  const inputs = feeds.flatMap((feed) => Object.values(feed));
  // Of sums of nothing it leaves what was in memory.
  if (hasEmpty || inputs.some(({ dtype }) => names[dtype] === undefined)) return undefined;
  const options = { graphOptimizationLevel: 'disabled', logSeverityLevel: 4, intraOpNumThreads: 1 } as const;
  const session = await runtime.InferenceSession.create(bytes, options).catch(() => undefined);
  if (session === undefined) return undefined;
  const all: Record<string, HostTensor>[] = [];
  try {
    for (const feed of feeds) {
      const given = Object.fromEntries(
        Object.entries(feed).map(([name, { dtype, data, shape }]) => [
          name,
          new runtime.Tensor(names[dtype] as 'float32', data as Float32Array, shape),
        ]),
      );
      const results = await session.run(given).catch(() => undefined);
      if (results === undefined) return undefined;
      all.push(
        Object.fromEntries(
          Object.entries(results).map(([name, { type, dims, data }]) => [
            name,
            { dtype: typeOf(type) as DType, shape: dims, data: data as Float32Array },
          ]),
        ),
      );
    }
  } finally {
    await session.release();
  }
  return all;
}

async function check(model: RandomModel): Promise<void> {
  const expected = await peerResults(model);
  if (expected === undefined) return;
  const results = referenceOf(model);
  for (const [run, outputs] of expected.entries()) {
    for (const [name, tensor] of Object.entries(outputs)) {
      // It does not know the shapes of stacks of nothing.
      if (tensor.dtype === undefined || tensor.data.length === 0) continue;
      const actual = results[run].get(name);
      if (actual === undefined) throw new Error(`run ${run}: ${name} is missing`);
      // Rows of equal numbers have no deviation: it divides by 0, the standard by a little more.
      if (!isDecided(tensor)) continue;
      const { ok, reason } = compareResults(actual, tensor);
      if (!ok) throw new Error(`run ${run}, ${name}: ${reason}`);
    }
  }
}

describe.skipIf(runtime === undefined)('random models in ONNX Runtime', () => {
  it.each(huntedFamilies)(`${modelRuns} of %s`, { timeout: 36_000_000 }, async (family) => {
    await huntModels(family, modelRuns, check);
  });
});
