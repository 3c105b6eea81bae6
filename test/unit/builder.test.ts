// The public builder: each layer against a plain loop, each refusal against its message.
import { describe, expect, it } from 'vitest';
import { ModelBuilder, type Value } from '../../compiler/builder/index.js';
import { evaluateGraph } from '../../compiler/graph/evaluate.js';
import type { HostTensor } from '../../compiler/tensor.js';

const ramp = (count: number, scale = 1) =>
  Float32Array.from({ length: count }, (_, i) => Math.sin(i * 1.7 + 0.3) * scale);
const f32 = (shape: readonly number[], data = ramp(shape.reduce((a, b) => a * b, 1))): HostTensor => ({
  dtype: 'f32',
  shape,
  data,
});

/** Values of what `make` builds over inputs of these shapes. */
function run(make: (g: ModelBuilder, ...inputs: Value[]) => Value, ...inputs: HostTensor[]) {
  const g = new ModelBuilder('test');
  const values = inputs.map(({ dtype, shape }, i) => g.input(`x${i}`, dtype, shape));
  g.output('y', make(g, ...values));
  const feeds = Object.fromEntries(inputs.map((tensor, i) => [`x${i}`, tensor]));
  const y = evaluateGraph(g.build(), feeds).get('y') as HostTensor;
  return { shape: y.shape, data: Array.from(y.data as Float32Array, Number) };
}

function close(actual: readonly number[], expected: readonly number[]) {
  expect(actual.length).toBe(expected.length);
  for (const [i, value] of expected.entries()) expect(actual[i]).toBeCloseTo(value, 4);
}

interface ConvCase {
  readonly x: readonly [n: number, c: number, h: number, w: number];
  readonly o: number;
  readonly k: readonly [number, number];
  readonly stride: number;
  readonly pads: readonly [top: number, bottom: number, left: number, right: number];
  readonly dilation: number;
  readonly groups: number;
}

function naiveConv(x: Float32Array, w: Float32Array, bias: Float32Array, c: ConvCase): number[] {
  const [n, channels, h, width] = c.x;
  const [kh, kw] = c.k;
  const [top, bottom, left, right] = c.pads;
  const oh = Math.floor((h + top + bottom - (kh - 1) * c.dilation - 1) / c.stride) + 1;
  const ow = Math.floor((width + left + right - (kw - 1) * c.dilation - 1) / c.stride) + 1;
  const perGroup = channels / c.groups;
  const out: number[] = [];
  for (let b = 0; b < n; b++)
    for (let o = 0; o < c.o; o++)
      for (let i = 0; i < oh; i++)
        for (let j = 0; j < ow; j++) {
          let sum = bias[o];
          const group = Math.floor(o / (c.o / c.groups));
          for (let p = 0; p < perGroup; p++)
            for (let u = 0; u < kh; u++)
              for (let v = 0; v < kw; v++) {
                const y = i * c.stride - top + u * c.dilation;
                const z = j * c.stride - left + v * c.dilation;
                if (y < 0 || z < 0 || y >= h || z >= width) continue;
                const at = ((b * channels + group * perGroup + p) * h + y) * width + z;
                sum += x[at] * w[((o * perGroup + p) * kh + u) * kw + v];
              }
          out.push(sum);
        }
  return out;
}

describe('convolutions', () => {
  const cases: readonly ConvCase[] = [
    { x: [2, 3, 7, 6], o: 4, k: [3, 3], stride: 1, pads: [0, 0, 0, 0], dilation: 1, groups: 1 },
    { x: [1, 4, 9, 8], o: 6, k: [3, 2], stride: 2, pads: [1, 2, 0, 1], dilation: 1, groups: 2 },
    { x: [1, 3, 8, 8], o: 3, k: [3, 3], stride: 1, pads: [2, 2, 2, 2], dilation: 2, groups: 3 },
  ];
  for (const [i, c] of cases.entries()) {
    it(`conv, case ${i}`, () => {
      const w = f32([c.o, c.x[1] / c.groups, ...c.k]);
      const [top, bottom, left, right] = c.pads;
      const { data } = run(
        (g, x, weight, bias) =>
          g.conv(x, weight, {
            bias,
            strides: c.stride,
            dilations: c.dilation,
            groups: c.groups,
            padding: [
              [top, bottom],
              [left, right],
            ],
          }),
        f32(c.x),
        w,
        f32([c.o]),
      );
      close(data, naiveConv(ramp(c.x.reduce((a, b) => a * b)), w.data as Float32Array, ramp(c.o), c));
    });
  }

  it('pads as `same`', () => {
    const c: ConvCase = { x: [1, 2, 7, 8], o: 2, k: [3, 3], stride: 2, pads: [1, 1, 0, 1], dilation: 1, groups: 1 };
    const w = f32([2, 2, 3, 3]);
    const { shape, data } = run((g, x, weight) => g.conv(x, weight, { strides: 2, padding: 'same' }), f32(c.x), w);
    expect(shape).toEqual([1, 2, 4, 4]);
    close(data, naiveConv(ramp(112), w.data as Float32Array, new Float32Array(2), c));
  });

  it('convTranspose scatters what conv gathers', () => {
    const [n, c, h, w, perGroup, kernel, stride, pad, extra, groups] = [1, 4, 4, 5, 3, 3, 2, 1, 1, 2];
    const x = ramp(n * c * h * w);
    const weight = ramp(c * perGroup * kernel * kernel);
    const [oh, ow] = [h, w].map((size) => (size - 1) * stride - 2 * pad + kernel + extra);
    const expected = new Float64Array(groups * perGroup * oh * ow);
    for (let p = 0; p < c; p++)
      for (let o = 0; o < perGroup; o++)
        for (let i = 0; i < h; i++)
          for (let j = 0; j < w; j++)
            for (let u = 0; u < kernel; u++)
              for (let v = 0; v < kernel; v++) {
                const y = i * stride - pad + u;
                const z = j * stride - pad + v;
                if (y < 0 || z < 0 || y >= oh || z >= ow) continue;
                const out = Math.floor(p / (c / groups)) * perGroup + o;
                expected[(out * oh + y) * ow + z] +=
                  x[(p * h + i) * w + j] * weight[((p * perGroup + o) * kernel + u) * kernel + v];
              }
    const { shape, data } = run(
      (g, a, b) => g.convTranspose(a, b, { strides: stride, padding: pad, outputPadding: extra, groups }),
      f32([n, c, h, w], x),
      f32([c, perGroup, kernel, kernel], weight),
    );
    expect(shape).toEqual([1, groups * perGroup, oh, ow]);
    close(data, Array.from(expected));
  });
});

describe('pooling', () => {
  const x = ramp(2 * 5 * 5);
  const windows = (pad: number, combine: (values: number[], places: number) => number) => {
    const out: number[] = [];
    const count = Math.floor((5 + 2 * pad - 3) / 2) + 1;
    for (let c = 0; c < 2; c++)
      for (let i = 0; i < count; i++)
        for (let j = 0; j < count; j++) {
          const values: number[] = [];
          for (let u = 0; u < 3; u++)
            for (let v = 0; v < 3; v++) {
              const [y, z] = [i * 2 - pad + u, j * 2 - pad + v];
              if (y >= 0 && z >= 0 && y < 5 && z < 5) values.push(x[(c * 5 + y) * 5 + z]);
            }
          out.push(combine(values, 9));
        }
    return out;
  };
  const sum = (values: number[]) => values.reduce((a, b) => a + b, 0);
  const image = f32([1, 2, 5, 5], x);

  it('takes maxima and means', () => {
    const options = { strides: 2, padding: 1 };
    close(
      run((g, v) => g.maxPool(v, 3, options), image).data,
      windows(1, (values) => Math.max(...values)),
    );
    close(
      run((g, v) => g.averagePool(v, 3, options), image).data,
      windows(1, (values) => sum(values) / values.length),
    );
    close(
      run((g, v) => g.averagePool(v, 3, { ...options, countPadding: true }), image).data,
      windows(1, (values, places) => sum(values) / places),
    );
    close(
      run((g, v) => g.averagePool(v, [3, 3], { strides: [2, 2] }), image).data,
      windows(0, (values) => sum(values) / 9),
    );
  });

  it('reduces whole images', () => {
    close(
      run((g, v) => g.globalMaxPool(v), image).data,
      [0, 25].map((at) => Math.max(...x.subarray(at, at + 25))),
    );
    const { shape, data } = run((g, v) => g.globalAveragePool(v), image);
    expect(shape).toEqual([1, 2, 1, 1]);
    close(
      data,
      [0, 25].map((at) => sum(Array.from(x.subarray(at, at + 25))) / 25),
    );
  });
});

describe('normalisation', () => {
  const standard = (values: readonly number[], epsilon = 1e-5) => {
    const mean = values.reduce((a, b) => a + b, 0) / values.length;
    const variance = values.reduce((a, b) => a + (b - mean) ** 2, 0) / values.length;
    return values.map((value) => (value - mean) / Math.sqrt(variance + epsilon));
  };
  const rows = (data: Float32Array, width: number) =>
    Array.from({ length: data.length / width }, (_, i) => Array.from(data.subarray(i * width, (i + 1) * width)));

  it('layerNorm and rmsNorm', () => {
    const x = ramp(24);
    const scale = ramp(6, 2);
    close(
      run((g, v, s) => g.layerNorm(v, { scale: s, bias: s }), f32([4, 6]), f32([6], scale)).data,
      rows(x, 6).flatMap((row) => standard(row).map((value, i) => value * scale[i] + scale[i])),
    );
    close(
      run((g, v) => g.layerNorm(v, { scale: g.full([2, 3], 1) }), f32([4, 2, 3])).data,
      rows(x, 6).flatMap((row) => standard(row)),
    );
    close(
      run((g, v, s) => g.rmsNorm(v, { scale: s }), f32([4, 6]), f32([6], scale)).data,
      rows(x, 6).flatMap((row) => {
        const size = Math.sqrt(row.reduce((a, b) => a + b * b, 0) / 6 + 1e-5);
        return row.map((value, i) => (value / size) * scale[i]);
      }),
    );
  });

  it('batchNorm, instanceNorm and groupNorm', () => {
    const x = ramp(2 * 4 * 6);
    const image = f32([2, 4, 2, 3]);
    const [scale, bias, mean] = [ramp(4, 2), ramp(4, 3), ramp(4, 0.5)];
    const variance = Float32Array.of(0.5, 1, 2, 3);
    const channel = (i: number) => Math.floor(i / 6) % 4;
    close(
      run(
        (g, v, m, s2, s, b) => g.batchNorm(v, m, s2, { scale: s, bias: b, epsilon: 1e-3 }),
        image,
        f32([4], mean),
        f32([4], variance),
        f32([4], scale),
        f32([4], bias),
      ).data,
      Array.from(x, (value, i) => {
        const c = channel(i);
        return ((value - mean[c]) / Math.sqrt(variance[c] + 1e-3)) * scale[c] + bias[c];
      }),
    );
    const affine = (values: number[]) => values.map((value, i) => value * scale[channel(i)] + bias[channel(i)]);
    close(
      run((g, v, s, b) => g.instanceNorm(v, { scale: s, bias: b }), image, f32([4], scale), f32([4], bias)).data,
      affine(rows(x, 6).flatMap((row) => standard(row))),
    );
    close(
      run((g, v, s, b) => g.groupNorm(v, 2, { scale: s, bias: b }), image, f32([4], scale), f32([4], bias)).data,
      affine(rows(x, 12).flatMap((row) => standard(row))),
    );
  });
});

describe('attention', () => {
  const naive = (m: number, n: number, d: number, e: number, sees: (i: number, j: number) => boolean) => {
    const [q, k, v] = [ramp(2 * m * d), ramp(2 * n * d), ramp(2 * n * e)];
    const out: number[] = [];
    for (let b = 0; b < 2; b++)
      for (let i = 0; i < m; i++) {
        const scores = Array.from({ length: n }, (_, j) => {
          let sum = 0;
          for (let c = 0; c < d; c++) sum += q[(b * m + i) * d + c] * k[(b * n + j) * d + c];
          return sees(i, j) ? Math.exp(sum / Math.sqrt(d)) : 0;
        });
        const total = scores.reduce((a, c) => a + c, 0);
        for (let c = 0; c < e; c++) {
          out.push(scores.reduce((sum, score, j) => sum + (score / total) * v[(b * n + j) * e + c], 0));
        }
      }
    return out;
  };
  const [m, n, d, e] = [3, 5, 4, 2];
  const operands = [f32([2, m, d]), f32([2, n, d]), f32([2, n, e])];

  it('weighs values', () => {
    close(
      run((g, q, k, v) => g.attention(q, k, v), ...operands).data,
      naive(m, n, d, e, () => true),
    );
  });
  it('hides what is ahead', () => {
    const sees = (i: number, j: number) => j <= i + n - m;
    close(run((g, q, k, v) => g.attention(q, k, v, { causal: true }), ...operands).data, naive(m, n, d, e, sees));
  });
  it('obeys masks of both kinds', () => {
    const sees = (i: number, j: number) => (i + j) % 2 === 0;
    const keep = Uint8Array.from({ length: m * n }, (_, at) => Number(sees(Math.floor(at / n), at % n)));
    const bools = run((g, q, k, v) => g.attention(q, k, v, { mask: g.constant(keep, [m, n], 'bool') }), ...operands);
    const added = Float32Array.from(keep, (bit) => (bit ? 0 : Number.NEGATIVE_INFINITY));
    const sums = run((g, q, k, v) => g.attention(q, k, v, { mask: g.constant(added, [m, n]) }), ...operands);
    close(bools.data, naive(m, n, d, e, sees));
    expect(sums).toEqual(bools);
  });
});

describe('elementwise, movement and reductions', () => {
  it('takes numbers as operands on either side', () => {
    close(
      run((g, x) => g.sub(1, g.mul(x, 2)), f32([4])).data,
      Array.from(ramp(4), (v) => 1 - 2 * v),
    );
    expect(run((g, x) => g.mod(x, 3), { dtype: 'i32', shape: [3], data: Int32Array.of(-4, 4, 3) }).data).toEqual([
      2, 1, 0,
    ]);
    close(
      run((g, x) => g.where(g.less(x, 0), 0, x), f32([6])).data,
      Array.from(ramp(6), (v) => Math.max(0, v)),
    );
  });

  it('has the functions of Math', () => {
    const x = f32([5], Float32Array.of(0.1, 0.25, 0.5, 0.75, 0.9));
    for (const fn of [
      'sin',
      'cos',
      'tan',
      'asin',
      'acos',
      'atan',
      'sinh',
      'cosh',
      'tanh',
      'asinh',
      'atanh',
      'exp',
      'log',
      'log2',
      'sqrt',
      'abs',
      'floor',
      'ceil',
      'trunc',
      'sign',
      'expm1',
      'log1p',
    ] as const) {
      close(
        run((g, v) => g[fn](v), x).data,
        Array.from(x.data as Float32Array, (v) => Math[fn](v)),
      );
    }
  });

  it('reshapes with a dim left open, named dims too', () => {
    expect(run((g, x) => g.reshape(x, [3, -1]), f32([2, 3, 4])).shape).toEqual([3, 8]);
    const g = new ModelBuilder();
    const x = g.input('x', 'f32', ['n', 3, 4]);
    expect(g.reshape(x, ['n', -1]).type.shape.map(String)).toEqual(['n', '12']);
    expect(g.reshape(x, [-1, 12]).type.shape.map(String)).toEqual(['n', '12']);
    expect(g.flatten(x).type.shape.map(String)).toEqual(['n', '12']);
    expect(() => g.reshape(g.full([5], 1), [2, -1])).toThrow(/^reshape_\d+: the elements do not divide/);
  });

  it('slices, splits, joins and flips', () => {
    const x = f32([2, 6]);
    const data = Array.from(ramp(12));
    expect(run((g, v) => g.slice(v, 1, -4, -1), x).data).toEqual([...data.slice(2, 5), ...data.slice(8, 11)]);
    expect(run((g, v) => g.slice(v, 1, 1, undefined, 2), x).data).toEqual([1, 3, 5, 7, 9, 11].map((i) => data[i]));
    expect(run((g, v) => g.concat(g.split(v, 3, 1).reverse(), 1), f32([1, 6])).data).toEqual(
      [4, 5, 2, 3, 0, 1].map((i) => data[i]),
    );
    expect(run((g, v) => g.flip(v, [0, 1]), x).data).toEqual([...data].reverse());
    expect(run((g, v) => g.transpose(v), x).shape).toEqual([6, 2]);
    expect(run((g, v) => g.tile(v, [2, 1]), x).data).toEqual([...data, ...data]);
  });

  it('reduces', () => {
    const x = ramp(6);
    const mean = x.reduce((a, b) => a + b) / 6;
    const input = f32([2, 3]);
    close(run((g, v) => g.mean(v), input).data, [mean]);
    close(run((g, v) => g.variance(v), input).data, [x.reduce((a, b) => a + (b - mean) ** 2, 0) / 6]);
    expect(run((g, v) => g.sum(v, { axes: -1, keep: true }), input).shape).toEqual([2, 1]);
    expect(run((g, v) => g.argMax(v, 0), input).shape).toEqual([3]);
    close(run((g, v) => g.cumulativeSum(v, 1, { exclusive: true }), input).data, [
      0,
      x[0],
      x[0] + x[1],
      0,
      x[3],
      x[3] + x[4],
    ]);
  });

  it('indexes', () => {
    const table = f32([4, 2]);
    const data = ramp(8);
    const rows = run((g, t) => g.embedding(t, g.constant([3, 0, -1], [3], 'i64')), table);
    expect(rows.data).toEqual([6, 7, 0, 1, 6, 7].map((i) => data[i]));
    const top = run((g, t) => g.topK(t, 1, { axis: 0 }).values, table);
    expect(top.data).toEqual([0, 1].map((column) => Math.max(...[0, 1, 2, 3].map((row) => data[2 * row + column]))));
  });

  it('multiplies as linear layers do', () => {
    const [x, w, b] = [ramp(6), ramp(12), ramp(4)];
    const expected = [0, 1].flatMap((row) =>
      [0, 1, 2, 3].map((out) => [0, 1, 2].reduce((sum, k) => sum + x[3 * row + k] * w[3 * out + k], b[out])),
    );
    close(run((g, v, weight, bias) => g.linear(v, weight, bias), f32([2, 3]), f32([4, 3]), f32([4])).data, expected);
  });
});

describe('building', () => {
  it('names nodes by op, number and scope in errors', () => {
    const g = new ModelBuilder();
    const x = g.input('x', 'f32', [2, 3]);
    g.relu(x);
    expect(() => g.scope('block', () => g.scope('inner', () => g.add(x, g.full([4], 1))))).toThrow(
      /^block\/inner\/add_0: shapes/,
    );
    expect(() => g.matmul(x, x)).toThrow(/^matmul_0/);
    expect(() => g.conv(x, x)).toThrow(/^conv_0: weights of a convolution/);
  });

  it('makes constants from arrays of every kind', () => {
    const g = new ModelBuilder();
    expect(g.constant(Float64Array.of(1)).type).toEqual({ dtype: 'f64', shape: [1] });
    expect(g.constant(Uint16Array.of(0x3c00), [], 'f16').type).toEqual({ dtype: 'f16', shape: [] });
    expect(g.constant([1, 2], [2], 'i64').type.dtype).toBe('i64');
    expect(g.constant(['a', 'b']).type.dtype).toBe('string');
    expect(() => g.constant([1, 2], [3])).toThrow(/expected 3 elements/);
  });

  it('refuses graphs without outputs and outputs of one name', () => {
    const g = new ModelBuilder();
    expect(() => g.build()).toThrow(/no outputs/);
    const x = g.input('x', 'f32', [1]);
    g.output('y', x);
    expect(() => g.output('y', x)).toThrow(/^y: two outputs/);
    expect(() => g.add(1, 2)).toThrow(/one of the operands/);
  });
});
