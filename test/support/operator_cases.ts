// Models of one ONNX operator, and three ways to run them: by the reference evaluation, as kernels on the interpreter,
// and by ONNX Runtime where it is installed.
import { expect } from 'vitest';
import { compareTensors, type Tolerance } from '../../compiler/compare.js';
import type { DType } from '../../compiler/dtype.js';
import { importOnnx } from '../../compiler/frontends/onnx/index.js';
import { resolvers } from '../../compiler/frontends/resolvers.js';
import type { Target } from '../../compiler/kernel/target.js';
import { evaluateStages } from '../../compiler/passes/evaluate_stages.js';
import { emptyTensor, type HostTensor } from '../../compiler/tensor.js';
import { runInterpreted } from './interpreted.js';
import { model, node, value } from './onnx_model.js';

export interface OperatorCase {
  readonly op: string;
  readonly inputs: readonly (HostTensor | undefined)[];
  /** Element types of the outputs. */
  readonly outputs: readonly DType[];
  readonly attrs?: NonNullable<Parameters<typeof node>[1]>;
  readonly opset?: number;
  readonly domain?: readonly [name: string, version: number];
  /** Inputs that are initialisers. */
  readonly constants?: readonly number[];
}

const inputName = (i: number): string => `x${i}`;
const fedOf = ({ inputs, constants = [] }: OperatorCase): Record<string, HostTensor> =>
  Object.fromEntries(
    inputs.flatMap((tensor, i) => (tensor === undefined || constants.includes(i) ? [] : [[inputName(i), tensor]])),
  );

export function modelOf(operator: OperatorCase): Uint8Array {
  const { op, inputs, outputs, attrs = {}, opset = 20, domain, constants = [] } = operator;
  const initializers = constants.flatMap((i): [string, HostTensor][] => {
    const tensor = inputs[i];
    return tensor === undefined ? [] : [[inputName(i), tensor]];
  });
  const made = {
    ...node(`y = ${op}(x)`, attrs),
    input: inputs.map((tensor, i) => (tensor === undefined ? '' : inputName(i))),
    output: outputs.map((_, i) => `y${i}`),
    ...(domain && { domain: domain[0] }),
  };
  return model({
    opset,
    domains: domain ? [domain] : [],
    inputs: Object.entries(fedOf(operator)).map(([name, { dtype, shape }]) => value(name, dtype, shape)),
    initializers: Object.fromEntries(initializers),
    nodes: [made],
    outputs: outputs.map((dtype, i) => value(`y${i}`, dtype)),
  });
}

export function byReference(operator: OperatorCase): HostTensor[] {
  const graph = importOnnx(modelOf(operator));
  const { outputs } = evaluateStages(graph, fedOf(operator), resolvers);
  return operator.outputs.map((_, i) => outputs.get(`y${i}`) as HostTensor);
}

export async function byKernels(operator: OperatorCase, target: Target): Promise<HostTensor[]> {
  const results = await runInterpreted(target, importOnnx(modelOf(operator)), fedOf(operator));
  return operator.outputs.map((_, i) => results[`y${i}`]);
}

/** ONNX Runtime, or undefined where it is not installed. */
export const peer = await import('onnxruntime-node').catch(() => undefined);

const peerTypes: Readonly<Partial<Record<DType, string>>> = {
  f64: 'float64',
  f32: 'float32',
  i64: 'int64',
  i32: 'int32',
  u8: 'uint8',
  i8: 'int8',
  bool: 'bool',
};

export async function byPeer(operator: OperatorCase): Promise<HostTensor[]> {
  if (peer === undefined) throw new Error('onnxruntime-node is not installed');
  const session = await peer.InferenceSession.create(modelOf(operator), {
    graphOptimizationLevel: 'disabled',
    logSeverityLevel: 4,
  });
  const feeds = Object.entries(fedOf(operator)).map(([name, { dtype, shape, data }]) => [
    name,
    new peer.Tensor(peerTypes[dtype] as 'float32', data as Float32Array, [...shape]),
  ]);
  const results = await session.run(Object.fromEntries(feeds));
  return operator.outputs.map((dtype, i) => {
    const { dims, data } = results[`y${i}`];
    const tensor = emptyTensor(dtype, dims.map(Number));
    (tensor.data as Float32Array).set(data as Float32Array);
    return tensor;
  });
}

/** All outputs agree. `what` goes into the message. */
export function expectSame(
  actual: readonly HostTensor[],
  expected: readonly HostTensor[],
  what: string,
  tolerance: Tolerance = { rtol: 1e-4, atol: 1e-5 },
): void {
  expected.forEach((tensor, i) => {
    const { ok, reason } = compareTensors(actual[i], tensor, tolerance);
    expect(ok, `${what}, output ${i}: ${reason}`).toBe(true);
  });
}
