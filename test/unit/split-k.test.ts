// Contractions cut along k: every form of the partial sums and the kernel that joins them, and when they are chosen.
import { describe, expect, it } from 'vitest';
import { cudaBackend } from '../../backends/cuda/index.js';
import { describe as describeCuda } from '../../backends/cuda/target.js';
import { describe as describeMetal } from '../../backends/metal/target.js';
import { plan } from '../../compiler/compile.js';
import type { DType } from '../../compiler/dtype.js';
import { GraphBuilder } from '../../compiler/graph/builder.js';
import * as c from '../../compiler/graph/compose/index.js';
import { elementsOf } from '../../compiler/graph/ops/reference/data.js';
import type { ConstantData, Graph } from '../../compiler/graph/types.js';
import type { Target } from '../../compiler/kernel/target.js';
import { preferring } from '../../compiler/schedule/forms.js';
import { fuse } from '../../compiler/schedule/fuse.js';
import { under } from '../../compiler/schedule/numerics.js';
import { emptyTensor, type HostTensor } from '../../compiler/tensor.js';
import { choicesOf } from '../../compiler/trials.js';
import { built, type ContractionCase, interpreted, runForm } from '../support/contractions.js';
import { assemble, ptxasKnows, ptxasMissing } from '../support/ptxas.js';
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

// What is chosen -------------------------------------------------------------------------------------------------------

const device = { driver: 'none', virtual: false, software: false };
const h200 = under(
  'precise',
  describeCuda({
    ...{ ...device, id: 'cuda:none', backend: 'cuda', name: 'like an H200', memoryBytes: 141e9, features: [] },
    limits: {
      ...{ computeCapability: 90, cudaVersion: 12080, multiprocessors: 132, clockKHz: 1_980_000 },
      ...{ memoryClockKHz: 3_201_000, memoryBusBits: 6144 },
    },
  }),
);
const appleOf40 = under(
  'precise',
  describeMetal({
    ...{ ...device, id: 'metal:none', backend: 'metal', name: 'like an M3 Max', memoryBytes: 2 ** 35 },
    ...{ features: ['apple9', 'bfloat'], limits: { maxBufferLength: 2 ** 33, cores: 40 } },
  }),
);

const apple: Target = { ...appleOf40, rates: { ...appleOf40.rates, copyGBs: 400 } };

const zeros = (dtype: DType, shape: readonly number[]): ConstantData => ({
  dtype,
  shape,
  load: () => emptyTensor(dtype, shape),
});

/** A layer: [m, k] by weights [k, n], and a bias. */
function layer(dtype: DType, m: number, k: number, n: number): Graph {
  const b = new GraphBuilder('layer');
  const weights = b.constant(zeros(dtype, [k, n]));
  b.output('y', c.add(b, c.matmul(b, b.input('x', dtype, [m, k]), weights), b.input('bias', dtype, [n])));
  return b.finish();
}

/** Workgroups of the kernel that multiplies, and in how many slices. */
function chosen(
  graph: Graph,
  target: Target,
): { readonly workgroups: number; readonly slices: number; readonly kernels: number } {
  const { kernels, report } = plan(graph, target);
  const [first] = kernels;
  const grid = first.grid.reduce((product, count) => product * count, 1);
  const sums = first.params.find((param) => param.kind === 'buffer' && param.access === 'write');
  const results = graph.outputs[0].value.type.shape.reduce<number>((product, extent) => product * Number(extent), 1);
  const isPart = first.name.includes('_part');
  return {
    workgroups: grid,
    slices: isPart && sums?.kind === 'buffer' ? sums.length / results : 1,
    kernels: report.dispatches,
  };
}

describe('what is chosen', () => {
  const decoding = [
    [1, 4096, 4096],
    [1, 14336, 4096],
    [1, 768, 50257],
    [1, 50257, 768],
    [8, 3072, 768],
    [16, 4096, 1000],
    [64, 16384, 64],
    [128, 65536, 128],
  ] as const;
  for (const dtype of ['f32', 'f16', 'bf16'] as const) {
    for (const [m, k, n] of decoding) {
      it(`${dtype} ${m}×${k}×${n} fills an H200`, () => {
        const { workgroups, slices, kernels } = chosen(layer(dtype, m, k, n), h200);
        expect(workgroups).toBeGreaterThanOrEqual(0.7 * h200.parallelism);
        expect(kernels).toBe(slices > 1 ? 2 : 1);
        // What fills it already needs no slices.
        expect(slices > 1).toBe(n < 50_000);
      });
    }
  }

  it('columns by weights, gradients and late convolutions fill it too', () => {
    const graphs = [
      (b: GraphBuilder) => c.matmul(b, b.constant(zeros('f32', [1000, 4096])), b.input('x', 'f32', [4096, 1])),
      (b: GraphBuilder) =>
        c.matmul(b, c.transpose(b, b.input('x', 'f32', [8192, 96]), [1, 0]), b.input('dy', 'f32', [8192, 64])),
      (b: GraphBuilder) =>
        b.op('conv', [b.input('x', 'f32', [1, 512, 7, 7]), b.constant(zeros('f32', [512, 512, 3, 3]))], {
          ...{ strides: [1, 1], padLow: [1, 1], padHigh: [1, 1], dilations: [1, 1], inputDilation: [1, 1] },
          ...{ groups: 1, dtype: 'f32' },
        })[0],
    ];
    for (const build of graphs) {
      const b = new GraphBuilder('layer');
      b.output('y', build(b));
      const { workgroups, slices } = chosen(b.finish(), h200);
      expect(slices).toBeGreaterThan(1);
      expect(workgroups).toBeGreaterThanOrEqual(0.7 * h200.parallelism);
    }
  });

  it('an Apple GPU of 40 cores has its own measure', () => {
    expect(chosen(layer('f32', 64, 16384, 64), apple).slices).toBeGreaterThan(1);
    expect(chosen(layer('f32', 1, 4096, 4096), apple)).toMatchObject({ slices: 1 });
  });

  it('large, square and short products stay whole', () => {
    const whole = [
      [256, 256, 256],
      [1024, 1024, 1024],
      [4096, 4096, 4096],
      [768, 64, 768],
      [1, 256, 256],
      [4, 40, 4],
    ] as const;
    for (const target of [h200, apple]) {
      for (const [m, k, n] of whole)
        expect(chosen(layer('bf16', m, k, n), target), `${m}×${k}×${n}`).toMatchObject({ slices: 1 });
    }
  });

  it('devices of few units are left alone', () => {
    for (const target of [testTargets.cpu, testTargets.software]) {
      for (const [m, k, n] of decoding.slice(4)) expect(chosen(layer('f32', m, k, n), target).slices).toBe(1);
    }
  });

  it('partial sums are f32 in the arena, and no constant is there twice', () => {
    const graph = layer('f16', 8, 3072, 768);
    const { pools, steps, report } = plan(graph, h200);
    const { slices } = chosen(graph, h200);
    const arena = pools.reduce((sum, { kind, bytes }) => sum + (kind === 'arena' ? bytes : 0), 0);
    expect(arena).toBeGreaterThanOrEqual(slices * 8 * 768 * 4);
    expect(arena).toBeLessThan(slices * 8 * 768 * 4 + 1024);
    expect(report.weightsBytes).toBeLessThan(3072 * 768 * 2 + 1024);
    expect(steps.map(({ kind }) => kind)).toEqual(['dispatch', 'barrier', 'dispatch']);
    // Of a k that no count of slices divides, too.
    expect(plan(layer('f32', 8, 4099, 768), h200).report.weightsBytes).toBeLessThan(4099 * 768 * 4 + 1024);
  });

  it('tuning is offered several counts', () => {
    const [choice] = choicesOf(layer('f32', 8, 3072, 768), h200, {});
    const split = choice.forms.filter(({ name }) => name.includes(' slices, '));
    expect(split.length).toBe(3);
    expect(new Set(choice.forms.map(({ name }) => name)).size).toBe(choice.forms.length);
    const other = split[1];
    const prefer = preferring(new Map([[choice.signature, other.name]]));
    const { kernels } = plan(layer('f32', 8, 3072, 768), h200, { prefer });
    expect(
      kernels[0].params.some(
        (param) => param.kind === 'buffer' && param.length === Number.parseInt(other.name, 10) * 8 * 768,
      ),
    ).toBe(true);
  });
});

describe('ptxas takes the kernels', () => {
  for (const arch of ['sm_80', 'sm_90a']) {
    it.skipIf(ptxasMissing !== undefined || !ptxasKnows(arch))(
      arch,
      async () => {
        const target = {
          ...h200,
          ...(arch === 'sm_90a' ? {} : { ...(cudaBackend.target(arch) as Target), parallelism: 108 }),
        };
        const graphs = [
          layer('f32', 1, 4096, 4096),
          layer('f16', 8, 3072, 768),
          layer('bf16', 64, 16384, 64),
          layer('f32', 8, 4099, 768),
        ];
        const codes = graphs.flatMap((graph) =>
          plan(graph, target).kernels.map((kernel) => cudaBackend.render(kernel, target)),
        );
        const strictly = ['--warn-on-spills', '--warn-on-local-memory-usage', '--warning-as-error'];
        expect(await assemble(codes, arch, strictly)).toEqual([]);
      },
      120_000,
    );
  }
});
