// Contractions cut along k: every form of the partial sums and the kernel that joins them, and when they are chosen.
import { describe, expect, it } from 'vitest';
import { elementsOf } from '../../compiler/graph/ops/reference/data.js';
import type { Target } from '../../compiler/kernel/target.js';
import { fuse } from '../../compiler/schedule/fuse.js';
import type { HostTensor } from '../../compiler/tensor.js';
import { built, type ContractionCase, interpreted, runForm } from '../support/contractions.js';
import { runReference } from '../support/run_groups.js';
import { randomSplit, splitByteCases, splitCases, splitForms } from '../support/split_cases.js';
import { testTargets } from '../support/targets.js';
import { hopperTarget, matrixTarget, squareTarget } from '../support/tiles.js';

const numbers = (tensor: HostTensor | undefined): readonly unknown[] => (tensor ? [...elementsOf(tensor)] : []);

const targets: Readonly<Record<string, Target>> = {
  cpu: testTargets.cpu,
  simt: testTargets.simt,
  software: testTargets.software,
  matrix: matrixTarget,
  square: squareTarget,
  hopper: hopperTarget,
};

/** Of `4 slices, matrix f16 …`: matrix. */
const kindOf = (name: string): string => name.split(' ')[2];

/** Names of the forms that the case was computed in: at most one of each kind, in turn by `pick`. */
async function check(
  example: ContractionCase,
  target: Target,
  { count, left = 0, pick = 0 }: { readonly count: number; readonly left?: number; readonly pick?: number },
): Promise<readonly string[]> {
  const made = built(example);
  const want = numbers(runReference(made.graph, made.inputs).get('y'));
  const group = fuse(made.graph, target).find(({ family }) => family === 'contract');
  if (group === undefined) throw new Error(`${example.name} is no contraction`);
  const byKind = new Map<string, string[]>();
  for (const { name } of splitForms(group, target, count, left)) {
    const kind = kindOf(name);
    byKind.set(kind, [...(byKind.get(kind) ?? []), name]);
  }
  const names = [...byKind.values()].map((all) => all[pick % all.length]);
  for (const name of names) {
    const choose: Parameters<typeof runForm>[2] = (_, of) =>
      splitForms(of, target, count, left).find((form) => form.name === name);
    const got = await runForm(made, target, choose, interpreted);
    expect(numbers(got), `${example.name} in ${name}`).toEqual(want);
  }
  return names;
}

/** Kinds of forms whose partial sums are computed slice by slice. */
const kinds: Readonly<Record<string, readonly string[]>> = {
  cpu: ['direct', 'packed'],
  simt: ['direct', 'registers', 'shared'],
  software: ['direct', 'registers'],
  matrix: ['direct', 'matrix', 'registers', 'shared'],
  square: ['direct', 'matrix', 'registers', 'shared'],
  hopper: ['direct', 'matrix', 'registers', 'shared', 'warpgroups'],
};

describe('partial sums in every form, joined', () => {
  for (const [name, target] of Object.entries(targets)) {
    const dtype = name === 'matrix' ? 'f16' : target.matrixUnits ? 'bf16' : 'f32';
    it(`${dtype} on ${name}`, async () => {
      const seen: string[] = [];
      for (const [i, example] of splitCases(dtype).entries())
        seen.push(...(await check(example, target, { count: 2 + (i % 4), pick: i })));
      expect([...new Set(seen.map(kindOf))].sort()).toEqual(kinds[name]);
    }, 120_000);
    it(`integers on ${name}`, async () => {
      for (const [i, example] of splitByteCases.entries())
        await check(example, target, { count: 3 + (i % 3), pick: i });
    }, 120_000);
  }
});

describe('random products', () => {
  for (const [name, target] of Object.entries(targets)) {
    it(`in random slices on ${name}`, async () => {
      for (let seed = 1; seed <= 12; seed++) {
        const example = randomSplit(seed * 7919);
        await check(example, target, { ...example, pick: seed });
      }
    }, 120_000);
  }
});
