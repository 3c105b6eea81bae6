// Deterministic guards of speed: plans of the reference models and instructions of key CPU kernels, beside what
// bench/guards.json expects. What is worse fails; `npm run bench -- guards --update` takes a change made on purpose.
import { describe, expect, it } from 'vitest';
import { goldenFaults } from '../../bench/golden.js';
import {
  guardModels,
  guardTargets,
  instructionFaults,
  type PlanFacts,
  planFacts,
  planFaults,
  readExpected,
} from '../../bench/guards.js';
import { countInstructions, instructionCases, missingTools } from '../../bench/instructions.js';
import { dataPath, modelsData } from '../support/data.js';

const expected = readExpected();

describe('plans of reference models', () => {
  for (const target of guardTargets) {
    it.for(guardModels)(`%s for ${target}`, async (model, context) => {
      dataPath(context, modelsData, model, 'model.onnx');
      const found = await planFacts(model, target);
      expect(planFaults(`${model} for ${target}`, found, expected.plans[model]?.[target])).toEqual([]);
    });
  }

  const facts: PlanFacts = { kernels: 5, dispatches: 6, bytesMoved: 1000, arenaBytes: 100, largestLiveBytes: 100 };

  it('finds what is worse and forgives what is better', () => {
    expect(planFaults('m', { ...facts, kernels: 4, bytesMoved: 900 }, facts)).toEqual([]);
    expect(planFaults('m', { ...facts, kernels: 6 }, facts)).toEqual(['m: kernels 6, expected at most 5']);
    expect(planFaults('m', { ...facts, bytesMoved: 1001 }, facts)).toEqual([
      'm: bytesMoved 1001, expected at most 1000',
    ]);
    expect(planFaults('m', { ...facts, arenaBytes: 120 }, facts)).toHaveLength(2);
    expect(planFaults('m', facts, undefined)).toHaveLength(1);
  });
});

describe('golden kernels', () => {
  it('are what the compiler makes: npm run bench -- guards --update takes a change made on purpose', async () => {
    expect(await goldenFaults()).toEqual([]);
  });
});

describe('instructions of CPU kernels', () => {
  const missing = missingTools();
  it.for(instructionCases)('$name', async (one, context) => {
    if (missing !== undefined) context.skip(missing);
    expect(instructionFaults(one.name, await countInstructions(one), expected.instructions[one.name])).toEqual([]);
  });

  it('are counted whole', () => {
    expect(instructionFaults('k', 1.1, 1)).toEqual([]);
    expect(instructionFaults('k', 1.2, 1)).toHaveLength(1);
    expect(instructionFaults('k', 1, undefined)).toHaveLength(1);
  });
});
