/**
 * Where floats of 16 bits are rounded: within a kernel once at the end, by `strict` after every op, always where a result
 * jumps, where a cast says so, and in memory. Against the reference evaluator, bit for bit, on a target of each style.
 */
import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { type DType, isHalf } from '../../compiler/dtype.js';
import { GraphBuilder } from '../../compiler/graph/builder.js';
import * as c from '../../compiler/graph/compose/index.js';
import { elementsOf } from '../../compiler/graph/ops/reference/data.js';
import { cast } from '../../compiler/graph/ops/reference/elementwise.js';
import type { Graph, Value } from '../../compiler/graph/types.js';
import { legalize } from '../../compiler/kernel/legalize.js';
import { expandMath } from '../../compiler/kernel/math.js';
import type { Target } from '../../compiler/kernel/target.js';
import { under } from '../../compiler/schedule/numerics.js';
import { type HostTensor, sizeOf } from '../../compiler/tensor.js';
import { type Chooser, chooserOf } from '../support/graph_cases.js';
import { runGroups, runReference } from '../support/run_groups.js';
import { minimumTarget, testTargets } from '../support/targets.js';

type Half = 'f16' | 'bf16';
type Inputs = Readonly<Record<string, HostTensor>>;

const halves: readonly Half[] = ['f16', 'bf16'];
const targets: readonly (readonly [string, Target])[] = [...Object.entries(testTargets), ['minimum', minimumTarget]];
const shape = [5, 12] as const;

/** Values of the type between -2 and 2, with all their bits. */
function values(seed: number, dtype: Half, of: readonly number[] = shape): HostTensor {
  let state = seed * 2654435761 + 1;
  const data = Float32Array.from({ length: sizeOf(of) }, () => {
    state = (Math.imul(state, 1664525) + 1013904223) | 0;
    return state / 2 ** 30;
  });
  return cast({ dtype: 'f32', shape: of, data }, dtype, { saturate: true });
}
const inputsOf = (names: readonly string[], dtype: Half, seed: number, of: readonly number[] = shape): Inputs =>
  Object.fromEntries(names.map((name, i) => [name, values(seed * 31 + i, dtype, of)]));

const run = (graph: Graph, target: Target, inputs: Inputs) =>
  runGroups(graph, target, inputs, (kernel) => legalize(expandMath(kernel), target));
/** Elements as numbers, floats of 16 bits not by their codes. */
function listed(tensor: HostTensor | undefined): readonly unknown[] {
  if (tensor === undefined) throw new Error('no such output');
  return [...elementsOf(isHalf(tensor.dtype) ? cast(tensor, 'f32', { saturate: true }) : tensor)];
}

/** The graph that `body` makes of two inputs. */
function graphOf(dtype: DType, body: (b: GraphBuilder, x: Value, y: Value) => Readonly<Record<string, Value>>): Graph {
  const b = new GraphBuilder('halves');
  const [x, y] = ['x', 'y'].map((name) => b.input(name, dtype, shape));
  for (const [name, value] of Object.entries(body(b, x, y))) b.output(name, value);
  return b.finish();
}

/** Elementwise ops and views, each of some earlier values; the last value depends on all. */
function chain(choose: Chooser, b: GraphBuilder, given: readonly Value[]): Value {
  const made = [...given];
  const pick = <T>(list: readonly T[]): T => list[choose.int(0, list.length - 1)];
  const arithmetic = ['add', 'sub', 'mul', 'max', 'min'] as const;
  for (let count = choose.int(1, 6); count > 0; count--) {
    const [x, y] = [pick(made), pick(made)];
    switch (choose.int(0, 5)) {
      case 0:
        made.push(c.unary(b, pick(['neg', 'abs'] as const), x));
        break;
      case 1:
        made.push(c.clamp(b, x, -1.5, 1.25));
        break;
      case 2:
        made.push(c.select3(b, c.binary(b, 'lt', given[0], given[1]), x, y));
        break;
      case 3:
        // There and back: views on the way keep what has not been rounded yet.
        made.push(c.transpose(b, c.reshape(b, c.transpose(b, x, [1, 0]), [12, 5]), [1, 0]));
        break;
      default:
        made.push(c.binary(b, pick(arithmetic), x, y));
    }
  }
  return made.slice(given.length).reduce((sum, value) => c.add(b, sum, value));
}

describe.each(targets)('%s', (_, target) => {
  test.each(halves)('a chain of %s in one kernel rounds once', (dtype) => {
    fc.assert(
      fc.property(fc.gen(), fc.nat(1000), (g, seed) => {
        const narrow = new GraphBuilder('narrow');
        const b = new GraphBuilder('wide');
        const given = ['x', 'y'].map((name) => b.input(name, dtype, shape));
        // The same choices twice: as the model has it, and in f32 with one cast at the end.
        const recorded: number[] = [];
        const choose = chooserOf(g);
        const record: Chooser = { ...choose, int: (low, high) => recorded[recorded.push(choose.int(low, high)) - 1] };
        const result = chain(
          record,
          narrow,
          ['x', 'y'].map((name) => narrow.input(name, dtype, shape)),
        );
        narrow.output('z', result);
        const replay: Chooser = { ...choose, int: () => recorded.shift() as number };
        b.output(
          'z',
          c.cast(
            b,
            chain(
              replay,
              b,
              given.map((value) => c.cast(b, value, 'f32')),
            ),
            dtype,
          ),
        );
        const inputs = inputsOf(['x', 'y'], dtype, seed);
        const { outputs, kernels } = run(narrow.finish(), target, inputs);
        expect(kernels).toHaveLength(1);
        expect(listed(outputs.get('z'))).toEqual(listed(runReference(b.finish(), inputs).get('z')));
      }),
      { numRuns: 40 },
    );
  });

  test.each(halves)('strict rounds %s after every op', (dtype) => {
    const strict = under('strict', target);
    fc.assert(
      fc.property(fc.gen(), fc.nat(1000), (g, seed) => {
        const b = new GraphBuilder('strict');
        const given = ['x', 'y'].map((name) => b.input(name, dtype, shape));
        b.output('z', chain(chooserOf(g), b, given));
        const graph = b.finish();
        const inputs = inputsOf(['x', 'y'], dtype, seed);
        const z = run(graph, strict, inputs).outputs.get('z');
        expect(listed(z)).toEqual(listed(runReference(graph, inputs).get('z')));
      }),
      { numRuns: 40 },
    );
  });

  test.each(halves)('what jumps sees rounded %s', (dtype) => {
    const graph = graphOf(dtype, (b, x, y) => {
      // Products near whole numbers: a rounding decides on which side they are.
      const near = c.mul(b, c.binaryC(b, 'mul', x, 3), c.binaryC(b, 'div', y, 3));
      return {
        floor: c.unary(b, 'floor', near),
        rounded: c.unary(b, 'round', near),
        sign: c.unary(b, 'sign', c.sub(b, near, near)),
        less: c.binary(b, 'lt', near, c.mul(b, x, y)),
        whole: c.cast(b, near, 'i32'),
        bits: c.bitcast(b, c.add(b, x, y), 'u16'),
      };
    });
    // By strict rules, which are the reference's, and one by one, because outputs share kernels otherwise.
    for (const { name, value } of graph.outputs) {
      const alone = { ...graph, outputs: [{ name, value }] };
      for (const seed of [1, 2, 3]) {
        const inputs = inputsOf(['x', 'y'], dtype, seed);
        // The op sees what `near` would be in memory.
        const strict = listed(run(alone, under('strict', target), inputs).outputs.get(name));
        expect(strict).toEqual(listed(runReference(alone, inputs).get(name)));
      }
    }
    const sums = graphOf(dtype, (b, x, y) => ({ floor: c.unary(b, 'floor', c.binaryC(b, 'add', c.mul(b, x, y), 2)) }));
    const stored = graphOf(dtype, (b, x, y) => ({ sum: c.binaryC(b, 'add', c.mul(b, x, y), 2) }));
    for (const seed of [1, 2, 3, 4]) {
      const inputs = inputsOf(['x', 'y'], dtype, seed);
      const sum = listed(run(stored, target, inputs).outputs.get('sum')) as number[];
      expect(listed(run(sums, target, inputs).outputs.get('floor'))).toEqual(sum.map(Math.floor));
    }
  });

  test.each(halves)('casts to %s round, casts from it do not', (dtype) => {
    const inputs = inputsOf(['x', 'y'], dtype, 5);
    const kept = graphOf(dtype, (b, x, y) => ({ z: c.cast(b, c.mul(b, x, y), 'f32') }));
    const exact = graphOf(dtype, (b, x, y) => ({ z: c.mul(b, c.cast(b, x, 'f32'), c.cast(b, y, 'f32')) }));
    const z = listed(run(kept, target, inputs).outputs.get('z'));
    expect(z).toEqual(listed(runReference(exact, inputs).get('z')));
    const cut = graphOf(dtype, (b, x, y) => {
      const product = c.mul(b, c.cast(b, x, 'f32'), c.cast(b, y, 'f32'));
      return { z: c.cast(b, c.cast(b, product, dtype), 'f32') };
    });
    expect(listed(run(cut, target, inputs).outputs.get('z'))).toEqual(listed(runReference(cut, inputs).get('z')));
    expect(listed(runReference(cut, inputs).get('z'))).not.toEqual(z);
  });

  test.each(halves)('who reads a value of %s sees one number', (dtype) => {
    fc.assert(
      fc.property(fc.nat(1000), fc.integer({ min: 0, max: 1 }), fc.boolean(), (seed, axis, isResult) => {
        const graph = graphOf(dtype, (b, x, y) => {
          const sum = c.binaryC(b, 'mul', c.add(b, x, y), 0.3);
          const largest = c.reduce(b, 'max', sum, [axis], true);
          const below = c.sub(b, sum, c.broadcastTo(b, largest, shape));
          const hit = c.binary(b, 'eq', sum, c.broadcastTo(b, largest, shape));
          return { below, hit, ...(isResult && { sum }) };
        });
        const { outputs } = run(graph, target, inputsOf(['x', 'y'], dtype, seed));
        const below = listed(outputs.get('below')) as number[];
        const hit = listed(outputs.get('hit')) as (number | boolean)[];
        // Nothing is above its own maximum, and each row finds it.
        expect(below.every((x) => x <= 0)).toBe(true);
        const rows = axis === 1 ? shape[0] : shape[1];
        expect(hit.filter((x) => Number(x) === 1).length).toBeGreaterThanOrEqual(rows);
        for (let row = 0; row < rows; row++) {
          const places = below.flatMap((x, i) => ((axis === 1 ? Math.floor(i / 12) : i % 12) === row ? [x] : []));
          expect(places.some((x) => x === 0)).toBe(true);
        }
      }),
      { numRuns: 20 },
    );
  });

  test.each(halves)('sums of %s reach what ends the kernel unrounded', (dtype) => {
    const length = 12;
    const inputs = inputsOf(['x', 'y'], dtype, 9);
    const products: Readonly<Record<string, Graph>> = {
      reduce: graphOf(dtype, (b, x) => ({ z: c.binaryC(b, 'sub', c.reduce(b, 'sum', x, [1]), 1) })),
      dot: graphOf(dtype, (b, x, y) => {
        const product = c.matmul(b, x, c.transpose(b, y, [1, 0]), dtype);
        return { z: c.sub(b, product, c.full(b, 1, dtype, [shape[0], shape[0]])) };
      }),
    };
    const [x, y] = [inputs.x, inputs.y].map((tensor) => listed(tensor) as number[]);
    const total = (row: number, other?: number): number =>
      Array.from({ length }, (_, k) => x[row * length + k] * (other === undefined ? 1 : y[other * length + k])).reduce(
        (sum, term) => sum + term,
        0,
      );
    const rows = [...Array(shape[0]).keys()];
    const exact = {
      reduce: rows.map((row) => total(row) - 1),
      dot: rows.flatMap((row) => rows.map((other) => total(row, other) - 1)),
    };
    for (const [name, graph] of Object.entries(products)) {
      const z = listed(run(graph, target, inputs).outputs.get('z')) as number[];
      const one = dtype === 'f16' ? 2 ** -11 : 2 ** -8;
      exact[name as keyof typeof exact].forEach((value, i) => {
        // Half a unit in the last place of the result, not of the larger sum before it.
        expect(Math.abs(z[i] - value)).toBeLessThanOrEqual(one * Math.abs(value) * 1.001 + 1e-5);
      });
    }
  });
});
