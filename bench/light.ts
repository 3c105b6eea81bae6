/**
 * ONNX's `light` topologies, which come with constant weights, given seeded random ones: by the recipe of the test
 * data's light-rand/README.json, so that their outputs say something.
 */
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { decode, encode, importOnnx, protoOf, tensorOf } from '../compiler/frontends/onnx/index.js';
import type { MessageInit } from '../compiler/frontends/onnx/proto.js';
import type { Graph } from '../compiler/graph/types.js';
import { type HostTensor, sizeOf } from '../compiler/tensor.js';
import { hash, uniform } from './random.js';

export const lightModels = [
  'light_squeezenet',
  'light_inception_v1',
  'light_densenet121',
  'light_resnet50',
  'light_bvlc_alexnet',
  'light_zfnet512',
  'light_vgg19',
] as const;
export type LightName = (typeof lightModels)[number];

function weights(name: string, shape: readonly number[], positive: boolean): HostTensor {
  const spread = Math.sqrt(6 / sizeOf(shape.slice(1)));
  const [low, high] = shape.length >= 2 ? [-spread, spread] : positive ? [0.5, 1.5] : [-0.1, 0.1];
  const data = new Float32Array(sizeOf(shape));
  const next = uniform(hash(name));
  for (let i = 0; i < data.length; i++) data[i] = low + (high - low) * next();
  return { dtype: 'f32', shape, data };
}

/** Makes a weight of a shape; some must be positive. */
type Weight = (name: string, shape: readonly number[], positive: boolean) => MessageInit<'TensorProto'>;

/**
 * @param root folder that holds `light`
 * @returns the model, its outputs followed by the logits if it ends in a softmax
 */
export const lightModelBytes = (root: string, name: LightName): { bytes: Uint8Array; outputs: number } =>
  modelWith(root, name, (weight, shape, positive) => protoOf(weights(weight, shape, positive), weight));

/** The model for planning: its weights are zeros that are made when they are asked for. */
export function lightGraph(root: string, name: LightName): Graph {
  const externalData = [{ key: 'location', value: 'weights' }];
  const { bytes } = modelWith(root, name, (weight, shape) => {
    return { name: weight, dims: shape.map(BigInt), dataType: 1, dataLocation: 1, externalData };
  });
  const zeros = { size: Number.MAX_SAFE_INTEGER, read: (_: number, length: number) => new Uint8Array(length) };
  return importOnnx(bytes, { readExternal: () => zeros });
}

function modelWith(root: string, name: LightName, weight: Weight): { bytes: Uint8Array; outputs: number } {
  const model = decode('ModelProto', readFileSync(join(root, 'light', `${name}.onnx`)));
  const graph = model.graph;
  if (graph === undefined) throw new Error(`${name} has no graph`);
  const initializers = new Map(graph.initializer.map((proto) => [proto.name, proto]));
  const positive = new Set(
    graph.node.flatMap(({ opType, input }) =>
      opType === 'BatchNormalization' ? [input[1], input[4]] : opType === 'Mul' ? input : [],
    ),
  );
  const filled = graph.node.filter(({ opType }) => opType === 'ConstantOfShape');
  const made = filled.map(({ input, output }) => {
    const proto = initializers.get(input[0]);
    if (proto === undefined) throw new Error(`${output[0]}: its shape is no initialiser`);
    const shape = [...(tensorOf(proto, input[0]).data as BigInt64Array)].map(Number);
    return weight(output[0], shape, positive.has(output[0]));
  });
  const last = graph.node[graph.node.length - 1];
  const outputs = [...graph.output, ...(last.opType === 'Softmax' ? [{ name: last.input[0] }] : [])];
  const bytes = encode('ModelProto', {
    ...model,
    graph: {
      ...graph,
      node: graph.node.filter((node) => !filled.includes(node)),
      initializer: [...graph.initializer, ...made],
      output: outputs,
    },
  });
  return { bytes, outputs: outputs.length };
}
