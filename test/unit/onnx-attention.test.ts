/** Attention of ai.onnx where masks hide much: rows without keys, queries at the end of a cache. */
import { describe, expect, it } from 'vitest';
import { importOnnx } from '../../compiler/frontends/onnx/index.js';
import { resolvers } from '../../compiler/frontends/resolvers.js';
import { evaluateGraph } from '../../compiler/graph/evaluate.js';
import { specialise } from '../../compiler/passes/specialise.js';
import type { HostTensor } from '../../compiler/tensor.js';
import { f32, i64, model, node, value } from '../support/onnx_model.js';

type Inputs = Readonly<Record<string, HostTensor>>;

function attend(inputs: Inputs, call: string, attrs: Parameters<typeof node>[1] = {}): number[] {
  const bytes = model({
    opset: 24,
    nodes: [node(`y = Attention(${call})`, attrs)],
    inputs: Object.entries(inputs).map(([name, { dtype, shape }]) => value(name, dtype, shape)),
    outputs: [value('y', 'f32')],
  });
  const shapes = Object.fromEntries(Object.entries(inputs).map(([name, { shape }]) => [name, shape]));
  const graph = specialise(importOnnx(bytes), { shapes, values: inputs }, resolvers);
  const { data } = evaluateGraph(graph, inputs).get('y') as HostTensor;
  return [...(data as Float32Array)];
}

const bools = (shape: readonly number[], ...data: readonly number[]): HostTensor => ({
  dtype: 'bool',
  shape,
  data: Uint8Array.from(data),
});
/** Queries of zeros: all keys weigh the same, so that results are means of the values seen. */
const parts = (rows: number, columns: number, batch = 1): Inputs => ({
  q: f32([batch, 1, rows, 2], ...new Array<number>(batch * rows * 2).fill(0)),
  k: f32([batch, 1, columns, 2], ...new Array<number>(batch * columns * 2).fill(1)),
  v: f32([batch, 1, columns, 1], ...Array.from({ length: batch * columns }, (_, i) => 2 ** (i % columns))),
});

describe('rows that see no key', () => {
  it('are 0 under a mask of bools, others as ever', () => {
    const mask = bools([3, 3], 1, 1, 0, 0, 0, 0, 0, 0, 1);
    expect(attend({ ...parts(3, 3), mask }, 'q, k, v, mask')).toEqual([1.5, 0, 4]);
  });
  it('are 0 under infinite addends', () => {
    const never = Number.NEGATIVE_INFINITY;
    const mask = f32([1, 1, 2, 2], never, never, 0, never);
    expect(attend({ ...parts(2, 2), mask }, 'q, k, v, mask')).toEqual([0, 1]);
  });
  it('are 0 where mask and triangle leave none', () => {
    const mask = bools([2, 2], 0, 1, 1, 1);
    expect(attend({ ...parts(2, 2), mask }, 'q, k, v, mask', { is_causal: 1n })).toEqual([0, 1.5]);
  });
  it('are 0 where a cache is empty', () => {
    expect(attend({ ...parts(1, 2, 2), n: i64(0, 2) }, 'q, k, v, , , , n')).toEqual([0, 1.5]);
  });
});

describe('causal queries over a cache', () => {
  it('stand at the end of the keys that count, in each batch', () => {
    const inputs = { ...parts(2, 4, 2), n: i64(2, 4) };
    const results = attend(inputs, 'q, k, v, , , , n', { is_causal: 1n });
    for (const [i, mean] of [1, 1.5, 7 / 3, 15 / 4].entries()) expect(results[i]).toBeCloseTo(mean, 5);
  });
  it('start at the first key without one', () => {
    expect(attend(parts(2, 4), 'q, k, v', { is_causal: 1n })).toEqual([1, 1.5]);
  });
});
