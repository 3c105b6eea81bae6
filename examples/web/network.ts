/** The example's network: a photograph becomes a pencil drawing. Analytic weights, any picture size. */
import { type Graph, ModelBuilder } from '../../compiler/builder/index.js';

/** Luma of linear mixing, ITU-R BT.601. */
const luma = [0.299, 0.587, 0.114];
const radius = 8;
/** Standard deviation of the blur, pixels. */
const sigma = 3.5;
const paper = 0.02;

function gaussian(): number[] {
  const weights = Array.from({ length: 2 * radius + 1 }, (_, i) => Math.exp(-((i - radius) ** 2) / (2 * sigma ** 2)));
  const sum = weights.reduce((total, weight) => total + weight, 0);
  return weights.map((weight) => weight / sum);
}

/**
 * `image` f32 [1, 3, height, width] in 0..1 → `sketch` f32 [1, 1, height, width] in 0..1. Each pixel is divided by the
 * brightness around it ("colour dodge"): flat areas turn to paper, edges stay as strokes. Sizes are of the picture; without them the
 * model takes any.
 */
export function sketchNetwork(height: number | string = 'height', width: number | string = 'width'): Graph {
  const g = new ModelBuilder('pencil-sketch');
  for (const dim of [height, width]) if (typeof dim === 'string') g.dim(dim, { min: radius + 1, max: 4096 });
  const image = g.input('image', 'f32', [1, 3, height, width]);
  const gray = g.conv(image, g.constant(luma, [1, 3, 1, 1]));
  const around = g.pad(gray, [0, 0, radius, radius], [0, 0, radius, radius], { mode: 'reflect' });
  const rows = g.conv(around, g.constant(gaussian(), [1, 1, 1, 2 * radius + 1]));
  const blurred = g.conv(rows, g.constant(gaussian(), [1, 1, 2 * radius + 1, 1]));
  const strokes = g.clip(g.div(g.add(gray, paper), g.add(blurred, paper)), { min: 0, max: 1 });
  // Strokes darken faster than linearly, as pressure on a pencil does.
  g.output('sketch', g.mul(g.square(strokes), strokes));
  return g.build();
}
