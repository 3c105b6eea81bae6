/** Attention in one kernel: what is recognised, and every form against the reference evaluator. */
import { describe, expect, test } from 'vitest';
import { GraphBuilder } from '../../compiler/graph/builder.js';
import * as c from '../../compiler/graph/compose/index.js';
import { numbersOf } from '../../compiler/graph/ops/reference/data.js';
import type { Target } from '../../compiler/kernel/target.js';
import { verify } from '../../compiler/kernel/verify.js';
import { forms } from '../../compiler/schedule/attend/index.js';
import { lowerGroup } from '../../compiler/schedule/family.js';
import { fuse } from '../../compiler/schedule/fuse.js';
import type { HostTensor } from '../../compiler/tensor.js';
import { attentionCases, type BuiltAttention, built, causal, plain, swap } from '../support/attentions.js';
import { runGroups, runReference } from '../support/run_groups.js';
import { testTargets } from '../support/targets.js';
import { hopperTarget, matrixTarget } from '../support/tiles.js';

function compare({ graph, inputs }: BuiltAttention, target: Target, tolerance = 2e-5, lower = lowerGroup): void {
  const { outputs } = runGroups(graph, target, inputs, undefined, lower);
  const got = [...numbersOf(outputs.get('y') as HostTensor)];
  const want = [...numbersOf(runReference(graph, inputs).get('y') as HostTensor)];
  expect(got.length).toBe(want.length);
  const worst = Math.max(
    0,
    ...got.map((value, i) =>
      Object.is(value, want[i]) || (Number.isNaN(value) && Number.isNaN(want[i]))
        ? 0
        : Math.abs(value - want[i]) / (1 + Math.abs(want[i])),
    ),
  );
  expect(worst).toBeLessThan(tolerance);
}

const families = ({ graph }: BuiltAttention, target: Target): readonly string[] =>
  fuse(graph, target).map(({ family }) => family);

for (const [style, target] of Object.entries({ cpu: testTargets.cpu, simt: testTargets.simt })) {
  describe(style, () => {
    for (const { name, build, dtype, tolerance } of attentionCases) {
      test(name, () => {
        const made = built(build, dtype);
        expect(families(made, target)).toEqual(['attend']);
        compare(made, target, tolerance);
      });
    }
  });
}

describe('warpgroups', () => {
  for (const dtype of ['f16', 'bf16'] as const) {
    for (const { name, build } of attentionCases.filter((one) => one.dtype === undefined || one.dtype === dtype)) {
      test(`${dtype} ${name}`, (context) => {
        const made = built(build, dtype);
        const names: string[] = [];
        const lower: typeof lowerGroup = (group, on) => {
          const [form] = forms(group, on);
          names.push(form.name);
          return form.lower();
        };
        compare(made, hopperTarget, dtype === 'f16' ? 4e-3 : 3e-2, lower);
        if (names[0] !== 'warpgroups') context.skip('another form is taken');
      });
    }
  }
});

describe('matrix units', () => {
  for (const dtype of ['f16', 'bf16'] as const) {
    for (const { name, build } of attentionCases.filter((one) => one.dtype === undefined || one.dtype === dtype)) {
      test(`${dtype} ${name}`, () => {
        const made = built(build, dtype);
        const names: string[] = [];
        for (const at of [0, 1]) {
          const lower: typeof lowerGroup = (group, on) => {
            const all = forms(group, on);
            const form = all[Math.min(at, all.length - 1)];
            names.push(form.name);
            return form.lower();
          };
          compare(made, matrixTarget, dtype === 'f16' ? 4e-3 : 3e-2, lower);
        }
        expect(['tiles shared', 'decode decode']).toContain(names.join(' '));
      });
    }
  }
});

describe('work', () => {
  const kernelsOf = (name: string, target: Target) => {
    const made = built(attentionCases.find((one) => one.name === name)?.build as (typeof attentionCases)[0]['build']);
    return fuse(made.graph, target).flatMap((group) => lowerGroup(group, target).map(({ kernel }) => kernel));
  };
  test('heads that share keys are taken together where they have one query each', () => {
    for (const target of [testTargets.cpu, testTargets.simt]) {
      const [kernel] = kernelsOf('repeated heads, one query', target);
      // Two sequences, two heads of keys for six of queries.
      expect(kernel.grid[0] * kernel.grid[1]).toBe(4);
    }
  });
  test('few heads share the keys among workgroups', () => {
    for (const target of [testTargets.cpu, testTargets.simt]) {
      const kernels = kernelsOf('one query of one head', target);
      expect(kernels.map(({ name }) => name.replace(/.*_/, ''))).toEqual(['part', 'join']);
      expect(kernels[0].grid[0]).toBeGreaterThan(1);
    }
  });
  test('blocks of keys that a mask hides are skipped', () => {
    const { graph } = built(plain([1, 1, 300, 8], 300, 8, (b, scores) => causal(b, scores, 0, 20)));
    const [group] = fuse(graph, testTargets.cpu);
    const [{ kernel }] = lowerGroup(group, testTargets.cpu);
    const bounds = kernel.body.instructions.flatMap((inst) => (inst.op === 'for' ? [inst] : []));
    // The loop over blocks of keys begins and ends where the queries say.
    const constants = new Set(kernel.body.instructions.flatMap((inst) => (inst.op === 'const' ? [inst.result] : [])));
    expect(bounds.some(({ lower, upper }) => !constants.has(lower) && !constants.has(upper))).toBe(true);
  });
});

describe('limits of devices', () => {
  const wide = [
    [1, 1, 1, 700],
    [1, 2, 3, 520],
    [1, 1, 40, 300],
    [2, 1, 200, 260],
    [1, 2, 20, 1100],
  ].flatMap((shape) => [7, 90, 400, 1300].map((keys) => plain(shape, keys, shape[3])));
  const builds = [...attentionCases.map(({ build }) => build), ...wide];
  for (const [sharedBytes, workgroupInvocations] of [
    [16 << 10, 128],
    [32 << 10, 256],
    [227 << 10, 1024],
  ]) {
    for (const base of [testTargets.cpu, testTargets.simt, matrixTarget, hopperTarget]) {
      const limits = base.style === 'cpu' ? base.limits : { ...base.limits, sharedBytes, workgroupInvocations };
      test(`${base.style} of ${base.features.size} features with ${sharedBytes} bytes`, () => {
        const target: Target = { ...base, limits };
        for (const build of builds) {
          for (const dtype of base.matrixUnits ? (['f16', 'f32'] as const) : (['f32'] as const)) {
            const { graph } = built(build, dtype);
            for (const group of fuse(graph, target)) {
              if (group.family !== 'attend') continue;
              for (const { lower } of forms(group, target)) {
                for (const { kernel } of lower()) verify(kernel, { stage: 'scheduled', target });
              }
            }
          }
        }
      }, 120_000);
    }
  }
});

describe('not recognised', () => {
  const { cpu } = testTargets;
  test('scores that are a result too', () => {
    const b = new GraphBuilder('attention');
    const [q, k] = [b.input('q', 'f32', [20, 8]), b.input('k', 'f32', [20, 8])];
    const scores = c.matmul(b, q, swap(b, k));
    b.output('scores', scores);
    b.output('y', c.matmul(b, c.softmax(b, scores, [-1]), k));
    expect(fuse(b.finish(), cpu).map(({ family }) => family)).toEqual(['contract', 'rows', 'contract']);
  });
  test('a softmax over queries', () => {
    const made = built((b, input) => {
      const [q, k, v] = [input([20, 8]), input([20, 8]), input([20, 8])];
      return c.matmul(b, c.softmax(b, c.matmul(b, q, swap(b, k)), [0]), v);
    });
    expect(families(made, cpu)).not.toContain('attend');
    compare(made, cpu);
  });
});
