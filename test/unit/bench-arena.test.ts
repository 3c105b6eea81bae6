// The arena of every model that is here is close to the least it can be.
import { describe, expect, it } from 'vitest';
import { arenaFacts, arenaFaults, arenaModels, arenaTargets } from '../../bench/arena.js';
import { modelsData, onnxData } from '../support/data.js';

const models = arenaModels(modelsData.path, onnxData.path);

describe.skipIf(models.length === 0)('arenas', () => {
  for (const target of arenaTargets) {
    it.for(models)(`$name for ${target}`, async (model) => {
      const facts = await arenaFacts(model, target);
      expect(facts.liveBytes).toBeGreaterThanOrEqual(0);
      expect(arenaFaults(`${model.name} for ${target}`, facts)).toEqual([]);
    });
  }
});

it('an arena beyond the limit is a fault', () => {
  expect(arenaFaults('m', { arenaBytes: 110, liveBytes: 100 })).toEqual([]);
  expect(arenaFaults('m', { arenaBytes: 111, liveBytes: 100 })).toEqual([
    'm: an arena of 111 bytes where 100 are alive at most',
  ]);
});
