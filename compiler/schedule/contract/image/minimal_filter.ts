/** F(4×4, 3×3): the matrices of its transforms, and weights that went through theirs. */
import type { ConstantData, NodeOf } from '../../../graph/types.js';
import { emptyTensor } from '../../../tensor.js';
import type { Group } from '../../group.js';
import type { DerivedConstant } from '../../lowered.js';
import { shapeOf } from '../../tensors.js';

/** Outputs of a tile, its inputs, and all places of it. */
export const made = 4;
export const read = 6;
export const places = read * read;

/** Bᵀ, G and Aᵀ for the points 0, 1, −1, 2, −2 and infinity. */
export const inputMatrix = [
  [4, 0, -5, 0, 1, 0],
  [0, -4, -4, 1, 1, 0],
  [0, 4, -4, -1, 1, 0],
  [0, -2, -1, 2, 1, 0],
  [0, 2, -1, -2, 1, 0],
  [0, 4, 0, -5, 0, 1],
] as const;
const weightMatrix = [
  [1 / 4, 0, 0],
  [-1 / 6, -1 / 6, -1 / 6],
  [-1 / 6, 1 / 6, -1 / 6],
  [1 / 24, 1 / 12, 1 / 6],
  [1 / 24, -1 / 12, 1 / 6],
  [0, 0, 1],
] as const;
export const outputMatrix = [
  [1, 1, 1, 1, 1, 0],
  [0, 1, -1, 2, -2, 0],
  [0, 1, 1, 4, 4, 0],
  [0, 1, -1, 8, -8, 1],
] as const;

/** G·g·Gᵀ of all weights: [place][tile of outputs][channel][output of the tile]. */
export function transformedWeights(group: Group, node: NodeOf<'conv'>, width: number): DerivedConstant {
  const [, weights] = node.inputs;
  const [outputs, channels] = shapeOf(weights);
  const tiles = Math.ceil(outputs / width);
  const shape = [places * tiles * channels * width];
  const source = group.constants.get(weights.id) as ConstantData;
  return {
    kind: 'constant',
    name: `${weights.name}.winograd${width}`,
    data: {
      dtype: 'f32',
      shape,
      load() {
        const from = source.load().data as Float32Array;
        const result = emptyTensor('f32', shape);
        const to = result.data as Float32Array;
        const half = new Float64Array(read * 3);
        for (let output = 0; output < outputs; output++) {
          for (let channel = 0; channel < channels; channel++) {
            const base = (output * channels + channel) * 9;
            for (let i = 0; i < read; i++) {
              for (let j = 0; j < 3; j++) {
                const [a, b, c] = weightMatrix[i];
                half[i * 3 + j] = a * from[base + j] + b * from[base + 3 + j] + c * from[base + 6 + j];
              }
            }
            const row = (Math.floor(output / width) * channels + channel) * width + (output % width);
            for (let i = 0; i < read; i++) {
              for (let j = 0; j < read; j++) {
                const [a, b, c] = weightMatrix[j];
                const value = a * half[i * 3] + b * half[i * 3 + 1] + c * half[i * 3 + 2];
                to[(i * read + j) * tiles * channels * width + row] = value;
              }
            }
          }
        }
        return result;
      },
    },
  };
}
