// Models whose control flow depends on data, and what they compute in plain code.
import type { HostTensor } from '../../compiler/tensor.js';
import { f32, i64, type ModelInit, node, value } from './onnx_model.js';

export const scalar = (dtype: 'bool' | 'i64' | 'f32', x: number): HostTensor =>
  dtype === 'bool'
    ? { dtype, shape: [], data: Uint8Array.of(x) }
    : dtype === 'i64'
      ? { dtype, shape: [], data: BigInt64Array.of(BigInt(x)) }
      : { dtype, shape: [], data: Float32Array.of(x) };
export const names = (list: string) => list.split(' ').map((name) => ({ name }));
/** h = h·1.5 + x until sum(h) ≥ limit, at most `trips` times; every h is stacked. */
export const growth: ModelInit = {
  opset: 17,
  inputs: [value('h', 'f32', [3]), value('x', 'f32', [3]), value('limit', 'f32', []), value('trips', 'i64', [])],
  initializers: { a: f32([], 1.5), no: i64(), go: scalar('bool', 1) },
  nodes: [
    node('last, all = Loop(trips, go, h)', {
      body: {
        name: 'step',
        input: names('i c before'),
        node: [
          node('scaled = Mul(before, a)'),
          node('after = Add(scaled, x)'),
          node('sum = ReduceSum(after)', { keepdims: 0n }),
          node('more = Less(sum, limit)'),
          node('copy = Identity(after)'),
        ],
        output: names('more after copy'),
      },
    }),
  ],
  outputs: ['last', 'all'],
};

/** The same in JavaScript. */
export function grow(h: readonly number[], x: readonly number[], limit: number, trips: number) {
  let last = Float32Array.from(h);
  const all: number[] = [];
  for (let i = 0; i < trips; i++) {
    last = last.map((v, k) => Math.fround(Math.fround(v * 1.5) + x[k]));
    all.push(...last);
    if (!(Math.fround(Math.fround(last[0] + last[1]) + last[2]) < limit)) break;
  }
  return { last: [...last], all };
}
