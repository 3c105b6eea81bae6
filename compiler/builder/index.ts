/**
 * Graphs in TypeScript:
 *
 * ```ts
 * const g = new ModelBuilder('classifier');
 * const x = g.input('image', 'f32', ['batch', 3, 'h', 'w']);
 * const y = g.relu(g.conv(x, g.constant(weights, [16, 3, 3, 3]), { strides: 2, padding: 1 }));
 * g.output('scores', g.softmax(g.linear(g.flatten(g.globalAveragePool(y)), g.constant(head, [10, 16]))));
 * const model = await compile(g.build());
 * ```
 */
export type { DType } from '../dtype.js';
export type { Graph, Value } from '../graph/types.js';
export type { Axes, Operand, ShapeLike } from './base.js';
export { type ConvOptions, ModelBuilder, type NormOptions, type Spatial, type WindowOptions } from './layers.js';
export type { ReduceOptions } from './movement.js';
