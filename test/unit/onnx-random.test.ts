// Random operators (determinism, distribution, the same bits from kernels), training operators and LinearAttention.
import { describe, expect, it } from 'vitest';
import { importOnnx } from '../../compiler/frontends/onnx/index.js';
import { resolvers } from '../../compiler/frontends/resolvers.js';
import { evaluateStages } from '../../compiler/passes/evaluate_stages.js';
import { type HostTensor, sizeOf } from '../../compiler/tensor.js';
import { seeded } from '../support/kernel_data.js';
import { f32, model, node, value } from '../support/onnx_model.js';
import { byKernels, byReference, expectSame, type OperatorCase } from '../support/operator_cases.js';
import { minimumTarget, testTargets } from '../support/targets.js';

const numbers = ({ data }: HostTensor): number[] => Array.from(data as ArrayLike<number | bigint>, Number);
const mean = (list: readonly number[]): number => list.reduce((p, q) => p + q, 0) / list.length;
const c = seeded(17);
const random = (shape: readonly number[]): HostTensor =>
  f32(shape, ...Array.from({ length: sizeOf(shape) }, () => c.int(-1000, 1000) / 1000));

const drawn = (op: string, attrs: OperatorCase['attrs'], ...inputs: HostTensor[]): OperatorCase => ({
  op,
  inputs,
  outputs: ['f32'],
  attrs,
});

describe('random operators', () => {
  it('RandomUniform fills its interval evenly', () => {
    const [x] = byReference(drawn('RandomUniform', { shape: [100n, 50n], low: -3, high: 5, seed: 2 }));
    const list = numbers(x);
    expect(x.shape).toEqual([100, 50]);
    expect(Math.min(...list)).toBeGreaterThanOrEqual(-3);
    expect(Math.max(...list)).toBeLessThan(5);
    for (let part = 0; part < 8; part++) {
      const share = list.filter((v) => Math.floor(v + 3) === part).length / list.length;
      expect(Math.abs(share - 1 / 8)).toBeLessThan(0.02);
    }
  });

  it('RandomNormal has its mean and deviation', () => {
    const list = numbers(byReference(drawn('RandomNormal', { shape: [10000n], mean: 2, scale: 3, seed: 1 }))[0]);
    const centre = mean(list);
    expect(Math.abs(centre - 2)).toBeLessThan(0.15);
    expect(Math.abs(Math.sqrt(mean(list.map((v) => (v - centre) ** 2))) - 3)).toBeLessThan(0.15);
    // 68 % within one deviation.
    expect(Math.abs(mean(list.map((v) => Number(Math.abs(v - 2) < 3))) - 0.6827)).toBeLessThan(0.03);
  });

  it('the same seed gives the same numbers, another one others', () => {
    const of = (seed: number): number[] => numbers(byReference(drawn('RandomUniform', { shape: [20n], seed }))[0]);
    expect(of(3)).toEqual(of(3));
    expect(of(3)).not.toEqual(of(4));
  });

  it('Bernoulli and Multinomial draw by probability', () => {
    const likely = f32([4000], ...Array.from({ length: 4000 }, () => 0.3));
    const [hits] = byReference(drawn('Bernoulli', { seed: 5 }, likely));
    expect(Math.abs(mean(numbers(hits)) - 0.3)).toBeLessThan(0.03);
    const weights = f32([2, 3], Math.log(1), Math.log(2), Math.log(5), 0, -1e9, 0);
    const [classes] = byReference({
      ...drawn('Multinomial', { sample_size: 2000n, seed: 5 }, weights),
      outputs: ['i32'],
    });
    const [first, second] = [numbers(classes).slice(0, 2000), numbers(classes).slice(2000)];
    [1 / 8, 2 / 8, 5 / 8].forEach((share, k) => {
      expect(Math.abs(mean(first.map((v) => Number(v === k))) - share)).toBeLessThan(0.04);
    });
    expect(new Set(second)).toEqual(new Set([0, 2]));
  });

  it('kernels draw the same bits', async () => {
    const x = f32([7, 5], ...Array.from({ length: 35 }, (_, i) => i / 35));
    for (const target of [testTargets.cpu, testTargets.simt, minimumTarget]) {
      for (const operator of [
        drawn('Bernoulli', { seed: 9 }, x),
        drawn('RandomUniformLike', { seed: 9, low: -1, high: 1 }, x),
      ]) {
        const [expected] = byReference(operator);
        expect(numbers((await byKernels(operator, target))[0])).toEqual(numbers(expected));
      }
    }
  });

  it('Dropout scales what it keeps', () => {
    const x = f32([2000], ...Array.from({ length: 2000 }, () => 1));
    const [y, mask] = byReference({
      op: 'Dropout',
      inputs: [x, f32([], 0.25), { dtype: 'bool', shape: [], data: Uint8Array.of(1) }],
      outputs: ['f32', 'bool'],
      attrs: { seed: 4n },
      constants: [2],
    });
    numbers(y).forEach((v, i) => {
      expect(v).toBeCloseTo(numbers(mask)[i] / 0.75, 6);
    });
    expect(Math.abs(mean(numbers(mask)) - 0.75)).toBeLessThan(0.04);
  });
});

describe('Gradient', () => {
  const domain = 'ai.onnx.preview.training';
  const run = (inputs: readonly string[], given: Record<string, HostTensor>): number[][] => {
    const bytes = model({
      domains: [domain],
      inputs: Object.entries(given).map(([name, { dtype, shape }]) => value(name, dtype, shape)),
      nodes: [
        // Before the nodes that it is about: names decide the order.
        { ...node('g, h = Gradient(x)', { xs: ['a', 'b'], y: 'd' }), input: inputs, domain },
        node('p = Mul(a, b)'),
        node('q = Tanh(p)'),
        node('d = ReduceSum(q)', { keepdims: 0n }),
      ],
      outputs: ['g', 'h'],
    });
    const { outputs } = evaluateStages(importOnnx(bytes), given, resolvers);
    return ['g', 'h'].map((name) => numbers(outputs.get(name) as HostTensor));
  };
  const [a, b] = [random([2, 3]), random([3])];
  const slopes = (p: HostTensor, q: HostTensor): number[][] => {
    const [x, y] = [numbers(p), numbers(q)];
    const inner = x.map((v, i) => 1 - Math.tanh(v * y[i % 3]) ** 2);
    return [inner.map((s, i) => s * y[i % 3]), [0, 1, 2].map((k) => inner[k] * x[k] + inner[k + 3] * x[k + 3])];
  };
  const close = (actual: number[][], expected: number[][]): void =>
    expected.forEach((list, i) => {
      list.forEach((v, k) => {
        expect(actual[i][k]).toBeCloseTo(v, 5);
      });
    });

  it('differentiates by the named tensors', () => close(run(['a', 'b'], { a, b }), slopes(a, b)));

  it('at other values than those of the graph', () => {
    const [u, v] = [random([2, 3]), random([3])];
    close(run(['u', 'v'], { a, b, u, v }), slopes(u, v));
  });
});

describe('LinearAttention', () => {
  for (const [rule, tokens] of [
    ['linear', 3],
    ['gated', 7],
    ['delta', 7],
    ['gated_delta', 9],
  ] as const) {
    it(`${rule}, ${tokens} tokens`, async () => {
      const [batch, queries, heads, keys, values] = [2, 4, 2, 3, 5];
      const [gated, corrected] = [rule.startsWith('gated'), rule.endsWith('delta')];
      const inputs = [
        random([batch, tokens, queries * keys]),
        random([batch, tokens, heads * keys]),
        random([batch, tokens, heads * values]),
        random([batch, heads, keys, values]),
        gated ? random([batch, tokens, heads * keys]) : undefined,
        corrected ? random([batch, tokens, heads]) : undefined,
      ];
      const [q, k, v, past, decay, beta] = inputs.map((tensor) => (tensor ? numbers(tensor) : []));
      const state = [...past];
      const out = new Array<number>(batch * tokens * queries * values).fill(0);
      for (let n = 0; n < batch; n++)
        for (let h = 0; h < heads; h++)
          for (let t = 0; t < tokens; t++) {
            const row = n * tokens + t;
            const s = (i: number, j: number): number => ((n * heads + h) * keys + i) * values + j;
            const key = (i: number): number => k[row * heads * keys + h * keys + i];
            for (let j = 0; j < values; j++) {
              for (let i = 0; i < keys; i++)
                if (gated) state[s(i, j)] *= Math.exp(decay[row * heads * keys + h * keys + i]);
              let change = v[row * heads * values + h * values + j];
              if (corrected) {
                let read = 0;
                for (let i = 0; i < keys; i++) read += state[s(i, j)] * key(i);
                change = beta[row * heads + h] * (change - read);
              }
              for (let i = 0; i < keys; i++) state[s(i, j)] += key(i) * change;
              for (let g = 0; g < queries / heads; g++) {
                const head = h * (queries / heads) + g;
                let sum = 0;
                for (let i = 0; i < keys; i++) sum += q[row * queries * keys + head * keys + i] * state[s(i, j)];
                out[row * queries * values + head * values + j] = sum / Math.sqrt(keys);
              }
            }
          }
      const operator: OperatorCase = {
        op: 'LinearAttention',
        inputs,
        outputs: ['f32', 'f32'],
        attrs: { update_rule: rule, q_num_heads: BigInt(queries), kv_num_heads: BigInt(heads) },
        opset: 27,
      };
      const expected = [f32([batch, tokens, queries * values], ...out), f32([batch, heads, keys, values], ...state)];
      expectSame(byReference(operator), expected, 'reference');
      expectSame(await byKernels(operator, tokens === 7 ? testTargets.simt : testTargets.cpu), expected, 'kernels');
    });
  }

  it('names what is missing', () => {
    const x = random([1, 2, 4]);
    const attrs = { q_num_heads: 2n, kv_num_heads: 2n };
    expect(() => byReference({ op: 'LinearAttention', inputs: [x, x, x], outputs: ['f32'], attrs, opset: 27 })).toThrow(
      /gated_delta needs decay/,
    );
  });
});
