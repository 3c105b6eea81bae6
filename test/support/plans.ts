/** Plans made by hand, so that the runtime is tested without the compiler. */
import type { ConstantData } from '../../compiler/graph/types.js';
import { KernelBuilder } from '../../compiler/kernel/builder.js';
import type { Target } from '../../compiler/kernel/target.js';
import type { KernelFunction } from '../../compiler/kernel/types.js';
import type { Location, Plan, PlanReport } from '../../compiler/plan.js';
import type { HostTensor } from '../../compiler/tensor.js';
import { interpreterTarget } from './interpreter_device.js';

export const constantOf = (tensor: HostTensor): ConstantData => ({
  dtype: tensor.dtype,
  shape: tensor.shape,
  load: () => tensor,
});

export const report: PlanReport = {
  nodes: 1,
  groups: 1,
  kernels: 1,
  dispatches: 1,
  constantsFolded: 0,
  weightsBytes: 0,
  arenaBytes: 0,
  largestLiveBytes: 0,
  bytesMoved: 0,
  flops: 0,
  times: {},
  placement: [],
};

/** out[i] = x[i] · w[i mod period] + x[i]. */
export function scaleKernel(count: number, period: number): KernelFunction {
  const b = new KernelBuilder();
  const x = b.buffer('x', 'f32', count, 'read');
  const w = b.buffer('w', 'f32', period, 'read');
  const out = b.buffer('out', 'f32', count, 'write');
  b.for(0, count, 1, [], (i) => {
    const value = b.load(x, i);
    const scale = b.load(w, b.binary('rem', i, b.constant(period)));
    b.store(out, i, b.binary('add', b.binary('mul', value, scale), value));
  });
  return b.finish({ name: `scale_${count}_${period}`, sources: ['Scale'], grid: [1, 1, 1], workgroup: [1, 1, 1] });
}

const align = (bytes: number): number => Math.ceil(bytes / 256) * 256;

/**
 * Two dispatches over [rows, columns]: y = x·w + x, then z = y·w + y, with w of [columns]; outputs z, the constant
 * `label` and an empty tensor.
 */
export function scalePlan(
  rows: number,
  weights: ConstantData,
  label: ConstantData,
  target: Target = interpreterTarget,
): Plan {
  const columns = weights.shape[0];
  const bytes = rows * columns * 4;
  const at = (slot: number): Location => ({ pool: 0, offset: slot * align(bytes), bytes });
  const w: Location = { pool: 1, offset: 256, bytes: columns * 4 };
  const shape = [rows, columns];
  const empty = rows === 0;
  return {
    target,
    kernels: empty ? [] : [scaleKernel(rows * columns, columns)],
    steps: empty
      ? []
      : [
          { kind: 'dispatch', kernel: 0, bindings: [at(0), w, at(1)], sources: ['First'] },
          { kind: 'barrier' },
          { kind: 'dispatch', kernel: 0, bindings: [at(1), w, at(0)], sources: ['Second'] },
        ],
    pools: empty
      ? []
      : [
          { kind: 'arena', bytes: 2 * align(bytes) },
          { kind: 'constants', bytes: 256 + columns * 4 },
        ],
    constants: empty ? [] : [{ name: 'w', data: weights, location: w }],
    inputs: [{ name: 'x', dtype: 'f32', shape, ...(empty ? {} : { location: at(0) }) }],
    outputs: [
      { name: 'z', dtype: 'f32', shape, ...(empty ? {} : { location: at(0) }) },
      { name: 'label', dtype: label.dtype, shape: label.shape, constant: label },
      { name: 'nothing', dtype: 'i64', shape: [0, 3] },
    ],
    report: { ...report, arenaBytes: 2 * align(bytes), weightsBytes: columns * 4 },
  };
}

/** What `scalePlan` computes, in single precision. */
export function scaleReference(x: Float32Array, weights: Float32Array): Float32Array {
  const once = (from: Float32Array) =>
    from.map((value, i) => Math.fround(Math.fround(value * weights[i % weights.length]) + value));
  return once(once(x));
}
