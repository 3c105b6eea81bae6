/** Convolutions with bias and ReLU, as networks have them: dense, pointwise, depthwise, first layers, dilated, others. */
import { normal } from '../random.js';
import { type Case, graphOf, type Scale } from './types.js';

interface Shape {
  readonly name: string;
  /** [N, C, …spatial]. */
  readonly input: readonly number[];
  readonly outputs: number;
  /** Of every spatial axis. */
  readonly kernel: number;
  readonly stride?: number;
  readonly dilation?: number;
  readonly groups?: number;
  readonly transposed?: true;
}

const shapes: readonly Shape[] = [
  { name: 'first 7×7', input: [1, 3, 224, 224], outputs: 64, kernel: 7, stride: 2 },
  { name: 'first 3×3', input: [1, 3, 224, 224], outputs: 32, kernel: 3, stride: 2 },
  { name: 'grey 5×5', input: [1, 1, 224, 224], outputs: 64, kernel: 5 },
  { name: '3×3 at 56', input: [1, 64, 56, 56], outputs: 64, kernel: 3 },
  { name: '3×3 at 28', input: [1, 128, 28, 28], outputs: 128, kernel: 3 },
  { name: '3×3 at 14', input: [1, 256, 14, 14], outputs: 256, kernel: 3 },
  { name: '3×3 at 7', input: [1, 512, 7, 7], outputs: 512, kernel: 3 },
  { name: '3×3 stride 2', input: [1, 128, 56, 56], outputs: 128, kernel: 3, stride: 2 },
  { name: '1×1 at 56', input: [1, 64, 56, 56], outputs: 256, kernel: 1 },
  { name: '1×1 at 14', input: [1, 1024, 14, 14], outputs: 256, kernel: 1 },
  { name: '1×1 stride 2', input: [1, 256, 56, 56], outputs: 512, kernel: 1, stride: 2 },
  { name: 'depthwise at 112', input: [1, 32, 112, 112], outputs: 32, kernel: 3, groups: 32 },
  { name: 'depthwise stride 2', input: [1, 96, 112, 112], outputs: 96, kernel: 3, stride: 2, groups: 96 },
  { name: 'depthwise at 14', input: [1, 576, 14, 14], outputs: 576, kernel: 3, groups: 576 },
  { name: 'depthwise 5×5', input: [1, 240, 28, 28], outputs: 240, kernel: 5, groups: 240 },
  { name: '32 groups', input: [1, 256, 28, 28], outputs: 256, kernel: 3, groups: 32 },
  { name: 'dilated', input: [1, 128, 28, 28], outputs: 128, kernel: 3, dilation: 2 },
  { name: 'transposed', input: [1, 128, 28, 28], outputs: 64, kernel: 4, stride: 2, transposed: true },
  { name: '1-D', input: [1, 64, 4000], outputs: 64, kernel: 9 },
  { name: '3-D', input: [1, 16, 16, 32, 32], outputs: 32, kernel: 3 },
];

export function convCases({ quick, gpu, software }: Scale): readonly Case[] {
  if (quick) return [shapes[5], shapes[9], shapes[13]].map((shape) => conv(shape, 1));
  if (software) return [shapes[1], shapes[5], shapes[9], shapes[13]].map((shape) => conv(shape, 1));
  return gpu
    ? [...shapes.map((shape) => conv(shape, 1)), ...shapes.map((shape) => conv(shape, 32))]
    : shapes.map((shape) => conv(shape, 1));
}

function conv(shape: Shape, batch: number): Case {
  const { name, outputs, kernel, stride = 1, dilation = 1, groups = 1, transposed = false } = shape;
  const input = [batch, ...shape.input.slice(1)];
  const [, channels, ...spatial] = input;
  const size = spatial.map(() => kernel);
  const weight = transposed ? [channels, outputs / groups, ...size] : [outputs, channels / groups, ...size];
  const padding = transposed ? (kernel - stride) / 2 : (dilation * (kernel - 1)) / 2;
  return {
    name: `${name}, ${input.join('×')} to ${outputs}`,
    spec: { op: 'conv', input, weight, stride, padding, dilation, groups, transposed, dtype: 'f32' },
    cold: false,
    graph: () =>
      graphOf('conv', (g) => {
        const count = weight.reduce((product, dim) => product * dim, 1);
        const taps = (kernel ** spatial.length * channels) / groups;
        const options = {
          bias: g.constant(normal(outputs, 8)),
          strides: stride,
          dilations: dilation,
          padding,
          groups,
        };
        const weights = g.constant(normal(count, 7, 1 / Math.sqrt(taps)), weight);
        const x = g.input('x', 'f32', input);
        return g.relu(transposed ? g.convTranspose(x, weights, options) : g.conv(x, weights, options));
      }),
  };
}
