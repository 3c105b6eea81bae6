// The `light` ONNX topologies with seeded weights, beside the outputs that they should give.
import { join } from 'node:path';
import { type LightName, lightModelBytes } from '../../bench/light.js';
import type { HostTensor } from '../../compiler/tensor.js';
import { readTensor } from './onnx_cases.js';

export { lightModels } from '../../bench/light.js';

export interface LightModel {
  readonly bytes: Uint8Array;
  readonly input: HostTensor;
  /** By position: the model's output and, if it ends in a softmax, the logits. */
  readonly expected: readonly HostTensor[];
}

/** @param root folder that holds `light` and `light-rand` */
export function lightModel(root: string, name: LightName): LightModel {
  const { bytes, outputs } = lightModelBytes(root, name);
  const expected = Array.from({ length: outputs }, (_, k) =>
    readTensor(join(root, 'light-rand', name, `output_${k}.pb`)),
  );
  return { bytes, input: readTensor(join(root, 'light-rand', 'input_0.pb')), expected };
}
