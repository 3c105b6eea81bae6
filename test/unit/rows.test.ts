/**
 * Row ops on CPUs against the reference evaluator: rows along, across and in several runs, ragged ends, several tasks,
 * epilogues that move, NaN and ties.
 */
import { describe, expect, test } from 'vitest';
import { GraphBuilder } from '../../compiler/graph/builder.js';
import * as c from '../../compiler/graph/compose/index.js';
import { elementsOf } from '../../compiler/graph/ops/reference/data.js';
import type { ReduceFn, Value } from '../../compiler/graph/types.js';
import { type HostTensor, sizeOf } from '../../compiler/tensor.js';
import { runGroups, runReference } from '../support/run_groups.js';
import { minimumTarget, testTargets } from '../support/targets.js';

const target = { ...testTargets.cpu, vectorLanes: 16 as const };

/** Shape and axes: a row's elements side by side, strided, in several runs, fewer than a vector, more than a task. */
const spaces: readonly (readonly [shape: readonly number[], axes: readonly number[]])[] = [
  [[3, 70], [1]],
  [[5, 16], [1]],
  [[4, 13], [1]],
  [[2, 5], [1]],
  [[37, 3], [1]],
  [[1, 203], [1]],
  [[7, 40], [0]],
  [[9, 19], [0]],
  [[33, 3], [0]],
  [[2, 6, 5, 7], [1]],
  [
    [3, 4, 5, 7],
    [2, 3],
  ],
  [
    [3, 4, 2, 21],
    [0, 3],
  ],
  [
    [2, 5, 3, 18],
    [0, 2, 3],
  ],
  [
    [4, 5, 6],
    [0, 2],
  ],
  [[40, 300], [1]],
  [[60, 200], [0]],
  [[300, 77], [1]],
  // Nine vectors for eight tasks: the last tasks have none.
  [[500, 9 * 16 + 5], [0]],
];

/** Steps of a sixteenth: sums are exact, products small, ties many. */
function values(shape: readonly number[], seed: number, special = false): HostTensor {
  const data = new Float32Array(sizeOf(shape));
  let state = seed;
  for (let i = 0; i < data.length; i++) {
    state = (Math.imul(state, 1664525) + 1013904223) | 0;
    data[i] = (state >> 27) / 16;
  }
  if (special) for (let i = 11; i < data.length; i += 97) data[i] = [Number.NaN, -0, Number.POSITIVE_INFINITY][i % 3];
  return { dtype: 'f32', shape, data };
}

function check(build: (b: GraphBuilder, x: Value) => Value | readonly Value[], input: HostTensor): void {
  const b = new GraphBuilder('rows');
  const built = build(b, b.input('x', input.dtype, input.shape));
  [built].flat().forEach((value, i) => {
    b.output(`y${i}`, value as Value);
  });
  const graph = b.finish();
  const expected = runReference(graph, { x: input });
  const { outputs } = runGroups(graph, target, { x: input });
  for (const [name, tensor] of expected) {
    const [got, want] = [elementsOf(outputs.get(name) as HostTensor), elementsOf(tensor)];
    expect(got.length).toBe(want.length);
    for (let i = 0; i < want.length; i++) {
      const [found, wanted] = [Number(got[i]), Number(want[i])];
      if (Object.is(found, wanted) || found === wanted) continue;
      expect(Math.abs(found - wanted), `${name}[${i}]: ${found}, not ${wanted}`).toBeLessThan(
        2e-5 * (1 + Math.abs(wanted)),
      );
    }
  }
}

describe.each(spaces)('%j over %j', (shape, axes) => {
  const input = values(shape, 1);
  test.each<ReduceFn>(['sum', 'max', 'min'])('%s', (fn) => {
    check((b, x) => c.reduce(b, fn, x, axes, true), input);
    check((b, x) => c.reduce(b, fn, x, axes, false), values(shape, 2, fn !== 'sum'));
  });
  test('product of small numbers', () => {
    check((b, x) => c.reduce(b, 'prod', c.unary(b, 'exp', c.mul(b, x, c.scalar(b, 1 / 64, 'f32'))), axes), input);
  });
  test('softmax and its logarithm', () => {
    check((b, x) => c.softmax(b, x, axes), input);
    check((b, x) => c.mul(b, c.softmax(b, x, axes, true), x), input);
  });
  test('normalisation with its statistics', () => {
    check((b, x) => b.op('normalize', [x], { axes, epsilon: 1e-3, center: true, statistics: true }), input);
  });
  test('what rows are made of is a result too', () => {
    check((b, x) => {
      const sum = c.add(b, x, c.reverse(b, x, 0));
      return [c.softmax(b, c.mul(b, sum, sum), axes), sum];
    }, input);
  });
  test('a result that is turned and multiplied', () => {
    const turned = shape.map((_, d) => shape.length - 1 - d);
    check((b, x) => c.transpose(b, c.mul(b, c.softmax(b, x, axes), x), turned), input);
  });
});

describe.each(spaces.filter(([, axes]) => axes.length === 1))('%j along %j', (shape, [axis]) => {
  const forms = [true, false].flatMap((exclusive) => [true, false].map((reverse) => ({ exclusive, reverse })));
  test.each(forms)('running sums, exclusive $exclusive, reverse $reverse', (form) => {
    check((b, x) => b.op('cumulative', [x], { fn: 'sum', axis, ...form })[0], values(shape, 3));
  });
  test.each(['max', 'min'] as const)('place of the %s', (fn) => {
    for (const last of [true, false]) {
      const attrs = { fn, axis, keep: last, last };
      check((b, x) => b.op('arg_reduce', [x], attrs)[0], values(shape, 4));
      check((b, x) => b.op('arg_reduce', [x], attrs)[0], values(shape, 5, true));
    }
  });
});

test('rows of a broadcast operand are staged whole', () => {
  check((b, x) => c.softmax(b, b.op('broadcast', [x], { shape: [6, 40] })[0], [1]), values([6, 1], 7));
});

describe.each([...Object.entries(testTargets), ['minimum', minimumTarget] as const])('%s', (_, target) => {
  const made: Readonly<Record<string, (b: GraphBuilder, sum: Value) => Value>> = {
    normalise: (b, sum) =>
      c.mul(
        b,
        b.op('normalize', [sum], { axes: [1], epsilon: 1e-3, center: true, statistics: false })[0],
        c.full(b, 3, 'f32', [12, 12]),
      ),
    // Of the same shape by chance: each result goes to its own place.
    turned: (b, sum) => c.transpose(b, c.softmax(b, sum, [1]), [1, 0]),
    running: (b, sum) => b.op('cumulative', [sum], { fn: 'sum', axis: 1, exclusive: false, reverse: true })[0],
  };
  test.each(Object.keys(made))('a sum and what is made of its rows are one kernel: %s', (name) => {
    const b = new GraphBuilder('sum');
    const sum = c.add(b, b.input('x', 'f32', [12, 12]), b.input('y', 'f32', [12, 12]));
    b.output('z', made[name](b, sum));
    b.output('sum', sum);
    const graph = b.finish();
    const inputs = { x: values([12, 12], 21), y: values([12, 12], 22) };
    const { outputs, kernels } = runGroups(graph, target, inputs);
    expect(kernels).toHaveLength(1);
    for (const [output, tensor] of runReference(graph, inputs)) {
      const got = elementsOf(outputs.get(output) as HostTensor);
      elementsOf(tensor).forEach((wanted, i) => {
        expect(Number(got[i]), `${output}[${i}]`).toBeCloseTo(Number(wanted), 4);
      });
    }
  });
});

test('rows that no cache holds are computed again', () => {
  const caches = [{ bytes: 64, shared: false }];
  const b = new GraphBuilder('long');
  b.output('y', c.softmax(b, b.input('x', 'f32', [2, 67]), [1]));
  const graph = b.finish();
  const x = values([2, 67], 8);
  const { outputs, kernels } = runGroups(graph, { ...target, caches }, { x });
  expect(kernels.every(({ arrays }) => arrays.length === 0)).toBe(true);
  const wanted = elementsOf(runReference(graph, { x }).get('y') as HostTensor);
  elementsOf(outputs.get('y') as HostTensor).forEach((y, i) => {
    expect(Number(y)).toBeCloseTo(Number(wanted[i]), 6);
  });
});
