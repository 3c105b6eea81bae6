// com.microsoft's operators beside ONNX Runtime's own: random data, many settings.
import { describe, expect, it } from 'vitest';
import { compareTensors } from '../../compiler/compare.js';
import type { DType } from '../../compiler/dtype.js';
import { importOnnx } from '../../compiler/frontends/onnx/index.js';
import { resolvers } from '../../compiler/frontends/resolvers.js';
import { evaluateGraph } from '../../compiler/graph/evaluate.js';
import { specialise } from '../../compiler/passes/specialise.js';
import { emptyTensor, type HostTensor, sizeOf } from '../../compiler/tensor.js';
import { model, node, value } from '../support/onnx_model.js';

type Attributes = NonNullable<Parameters<typeof node>[1]>;
interface Case {
  readonly op: string;
  readonly inputs: readonly (HostTensor | undefined)[];
  readonly attrs?: Attributes;
  /** How far integers may be off: ONNX Runtime rounds its tables of functions. */
  readonly steps?: number;
  /** Types of the outputs; only those with a type are asked for. */
  readonly outputs?: readonly DType[];
  readonly opset?: number;
  /** How many of the outputs are compared; by default all. */
  readonly compared?: number;
  readonly atol?: number;
  readonly constants?: readonly number[];
}

const ortTypes: Readonly<Partial<Record<DType, string>>> = {
  f32: 'float32',
  i32: 'int32',
  i64: 'int64',
  u8: 'uint8',
  i8: 'int8',
  bool: 'bool',
};

const runtime = await import('onnxruntime-node').catch(() => undefined);

async function check({
  op,
  inputs,
  attrs = {},
  outputs = ['f32'],
  opset = 17,
  atol = 1e-5,
  constants = [],
  steps = 0,
  compared = outputs.length,
}: Case) {
  if (runtime === undefined) throw new Error('onnxruntime-node is not installed');
  const named = inputs.flatMap((tensor, i) => (tensor === undefined ? [] : [{ name: `x${i}`, tensor, i }]));
  const fed = named.filter(({ i }) => !constants.includes(i));
  const results = outputs.map((_, i) => `y${i}`);
  const names = inputs.map((tensor, i) => (tensor === undefined ? '' : `x${i}`));
  const made = { ...node(`y = ${op}(x)`, attrs), input: names, output: results, domain: 'com.microsoft' };
  const bytes = model({
    opset,
    domains: ['com.microsoft'],
    inputs: fed.map(({ name, tensor }) => value(name, tensor.dtype, tensor.shape)),
    initializers: Object.fromEntries(named.filter(({ i }) => constants.includes(i)).map((x) => [x.name, x.tensor])),
    nodes: [made],
    outputs: results.map((name, i) => value(name, outputs[i])),
  });
  const session = await runtime.InferenceSession.create(bytes, {
    graphOptimizationLevel: 'disabled',
    logSeverityLevel: 4,
  });
  const feeds = Object.fromEntries(
    fed.map(({ name, tensor }) => [
      name,
      new runtime.Tensor(ortTypes[tensor.dtype] as 'float32', tensor.data as Float32Array, tensor.shape as number[]),
    ]),
  );
  const expected = await session.run(feeds);
  const given = Object.fromEntries(fed.map(({ name, tensor }) => [name, tensor]));
  const shapes = Object.fromEntries(fed.map(({ name, tensor }) => [name, tensor.shape]));
  const graph = specialise(importOnnx(bytes), { shapes, values: given }, resolvers);
  const actual = [...evaluateGraph(graph, given).values()];
  results.slice(0, compared).forEach((name, i) => {
    const want: HostTensor = {
      dtype: outputs[i],
      shape: expected[name].dims.map(Number),
      data: expected[name].data as Float32Array,
    };
    expect(actual[i].shape, name).toEqual(want.shape);
    const result = compareTensors(actual[i], want, { rtol: 1e-4, atol });
    if (steps > 0) expect(result.maxDifference, name).toBeLessThanOrEqual(steps);
    else expect(result.mismatches, `${name}: ${result.reason}`).toBe(0);
  });
}

// --- random data ---------------------------------------------------------------------------------------------------

/** Numbers in [0, 1), the same in every run. */
function generator(seed: number): () => number {
  let state = seed >>> 0;
  return () => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    return state / 2 ** 32;
  };
}
const random = generator(7);
const f32 = (...shape: readonly number[]): HostTensor => ({
  dtype: 'f32',
  shape,
  data: Float32Array.from({ length: sizeOf(shape) }, () => random() * 2 - 1),
});
const positive = (...shape: readonly number[]): HostTensor => ({
  dtype: 'f32',
  shape,
  data: Float32Array.from({ length: sizeOf(shape) }, () => 0.01 + random() / 20),
});
const integers =
  (dtype: 'u8' | 'i8' | 'i32' | 'i64', low: number, high: number) =>
  (...shape: readonly number[]): HostTensor => {
    const tensor = emptyTensor(dtype, shape);
    const data = tensor.data as unknown as (number | bigint)[];
    for (let i = 0; i < data.length; i++) {
      const x = low + Math.floor(random() * (high - low + 1));
      data[i] = dtype === 'i64' ? BigInt(x) : x;
    }
    return tensor;
  };
const u8 = integers('u8', 0, 255);
const i8 = integers('i8', -127, 127);
const i32 = (shape: readonly number[], ...data: number[]): HostTensor => ({
  dtype: 'i32',
  shape,
  data: Int32Array.from(data),
});
const one = (x: number): HostTensor => ({ dtype: 'f32', shape: [], data: Float32Array.of(x) });
const zero = (x: number): HostTensor => ({ dtype: 'u8', shape: [], data: Uint8Array.of(x) });
const none = undefined;

// --- cases ---------------------------------------------------------------------------------------------------------

const float: readonly (readonly [string, Case])[] = [
  ['Gelu', { op: 'Gelu', inputs: [f32(3, 5)] }],
  ['BiasGelu', { op: 'BiasGelu', inputs: [f32(3, 8), f32(8)] }],
  ['FastGelu', { op: 'FastGelu', inputs: [f32(3, 8)] }],
  ['FastGelu with bias', { op: 'FastGelu', inputs: [f32(3, 8), f32(8)] }],
  ['QuickGelu', { op: 'QuickGelu', inputs: [f32(3, 8)], attrs: { alpha: 1.5 } }],
  ['FusedMatMul', { op: 'FusedMatMul', inputs: [f32(2, 3, 4), f32(2, 4, 5)], attrs: { alpha: 0.5 } }],
  [
    'FusedMatMul transposed',
    { op: 'FusedMatMul', inputs: [f32(2, 4, 3), f32(2, 5, 4)], attrs: { transA: 1n, transB: 1n } },
  ],
  [
    'FusedMatMul with batches transposed',
    { op: 'FusedMatMul', inputs: [f32(3, 2, 4), f32(4, 2, 5)], attrs: { transBatchA: 1n, transBatchB: 1n } },
  ],
  [
    'FusedMatMul with all transposed',
    { op: 'FusedMatMul', inputs: [f32(4, 2, 3), f32(2, 5, 4)], attrs: { transBatchA: 1n, transA: 1n, transB: 1n } },
  ],
  ['FusedConv', { op: 'FusedConv', inputs: [f32(1, 3, 6, 6), f32(4, 3, 3, 3), f32(4)], attrs: { activation: 'Relu' } }],
  [
    'FusedConv with residual',
    {
      op: 'FusedConv',
      inputs: [f32(1, 3, 6, 6), f32(4, 3, 3, 3), f32(4), f32(1, 4, 6, 6)],
      attrs: { activation: 'Relu', pads: [1n, 1n, 1n, 1n] },
    },
  ],
  [
    'FusedGemm',
    {
      op: 'FusedGemm',
      inputs: [f32(3, 4), f32(4, 5), f32(5)],
      attrs: { activation: 'LeakyRelu', activation_alpha: 0.2 },
    },
  ],
  [
    'SkipLayerNormalization',
    {
      op: 'SkipLayerNormalization',
      inputs: [f32(2, 3, 8), f32(2, 3, 8), f32(8), f32(8), f32(8)],
      outputs: ['f32', 'f32', 'f32', 'f32'].slice(0, 1) as DType[],
      attrs: { epsilon: 1e-5 },
    },
  ],
  [
    'SkipSimplifiedLayerNormalization',
    { op: 'SkipSimplifiedLayerNormalization', inputs: [f32(2, 3, 8), f32(2, 3, 8), f32(8)] },
  ],
  [
    'EmbedLayerNormalization',
    {
      op: 'EmbedLayerNormalization',
      inputs: [
        integers('i32', 0, 9)(2, 4),
        integers('i32', 0, 1)(2, 4),
        f32(10, 8),
        f32(6, 8),
        f32(2, 8),
        f32(8),
        f32(8),
        i32([2, 4], 1, 1, 1, 0, 1, 1, 0, 0),
      ],
      outputs: ['f32', 'i32'],
    },
  ],
  ['CDist', { op: 'CDist', inputs: [f32(3, 4), f32(5, 4)], attrs: { metric: 'euclidean' } }],
];

const weights = (): readonly HostTensor[] => [f32(2, 5, 12), f32(12, 36), f32(36)];
const heads3 = { num_heads: 3n };
const attentionCases: readonly (readonly [string, Case])[] = [
  ['Attention', { op: 'Attention', inputs: weights(), attrs: heads3 }],
  ['Attention, causal', { op: 'Attention', inputs: weights(), attrs: { ...heads3, unidirectional: 1n } }],
  ['Attention with lengths', { op: 'Attention', inputs: [...weights(), i32([2], 3, 5)], attrs: heads3 }],
  ['Attention with ends and starts', { op: 'Attention', inputs: [...weights(), i32([4], 4, 5, 1, 0)], attrs: heads3 }],
  [
    'Attention with a key mask',
    { op: 'Attention', inputs: [...weights(), i32([2, 5], 1, 1, 0, 1, 1, 1, 0, 0, 1, 1)], attrs: heads3 },
  ],
  [
    'Attention with a past',
    {
      op: 'Attention',
      inputs: [...weights(), none, f32(2, 2, 3, 4, 4)],
      attrs: { ...heads3, unidirectional: 1n },
      outputs: ['f32', 'f32'],
    },
  ],
  [
    'Attention with sizes of its own',
    {
      op: 'Attention',
      inputs: [f32(2, 5, 12), f32(12, 24), f32(24)],
      attrs: { num_heads: 2n, qkv_hidden_sizes: [8n, 8n, 8n] },
    },
  ],
  [
    'MultiHeadAttention',
    { op: 'MultiHeadAttention', inputs: [f32(2, 5, 12), f32(2, 7, 12), f32(2, 7, 12)], attrs: heads3 },
  ],
  [
    'MultiHeadAttention with bias and mask',
    {
      op: 'MultiHeadAttention',
      inputs: [f32(2, 3, 12), f32(2, 4, 12), f32(2, 4, 12), f32(36), i32([2, 4], 1, 1, 1, 0, 1, 0, 1, 1)],
      attrs: heads3,
    },
  ],
  [
    'MultiHeadAttention with a past',
    {
      op: 'MultiHeadAttention',
      inputs: [f32(2, 3, 12), f32(2, 3, 12), f32(2, 3, 12), none, none, none, f32(2, 3, 4, 4), f32(2, 3, 4, 4)],
      attrs: { ...heads3, unidirectional: 1n },
      outputs: ['f32', 'f32', 'f32'],
    },
  ],
  [
    'MultiHeadAttention with an addend',
    {
      op: 'MultiHeadAttention',
      inputs: [f32(2, 3, 12), f32(2, 4, 12), f32(2, 4, 12), none, none, f32(2, 3, 3, 4)],
      attrs: { ...heads3, scale: 0.3 },
    },
  ],
  [
    'RotaryEmbedding',
    { op: 'RotaryEmbedding', inputs: [f32(2, 3, 2, 8), integers('i64', 0, 5)(2, 2), f32(8, 4), f32(8, 4)] },
  ],
  [
    'RotaryEmbedding from a start, interleaved',
    {
      op: 'RotaryEmbedding',
      inputs: [f32(2, 3, 16), integers('i64', 2, 2)(1), f32(8, 4), f32(8, 4)],
      attrs: { interleaved: 1n },
    },
  ],
];

const grouped = (
  rows: number,
  past: number,
  more: readonly (HostTensor | undefined)[] = [],
): (HostTensor | undefined)[] => [
  f32(2, rows, 32),
  f32(2, rows, 16),
  f32(2, rows, 16),
  past === 0 ? none : f32(2, 2, past, 8),
  past === 0 ? none : f32(2, 2, past, 8),
  ...more,
];
const groupAttrs = { num_heads: 4n, kv_num_heads: 2n };
const three: readonly DType[] = ['f32', 'f32', 'f32'];
const groupCases: readonly (readonly [string, Case])[] = [
  [
    'a prompt',
    {
      op: 'GroupQueryAttention',
      inputs: grouped(5, 0, [i32([2], 4, 4), i32([], 5)]),
      attrs: groupAttrs,
      outputs: three,
    },
  ],
  [
    'a step with a past',
    {
      op: 'GroupQueryAttention',
      inputs: grouped(1, 6, [i32([2], 6, 6), i32([], 7)]),
      attrs: groupAttrs,
      outputs: three,
    },
  ],
  [
    'a step in sequences of two lengths',
    {
      op: 'GroupQueryAttention',
      inputs: grouped(1, 6, [i32([2], 3, 6), i32([], 7)]),
      attrs: groupAttrs,
      outputs: three,
      compared: 1,
    },
  ],
  [
    'rotary',
    {
      op: 'GroupQueryAttention',
      inputs: [
        f32(2, 1, 64),
        f32(2, 1, 32),
        f32(2, 1, 32),
        f32(2, 2, 6, 16),
        f32(2, 2, 6, 16),
        i32([2], 6, 6),
        i32([], 7),
        f32(16, 8),
        f32(16, 8),
      ],
      attrs: { ...groupAttrs, do_rotary: 1n },
      outputs: three,
    },
  ],
  [
    'softcap and scale',
    {
      op: 'GroupQueryAttention',
      inputs: grouped(4, 0, [i32([2], 3, 3), i32([], 4)]),
      attrs: { ...groupAttrs, softcap: 2, scale: 0.7 },
    },
  ],
  [
    'a window',
    {
      op: 'GroupQueryAttention',
      inputs: grouped(6, 0, [i32([2], 5, 5), i32([], 6)]),
      attrs: { ...groupAttrs, local_window_size: 2n },
    },
  ],
  [
    'smooth softmax',
    {
      op: 'GroupQueryAttention',
      inputs: grouped(4, 0, [i32([2], 3, 3), i32([], 4)]),
      attrs: { ...groupAttrs, smooth_softmax: 1n },
    },
  ],
];

const quantisedX = (...shape: readonly number[]): HostTensor[] => [u8(...shape), one(0.02 + random() / 50), zero(120)];
// A step of the result where a tie falls the other way would be a difference of 1: scales are not round numbers.
const quantisedCases: readonly (readonly [string, Case])[] = [
  [
    'QLinearAdd',
    { op: 'QLinearAdd', inputs: [...quantisedX(3, 4), ...quantisedX(4), one(0.0371), zero(101)], outputs: ['u8'] },
  ],
  [
    'QLinearMul',
    { op: 'QLinearMul', inputs: [...quantisedX(3, 4), ...quantisedX(4), one(0.0371), zero(101)], outputs: ['u8'] },
  ],
  ['QLinearSigmoid', { op: 'QLinearSigmoid', inputs: [...quantisedX(3, 4), one(0.00391), zero(0)], outputs: ['u8'] }],
  [
    'QLinearLeakyRelu',
    {
      op: 'QLinearLeakyRelu',
      inputs: [...quantisedX(3, 4), one(0.0271), zero(31)],
      attrs: { alpha: 0.1 },
      outputs: ['u8'],
    },
  ],
  [
    'QLinearSoftmax',
    {
      op: 'QLinearSoftmax',
      inputs: [...quantisedX(3, 7), one(0.00391), zero(0)],
      attrs: { axis: -1n, opset: 13n },
      outputs: ['u8'],
      steps: 1,
      constants: [1, 2, 3, 4],
    },
  ],
  [
    'QLinearAveragePool',
    {
      op: 'QLinearAveragePool',
      inputs: [...quantisedX(1, 2, 6, 6), one(0.0191), zero(111)],
      attrs: { kernel_shape: [3n, 3n], strides: [2n, 2n], pads: [1n, 1n, 1n, 1n] },
      outputs: ['u8'],
      constants: [1, 2, 3, 4],
    },
  ],
  [
    'QLinearGlobalAveragePool, channels last',
    {
      op: 'QLinearGlobalAveragePool',
      inputs: [...quantisedX(1, 5, 5, 3), one(0.0041), zero(111)],
      attrs: { channels_last: 1n },
      outputs: ['u8'],
      constants: [1, 2, 3, 4],
    },
  ],
  [
    'QLinearConcat',
    {
      op: 'QLinearConcat',
      inputs: [one(0.0311), zero(97), ...quantisedX(2, 3), ...quantisedX(2, 4)],
      attrs: { axis: 1n },
      outputs: ['u8'],
      constants: [0, 1, 3, 4, 6, 7],
    },
  ],
  ['QGemm', { op: 'QGemm', inputs: [...quantisedX(3, 8), ...quantisedX(8, 4)], attrs: { alpha: 0.5 } }],
  [
    'QGemm, transposed and quantised',
    {
      op: 'QGemm',
      inputs: [...quantisedX(3, 8), ...quantisedX(4, 8), integers('i32', -500, 500)(4), one(0.0911), zero(97)],
      attrs: { transB: 1n },
      outputs: ['u8'],
    },
  ],
  [
    'DynamicQuantizeMatMul',
    { op: 'DynamicQuantizeMatMul', inputs: [f32(3, 16), i8(16, 5), positive(5), none, f32(5)], atol: 1e-3 },
  ],
  [
    'MatMulIntegerToFloat',
    {
      op: 'MatMulIntegerToFloat',
      inputs: [u8(3, 16), u8(16, 5), one(0.01), positive(5), zero(120), integers('u8', 100, 130)(5)],
    },
  ],
  [
    'QAttention',
    {
      op: 'QAttention',
      inputs: [
        u8(2, 5, 12),
        i8(12, 36),
        f32(36),
        one(0.013),
        one(0.011),
        none,
        zero(121),
        { ...zero(0), dtype: 'i8', data: Int8Array.of(0) },
      ],
      attrs: heads3,
      atol: 1e-4,
      constants: [1, 3, 4, 6, 7],
    },
  ],
];

const nBits = (bits: number, depth: number, block: number, zeros: boolean): Case => {
  const blocks = Math.ceil(depth / block);
  const bytes = Math.ceil((blocks * bits) / 8);
  return {
    op: 'MatMulNBits',
    inputs: [f32(3, depth), u8(6, blocks, (block * bits) / 8), positive(6 * blocks), zeros ? u8(6 * bytes) : none],
    attrs: { N: 6n, K: BigInt(depth), bits: BigInt(bits), block_size: BigInt(block) },
    constants: [1, 2, 3],
    atol: 1e-3,
  };
};
const nBitCases: readonly (readonly [string, Case])[] = [
  ['4 bits', nBits(4, 64, 32, false)],
  ['4 bits, zero points', nBits(4, 96, 32, true)],
  ['4 bits, a ragged last block', nBits(4, 40, 16, true)],
  ['8 bits', nBits(8, 64, 32, false)],
];

describe.skipIf(runtime === undefined).each([
  ['floats', float],
  ['attention', attentionCases],
  ['GroupQueryAttention', groupCases],
  ['integers', quantisedCases],
  ['MatMulNBits', nBitCases],
] as const)('%s', (_, cases) => {
  it.each(cases)('%s', (_name, settings) => check(settings));
});

describe('MultiHeadAttention, all packed', () => {
  it('is that of the parts', () => {
    const packed = f32(2, 3, 3, 3, 4);
    const data = packed.data as Float32Array;
    // [B, L, H, 3, D] → [B, L, H·D] each
    const part = (which: number): HostTensor => ({
      dtype: 'f32',
      shape: [2, 3, 12],
      data: Float32Array.from({ length: 72 }, (_, i) => data[(Math.floor(i / 4) * 3 + which) * 4 + (i % 4)]),
    });
    const results = (inputs: readonly HostTensor[]): HostTensor => {
      const names = inputs.map((_, i) => `x${i}`);
      const made = { ...node('y = MultiHeadAttention(x)', heads3), input: names, domain: 'com.microsoft' };
      const initializers = Object.fromEntries(inputs.map((tensor, i) => [`x${i}`, tensor]));
      const bytes = model({ domains: ['com.microsoft'], initializers, nodes: [made], outputs: ['y'] });
      return [...evaluateGraph(specialise(importOnnx(bytes), {}, resolvers), {}).values()][0];
    };
    expect(results([packed])).toEqual(results([part(0), part(1), part(2)]));
  });
});
