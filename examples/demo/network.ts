/**
 * An image-processing network whose weights are known formulas, not learnt: it takes noise away but keeps edges, finds
 * the edges, and doubles the size, sharper where there is an edge.
 */
import { ModelBuilder, type Value } from '../../compiler/builder/index.js';
import type { Graph } from '../../compiler/graph/types.js';

/** Rec. 709. */
const luma = [0.2126, 0.7152, 0.0722];

/**
 * Bilateral filter (Tomasi and Manduchi 1998): a mean of the neighbourhood weighted by distance in space and by
 * difference in brightness, so that what lies beyond an edge does not take part.
 */
function denoise(g: ModelBuilder, image: Value, radius: number, spatial: number, tonal: number): Value {
  const [, , height, width] = image.type.shape as readonly number[];
  // Differences are told from a first, slight blur: the noise itself must not decide who is alike.
  const guide = g.conv(padEdges(g, grey(g, image), 1), blurKernel(g, 1), {});
  const around = padEdges(g, image, radius);
  const guideAround = padEdges(g, guide, radius);
  const shifted = (x: Value, dy: number, dx: number): Value =>
    g.slice(g.slice(x, 2, radius + dy, radius + dy + height), 3, radius + dx, radius + dx + width);
  let sum: Value = image;
  let total: Value = g.full(guide.type.shape, 1);
  for (let dy = -radius; dy <= radius; dy++) {
    for (let dx = -radius; dx <= radius; dx++) {
      if (dy === 0 && dx === 0) continue;
      const difference = g.sub(shifted(guideAround, dy, dx), guide);
      const distance = (dy * dy + dx * dx) / (2 * spatial * spatial);
      const weight = g.exp(g.sub(g.mul(g.square(difference), -1 / (2 * tonal * tonal)), distance));
      sum = g.add(sum, g.mul(shifted(around, dy, dx), weight));
      total = g.add(total, weight);
    }
  }
  return g.div(sum, total);
}

const grey = (g: ModelBuilder, image: Value): Value => g.conv(image, g.constant(luma, [1, 3, 1, 1]));

function padEdges(g: ModelBuilder, x: Value, size: number): Value {
  return g.pad(x, [0, 0, size, size], [0, 0, size, size], { mode: 'edge' });
}

/** Binomial 3×3, for each channel on its own. */
function blurKernel(g: ModelBuilder, channels: number): Value {
  const binomial = [1, 2, 1, 2, 4, 2, 1, 2, 1].map((value) => value / 16);
  return g.constant(Array.from({ length: channels }, () => binomial).flat(), [channels, 1, 3, 3]);
}

/** Strength of edges in [0, 1): Sobel's two derivatives, their length through a soft threshold. */
function findEdges(g: ModelBuilder, image: Value): Value {
  const sobel = [-1, 0, 1, -2, 0, 2, -1, 0, 1, -1, -2, -1, 0, 0, 0, 1, 2, 1].map((value) => value / 4);
  const gradient = g.conv(padEdges(g, grey(g, image), 1), g.constant(sobel, [2, 1, 3, 3]));
  const length = g.sqrt(g.add(g.sum(g.square(gradient), { axes: 1, keep: true }), 1e-8));
  return g.tanh(g.mul(length, 6));
}

/** Keys' cubic convolution (1981) with a = -1/2. */
function cubic(t: number): number {
  const x = Math.abs(t);
  if (x < 1) return 1.5 * x ** 3 - 2.5 * x ** 2 + 1;
  return x < 2 ? -0.5 * x ** 3 + 2.5 * x ** 2 - 4 * x + 2 : 0;
}

/**
 * Bicubic interpolation to twice the size, as a sub-pixel convolution: every channel becomes its four phases, rows and
 * columns one after the other, and the phases are woven into one picture.
 */
function upscale(g: ModelBuilder, image: Value): Value {
  const [, channels, height, width] = image.type.shape as readonly number[];
  // Output pixels 2·i and 2·i + 1 lie a quarter of an input pixel before and after input pixel i.
  const phases = [-0.25, 0.25].map((offset) => [-2, -1, 0, 1, 2].map((tap) => cubic(tap - offset)));
  const weights = (count: number, kernel: readonly [number, number]): Value =>
    g.constant(Array.from({ length: count }, () => phases).flat(2), [2 * count, 1, ...kernel]);
  const around = padEdges(g, image, 2);
  const rows = g.conv(around, weights(channels, [5, 1]), { groups: channels });
  const both = g.conv(rows, weights(2 * channels, [1, 5]), { groups: 2 * channels });
  const woven = g.transpose(g.reshape(both, [1, channels, 2, 2, height, width]), [0, 1, 4, 2, 5, 3]);
  return g.reshape(woven, [1, channels, 2 * height, 2 * width]);
}

/** `image` [1, 3, size, size] in [0, 1] → `picture` [1, 3, 2·size, 2·size] and `edges` [1, 1, size, size]. */
export function buildNetwork(size: number): Graph {
  const g = new ModelBuilder('enhance');
  const image = g.input('image', 'f32', [1, 3, size, size]);
  const clean = g.scope('denoise', () => denoise(g, image, 2, 1.8, 0.07));
  const edges = g.scope('edges', () => findEdges(g, clean));
  const picture = g.scope('upscale', () => {
    const large = upscale(g, clean);
    const blurred = g.conv(padEdges(g, large, 1), blurKernel(g, 3), { groups: 3 });
    const strength = g.mul(g.resize(edges, [2 * size, 2 * size]), 1.5);
    return g.clip(g.add(large, g.mul(g.sub(large, blurred), strength)), { min: 0, max: 1 });
  });
  g.output('picture', picture);
  // Dark on white, as drawn.
  g.output('edges', g.sub(1, edges));
  return g.build();
}
