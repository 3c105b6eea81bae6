// Derivatives of every op that has one against central differences of its reference evaluation, in f64.
import fc from 'fast-check';
import { describe, expect, it, test } from 'vitest';
import { isFloat } from '../../compiler/dtype.js';
import { GraphBuilder } from '../../compiler/graph/builder.js';
import { binary, gelu, matmul, mul, reduce, sigmoid, softmax } from '../../compiler/graph/compose/index.js';
import { differentiate } from '../../compiler/graph/differentiate.js';
import { evaluateGraph } from '../../compiler/graph/evaluate.js';
import { definitionOf } from '../../compiler/graph/ops/index.js';
import type { Graph, OpKind, Value } from '../../compiler/graph/types.js';
import { type HostTensor, sizeOf } from '../../compiler/tensor.js';
import { type Chooser, caseKinds, chooserOf, type NodeCase, randomCase } from '../support/graph_cases.js';

/** Where functions of restricted domain are tried, away from their ends; everything else in (-2, 2). */
const domains: Partial<Record<OpKind, readonly [low: number, high: number]>> = {
  log: [0.3, 2],
  log2: [0.3, 2],
  sqrt: [0.3, 2],
  rsqrt: [0.3, 2],
  recip: [0.3, 2],
  div: [0.3, 2],
  rem: [0.3, 2],
  pow: [0.3, 2],
  asin: [-0.9, 0.9],
  acos: [-0.9, 0.9],
  atanh: [-0.9, 0.9],
  acosh: [1.2, 3],
  tan: [-1, 1],
  atan2: [0.3, 2],
};

/** Values without ties and off the corners of functions: of a generator of its own, whose numbers do not repeat. */
function generic(c: Chooser, shape: readonly number[], [low, high]: readonly [number, number] = [-2, 2]): HostTensor {
  let state = c.int(1, 2 ** 31 - 2);
  const next = (): number => {
    state = (state * 48271) % (2 ** 31 - 1);
    return state / (2 ** 31 - 1);
  };
  const data = Float64Array.from({ length: sizeOf(shape) }, () => low + (high - low) * next());
  return { dtype: 'f64', shape, data };
}

/** Σ weight · result over all float results, and its derivatives by all float inputs. */
function lossOf(
  inputs: readonly HostTensor[],
  weights: (shape: readonly number[]) => HostTensor,
  body: (b: GraphBuilder, inputs: readonly Value[]) => readonly Value[],
): { graph: Graph; given: Map<string, HostTensor>; by: number[] } {
  const b = new GraphBuilder('loss');
  const values = inputs.map(({ dtype, shape }, i) => b.input(`x${i}`, dtype, shape));
  const results = body(b, values).filter(({ type }) => isFloat(type.dtype));
  const terms = results.map((result) => {
    const product = mul(b, result, b.constant(weights(result.type.shape.map(Number))));
    return reduce(
      b,
      'sum',
      product,
      product.type.shape.map((_, i) => i),
    );
  });
  const loss = terms.reduce((p, q) => binary(b, 'add', p, q));
  const by = inputs.flatMap(({ dtype }, i) => (isFloat(dtype) ? [i] : []));
  const one = b.constant({ dtype: 'f64', shape: [], data: Float64Array.of(1) });
  const slopes = differentiate(
    b,
    [{ value: loss, cotangent: one }],
    by.map((i) => values[i]),
  );
  b.output('loss', loss);
  slopes.forEach((slope, k) => {
    if (slope !== null) b.output(`d${by[k]}`, slope);
  });
  return { graph: b.finish(), given: new Map(inputs.map((tensor, i) => [`x${i}`, tensor])), by };
}

function checkSlopes({ graph, given, by }: ReturnType<typeof lossOf>): void {
  const results = evaluateGraph(graph, given);
  const lossAt = (name: string, data: Float64Array): number => {
    const tensor = given.get(name) as HostTensor;
    return Number(evaluateGraph(graph, new Map(given).set(name, { ...tensor, data })).get('loss')?.data[0]);
  };
  const step = 1e-6;
  for (const i of by) {
    const { data, shape } = given.get(`x${i}`) as HostTensor & { data: Float64Array };
    const slope = results.get(`d${i}`);
    if (slope !== undefined) expect(slope.shape).toEqual(shape);
    for (let k = 0; k < Math.min(data.length, 12); k++) {
      const moved = (by: number): Float64Array => Float64Array.from(data, (x, j) => (j === k ? x + by : x));
      const [before, here, after] = [-step, 0, step].map((by) => lossAt(`x${i}`, moved(by)));
      // Where a step crosses a kink or a jump (`rem`, `floor`), the slope is that of the side the point is on.
      const sides = [(after - before) / 2, here - before, after - here].map((rise) => rise / step);
      const actual = Number(slope?.data[k] ?? 0);
      const misses = sides.map((expected) => Math.abs(actual - expected) / (1 + Math.abs(expected)));
      expect(Math.min(...misses), `d${i}[${k}]: ${actual}, expected one of ${sides.join(', ')}`).toBeLessThan(1e-5);
    }
  }
}

/** Their results are no floats. */
const withoutSlope = new Set<OpKind>(['iota', 'is_nan', 'is_inf', 'eq', 'ne', 'lt', 'le', 'gt', 'ge', 'arg_reduce']);

/** Ops with a derivative rule of their own, in forms that have one. */
function isDifferentiable({ kind, attrs, inputs }: NodeCase): boolean {
  if (!inputs.some(({ dtype }) => isFloat(dtype))) return false;
  const fn = 'fn' in attrs ? attrs.fn : undefined;
  if (kind === 'cumulative') return fn === 'sum';
  if (kind === 'scatter_elements' || kind === 'scatter_nd') return fn === 'add';
  if ((kind === 'cast' || kind === 'bitcast' || kind === 'dot') && 'dtype' in attrs) return attrs.dtype === 'f64';
  // Gathers clamp places that are out of range, and their transposes drop them.
  return true;
}

/** Makes indices of gathers lie within the axes, where the two ways to treat others do not matter. */
function within({ kind, attrs, inputs }: NodeCase): readonly HostTensor[] {
  if (!kind.startsWith('gather')) return inputs;
  const [x, places] = inputs;
  const length = places.shape.at(-1) ?? 1;
  const limit = (flat: number): number =>
    kind === 'gather_nd'
      ? x.shape[(attrs as { batchDims: number }).batchDims + (flat % length)]
      : x.shape[(attrs as { axis: number }).axis];
  const data = places.data as BigInt64Array | Int32Array;
  const moved = Array.from(data as ArrayLike<number | bigint>, (v, i) => Math.abs(Number(v)) % Math.max(1, limit(i)));
  const array = data instanceof BigInt64Array ? BigInt64Array.from(moved, BigInt) : Int32Array.from(moved);
  return [x, { ...places, data: array }];
}

describe('derivatives', () => {
  for (const kind of caseKinds) {
    if (definitionOf(kind).gradient === undefined || withoutSlope.has(kind)) continue;
    test(kind, () => {
      fc.assert(
        fc.property(fc.gen(), (g) => {
          const c = chooserOf(g);
          const node = randomCase(c, kind);
          if (!isDifferentiable(node) || node.inputs.some(({ shape }) => sizeOf(shape) === 0)) return;
          const inputs = within(node).map((tensor) =>
            isFloat(tensor.dtype) ? generic(c, tensor.shape, domains[kind]) : tensor,
          );
          // Operands of ops on one type are all floats.
          if (new Set(node.inputs.map(({ dtype }) => isFloat(dtype))).size > 1 && kind === 'dot') return;
          checkSlopes(
            lossOf(
              inputs,
              (shape) => generic(c, shape),
              (b, values) => b.op(kind, values, node.attrs),
            ),
          );
        }),
        { numRuns: 25, endOnFailure: true },
      );
    });
  }

  it('add up over all ways, through composites and their decompositions', () => {
    let state = 1;
    const c: Chooser = { int: (min, max) => min + ((state = (state * 48271) % 2147483647) % (max - min + 1)) };
    checkSlopes(
      lossOf(
        [generic(c, [3, 4]), generic(c, [4, 5])],
        (shape) => generic(c, shape),
        (b, [x, w]) => {
          const y = matmul(b, x, w);
          const [norm] = b.op('normalize', [y], { axes: [1], epsilon: 1e-3, center: true, statistics: false });
          return [mul(b, softmax(b, y, [1], true), gelu(b, norm)), sigmoid(b, x)];
        },
      ),
    );
  });

  it('do not exist where nothing depends on the input', () => {
    const b = new GraphBuilder('g');
    const [x, y] = [b.input('x', 'f64', []), b.input('y', 'f64', [])];
    const [z] = b.op('mul', [x, x], {});
    expect(differentiate(b, [{ value: z, cotangent: z }], [y])).toEqual([null]);
  });

  it('are refused for ops without a rule', () => {
    const b = new GraphBuilder('g');
    const x = b.input('x', 'f64', [4]);
    const [z] = b.op('cumulative', [x], { fn: 'max', axis: 0, exclusive: false, reverse: false });
    expect(() => differentiate(b, [{ value: z, cotangent: x }], [x])).toThrow(/running max has no derivative/);
  });
});
