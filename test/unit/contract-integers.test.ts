/** Contractions of bytes on vector lanes and on GPUs: every form, signedness and zero point against the reference. */
import { describe, expect, test } from 'vitest';
import { cudaBackend } from '../../backends/cuda/index.js';
import type { GraphBuilder } from '../../compiler/graph/builder.js';
import * as c from '../../compiler/graph/compose/index.js';
import { elementsOf, tensorOfNumbers } from '../../compiler/graph/ops/reference/data.js';
import type { ByteMix, Target } from '../../compiler/kernel/target.js';
import {
  built,
  byteCases,
  type ContractionCase,
  centred,
  interpreted,
  type Make,
  randomByteCase,
  runForm,
} from '../support/contractions.js';
import { runReference } from '../support/run_groups.js';
import { minimumTarget, testTargets } from '../support/targets.js';

const withDots = (byteDots: readonly ByteMix[], more: Partial<Target> = {}): Target => ({
  ...testTargets.cpu,
  ...more,
  byteDots: new Set(byteDots),
});
const targets: Readonly<Record<string, Target>> = {
  'unsigned by signed, 16 lanes': withDots(['i8·u8'], { vectorLanes: 16, vectorRegisters: 32 }),
  'of one signedness, 4 lanes': withDots(['i8·i8', 'u8·u8'], { vectorLanes: 4 }),
  'all mixes, GPU': withDots(['i8·i8', 'u8·u8', 'i8·u8'], testTargets.simt),
  'of one signedness, GPU with 32-bit types': withDots(['i8·i8', 'u8·u8'], { ...minimumTarget, style: 'simt' }),
  'of one signedness, software GPU': withDots(['i8·i8', 'u8·u8'], testTargets.software),
};

const productCase = (m: number, n: number, k: number, zeros: readonly [number, number]): ContractionCase => ({
  name: `${m}×${n}×${k} less ${zeros}`,
  build: (b, x) => c.matmul(b, centred(b, x('u8', [m, k]), zeros[0]), centred(b, x('i8', [k, n]), zeros[1])),
});

interface ConvShape {
  readonly x: readonly number[];
  readonly w: readonly number[];
  readonly strides?: readonly number[];
  readonly pads?: readonly number[];
  readonly dilations?: readonly number[];
  readonly groups?: number;
}

const convCase = (name: string, { x, w, strides, pads, dilations, groups }: ConvShape): ContractionCase => ({
  name,
  build: (b: GraphBuilder, input: Make, weights: Make) => {
    const dims = x.length - 2;
    const every = (value: number) => new Array<number>(dims).fill(value);
    const attrs = {
      strides: strides ?? every(1),
      padLow: pads ?? every(0),
      padHigh: pads ?? every(0),
      dilations: dilations ?? every(1),
      inputDilation: every(1),
      groups: groups ?? 1,
      dtype: 'f32',
    } as const;
    return b.op('conv', [centred(b, input('u8', x), 114), weights('f32', w)], attrs)[0];
  },
});

/** What follows a convolution in a quantised model; scales whose quotients fall on ties too. */
const quantised = (dtype: 'u8' | 'i8', scales: readonly [number, number], zero: number): ContractionCase => ({
  name: `quantised to ${dtype} by ${scales[1]}`,
  build: (b, x, w) => {
    const number = (value: number) => b.constant(tensorOfNumbers('f32', [], [value]));
    const attrs = { strides: [1, 1], padLow: [1, 1], padHigh: [1, 1], dilations: [1, 1], inputDilation: [1, 1] };
    const all = { ...attrs, groups: 1, dtype: 'f32' } as const;
    const [sum] = b.op('conv', [centred(b, x('u8', [1, 3, 7, 21]), 9), w('f32', [6, 3, 3, 3])], all);
    const bias = b.constant(tensorOfNumbers('f32', [1, 6, 1, 1], [0.5, -1.25, 3, 0, 100, -90]));
    const real = c.add(b, c.mul(b, sum, number(scales[0])), bias);
    const steps = c.unary(b, 'round', c.div(b, c.relu(b, real), number(scales[1])));
    const [low, high] = dtype === 'u8' ? [0, 255] : [-128, 127];
    return c.cast(b, c.clamp(b, c.add(b, steps, number(zero)), low, high), dtype);
  },
});

const cases: readonly ContractionCase[] = [
  ...byteCases,
  productCase(5, 40, 30, [3, 0]),
  productCase(5, 40, 31, [0, -7]),
  productCase(19, 37, 33, [250, -128]),
  productCase(40, 3, 17, [9, 9]),
  productCase(1, 70, 129, [128, 5]),
  {
    name: 'weights that need a zero point of their own',
    build: (b, x) => {
      const weights = Array.from({ length: 24 * 20 }, (_, i) => ((i * 97) % 230) - 40);
      return c.matmul(b, centred(b, x('u8', [9, 24]), 20), b.constant(tensorOfNumbers('f32', [24, 20], weights)));
    },
  },
  convCase('1×1', { x: [2, 7, 5, 9], w: [11, 7, 1, 1] }),
  convCase('3×3', { x: [1, 8, 9, 20], w: [5, 8, 3, 3], pads: [1, 1] }),
  convCase('3×3 of three channels, stride 2', { x: [1, 3, 13, 37], w: [6, 3, 3, 3], pads: [1, 1], strides: [2, 2] }),
  convCase('depthwise', { x: [2, 6, 11, 19], w: [6, 1, 3, 3], pads: [1, 1], groups: 6 }),
  convCase('depthwise 5×5, stride 2', {
    x: [1, 5, 12, 21],
    w: [5, 1, 5, 5],
    pads: [2, 2],
    strides: [2, 2],
    groups: 5,
  }),
  convCase('groups of six channels', { x: [1, 12, 6, 6], w: [8, 6, 3, 3], pads: [1, 1], groups: 2 }),
  convCase('dilated', { x: [1, 4, 12, 12], w: [3, 4, 3, 3], pads: [2, 2], dilations: [2, 2] }),
  convCase('one dimension, stride 3', { x: [2, 5, 50], w: [7, 5, 4], pads: [2], strides: [3] }),
  {
    name: 'rows of words on both sides',
    build: (b, x) =>
      c.matmul(
        b,
        centred(b, x('u8', [2, 20, 32]), 7),
        c.transpose(b, centred(b, x('u8', [2, 24, 32]), 200), [0, 2, 1]),
      ),
  },
  {
    name: 'rows of words of odd length in vectors',
    build: (b, x) =>
      c.matmul(b, c.cast(b, x('u8', [9, 36]), 'i32'), c.transpose(b, c.cast(b, x('i8', [17, 36]), 'i32'), [1, 0])),
  },
  {
    name: '1×1 in groups by weights that are computed',
    build: (b, x) => {
      const attrs = { strides: [1, 1], padLow: [0, 0], padHigh: [0, 0], dilations: [1, 1], inputDilation: [1, 1] };
      const sides = [centred(b, x('u8', [3, 16, 5, 6]), 33), centred(b, x('i8', [10, 8, 1, 1]), -4)];
      return b.op('conv', sides, { ...attrs, groups: 2, dtype: 'f32' })[0];
    },
  },
  quantised('u8', [0.37, 1.9], 3),
  quantised('i8', [0.25, 3], -128),
  quantised('u8', [0.5, 4], 17),
  convCase('rows alone', { x: [1, 2, 9, 9], w: [2, 2, 7, 1], pads: [3, 0] }),
];

/** What GPUs do otherwise: nothing to make words of, or too little of it. */
const wordless = new Set([
  '1×1×1 of i8',
  'depthwise',
  'depthwise 5×5, stride 2',
  '40×3×17 less 9,9',
  '1×70×129 less 128,5',
]);

for (const [kind, target] of Object.entries(targets)) {
  describe(kind, () => {
    for (const example of cases) {
      test(example.name, async () => {
        const made = built(example);
        const want = [...elementsOf(runReference(made.graph, made.inputs).get('y') as never)].map(Number);
        const names = new Set<string>();
        for (const nth of [0, 1, 2, 3]) {
          const got = await runForm(
            made,
            target,
            (forms) => {
              const form = forms.filter(({ name }) => name.startsWith('bytes'))[nth];
              if (form) names.add(form.name);
              return form;
            },
            interpreted,
          );
          if (got) expect([...elementsOf(got)].map(Number)).toEqual(want);
        }
        expect(names.size > 0).toBe(target.style === 'cpu' || !wordless.has(example.name));
      });
    }
  });
}

describe('bytes whose wide form is read beside the product', () => {
  const example: ContractionCase = {
    name: 'added to what was multiplied',
    build: (b, x, w) => {
      const values = centred(b, x('u8', [20, 32]), 9);
      return c.add(b, c.matmul(b, values, w('f32', [32, 32])), values);
    },
  };
  const all = { ...targets, 'CUDA, with matrix units': cudaBackend.target('sm_80') as Target };
  test.for(Object.entries(all))('%s', async ([, target]) => {
    const made = built(example);
    const want = [...elementsOf(runReference(made.graph, made.inputs).get('y') as never)].map(Number);
    const got = await runForm(made, target, ([best]) => best, interpreted);
    expect(got && [...elementsOf(got)].map(Number)).toEqual(want);
  });
});

describe('random products of bytes', () => {
  const some = Object.entries(targets).filter(([, { style }]) => style !== 'cpu');
  for (const seed of Array.from({ length: 36 }, (_, i) => i)) {
    const example = randomByteCase(seed);
    test(example.name, async () => {
      const [, target] = some[seed % some.length];
      const made = built(example);
      const want = [...elementsOf(runReference(made.graph, made.inputs).get('y') as never)].map(Number);
      let form = '';
      const choose: Parameters<typeof runForm>[2] = (forms) => {
        const own = forms.filter(({ name }) => name.startsWith('bytes'));
        const chosen = own[seed % Math.max(1, own.length)] ?? forms[0];
        form = chosen.name;
        return chosen;
      };
      const got = await runForm(made, target, choose, interpreted);
      expect(got && [...elementsOf(got)].map(Number), form).toEqual(want);
    });
  }
});
