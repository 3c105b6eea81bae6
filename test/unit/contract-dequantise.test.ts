/** Products with constant weights of few bits, which are unpacked in registers, against the reference. */
import { describe, expect, test } from 'vitest';
import type { DType } from '../../compiler/dtype.js';
import { GraphBuilder } from '../../compiler/graph/builder.js';
import * as c from '../../compiler/graph/compose/index.js';
import { elementsOf, tensorOfNumbers } from '../../compiler/graph/ops/reference/data.js';
import type { Value } from '../../compiler/graph/types.js';
import { foldConstants } from '../../compiler/passes/fold.js';
import { sizeOf } from '../../compiler/tensor.js';
import { interpreted, runForm } from '../support/contractions.js';
import { runReference } from '../support/run_groups.js';
import { testTargets } from '../support/targets.js';

interface Weights {
  readonly m: number;
  readonly n: number;
  readonly k: number;
  readonly block: number;
  readonly dtype: DType;
  readonly zeros?: 'one' | 'each';
  readonly scales?: DType;
  /** [k][n] instead of [n][k]. */
  readonly across?: true;
}

const ranges: Partial<Record<DType, readonly [low: number, count: number]>> = {
  u2: [0, 4],
  u4: [0, 16],
  i4: [-8, 16],
  u8: [0, 256],
  i8: [-128, 256],
};

function numbers(shape: readonly number[], low: number, count: number, seed: number): number[] {
  let state = seed;
  return Array.from({ length: sizeOf(shape) }, () => {
    state = (Math.imul(state, 1103515245) + 12345) & 0x7fffffff;
    return low + ((state >> 16) % count);
  });
}

/** The product and what its weights are, spelled out as the frontend does. */
function product({ m, n, k, block, dtype, zeros, scales = 'f32', across }: Weights) {
  const b = new GraphBuilder('weights');
  const [low, count] = ranges[dtype] ?? [0, 0];
  const blocks = Math.ceil(k / block);
  const shape = (inner: number) => (across ? [blocks, inner, n] : [n, blocks, inner]);
  const constant = (type: DType, dims: readonly number[], values: readonly number[]): Value =>
    b.constant(tensorOfNumbers(type, dims, values));
  const levels = constant(dtype, shape(block), numbers(shape(block), low, count, 1));
  let integers = c.cast(b, levels, 'f32');
  if (zeros === 'one') integers = c.sub(b, integers, constant('f32', [], [low + 3]));
  if (zeros === 'each')
    integers = c.sub(b, integers, c.cast(b, constant(dtype, shape(1), numbers(shape(1), low, count, 2)), 'f32'));
  // Powers of two: what is summed is exact.
  const scale = constant(
    scales,
    shape(1),
    numbers(shape(1), -3, 3, 3).map((power) => 2 ** power),
  );
  const real = c.mul(b, integers, c.cast(b, scale, 'f32'));
  const flat = c.reshape(b, real, across ? [blocks * block, n] : [n, blocks * block]);
  const [starts, sizes] = [[0, 0], across ? [k, n] : [n, k]];
  const [weights] = b.op('slice', [flat], { starts, sizes, steps: [1, 1] });
  const x = b.input('x', 'f32', [m, k]);
  b.output('y', c.matmul(b, x, across ? weights : c.transpose(b, weights, [1, 0])));
  const graph = b.finish();
  return {
    graph: foldConstants(graph).graph,
    inputs: { x: tensorOfNumbers('f32', [m, k], numbers([m, k], -3, 7, 4)) },
  };
}

const cases: readonly Weights[] = [
  { m: 1, n: 48, k: 64, block: 32, dtype: 'u4', zeros: 'one' },
  { m: 1, n: 37, k: 96, block: 32, dtype: 'u4', zeros: 'each' },
  { m: 3, n: 70, k: 40, block: 16, dtype: 'i4' },
  { m: 19, n: 33, k: 128, block: 64, dtype: 'u4', zeros: 'each', scales: 'f16' },
  { m: 2, n: 40, k: 256, block: 128, dtype: 'u8', zeros: 'each' },
  { m: 5, n: 32, k: 64, block: 64, dtype: 'i8', zeros: 'each' },
  { m: 4, n: 64, k: 64, block: 16, dtype: 'u2', zeros: 'one' },
  { m: 2, n: 50, k: 64, block: 32, dtype: 'i4', zeros: 'each', across: true },
  // One whole block and a part of another.
  { m: 2, n: 33, k: 31, block: 16, dtype: 'i8', zeros: 'each' },
  { m: 1, n: 40, k: 300, block: 256, dtype: 'u8', zeros: 'one', across: true },
];

for (const lanes of [16, 8] as const) {
  describe(`${lanes} lanes`, () => {
    for (const one of cases) {
      const { m, n, k, block, dtype, zeros = 'no', scales = 'f32', across } = one;
      const name = `${m}×${n}×${k} of ${dtype} by ${block}, ${zeros} zero points, ${scales}${across ? ', across' : ''}`;
      test(name, async () => {
        const made = product(one);
        const target = { ...testTargets.cpu, vectorLanes: lanes, vectorRegisters: 32 };
        const got = await runForm(made, target, (forms) => forms.find((form) => form.name === 'blocks'), interpreted);
        const want = runReference(made.graph, made.inputs).get('y');
        expect(got && [...elementsOf(got)].map(Number)).toEqual(want && [...elementsOf(want)].map(Number));
      });
    }
  });
}

describe('16-bit floats', () => {
  const cases = (['f16', 'bf16'] as const).flatMap((dtype) =>
    (['plain', 'cast', 'transposed'] as const).map((form) => ({ dtype, form })),
  );
  test.each(cases)('$dtype, $form', async ({ dtype, form }) => {
    const [m, n, k] = [3, 75, 50];
    const b = new GraphBuilder('halves');
    const shape = form === 'transposed' ? [n, k] : [k, n];
    const weights = b.constant(tensorOfNumbers(dtype, shape, numbers(shape, -3, 7, 1)));
    const xType = form === 'plain' ? dtype : 'f32';
    const x = b.input('x', xType, [m, k]);
    const wide = form === 'plain' ? weights : c.cast(b, weights, 'f32');
    const y = c.matmul(b, x, form === 'transposed' ? c.transpose(b, wide, [1, 0]) : wide);
    b.output('y', c.cast(b, y, 'f32'));
    const made = {
      graph: foldConstants(b.finish()).graph,
      inputs: { x: tensorOfNumbers(xType, [m, k], numbers([m, k], -3, 7, 2)) },
    };
    const choose = (forms: readonly { readonly name: string }[]) =>
      forms.find(({ name }) => name === 'halves') as never;
    const got = await runForm(made, testTargets.cpu, choose, interpreted);
    const want = runReference(made.graph, made.inputs).get('y');
    expect(got && [...elementsOf(got)].map(Number)).toEqual(want && [...elementsOf(want)].map(Number));
  });
});

test('weights that have no blocks are left alone', async () => {
  const b = new GraphBuilder('plain');
  const weights = b.constant(tensorOfNumbers('f16', [64, 48], numbers([64, 48], -3, 7, 1)));
  b.output('y', c.matmul(b, b.input('x', 'f32', [2, 64]), c.cast(b, weights, 'f32')));
  const graph = foldConstants(b.finish()).graph;
  const inputs = { x: tensorOfNumbers('f32', [2, 64], numbers([2, 64], -3, 7, 2)) };
  const names: string[] = [];
  await runForm(
    { graph, inputs },
    testTargets.cpu,
    (forms) => {
      names.push(...forms.map(({ name }) => name));
      return forms[0];
    },
    interpreted,
  );
  expect(names).not.toContain('blocks');
  expect(names).toContain('halves');
});
