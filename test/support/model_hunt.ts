/** Hunts for random models that a check does not pass: some of each family, each failure shrunk. */
import fc from 'fast-check';
import type { Device } from '../../backends/backend.js';
import { type Comparison, compareTensors, numbersOf } from '../../compiler/compare.js';
import { isFloat } from '../../compiler/dtype.js';
import { importOnnx } from '../../compiler/frontends/onnx/index.js';
import { resolvers } from '../../compiler/frontends/resolvers.js';
import { evaluateStages } from '../../compiler/passes/evaluate_stages.js';
import type { HostTensor } from '../../compiler/tensor.js';
import { compile, Session, Tensor } from '../../index.js';
import type { DeviceHandle } from '../../runtime/device.js';
import { chooserOf } from './graph_cases.js';
import { type Family, familyNames, type RandomModel, randomModel } from './random_models/index.js';

/** `TUTTI_RANDOM_MODELS=1000` looks at so many of each family. */
export const modelRuns = Number(process.env.TUTTI_RANDOM_MODELS ?? 4);
const standardSeed = Number(process.env.TUTTI_RANDOM_SEED ?? 11);
/** `TUTTI_RANDOM_FAMILIES=gemm,einsum` looks at these alone. */
export const huntedFamilies = familyNames.filter(
  (name) => process.env.TUTTI_RANDOM_FAMILIES?.split(',').includes(name) ?? true,
);

/** @throws Error with the smallest model found that `check` throws at, and what it throws */
export async function huntModels(
  family: Family,
  runs: number,
  check: (model: RandomModel) => Promise<void>,
  seed = standardSeed,
): Promise<void> {
  const property = fc.asyncProperty(fc.gen(), fc.nat(1000), async (g, numbers) => {
    const model = randomModel(chooserOf(g), family, numbers);
    try {
      await check(model);
    } catch (error) {
      throw new Error(`${(error as Error).message}\n${model.text}`, { cause: error });
    }
  });
  const { failed, errorInstance, numRuns, seed: at } = await fc.check(property, { numRuns: runs, seed });
  if (failed)
    throw new Error(`after ${numRuns} of seed ${at}: ${(errorInstance as Error)?.message}`, { cause: errorInstance });
}

/** Results of all runs by the reference evaluation. */
export function referenceOf({ bytes, feeds }: RandomModel): readonly ReadonlyMap<string, HostTensor>[] {
  const graph = importOnnx(bytes);
  return feeds.map((inputs) => evaluateStages(graph, inputs, resolvers).outputs as ReadonlyMap<string, HostTensor>);
}

const tolerances: Partial<Record<HostTensor['dtype'], number>> = { f16: 3e-2, bf16: 1e-1, f64: 1e-6 };

/** Against the largest element: sums that cancel are no better than their terms. */
export function compareResults(actual: HostTensor, expected: HostTensor): Comparison {
  const relative = tolerances[expected.dtype] ?? 1e-3;
  const { maxExpected } = compareTensors(expected, expected, { rtol: 0, atol: 0 });
  return compareTensors(actual, expected, { rtol: relative, atol: (relative / 5) * Math.max(1, maxExpected) });
}

/** What overflows in a narrow type need not where the types between are wider. */
export const isDecided = (tensor: HostTensor): boolean =>
  !isFloat(tensor.dtype) || [...numbersOf(tensor)].every((value) => Number.isFinite(value));

/** @throws Error where a device gives other results than the reference, in any of the runs of one session */
export async function checkOnDevice(model: RandomModel, device: DeviceHandle | Device): Promise<void> {
  const expected = referenceOf(model);
  await using session = await Session.create(await compile(model.bytes), { device });
  for (const [run, feeds] of model.feeds.entries()) {
    const given = Object.fromEntries(Object.entries(feeds).map(([name, tensor]) => [name, Tensor.fromHost(tensor)]));
    const results = await session.run(given);
    for (const [name, tensor] of expected[run]) {
      if (!isDecided(tensor)) continue;
      const { ok, reason } = compareResults(results[name].toHost(), tensor);
      if (!ok) throw new Error(`run ${run}, ${name}: ${reason}`);
    }
  }
}
