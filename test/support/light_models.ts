// The `light` ONNX topologies with seeded pseudo-random weights instead of their constant ones, by the recipe of
// light-rand/README.json, so that their outputs check something.
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { decode, encode, protoOf, tensorOf } from '../../compiler/frontends/onnx/index.js';
import type { HostTensor } from '../../compiler/tensor.js';
import { readTensor } from './onnx_cases.js';

export const lightModels = [
  'light_squeezenet',
  'light_inception_v1',
  'light_densenet121',
  'light_resnet50',
  'light_bvlc_alexnet',
  'light_zfnet512',
  'light_vgg19',
] as const;

export interface LightModel {
  readonly bytes: Uint8Array;
  readonly input: HostTensor;
  /** By position: the model's output and, if it ends in a softmax, the logits. */
  readonly expected: readonly HostTensor[];
}

/** FNV-1a over the UTF-8 bytes. */
function hash(text: string): number {
  let h = 0x811c9dc5;
  for (const byte of new TextEncoder().encode(text)) h = Math.imul(h ^ byte, 0x01000193);
  return h >>> 0;
}

function* mulberry32(seed: number): Generator<number, never> {
  for (let a = seed | 0; ; ) {
    a = (a + 0x6d2b79f5) | 0;
    let t = Math.imul(a ^ (a >>> 15), a | 1);
    t ^= t + Math.imul(t ^ (t >>> 7), t | 61);
    yield ((t ^ (t >>> 14)) >>> 0) / 2 ** 32;
  }
}

function weights(name: string, shape: readonly number[], positive: boolean): HostTensor {
  const spread = Math.sqrt(6 / shape.slice(1).reduce((product, dim) => product * dim, 1));
  const [low, high] = shape.length >= 2 ? [-spread, spread] : positive ? [0.5, 1.5] : [-0.1, 0.1];
  const data = new Float32Array(shape.reduce((product, dim) => product * dim, 1));
  const random = mulberry32(hash(name));
  for (let i = 0; i < data.length; i++) data[i] = low + (high - low) * random.next().value;
  return { dtype: 'f32', shape, data };
}

/** @param root folder that holds `light` and `light-rand` */
export function lightModel(root: string, name: (typeof lightModels)[number]): LightModel {
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
    return protoOf(weights(output[0], shape, positive.has(output[0])), output[0]);
  });
  const last = graph.node[graph.node.length - 1];
  const logits = last.opType === 'Softmax' ? [{ name: last.input[0] }] : [];
  const bytes = encode('ModelProto', {
    ...model,
    graph: {
      ...graph,
      node: graph.node.filter((node) => !filled.includes(node)),
      initializer: [...graph.initializer, ...made],
      output: [...graph.output, ...logits],
    },
  });
  const expected = [...graph.output, ...logits].map((_, k) =>
    readTensor(join(root, 'light-rand', name, `output_${k}.pb`)),
  );
  return { bytes, input: readTensor(join(root, 'light-rand', 'input_0.pb')), expected };
}
