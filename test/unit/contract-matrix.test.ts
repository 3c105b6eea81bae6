/** Contractions on matrix units: every block against the reference evaluator, at ragged sizes, by the interpreter. */
import { describe, expect, test } from 'vitest';
import { elementsOf } from '../../compiler/graph/ops/reference/data.js';
import type { Target } from '../../compiler/kernel/target.js';
import { schedules } from '../../compiler/schedule/contract/index.js';
import { fuse } from '../../compiler/schedule/fuse.js';
import { under } from '../../compiler/schedule/numerics.js';
import {
  boxCases,
  built,
  byteCases,
  type ContractionCase,
  floatCases,
  interpreted,
  runForm,
} from '../support/contractions.js';
import { runReference } from '../support/run_groups.js';
import { testTargets } from '../support/targets.js';
import { hopperTarget, matrixTarget, squareTarget } from '../support/tiles.js';

const numbers = (tensor: Parameters<typeof elementsOf>[0]): number[] => [...elementsOf(tensor)].map(Number);

/** Names of the forms of the case's contraction that begin so. */
function formsOf(example: ContractionCase, target: Target, kind = 'matrix'): string[] {
  const { graph } = built(example);
  const contraction = fuse(graph, target).find(({ family }) => family === 'contract');
  if (!contraction) return [];
  return schedules(contraction, target)
    .map(({ name }) => name)
    .filter((name) => name.startsWith(kind));
}

async function check(example: ContractionCase, target: Target, most = 3, kind = 'matrix'): Promise<void> {
  const made = built(example);
  const want = numbers(runReference(made.graph, made.inputs).get('y') as never);
  const forms = formsOf(example, target, kind);
  expect(forms.length).toBeGreaterThan(1);
  for (const form of [...forms.slice(0, most), forms[forms.length - 1]]) {
    const got = await runForm(made, target, (all) => all.find(({ name }) => name === form), interpreted);
    expect(got && numbers(got), form).toEqual(want);
  }
}

const plain: Target = { ...matrixTarget, features: new Set(['fma', 'subgroups']) };

for (const dtype of ['f16', 'bf16', 'f32'] as const) {
  describe(`${dtype} in tiles of 16`, () => {
    for (const example of floatCases(dtype)) test(example.name, () => check(example, matrixTarget), 60_000);
  });
  describe(`${dtype} in tiles of 8, through registers`, () => {
    for (const example of floatCases(dtype)) test(example.name, () => check(example, squareTarget, 1), 60_000);
  });
}
describe('bytes', () => {
  for (const example of byteCases) test(example.name, () => check(example, matrixTarget), 60_000);
});
describe('bytes through registers', () => {
  for (const example of byteCases) test(example.name, () => check(example, plain, 1), 60_000);
});

for (const dtype of ['f16', 'bf16'] as const) {
  describe(`${dtype} by warpgroups`, () => {
    for (const example of boxCases(dtype))
      test(example.name, () => check(example, hopperTarget, 1, 'warpgroups'), 60_000);
  });
}
test('every shape of warpgroups', () => check(boxCases('f16')[3], hopperTarget, 9, 'warpgroups'), 60_000);

describe('choice', () => {
  const best = (example: ContractionCase, target: Target): string => {
    const contraction = fuse(built(example).graph, target).find(({ family }) => family === 'contract');
    return contraction ? schedules(contraction, target)[0].name : '';
  };
  const large = floatCases('f16')[2];
  test('matrix units win where they are, and are never taken where they are not', () => {
    expect(best(large, matrixTarget)).toMatch(/^matrix f16/);
    for (const target of Object.values(testTargets)) expect(formsOf(large, target)).toEqual([]);
  });
  test('operands that boxes cannot be cut from are multiplied by tiles', () => {
    expect(best(boxCases('bf16')[3], hopperTarget)).toMatch(/^warpgroups bf16/);
    expect(best(large, hopperTarget)).toMatch(/^matrix f16/);
    expect(formsOf(large, hopperTarget, 'warpgroups')).toEqual([]);
  });
  test('tf32 is for fast numerics, strict ones have integers only', () => {
    const scalars = (numerics: 'fast' | 'precise' | 'strict') =>
      new Set(under(numerics, matrixTarget).matrixUnits?.map(({ a }) => a));
    expect(scalars('fast')).toEqual(new Set(['f16', 'bf16', 'tf32', 'i8', 'u8']));
    expect(scalars('precise')).toEqual(new Set(['f16', 'bf16', 'i8', 'u8']));
    expect(scalars('strict')).toEqual(new Set(['i8', 'u8']));
    expect(under('precise', testTargets.simt)).toBe(testTargets.simt);
  });
  test('f32 needs a unit of its own or tf32', () => {
    const only16: Target = { ...matrixTarget, matrixUnits: matrixTarget.matrixUnits?.filter(({ a }) => a !== 'tf32') };
    expect(formsOf(floatCases('f32')[2], only16)).toEqual([]);
  });
});
