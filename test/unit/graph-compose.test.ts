// The composing functions: what they compute (numpy's rules, textbook formulas) and that they leave out what changes nothing.
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import type { DType } from '../../compiler/dtype.js';
import { GraphBuilder } from '../../compiler/graph/builder.js';
import * as g from '../../compiler/graph/compose/index.js';
import { dimName, mulDims } from '../../compiler/graph/dims.js';
import { evaluateGraph } from '../../compiler/graph/evaluate.js';
import { bigsOf, numbersOf, tensorOfNumbers } from '../../compiler/graph/ops/reference/data.js';
import type { Value } from '../../compiler/graph/types.js';
import { verifyGraph } from '../../compiler/graph/verify.js';
import { erf } from '../../compiler/numeric.js';
import { type HostTensor, sizeOf } from '../../compiler/tensor.js';
import { errorOf } from '../support/errors.js';

/** Builds a graph over inputs and runs it. */
function run(inputs: readonly HostTensor[], build: (b: GraphBuilder, ...values: Value[]) => Value): HostTensor {
  const b = new GraphBuilder();
  b.output('y', build(b, ...inputs.map(({ dtype, shape }, i) => b.input(`x${i}`, dtype, shape))));
  const graph = b.finish();
  verifyGraph(graph);
  return evaluateGraph(graph, new Map(inputs.map((input, i) => [`x${i}`, input]))).get('y') as HostTensor;
}
const t = (dtype: DType, shape: readonly number[], ...values: number[]) => tensorOfNumbers(dtype, shape, values);
const f32 = (...values: number[]) => t('f32', [values.length], ...values);
const counting = (shape: readonly number[]) =>
  t('f32', shape, ...Array.from({ length: sizeOf(shape) }, (_, i) => i + 1));
const numbers = (tensor: HostTensor) => [...numbersOf(tensor)];

describe('broadcasting', () => {
  it('follows numpy', () => {
    const b = new GraphBuilder();
    expect(g.broadcastShapes(b, [3, 1], [2, 1, 4])).toEqual([2, 3, 4]);
    expect(g.broadcastShapes(b, [], [2])).toEqual([2]);
    expect(g.broadcastShapes(b, [0], [1])).toEqual([0]);
    expect(g.broadcastShapes(b, [dimName('n'), 1], [5]).map(String)).toEqual(['n', '5']);
    expect(g.broadcastShapes(b, [dimName('n')], [5])).toEqual([5]);
    expect(g.broadcastShapes(b, [dimName('n')], [1]).map(String)).toEqual(['n']);
    b.source = { node: 'Add_3' };
    const error = errorOf(() => g.broadcastShapes(b, [2], [3]));
    expect(error.code).toBe('E_SHAPE');
    expect(error.message).toMatch(/Add_3.*\[2\].*\[3\]/);
  });

  it('reaches binary ops and select', () => {
    expect(numbers(run([t('f32', [2, 1], 1, 2), f32(10, 20, 30)], g.add))).toEqual([11, 21, 31, 12, 22, 32]);
    const condition = t('bool', [2, 1], 1, 0);
    expect(numbers(run([condition, f32(1, 2), t('f32', [], 9)], g.select3))).toEqual([1, 2, 9, 9]);
    expect(numbers(run([f32(1, 2)], (b, x) => g.binaryC(b, 'mul', x, 3)))).toEqual([3, 6]);
  });
});

describe('what changes nothing', () => {
  it('adds no node', () => {
    const b = new GraphBuilder();
    const n = dimName('n');
    const x = b.input('x', 'f32', [2, n]);
    expect(g.broadcastTo(b, x, [2, n])).toBe(x);
    expect(g.reshape(b, x, [2, dimName('n')])).toBe(x);
    expect(g.cast(b, x, 'f32')).toBe(x);
    expect(g.bitcast(b, x, 'f32')).toBe(x);
    expect(g.transpose(b, x, [0, -1])).toBe(x);
    expect(g.slice1(b, x, 1, 0, n)).toBe(x);
    expect(g.pad(b, x, [0, 0], [0, 0])).toBe(x);
    expect(g.tile(b, x, [1, 1])).toBe(x);
    expect(g.concat(b, [x], 0)).toBe(x);
    expect(g.reduce(b, 'sum', x, [])).toBe(x);
    expect(g.clamp(b, x, null, null)).toBe(x);
    expect(b.finish().nodes).toEqual([]);
  });

  it('keeps the source', () => {
    const b = new GraphBuilder();
    b.source = { node: 'Gelu_1', op: 'Gelu' };
    g.gelu(b, b.input('x', 'f16', [2]));
    const { nodes } = b.finish();
    expect(nodes.length).toBeGreaterThan(3);
    expect(nodes.every(({ source }) => source.node === 'Gelu_1')).toBe(true);
  });
});

describe('movement', () => {
  const x = counting([2, 3]);
  const shapeAndValues = (tensor: HostTensor) => [tensor.shape, numbers(tensor)];

  it('takes negative axes', () => {
    expect(shapeAndValues(run([x], (b, v) => g.unsqueeze(b, v, [0, -1])))).toEqual([
      [1, 2, 3, 1],
      [1, 2, 3, 4, 5, 6],
    ]);
    expect(run([counting([1, 2, 1])], (b, v) => g.squeeze(b, v, [0, -1])).shape).toEqual([2]);
    expect(shapeAndValues(run([x], (b, v) => g.swapAxes(b, v, 0, -1)))).toEqual([
      [3, 2],
      [1, 4, 2, 5, 3, 6],
    ]);
    expect(numbers(run([x], (b, v) => g.reverse(b, v, -1)))).toEqual([3, 2, 1, 6, 5, 4]);
    expect(run([counting([2, 3, 4])], (b, v) => g.flatten(b, v, -1)).shape).toEqual([6, 4]);
    expect(run([counting([2, 3, 4])], (b, v) => g.flatten(b, v, 0)).shape).toEqual([1, 24]);
    expect(shapeAndValues(run([x], (b, v) => g.slice1(b, v, -1, 2, 2, -2)))).toEqual([
      [2, 2],
      [3, 1, 6, 4],
    ]);
    expect(shapeAndValues(run([x], (b, v) => g.stack(b, [v, v], -1)))).toEqual([
      [2, 3, 2],
      [1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 6, 6],
    ]);
    expect(shapeAndValues(run([x], (b, v) => g.tile(b, v, [2, 2])))).toEqual([
      [4, 6],
      [1, 2, 3, 1, 2, 3, 4, 5, 6, 4, 5, 6, 1, 2, 3, 1, 2, 3, 4, 5, 6, 4, 5, 6],
    ]);
    expect(shapeAndValues(run([x], (b, v) => g.concat(b, g.split(b, v, 1, [1, 2]).reverse(), 1)))).toEqual([
      [2, 3],
      [2, 3, 1, 5, 6, 4],
    ]);
    const b = new GraphBuilder();
    expect(errorOf(() => g.squeeze(b, b.input('x', 'f32', [1]), [1])).message).toMatch(/-1 to 0.*found 1/);
  });

  it('works on names', () => {
    const b = new GraphBuilder();
    const n = dimName('n');
    const v = b.input('x', 'f32', [n, 3]);
    expect(g.tile(b, v, [2, n]).type.shape.map(String)).toEqual(['2*n', '3*n']);
    expect(g.flatten(b, v, 1).type.shape.map(String)).toEqual(['n', '3']);
    expect(g.reverse(b, v, 0).type.shape.map(String)).toEqual(['n', '3']);
    expect(g.reshape(b, v, [mulDims(n, 3)]).type.shape.map(String)).toEqual(['3*n']);
    verifyGraph(b.finish());
  });
});

describe('arithmetic', () => {
  it('floorMod and floorDiv round down', () => {
    const [x, y] = [
      [7, -7, 7, -7, 6, -6],
      [3, 3, -3, -3, 3, -3],
    ];
    for (const dtype of ['i32', 'f32', 'i8'] as const) {
      const inputs = [t(dtype, [6], ...x), t(dtype, [6], ...y)];
      // As Python's % and // do.
      expect(numbers(run(inputs, g.floorMod)).map((v) => v + 0)).toEqual([1, 2, -2, -1, 0, 0]);
      expect(numbers(run(inputs, g.floorDiv))).toEqual([2, -3, -3, 2, 2, 2]);
    }
    expect(numbers(run([t('u8', [2], 200, 7), t('u8', [2], 150, 8)], g.floorMod))).toEqual([50, 7]);
  });

  it('means', () => {
    expect(numbers(run([counting([2, 3])], (b, x) => g.mean(b, x, [-1])))).toEqual([2, 5]);
    // The sum of these overflows f16.
    const large = t('f16', [4], 60000, 60000, 60000, 60000);
    expect(numbers(run([large], (b, x) => g.mean(b, x, [0], true)))).toEqual([60000]);
    const b = new GraphBuilder();
    b.output('y', g.mean(b, b.input('x', 'f32', [dimName('n'), 2]), [0]));
    expect(b.finish().outputs[0].value.type.shape).toEqual([2]);
  });

  it('constants hold exact values', () => {
    const b = new GraphBuilder();
    const value = (v: Value) => g.constantData(b, v) as HostTensor;
    expect([...bigsOf(value(g.scalar(b, 9007199254740993n, 'i64')))]).toEqual([9007199254740993n]);
    expect(numbers(value(g.scalar(b, 0.1, 'f16')))).toEqual([0.0999755859375]);
    expect(numbers(value(g.scalar(b, true, 'bool')))).toEqual([1]);
    expect(numbers(value(g.scalar(b, -1, 'u8')))).toEqual([255]);
    expect([...bigsOf(value(g.tensor(b, 'u64', [1, 2n])))]).toEqual([1n, 2n]);
    expect(numbers(value(g.tensor(b, 'i4', [-8, 7, 3])))).toEqual([-8, 7, 3]);
    expect(g.full(b, 2, 'f32', [dimName('n'), 3]).type.shape.map(String)).toEqual(['n', '3']);
  });
});

describe('activations', () => {
  const xs = [-100, -20, -5, -1.5, -1, -0.3, -1e-6, 0, 1e-6, 0.3, 1, 1.5, 5, 20, 100];
  const cases: Readonly<Record<string, readonly [(b: GraphBuilder, x: Value) => Value, (x: number) => number]>> = {
    relu: [g.relu, (x) => Math.max(x, 0)],
    relu6: [g.relu6, (x) => Math.min(Math.max(x, 0), 6)],
    sigmoid: [g.sigmoid, (x) => 1 / (1 + Math.exp(-x))],
    softplus: [g.softplus, (x) => Math.max(x, 0) + Math.log1p(Math.exp(-Math.abs(x)))],
    silu: [g.silu, (x) => x / (1 + Math.exp(-x))],
    gelu: [g.gelu, (x) => 0.5 * x * (1 + erf(x / Math.SQRT2))],
    geluTanh: [
      (b, x) => g.gelu(b, x, 'tanh'),
      (x) => 0.5 * x * (1 + Math.tanh(Math.sqrt(2 / Math.PI) * (x + 0.044715 * x ** 3))),
    ],
    hardSigmoid: [g.hardSigmoid, (x) => Math.min(1, Math.max(0, 0.2 * x + 0.5))],
    hardSwish: [g.hardSwish, (x) => x * Math.min(1, Math.max(0, x / 6 + 0.5))],
    leakyRelu: [(b, x) => g.leakyRelu(b, x, 0.1), (x) => (x < 0 ? 0.1 * x : x)],
    elu: [(b, x) => g.elu(b, x, 1.5), (x) => (x > 0 ? x : 1.5 * Math.expm1(x))],
    selu: [g.selu, (x) => 1.0507009873554805 * (x > 0 ? x : 1.6732632423543772 * Math.expm1(x))],
    celu: [(b, x) => g.celu(b, x, 2), (x) => Math.max(x, 0) + Math.min(0, 2 * Math.expm1(x / 2))],
    mish: [g.mish, (x) => x * Math.tanh(Math.max(x, 0) + Math.log1p(Math.exp(-Math.abs(x))))],
    softsign: [g.softsign, (x) => x / (1 + Math.abs(x))],
    expm1: [(b, x) => g.expm1(b, g.clamp(b, x, -80, 8)), (x) => Math.expm1(Math.min(8, Math.max(-80, x)))],
  };
  for (const [name, [build, formula]] of Object.entries(cases)) {
    it(name, () => {
      for (const [dtype, relative, absolute] of [
        ['f64', 1e-12, 1e-15],
        ['f32', 1e-6, 1e-7],
        ['f16', 2e-3, 1e-6],
      ] as const) {
        const input = t(dtype, [xs.length], ...xs);
        const exact = numbersOf(input);
        numbers(run([input], build)).forEach((y, i) => {
          const expected = formula(exact[i]);
          expect(Math.abs(y - expected), `${dtype} at ${exact[i]}: ${y} for ${expected}`).toBeLessThanOrEqual(
            absolute + relative * Math.abs(expected),
          );
        });
      }
    });
  }

  it('keep the sizes of tiny results', () => {
    // expm1 and log1p lose everything here if they go through 1.
    const [tiny] = numbers(run([f32(1e-10)], (b, x) => g.expm1(b, x)));
    expect(Math.abs(tiny - 1e-10)).toBeLessThan(1e-16);
    const [log] = numbers(run([f32(1e-10)], (b, x) => g.log1p(b, x)));
    expect(Math.abs(log - 1e-10)).toBeLessThan(1e-16);
    const [plus] = numbers(run([f32(-30)], (b, x) => g.softplus(b, x)));
    expect(Math.abs(plus / Math.exp(-30) - 1)).toBeLessThan(1e-6);
  });
});

describe('matmul', () => {
  /** By numpy's definition, element by element. */
  function naive(x: HostTensor, y: HostTensor): { shape: number[]; values: number[] } {
    const [p, q] = [
      x.shape.length === 1 ? [1, ...x.shape] : [...x.shape],
      y.shape.length === 1 ? [...y.shape, 1] : [...y.shape],
    ];
    const rank = Math.max(p.length, q.length);
    const pad = (shape: number[]) => [...Array(rank - shape.length).fill(1), ...shape];
    const [a, c] = [pad(p), pad(q)];
    const batch = a.slice(0, -2).map((dim, i) => (dim === 1 ? c[i] : dim));
    const [m, k, n] = [a[rank - 2], a[rank - 1], c[rank - 1]];
    const place = (shape: readonly number[], index: readonly number[]) =>
      index.reduce((offset, at, i) => offset * shape[i] + (shape[i] === 1 ? 0 : at), 0);
    const values: number[] = [];
    for (let flat = 0; flat < sizeOf(batch) * m * n; flat++) {
      const index: number[] = [];
      let rest = flat;
      for (const dim of [...batch, m, n].reverse()) {
        index.unshift(rest % dim);
        rest = Math.floor(rest / dim);
      }
      const outer = index.slice(0, -2);
      let sum = 0;
      for (let t = 0; t < k; t++) {
        sum +=
          numbersOf(x)[place(a, [...outer, index[rank - 2], t])] *
          numbersOf(y)[place(c, [...outer, t, index[rank - 1]])];
      }
      values.push(sum);
    }
    const shape = [...batch, ...(x.shape.length === 1 ? [] : [m]), ...(y.shape.length === 1 ? [] : [n])];
    return { shape, values };
  }

  it('follows numpy for all ranks and broadcasts', () => {
    const dim = fc.integer({ min: 1, max: 3 });
    const problem = fc.record({
      batch: fc.array(fc.tuple(dim, fc.constantFrom('both', 'x', 'y', 'ones')), { maxLength: 3 }),
      dropX: fc.nat(3),
      dropY: fc.nat(3),
      m: dim,
      k: dim,
      n: dim,
      vectorX: fc.boolean(),
      vectorY: fc.boolean(),
    });
    fc.assert(
      fc.property(problem, ({ batch, dropX, dropY, m, k, n, vectorX, vectorY }) => {
        const batchX = batch
          .map(([size, owner]) => (owner === 'y' || owner === 'ones' ? 1 : size))
          .slice(Math.min(dropX, batch.length));
        const batchY = batch
          .map(([size, owner]) => (owner === 'x' || owner === 'ones' ? 1 : size))
          .slice(Math.min(dropY, batch.length));
        const x = counting(vectorX ? [k] : [...batchX, m, k]);
        const y = counting(vectorY ? [k] : [...batchY, k, n]);
        const result = run([x, y], (b, p, q) => g.matmul(b, p, q));
        const expected = naive(x, y);
        expect(result.shape).toEqual(expected.shape);
        expect(numbers(result)).toEqual(expected.values);
      }),
      { numRuns: 400 },
    );
  });

  it('repeats no operand', () => {
    const b = new GraphBuilder();
    const x = b.input('x', 'f32', [8, 12, 64, 32]);
    const w = b.input('w', 'f32', [32, 16]);
    expect(g.matmul(b, x, w).type.shape).toEqual([8, 12, 64, 16]);
    g.matmul(b, b.input('p', 'f32', [1, 12, 4, 5]), b.input('q', 'f32', [8, 1, 5, 6]));
    expect(b.finish().nodes.filter(({ op }) => op === 'broadcast')).toEqual([]);
    const [dot] = b.finish().nodes;
    expect(dot.op).toBe('dot');
    expect(dot.attrs).toMatchObject({ lhsBatch: [], rhsBatch: [], lhsContract: [3], rhsContract: [0] });
  });

  it('takes names, element types and refuses scalars', () => {
    const b = new GraphBuilder();
    const x = b.input('x', 'i8', [dimName('n'), 3, 4]);
    const y = b.input('y', 'u8', [dimName('n'), 4, 2]);
    const product = g.matmul(b, x, y, 'i32');
    expect([product.type.dtype, ...product.type.shape.map(String)]).toEqual(['i32', 'n', '3', '2']);
    expect(errorOf(() => g.matmul(b, x, b.input('s', 'i8', []))).code).toBe('E_SHAPE');
    expect(errorOf(() => g.matmul(b, x, b.input('z', 'u8', [5, 2]), 'i32')).message).toMatch(/4.*5/);
  });
});
