/** Convolutions as the channels-last forms see them: with any number of spatial dims. */
import type { Node, NodeOf } from '../../../graph/types.js';
import type { Group } from '../../group.js';
import { shapeOf } from '../../tensors.js';

/** One spatial dim. */
export interface Side {
  readonly input: number;
  readonly output: number;
  readonly kernel: number;
  readonly stride: number;
  readonly dilation: number;
  readonly padLow: number;
}

export interface ImageGeometry {
  readonly images: number;
  readonly groups: number;
  /** Channels that a group reads, and that it makes. */
  readonly channels: number;
  readonly outputs: number;
  /** Outermost first; the last one runs along a row. */
  readonly sides: readonly Side[];
}

export function imageGeometryOf(node: NodeOf<'conv'>): ImageGeometry {
  const [images, , ...extents] = shapeOf(node.inputs[0]);
  const [outputs, channels, ...kernel] = shapeOf(node.inputs[1]);
  const [, , ...positions] = shapeOf(node.outputs[0]);
  const { groups, strides, padLow, dilations } = node.attrs;
  const sides = extents.map(
    (input, d): Side => ({
      input,
      output: positions[d],
      kernel: kernel[d],
      stride: strides[d],
      dilation: dilations[d],
      padLow: Number(padLow[d]),
    }),
  );
  return { images, groups, channels, outputs: outputs / groups, sides };
}

/** Inputs between the first and the last one that `count` neighbouring outputs read. */
export const spanOf = ({ stride, kernel, dilation }: Side, count: number): number =>
  (count - 1) * stride + (kernel - 1) * dilation + 1;

/** The side along a row. */
export const rowOf = ({ sides }: ImageGeometry): Side => sides[sides.length - 1];

/** Elements of a kernel. */
export const tapsOf = ({ sides }: ImageGeometry): number => sides.reduce((all, { kernel }) => all * kernel, 1);

/** Whether the image comes with its channels last: a view of the group turns it round. */
export function readsChannelsLast(node: NodeOf<'conv'>, nodes: readonly Node[]): boolean {
  const producer = nodes.find(({ outputs }) => outputs.includes(node.inputs[0]));
  if (producer?.op !== 'transpose') return false;
  const { permutation } = producer.attrs;
  return permutation[1] === permutation.length - 1;
}

/** Whether the group writes its result with channels last. */
export function writesChannelsLast({ anchor, nodes, writes }: Group): boolean {
  const producer = nodes.find(({ outputs }) => outputs.includes(writes[0]));
  if (anchor?.op !== 'conv' || producer?.op !== 'transpose') return false;
  const { permutation } = producer.attrs;
  return permutation.length === shapeOf(anchor.outputs[0]).length && permutation.at(-1) === 1;
}

/** A convolution of every channel by itself. */
export const isDepthwise = ({ channels, outputs, groups }: ImageGeometry): boolean =>
  channels === 1 && outputs === 1 && groups > 1;
